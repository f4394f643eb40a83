"""Checks of summaries against the runs that they are of."""

import math

import numpy as np
import pytest

from commands import THEORY
from dmmc.runs.run import load_run

NAMES = {"M", "abs_M", "M2", "M4", "phi2", "S_per_site", "chi2", "chi2_signed", "binder", "xi"}


def check_run_summary(summary, path, chains, draws, extra=()):
    """Check a summary of a run on 4 x 4 at the couplings of :mod:`commands`; returns the run."""
    run = load_run(path)
    assert (summary.chains, summary.draws) == (run.n_chains, run.n_draws) == (chains, draws)
    assert summary.file == str(path) and summary.lattice == (4, 4)
    assert summary.action == THEORY
    assert summary.steps_discarded == run.header.discard
    assert summary.acceptance == pytest.approx(run.stats["accepted"].mean())
    assert (summary.energy is not None) == ("energy_error" in run.stats)
    if summary.energy is not None:
        assert summary.energy.mean_exp_minus == pytest.approx(np.exp(-run.stats["energy_error"]).mean())
    assert summary.observables.keys() == NAMES | set(extra)
    for entry in summary.observables.values():
        assert math.isfinite(entry.value) and entry.error > 0 and entry.tau_int > 0
    assert summary.observables["phi2"].value == pytest.approx(run.observables["phi2"].mean())
    assert summary.efficiency["M2"].effective_samples == pytest.approx(
        chains * draws / (2 * summary.observables["M2"].tau_int)
    )
    assert summary.wall_seconds["chain"] > 0 and all(seconds >= 0 for seconds in summary.wall_seconds.values())
    return run

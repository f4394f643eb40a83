"""``dmmc ensemble``."""

import math

import numpy as np
import pytest

from commands import ACTION, ENSEMBLE, dmmc, summary
from dmmc.core.rng import stream
from dmmc.kernels.hmc import HMC
from dmmc.runs.run import load_run
from dmmc.runs.summary_records import RunSummary
from records import check_run_summary


def test_ensemble(made):
    read = RunSummary.from_json(summary(made / "hmc.json"))
    run = check_run_summary(read, made / "hmc.h5", 16, 24)
    assert read.facts.name == "hmc" and read.facts.model_free and 0.5 < read.acceptance <= 1
    assert read.ess_fraction is read.std_log_w is read.bias_bound_sigma is read.kl is None
    assert run.cfgs().shape == (16 * 12, 4, 4)
    assert read.wall_seconds.keys() == {"warm-up", "thermalise", "chain"}


def test_cluster_ensemble_of_the_mass_form(tmp_path, capsys):
    # The same theory as m2 = (1 - 2 lam) / kappa - 4 and lam_m = lam / kappa^2.
    arguments = [arg for arg in ENSEMBLE if arg not in ACTION.split()]
    out = tmp_path / "cluster.h5"
    assert dmmc(*arguments, "--m2", 0.5, "--lam-mass", 1.25, "--method", "cluster", "--out", out) == 0
    header = load_run(out).header
    assert header.facts.name == header.kernel["name"] == "cluster"
    assert header.action == pytest.approx({"name": "phi4", "kappa": 0.2, "lam": 0.05, "scale": math.sqrt(0.2)})
    printed = capsys.readouterr()
    assert "acceptance" in printed.out and "chi2" in printed.out and str(out) in printed.out
    # Short work is not announced.
    assert printed.err == ""


def test_stuck_chains_are_refused(tmp_path, monkeypatch, capsys):
    def steep(kernel, n, generator):
        state = initial(kernel, n, generator)
        phi = state.phi.clone()
        phi[3] += 60.0
        return kernel.start(phi, generator)

    initial = HMC.initial
    monkeypatch.setattr(HMC, "initial", steep)
    assert dmmc(*ENSEMBLE, "--thermalise", 40, "--out", tmp_path / "hmc.h5") == 2
    assert "1 of 16 chains did not move" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ensemble_of_a_free_field(tmp_path):
    out = tmp_path / "free.h5"
    arguments = ["--shape", "5", "--chains", "8", "--thermalise", "5", "--draws", "8"]
    assert dmmc("ensemble", "--free-mass", 0.7, *arguments, "--out", out) == 0
    assert load_run(out).header.action == {"name": "free", "mass": 0.7}


def test_ensembles_of_one_seed_share_no_random_numbers(tmp_path):
    for kappa in (0.2, 0.21):
        out = tmp_path / f"{kappa}.h5"
        assert dmmc(*ENSEMBLE, "--kappa", kappa, "--draws", 40, "--steps-per-draw", 4, "--out", out) == 0
    a, b = (load_run(tmp_path / f"{kappa}.h5").observables["M"].ravel() for kappa in (0.2, 0.21))
    # 640 draws, of which about every second one is independent.
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 * math.sqrt(2 / len(a))
    assert stream(1, "warm-up", "a").get_state().ne(stream(1, "warm-up", "b").get_state()).any()

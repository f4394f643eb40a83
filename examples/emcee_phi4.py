"""Lattice phi^4 in emcee: 16 x 16 near criticality (kappa = 0.27, lam = 0.022), walkers of 256 dimensions.

    python examples/emcee_phi4.py [--model model.safetensors] [--minutes 2] [--seconds 60]

The stretch move needs 512 walkers in so many dimensions, where it is known to fail (D. Huijser, J. Goodman,
B.J. Brewer, 1509.02230). The diffusion move takes any number of walkers. Both begin with the same fields in
equilibrium, which come from Hybrid Monte Carlo. The model is trained on more of such fields, unless one is given (see
``dmmc train``). The effective sample size ESS is that of M^2.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import emcee
import numpy as np
import torch
from numpy.typing import NDArray

import dmmc
from dmmc.cli.memory import keep_freed_memory
from dmmc.diagnostics import DiagnosticsWarning, gamma_method
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.interop.emcee import DiffusionMove, lattice_log_prob

ACTION = dmmc.Phi4(kappa=0.27, lam=0.022)
LATTICE = dmmc.Lattice((16, 16))
CHAINS = 512
APART = 24  # trajectories between two fields of a chain: more than the autocorrelation time of M^2
COLUMNS = "{:16}{:>8}{:>8}{:>10}{:>12}{:>14}{:>9}{:>17}{:>12}"


def hmc_fields(n: int, folder: Path) -> NDArray[np.float64]:
    """``n`` fields of each of 512 chains, ``(n, 512, *lattice)``."""
    made = dmmc.make_ensemble(
        ACTION, LATTICE, folder / "hmc.h5", chains=CHAINS, draws=APART * n, keep_every=APART, thermalise=200
    )
    order = np.lexsort((made.cfg_index[:, 0], made.cfg_index[:, 1]))  # by draw, then by chain
    return made.cfgs()[order].reshape(n, CHAINS, *LATTICE.shape)


def run(name: str, move: Any, phi: NDArray[np.float64], seconds: float) -> None:
    """Sample for some CPU seconds and print what came of it."""
    log_prob = lattice_log_prob(ACTION, LATTICE)
    sampler = emcee.EnsembleSampler(len(phi), LATTICE.volume, log_prob, moves=move, vectorize=True)
    sampler.random_state = np.random.RandomState(1).get_state()
    start = phi.reshape(len(phi), -1)
    began, series, accepted = time.process_time(), [], np.zeros(len(phi))
    # Fewer walkers than dimensions fail emcee's test of the initial state, which is made for the stretch move.
    for state in sampler.sample(start, iterations=None, store=False, skip_initial_state_check=True):
        series.append(state.coords.mean(1) ** 2)
        accepted += state.coords[:, 0] != start[:, 0]
        start = state.coords.copy()
        if time.process_time() - began > seconds and len(series) >= MIN_DRAWS:
            break
    spent = time.process_time() - began
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagnosticsWarning)
        M2 = gamma_method(np.stack(series, 1))
    ess = M2.n / (2 * M2.tau_int)
    # Where the series is too short, tau_int is a lower bound.
    below, above = ("<", ">") if caught else ("", "")
    numbers = (f"{accepted.mean() / len(series):.2f}", f"{above}{2 * M2.tau_int:.4g}", f"{above}{M2.tau_int:.4g}")
    rates = (f"{below}{ess / spent:.3g}", f"{above}{M2.n / ess:.4g}")
    print(COLUMNS.format(name, len(phi), len(series), *numbers, *rates, str(M2)))
    for message in sorted({str(warning.message) for warning in caught}):
        print(f"    {message}")


def main(path: Path | None, minutes: float, seconds: float) -> None:
    """Make fields and a model, then sample with either move."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        first, *others = hmc_fields(1 if path else 9, Path(folder))
        if path is None:
            fields = np.concatenate(others)
            model = dmmc.train(fields, Path(folder, "model.safetensors"), action=ACTION, minutes=minutes)
        else:
            model = dmmc.load_model(path)
            model.check_fits(ACTION, LATTICE)
    names = ("walkers", "steps", "accepted", "tau (emcee)", "tau (lattice)", "ESS/s", "log_prob per ESS", "<M^2>")
    print(COLUMNS.format("", *names))
    run("stretch move", emcee.moves.StretchMove(), first, seconds)
    run("diffusion move", DiffusionMove(dmmc.flow_proposal(model, 20)), first[:64], seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model file for this action and lattice")
    parser.add_argument("--minutes", type=float, default=2, help="of training, without --model")
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each sampler")
    arguments = parser.parse_args()
    main(arguments.model, arguments.minutes, arguments.seconds)

"""Lattice phi^4 in emcee: 16 x 16 near criticality (kappa = 0.27, lam = 0.022), walkers of 256 dimensions.

    python examples/emcee_phi4.py [--model model.safetensors] [--minutes 2] [--seconds 60]

The stretch move needs 512 walkers there, and is known to fail in many dimensions (D. Huijser, J. Goodman, B.J. Brewer,
1509.02230). The diffusion move takes any number of them. Both begin with the same fields in equilibrium, from Hybrid
Monte Carlo, on some of which the model is trained, unless one is given: see ``dmmc train``. ESS is that of M^2.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import emcee
import numpy as np
import torch

from dmmc.cli.memory import keep_freed_memory
from dmmc.diagnostics import DiagnosticsWarning, gamma_method
from dmmc.interop.emcee import DiffusionMove, lattice_log_prob
from dmmc.kernels import hmc
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.model.training import TrainingOptions, fit
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice

ACTION = Phi4(kappa=0.27, lam=0.022)
LATTICE = Lattice((16, 16))
COLUMNS = "{:16}{:>8}{:>8}{:>10}{:>12}{:>14}{:>9}{:>17}{:>12}"


def hmc_fields(n: int, generator: torch.Generator) -> torch.Tensor:
    """``n`` fields of 512 chains, apart by more than the autocorrelation time."""
    local = hmc.HMC.default(ACTION, LATTICE)
    start = local.start(hmc.first_fields(ACTION, LATTICE, 512, generator))
    kernel, state = hmc.warm_up(local, start, 60, generator)
    fields = [state.phi for k, (state, _) in enumerate(kernel.steps(state, 200 + 24 * n // 512, generator)) if k >= 200]
    return torch.cat(fields[::24])


def run(name: str, move: emcee.moves.Move, phi: torch.Tensor, seconds: float) -> None:
    """Sample for some CPU seconds and print what came of it."""
    log_prob = lattice_log_prob(ACTION, LATTICE)
    sampler = emcee.EnsembleSampler(len(phi), LATTICE.volume, log_prob, moves=move, vectorize=True)
    sampler.random_state = np.random.RandomState(1).get_state()
    start = phi.flatten(1).numpy()
    began, series, accepted = time.process_time(), [], np.zeros(len(phi))
    # Fewer walkers than dimensions fail emcee's test of the initial state, which is made for the stretch move.
    for state in sampler.sample(start, iterations=None, store=False, skip_initial_state_check=True):
        series.append(state.coords.mean(1) ** 2)
        accepted += state.coords[:, 0] != start[:, 0]
        start = state.coords.copy()
        if time.process_time() - began > seconds:
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
    generator = torch.Generator().manual_seed(1)
    phi = hmc_fields(512 * (1 if path else 9), generator)
    if path is None:
        reference = GaussianReference.measure(phi[512:], LATTICE, action=ACTION)
        model = DiffusionModel.untrained(reference, ACTION, generator=generator)
        model = fit(model, ACTION, phi[512:], TrainingOptions(minutes=minutes))
    else:
        model = DiffusionModel.load(path, ACTION, LATTICE)
    names = ("walkers", "steps", "accepted", "tau (emcee)", "tau (lattice)", "ESS/s", "log_prob per ESS", "<M^2>")
    print(COLUMNS.format("", *names))
    run("stretch move", emcee.moves.StretchMove(), phi[:512], seconds)
    run("diffusion move", DiffusionMove(FlowProposal(model, n_steps=20)), phi[:64], seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model file for this action and lattice")
    parser.add_argument("--minutes", type=float, default=2, help="of training, without --model")
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each sampler")
    arguments = parser.parse_args()
    main(arguments.model, arguments.minutes, arguments.seconds)

"""A posterior without a lattice: the fit of a correlator, with a model that is trained on samples alone.

    python examples/emcee_posterior.py [--seconds 20]

The data are a Euclidean correlator ``C(t) = sum_i A_i exp(-E_i t)`` of three states, with Gaussian errors at
t = 1 ... 20. There are priors on the logarithms of amplitudes and energy gaps, as in constrained curve fitting (G.P.
Lepage et al., hep-lat/0110175). Logarithms keep amplitudes positive and energies in order, and leave six parameters
without bounds. The data determine the lowest state well and the highest one hardly at all, so there are narrow and wide
directions, and curved ones between them.

A run of the stretch move gives samples, the samples give a model, and the model gives the diffusion move. Where a model
proposes too seldom, because it has seen too few samples there, a walker stays for long; in a mixture with another move
it does not. All runs begin in equilibrium. The effective sample size ESS is that of the slowest parameter.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import emcee
import numpy as np
import torch

from dmmc.diagnostics import DiagnosticsWarning, gamma_method
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.interop.emcee import DiffusionMove
from dmmc.proposals import dense

N_STATES = 3
WALKERS = 512  # of the diffusion move; a proposal costs less in a large batch
T = np.arange(1.0, 21.0)
TRUTH = np.log([1.0, 0.7, 0.5, 0.3, 0.4, 0.5])  # A_0, A_1, A_2, E_0, E_1 - E_0, E_2 - E_1
PRIOR_MEAN = np.log([0.5] * N_STATES + [0.5] * N_STATES)
PRIOR_WIDTH = np.array([1.0] * N_STATES + [0.7] * N_STATES)


def correlator(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """C(t) of parameters ``(n, 6)``: ``(n, 20)``."""
    amplitudes, energies = np.exp(x[:, :N_STATES]), np.exp(x[:, N_STATES:]).cumsum(1)
    return (amplitudes[:, None, :] * np.exp(-energies[:, None, :] * T[:, None])).sum(-1)


ERRORS = 0.005 * correlator(TRUTH[None])[0] * np.exp(0.05 * T)
DATA = correlator(TRUTH[None])[0] + ERRORS * np.random.default_rng(4).normal(size=len(T))


def log_prob(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``(n, 6) -> (n,)``."""
    chi2 = (((correlator(x) - DATA) / ERRORS) ** 2).sum(1)
    return -0.5 * chi2 - 0.5 * (((x - PRIOR_MEAN) / PRIOR_WIDTH) ** 2).sum(1)


COLUMNS = "{:20}{:>8}{:>7}{:>10}{:>12}{:>14}{:>8}{:>17}{:>13}{:>12}"


def run(name: str, moves: Any, start: np.ndarray[Any, Any], seconds: float) -> np.ndarray[Any, Any]:
    """Sample for some CPU seconds, print what came of it, and return some of the samples ``(n, 6)``."""
    sampler = emcee.EnsembleSampler(*start.shape, log_prob, moves=moves, vectorize=True)
    sampler.random_state = np.random.RandomState(1).get_state()
    start = sampler.run_mcmc(start, 10, store=False)  # so that the cost of the first calls is not counted
    began, chain = time.process_time(), []
    for state in sampler.sample(start, iterations=None, store=False):
        chain.append(state.coords.copy())
        if time.process_time() - began > seconds and len(chain) >= MIN_DRAWS:
            break
    spent = time.process_time() - began
    samples = np.stack(chain, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagnosticsWarning)
        estimates = [gamma_method(parameter) for parameter in np.moveaxis(samples, 2, 0)]
    tau_int = max(estimate.tau_int for estimate in estimates)
    n = estimates[0].n
    ess = n / (2 * tau_int)
    # Where the series is too short, or a walker never moved, tau_int is a lower bound.
    below, above = ("<", ">") if caught else ("", "")
    moved = (np.diff(samples[:, :, 0], axis=1) != 0).mean()
    taus = (f"{above}{2 * tau_int:.4g}", f"{above}{tau_int:.4g}")
    numbers = (f"{moved:.2f}", *taus, f"{below}{ess / spent:.3g}", f"{above}{n / ess:.4g}")
    print(COLUMNS.format(name, len(samples), samples.shape[1], *numbers, str(estimates[N_STATES]), str(estimates[-1])))
    for message in sorted({str(warning.message) for warning in caught})[:1]:
        print(f"    {message}")
    return samples[:, :: max(1, samples.size // 200_000)].reshape(-1, samples.shape[2])


def train(samples: np.ndarray[Any, Any]) -> DiffusionMove:
    """The move of a model that is trained on samples alone."""
    began = time.process_time()
    proposal = dense.train_on_samples(samples, progress=False)
    print(f"trained on {len(samples)} samples, {time.process_time() - began:.1f} CPU seconds")
    return DiffusionMove(proposal)


def main(seconds: float) -> None:
    """Sample with the stretch move, train a model, then sample with the diffusion move and with both."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    start = TRUTH + 0.1 * rng.normal(size=(64, len(TRUTH)))
    warm = emcee.EnsembleSampler(*start.shape, log_prob, vectorize=True).run_mcmc(start, 5000, store=False)

    names = ("walkers", "steps", "accepted", "tau (emcee)", "tau (lattice)", "ESS/s", "log_prob per ESS")
    print(COLUMNS.format("", *names, "ln E_0", "ln dE_2"))
    stretch = emcee.moves.StretchMove()
    samples = run("stretch move", stretch, warm.coords, seconds)
    diffusion = train(samples)
    start = samples[rng.choice(len(samples), WALKERS, replace=False)]
    run("diffusion move", diffusion, start, seconds)
    run("both, 1:1", [stretch, diffusion], start, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="CPU seconds of each sampler")
    main(parser.parse_args().seconds)

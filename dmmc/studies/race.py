"""A race of Markov kernels on the clock: in one process, one after another, again and again.

What is compared is the wall time of a step of one chain among many, without the measurement of observables. Times on
one machine differ by tens of percent from minute to minute, and other work on it can only slow a kernel down, so the
samplers take turns, and the least time of each counts. With the autocorrelation times of stored runs of the same
kernels it gives the wall time of an effective sample.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from dmmc.core import rng
from dmmc.core.records import Record
from dmmc.diagnostics import Estimate
from dmmc.kernels.base import Kernel
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import estimates, summarise
from dmmc.theory.actions import Action


@dataclass(frozen=True)
class Contestant:
    """A kernel that takes part.

    Attributes:
        kernel: the tuned kernel.
        chains: how many of its chains run side by side.
        steps: steps in one turn.
    """

    kernel: Kernel[Any]
    chains: int
    steps: int


@dataclass(frozen=True)
class Entry(Record):
    """What one sampler did.

    Attributes:
        length: trajectory length in the hopping form; None for the chain of a model.
        acceptance: of its steps.
        estimates: mean, error and tau_int of the observables.
        seconds: wall seconds of a step of one chain.
        cost: wall seconds of an effective sample of each observable, ``2 tau_int seconds``.
    """

    length: float | None
    acceptance: float
    estimates: dict[str, Estimate]
    seconds: float
    cost: dict[str, float]

    @classmethod
    def of(cls, run: StoredRun, seconds: float, observables: Sequence[str], length: float | None = None) -> Self:
        """The entry of a stored run.

        Args:
            run: gives the acceptance and the autocorrelation times, in draws that are one step each.
            seconds: wall seconds of a step of one chain.
            observables: those whose cost is of interest.
            length: trajectory length of an HMC run.
        """
        means = estimates(run)
        found = {name: means[name] for name in observables}
        cost = {name: 2 * max(x.tau_int, 0.5) * seconds for name, x in found.items()}
        return cls(length, summarise(run).acceptance or 0.0, found, seconds, cost)


def break_even(training: float, cost: float, rival: float) -> float:
    """Effective samples from which on a training has paid off; inf for never.

    Args:
        training: its seconds.
        cost: seconds for an effective sample of the trained model.
        rival: seconds for an effective sample of a sampler without training.
    """
    return training / (rival - cost) if rival > cost else float("inf")


def independence_of(run: StoredRun, model: DiffusionModel, action: Action) -> Independence:
    """The kernel of an independence chain of a model, with the integration steps of the run."""
    flow = run.header.provenance["flow"]
    proposal = flow_proposal(model, tuple(flow["n_steps"]), method=flow["method"])
    return Independence(action, model.lattice, proposal)


def _wait_for(device: torch.device | str) -> None:
    """A GPU works on while a program goes ahead."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_step(
    contestants: Mapping[str, Contestant], turns: int, seed: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Wall seconds of a step of one chain, by the name of the kernel.

    Args:
        contestants: the kernels by name.
        turns: how often each of them has its turn; the least time counts.
        seed: of their random numbers.
        device: where the chains live.
    """
    least = dict.fromkeys(contestants, float("inf"))
    states = {
        name: one.kernel.initial(one.chains, rng.stream(seed, "race", name, device=device))
        for name, one in contestants.items()
    }
    for turn in range(turns):
        for name, one in contestants.items():
            generator = rng.stream(seed, "race", name, turn, device=device)
            _wait_for(device)
            began = time.perf_counter()
            for state, _ in one.kernel.steps(states[name], one.steps, generator):
                states[name] = state
            _wait_for(device)
            least[name] = min(least[name], (time.perf_counter() - began) / (one.steps * one.chains))
    return least

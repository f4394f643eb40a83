"""Short pilots of other kernels, from where a chain of independent proposals ended.

Where whole proposals are rejected too often, it may be cheaper to draw the latents of a block of sites anew, or to let
HMC take turns with the proposals. :mod:`dmmc.runs.rival` compares what an effective sample costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.core.rng import stream
from dmmc.diagnostics import expected_acceptance
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.cycle import Cycle
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import FIRST_SHARE, LEAST_TUNING, Latent
from dmmc.proposals.base import LatentProposal
from dmmc.runs.rival import HMC_ALONE, OF_CHAIN, SERIES, Pilot
from dmmc.theory.actions import Action, declaration
from dmmc.theory.observables import measure

SHARE = 1 / 3
"""Largest part of the work of the chain that the pilots may cost, in proposals."""

PUSHES = 64_000
"""Most proposals of pilots that make more than the fewest steps: 64 chains of 400 steps resolve a tau_int of 50."""

BELOW = 0.3
"""Acceptance of independent proposals below which there are pilots; ``std(log w) = 1.5`` in a log-normal law.

At an acceptance of 0.48 no other kernel of a model is ahead, at 0.23 blocks are by a factor of 2.0(3), and at 0.02 HMC
alone is far ahead of all of them (docs/large_volumes.md).
"""

TRAJECTORY = 8.0
"""Length of the HMC trajectories that are tried, for a field in the hopping form."""

TURN = 4
"""Steps that are timed together."""

MOST_SHIFT = 0.05
"""Difference of log q between the way to the latents and the way to the field up to which a kernel that goes back in
every step is tried: it changes the acceptance by as much at most."""

MOST_TUNING = 60
"""Most steps that tune a kernel."""


@dataclass(frozen=True)
class Length:
    """Steps that tune a kernel, and steps after that."""

    tuning: int
    steps: int


@dataclass(frozen=True)
class Trial:
    """How a kernel is tried.

    Attributes:
        make: makes it, not tuned yet, from the action and the proposals of the chain.
        told: what its command needs beside the name of the tuned kernel.
        cost: proposals that a step takes about as long as.
        least: fewest steps that could tell anything.
        part: of the work of all trials.
        by_force: whether it follows the gradient of the action, which must then have one and not be costly.
        goes_back: whether it goes back to the latents of its fields in every step.
        tuning: part of its steps that tune it; 0 where tuning takes no proposals, and comes on top.
    """

    make: Callable[[Action, LatentProposal], Kernel[Any]]
    told: Callable[[Kernel[Any]], dict[str, float]]
    cost: float
    least: int
    part: float
    by_force: bool = False
    goes_back: bool = False
    tuning: float = 0.0

    def length(self, work: float) -> Length | None:
        """What can be done for so many proposals of each chain; None if that is too little."""
        steps = int(work / self.cost + 1e-9)  # rounding must not take the last one
        if steps < self.least:
            return None
        if not self.tuning:
            return Length(2 * LEAST_TUNING, steps)
        tuning = min(MOST_TUNING, max(LEAST_TUNING, round(self.tuning * steps)))
        return Length(tuning, steps - tuning)


def _hmc(action: Action, flow: LatentProposal) -> Kernel[Any]:
    return HMC.default(action, flow.lattice, TRAJECTORY)


TRIALS: dict[str, Trial] = {
    "block": Trial(
        lambda action, flow: Latent(action, flow.lattice, flow, share=FIRST_SHARE),
        lambda kernel: {"share": float(kernel.describe().get("share", 1.0))},
        cost=1,
        least=30,
        part=0.3,
        tuning=1 / 4,
    ),
    # How long a trajectory takes beside a proposal depends on the network; on large lattices it is a tenth to a fifth.
    HMC_ALONE: Trial(
        _hmc,
        lambda kernel: {"trajectory": TRAJECTORY},
        cost=1 / 4,
        least=60,
        part=0.2,
        by_force=True,
    ),
    # A new field, the way back to the latents of the last one, and a trajectory.
    "cycle": Trial(
        lambda action, flow: Cycle(((Independence(action, flow.lattice, flow), 1), (_hmc(action, flow), 1))),
        lambda kernel: {"trajectory": TRAJECTORY},
        cost=3,
        least=20,
        part=0.5,
        by_force=True,
        goes_back=True,
    ),
}
"""The kernels that are tried, by name; where there is not enough time for all, the last ones are left out."""


def pilot_lengths(
    action: Action, log_w: NDArray[np.float64], chains: int, chain_steps: int, both_ways: bool = True
) -> dict[str, Length]:
    """What is tried, by the names in :data:`TRIALS`: nothing if there is no need for it, or the chain is too short.

    Args:
        action: the action that is sampled.
        log_w: log weights of independent proposals, ``(n,)``.
        chains: number of chains.
        chain_steps: steps of each of them, the discarded ones included.
        both_ways: whether log q is the same on both ways, up to :data:`MOST_SHIFT`.
    """
    if expected_acceptance(log_w) >= BELOW:
        return {}
    declared = declaration(action)
    cheap_force = declared.has_grad and not declared.costly
    trials = {
        name: trial
        for name, trial in TRIALS.items()
        if (cheap_force or not trial.by_force) and (both_ways or not trial.goes_back)
    }
    while trials:
        clock, parts = TURN * (1 + len(trials)), sum(trial.part for trial in trials.values())
        most = max(PUSHES / chains, *(trial.least * trial.cost * parts / trial.part for trial in trials.values()))
        work = min(SHARE * chain_steps - clock, most)
        lengths = {name: trial.length(work * trial.part / parts) for name, trial in trials.items()}
        enough = {name: length for name, length in lengths.items() if length is not None}
        if len(enough) == len(trials):
            return enough
        trials.popitem()
    return {}


def run_pilots(
    kernel: Kernel[Any], flow: LatentProposal, state: State, lengths: Mapping[str, Length], seed: int
) -> tuple[tuple[Pilot, ...], dict[str, float]]:
    """Go on with other kernels where chains have ended.

    Args:
        kernel: the kernel of the chains.
        flow: their proposals.
        state: where they have ended.
        lengths: what is tried, as :func:`pilot_lengths` gives it.
        seed: of the run. Pilots have streams of their own, so that the numbers of the chain do not depend on them.

    Returns:
        the pilots, and the seconds of a step of all chains with each kernel, :data:`~dmmc.runs.rival.OF_CHAIN` being
        that of the chain: each the least of several turns.
    """
    device, pilots = state.phi.device, []
    clock = stream(seed, "pilot", "clock", device=device)
    seconds = {OF_CHAIN: _seconds(kernel, state, TURN, clock)}
    for name, length in lengths.items():
        generator, rival = stream(seed, "pilot", name, device=device), TRIALS[name].make(kernel.action, flow)
        began = rival.start(state.phi, generator)
        try:
            tuned, began = rival.tune(began, generator, length.tuning)
        except DmmcError:  # HMC whose steps would have to be too short; nobody has asked for it
            continue
        pilot, seconds[name] = _pilot(name, tuned, began, length.steps, generator)
        pilots.append(pilot)
        # Once more, since other work on the machine comes and goes.
        seconds[OF_CHAIN] = min(seconds[OF_CHAIN], _seconds(kernel, state, TURN, clock))
    return tuple(pilots), seconds


def _pilot(name: str, kernel: Kernel[Any], state: State, steps: int, generator: torch.Generator) -> tuple[Pilot, float]:
    """The pilot of a tuned kernel, and the least seconds of a step in a turn."""
    rates: list[NDArray[np.float64]] = []
    series: dict[str, list[NDArray[np.float64]]] = {name: [] for name in SERIES}
    least = float("inf")
    began = time.perf_counter()
    for done in range(1, steps + 1):
        state, info = kernel.step(state, generator)
        rates.append(info.acceptance_rate.cpu().numpy())
        measured = measure(state.phi, state.S, kernel.lattice)
        for observable, values in series.items():
            values.append(measured[observable].cpu().numpy())
        if done % TURN == 0:
            least = min(least, (time.perf_counter() - began) / TURN)
            began = time.perf_counter()
    recorded = {observable: np.stack(values, 1) for observable, values in series.items()}
    return Pilot(name, TRIALS[name].told(kernel), np.stack(rates, 1), recorded), least


def _seconds(kernel: Kernel[Any], state: State, steps: int, generator: torch.Generator) -> float:
    """Wall seconds of a step of all chains, measurement included, as a chain makes it."""
    began = time.perf_counter()
    for later, _ in kernel.steps(state, steps, generator):
        measure(later.phi, later.S, kernel.lattice)["M2"].cpu()
    return (time.perf_counter() - began) / steps

"""A short pilot of the kernel of blocks, from where a chain of independent proposals ended.

Where whole proposals are rejected too often, it may be cheaper to draw the latents of a block of sites anew. Each step
takes one proposal, as in the chain, so only the autocorrelation times have to be compared; :mod:`dmmc.runs.rival` does
that.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dmmc.diagnostics import expected_acceptance
from dmmc.kernels.base import State
from dmmc.kernels.latent import FIRST_SHARE, LEAST_TUNING, Latent
from dmmc.proposals.base import LatentProposal
from dmmc.runs.rival import Pilot
from dmmc.theory.actions import Action
from dmmc.theory.observables import measure

SHARE = 0.25
"""Largest part of the work of the chain that the pilot may cost."""

PUSHES = 25_600
"""Most proposals of a pilot that makes more than the fewest steps: 64 chains of 400 steps resolve a tau_int of 50."""

BELOW = 0.3
"""Acceptance of independent proposals below which there is a pilot.

With weights of a log-normal law that is ``std(log w) = 1.5``. At 1 blocks gained a factor of 1.3(3), at 2 of 1.8(5)
to 4(1) (docs/large_volumes.md).
"""

LEAST_STEPS = 30
"""Steps of tuning and of measurement together without which there is no pilot: it could not tell anything."""

TUNING = 1 / 4
"""Part of the steps that tune the share, but not more than are of use."""

MOST_TUNING = 60
"""Most steps that tune the share."""


def pilot_steps(log_w: NDArray[np.float64], chains: int, chain_steps: int) -> int:
    """Steps of a pilot, tuning included; 0 where there is no need for one, or the chain is too short.

    Args:
        log_w: log weights of independent proposals, ``(n,)``.
        chains: number of chains.
        chain_steps: steps of each of them, the discarded ones included.
    """
    steps = min(int(SHARE * chain_steps), max(LEAST_STEPS, PUSHES // chains))
    return steps if steps >= LEAST_STEPS and expected_acceptance(log_w) < BELOW else 0


def run_pilot(action: Action, proposal: LatentProposal, state: State, steps: int, generator: torch.Generator) -> Pilot:
    """Go on with the kernel of blocks where chains have ended.

    Args:
        action: the action that is sampled.
        proposal: the map from latents to fields.
        state: where the chains have ended.
        steps: steps of the pilot, as :func:`pilot_steps` gives them.
        generator: a stream of its own, so that the numbers of the chain do not depend on the pilot.
    """
    untuned = Latent(action, proposal.lattice, proposal, share=FIRST_SHARE)
    tuning = min(MOST_TUNING, max(LEAST_TUNING, round(TUNING * steps)))
    kernel, latent = untuned.tune(untuned.start(state.phi, generator), generator, tuning)
    rates, values = [], []
    for _ in range(steps - tuning):
        latent, info = kernel.step(latent, generator)
        rates.append(info.acceptance_rate)
        values.append(measure(latent.phi, latent.S, kernel.lattice)["M2"])
    return Pilot(
        np.array([kernel.share]),
        *(torch.stack(series, 1).cpu().numpy() for series in (rates, values)),
    )

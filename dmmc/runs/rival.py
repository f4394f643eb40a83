"""What another kernel would cost, from a short pilot that is stored beside a chain.

A pilot continues the chains of a run with another kernel whose steps cost as much, and records M^2 in every step. The
costs of an effective M^2 are then in the ratio of the two autocorrelation times.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dmmc.core.records import Record
from dmmc.diagnostics import Estimate
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.runs.summary_text import number

Array = NDArray[np.float64]

SIGNIFICANT = 2.0
"""Standard errors of the logarithm of the gain by which a rival must be ahead to be named: 2 % of equals would be."""


@dataclass(frozen=True)
class Pilot:
    """The arrays of a pilot of the kernel of blocks, as they are stored beside a chain.

    Attributes:
        pilot_share: fraction of the sites in a block, ``(1,)``.
        pilot_acceptance: probability of acceptance in every step, ``(chain, step)``.
        pilot_M2: M^2 after every step, ``(chain, step)``.
    """

    pilot_share: Array
    pilot_acceptance: Array
    pilot_M2: Array

    @classmethod
    def stored(cls, arrays: Mapping[str, Array]) -> Self | None:
        """The pilot among the arrays of a run file; None if there is none."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: arrays[name] for name in names}) if all(name in arrays for name in names) else None

    def arrays(self) -> dict[str, Array]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Rival(Record):
    """The kernel of blocks, where it needs less time than that of the chain for an effective M^2, as a pilot found.

    Attributes:
        share: fraction of the sites in a block.
        acceptance: of its steps.
        tau_int: autocorrelation time of M^2 in its steps, lattice convention.
        tau_int_error: standard error of that.
        gain: how many times less time it needs.
        gain_error: standard error of that.
        bound: whether the gain is a lower bound, since the chain is too short for its own autocorrelation time.
    """

    share: float
    acceptance: float
    tau_int: float
    tau_int_error: float
    gain: float
    gain_error: float
    bound: bool = False

    def sentence(self, acceptance: float | None) -> str:
        """What there is to say about it, beside a chain of this acceptance."""
        here = "" if acceptance is None else f"Acceptance {acceptance:.2g} here: "
        least = "at least " if self.bound else ""
        gain = f"{least}{number(self.gain, self.gain_error)} times less time for an effective M^2"
        return (
            f"{here}the kernel of blocks with {100 * self.share:.2g} % of the sites would need {gain} "
            f"(dmmc sample --kernel block --share {self.share:.2g})."
        )


def rival(pilot: Pilot | None, chain: Estimate, steps_per_draw: int) -> Rival | None:
    """The kernel of a pilot, if it needs significantly less time for an effective M^2 than that of the chain.

    Args:
        pilot: the pilot, if there was one.
        chain: M^2 of the chain.
        steps_per_draw: steps of the chain between two draws.
    """
    # Blocks of all sites are the kernel of the chain.
    if pilot is None or pilot.pilot_share[0] == 1 or not chain.tau_int > 0:
        return None
    found, resolved = resolved_tau(pilot.pilot_M2)
    if not (resolved and found.tau_int > 0):
        return None
    gain = steps_per_draw * chain.tau_int / found.tau_int
    relative = math.hypot(chain.tau_int_error / chain.tau_int, found.tau_int_error / found.tau_int)
    if not math.log(gain) > SIGNIFICANT * relative:
        return None
    return Rival(
        share=float(pilot.pilot_share[0]),
        acceptance=float(pilot.pilot_acceptance.mean()),
        tau_int=found.tau_int,
        tau_int_error=found.tau_int_error,
        gain=gain,
        gain_error=gain * relative,
        bound=not chain.resolved,
    )

"""What another kernel would cost, from a short pilot that is stored beside a chain.

A pilot continues the chains of a run with another kernel, and records M^2 and M in every step. The costs of an
effective sample are in the ratio of the autocorrelation times, times that of the seconds of a step. These are not part
of what is stored with the pilot but of the :class:`~dmmc.runs.header.RunRecord`, since they differ from one process to
the next.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dmmc.core.records import Record
from dmmc.diagnostics import Estimate
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.diagnostics.symbols import symbol
from dmmc.runs.summary_text import number

Array = NDArray[np.float64]

SIGNIFICANT = 2.0
"""Standard errors of the logarithm of the gain by which a rival must be ahead to be named: 2 % of equals would be."""

CLOCK = 0.1
"""Relative error of a ratio of seconds that were measured in one process: other work on the machine comes and goes."""

OF_CHAIN = "chain"
"""The name under which the seconds of a step of the chain itself are stored."""

HMC_ALONE = "hmc"
"""The kernel that needs no model, and is run by another command than the others."""

PREFIX, ACCEPTANCE, SERIES = "pilot", "acceptance", ("M2", "M")


@dataclass(frozen=True)
class Pilot:
    """A pilot of another kernel, as it is stored beside a chain.

    Attributes:
        kernel: its name, as ``dmmc sample --kernel`` takes it; :data:`HMC_ALONE` needs no model.
        options: the numbers that its command needs beside the name, such as the share of the sites in a block.
        acceptance: probability of acceptance in every step, ``(chain, step)``.
        series: M^2 and M after every step, ``(chain, step)`` each, by name.
    """

    kernel: str
    options: dict[str, float]
    acceptance: Array
    series: dict[str, Array]

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, as a run file stores them: ``pilot_block_M2``, ``pilot_block_share`` and so on."""
        mine = {ACCEPTANCE: self.acceptance, **self.series}
        mine |= {option: np.array([value]) for option, value in self.options.items()}
        return {f"{PREFIX}_{self.kernel}_{name}": array for name, array in mine.items()}

    @classmethod
    def stored(cls, arrays: Mapping[str, Array]) -> tuple[Self, ...]:
        """The pilots among the arrays of a run file."""
        mine: dict[str, dict[str, Array]] = {}
        for name, array in arrays.items():
            first, _, rest = name.partition("_")
            kernel, _, what = rest.partition("_")
            if first == PREFIX and what:
                mine.setdefault(kernel, {})[what] = array
        if f"{PREFIX}_share" in arrays:  # files from when there was no kernel but that of blocks to try
            mine["block"] = {what: arrays[f"{PREFIX}_{what}"] for what in ("share", ACCEPTANCE, "M2")}
        return tuple(cls._of(kernel, found) for kernel, found in mine.items())

    @classmethod
    def _of(cls, kernel: str, found: dict[str, Array]) -> Self:
        series = {name: found[name] for name in SERIES if name in found}
        options = {name: float(x[0]) for name, x in found.items() if name not in (ACCEPTANCE, *SERIES)}
        return cls(kernel, options, found[ACCEPTANCE], series)


@dataclass(frozen=True)
class Rival(Record):
    """A kernel that needs less time than that of the chain for an effective sample, as a pilot found.

    Attributes:
        kernel: its name, as in :class:`Pilot`.
        observable: of which effective samples are meant, ``M2`` or ``M``.
        acceptance: of its steps.
        tau_int: autocorrelation time of the observable in its steps, lattice convention.
        tau_int_error: standard error of that.
        cost: seconds of its step over those of a step of the chain.
        gain: how many times less time it needs.
        gain_error: standard error of that.
        bound: whether the gain is a lower bound, since the chain is too short for its own autocorrelation time.
        options: the numbers that the command needs beside the name.
    """

    VERSION = 2

    kernel: str
    observable: str
    acceptance: float
    tau_int: float
    tau_int_error: float
    cost: float
    gain: float
    gain_error: float
    bound: bool = False
    options: dict[str, float] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What to type for it; what names the theory and the files stays as it is."""
        program = "dmmc ensemble" if self.kernel == HMC_ALONE else f"dmmc sample --kernel {self.kernel}"
        return program + "".join(f" --{name} {value:.2g}" for name, value in self.options.items())

    def clause(self, first: bool) -> str:
        """What it gains, as the first part of a sentence or as a later one."""
        times = f"{'at least ' if self.bound else ''}{number(self.gain, self.gain_error)} times less"
        what = symbol(self.observable).value.text
        return f"an effective {what} would take {times} time" if first else f"and one of {what} {times}"


def rivals(
    pilots: Iterable[Pilot], chain: Mapping[str, Estimate], steps_per_draw: int, seconds: Mapping[str, float]
) -> tuple[Rival, ...]:
    """For M^2 and for M, the kernel of the pilots that needs least time, if it is significantly less than the chain's.

    Args:
        pilots: the pilots.
        chain: M^2 and M of the chain, by name.
        steps_per_draw: steps of the chain between two draws.
        seconds: of a step with each kernel, by name, and of one of the chain. Of blocks no more than the share is
            needed, since their step is one proposal, like that of the chain.
    """
    found = [
        rival
        for pilot in pilots
        for name in pilot.series
        if name in chain and (rival := _rival(pilot, name, chain[name], steps_per_draw, seconds)) is not None
    ]
    of_each = ([one for one in found if one.observable == name] for name in SERIES)
    return tuple(max(some, key=lambda one: one.gain) for some in of_each if some)


def sentence(found: Sequence[Rival], acceptance: float | None) -> str:
    """What there is to say about rivals, at least one, beside a chain of this acceptance."""
    here = "" if acceptance is None else f"Acceptance {acceptance:.2g} here: "
    first, *more = found
    clauses = [(first, first.clause(True)), *((one, one.clause(False)) for one in more)]
    said = []
    for (kernel, command), some in groupby(clauses, lambda pair: (pair[0].kernel, pair[0].command)):
        gains = [clause for _, clause in some]
        name = "HMC alone" if kernel == HMC_ALONE else f"the kernel {kernel}"
        said.append(f"{', '.join(gains)}{',' if len(gains) > 1 else ''} with {name} ({command})")
    return f"{here}{', '.join(said)}."


def _rival(pilot: Pilot, name: str, chain: Estimate, steps_per_draw: int, seconds: Mapping[str, float]) -> Rival | None:
    """The kernel of a pilot, if it needs significantly less time for an effective sample than that of the chain."""
    # Blocks of all sites are the kernel of the chain.
    if pilot.options.get("share") == 1 or not chain.tau_int > 0:
        return None
    estimate, resolved = resolved_tau(pilot.series[name])
    if not (resolved and estimate.tau_int > 0):
        return None
    known = pilot.kernel in seconds and OF_CHAIN in seconds
    cost = seconds[pilot.kernel] / seconds[OF_CHAIN] if known else 1.0
    gain = steps_per_draw * chain.tau_int / (cost * estimate.tau_int)
    relative = math.hypot(
        chain.tau_int_error / chain.tau_int, estimate.tau_int_error / estimate.tau_int, CLOCK if known else 0.0
    )
    if not math.log(gain) > SIGNIFICANT * relative:
        return None
    return Rival(
        kernel=pilot.kernel,
        observable=name,
        acceptance=float(pilot.acceptance.mean()),
        tau_int=estimate.tau_int,
        tau_int_error=estimate.tau_int_error,
        cost=cost,
        gain=gain,
        gain_error=gain * relative,
        bound=not chain.resolved,
        options=pilot.options,
    )

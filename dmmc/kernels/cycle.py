"""Cycles: kernels that take turns.

A flow moves far and HMC moves everything a little, and together they do both. Each part leaves ``exp(-S)`` invariant,
and so does their composition, one after another, which is not reversible. That each part begins from the fields alone
is explained in :mod:`dmmc.kernels.parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts, PartFacts
from dmmc.kernels.base import Info, Kernel, State, in_pieces
from dmmc.kernels.parts import check_parts, cost_of, facts_of, fields_of, names_of, total_cost, tuned_parts
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class CycleInfo(Info):
    """What one cycle reports, ``(n,)`` each.

    ``accepted`` (float64) and ``acceptance_rate`` are means over the steps of the first part; everything else is as it
    was at the last step of each part. The log q and log w that a part reports are those when it ended, before the next
    part moved the fields.

    Attributes:
        parts: what the parts report, by name. The first part's statistics keep their names; those of the others have
            the kernel's name in front, as in ``hmc_accepted`` (and its place, if the name occurs twice).
    """

    parts: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        return {"accepted": self.accepted, "acceptance_rate": self.acceptance_rate, **self.parts}


@dataclass(frozen=True)
class Cycle(Kernel[State]):
    """A cycle of kernels; one step is one cycle.

    Args:
        parts: kernels with their numbers of steps, in order, all of the same action and lattice. The statistics of the
            first one keep their names, so put the kernel first whose weights are to be looked at.

    Raises:
        DmmcError: if there is no part, or a number of steps is not positive.
        MismatchError: if the parts sample different things.
    """

    parts: tuple[tuple[Kernel[Any], int], ...]

    def __post_init__(self) -> None:
        if not self.parts or any(n < 1 or n != int(n) for _, n in self.parts):
            raise DmmcError("a cycle needs at least one kernel, each with a positive number of steps")
        check_parts([kernel for kernel, _ in self.parts], "cycle")

    @property
    def action(self) -> Action:
        return self.parts[0][0].action

    @property
    def lattice(self) -> Lattice:
        return self.parts[0][0].lattice

    @property
    def facts(self) -> KernelFacts:
        # Whatever the weights of the first part are, its rejections do not follow the law of an independence chain,
        # since the other parts move the fields in between.
        return facts_of("cycle", " + ", self._part_facts())

    @property
    def cost(self) -> dict[str, float]:
        """The sum over a cycle, in which each part is started again from the fields."""
        return total_cost(part.cost for _, part in self._part_facts())

    def _part_facts(self) -> list[tuple[KernelFacts, PartFacts]]:
        return [
            (kernel.facts, PartFacts(kernel.facts.label, f"{prefix}accepted", n, cost_of(kernel, 1, n)))
            for prefix, (kernel, n) in zip(self._prefixes(), self.parts, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "name": "cycle",
            "parts": [kernel.describe() for kernel, _ in self.parts],
            "steps": [n for _, n in self.parts],
        }

    def initial(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin where the first part would begin."""
        return fields_of(self.parts[0][0].initial(n, generator))

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Cycle, State]:
        """Tune every part in turn, each with ``n_steps`` steps."""
        parts, state = tuned_parts(self.parts, state, generator, n_steps)
        return replace(self, parts=parts), state

    def step(self, state: State, generator: torch.Generator) -> tuple[State, CycleInfo]:
        reports: dict[str, Tensor] = {}
        for prefix, (kernel, repeat) in zip(self._prefixes(), self.parts, strict=True):
            accepted, rates = [], []
            for later, info in in_pieces(kernel, kernel.start(state.phi, generator), repeat, generator):
                state = fields_of(later)
                accepted.append(info.accepted.double())
                rates.append(info.acceptance_rate)
            means = {"accepted": torch.stack(accepted).mean(0), "acceptance_rate": torch.stack(rates).mean(0)}
            reports |= {prefix + name: value for name, value in (info.tensors() | means).items()}
        return state, CycleInfo(reports.pop("accepted"), reports.pop("acceptance_rate"), reports)

    def _prefixes(self) -> list[str]:
        return ["", *(f"{name}_" for name in names_of([kernel for kernel, _ in self.parts])[1:])]


def cycle(*kernels: Kernel[Any] | tuple[Kernel[Any], int]) -> Cycle:
    """Kernels that take turns.

    Args:
        kernels: in order; a pair ``(kernel, n)`` makes n steps of it.

    Raises:
        DmmcError: as :class:`Cycle`, or if something is not a kernel.
    """
    return Cycle(tuple(one if isinstance(one, tuple) else (one, 1) for one in kernels))

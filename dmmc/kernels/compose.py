"""Cycles of kernels that take turns, such as a flow that moves far and HMC that moves everything a little.

Each part leaves ``exp(-S)`` invariant, so their composition does too (it is not reversible). A kernel that carries
something along (log q, a latent field, the weight of a path) would find it stale after another kernel has moved the
fields. Each part therefore begins from the fields alone: it computes what it carries, or draws it anew from the law
that its target gives it for these fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Info, Kernel, State, in_pieces
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
        for kernel, _ in self.parts[1:]:
            if kernel.lattice != self.lattice or kernel.action.describe() != self.action.describe():
                raise MismatchError("the kernels of a cycle must have the same action and the same lattice")

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
        facts = [kernel.facts for kernel, _ in self.parts]
        return KernelFacts(
            "cycle",
            label=" + ".join(fact.label for fact in facts),
            model_free=all(fact.model_free for fact in facts),
            inexact="; ".join(dict.fromkeys(fact.inexact for fact in facts if fact.inexact)),
        )

    @property
    def cost(self) -> dict[str, int]:
        """The sum over a cycle, in which each part is started again from the fields."""
        total: Counter[str] = Counter()
        for kernel, n in self.parts:
            total.update(kernel.start_cost)
            total.update({name: n * count for name, count in kernel.cost.items()})
        return dict(total)

    def describe(self) -> dict[str, Any]:
        return {
            "name": "cycle",
            "parts": [kernel.describe() for kernel, _ in self.parts],
            "steps": [n for _, n in self.parts],
        }

    def initial(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin where the first part would begin."""
        state = self.parts[0][0].initial(n, generator)
        return State(state.phi, state.S)

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Cycle, State]:
        """Tune every part in turn, each with ``n_steps`` steps."""
        tuned = []
        for kernel, n in self.parts:
            kernel, last = kernel.tune(kernel.start(state.phi, generator), generator, n_steps)
            tuned.append((kernel, n))
            state = State(last.phi, last.S)
        return replace(self, parts=tuple(tuned)), state

    def step(self, state: State, generator: torch.Generator) -> tuple[State, CycleInfo]:
        reports: dict[str, Tensor] = {}
        for prefix, (kernel, repeat) in zip(self._prefixes(), self.parts, strict=True):
            accepted, rates = [], []
            for later, info in in_pieces(kernel, kernel.start(state.phi, generator), repeat, generator):
                state = State(later.phi, later.S)
                accepted.append(info.accepted.double())
                rates.append(info.acceptance_rate)
            means = {"accepted": torch.stack(accepted).mean(0), "acceptance_rate": torch.stack(rates).mean(0)}
            reports |= {prefix + name: value for name, value in (info.tensors() | means).items()}
        return state, CycleInfo(reports.pop("accepted"), reports.pop("acceptance_rate"), reports)

    def _prefixes(self) -> list[str]:
        names = [kernel.facts.name for kernel, _ in self.parts]
        labels = [name if names.count(name) == 1 else f"{name}{k + 1}" for k, name in enumerate(names)]
        return ["", *(f"{label}_" for label in labels[1:])]

"""The parts of a kernel that is made of several: which fit together, their names, facts, costs, and tuning.

A kernel that carries something along (log q, a latent field, the weight of a path) would find it stale after another
kernel has moved the fields. Each part of a cycle or a mixture therefore begins from the fields alone: it computes what
it carries, or draws it anew from the law that its target gives it for these fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.facts import KernelFacts, PartFacts
from dmmc.kernels.base import Kernel, State


def check_parts(kernels: Sequence[Any], what: str) -> None:
    """Refuse what cannot be the kernels of one ``what``, such as a cycle.

    Raises:
        DmmcError: if something is not a kernel.
        MismatchError: if two kernels have different actions or lattices.
    """
    for kernel in kernels:
        if isinstance(kernel, type) or not callable(getattr(kernel, "step", None)):
            shown = kernel.__name__ if isinstance(kernel, type) else type(kernel).__name__
            raise DmmcError(f"a {what} is made of kernels, such as dmmc.HMC.default(action, lattice); got {shown}")
    first, *others = kernels
    for kernel in others:
        if kernel.lattice != first.lattice or kernel.action.describe() != first.action.describe():
            raise MismatchError(f"the kernels of a {what} must have the same action and the same lattice")


def names_of(kernels: Sequence[Kernel[Any]]) -> list[str]:
    """Names that tell the statistics of the parts apart."""
    names = [kernel.facts.name for kernel in kernels]
    return [name if names.count(name) == 1 else f"{name}{k + 1}" for k, name in enumerate(names)]


def facts_of(name: str, between: str, parts: Sequence[tuple[KernelFacts, PartFacts]]) -> KernelFacts:
    """The facts of the whole, whose label has the labels of the parts with ``between`` between them."""
    facts = [fact for fact, _ in parts]
    return KernelFacts(
        name,
        label=between.join(fact.label for fact in facts),
        model_free=all(fact.model_free for fact in facts),
        inexact="; ".join(dict.fromkeys(fact.inexact for fact in facts if fact.inexact)),
        parts=tuple(part for _, part in parts),
    )


def cost_of(kernel: Kernel[Any], starts: float, steps: float) -> dict[str, float]:
    """What so many starts and so many steps of a kernel cost."""
    return total_cost(
        {name: n * count for name, count in counts.items()}
        for n, counts in ((starts, kernel.start_cost), (steps, kernel.cost))
    )


def total_cost(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of costs, for each thing that is counted."""
    total: dict[str, float] = {}
    for cost in costs:
        for name, count in cost.items():
            total[name] = total.get(name, 0) + count
    return total


def fields_of(state: State) -> State:
    """The fields and actions of a state, without what its kernel carries along."""
    return State(state.phi, state.S)


def tuned_parts(
    parts: tuple[tuple[Kernel[Any], Any], ...], state: State, generator: torch.Generator, n_steps: int
) -> tuple[tuple[tuple[Kernel[Any], Any], ...], State]:
    """The parts, each tuned where the one before has left the chains."""
    tuned = []
    for kernel, number in parts:
        kernel, last = kernel.tune(kernel.start(state.phi, generator), generator, n_steps)
        tuned.append((kernel, number))
        state = fields_of(last)
    return tuple(tuned), state

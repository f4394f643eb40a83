"""Kernels of several kernels: cycles, in which they take turns, and mixtures, in which chance decides.

A flow moves far and HMC moves everything a little, and together they do both. Each part leaves ``exp(-S)`` invariant.
So does their composition, one after another (which is not reversible), and so does a choice between them that knows
nothing of the fields. A kernel that carries something along (log q, a latent field, the weight of a path) would find it
stale after another kernel has moved the fields. Each part therefore begins from the fields alone: it computes what it
carries, or draws it anew from the law that its target gives it for these fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.facts import KernelFacts, PartFacts
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
        _check_kernels([kernel for kernel, _ in self.parts], "cycle")

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
        return _facts("cycle", " + ", self._part_facts())

    @property
    def cost(self) -> dict[str, float]:
        """The sum over a cycle, in which each part is started again from the fields."""
        return _total(part.cost for _, part in self._part_facts())

    def _part_facts(self) -> list[tuple[KernelFacts, PartFacts]]:
        return [
            (kernel.facts, PartFacts(kernel.facts.label, f"{prefix}accepted", n, _cost(kernel, 1, n)))
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
        return _fields_of(self.parts[0][0].initial(n, generator))

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Cycle, State]:
        """Tune every part in turn, each with ``n_steps`` steps."""
        parts, state = _tuned(self.parts, state, generator, n_steps)
        return replace(self, parts=parts), state

    def step(self, state: State, generator: torch.Generator) -> tuple[State, CycleInfo]:
        reports: dict[str, Tensor] = {}
        for prefix, (kernel, repeat) in zip(self._prefixes(), self.parts, strict=True):
            accepted, rates = [], []
            for later, info in in_pieces(kernel, kernel.start(state.phi, generator), repeat, generator):
                state = _fields_of(later)
                accepted.append(info.accepted.double())
                rates.append(info.acceptance_rate)
            means = {"accepted": torch.stack(accepted).mean(0), "acceptance_rate": torch.stack(rates).mean(0)}
            reports |= {prefix + name: value for name, value in (info.tensors() | means).items()}
        return state, CycleInfo(reports.pop("accepted"), reports.pop("acceptance_rate"), reports)

    def _prefixes(self) -> list[str]:
        return ["", *(f"{name}_" for name in _names([kernel for kernel, _ in self.parts])[1:])]


def cycle(*kernels: Kernel[Any] | tuple[Kernel[Any], int]) -> Cycle:
    """Kernels that take turns.

    Args:
        kernels: in order; a pair ``(kernel, n)`` makes n steps of it.

    Raises:
        DmmcError: as :class:`Cycle`, or if something is not a kernel.
    """
    return Cycle(tuple(one if isinstance(one, tuple) else (one, 1) for one in kernels))


@dataclass(frozen=True)
class MixtureInfo(Info):
    """What one step of a mixture reports, ``(n,)`` each.

    ``accepted`` (float64) and ``acceptance_rate`` are those of the part that was chosen.

    Attributes:
        part: the number of this part, from 0, int64; the same for all chains.
        parts: ``accepted`` and ``acceptance_rate`` of each part, with the kernel's name in front (and its place, if the
            name occurs twice), as in ``hmc_accepted``; NaN unless this part was chosen.
    """

    part: Tensor
    parts: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        shared = {"accepted": self.accepted, "acceptance_rate": self.acceptance_rate, "part": self.part}
        return {**shared, **self.parts}


@dataclass(frozen=True)
class Mixture(Kernel[State]):
    """A mixture of kernels; one step is a step of one of them, chosen at random, the same for all chains.

    The choice comes from the generator of the chain and knows nothing of the fields. One that did would not leave
    ``exp(-S)`` invariant, although each of the parts does.

    Args:
        parts: kernels with the probabilities with which they are chosen, all of the same action and lattice.

    Raises:
        DmmcError: if there is no part, or the probabilities are not positive or do not add up to 1.
        MismatchError: if the parts sample different things.
    """

    parts: tuple[tuple[Kernel[Any], float], ...]

    def __post_init__(self) -> None:
        probabilities = [p for _, p in self.parts]
        if not self.parts or not all(p > 0 for p in probabilities) or not math.isclose(math.fsum(probabilities), 1.0):
            raise DmmcError(
                f"the probabilities of a mixture must be positive and add up to 1, got {probabilities}; "
                "dmmc.mixture takes weights of any sum"
            )
        _check_kernels([kernel for kernel, _ in self.parts], "mixture")

    @property
    def action(self) -> Action:
        return self.parts[0][0].action

    @property
    def lattice(self) -> Lattice:
        return self.parts[0][0].lattice

    @property
    def facts(self) -> KernelFacts:
        return _facts("mixture", " or ", self._part_facts())

    @property
    def cost(self) -> dict[str, float]:
        """The mean over the parts, each of which is started again from the fields."""
        return _total(part.cost for _, part in self._part_facts())

    def _part_facts(self) -> list[tuple[KernelFacts, PartFacts]]:
        return [
            (kernel.facts, PartFacts(kernel.facts.label, f"{name}_accepted", p, _cost(kernel, p, p)))
            for name, (kernel, p) in zip(self._names(), self.parts, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "name": "mixture",
            "parts": [kernel.describe() for kernel, _ in self.parts],
            "probabilities": [p for _, p in self.parts],
        }

    def initial(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin where the first part would begin."""
        return _fields_of(self.parts[0][0].initial(n, generator))

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Mixture, State]:
        """Tune every part in turn, each with ``n_steps`` steps."""
        parts, state = _tuned(self.parts, state, generator, n_steps)
        return replace(self, parts=parts), state

    def step(self, state: State, generator: torch.Generator) -> tuple[State, MixtureInfo]:
        chosen = self._choose(generator)
        kernel, _ = self.parts[chosen]
        later, info = kernel.step(kernel.start(state.phi, generator), generator)
        accepted = info.accepted.double()
        none = torch.full_like(accepted, math.nan)
        reports = {}
        for k, name in enumerate(self._names()):
            reports[f"{name}_accepted"] = accepted if k == chosen else none
            reports[f"{name}_acceptance_rate"] = info.acceptance_rate if k == chosen else none
        part = torch.full_like(accepted, chosen, dtype=torch.int64)
        return _fields_of(later), MixtureInfo(accepted, info.acceptance_rate, part, reports)

    def _choose(self, generator: torch.Generator) -> int:
        """The number of the part that makes the next step."""
        u = float(rng.uniform((), generator))
        limits = list(accumulate(p for _, p in self.parts))[:-1]  # the last part takes what rounding leaves
        return sum(u >= limit for limit in limits)

    def _names(self) -> list[str]:
        return _names([kernel for kernel, _ in self.parts])


def mixture(
    kernels: Mapping[Any, float] | Sequence[tuple[Kernel[Any], float]],
) -> Mixture:
    """A kernel that makes each step with one of several kernels, chosen at random.

    Args:
        kernels: their weights, ``{kernel: weight, ...}``, or pairs ``(kernel, weight)``, as for a kernel that cannot be
            the key of a dictionary. The weights need not add up to 1.

    Raises:
        DmmcError: if there is no kernel, something is not a kernel, or a weight is not a positive number.
        MismatchError: if the kernels sample different things.
    """
    pairs = list(kernels.items()) if isinstance(kernels, Mapping) else list(kernels)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise DmmcError(
                "a mixture is made of kernels with their weights, {kernel: weight} or [(kernel, weight)]; "
                f"got {type(pair).__name__}"
            )
        weight = pair[1]
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise DmmcError(f"the weights of a mixture must be positive and finite numbers, got {weight!r}")
    if not pairs:
        raise DmmcError("a mixture needs at least one kernel")
    total = math.fsum(weight for _, weight in pairs)
    return Mixture(tuple((kernel, weight / total) for kernel, weight in pairs))


def _check_kernels(kernels: Sequence[Any], what: str) -> None:
    for kernel in kernels:
        if isinstance(kernel, type) or not callable(getattr(kernel, "step", None)):
            shown = kernel.__name__ if isinstance(kernel, type) else type(kernel).__name__
            raise DmmcError(f"a {what} is made of kernels, such as dmmc.HMC.default(action, lattice); got {shown}")
    first, *others = kernels
    for kernel in others:
        if kernel.lattice != first.lattice or kernel.action.describe() != first.action.describe():
            raise MismatchError(f"the kernels of a {what} must have the same action and the same lattice")


def _names(kernels: Sequence[Kernel[Any]]) -> list[str]:
    """Names that tell the statistics of the parts apart."""
    names = [kernel.facts.name for kernel in kernels]
    return [name if names.count(name) == 1 else f"{name}{k + 1}" for k, name in enumerate(names)]


def _facts(name: str, between: str, parts: Sequence[tuple[KernelFacts, PartFacts]]) -> KernelFacts:
    facts = [fact for fact, _ in parts]
    return KernelFacts(
        name,
        label=between.join(fact.label for fact in facts),
        model_free=all(fact.model_free for fact in facts),
        inexact="; ".join(dict.fromkeys(fact.inexact for fact in facts if fact.inexact)),
        parts=tuple(part for _, part in parts),
    )


def _cost(kernel: Kernel[Any], starts: float, steps: float) -> dict[str, float]:
    """What so many starts and so many steps of a kernel cost."""
    return _total(
        {name: n * count for name, count in counts.items()}
        for n, counts in ((starts, kernel.start_cost), (steps, kernel.cost))
    )


def _total(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for cost in costs:
        for name, count in cost.items():
            total[name] = total.get(name, 0) + count
    return total


def _fields_of(state: State) -> State:
    """The fields and actions of a state, without what its kernel carries along."""
    return State(state.phi, state.S)


def _tuned(
    parts: tuple[tuple[Kernel[Any], Any], ...], state: State, generator: torch.Generator, n_steps: int
) -> tuple[tuple[tuple[Kernel[Any], Any], ...], State]:
    """The parts, each tuned where the one before has left the chains."""
    tuned = []
    for kernel, number in parts:
        kernel, last = kernel.tune(kernel.start(state.phi, generator), generator, n_steps)
        tuned.append((kernel, number))
        state = _fields_of(last)
    return tuple(tuned), state

"""Mixtures: kernels of which chance chooses one for each step.

Each part leaves ``exp(-S)`` invariant, and so does a choice between them that knows nothing of the fields. That each
part begins from the fields alone is explained in :mod:`dmmc.kernels.parts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts, PartFacts
from dmmc.kernels.base import Info, Kernel, State
from dmmc.kernels.parts import check_parts, cost_of, facts_of, fields_of, names_of, total_cost, tuned_parts
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


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
        check_parts([kernel for kernel, _ in self.parts], "mixture")

    @property
    def action(self) -> Action:
        return self.parts[0][0].action

    @property
    def lattice(self) -> Lattice:
        return self.parts[0][0].lattice

    @property
    def facts(self) -> KernelFacts:
        return facts_of("mixture", " or ", self._part_facts())

    @property
    def cost(self) -> dict[str, float]:
        """The mean over the parts, each of which is started again from the fields."""
        return total_cost(part.cost for _, part in self._part_facts())

    def _part_facts(self) -> list[tuple[KernelFacts, PartFacts]]:
        return [
            (kernel.facts, PartFacts(kernel.facts.label, f"{name}_accepted", p, cost_of(kernel, p, p)))
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
        return fields_of(self.parts[0][0].initial(n, generator))

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Mixture, State]:
        """Tune every part in turn, each with ``n_steps`` steps."""
        parts, state = tuned_parts(self.parts, state, generator, n_steps)
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
        return fields_of(later), MixtureInfo(accepted, info.acceptance_rate, part, reports)

    def _choose(self, generator: torch.Generator) -> int:
        """The number of the part that makes the next step."""
        u = float(rng.uniform((), generator))
        limits = list(accumulate(p for _, p in self.parts))[:-1]  # the last part takes what rounding leaves
        return sum(u >= limit for limit in limits)

    def _names(self) -> list[str]:
        return names_of([kernel for kernel, _ in self.parts])


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

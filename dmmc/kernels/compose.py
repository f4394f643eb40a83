"""Hybrid chains: kernels that take turns, such as a flow that moves far and HMC that moves everything a little.

Each part leaves ``exp(-S)`` invariant, so their composition does (it is not reversible). A kernel that carries
something along (log q, a latent, the weight of a path) would find it stale after another kernel has moved the fields.
So each part begins from the fields alone: it finds, or draws anew, what it carries, from the law that its target gives
it for these fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.base import Kernel, State, start_state
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Hybrid:
    """A cycle of kernels; one step is one cycle.

    Args:
        parts: kernels with their numbers of steps, in order, of the same action and lattice. The statistics of the
            first keep their names, so let it be the one whose weights are to be looked at.

    Raises:
        DmmcError: if there is no part, or a number of steps is not positive.
        MismatchError: if the parts sample different things.
    """

    parts: tuple[tuple[Kernel, int], ...]

    def __post_init__(self) -> None:
        if not self.parts or any(n < 1 or n != int(n) for _, n in self.parts):
            raise DmmcError("a hybrid needs at least one kernel, each with a positive number of steps")
        for kernel, _ in self.parts[1:]:
            if kernel.lattice != self.lattice or kernel.action.describe() != self.action.describe():
                raise MismatchError("the kernels of a hybrid must have one action and one lattice; make them alike")

    @property
    def action(self) -> Action:
        """The action that is sampled."""
        return self.parts[0][0].action

    @property
    def lattice(self) -> Lattice:
        """The lattice of the chains."""
        return self.parts[0][0].lattice

    @property
    def evaluations(self) -> dict[str, int]:
        """The sum over a cycle; a part with a network needs it once more, to weigh the fields that it is given."""
        total: dict[str, int] = {}
        for kernel, n in self.parts:
            for name, count in kernel.evaluations.items():
                total[name] = total.get(name, 0) + count * (n + (name == "network"))
        return total

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` cycles; after each, the state and its statistics.

        Statistics, ``(n_chains,)``: for each part the mean of ``accepted`` over its steps (float64) and all else as it
        was at the last of them; those of the second and later parts have its name in front, as in ``hmc_accepted``
        (and its place, if that is needed: ``hmc3_accepted``). The log q and log w that they report are those when the
        part ended, before the next one moved the fields.
        """
        for _ in range(n):
            statistics: dict[str, Tensor] = {}
            for prefix, (kernel, repeat) in zip(self._prefixes(), self.parts, strict=True):
                accepted = []
                for last, found in kernel.steps(kernel.start(state.phi), repeat, generator):
                    state = last
                    accepted.append(found["accepted"].double())
                mean = torch.stack(accepted).mean(0)
                statistics |= {prefix + name: value for name, value in (found | {"accepted": mean}).items()}
            yield State(state.phi, state.S), statistics

    def describe(self) -> dict[str, Any]:
        """Name and parts; whether and why the chain is inexact, where a part is."""
        parts = [kernel.describe() for kernel, _ in self.parts]
        reasons = [str(part.get("inexact_reason", "")) for part in parts if part.get("inexact")]
        mark = {"inexact": True, "inexact_reason": "; ".join(reasons)} if reasons else {}
        return {"name": "hybrid", "parts": parts, "steps": [n for _, n in self.parts], **mark}

    def _prefixes(self) -> list[str]:
        names = [str(kernel.describe()["name"]) for kernel, _ in self.parts]
        labels = [name if names.count(name) == 1 else f"{name}{k + 1}" for k, name in enumerate(names)]
        return ["", *(f"{label}_" for label in labels[1:])]

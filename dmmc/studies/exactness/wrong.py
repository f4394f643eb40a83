"""Recipes that look like exact kernels and are not, for the exactness laboratory.

The proposals are to be wrapped in :class:`Declared`. :class:`dmmc.kernels.independence.Independence` then refuses them
without ``allow_inexact=True``, and marks the chain inexact in every output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Info, Kernel, State, start_state
from dmmc.proposals.base import LatentProposal, Proposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.sectors import magnetisation

_ATTEMPTS = 40
"""How often proposals are made in place of those that were dropped."""


class Drawable(Protocol):
    """Anything that draws fields, whatever density it reports with them."""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)`` and something that is called their log density, ``(n,)``."""
        ...

    @property
    def evaluations(self) -> int:
        """Network evaluations for one field."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity as JSON values."""
        ...


@dataclass(frozen=True)
class Declared(Proposal):
    """A proposal that declares why its chain does not sample ``exp(-S)``.

    Args:
        proposal: gives the fields and a log density.
        inexact: what is wrong with them.
    """

    proposal: Proposal
    inexact: str = ""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.proposal.sample(n, generator)

    def log_q(self, phi: Tensor) -> Tensor:
        return self.proposal.log_q(phi)

    @property
    def evaluations(self) -> int:
        return self.proposal.evaluations

    def describe(self) -> dict[str, Any]:
        return self.proposal.describe()


@dataclass(frozen=True)
class SdeWithFlowDensity(Proposal):
    """Fields of the reverse SDE, with the log density that the probability flow gives them.

    Args:
        path: draws the fields.
        flow: gives the density.
    """

    path: Drawable
    flow: LatentProposal

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields, with the density of the flow, which is not the law they are drawn from."""
        phi, _ = self.path.sample(n, generator)
        return phi, self.flow.log_q(phi)

    def log_q(self, phi: Tensor) -> Tensor:
        return self.flow.log_q(phi)

    @property
    def evaluations(self) -> int:
        return self.path.evaluations + self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        return {"name": "sde with flow density", "path": self.path.describe(), "flow": self.flow.describe()}


@dataclass(frozen=True)
class Pool(Proposal):
    """Draws with replacement from a few proposals that are made once.

    Args:
        flow: makes them.
        n: size of the pool.
        seed: the seed of the random numbers that it is made with.
    """

    flow: LatentProposal
    n: int
    seed: int

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        return self.flow.sample(self.n, rng.stream(self.seed, "pool", device=self.flow.device))

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields of the pool, with the density that they had when they were made."""
        phi, log_q = self._members
        which = rng.integers(self.n, (n,), generator, phi.device)
        return phi[which], log_q[which]

    def log_q(self, phi: Tensor) -> Tensor:
        return self.flow.log_q(phi)

    @property
    def evaluations(self) -> int:
        return 0

    def describe(self) -> dict[str, Any]:
        return {"name": "pool", "n": self.n, "seed": self.seed, "flow": self.flow.describe()}


@dataclass(frozen=True)
class Collapsed(Proposal):
    """A flow that misses a part of the fields: those with M < 0, or those with large ``|M|``.

    Args:
        flow: makes the proposals.
        largest: proposals with ``|M|`` above it are dropped; none if it is infinite.
        positive: whether proposals with M < 0 are dropped.
    """

    flow: LatentProposal
    largest: float = math.inf
    positive: bool = False

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields with their log density, up to a constant that Metropolis does not see.

        Raises:
            DmmcError: if hardly any proposal is kept.
        """
        fields, densities, made, missing = list[Tensor](), list[Tensor](), 0, n
        for _ in range(_ATTEMPTS):
            # As many as it takes at the share that was kept so far; the first ones that are kept will do.
            share = max(n - missing, 1) / made if made else 1.0
            batch = min(math.ceil(missing / share), 4 * n)
            phi, log_q = self.flow.sample(batch, generator)
            kept = torch.nonzero(self._keeps(phi)).flatten()[:missing]
            fields.append(phi[kept])
            densities.append(log_q[kept])
            made, missing = made + batch, missing - len(kept)
            if missing == 0:
                return torch.cat(fields), torch.cat(densities)
        raise DmmcError("the collapsed model hardly proposes anything; train the model for longer")

    def _keeps(self, phi: Tensor) -> Tensor:
        M = magnetisation(phi)
        near = M.abs() <= self.largest
        return near & (M >= 0) if self.positive else near

    def log_q(self, phi: Tensor) -> Tensor:
        return self.flow.log_q(phi)

    @property
    def evaluations(self) -> int:
        """Evaluations of the flow for a proposal that is kept."""
        return self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        largest = self.largest if math.isfinite(self.largest) else None
        return {"name": "collapsed", "largest": largest, "positive": self.positive, "flow": self.flow.describe()}


@dataclass(frozen=True)
class Unadjusted(Kernel[State]):
    """Every proposal is accepted: this samples the law of the model, not of the theory.

    Args:
        action: the action of the theory.
        lattice: the lattice that the chains live on.
        proposal: where fields come from.
    """

    action: Action
    lattice: Lattice
    proposal: Drawable

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("unadjusted", inexact="there is no accept/reject step: this is the law of the model")

    @property
    def cost(self) -> dict[str, int]:
        return {"network": self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        return {"name": "unadjusted", "proposal": self.proposal.describe()}

    def initial(self, n: int, generator: torch.Generator) -> State:
        return start_state(self.action, self.lattice, self.proposal.sample(n, generator)[0], generator.device)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        return next(self.steps(state, 1, generator))

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, Info]]:
        """``n`` steps, whose proposals are all made at once."""
        chains = len(state.phi)
        phi = self.proposal.sample(n * chains, generator)[0]
        always = torch.ones(chains, dtype=torch.bool, device=phi.device)
        for part in phi.split(chains):
            yield start_state(self.action, self.lattice, part, generator.device), Info(always, always.double())

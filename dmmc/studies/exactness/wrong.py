"""Recipes that look like exact kernels and are not: for the exactness laboratory (:mod:`dmmc.studies.exactness`).

The proposals are to be wrapped in :class:`Declared`: :class:`dmmc.kernels.independence.Independence` then refuses them
without ``allow_inexact=True``, and marks what it makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State
from dmmc.kernels.independence import Proposal
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import PathProposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Declared:
    """A proposal that declares why its chain does not sample ``exp(-S)``.

    Args:
        proposal: fields and a log density.
        inexact: what is wrong.
    """

    proposal: Proposal
    inexact: str

    exact = False

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As the proposal."""
        return self.proposal.sample(n, generator)

    def log_q(self, phi: Tensor) -> Tensor:
        """As the proposal."""
        return self.proposal.log_q(phi)

    @property
    def evaluations(self) -> int:
        """As the proposal."""
        return self.proposal.evaluations

    def describe(self) -> dict[str, Any]:
        """Of the proposal."""
        return self.proposal.describe()


@dataclass(frozen=True)
class SdeWithFlowDensity:
    """Fields of the reverse SDE, with the log density that the probability flow gives them.

    Args:
        path: draws the fields.
        flow: gives the density.
    """

    path: PathProposal
    flow: FlowProposal

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields, and the density of other ones."""
        phi, _ = self.path.sample(n, generator)
        return phi, self.flow.log_q(phi)

    def log_q(self, phi: Tensor) -> Tensor:
        """That of the flow."""
        return self.flow.log_q(phi)

    @property
    def evaluations(self) -> int:
        """Of both."""
        return self.path.evaluations + self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        """Of both."""
        return {"name": "sde with flow density", "path": self.path.describe(), "flow": self.flow.describe()}


@dataclass(frozen=True)
class Pool:
    """Draws with replacement from a few proposals that were made once.

    Args:
        flow: made them.
        n: how many.
        seed: with which random numbers.
    """

    flow: FlowProposal
    n: int
    seed: int

    def __post_init__(self) -> None:
        generator = rng.stream(self.seed, "pool", device=self.flow.model.device)
        object.__setattr__(self, "_made", self.flow.sample(self.n, generator))

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` of the pool, with the density that they had when they were made."""
        phi, log_q = self._made  # type: ignore[attr-defined]
        which = torch.randint(0, self.n, (n,), generator=generator, device=phi.device)
        return phi[which], log_q[which]

    def log_q(self, phi: Tensor) -> Tensor:
        """That of the flow."""
        return self.flow.log_q(phi)

    evaluations = 0

    def describe(self) -> dict[str, Any]:
        """Size, seed and flow."""
        return {"name": "pool", "n": self.n, "seed": self.seed, "flow": self.flow.describe()}


@dataclass(frozen=True)
class Collapsed:
    """A flow that misses a part of the fields: those with M < 0, or those with large |M|.

    Args:
        flow: proposes.
        largest: proposals with ``|M|`` above it are dropped; infinite for none.
        one_sign: proposals with M < 0 are reversed.
    """

    flow: FlowProposal
    largest: float = math.inf
    one_sign: bool = False

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields with their density, up to a constant, which Metropolis does not see.

        Raises:
            DmmcError: if hardly any is kept.
        """
        fields, densities, missing = list[Tensor](), list[Tensor](), n
        for _ in range(30):
            phi, log_q = self.flow.sample(missing, generator)
            M = phi.flatten(1).mean(1)
            if self.one_sign:  # q(phi) + q(-phi) = 2 q(phi)
                phi = phi * torch.where(M < 0, -1.0, 1.0).to(phi).view(-1, *(1,) * (phi.ndim - 1))
            kept = M.abs() <= self.largest
            fields.append(phi[kept])
            densities.append(log_q[kept])
            missing -= int(kept.sum())
            if missing == 0:
                return torch.cat(fields), torch.cat(densities)
        raise DmmcError("the collapsed model hardly proposes anything; train the model for longer")

    def log_q(self, phi: Tensor) -> Tensor:
        """That of the flow."""
        return self.flow.log_q(phi)

    @property
    def evaluations(self) -> int:
        """Of the flow, for a proposal that is kept."""
        return self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        """What is missing, and the flow."""
        largest = self.largest if math.isfinite(self.largest) else None
        return {"name": "collapsed", "largest": largest, "one_sign": self.one_sign, "flow": self.flow.describe()}


@dataclass(frozen=True)
class Unadjusted:
    """Every proposal is taken: the law of the model, not of the theory."""

    action: Action
    lattice: Lattice
    proposal: Proposal | PathProposal

    @property
    def evaluations(self) -> dict[str, int]:
        """Those of a proposal."""
        return {"network": self.proposal.evaluations}

    def start(self, phi: Tensor) -> State:
        """Chains that begin at ``phi``, ``(n, *lattice)``."""
        return State(phi.double(), self.action(phi.double()))

    def start_from_proposals(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` proposals."""
        return self.start(self.proposal.sample(n, generator)[0])

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps; the statistic ``accepted`` is always true."""
        chains = len(state.phi)
        phi = self.proposal.sample(n * chains, generator)[0]
        for part in phi.split(chains):
            yield self.start(part), {"accepted": torch.ones(chains, dtype=torch.bool, device=phi.device)}

    def describe(self) -> dict[str, Any]:
        """Name, proposal, and that it is inexact."""
        mark = {"inexact": True, "inexact_reason": "there is no accept/reject step: this is the law of the model"}
        return {"name": "unadjusted", "proposal": self.proposal.describe(), **mark}

"""Independence Metropolis: the proposal does not look at the present configuration.

With ``log w = -S(phi) - log q(phi)`` a proposal is accepted with probability ``min(1, w'/w)`` (Tierney, Ann. Statist.
22 (1994) 1701; on lattices Albergo et al., 1904.12072). The state carries the log w of its own configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Kernel, WeightedState, refuse_inexact, start_state
from dmmc.kernels.weighted import WeightedInfo, begun, independent_steps, weigh, weighted
from dmmc.proposals.base import Proposal
from dmmc.proposals.checked import checked_log_q
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Independence(Kernel[WeightedState]):
    """The independence Metropolis kernel.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        proposal: independent fields with their density.
        allow_inexact: accept a proposal whose log q is an estimate; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: Proposal
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        refuse_inexact(self.proposal.inexact, self.allow_inexact)

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("independence", label="diffusion", independent_weights=True, inexact=self.proposal.inexact)

    @property
    def cost(self) -> dict[str, int]:
        return {"network": self.proposal.evaluations}

    @property
    def start_cost(self) -> dict[str, int]:
        """The density of the fields that are given."""
        return {"network": self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        return {"name": "independence", "proposal": self.proposal.describe()}

    @torch.no_grad()
    def initial(self, n: int, generator: torch.Generator) -> WeightedState:
        """Chains that begin at ``n`` proposals.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        return begun(propose(self.action, self.lattice, self.proposal, n, generator))

    @torch.no_grad()
    def start(self, phi: Tensor, generator: torch.Generator) -> WeightedState:
        """Chains that begin at given fields ``(n, *lattice)``.

        Raises:
            DmmcError: if a field, its action or its weight is not finite, or the proposal returns log_q of a wrong
                shape.
        """
        state = start_state(self.action, self.lattice, phi, generator.device)
        return weighted(state.phi, state.S, checked_log_q(self.proposal.log_q(state.phi), len(state.phi)))

    def restore(self, tensors: Mapping[str, Tensor]) -> WeightedState:
        return WeightedState(**tensors)

    def step(self, state: WeightedState, generator: torch.Generator) -> tuple[WeightedState, WeightedInfo]:
        return next(self.steps(state, 1, generator))

    @torch.no_grad()
    def steps(
        self, state: WeightedState, n: int, generator: torch.Generator
    ) -> Iterator[tuple[WeightedState, WeightedInfo]]:
        """``n`` steps. Their proposals do not depend on the chains, so all of them are made at once.

        Raises:
            DmmcError: if the proposal returns fields or log_q of a wrong shape.
        """
        proposals = propose(self.action, self.lattice, self.proposal, n * len(state.phi), generator)
        yield from independent_steps(state, proposals, n, generator)


def propose(action: Action, lattice: Lattice, proposal: Proposal, n: int, generator: torch.Generator) -> WeightedState:
    """``n`` proposals with their weights, all float64; log_w is ``-inf`` where anything is not finite.

    Raises:
        DmmcError: if fields or log_q have a wrong shape.
    """
    phi, log_q = proposal.sample(n, generator)
    return weigh(action, lattice, phi, log_q, n)

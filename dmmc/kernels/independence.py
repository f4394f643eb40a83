"""Independence Metropolis: the proposal does not look at the present configuration.

With ``log w = -S(phi) - log q(phi)`` a proposal is accepted with probability ``min(1, w'/w)`` (Tierney, Ann. Statist.
22 (1994) 1701; on lattices Albergo et al., 1904.12072). The state carries the log w of its own configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import (
    Info,
    Kernel,
    WeightedState,
    log_weight,
    metropolis,
    refuse_inexact,
    start_state,
    uniform,
    valid_or_rejected,
)
from dmmc.proposals.base import Proposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class WeightedInfo(Info):
    """What a step with weights reports, ``(n,)`` each.

    Attributes:
        log_q: log density of the proposal at the state after the step.
        log_w: log weight of the state after the step.
        log_w_proposed: log weight of the proposal; ``-inf`` for one that was not finite and hence rejected.
    """

    log_q: Tensor
    log_w: Tensor
    log_w_proposed: Tensor


@dataclass(frozen=True)
class Independence(Kernel[WeightedState]):
    """The independence Metropolis kernel.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on.
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
        refuse_inexact(self.proposal.inexact, self.allow_inexact)

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("independence", label="diffusion", independent_weights=True, inexact=self.proposal.inexact)

    @property
    def cost(self) -> dict[str, int]:
        return {"network": self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        return {"name": "independence", "proposal": self.proposal.describe()}

    @torch.no_grad()
    def initial(self, n: int, generator: torch.Generator) -> WeightedState:
        """Chains that begin at ``n`` proposals.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        state = propose(self.action, self.lattice, self.proposal, n, generator)
        if not bool(torch.isfinite(state.log_w).all()):
            raise DmmcError("the weight of an initial proposal is not finite; check the model, or start from fields")
        return state

    @torch.no_grad()
    def start(self, phi: Tensor, generator: torch.Generator) -> WeightedState:
        """Chains that begin at given fields ``(n, *lattice)``.

        Raises:
            DmmcError: if a field, its action or its weight is not finite, or the proposal returns log_q of a wrong
                shape.
        """
        state = start_state(self.action, self.lattice, phi)
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
        chains = len(state.phi)
        proposals = propose(self.action, self.lattice, self.proposal, n * chains, generator)
        u = uniform(n * chains, generator, like=proposals.phi)
        for i in range(n):
            here = slice(i * chains, (i + 1) * chains)
            proposed = WeightedState(
                proposals.phi[here], proposals.S[here], proposals.log_q[here], proposals.log_w[here]
            )
            state, info = weighted_step(state, proposed, u[here])
            yield state, info


def propose(action: Action, lattice: Lattice, proposal: Proposal, n: int, generator: torch.Generator) -> WeightedState:
    """``n`` proposals with their weights, all float64; log_w is ``-inf`` where anything is not finite.

    Raises:
        DmmcError: if fields or log_q have a wrong shape.
    """
    phi, log_q = proposal.sample(n, generator)
    return weigh(action, lattice, phi, log_q, n)


def weigh(action: Action, lattice: Lattice, phi: Tensor, log_q: Tensor, n: int) -> WeightedState:
    """Proposed fields with their weights, all float64; log_w is ``-inf`` where anything is not finite.

    Args:
        action: the action that is sampled.
        lattice: the lattice of the fields.
        phi: what the proposal returned as ``n`` fields.
        log_q: what it returned as their log density.
        n: how many there should be.

    Raises:
        DmmcError: if fields or log_q have a wrong shape.
    """
    if not isinstance(phi, Tensor) or phi.shape != (n, *lattice.shape):
        got = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
        raise DmmcError(f"the proposal must return fields of shape {(n, *lattice.shape)}; got {got}")
    phi, log_q = phi.to(torch.float64), checked_log_q(log_q, n).to(torch.float64)
    S = action(phi)
    return WeightedState(phi, S, log_q, valid_or_rejected(log_weight(S, log_q), phi))


def weighted(phi: Tensor, S: Tensor, log_q: Tensor) -> WeightedState:
    """The state of chains at given fields, actions and densities.

    Raises:
        DmmcError: if a weight is not finite.
    """
    log_q = log_q.to(S)
    log_w = log_weight(S, log_q)
    if not bool(torch.isfinite(log_w).all()):
        raise DmmcError("the weight of an initial configuration is not finite; start from other fields")
    return WeightedState(phi, S, log_q, log_w)


WeightedT = TypeVar("WeightedT", bound=WeightedState)


def weighted_step(state: WeightedT, proposed: WeightedT, u: Tensor) -> tuple[WeightedT, WeightedInfo]:
    """Metropolis with the ratio of the weights; ``u`` are random numbers from [0, 1), ``(n,)``."""
    new, accepted, rate = metropolis(state, proposed, proposed.log_w - state.log_w, u)
    return new, WeightedInfo(accepted, rate, new.log_q, new.log_w, proposed.log_w)


def checked_log_q(log_q: Tensor, n: int) -> Tensor:
    """``log_q``, if it has shape ``(n,)``.

    Raises:
        DmmcError: if it has not.
    """
    if not isinstance(log_q, Tensor) or log_q.shape != (n,):
        got = tuple(log_q.shape) if isinstance(log_q, Tensor) else type(log_q).__name__
        raise DmmcError(f"the proposal must report log_q of shape ({n},), one number per field; got {got}")
    return log_q

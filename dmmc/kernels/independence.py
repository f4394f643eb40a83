"""Independence Metropolis: the proposal does not look at the present configuration.

With ``log w = -S(phi) - log q(phi)`` a proposal is accepted with ``min(1, w'/w)`` (Tierney, Ann. Statist. 22 (1994)
1701; on lattices Albergo et al., 1904.12072). The state carries the log w of its own configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, inexact_mark, start_state
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


class Proposal(Protocol):
    """Independent fields with a density that is computed, not estimated.

    One that does estimate it says so: it has an attribute ``exact = False``, and the reason in ``inexact``.
    """

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)`` and their log density ``(n,)``."""
        ...

    def log_q(self, phi: Tensor) -> Tensor:
        """Log density ``(n,)`` of given fields ``(n, *lattice)``."""
        ...

    @property
    def evaluations(self) -> int:
        """Network evaluations (with trace) of one proposal."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity, recorded with a chain and compared on resumption."""
        ...


@dataclass(frozen=True)
class Independence:
    """The independence Metropolis kernel.

    Args:
        action: the target.
        lattice: where.
        proposal: where proposals come from.
        allow_inexact: take a proposal whose log q is an estimate; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: Proposal
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        inexact_mark(self.proposal, self.allow_inexact)

    @property
    def evaluations(self) -> dict[str, int]:
        """Those of a proposal."""
        return {"network": self.proposal.evaluations}

    def start(self, phi: Tensor) -> State:
        """Chains that begin at given fields.

        Args:
            phi: ``(n, *lattice)``.

        Raises:
            DmmcError: if a field, its action or its weight is not finite.
        """
        state = start_state(self.action, self.lattice, phi)
        log_q = self._checked(self.proposal.log_q(phi), len(phi)).to(state.S)
        log_w = -state.S - log_q
        if not bool(torch.isfinite(log_w).all()):
            raise DmmcError("the weight of an initial configuration is not finite; start from other fields")
        return State(state.phi, state.S, log_q, log_w)

    def start_from_proposals(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` fields from the proposal.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        phi, log_q, S, log_w = self.propose(n, generator)
        if not bool(torch.isfinite(log_w).all()):
            raise DmmcError("the weight of an initial proposal is not finite; check the model, or start from fields")
        return State(phi, S, log_q, log_w)

    @torch.no_grad()
    def propose(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``n`` proposals: phi, log_q, S, log_w, all float64; log_w is ``-inf`` where anything is not finite.

        Raises:
            DmmcError: if fields or log_q have a wrong shape.
        """
        phi, log_q = self.proposal.sample(n, generator)
        if not isinstance(phi, Tensor) or phi.shape != (n, *self.lattice.shape):
            found = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
            raise DmmcError(f"the proposal must return fields of shape {(n, *self.lattice.shape)}; got {found}")
        phi, log_q = phi.to(torch.float64), self._checked(log_q, n).to(torch.float64)
        S = self.action(phi)
        log_w = -S - log_q
        valid = torch.isfinite(log_w) & torch.isfinite(phi).flatten(1).all(1)
        return phi, log_q, S, torch.where(valid, log_w, -torch.inf)

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps, with all their proposals made at once.

        Statistics, ``(n_chains,)``: ``accepted``; ``log_q`` and ``log_w`` of the state after the step;
        ``log_w_proposed`` of the proposal (``-inf`` for one that was not finite and hence rejected).

        Raises:
            DmmcError: if ``state`` has no log_w, or the proposal returns log_q of a wrong shape.
        """
        if state.log_w is None or state.log_q is None:
            raise DmmcError("this state has no log_w; make it with Independence.start")
        chains = len(state.phi)
        phi, log_q, S, log_w = self.propose(n * chains, generator)
        uniform = torch.rand(n * chains, generator=generator, dtype=torch.float64, device=phi.device)
        for i in range(n):
            here = slice(i * chains, (i + 1) * chains)
            accepted = uniform[here].log() < log_w[here] - state.log_w
            keep = accepted.view(-1, *(1,) * self.lattice.dim)
            state = State(
                phi=torch.where(keep, phi[here], state.phi),
                S=torch.where(accepted, S[here], state.S),
                log_q=torch.where(accepted, log_q[here], state.log_q),
                log_w=torch.where(accepted, log_w[here], state.log_w),
            )
            assert state.log_q is not None and state.log_w is not None
            yield (
                state,
                {"accepted": accepted, "log_q": state.log_q, "log_w": state.log_w, "log_w_proposed": log_w[here]},
            )

    def describe(self) -> dict[str, Any]:
        """Name and proposal; whether and why the chain is inexact, where it is."""
        mark = inexact_mark(self.proposal, self.allow_inexact)
        return {"name": "independence", "proposal": self.proposal.describe(), **mark}

    @staticmethod
    def _checked(log_q: Tensor, n: int) -> Tensor:
        if not isinstance(log_q, Tensor) or log_q.shape != (n,):
            found = tuple(log_q.shape) if isinstance(log_q, Tensor) else type(log_q).__name__
            raise DmmcError(f"the proposal must report log_q of shape ({n},), one a field; got {found}")
        return log_q

"""Path Metropolis: whole reverse-diffusion paths as proposals, exact with any network and any number of steps.

In the notation of :mod:`dmmc.proposals.path`, take the path as the state, with ``exp(-S(phi_0)) prod F`` as its target: summed
over phi_1 ... phi_K it is exp(-S). A path proposed from the prior ``Normal(0, C + v_K)`` and R is accepted with
``min(1, w'/w)``,

    log w = -S(phi_0) + sum_k log F(phi_{k+1} | phi_k) - log prior(phi_K) - sum_k log R(phi_k | phi_{k+1}).

The state keeps the weight of the path that it came with. There is no divergence and no integrator error: whatever the
reverse kernels are, the chain is exact, to rounding (the ratio of the two measures: Sohl-Dickstein et al., 1503.03585).

**Partial refresh.** :class:`PathRefresh` noises the field up to some level only, and denoises it from there. Given
phi_J the up and the down path exchange their roles, so that it is accepted with the ratio of
``log w = -S(phi_0) + sum_{k<J} (log F - log R)`` of the two paths. Nothing is carried along: the up path is drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, start_state
from dmmc.kernels.independence import Independence
from dmmc.proposals.path import PathProposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Path:
    """Independence Metropolis over paths.

    Args:
        action: the target.
        lattice: where.
        proposal: where paths come from.
    """

    action: Action
    lattice: Lattice
    proposal: PathProposal

    @property
    def evaluations(self) -> dict[str, int]:
        """Those of a path."""
        return {"network": self.proposal.evaluations}

    def start(self, phi: Tensor) -> State:
        """Chains that begin at given fields ``(n, *lattice)``; the first step draws a path to each, and its weight.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    def start_from_proposals(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` paths from the proposal.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        return self._independence.start_from_proposals(n, generator)

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps, with all their proposals made at once.

        Statistics as those of :meth:`dmmc.kernels.independence.Independence.steps`; ``log_q`` is that of the path.

        Raises:
            DmmcError: if the weight of a state without one turns out not to be finite.
        """
        if state.log_w is None:
            log_q = self.proposal.draw_log_q(state.phi, generator)
            log_w = -state.S - log_q
            if not bool(torch.isfinite(log_w).all()):
                raise DmmcError("the weight of an initial configuration is not finite; start from other fields")
            state = State(state.phi, state.S, log_q, log_w)
        yield from self._independence.steps(state, n, generator)

    def describe(self) -> dict[str, Any]:
        """Name and proposal."""
        return {"name": "path", "proposal": self.proposal.describe()}

    @property
    def _independence(self) -> Independence:
        # A proposal but for log q of given fields, which only Independence.start would ask for.
        return Independence(self.action, self.lattice, self.proposal)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PathRefresh:
    """Partial refresh: noise the field up to a level, denoise it, accept with the ratio of the two paths.

    Args:
        action: the target.
        lattice: where.
        proposal: the whole path.
        level: noise level in (0, 1]; small ones are accepted more often and change less.

    Raises:
        DmmcError: if the level is not in the path.
    """

    action: Action
    lattice: Lattice
    proposal: PathProposal
    level: float

    def __post_init__(self) -> None:
        self.proposal.up_to(self.level)

    @property
    def evaluations(self) -> dict[str, int]:
        """One way up, one way down."""
        return {"network": 2 * self.proposal.up_to(self.level).n_steps}

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    @torch.no_grad()
    def _step(self, path: PathProposal, state: State, generator: torch.Generator) -> tuple[State, dict[str, Tensor]]:
        sign = path.draw_sign(state.phi, generator)
        column = sign.view(-1, *(1,) * self.lattice.dim)
        top, up = path.noise(state.phi * column, generator)
        phi, down = path.denoise(top, generator)
        phi = phi * column
        S = self.action(phi)
        log_ratio = (-S - down) - (-state.S - up)
        if path.model.two_sector:
            log_ratio = log_ratio + path.log_sign(phi, sign) - path.log_sign(state.phi, sign)
        valid = torch.isfinite(log_ratio) & torch.isfinite(phi).flatten(1).all(1)
        log_ratio = torch.where(valid, log_ratio, -torch.inf)
        u = torch.rand(len(phi), generator=generator, dtype=torch.float64, device=phi.device)
        accepted = u.log() < log_ratio
        new = State(torch.where(accepted.view_as(column), phi, state.phi), torch.where(accepted, S, state.S))
        return new, {"accepted": accepted, "log_w_ratio": log_ratio}

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps.

        Statistics, ``(n_chains,)``: ``accepted`` and ``log_w_ratio``, the logarithm of what the acceptance is the
        minimum of 1 and (``-inf`` where the proposal was not finite). In equilibrium ``<exp(log_w_ratio)> = 1``.
        """
        path = self.proposal.up_to(self.level)
        for _ in range(n):
            state, statistics = self._step(path, state, generator)
            yield state, statistics

    def describe(self) -> dict[str, Any]:
        """Name, level and proposal."""
        return {"name": "path_refresh", "level": self.level, "proposal": self.proposal.describe()}

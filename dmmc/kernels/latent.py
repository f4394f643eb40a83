"""Latent Metropolis: a partial refresh in the Gaussian latent space of a proposal.

A proposal T maps standard normal latents z to ``phi = T z`` of density q. The kernel rotates z into fresh noise xi,

    z' = cos(theta) z + sin(theta) xi,     phi' = T z',     accepted with probability min(1, w'/w),

with ``log w = -S(phi) - log q(phi)``. The rotation is reversible with respect to ``Normal(0, 1)``, and the target has
density w with respect to it, hence the acceptance (a preconditioned Crank-Nicolson step: Cotter, Roberts, Stuart,
White, Statist. Sci. 28 (2013) 424). At ``theta = pi/2`` this is :class:`dmmc.kernels.independence.Independence`, bit
for bit. Small angles are accepted at any volume, and no gradient is needed. What a rotation is, the proposal decides:
see :meth:`dmmc.proposals.base.LatentProposal.rotate`.

**What is exact.** A state carries the log q that came with its own latents. Fields that come from elsewhere are pulled
back by the inverse of the map; the log q of the two directions differ by the integrator error delta of
:mod:`dmmc.proposals.certificate`, which bounds the effect. Chains that begin at proposals have no such mismatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Kernel, WeightedState, advance, refuse_inexact, start_state, uniform
from dmmc.kernels.weighted import (
    WeightedInfo,
    begun,
    independent_steps,
    weigh,
    weighted,
    weighted_step,
)
from dmmc.proposals.base import LatentProposal
from dmmc.proposals.checked import checked_log_q
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.lattice import Lattice

LEAST_TUNING = 10
"""Fewest steps that tune a kernel."""

TARGET = 0.4
"""The acceptance that kernels are tuned to by default.

For M^2 blocks cost the same at 0.2 to 0.5 within the errors, and more at 0.6 (docs/large_volumes.md).
"""

FIRST_SHARE = 0.25
"""The share at which tuning begins where nothing else is known."""


@dataclass(frozen=True)
class LatentState(WeightedState):
    """A state that also carries the latents of its fields.

    Attributes:
        latent: what the proposal makes ``phi`` of, ``(n, ...)``, in the type of the proposal.
    """

    latent: Tensor


@dataclass(frozen=True)
class Latent(Kernel[LatentState]):
    """The latent Metropolis kernel.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        proposal: the map from latents to fields.
        theta: angle of the rotation, ``0 < theta <= pi/2``; :meth:`tune` adapts it where all latents move.
        target_acceptance: the acceptance that :meth:`tune` aims at, between 0 and 1; None to tune nothing.
        allow_inexact: accept a proposal whose log q is an estimate; the chain is then marked inexact everywhere.
        share: fraction of the sites whose latents move, above 0; below 1 it is what :meth:`tune` adapts.

    Raises:
        DmmcError: if a number is out of its range, or the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: LatentProposal
    theta: float = math.pi / 2
    target_acceptance: float | None = TARGET
    allow_inexact: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        if not 0 < self.theta <= math.pi / 2:
            raise DmmcError(f"theta must lie between 0 and pi/2 (an independent proposal), got {self.theta}")
        if not 0 < self.share <= 1:
            raise DmmcError(f"the share of the sites that move must lie above 0 and not above 1, got {self.share}")
        if self.target_acceptance is not None and not 0 < self.target_acceptance < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        refuse_inexact(self.proposal.inexact, self.allow_inexact)

    @property
    def _independent(self) -> bool:
        return self.theta == math.pi / 2 and self.share == 1

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("latent", independent_weights=self._independent, inexact=self.proposal.inexact)

    @property
    def cost(self) -> dict[str, int]:
        return {"network": self.proposal.evaluations}

    @property
    def start_cost(self) -> dict[str, int]:
        """The way back to the latents of the fields that are given."""
        return {"network": self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        part = {} if self.share == 1 else {"share": self.share}
        return {"name": "latent", "theta": self.theta, **part, "proposal": self.proposal.describe()}

    def initial(self, n: int, generator: torch.Generator) -> LatentState:
        """Chains that begin at ``n`` proposals.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        return begun(self._pushed(self.proposal.latents(n, generator), generator))

    @torch.no_grad()
    def start(self, phi: Tensor, generator: torch.Generator) -> LatentState:
        """Chains that begin at given fields ``(n, *lattice)``, whose latents are found by the inverse map.

        Where several latents belong to a field, ``generator`` draws one of them, which is exact.

        Raises:
            DmmcError: if a field, its action or its weight is not finite.
        """
        state = start_state(self.action, self.lattice, phi, generator.device)
        latent, log_q = self.proposal.pull(state.phi, generator)
        given = weighted(state.phi, state.S, checked_log_q(log_q, len(phi)))
        return LatentState(**given.tensors(), latent=latent)

    def restore(self, tensors: Mapping[str, Tensor]) -> LatentState:
        return LatentState(**tensors)

    def tune(self, state: LatentState, generator: torch.Generator, n_steps: int = 60) -> tuple[Latent, LatentState]:
        """Adapt the angle, or the share where it is below 1, while the chains thermalise.

        Robbins-Monro on ``log tan(theta/2)`` or on ``log share``, driven by the acceptance averaged over the chains,
        with the second half of the iterates averaged. Where independent proposals are accepted often enough, the angle
        becomes pi/2, or the share 1, exactly. Where they are not, moves that change much and are accepted seldom carry
        the chains farther than small ones that are accepted often, down to an acceptance of about 0.2 to 0.4. (A random
        walk of small steps is fastest at 0.23.) The mean squared jump of an observable would be a bad guide: it does
        not notice chains that are stuck at large weights, which are what makes large moves slow.

        Args:
            state: where the chains are.
            generator: source of randomness.
            n_steps: steps to spend, at least 10 for tuning; 50 to 100 are plenty.

        Raises:
            DmmcError: if ``n_steps`` is too small.
        """
        target = self.target_acceptance
        if target is None:
            return self, advance(self, state, n_steps, generator)
        if n_steps < LEAST_TUNING:
            raise DmmcError(f"a latent kernel needs at least {LEAST_TUNING} steps of tuning, got n_steps = {n_steps}")
        x, tail = math.log(math.tan(self.theta / 2) if self.share == 1 else self.share), []
        for t in range(n_steps):
            state, info = self._moved_by(x).step(state, generator)
            acceptance = float(info.acceptance_rate.mean())
            x = min(0.0, x + 2 * (acceptance - target) / math.sqrt(t + 1))
            if 2 * t >= n_steps:
                tail.append(x)
        return self._moved_by(sum(tail) / len(tail)), state

    def _moved_by(self, x: float) -> Latent:
        """The kernel with another share or angle, of which ``x`` is the logarithm: the largest one is at 0."""
        if self.share < 1:
            return replace(self, share=math.exp(x))
        return replace(self, theta=2 * math.atan(math.exp(x)) if x < 0 else math.pi / 2)

    def step(self, state: LatentState, generator: torch.Generator) -> tuple[LatentState, WeightedInfo]:
        return next(self.steps(state, 1, generator))

    @torch.no_grad()
    def steps(
        self, state: LatentState, n: int, generator: torch.Generator
    ) -> Iterator[tuple[LatentState, WeightedInfo]]:
        """``n`` steps. At ``theta = pi/2`` proposals do not depend on the chains, and all of them are made at once.

        Raises:
            DmmcError: if the proposal returns fields or log_q of a wrong shape.
        """
        chains = len(state.phi)
        if not self._independent:
            for _ in range(n):
                moved = self.proposal.rotate(state.latent, self.theta, generator, self.share)
                proposed = self._pushed(moved, generator)
                state, info = weighted_step(state, proposed, uniform(chains, generator, like=proposed.phi))
                yield state, info
            return
        proposals = self._pushed(self.proposal.latents(n * chains, generator), generator)
        yield from independent_steps(state, proposals, n, generator)

    @torch.no_grad()
    def _pushed(self, latent: Tensor, generator: torch.Generator) -> LatentState:
        phi, log_q = self.proposal.push(latent, generator)
        proposals = weigh(self.action, self.lattice, phi, log_q, len(latent))
        return LatentState(**proposals.tensors(), latent=latent)

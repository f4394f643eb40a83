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
from dmmc.kernels.base import Kernel, WeightedState, refuse_inexact, start_state, uniform
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

_LEAST_TUNING = 10


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
        theta: angle of the rotation, ``0 < theta <= pi/2``; :meth:`tune` adapts it.
        target_acceptance: the acceptance that :meth:`tune` aims at, between 0 and 1.
        allow_inexact: accept a proposal whose log q is an estimate; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if a number is out of its range, or the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: LatentProposal
    theta: float = math.pi / 2
    target_acceptance: float = 0.4
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        if not 0 < self.theta <= math.pi / 2:
            raise DmmcError(f"theta must lie between 0 and pi/2 (an independent proposal), got {self.theta}")
        if not 0 < self.target_acceptance < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        refuse_inexact(self.proposal.inexact, self.allow_inexact)

    @property
    def _independent(self) -> bool:
        return self.theta == math.pi / 2

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
        return {"name": "latent", "theta": self.theta, "proposal": self.proposal.describe()}

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
        """Adapt the angle while the chains thermalise.

        Robbins-Monro on ``log tan(theta/2)``, driven by the acceptance averaged over the chains, with the second half
        of the iterates averaged. Where independent proposals are accepted often enough, the angle becomes pi/2
        exactly. Where they are not, large angles with little acceptance move the chains faster than small angles with
        much, down to an acceptance of about 0.2 to 0.4. (At small angles the chain is a random walk, for which 0.23 is
        best.)

        Args:
            state: where the chains are.
            generator: source of randomness.
            n_steps: steps to spend, at least 10; 50 to 100 are plenty.

        Raises:
            DmmcError: if ``n_steps`` is too small.
        """
        if n_steps < _LEAST_TUNING:
            raise DmmcError(f"the angle needs at least {_LEAST_TUNING} steps of tuning, got n_steps = {n_steps}")
        x, tail = math.log(math.tan(self.theta / 2)), []
        for t in range(n_steps):
            state, info = replace(self, theta=_angle(x)).step(state, generator)
            acceptance = float(info.acceptance_rate.mean())
            x = min(0.0, x + 2 * (acceptance - self.target_acceptance) / math.sqrt(t + 1))
            if 2 * t >= n_steps:
                tail.append(x)
        return replace(self, theta=_angle(sum(tail) / len(tail))), state

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
                proposed = self._pushed(self.proposal.rotate(state.latent, self.theta, generator), generator)
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


def _angle(x: float) -> float:
    return 2 * math.atan(math.exp(x)) if x < 0 else math.pi / 2

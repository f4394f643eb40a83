"""Latent Metropolis: a partial refresh in the Gaussian latent space of the flow.

The flow T maps standard normal latent fields psi to ``phi = T psi`` of density q. The proposal rotates psi into fresh
noise xi,

    psi' = cos(theta) psi + sin(theta) xi,     phi' = T psi',     accepted with min(1, w'/w),

``log w = -S(phi) - log q(phi)``. The rotation is reversible with respect to ``Normal(0, 1)``, and the target has
density w there, hence the acceptance (a preconditioned Crank-Nicolson step: Cotter, Roberts, Stuart, White, Statist.
Sci. 28 (2013) 424). ``theta = pi/2`` is :class:`dmmc.kernels.independence.Independence`, bit for bit. Small angles are
accepted at any volume, and no gradient is needed.

**Two sectors.** With ``phi = sigma T psi``, sigma = +-1 a fair coin, phi has the group average
``q(phi) = [q_+(phi) + q_+(-phi)] / 2`` as its density, and two pairs (psi, sigma) behind it. Let the target give each
pair its posterior probability, ``P(sigma | phi) = q_+(sigma phi) / 2 q(phi)``. Its density with respect to
``Normal(0, 1) x coin`` is then

    p(phi) P(sigma | phi) / (q_+(sigma phi) / 2) = p(phi) / q(phi) = w(phi),

with the group average in it: the same weight, the same acceptance. psi is rotated, sigma is tossed anew. Only psi must
be remembered. A field that comes from elsewhere gets a pair by a draw from ``P(sigma | phi)``, which is exact.

**What is exact.** A state carries the log q that came with its own latent. Fields that come from elsewhere are pulled
back by the inverse flow; the log q of the two directions differ by the integrator error delta of :mod:`dmmc.proposals.flow`,
which bounds the effect. Chains of one sector that begin at proposals have no such mismatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, inexact_mark, start_state
from dmmc.kernels.independence import Independence
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Latent:
    """The latent Metropolis kernel.

    Args:
        action: the target.
        lattice: where.
        proposal: the flow.
        theta: angle of the rotation, ``0 < theta <= pi/2``; :func:`warm_up` tunes it.
        allow_inexact: take a flow whose log q is an estimate; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if ``theta`` is out of its range, or the proposal not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: FlowProposal
    theta: float = math.pi / 2
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.theta <= math.pi / 2:
            raise DmmcError(f"theta must lie between 0 and pi/2 (an independent proposal), got {self.theta}")
        inexact_mark(self.proposal, self.allow_inexact)

    @property
    def evaluations(self) -> dict[str, int]:
        """Those of a proposal."""
        return {"network": self.proposal.evaluations}

    def start(self, phi: Tensor) -> State:
        """Chains that begin at given fields.

        With two sectors, weights and latents are found by the first step: a sign has to be drawn.

        Args:
            phi: ``(n, *lattice)``.

        Raises:
            DmmcError: if a field, its action or its weight is not finite.
        """
        state = start_state(self.action, self.lattice, phi)
        return state if self.proposal.model.two_sector else self._completed(state, None)

    def start_from_proposals(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` fields from the proposal.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        flow = _GivenNoise.of(self.proposal, self.proposal.latents(n, generator))
        return replace(self._independence(flow).start_from_proposals(n, generator), latent=flow.latent)

    @torch.no_grad()
    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps.

        Statistics, ``(n_chains,)``: ``accepted``; ``log_q`` and ``log_w`` of the state after the step;
        ``log_w_proposed`` of the proposal (``-inf`` for one that was not finite and hence rejected). The proposals
        are distributed as independent ones only if ``theta = pi/2``.
        """
        if state.latent is None or state.log_w is None:
            state = self._completed(state, generator)
        chains, independent = len(state.phi), self.theta == math.pi / 2
        at_once = n if independent else 1
        for step in range(n):
            i = step % at_once
            if i == 0:
                latent = self.proposal.latents(at_once * chains, generator)
                if not independent:
                    assert state.latent is not None
                    latent = math.cos(self.theta) * state.latent + math.sin(self.theta) * latent
                kernel = self._independence(_GivenNoise.of(self.proposal, latent))
                phi, log_q, S, log_w = kernel.propose(len(latent), generator)
                uniform = torch.rand(len(latent), generator=generator, dtype=torch.float64, device=phi.device)
            here = slice(i * chains, (i + 1) * chains)
            assert state.log_w is not None
            accepted = uniform[here].log() < log_w[here] - state.log_w
            proposed = State(phi[here], S[here], log_q[here], log_w[here], latent[here])
            state = _choose(accepted, proposed, state)
            assert state.log_q is not None and state.log_w is not None
            yield (
                state,
                {"accepted": accepted, "log_q": state.log_q, "log_w": state.log_w, "log_w_proposed": log_w[here]},
            )

    def describe(self) -> dict[str, Any]:
        """Name, angle and proposal; whether and why the chain is inexact, where it is."""
        mark = inexact_mark(self.proposal, self.allow_inexact)
        return {"name": "latent", "theta": self.theta, "proposal": self.proposal.describe(), **mark}

    def _independence(self, flow: FlowProposal) -> Independence:
        return Independence(self.action, self.lattice, flow, self.allow_inexact)

    @torch.no_grad()
    def _completed(self, state: State, generator: torch.Generator | None) -> State:
        """Latent and weights of fields that have none; the generator draws signs, where there are two sectors."""
        flow = _GivenNoise.of(self.proposal)
        phi = state.phi.to(dtype=flow.model.dtype, device=flow.model.device)
        latent, log_q = flow.pull(phi, generator)
        if flow.model.two_sector:
            mirrored, other = flow.pull(-phi, generator)
            u = torch.rand(len(phi), generator=generator, dtype=torch.float64, device=phi.device)
            plus = (u < torch.sigmoid(log_q - other)).view(-1, *(1,) * self.lattice.dim)
            latent = torch.where(plus, latent, mirrored)
            log_q = torch.logaddexp(log_q, other) - math.log(2)
        log_q = log_q.to(state.S)
        log_w = -state.S - log_q
        if not bool(torch.isfinite(log_w).all()):
            raise DmmcError("the weight of an initial configuration is not finite; start from other fields")
        return State(state.phi, state.S, log_q, log_w, latent)


def warm_up(
    kernel: Latent, state: State, n_steps: int, generator: torch.Generator, target_acceptance: float = 0.4
) -> tuple[Latent, State]:
    """Tune the angle while the chains thermalise; discard these steps.

    Robbins-Monro on ``log tan(theta/2)``, driven by ``min(1, w'/w)`` averaged over the chains, with the second half of
    the iterates averaged. The kernel returned is frozen. Where independent proposals are accepted often enough its
    angle is pi/2 exactly; where they are not, less acceptance and larger angles pay down to about 0.2 to 0.4 (at small
    angles the chain is a random walk, for which 0.23 is best).

    Args:
        kernel: gives the first angle.
        state: where the chains are.
        n_steps: steps to spend, at least 10; 50 to 100 are plenty.
        generator: source of randomness.
        target_acceptance: between 0 and 1.

    Returns:
        The tuned kernel, and the chains after ``n_steps`` steps.

    Raises:
        DmmcError: if ``n_steps`` or ``target_acceptance`` is out of its range.
    """
    if n_steps < 10:
        raise DmmcError(f"warm_up needs n_steps of at least 10, got {n_steps}")
    if not 0 < target_acceptance < 1:
        raise DmmcError(f"target_acceptance must lie between 0 and 1, got {target_acceptance}")
    x, tail = math.log(math.tan(kernel.theta / 2)), []
    if state.latent is None or state.log_w is None:
        state = kernel._completed(state, generator)
    for t in range(n_steps):
        assert state.log_w is not None
        before = state.log_w
        trial = replace(kernel, theta=_angle(x))
        state, statistics = next(trial.steps(state, 1, generator))
        acceptance = float(torch.exp(statistics["log_w_proposed"] - before).clamp(max=1.0).mean())
        x = min(0.0, x + 2 * (acceptance - target_acceptance) / math.sqrt(t + 1))
        if 2 * t >= n_steps:
            tail.append(x)
    return replace(kernel, theta=_angle(sum(tail) / len(tail))), state


def _angle(x: float) -> float:
    return 2 * math.atan(math.exp(x)) if x < 0 else math.pi / 2


def _choose(accepted: Tensor, proposed: State, state: State) -> State:
    """The state whose chains are ``proposed`` where accepted."""
    new = proposed.tensors()
    return State(
        **{
            name: torch.where(accepted.view(-1, *(1,) * (old.ndim - 1)), new[name], old)
            for name, old in state.tensors().items()
        }
    )


@dataclass(frozen=True)
class _GivenNoise(FlowProposal):
    """A flow whose noise is given instead of drawn."""

    latent: Tensor | None = None

    @classmethod
    def of(cls, flow: FlowProposal, latent: Tensor | None = None) -> _GivenNoise:
        return cls(**{field.name: getattr(flow, field.name) for field in fields(flow)}, latent=latent)

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        assert self.latent is not None and len(self.latent) == n
        return self.latent

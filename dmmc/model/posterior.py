"""Regression targets for the interaction, with their noise averaged down over the posterior.

The network learns ``N(phi_s, s) = E[grad S_int(phi_0) | phi_s]``, ``S_int = S - 1/2 phi C^-1 phi``. Two functions
of a pair (phi_0, phi_s) have this mean:

* ``y_T = grad S(phi_0) - C^-1 phi_0``            (target score identity)
* ``y_D = -P^-1 (phi_0 - D phi_s)``               (denoising score matching)

and ``y_T - y_D`` is the gradient of the posterior's own action ``U = S(phi_0) + |phi_0 - phi_s|^2 / 2v``: a control
variate. The mixture ``y_T - a (y_T - y_D)`` has the least variance for ``a = <y_T grad U> / <|grad U|^2>``, which by
partial integration is ``a = k / (k + 1/P)`` with ``k(p) = <S_int''>(p) = <|grad S(p)|^2> - 1/C(p)``, over phi_s.

A pair gives one draw of a noisy target. But phi_0 is *already* a draw from the posterior of phi_s, so that a Markov
chain which starts there and leaves the posterior invariant is in equilibrium from its first step. The average of the
target along it is unbiased and has less noise, at the cost of evaluations of the action alone. The chain is Hybrid
Monte Carlo whose Gaussian part, of precision ``1/P + k``, is integrated exactly as a rotation; the kicks come only
from what the curvature k leaves of S_int. For fields that interact weakly or are nearly denoised, a quarter turn
makes a new draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmmc.core.rng import integers, normal, uniform
from dmmc.model.reference import GaussianReference, posterior_covariance, wiener
from dmmc.theory import evaluation
from dmmc.theory.actions import Action, differentiable


def mean_curvature(reference: GaussianReference, forces: Tensor) -> Tensor:
    """``k(p) = <S_int''>(p) = <|grad S(p)|^2> - 1/C(p)`` of each stored mode (a Schwinger-Dyson equation).

    Args:
        reference: the Gaussian reference, for C.
        forces: grad S of the fields of the ensemble, ``(n, *lattice)``.

    Returns:
        ``half``, float64, not negative.
    """
    lattice = reference.lattice
    total = torch.zeros(len(lattice.orbit_modes), dtype=torch.float64, device=forces.device)
    for chunk in forces.split(evaluation.CHUNK):
        total += lattice.two_point(chunk.double()).sum(0) / lattice.n_components
    return lattice.spread((total / len(forces) - 1 / reference.propagator.to(total)).clamp(min=0))


LAMBDA = 0.1931833275037836
"""Parameter of the second-order Omelyan integrator, which has less error than two leapfrog steps.

Omelyan, Mryglod, Folk, Comput. Phys. Commun. 151 (2003) 272.
"""

LONGEST_ARC = 2.0
"""Longest rotation in a trajectory: a little more than a quarter turn, since the softest modes move slowest."""


@dataclass(frozen=True)
class PosteriorSampler:
    """Targets averaged along a posterior chain.

    Args:
        reference: the Gaussian reference.
        action: the action S of the ensemble, with a gradient. With None, for data alone, there is no chain and y_D is
            the target.
        curvature: ``k(p)`` of :func:`mean_curvature`, ``half``; zero without an action.
        trajectories: length of the chain; with 0 only the pair (phi_0, phi_s) itself is used.
        n_steps: integrator steps in a trajectory, of two kicks each.
        angles: rotation in a step at equally spaced noise levels from 0 to 1 (see
            :meth:`dmmc.model.reference.GaussianReference.level`), at most ``LONGEST_ARC / n_steps``; :func:`tune` finds
            them.
    """

    reference: GaussianReference
    action: Action | None
    curvature: Tensor
    trajectories: int = 16
    n_steps: int = 3
    angles: tuple[float, ...] = ()

    @classmethod
    def measure(
        cls,
        reference: GaussianReference,
        action: Action | None,
        phi: Tensor,
        trajectories: int = 16,
        n_steps: int = 3,
        forces: Tensor | None = None,
    ) -> PosteriorSampler:
        """The sampler for an ensemble ``phi`` ``(n, *lattice)``, before :func:`tune`.

        An action without a gradient teaches no more than none at all: the target is then y_D. ``forces``, of the
        ensemble, are evaluated here if they are not given.
        """
        action = differentiable(action)
        if action is None:
            none = torch.zeros(reference.lattice.half, dtype=torch.float64, device=phi.device)
            return cls(reference, None, none, 0, n_steps)
        if forces is None:
            forces = evaluation.stored_forces(action, phi)
        return cls(reference, action, mean_curvature(reference, forces), trajectories, n_steps)

    @property
    def largest_angle(self) -> float:
        """The largest rotation in a step, ``LONGEST_ARC / n_steps``."""
        return LONGEST_ARC / self.n_steps

    def angle(self, level: Tensor) -> Tensor:
        """Rotation in a step at noise levels ``(G,)``, interpolated linearly in the table ``angles``."""
        if not self.angles:
            return torch.full_like(level, self.largest_angle)
        table = torch.tensor(self.angles, dtype=level.dtype, device=level.device)
        position = level.clamp(0, 1) * (len(table) - 1)
        low = position.floor().clamp(max=len(table) - 2).long()
        return torch.lerp(table[low], table[low + 1], position - low)

    @torch.no_grad()
    def targets(
        self, phi0: Tensor, level: Tensor, generator: torch.Generator, forces: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add noise to fields, and return the noisy fields with their regression targets.

        Args:
            phi0: fields ``(G, n, *lattice)`` from the target distribution.
            level: noise levels ``(G,)`` in (0, 1].
            generator: source of randomness.
            forces: dS/dphi of the fields, of the shape of ``phi0``, where they are known. Without trajectories the
                action is not called then.

        Returns:
            modes of ``phi_s - mean`` and modes of D times the averaged target, both ``(G, n, *half)`` complex, and
            the mean acceptance of the posterior trajectories at each level, ``(G,)``.
        """
        reference, action = self.reference, self.action
        lattice = reference.lattice
        batch = phi0.shape[:2]
        v = reference.variance(level).to(phi0)
        # Modes are handled as pairs of real numbers, which multiply faster by real factors than complex ones do.
        per_level = (-1, 1, *(1,) * (phi0.ndim - 1))
        c = reference.c(phi0).unsqueeze(-1)

        def for_fields(x: Tensor) -> Tensor:
            """``(G, *half, 1)``, to be broadcast against modes."""
            return x.view(len(x), *(1,) * (phi0.ndim - 1 - lattice.dim), *x.shape[1:])

        d = for_fields(wiener(c, v))
        inverse_p = 1 / for_fields(posterior_covariance(c, v))
        noise = v.view(per_level)

        def modes(phi: Tensor) -> Tensor:
            return torch.view_as_real(lattice.to_modes(phi))

        def white() -> Tensor:
            return modes(normal(phi0.shape, generator, phi0.dtype, phi0.device))

        total = modes(phi0 - reference.mean)
        noisy = total + noise.sqrt() * white()
        accepted = torch.zeros_like(v)
        if action is None:
            target = d * (noisy / noise - total * inverse_p)
            return torch.view_as_complex(noisy), torch.view_as_complex(target), accepted

        # U = V(phi) + 1/2 (phi - centre) A (phi - centre) with A = 1/P + k and V = S - 1/2 phi (1/C + k) phi.
        k = self.curvature.to(c).unsqueeze(-1)
        precision = inverse_p + k
        centre = noisy / (noise * precision)
        linear = 1 / c + k
        multiplicity = lattice.multiplicity.to(c).unsqueeze(-1)
        weight_linear, weight_precision = multiplicity * linear, multiplicity * precision

        def norm2(x: Tensor, weight: Tensor) -> Tensor:
            return (x.square() * weight).flatten(2).sum(-1)

        def on_sites(total: Tensor) -> Tensor:
            return lattice.to_sites(torch.view_as_complex(total)).flatten(0, 1) + reference.mean

        def force(total: Tensor) -> Tensor:
            """The gradient of V, in modes."""
            return modes(evaluation.force(action, on_sites(total)).view(phi0.shape)).addcmul_(total, linear, value=-1)

        def potential(x: Tensor) -> Tensor:
            """U of each field, ``(G, n)``."""
            total = centre + x
            s = evaluation.evaluate(action, on_sites(total)).view(batch)
            return s - 0.5 * norm2(total, weight_linear) + 0.5 * norm2(x, weight_precision)

        # The mixture (1 - a) y_T + a y_D with y_T = grad V + k phi, y_D = phi_s / v - phi / P and a = k / (k + 1/P):
        # the terms in phi cancel.
        share = k / precision
        angle = self.angle(level).to(phi0).view(per_level)
        kick, cos, sin = angle / precision, (0.5 * angle).cos(), (0.5 * angle).sin()
        spread = precision.rsqrt()

        x = total - centre
        f = force(total) if forces is None else modes(forces.to(phi0)).addcmul_(total, linear, value=-1)
        here = potential(x) if self.trajectories else x.new_zeros(batch)
        sum_force = f.clone()
        for _ in range(self.trajectories):
            pi = spread * white()  # the momentum, times the square root of the covariance 1/A
            before = here + 0.5 * norm2(pi, weight_precision)
            new_x, new_f = x, f
            pi = pi.addcmul_(kick, new_f, value=-LAMBDA)
            for step in range(2 * self.n_steps):
                new_x, pi = (cos * new_x).addcmul_(sin, pi), (cos * pi).addcmul_(sin, new_x, value=-1)
                new_f = force(centre + new_x)
                last = step == 2 * self.n_steps - 1
                pi = pi.addcmul_(kick, new_f, value=-LAMBDA if last else -2 * LAMBDA if step % 2 else 2 * LAMBDA - 1)
            there = potential(new_x)
            change = there + 0.5 * norm2(pi, weight_precision) - before
            u = uniform(batch, generator, phi0.dtype, phi0.device)
            accept = u.log() < -change  # false for NaN
            accepted += accept.to(accepted).mean(1)
            keep = accept.view(*batch, *(1,) * (phi0.ndim - 1))
            x, f = torch.where(keep, new_x, x), torch.where(keep, new_f, f)
            here = torch.where(accept, there, here)
            sum_force += f
        target = d * ((1 - share) * (sum_force / (self.trajectories + 1)) + share * noisy / noise)
        return torch.view_as_complex(noisy), torch.view_as_complex(target), accepted / max(self.trajectories, 1)


def tune(
    sampler: PosteriorSampler, phi: Tensor, generator: torch.Generator, target_acceptance: float = 0.75
) -> PosteriorSampler:
    """Find the ``angles`` at which posterior trajectories are accepted as often as asked (Robbins-Monro).

    The targets are unbiased at any angle; this is a matter of efficiency alone.

    Args:
        sampler: the sampler whose angles are to be found.
        phi: fields ``(n, *lattice)`` of the ensemble.
        generator: source of randomness.
        target_acceptance: the wanted mean acceptance, between 0 and 1.

    Returns:
        the sampler with its angles.
    """
    if sampler.action is None or sampler.trajectories == 0:
        return sampler
    n_levels, n_rounds = 12, 16
    level = torch.linspace(0, 1, n_levels, dtype=torch.float64, device=phi.device).clamp(min=1e-3)
    angles = torch.full((n_levels,), sampler.largest_angle, dtype=torch.float64, device="cpu")
    n = max(1, min(8, len(phi) // n_levels))
    for step in range(n_rounds):
        pick = integers(len(phi), (n_levels * n,), generator, phi.device)
        trial = replace(sampler, trajectories=1, angles=tuple(angles.tolist()))
        _, _, accepted = trial.targets(phi[pick].view(n_levels, n, *phi.shape[1:]), level, generator)
        change = 2.0 * (accepted.double().cpu() - target_acceptance) / math.sqrt(step + 1)
        angles = (angles.log() + change).exp().clamp(max=sampler.largest_angle)
    return replace(sampler, angles=tuple(angles.tolist()))

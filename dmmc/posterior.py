"""Regression targets for the interaction, with their noise averaged down over the posterior.

The network learns ``N(phi_s, s) = E[grad S_int(phi_0) | phi_s]``, ``S_int = S - 1/2 phi C^-1 phi``. Two quantities
that a pair (phi_0, phi_s) gives have this mean:

* ``y_T = grad S(phi_0) - C^-1 phi_0``            (target score identity)
* ``y_D = -P^-1 (phi_0 - D phi_s)``               (denoising score matching)

and ``y_T - y_D`` is the gradient of the posterior's own action, ``S(phi_0) + |phi_0 - phi_s|^2 / 2v``. They are mixed
mode by mode by their inverse variances.

A pair gives one draw of a noisy target; but phi_0 is *already* a draw from the posterior of phi_s, so a Markov chain
started there that leaves the posterior invariant is in equilibrium from its first step, and the average of the target
along it is unbiased with less noise, at the cost of the action alone. Here the chain is Hybrid Monte Carlo in the
whitened variable ``eta = P^{-1/2} (phi_0 - D phi_s)``, whose Gaussian part is integrated exactly (a rotation) and whose
only force is that of S_int: for weakly interacting or nearly denoised fields one short trajectory draws anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmmc.actions import Action
from dmmc.diffusion import GaussianReference, posterior_covariance, wiener


@dataclass(frozen=True)
class TargetMixer:
    """Weights that mix the two targets.

    Attributes:
        reference: the Gaussian reference.
        force2: ``<|grad S(p)|^2>`` of each stored mode, ``half``; None for data without an action (y_D alone).
    """

    reference: GaussianReference
    force2: Tensor | None

    @classmethod
    def measure(cls, reference: GaussianReference, action: Action | None, phi: Tensor) -> TargetMixer:
        """Measure ``force2`` on an ensemble ``phi`` ``(n, *lattice)``."""
        if action is None:
            return cls(reference, None)
        lattice = reference.lattice
        total = torch.zeros(len(lattice.orbit_modes), dtype=torch.float64, device=phi.device)
        for chunk in phi.split(1024):
            total += lattice.two_point(action.grad(chunk.double())).sum(0)
        return cls(reference, lattice.spread(total / len(phi)))

    def fraction(self, c: Tensor, v: Tensor) -> Tensor:
        """``v_T / (v_T + v_D)``: the share of y_D in the mixture, ``(*v.shape, *half)``.

        ``v_D = 1/P`` and ``v_T = <|grad S|^2> - 1/C`` are the variances of the two targets.
        """
        v_d = 1 / posterior_covariance(c, v)
        if self.force2 is None:
            return torch.ones_like(v_d)
        v_t = (self.force2.to(c) - 1 / c).clamp(min=0)
        return v_t / (v_t + v_d)


@dataclass(frozen=True)
class PosteriorSampler:
    """Targets averaged along a posterior chain.

    Args:
        action: the action S of the ensemble's field. None (data without an action): no chain, y_D alone.
        mixer: how to mix the two targets.
        trajectories: length of the chain; 0 uses the pair (phi_0, phi_s) alone.
        n_leapfrog: kicks in a trajectory.
        angles: rotation between two kicks at equally spaced noise levels from 0 to 1 (see
            :meth:`dmmc.diffusion.GaussianReference.level`); at most ``pi / (2 n_leapfrog)``, where one trajectory
            draws anew from the Gaussian part. :func:`tune` finds them.
    """

    action: Action | None
    mixer: TargetMixer
    trajectories: int = 16
    n_leapfrog: int = 3
    angles: tuple[float, ...] = ()

    @property
    def largest_angle(self) -> float:
        """``pi / (2 n_leapfrog)``."""
        return math.pi / (2 * self.n_leapfrog)

    def angle(self, level: Tensor) -> Tensor:
        """Rotation between two kicks at noise ``level`` ``(G,)``: linear in the table ``angles``."""
        if not self.angles:
            return torch.full_like(level, self.largest_angle)
        table = torch.tensor(self.angles, dtype=level.dtype, device=level.device)
        position = level.clamp(0, 1) * (len(table) - 1)
        low = position.floor().clamp(max=len(table) - 2).long()
        return torch.lerp(table[low], table[low + 1], position - low)

    @torch.no_grad()
    def targets(self, phi0: Tensor, level: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noise the fields and return regression pairs.

        Args:
            phi0: fields ``(G, n, *lattice)`` from the target distribution.
            level: noise levels ``(G,)`` in (0, 1].
            generator: random numbers, on the device of ``phi0``.

        Returns:
            modes of ``phi_s - mean`` and modes of D times the averaged target, both ``(G, n, *half)`` complex, and
            the mean acceptance of the posterior trajectories at each level, ``(G,)``.
        """
        reference = self.mixer.reference
        lattice = reference.lattice
        batch = phi0.shape[:2]
        v = reference.variance(level).to(phi0)
        c = reference.c(phi0)
        # Modes are handled as pairs of real numbers, which multiply faster by real factors than complex ones do.
        d = wiener(c, v).view(-1, 1, *c.shape, 1)
        p = posterior_covariance(c, v).view_as(d)
        share = self.mixer.fraction(c, v).view_as(d)
        inverse_c = (1 / c).unsqueeze(-1)

        def modes(phi: Tensor) -> Tensor:
            return torch.view_as_real(lattice.to_modes(phi))

        def white() -> Tensor:
            return modes(torch.randn(phi0.shape, generator=generator, dtype=phi0.dtype, device=phi0.device))

        def norm2(x: Tensor, weight: Tensor) -> Tensor:
            return lattice.sum_modes((x.square() * weight).sum(-1))

        x0 = modes(phi0 - reference.mean)
        noisy = x0 + v.sqrt().view(-1, 1, *(1,) * (lattice.dim + 1)) * white()
        centre = d * noisy
        x = x0 - centre  # = P^{1/2} eta; its momentum pi below carries the same factor
        accepted = torch.zeros_like(v)
        action = self.action
        if action is None:
            return torch.view_as_complex(noisy), torch.view_as_complex(-d * x / p), accepted

        def field(x: Tensor) -> tuple[Tensor, Tensor]:
            """phi_0 in modes and on the sites."""
            x = centre + x
            return x, lattice.to_sites(torch.view_as_complex(x)).flatten(0, 1) + reference.mean

        def force(x: Tensor) -> Tensor:
            """y_T = grad S_int in modes."""
            x, phi = field(x)
            return modes(action.grad(phi).view(phi0.shape)).addcmul_(x, inverse_c, value=-1)

        def energy(x: Tensor, pi: Tensor) -> Tensor:
            total, phi = field(x)
            s_int = action(phi).view(batch) - 0.5 * norm2(total, inverse_c)
            return s_int + 0.5 * (norm2(x, 1 / p) + norm2(pi, 1 / p))

        y = force(x)
        keep_t, keep_d = 1 - share, share / p  # mixture (1 - share) y_T + share y_D, with y_D = -x / P
        target = keep_t * y - keep_d * x
        angle = self.angle(level).to(phi0).view(-1, 1, *(1,) * (lattice.dim + 1))
        kick, cos, sin = angle * p, angle.cos(), angle.sin()
        for _ in range(self.trajectories):
            pi = p.sqrt() * white()
            before = energy(x, pi)
            new_x, new_y = x, y
            pi = pi.addcmul(kick, new_y, value=-0.5)
            for k in range(self.n_leapfrog):
                new_x, pi = (cos * new_x).addcmul_(sin, pi), (cos * pi).addcmul_(sin, new_x, value=-1)
                new_y = force(new_x)
                pi = pi.addcmul_(kick, new_y, value=-1.0 if k < self.n_leapfrog - 1 else -0.5)
            change = energy(new_x, pi) - before
            u = torch.rand(batch, generator=generator, dtype=phi0.dtype, device=phi0.device)
            accept = u.log() < -change  # false for NaN
            accepted += accept.to(accepted).mean(1)
            keep = accept.view(*batch, *(1,) * (lattice.dim + 1))
            x, y = torch.where(keep, new_x, x), torch.where(keep, new_y, y)
            target.addcmul_(keep_t, y).addcmul_(keep_d, x, value=-1)
        mean_target = d * target / (self.trajectories + 1)
        return torch.view_as_complex(noisy), torch.view_as_complex(mean_target), accepted / max(self.trajectories, 1)


def tune(
    sampler: PosteriorSampler, phi: Tensor, generator: torch.Generator, target_acceptance: float = 0.75
) -> PosteriorSampler:
    """Find the ``angles`` at which posterior trajectories are accepted as often as asked (Robbins-Monro).

    The chain is unbiased at any angle; this is a matter of efficiency alone.

    Args:
        sampler: whose angles to find.
        phi: fields ``(n, *lattice)`` of the ensemble, at least 12 of them.
        generator: random numbers.
        target_acceptance: between 0 and 1.
    """
    if sampler.action is None or sampler.trajectories == 0:
        return sampler
    n_levels, n_rounds = 12, 16
    level = torch.linspace(0, 1, n_levels, dtype=torch.float64, device=phi.device).clamp(min=1e-3)
    angles = torch.full((n_levels,), sampler.largest_angle, dtype=torch.float64)
    n = max(1, min(8, len(phi) // n_levels))
    for step in range(n_rounds):
        pick = torch.randint(0, len(phi), (n_levels * n,), generator=generator, device=phi.device)
        trial = replace(sampler, trajectories=1, angles=tuple(angles.tolist()))
        _, _, accepted = trial.targets(phi[pick].view(n_levels, n, *phi.shape[1:]), level, generator)
        change = 2.0 * (accepted.double().cpu() - target_acceptance) / math.sqrt(step + 1)
        angles = (angles.log() + change).exp().clamp(max=sampler.largest_angle)
    return replace(sampler, angles=tuple(angles.tolist()))

"""The probability flow: samples with their density.

In the interaction picture ``psi = (C + v)^(-1/2) (phi_s - mean)`` the free part of the flow stands still:

    d psi / dv       = 1/2 (C + v)^(-1/2) D_v N(phi_s, v)
    d log q(psi)/dv  = -1/2 tr[D_v dN/dphi_s]
    log q(phi_0)     = log Normal(psi_max; 0, 1) - 1/2 sum_p log C(p) + 1/2 int_0^{v_max} tr[D_v dN/dphi] dv

The time is the noise level in [0, 1], linear in ``ln(v + v_offset)``. Steps are fixed and the same for every field:
steps chosen from a batch would make the density of one field depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.divergence import TRACTABLE, Divergence
from dmmc.errors import DmmcError
from dmmc.model import DiffusionModel

DEFAULT_STEPS = 30
"""Six for each interval between the spline knots of the default network: steps that do not straddle a knot, where
third derivatives jump, keep their fourth order."""


@dataclass(frozen=True)
class IntegratorError:
    """How far log q is from the density of the discrete map.

    The stationary law of a chain is ``p exp(delta)``; an observable O is off by
    ``|Cov(O, delta)| <= std(O) std(delta)``, so ``std(delta)`` bounds the bias in units of std(O).

    Attributes:
        delta: estimates of it, ``(n,)`` float64. Each carries the noise of one random probe, so that their spread
            is, if anything, larger than that of delta.
        n_steps: steps of the proposal.
    """

    delta: Tensor
    n_steps: int

    @property
    def std(self) -> float:
        """Standard deviation of delta over proposals: the bias bound in units of std(O)."""
        return float(self.delta.std())


@dataclass(frozen=True)
class FlowProposal:
    """Independent fields with their density, from the probability flow of a model.

    Integrated by the classical fourth-order Runge-Kutta method.

    Args:
        model: the model.
        n_steps: integration steps.
        chunk_sites: fields are integrated in chunks of about this many sites; small enough for the cache. The chunk
            does not enter the result beyond floating-point rounding.
        divergence: how the trace of the Jacobian is found; by default the network's own formula.

    Raises:
        DmmcError: if a number is not positive, or the network has no formula and no divergence is chosen.
    """

    model: DiffusionModel
    n_steps: int = DEFAULT_STEPS
    chunk_sites: int = 1 << 15
    divergence: Divergence = TRACTABLE

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.chunk_sites < 1:
            raise DmmcError(f"n_steps and chunk_sites must be positive, got {self.n_steps}, {self.chunk_sites}")
        self.divergence.check(self.model.network)

    @property
    def exact(self) -> bool:
        """Whether log q is computed, up to the error of the integrator; else ``inexact`` says why not."""
        return not self.inexact

    @property
    def inexact(self) -> str:
        """Why log q is only an estimate; empty where it is exact."""
        return self.divergence.inexact

    def describe(self) -> dict[str, Any]:
        """Steps, chunk, divergence and the fingerprint of the model: all that enters the bits of a proposal."""
        # Where nothing is said of the divergence, it is the network's own.
        chosen = {} if self.divergence == TRACTABLE else {"divergence": self.divergence.describe()}
        return {
            "name": "flow",
            "n_steps": self.n_steps,
            "chunk_sites": self.chunk_sites,
            "model": self.model.fingerprint(),
            **chosen,
        }

    @property
    def evaluations(self) -> int:
        """Network evaluations of a proposal: four a step, times those of a divergence that is not the network's own.

        Those of the mirror sector too, if there are two.
        """
        a_step = 4 * self.divergence.evaluations(self.model.lattice.volume)
        return a_step * self.n_steps * (2 if self.model.two_sector else 1)

    @property
    def chunk(self) -> int:
        """Fields in a chunk."""
        return max(1, self.chunk_sites // self.model.lattice.volume)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``n`` fields.

        Args:
            n: how many.
            generator: random numbers, on the model's device.

        Returns:
            fields ``(n, *lattice)`` in the model's dtype, and their log density ``(n,)`` float64.

        Raises:
            DmmcError: if ``n`` is not positive.
        """
        phi, log_q = self.push(self.latents(n, generator), generator)
        if not self.model.two_sector:
            return phi, log_q
        signs = 2 * torch.randint(0, 2, (n,), generator=generator, device=phi.device) - 1
        phi = phi * signs.to(phi).view(-1, *(1,) * self.model.lattice.dim)
        # phi came from the sector of its sign; log_q is that sector's density, the other one's is still to be found.
        other = self._sector_log_q(phi * -signs.to(phi).view(-1, *(1,) * self.model.lattice.dim), generator)
        return phi, torch.logaddexp(log_q, other) - math.log(2)

    @torch.no_grad()
    def log_q(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log density of given fields.

        Args:
            phi: ``(n, *lattice)``.
            generator: random numbers of an inexact divergence. Without one they are the same at every call, so that
                the estimate for a field depends on its place in the batch and nothing else; an exact divergence has
                none.

        Returns:
            ``(n,)`` float64.

        Raises:
            DmmcError: if ``phi`` is not a finite field on the model's lattice.
        """
        self.model.lattice.check(phi)
        phi = phi.to(device=self.model.device, dtype=self.model.dtype)
        if not self.model.two_sector:
            return self._sector_log_q(phi, generator)
        plus, minus = self._sector_log_q(phi, generator), self._sector_log_q(-phi, generator)
        return torch.logaddexp(plus, minus) - math.log(2)

    @torch.no_grad()
    def integrator_error(self, n: int, generator: torch.Generator) -> IntegratorError:
        """Measure delta on ``n`` proposals (of one sector, if there are two), in float64.

        With T the exact flow, T_n the discrete map and E the displacement ``T_n T^-1 - 1``, to first order

            delta = log q - log q_n = (l_n - l)(z) + div E(T z),

        l_n being the reported log density of latent z. T is stood in for by twice the steps (factor 16/15, fourth
        order); the divergence comes from central differences along one random sign vector (Hutchinson). The error
        of l_n alone would not do: the two terms cancel in part, or add up.

        Raises:
            DmmcError: if ``n`` is not positive, or the divergence is inexact.
        """
        if not self.exact:
            raise DmmcError(
                f"the integrator's error is drowned in noise here ({self.inexact}); use an exact divergence"
            )
        coarse = replace(self, model=self.model.to_float64())
        fine = replace(coarse, n_steps=2 * self.n_steps)
        latents = coarse.latents(n, generator)
        phi, reported = coarse.push(latents)
        _, better = fine.push(latents)
        probe = 2 * torch.randint(0, 2, phi.shape, generator=generator, device=phi.device).to(phi) - 1
        step = 1e-3 * phi.std()

        def displaced(phi: Tensor) -> Tensor:
            return coarse._there_and_back(fine, phi) - phi

        slope = (displaced(phi + step * probe) - displaced(phi - step * probe)) / (2 * step)
        divergence = (probe * slope).flatten(1).sum(1)
        return IntegratorError((reported - better + divergence) * 16 / 15, self.n_steps)

    def _there_and_back(self, fine: FlowProposal, phi: Tensor) -> Tensor:
        """``T_n T_2n^-1 phi``."""
        reference, lattice = self.model.reference, self.model.lattice
        found = []
        for part in phi.split(self.chunk):
            psi = lattice.to_modes(part - reference.mean)
            scale = reference.c(psi).sqrt()
            psi, _ = fine._integrate(psi / scale, 0.0, 1.0)
            psi, _ = self._integrate(psi, 1.0, 0.0)
            found.append(lattice.to_sites(psi * scale) + reference.mean)
        return torch.cat(found)

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` standard normal latent fields on the sites, ``(n, *lattice)``."""
        if n < 1:
            raise DmmcError(f"the number of fields must be positive, got {n}")
        return torch.randn(
            (n, *self.model.lattice.shape), generator=generator, dtype=self.model.dtype, device=self.model.device
        )

    @torch.no_grad()
    def push(self, latent: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The map from latent fields ``(n, *lattice)`` to ``phi``, with log q of the latter (one sector).

        ``generator`` is for an inexact divergence, as in :meth:`log_q`.
        """
        generator = self._generator(generator)
        reference, lattice = self.model.reference, self.model.lattice
        phis, log_qs = [], []
        for part in latent.split(self.chunk):
            psi = lattice.to_modes(part)
            log_q = self._log_normal(psi)
            psi, change = self._integrate(psi, 1.0, 0.0, generator)
            phis.append(lattice.to_sites(psi * reference.c(psi).sqrt()) + reference.mean)
            log_qs.append(log_q + change - reference.log_normaliser())
        return torch.cat(phis), torch.cat(log_qs)

    @torch.no_grad()
    def denoise(self, latent: Tensor, levels: Sequence[float]) -> list[Tensor]:
        """The fields ``phi_s`` on the way from noise to sample, for looking at.

        Args:
            latent: ``(n, *lattice)``.
            levels: falling noise levels in [0, 1].

        Returns:
            one ``(n, *lattice)`` tensor a level.
        """
        reference, lattice = self.model.reference, self.model.lattice
        psi, at, found = lattice.to_modes(latent), 1.0, []
        for level in levels:
            if level != at:
                psi, _ = self._integrate(psi, at, level)
                at = level
            v = float(reference.variance(torch.tensor(level, dtype=torch.float64)))
            found.append(lattice.to_sites((reference.c(psi) + v).sqrt() * psi) + reference.mean)
        return found

    def _generator(self, generator: torch.Generator | None) -> torch.Generator:
        return torch.Generator(self.model.device).manual_seed(0) if generator is None else generator

    def _sector_log_q(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        generator = self._generator(generator)
        reference = self.model.reference
        found = []
        for part in phi.split(self.chunk):
            psi = self.model.lattice.to_modes(part - reference.mean)
            psi, change = self._integrate(psi / reference.c(psi).sqrt(), 0.0, 1.0, generator)
            found.append(self._log_normal(psi) - change - reference.log_normaliser())
        return torch.cat(found)

    def _log_normal(self, psi: Tensor) -> Tensor:
        norm2 = self.model.lattice.sum_modes(psi.real.double().square() + psi.imag.double().square())
        return -0.5 * norm2 - 0.5 * self.model.lattice.volume * math.log(2 * math.pi)

    def _integrate(
        self, psi: Tensor, start: float, end: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """psi at level ``end`` from psi at level ``start``, and the change of its log density (0 without generator)."""
        velocity = self._velocity(psi, generator)
        h = (end - start) / self.n_steps
        log_q = torch.zeros(len(psi), dtype=torch.float64, device=psi.device)
        for step in range(self.n_steps):
            level = start + h * step
            k1, l1 = velocity(psi, level)
            k2, l2 = velocity(psi + 0.5 * h * k1, level + 0.5 * h)
            k3, l3 = velocity(psi + 0.5 * h * k2, level + 0.5 * h)
            k4, l4 = velocity(psi + h * k3, level + h)
            psi = psi + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            log_q = log_q + h / 6 * (l1 + 2 * (l2 + l3) + l4)
        return psi, log_q

    def _velocity(
        self, like: Tensor, generator: torch.Generator | None
    ) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
        """``(psi, level) -> (d psi / d level, d log q(psi) / d level)``."""
        reference, network = self.model.reference, self.model.network
        c = reference.c(like)
        none = torch.zeros(len(like), dtype=torch.float64, device=like.device)
        with_trace = None if generator is None else self.divergence.along(network, len(like), generator)

        def velocity(psi: Tensor, level: float) -> tuple[Tensor, Tensor]:
            v = float(reference.variance(torch.tensor(level, dtype=torch.float64)))
            speed = 0.5 * (v + reference.v_offset) * reference.log_range  # 1/2 dv / d level
            root = (c + v).sqrt()
            modes, level_v = (root * psi).unsqueeze(0), torch.full((1,), v, dtype=c.dtype, device=c.device)
            if with_trace is None:
                return speed * network(modes, level_v)[0] / root, none
            drift, trace = with_trace(modes, level_v)
            return speed * drift[0] / root, -speed * trace[0]

        return velocity

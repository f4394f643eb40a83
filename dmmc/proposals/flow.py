"""The probability flow: samples with their density.

In the interaction picture ``psi = (C + v)^(-1/2) (phi_s - mean)`` the free part of the flow stands still:

    d psi / dv       = 1/2 (C + v)^(-1/2) D_v N(phi_s, v)
    d log q(psi)/dv  = -1/2 tr[D_v dN/dphi_s]
    log q(phi_0)     = log Normal(psi_max; 0, 1) - 1/2 sum_p log C(p) + 1/2 int_0^{v_max} tr[D_v dN/dphi] dv

The time is the noise level in [0, 1], linear in ``ln(v + v_offset)``. Steps are fixed and the same for every field:
steps chosen from a batch would make the density of one field depend on its neighbours. They need not be equal: for
strong couplings nearly all of the error arises at small noise. :func:`dmmc.proposals.certificate.choose_steps` distributes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.model import splines
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.divergence import TRACTABLE, Divergence
from dmmc.proposals.runge_kutta import METHODS

DEFAULT_STEPS = 30
"""Six for each interval between the spline knots of the default network: steps that do not straddle a knot, where
third derivatives jump, keep their fourth order."""


@dataclass(frozen=True)
class IntegratorError:
    """How far log q is from the density of the discrete map.

    With delta = log q less the log density of the map, the stationary law of a chain is ``p exp(-delta)``; an
    observable O is off by ``|Cov(O, delta)| <= std(O) std(delta)``: ``std(delta)`` bounds the bias in units of std(O).

    Attributes:
        delta: estimates of it, ``(n,)`` float64. Each carries the noise of one random probe, so that their spread
            is, if anything, larger than that of delta.
        n_steps: steps of the proposal, as given to :class:`FlowProposal`.
    """

    delta: Tensor
    n_steps: int | tuple[int, ...]

    @property
    def std(self) -> float:
        """Standard deviation of delta over proposals: the bias bound in units of std(O)."""
        return float(self.delta.std())


@dataclass(frozen=True)
class FlowProposal:
    """Independent fields with their density, from the probability flow of a model.

    Args:
        model: the model.
        n_steps: integration steps, of equal length; or a tuple, so many steps in each of as many equal intervals of
            the noise level, from the largest noise to the field. With as many intervals as the splines of the network
            have (:func:`spline_intervals`) no step straddles a knot.
        chunk_sites: fields are integrated in chunks of about this many sites; small enough for the cache. The chunk
            does not enter the result beyond floating-point rounding.
        divergence: how the trace of the Jacobian is found; by default the network's own formula.
        method: of :data:`dmmc.proposals.runge_kutta.METHODS`: ``rk4``, or ``dopri5``, which at equal evaluations has the smaller
            error once that is small.

    Raises:
        DmmcError: if a number is not positive, the method unknown, or the network has no formula and no divergence is
            chosen.
    """

    model: DiffusionModel
    n_steps: int | tuple[int, ...] = DEFAULT_STEPS
    chunk_sites: int = 1 << 15
    divergence: Divergence = TRACTABLE
    method: str = "rk4"

    def __post_init__(self) -> None:
        if min(self.schedule, default=0) < 1 or self.chunk_sites < 1:
            raise DmmcError(f"n_steps and chunk_sites must be positive, got {self.n_steps}, {self.chunk_sites}")
        if self.method not in METHODS:
            raise DmmcError(f"the method is one of {', '.join(METHODS)}, not {self.method!r}")
        self.divergence.check(self.model.network)

    @property
    def schedule(self) -> tuple[int, ...]:
        """Steps in each of its equal intervals of the noise level."""
        return (self.n_steps,) if isinstance(self.n_steps, int) else self.n_steps

    @property
    def total_steps(self) -> int:
        """Steps of all intervals."""
        return sum(self.schedule)

    @property
    def exact(self) -> bool:
        """Whether log q is computed, up to the error of the integrator; else ``inexact`` says why not."""
        return not self.inexact

    @property
    def inexact(self) -> str:
        """Why log q is only an estimate; empty where it is exact."""
        return self.divergence.inexact

    def describe(self) -> dict[str, Any]:
        """Steps, chunk, divergence, method, fingerprint of the model: all that enters the bits of a proposal."""
        # Where nothing is said of the divergence, it is the network's own; and the method is rk4.
        chosen: dict[str, Any] = {} if self.divergence == TRACTABLE else {"divergence": self.divergence.describe()}
        if self.method != "rk4":
            chosen["method"] = self.method
        return {
            "name": "flow",
            "n_steps": self.n_steps if isinstance(self.n_steps, int) else list(self.n_steps),
            "chunk_sites": self.chunk_sites,
            "model": self.model.fingerprint(),
            **chosen,
        }

    @property
    def evaluations(self) -> int:
        """Network evaluations of a proposal: the stages of each step, times those of a divergence that is not its own.

        Those of the mirror sector too, if there are two.
        """
        a_step = len(METHODS[self.method].b) * self.divergence.evaluations(self.model.lattice.volume)
        return a_step * self.total_steps * (2 if self.model.two_sector else 1)

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

    def integrator_error(self, n: int, generator: torch.Generator) -> IntegratorError:
        """Measure delta on ``n`` proposals (of one sector, if there are two) by :meth:`step_doubling`, in float64.

        Raises:
            DmmcError: if ``n`` is not positive, or the divergence is inexact.
        """
        flow = self.to_float64()
        return IntegratorError(flow.step_doubling(flow.latents(n, generator), generator)[2], self.n_steps)

    @torch.no_grad()
    def step_doubling(
        self, latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate delta from a second integration with twice the steps (one sector; meant for float64).

        With T the exact flow, T_n the discrete map and E the displacement ``T_n T^-1 - 1``, to first order

            delta = log q - log q_n = (l_n - l)(z) + div E(T z),

        l_n being the reported log density of latent z. T is stood in for by twice the steps (a factor
        ``2^p / (2^p - 1)`` at order p); the divergence comes from central differences along random vectors
        (Hutchinson), whose noise makes the spread of the estimates larger than that of delta. The error of l_n alone
        would not do: the two terms cancel in part.

        Args:
            latents: z, ``(n, *lattice)``.
            generator: of the random vectors.
            probes: random vectors a field; delta is the mean over them (see ``_probes``).

        Returns:
            phi ``(n, *lattice)``, reported log q ``(n,)`` and delta ``(n,)``.

        Raises:
            DmmcError: if the divergence is inexact.
        """
        reference, lattice = self.model.reference, self.model.lattice
        phi, log_q, delta = [], [], []
        for part in latents.split(self.chunk):
            psi = lattice.to_modes(part)
            start = self._log_normal(psi) - reference.log_normaliser()
            psi, change, error = self._step_doubling(psi, 1.0, 0.0, generator, probes)
            phi.append(lattice.to_sites(psi * reference.c(psi).sqrt()) + reference.mean)
            log_q.append(start + change)
            delta.append(error)
        return torch.cat(phi), torch.cat(log_q), torch.cat(delta)

    @torch.no_grad()
    def interval_errors(self, latents: Tensor, generator: torch.Generator, probes: int = 1) -> Tensor:
        """What each interval of the schedule contributes to delta, as in :meth:`step_doubling`.

        Returns:
            ``(intervals, n)``, from the largest noise to the field; to first order their sum is delta.
        """
        width, found = 1 / len(self.schedule), []
        psi = self.model.lattice.to_modes(latents)
        for k, n in enumerate(self.schedule):
            flow, start = replace(self, n_steps=n), 1 - k * width
            parts = [
                flow._step_doubling(part, start, start - width, generator, probes) for part in psi.split(self.chunk)
            ]
            psi = torch.cat([end for end, _, _ in parts])
            found.append(torch.cat([error for _, _, error in parts]))
        return torch.stack(found)

    def _step_doubling(
        self, psi: Tensor, start: float, end: float, generator: torch.Generator, probes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """psi at level ``end``, the change of its log density, as :meth:`_integrate`, and the error of the latter."""
        if not self.exact:
            raise DmmcError(
                f"the integrator's error is drowned in noise here ({self.inexact}); use an exact divergence"
            )
        lattice, fine = self.model.lattice, self.refined(2)
        made, reported = self._integrate(psi, start, end, self._generator(None))
        _, better = fine._integrate(psi, start, end, self._generator(None))
        x, step = lattice.to_sites(made), 1e-4  # of fields that have unit variance, all but the interaction

        def there_and_back(x: Tensor) -> Tensor:
            return torch.cat(
                [
                    lattice.to_sites(
                        self._integrate(fine._integrate(lattice.to_modes(part), end, start)[0], start, end)[0]
                    )
                    for part in x.split(self.chunk)
                ]
            )

        # E is small and smooth, so that one-sided differences will do.
        probe = self._probes(x, probes, generator)
        slope = (there_and_back((x + step * probe).flatten(0, 1)).view_as(probe) - there_and_back(x)) / step - probe
        divergence = (probe * slope).flatten(2).sum(2).mean(0)
        factor = 1 / (1 - 0.5 ** METHODS[self.method].order)
        return made, reported, factor * (reported - better + divergence)

    def _probes(self, like: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Random signs on the sites of ``like``, times Walsh functions in turn: ``(n, *like.shape)``.

        Averaged over the first ``2^k`` of these, elements of a matrix between sites that differ in any of k parities
        drop out of the noise: first neighbours on the checkerboard, then all within cells of 2 sites in each direction
        (``2^d`` probes), at last within cells of 4 (``4^d``). Hadamard probing: Stathopoulos, Laeuchli, Orginos,
        SIAM J. Sci. Comput. 35 (2013) S299.
        """
        shape, dim = self.model.lattice.shape, self.model.lattice.dim
        site = torch.cartesian_prod(*map(torch.arange, shape)).view(*shape, dim)
        parities: list[Tensor] = []
        for bit in (site % 2, site // 2 % 2):
            parities += [bit.sum(-1), *bit.unbind(-1)[1:]]
        found: list[Tensor] = []
        for k in range(n):
            if k % 4**dim == 0:
                signs = 2 * torch.randint(0, 2, like.shape, generator=generator, device=like.device).to(like) - 1
            odd = torch.stack([(k >> i & 1) * parity for i, parity in enumerate(parities)]).sum(0) % 2
            found.append(signs * (1 - 2 * odd).to(like))
        return torch.stack(found)

    def refined(self, factor: int) -> FlowProposal:
        """The proposal with ``factor`` times as many steps everywhere."""
        n = self.n_steps
        return replace(self, n_steps=factor * n if isinstance(n, int) else tuple(factor * k for k in n))

    def to_float64(self) -> FlowProposal:
        """The proposal with a model that computes in float64."""
        return replace(self, model=self.model.to_float64())

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
    def pull(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latent fields and log q of ``phi`` (one sector): inverse to :meth:`push` up to the integrator's error."""
        generator = self._generator(generator)
        reference, lattice = self.model.reference, self.model.lattice
        latents, log_qs = [], []
        for part in phi.split(self.chunk):
            psi = lattice.to_modes(part - reference.mean)
            psi, change = self._integrate(psi / reference.c(psi).sqrt(), 0.0, 1.0, generator)
            latents.append(lattice.to_sites(psi))
            log_qs.append(self._log_normal(psi) - change - reference.log_normaliser())
        return torch.cat(latents), torch.cat(log_qs)

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
        return self.pull(phi, generator)[1]

    def _log_normal(self, psi: Tensor) -> Tensor:
        norm2 = self.model.lattice.sum_modes(psi.real.double().square() + psi.imag.double().square())
        return -0.5 * norm2 - 0.5 * self.model.lattice.volume * math.log(2 * math.pi)

    def _integrate(
        self, psi: Tensor, start: float, end: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """psi at level ``end`` from psi at level ``start``, and the change of its log density (0 without generator)."""
        velocity, method = self._velocity(psi, generator), METHODS[self.method]
        log_q = torch.zeros(len(psi), dtype=torch.float64, device=psi.device)
        for level, h in self._steps(start, end):
            slopes: list[Tensor] = []
            for row, weight, c in zip(method.a, method.b, method.c, strict=True):
                slope, change = velocity(_advanced(psi, h, row, slopes), level + c * h)
                slopes.append(slope)
                log_q = log_q + h * weight * change
            psi = _advanced(psi, h, method.b, slopes)
        return psi, log_q

    def _steps(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """Start and length of each step: of the whole way, up or down, as scheduled; else of equal length."""
        schedule = self.schedule if abs(end - start) == 1 else (self.total_steps,)
        width = (end - start) / len(schedule)
        for k, n in enumerate(schedule if end < start else schedule[::-1]):
            for step in range(n):
                yield start + width * (k + step / n), width / n

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


def _advanced(psi: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            psi = psi + h * weight * slope
    return psi


def spline_intervals(model: DiffusionModel) -> int:
    """Intervals between the knots of the network's splines in the noise level; 5 for a network that does not say."""
    return getattr(getattr(model.network, "size", None), "level_knots", 8) - splines.DEGREE

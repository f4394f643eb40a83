"""The probability flow of a model as a proposal: samples with their density.

The flow carries standard normal latents at the largest noise to fields (:mod:`dmmc.proposals.ode`), and

    log q(phi_0) = log Normal(psi_max; 0, 1) - 1/2 sum_p log C(p) + 1/2 int_0^{v_max} tr[D_v dN/dphi] dv.

It is integrated with fixed steps (:mod:`dmmc.proposals.integrator`). What is reported is the density of the continuous
flow, evaluated by these steps; how far it is from the density of the discrete map is what
:mod:`dmmc.proposals.certify` measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.linalg import log_abs_det
from dmmc.core.scalars import check_count
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals import ode
from dmmc.proposals.base import Steppable
from dmmc.proposals.divergence import TRACTABLE, Divergence
from dmmc.proposals.integrator import DEFAULT_STEPS, Integrator, schedule_of
from dmmc.proposals.step_doubling import doubling_error
from dmmc.theory.lattice import Lattice

_DETERMINANT_STEP = 1e-5
"""Step of the central differences: truncation and rounding each make an error of 1e-10 in every element."""


@dataclass(frozen=True)
class FlowProposal(Steppable):
    """Independent fields with their density, from the probability flow of a model.

    Args:
        model: the model.
        n_steps: integration steps, of equal length; or a tuple with the steps in each of as many equal intervals of the
            noise level, from the largest noise to the field. With :attr:`intervals` of them no step straddles a knot
            of the network's splines.
        chunk_sites: fields are integrated in chunks of about this many sites; by default of as many as suit the device.
            Chunks do not enter the result beyond floating-point rounding.
        divergence: how the trace of the Jacobian is found; by default with the network's own formula.
        method: one of :data:`dmmc.proposals.runge_kutta.METHODS`: ``rk4``, or ``dopri5``, which at equal evaluations
            has the smaller error once that is small.
        compiled: whether the integration runs as machine code, or on a GPU as a CUDA graph
            (:meth:`dmmc.model.network.Network.transport`), with the same numbers up to rounding; by default where the
            network has it.

    Raises:
        DmmcError: if a number is not a positive integer, the method unknown, the network has no formula for its trace
            and no divergence is chosen, or there is no machine code and it was asked for.
    """

    model: DiffusionModel
    n_steps: int | tuple[int, ...] = DEFAULT_STEPS
    chunk_sites: int | None = None
    divergence: Divergence = TRACTABLE
    method: str = "rk4"
    compiled: bool | None = None

    def __post_init__(self) -> None:
        steps, single = schedule_of(self.n_steps), not isinstance(self.n_steps, (tuple, list))
        object.__setattr__(self, "n_steps", steps[0] if single else steps)
        sites = ode.sites_at_once(self.model) if self.chunk_sites is None else self.chunk_sites
        object.__setattr__(self, "chunk_sites", check_count(sites, "chunk_sites"))
        Integrator(steps, self.method)  # refuses an unknown method
        self.divergence.check(self.model.network)
        if self.compiled and not self.machine_code:
            raise DmmcError(ode.NOT_COMPILED)

    @property
    def lattice(self) -> Lattice:
        return self.model.lattice

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def inexact(self) -> str:
        return self.divergence.inexact

    @property
    def schedule(self) -> tuple[int, ...]:
        return schedule_of(self.n_steps)

    @property
    def integrator(self) -> Integrator:
        """The method with the schedule of its steps."""
        return Integrator(self.schedule, self.method)

    @property
    def total_steps(self) -> int:
        """Steps of all intervals."""
        return self.integrator.total_steps

    @property
    def intervals(self) -> int:
        """Intervals of the noise level within which the network is smooth, as it declares them."""
        return self.model.network.level_intervals

    @property
    def evaluations(self) -> int:
        """Evaluations of the velocity, times the passes through the network that the divergence needs for one."""
        return self.integrator.evaluations * self.divergence.evaluations(self.lattice.n_numbers)

    @property
    def chunk(self) -> int:
        """Fields in a chunk."""
        return ode.chunk(self.model, self.chunk_sites, self.machine_code)

    @property
    def machine_code(self) -> bool:
        if self.compiled is False or self.divergence != TRACTABLE:
            return False
        return self.model.network.transport() is not None

    @property
    def known_errors(self) -> FlowErrors | None:
        errors = self.model.flow_errors
        return None if errors is None or errors.method != self.method else errors

    def describe(self) -> dict[str, Any]:
        """Steps, chunk, divergence, method and the fingerprint of the model, on which the numbers of a proposal depend.

        The default divergence, by the network's own formula, and the default method ``rk4`` are left out, and so is
        arithmetic step by step.
        """
        chosen: dict[str, Any] = {} if self.divergence == TRACTABLE else {"divergence": self.divergence.describe()}
        if self.method != "rk4":
            chosen["method"] = self.method
        if self.machine_code:  # its rounding is another one
            chosen["compiled"] = True
        return {
            "name": "flow",
            "n_steps": self.n_steps if isinstance(self.n_steps, int) else list(self.n_steps),
            "chunk_sites": self.chunk_sites,
            "model": self.model.fingerprint(),
            **chosen,
        }

    def with_schedule(self, schedule: tuple[int, ...]) -> FlowProposal:
        return replace(self, n_steps=schedule)

    def to_float64(self) -> FlowProposal:
        return replace(self, model=self.model.to_float64())

    @torch.no_grad()
    def push(self, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        generator = self._generator(generator)
        fields, log_qs = [], []
        for part in latents.split(self.chunk):
            psi = self.lattice.to_modes(part)
            log_q = self._log_normal(psi)
            psi, change = self._integrate(psi, 1.0, 0.0, generator)
            fields.append(self._field(psi))
            log_qs.append(log_q + change - self.model.reference.log_normaliser())
        return torch.cat(fields), torch.cat(log_qs)

    @torch.no_grad()
    def pull(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents and log q of given fields: the inverse of :meth:`push` up to the error of the integrator.

        Without ``generator`` the random numbers of an inexact divergence are the same at every call, so that the
        estimate for a field depends on its place in the batch and nothing else.
        """
        generator = self._generator(generator)
        reference, lattice = self.model.reference, self.lattice
        latents, log_qs = [], []
        for part in phi.to(device=self.device, dtype=self.dtype).split(self.chunk):
            psi = lattice.to_modes(part - reference.mean)
            psi, change = self._integrate(psi / reference.c(psi).sqrt(), 0.0, 1.0, generator)
            latents.append(lattice.to_sites(psi))
            log_qs.append(self._log_normal(psi) - change - reference.log_normaliser())
        return torch.cat(latents), torch.cat(log_qs)

    def log_q(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log density ``(n,)`` float64 of given fields ``(n, *lattice)``, with ``generator`` as for :meth:`pull`.

        Raises:
            DmmcError: if ``phi`` is not a finite field on the model's lattice.
        """
        self.lattice.check(phi)
        return self.pull(phi, generator)[1]

    def denoise(self, latents: Tensor, levels: Sequence[float]) -> list[Tensor]:
        """The fields on the way from noise to sample: :func:`dmmc.proposals.ode.denoise` with these steps."""
        return ode.denoise(
            self.model,
            latents,
            levels,
            n_steps=self.n_steps,
            method=self.method,
            chunk_sites=self.chunk_sites,
            compiled=self.machine_code,
        )

    @torch.no_grad()
    def step_doubling(
        self, latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and an estimate of delta, as :mod:`dmmc.proposals.step_doubling`; meant for float64.

        Raises:
            DmmcError: if the divergence is inexact.
        """
        fields, log_q, delta = [], [], []
        for part in latents.split(self.chunk):
            psi = self.lattice.to_modes(part)
            total = self._log_normal(psi) - self.model.reference.log_normaliser()
            errors = torch.zeros_like(total)
            for end, change, error in self._steps_doubled(psi, generator, probes):
                psi, total, errors = end, total + change, errors + error
            fields.append(self._field(psi))
            log_q.append(total)
            delta.append(errors)
        return torch.cat(fields), torch.cat(log_q), torch.cat(delta)

    @torch.no_grad()
    def interval_errors(self, latents: Tensor, generator: torch.Generator, probes: int = 1) -> Tensor:
        """What each interval of the schedule contributes to delta, as in :meth:`step_doubling`.

        Returns:
            ``(intervals, n)``, from the largest noise to the field; their sum is delta.

        Raises:
            DmmcError: if the divergence is inexact.
        """
        errors = []
        for part in latents.split(self.chunk):
            steps = [error for _, _, error in self._steps_doubled(self.lattice.to_modes(part), generator, probes)]
            of_intervals = torch.stack(steps).split(list(self.schedule))
            errors.append(torch.stack([of_interval.sum(0) for of_interval in of_intervals]))
        return torch.cat(errors, 1)

    @torch.no_grad()
    def by_determinant(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and delta, with ``log q_n = log Normal(z; 0, 1) - ln |det dphi/dz|``; for float64.

        The Jacobian is found column by column with central differences: two integrations without trace for each number
        of a field.
        """
        phi, log_q = self.push(latents)
        n, step = self.lattice.n_numbers, _DETERMINANT_STEP
        units = torch.eye(n, dtype=latents.dtype, device=latents.device).view(n, *latents.shape[1:])
        up, down = (
            self.denoise((latents.unsqueeze(1) + shift * units).flatten(0, 1), [0.0])[0] for shift in (step, -step)
        )
        jacobian = (up - down).view(-1, n, n) / (2 * step)
        log_normal = -0.5 * latents.square().flatten(1).sum(1) - 0.5 * n * math.log(2 * math.pi)
        return phi, log_q, log_q - (log_normal - log_abs_det(jacobian))

    def _generator(self, generator: torch.Generator | None) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0) if generator is None else generator

    def _field(self, psi: Tensor) -> Tensor:
        reference = self.model.reference
        return self.lattice.to_sites(psi * reference.c(psi).sqrt()) + reference.mean

    def _log_normal(self, psi: Tensor) -> Tensor:
        norm2 = self.lattice.norm2(psi.to(torch.complex128))
        return -0.5 * norm2 - 0.5 * self.lattice.n_numbers * math.log(2 * math.pi)

    def _integrate(
        self, psi: Tensor, start: float, end: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """psi at level ``end`` from psi at level ``start``, and the change of its log density (0 without generator)."""
        if self.machine_code:
            return ode.carried(self.model, self.integrator, psi, start, end, generator is not None)
        trace = None if generator is None else self.divergence.along(self.model.network, len(psi), generator)
        return ode.step_by_step(self.model, self.integrator, psi, start, end, trace)

    def _way(self, psi: Tensor, start: float, end: float, traced: bool) -> tuple[Tensor, Tensor]:
        return self._integrate(psi, start, end, self._generator(None) if traced else None)

    def _steps_doubled(
        self, psi: Tensor, generator: torch.Generator, probes: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """After each step from the largest noise: psi, the change of its log density, and the error of this change."""
        if self.inexact:
            raise DmmcError(
                f"the integrator's error is drowned in noise here ({self.inexact}); use an exact divergence"
            )
        one, two = replace(self, n_steps=1), replace(self, n_steps=2)
        for start, length in self.integrator.steps(1.0, 0.0):
            psi, change, error = doubling_error(
                self.lattice,
                one._way,
                two._way,
                self.integrator.table.order,
                psi,
                (start, start + length),
                generator,
                probes=probes,
                chunk=self.chunk,
            )
            yield psi, change, error

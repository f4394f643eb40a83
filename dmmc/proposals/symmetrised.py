"""Averages over the group Z2: a proposal of one sector becomes one of both.

For a theory with ``S(-phi) = S(phi)`` in its broken phase a model describes the sector M > 0 alone. The wrappers of
this module propose ``phi = sigma phi_+``, with phi_+ from any other proposal and a fair coin sigma = +-1. No other
module knows that there are two sectors. Chains are exact for every action, symmetric or not.

:class:`Symmetrised` has the group average as its density,

    q(phi) = [q_+(phi) + q_+(-phi)] / 2,

and two latents behind every field. The target gives each its posterior probability ``P(sigma | phi) = q_+(sigma phi) /
2 q(phi)``, and with respect to the law of latents and coin its density is

    p(phi) P(sigma | phi) / (q_+(sigma phi) / 2) = p(phi) / q(phi) = w(phi),

so a kernel that moves in latent space needs the same weight as one that does not. A field that comes from elsewhere
gets latents by a draw from ``P(sigma | phi)``.

:class:`SymmetrisedPath` cannot compute q_+. There a path belongs to ``sigma phi``, and the target is multiplied by a
conditional probability ``P(sigma | phi)`` of one's choice, which leaves its law of phi alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmmc.core.rng import normal, signs, uniform
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals.base import LatentProposal, Measurable, Paths, Steppable
from dmmc.theory.lattice import Lattice

NEGLIGIBLE = -30.0
"""Log of the ratio of the sectors' densities below which the smaller one does not count: 1e-13."""

_PREIMAGE_ITERATIONS = 3

BaseT_co = TypeVar("BaseT_co", bound=LatentProposal, covariant=True)
MeasurableT = TypeVar("MeasurableT", bound=Measurable)
SteppableT = TypeVar("SteppableT", bound=Steppable)

Measure = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Latents of the base ``(n, ...)`` to its fields, reported log q ``(n,)`` and delta ``(n,)``."""


@dataclass(frozen=True)
class Symmetrised(LatentProposal, Generic[BaseT_co]):
    """The Z2 group average of a proposal.

    Latents are ``(n, 1 + k)``: one number whose sign is the coin, and the k latents of the base. It can be measured,
    and given other steps, if the base can.

    Args:
        base: any proposal with latents; it makes the fields of the sector sigma = 1.
    """

    base: BaseT_co

    @property
    def lattice(self) -> Lattice:
        return self.base.lattice

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def inexact(self) -> str:
        return self.base.inexact

    @property
    def evaluations(self) -> int:
        """Twice those of the base, since every field is also weighed in the other sector."""
        return 2 * self.base.evaluations

    def describe(self) -> dict[str, Any]:
        return {"name": "symmetrised", "group": "z2", "proposal": self.base.describe()}

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (1 + math.prod(self.base.latent_shape),)

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        inner = self.base.latents(n, generator)
        return self._joined(self._coin(n, generator), inner)

    @torch.no_grad()
    def push(self, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        sign, inner = self._split(latents)
        phi, here = self.base.push(inner, generator)
        _, there = self.base.pull(-phi, generator)
        return column(sign, phi) * phi, _average(here, there)

    @torch.no_grad()
    def pull(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents of given fields, of the sector that is drawn from ``P(sigma | phi)``, and log q.

        Without ``generator`` the draw is the same at every call.
        """
        generator = torch.Generator(self.device).manual_seed(0) if generator is None else generator
        (latents, plus), (mirrored, minus) = (self.base.pull(x, generator) for x in (phi, -phi))
        u = uniform((len(phi),), generator, device=self.device)
        is_plus = u < torch.sigmoid(plus - minus)
        size = self._coin(len(phi), generator).abs()
        inner = torch.where(column(is_plus, latents), latents, mirrored)
        return self._joined(torch.where(is_plus, size, -size), inner), _average(plus, minus)

    def log_q(self, phi: Tensor) -> Tensor:
        """Log density ``(n,)`` float64 of given fields ``(n, *lattice)``: that of the average, which needs no draw."""
        return _average(self.base.log_q(phi), self.base.log_q(-phi))

    def rotate(self, latents: Tensor, angle: float, generator: torch.Generator, share: float = 1.0) -> Tensor:
        """Rotate the latents of the base, and toss the coin anew."""
        _, inner = self._split(latents)
        rotated = self.base.rotate(inner, angle, generator, share)
        return self._joined(self._coin(len(latents), generator), rotated)

    # The measurement of delta, for a base that is Measurable

    def to_float64(self: Symmetrised[MeasurableT]) -> Symmetrised[MeasurableT]:
        return replace(self, base=self.base.to_float64())

    def step_doubling(
        self: Symmetrised[MeasurableT], latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _average_error(self, latents, lambda z: self.base.step_doubling(z, generator, probes))

    def by_determinant(self: Symmetrised[MeasurableT], latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _average_error(self, latents, self.base.by_determinant)

    # The choice of steps, for a base that is Steppable

    @property
    def method(self: Symmetrised[SteppableT]) -> str:
        return self.base.method

    @property
    def schedule(self: Symmetrised[SteppableT]) -> tuple[int, ...]:
        return self.base.schedule

    @property
    def intervals(self: Symmetrised[SteppableT]) -> int:
        return self.base.intervals

    @property
    def machine_code(self: Symmetrised[SteppableT]) -> bool:
        return self.base.machine_code

    @property
    def known_errors(self: Symmetrised[SteppableT]) -> FlowErrors | None:
        return self.base.known_errors

    def with_schedule(self: Symmetrised[SteppableT], schedule: tuple[int, ...]) -> Symmetrised[SteppableT]:
        return replace(self, base=self.base.with_schedule(schedule))

    def interval_errors(
        self: Symmetrised[SteppableT], latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> Tensor:
        """The errors in the sector in which the fields are made; those of the other sector are of the same size."""
        return self.base.interval_errors(self._split(latents)[1], generator, probes)

    def _coin(self, n: int, generator: torch.Generator) -> Tensor:
        return normal((n,), generator, self.dtype, self.device)

    @staticmethod
    def _joined(coin: Tensor, inner: Tensor) -> Tensor:
        return torch.cat([coin.to(inner).unsqueeze(1), inner.flatten(1)], 1)

    def _split(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The signs ``(n,)`` and the latents of the base."""
        sign = torch.where(latents[:, 0] < 0, -1.0, 1.0).to(latents)
        return sign, latents[:, 1:].reshape(-1, *self.base.latent_shape)


@dataclass(frozen=True)
class SymmetrisedPath(Paths):
    """Paths to both sectors, from paths to one of them.

    ``P(sigma | phi)`` is the logistic function of ``sigma`` times the log odds that the base gives.

    Args:
        base: the paths of the sector sigma = 1.
    """

    base: Paths

    @property
    def lattice(self) -> Lattice:
        return self.base.lattice

    @property
    def inexact(self) -> str:
        return self.base.inexact

    @property
    def n_steps(self) -> int:
        return self.base.n_steps

    @property
    def evaluations(self) -> int:
        return self.base.evaluations

    def describe(self) -> dict[str, Any]:
        return {"name": "symmetrised", "group": "z2", "proposal": self.base.describe()}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        phi, log_q = self.base.sample(n, generator)
        sign = signs((n,), generator, phi.dtype, phi.device)
        return column(sign, phi) * phi, log_q - math.log(2) - self.log_sign(column(sign, phi) * phi, sign)

    @torch.no_grad()
    def draw_log_q(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        self.lattice.check(phi)
        sign = self.draw_sign(phi, generator)
        log_q = self.base.draw_log_q(column(sign, phi) * phi, generator)
        return log_q - math.log(2) - self.log_sign(phi, sign).to(log_q)

    @torch.no_grad()
    def refresh(self, phi: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Refresh ``sigma phi`` with sigma drawn from ``P(sigma | phi)``; the new field is in the same sector."""
        sign = self.draw_sign(phi, generator)
        new, log_ratio = self.base.refresh(column(sign, phi) * phi, generator)
        new = column(sign, new).to(new) * new
        change = self.log_sign(new, sign.to(new)) - self.log_sign(phi, sign).to(new)
        return new, log_ratio + change

    def up_to(self, level: float) -> SymmetrisedPath:
        return replace(self, base=self.base.up_to(level))

    def rough_fields(self, n: int, generator: torch.Generator) -> Tensor:
        phi = self.base.rough_fields(n, generator)
        return column(signs((n,), generator, phi.dtype, phi.device), phi) * phi

    @torch.no_grad()
    def calibrated(self, phi: Tensor, generator: torch.Generator) -> SymmetrisedPath:
        self.lattice.check(phi, "calibration fields")
        sign = self.draw_sign(phi, generator)
        return replace(self, base=self.base.calibrated(column(sign, phi) * phi, generator))

    def log_odds(self, phi: Tensor) -> Tensor:
        """Even odds: the two sectors are alike."""
        return torch.zeros(len(phi), dtype=phi.dtype, device=phi.device)

    def log_sign(self, phi: Tensor, sign: Tensor) -> Tensor:
        """``log P(sign | phi)``, ``(n,)``, of fields ``(n, *lattice)``."""
        return logsigmoid(sign * self.base.log_odds(phi))

    def draw_sign(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """The sector that each field belongs to, ``(n,)``, drawn from ``P(sigma | phi)``."""
        plus = torch.ones(len(phi), dtype=phi.dtype, device=phi.device)
        u = uniform((len(phi),), generator, device=phi.device)
        return torch.where(u.log() < self.log_sign(phi, plus), plus, -plus)


def column(x: Tensor, like: Tensor) -> Tensor:
    """``x`` ``(n,)`` with axes of length 1 appended, to be broadcast against ``like`` ``(n, ...)``."""
    return x.view(-1, *(1,) * (like.ndim - 1))


def _average(plus: Tensor, minus: Tensor) -> Tensor:
    """The log of the average of two densities."""
    return torch.logaddexp(plus, minus) - math.log(2)


@torch.no_grad()
def _average_error(
    proposal: Symmetrised[MeasurableT], latents: Tensor, measure: Measure
) -> tuple[Tensor, Tensor, Tensor]:
    """Fields, reported log q and the delta of the average, from a measurement of the delta of the base.

    In the sector in which the field is not made, the log q of the way back from the mirrored field is reported. The
    density of the discrete map there is known at the latents that this map takes to the mirrored field.
    """
    base = proposal.base
    sign, inner = proposal._split(latents)
    phi, here, delta_here = measure(inner)
    there = base.pull(-phi)[1]
    delta_there = torch.zeros_like(there)
    counts = there - here > NEGLIGIBLE
    if bool(counts.any()):
        _, forth, error = measure(_preimage(base, -phi[counts]))
        delta_there[counts] = there[counts] - forth + error
    reported = _average(here, there)
    return column(sign, phi) * phi, reported, reported - _average(here - delta_here, there - delta_there)


def _preimage(base: LatentProposal, phi: Tensor) -> Tensor:
    """The latents that the discrete map takes to ``phi``.

    Those of the way back are a little off; every iteration reduces what is left by a large factor.
    """
    start = base.pull(phi)[0]
    z = start
    for _ in range(_PREIMAGE_ITERATIONS):
        z = z + start - base.pull(base.push(z)[0])[0]
    return z

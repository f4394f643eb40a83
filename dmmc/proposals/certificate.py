"""How exact a chain of flow proposals is: the measured numbers and what follows from them.

Two approximations stand between a flow and exactness: the integrator, whose discrete map T_n has a density that is not
quite the log q it reports, and floating-point arithmetic. With

    delta(phi) = reported log q(phi) - log of the density of the discrete map at phi

a chain samples ``p exp(-delta)`` up to normalisation, so an observable is off by ``|Cov(O, delta)| <= std(O)
std(delta)`` to first order: ``std(delta)`` bounds the bias in units of ``std(O)``. It is measured on proposals, in
float64, by :func:`dmmc.proposals.certify.certify`:

* by the **determinant**: log q of the discrete map is ``log Normal(z; 0, 1) - ln |det dphi/dz|``, with the whole
  Jacobian from central differences. Their error of 1e-8 is the only approximation, but it takes 2V integrations per
  field;
* by **step doubling** (:mod:`dmmc.proposals.step_doubling`), at any volume. Its random probes add noise, so its spread
  is the larger one: against the determinant 1.0 to 2.7 times as large on 8^2, 1.7 and 6 times on 16^2 (trained models
  of one and two sectors, std(delta) from 1e-7 to 4e-4, both methods, 16 probes; with 2 probes 1.3 to 17 times). Where
  delta is large, terms of second order count; random networks on 6 to 36 sites gave 0.8 to 1.1.

Arithmetic is measured separately (``rounding``): it is noise, with no known correlation with any observable, yet it is
counted as if it had one.

This module works with NumPy alone, so that stored certificates are read without loading torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from dmmc.core.records import Record

CONFIDENCE = 0.95
"""Confidence of every limit and interval of this module."""

MIN_DETERMINANTS = 8
"""Fewer determinants only check step doubling; this many take its place."""

Array = NDArray[np.float64]


def spread_limits(x: Array) -> tuple[float, float]:
    """95 % confidence interval of the standard deviation that ``x``, at least two normal numbers, was drawn with.

    It follows from ``(n - 1) s^2 / sigma^2`` being chi^2 with n - 1 degrees of freedom.
    """
    n, tail = len(x), (1 - CONFIDENCE) / 2
    # chdtri is the inverse of the survival function.
    low, high = (math.sqrt((n - 1) / float(chdtri(n - 1, p))) for p in (tail, 1 - tail))
    return low * float(np.std(x, ddof=1)), high * float(np.std(x, ddof=1))


def spread_upper_limit(x: Array) -> float:
    """The standard deviation that is exceeded with 5 % probability; see :func:`spread_limits`."""
    return float(np.std(x, ddof=1)) * limit_factor(len(x))


def limit_factor(n: int) -> float:
    """Upper limit over estimate of a standard deviation, from ``n`` normal numbers."""
    return math.sqrt((n - 1) / float(chdtri(n - 1, CONFIDENCE)))


@dataclass(frozen=True)
class CertificateSummary(Record):
    """The numbers of a certificate that people read.

    Attributes:
        method: which delta counts: ``determinant`` or ``step doubling``.
        proposals: on how many proposals it was measured.
        std_delta: std(delta) of the integrator.
        std_delta_95: 95 % confidence interval of that.
        std_rounding: standard deviation of the rounding error of log q.
        limit_95: bound on the bias of an observable in units of its standard deviation, with 95 % confidence.
        doubling_over_determinant: ratio of the two estimates of std(delta) on the proposals that have both; None if
            fewer than two have.
        reversal_phi: largest change of a field on the way to the latent space and back.
        reversal_log_q: largest difference of log q between the two ways.
    """

    method: str
    proposals: int
    std_delta: float
    std_delta_95: tuple[float, float]
    std_rounding: float
    limit_95: float
    doubling_over_determinant: float | None
    reversal_phi: float
    reversal_log_q: float

    def __str__(self) -> str:
        return (
            f"bias from integrator and rounding: at most {self.limit_95:.1e} of the standard deviation of an "
            "observable (95 % confidence)"
        )


@dataclass(frozen=True)
class Certificate:
    """What :func:`dmmc.proposals.certify.certify` measured on n proposals; all arrays are float64.

    Attributes:
        delta: by step doubling, ``(n,)``.
        delta_determinant: by the determinant, of the first m <= n of the same proposals, ``(m,)``.
        rounding: error of log q that is due to arithmetic in the model's own type, ``(n,)``.
        reversal_phi: largest ``|phi - phi'|`` of a field, ``(n,)``, where phi' is what becomes of phi on the way to the
            latent space and back in the model's own arithmetic.
        reversal_log_q: difference of log q between the way there and the way back, ``(n,)``.
    """

    delta: Array
    delta_determinant: Array
    rounding: Array
    reversal_phi: Array
    reversal_log_q: Array

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, as a run file stores them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def stored(cls, arrays: Mapping[str, Array]) -> Certificate | None:
        """The certificate among the arrays of a run file; None if there is none."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: arrays[name] for name in names}) if all(name in arrays for name in names) else None

    @property
    def method(self) -> str:
        """Which delta counts: ``determinant`` or ``step doubling``."""
        return "determinant" if len(self.delta_determinant) >= MIN_DETERMINANTS else "step doubling"

    @property
    def _delta(self) -> Array:
        return self.delta_determinant if self.method == "determinant" else self.delta

    @property
    def std(self) -> float:
        """std(delta) of the integrator."""
        return float(np.std(self._delta, ddof=1))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of std(delta)."""
        return spread_limits(self._delta)

    @property
    def std_rounding(self) -> float:
        """Standard deviation of the rounding error of log q."""
        return float(np.std(self.rounding, ddof=1))

    @property
    def limit_delta(self) -> float:
        """Upper limit on std(delta), with 95 % confidence."""
        return spread_upper_limit(self._delta)

    @property
    def limit_rounding(self) -> float:
        """Upper limit on the standard deviation of the rounding error, with 95 % confidence."""
        return spread_upper_limit(self.rounding)

    @property
    def limit(self) -> float:
        """Bound on the bias of an observable in units of its standard deviation: both limits, added in quadrature."""
        return math.hypot(self.limit_delta, self.limit_rounding)

    @property
    def way_back(self) -> float:
        """How much log q differs between the way to the latents and the way to the field: the root mean square.

        A chain of proposals goes one way only. A cycle or a mixture of kernels goes back to the latents in every step,
        and accepts up to ``exp(way_back)`` times too often or too seldom.
        """
        return math.sqrt(float(np.mean(np.square(self.reversal_log_q))))

    def bias_bound(self, observable: Array) -> float:
        """Bound on the bias of the mean of an observable, from its measurements in a chain, of any shape."""
        return float(np.std(observable)) * self.limit

    def summary(self) -> CertificateSummary:
        """The numbers that people read."""
        m = len(self.delta_determinant)
        ratio = float(np.std(self.delta[:m]) / np.std(self.delta_determinant)) if m > 1 else None
        return CertificateSummary(
            method=self.method,
            proposals=len(self._delta),
            std_delta=self.std,
            std_delta_95=self.interval,
            std_rounding=self.std_rounding,
            limit_95=self.limit,
            doubling_over_determinant=ratio,
            reversal_phi=float(self.reversal_phi.max()),
            reversal_log_q=float(np.abs(self.reversal_log_q).max()),
        )

"""Whether a chain visits all parts of the target as often as it should: signs, modes, the zero mode."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, Estimate, gamma_method
from dmmc.diagnostics.observables import z_score
from dmmc.diagnostics.series import as_series

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Z2Balance:
    """How a Z2-symmetric chain divides its time between the two signs of M; see :func:`z2_balance`.

    Attributes:
        fraction: fraction of draws with M > 0, its error including autocorrelations; M = 0 counts one half.
        z: its deviation from 1/2 in standard errors; nan if the error is unknown, as for a single sign.
        flips: number of sign changes of M along all chains together.
    """

    fraction: Estimate
    z: float
    flips: int

    @property
    def one_sided(self) -> bool:
        """Whether only one sign ever occurred."""
        return self.fraction.value in (0.0, 1.0)


def z2_balance(M: ArrayLike, S: float = 1.5) -> Z2Balance:
    """The fraction of draws with M > 0, against the 1/2 that an action with ``S(-phi) = S(phi)`` demands.

    Args:
        M: mean field, ``(chain, draw)``.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.gamma_method`.
    """
    sign = np.sign(as_series(M, "M"))
    fraction = gamma_method((1 + sign) / 2, S, "the sign of M")
    z = (fraction.value - 0.5) / fraction.error if fraction.error > 0 else math.nan
    return Z2Balance(fraction, z, int((sign[:, 1:] * sign[:, :-1] < 0).sum()))


@dataclass(frozen=True)
class ModeBalance:
    """Two histograms of M with the bins of :func:`mode_balance`; all arrays but ``edges`` have shape ``(bins,)``.

    Attributes:
        edges: inner edges of the bins, ``(bins - 1,)``; the outer bins are open.
        fraction: fraction of the chain's draws in each bin.
        reference: fraction of the reference's draws in each bin.
        error: standard error of their difference.
        z: their difference in standard errors; nan where an error is unknown.
    """

    edges: Array
    fraction: Array
    reference: Array
    error: Array
    z: Array

    @property
    def worst(self) -> int:
        """The bin with the largest deviation; -1 if no error is known."""
        return -1 if np.isnan(self.z).all() else int(np.nanargmax(abs(self.z)))

    def interval(self, k: int) -> str:
        """Bin k in words, ``"M < -0.5"`` or ``"-0.5 < M < 0.2"``."""
        low = f"{self.edges[k - 1]:.3g} < " if k > 0 else ""
        high = f" < {self.edges[k]:.3g}" if k < len(self.edges) else ""
        return f"{low}M{high}" if low or high else "any M"


def mode_balance(M: ArrayLike, M_reference: ArrayLike, bins: int = 8, S: float = 1.5) -> ModeBalance:
    """Whether the chain populates each part of the range of M as the reference does.

    The bins hold equal parts of the reference. The errors are those that a bin has if both sides agree: each side has
    the variance ``r (1 - r) 2 tau_int / n``, with their common fraction r and its own tau_int of M. They are therefore
    known for an empty bin as well.

    Args:
        M: mean field of the chain, ``(chain, draw)``.
        M_reference: mean field of the reference, ``(chain, draw)``; it may have other numbers of both.
        bins: number of bins.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.gamma_method`; also if there are fewer than two bins.
    """
    if bins < 2:
        raise DmmcError(f"a comparison of histograms needs two bins or more, got {bins}")
    chain, reference = as_series(M, "M"), as_series(M_reference, "M of the reference")
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))

    def fractions(x: Array) -> Array:
        counts = np.bincount(np.searchsorted(edges, x.ravel(), side="right"), minlength=len(edges) + 1)
        return np.asarray(counts / x.size)

    here, there = fractions(chain), fractions(reference)
    with warnings.catch_warnings():
        # The caller looks at bins; whether M is sampled well is said where M itself is estimated.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        taus = [gamma_method(x, S, "M").tau_int for x in (chain, reference)]
    n_here, n_there = (x.size / (2 * max(tau, 0.5)) for x, tau in zip((chain, reference), taus, strict=True))
    common = (n_here * here + n_there * there) / (n_here + n_there)
    error = np.sqrt(common * (1 - common) * (1 / n_here + 1 / n_there))
    z = np.divide(here - there, error, out=np.full(len(error), math.nan), where=error > 0)
    return ModeBalance(edges, here, there, error, z)


@dataclass(frozen=True)
class ZeroMode:
    """The zero mode of a chain and of a reference; see :func:`zero_mode`.

    Attributes:
        chain: its mean square in the chain.
        reference: its mean square in the reference.
        z: their difference in standard errors; nan if an error is unknown.
    """

    chain: Estimate
    reference: Estimate
    z: float


def zero_mode(g0: ArrayLike, g0_reference: ArrayLike, S: float = 1.5) -> ZeroMode:
    """``G(0) = <|phi(p = 0)|^2> = V <M^2>`` against a reference; the zero mode is what models get wrong first.

    Args:
        g0: ``M2``, or ``two_point[..., 0]``, of the chain, ``(chain, draw)``.
        g0_reference: the same of the reference.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.gamma_method`.
    """
    chain, reference = gamma_method(g0, S, "zero mode"), gamma_method(g0_reference, S, "zero mode of the reference")
    return ZeroMode(chain, reference, z_score(chain, reference))

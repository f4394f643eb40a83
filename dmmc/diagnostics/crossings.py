"""Where the Binder cumulants of different lattice sizes cross: the place of a continuous transition."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning
from dmmc.diagnostics.series import as_array

Array = NDArray[np.float64]

CORRECTIONS = (1.0, 3.0)
"""Range of the exponents with which crossings approach kappa_c, like ``L^-(1/nu + omega)``: 2.4 in the 3d Ising class,
2.8 to 3 in two dimensions, and less at weak coupling, where small lattices are still near the Gaussian theory."""

BAD_FIT = 0.01
"""p-value below which a fit does not describe the data."""


@dataclass(frozen=True)
class BinderCurve:
    """A polynomial through the Binder cumulants of one lattice size.

    Attributes:
        size: L.
        centre: middle of the measured kappa.
        half: half of their range; the polynomial is one in ``t = (kappa - centre) / half``.
        coefficients: coefficients of ``t^0, t^1, ...``.
        chi2: chi^2 of the fit.
        dof: degrees of freedom.
        p_value: probability of a larger chi2; None without degrees of freedom.
    """

    size: int
    centre: float
    half: float
    coefficients: tuple[float, ...]
    chi2: float
    dof: int
    p_value: float | None

    def __call__(self, kappa: ArrayLike) -> Array:
        """U_L at ``kappa``, of any shape."""
        t = (np.asarray(kappa, dtype=np.float64) - self.centre) / self.half
        return np.asarray(polynomial.polyval(t, np.array(self.coefficients)))


@dataclass(frozen=True)
class Crossing:
    """Where the Binder cumulants of two lattice sizes cross.

    Attributes:
        sizes: the two L.
        kappa: the place of the crossing; kappa_c up to finite-size corrections.
        kappa_error: its standard error.
        binder: the cumulant there.
        binder_error: its standard error.
    """

    sizes: tuple[int, int]
    kappa: float
    kappa_error: float
    binder: float
    binder_error: float


@dataclass(frozen=True)
class BinderCrossings:
    """Crossings of neighbouring lattice sizes, and how far they still move with the size.

    Attributes:
        curves: one curve per size, by increasing size.
        crossings: one crossing per pair of neighbouring sizes; the last, :attr:`best`, has the smallest corrections.
        drift: kappa of the last crossing minus that of the one before; nan for a single pair.
        drift_error: its standard error.
        kappa_c: the last crossing plus the remaining drift to infinite volume, the middle of the values for exponents
            in :data:`CORRECTIONS`; for a single pair the crossing itself.
        kappa_c_error: the standard error of the crossing and that of the remaining drift, taken to be uniform between
            those values, in quadrature. For a single pair it does not include finite-size corrections.
    """

    curves: tuple[BinderCurve, ...]
    crossings: tuple[Crossing, ...]
    drift: float
    drift_error: float
    kappa_c: float
    kappa_c_error: float

    @property
    def best(self) -> Crossing:
        """The crossing of the two largest sizes."""
        return self.crossings[-1]


def binder_crossings(
    sizes: Sequence[int],
    kappa: ArrayLike,
    binder: ArrayLike,
    binder_error: ArrayLike,
    rng: np.random.Generator,
    degree: int | None = None,
    samples: int = 1000,
) -> BinderCrossings:
    """Crossings of the Binder cumulants ``U_L(kappa)``, which locate a continuous transition.

    K. Binder, Z. Phys. B 43 (1981) 119. The cumulants of each L are interpolated by a least-squares polynomial in
    kappa. At a crossing the curve of the larger L passes that of the smaller from below. Its error is half of the
    central 68 % interval of a parametric bootstrap, in which all cumulants are drawn anew from their errors.

    Args:
        sizes: L of each row, all different.
        kappa: hopping parameters, ``(n_kappa,)``, all different, at least two; best a few around the crossing.
        binder: U_L, ``(n_sizes, n_kappa)``.
        binder_error: standard errors, ``(n_sizes, n_kappa)``, positive.
        rng: source of randomness for the bootstrap.
        degree: degree of the polynomials; None takes the lowest, up to 3, that describes all sizes (p-values above
            0.05).
        samples: number of samples of the bootstrap.

    Returns:
        The crossings. There is a :class:`DiagnosticsWarning` if no polynomial describes the data, or if more than 5 %
        of the curves of the bootstrap do not cross near the measured range.

    Raises:
        DmmcError: on wrong shapes or values, or if two neighbouring sizes do not cross within the range of kappa.
    """
    from scipy.stats import chi2 as chi2_distribution

    order = np.argsort(sizes)
    L = [int(sizes[k]) for k in order]
    k = as_array(kappa, "kappa").astype(np.float64)
    U, dU = as_array(binder, "binder").astype(np.float64), as_array(binder_error, "binder_error").astype(np.float64)
    if len(set(L)) < max(2, len(L)) or k.ndim != 1 or len(np.unique(k)) < max(2, len(k)):
        raise DmmcError(f"a crossing needs at least two different sizes and two different kappa, got {L} and {k}")
    if U.shape != (len(L), len(k)) or dU.shape != U.shape:
        raise DmmcError(f"binder and its error must have shape ({len(L)}, {len(k)}), got {U.shape} and {dU.shape}")
    if not (np.isfinite(k).all() and np.isfinite(U).all() and (np.isfinite(dU) & (dU > 0)).all()):
        raise DmmcError("kappa and binder must be finite, and every error positive: run longer, or leave the point out")
    if degree is not None and not 1 <= degree < len(k):
        raise DmmcError(f"degree must be from 1 to {len(k) - 1} with {len(k)} kappa, got {degree}")
    if samples < 100:
        raise DmmcError(f"the bootstrap needs at least 100 samples, got {samples}")
    U, dU = U[order], dU[order]
    centre, half = float(k.min() + k.max()) / 2, float(np.ptp(k)) / 2
    t = (k - centre) / half

    def fits(degree: int) -> list[BinderCurve]:
        made = []
        for size, u, error in zip(L, U, dU, strict=True):
            coefficients = polynomial.polyfit(t, u, degree, w=1 / error)
            chi2 = float(np.sum(((u - polynomial.polyval(t, coefficients)) / error) ** 2))
            dof = len(k) - degree - 1
            p = float(chi2_distribution.sf(chi2, dof)) if dof else None
            made.append(BinderCurve(size, centre, half, tuple(coefficients.tolist()), chi2, dof, p))
        return made

    for trial in range(1, min(3, len(k) - 1) + 1) if degree is None else [degree]:
        curves = fits(trial)
        if all(curve.p_value is None or curve.p_value > 0.05 for curve in curves):
            break
    for curve in curves:
        if curve.p_value is not None and curve.p_value < BAD_FIT:
            warnings.warn(
                f"a polynomial of degree {trial} does not describe U_L of L = {curve.size} (p = {curve.p_value:.1g}); "
                "take kappa nearer to the crossing",
                DiagnosticsWarning,
                stacklevel=2,
            )
    drawn = U[..., None] + dU[..., None] * rng.standard_normal((*U.shape, samples))
    resampled = [polynomial.polyfit(t, u, trial, w=1 / error).T for u, error in zip(drawn, dU, strict=True)]
    central = [np.array(curve.coefficients) for curve in curves]

    places, crossings = [], []
    for small, (one, two) in enumerate(pairwise(L)):
        inside = [x for x in _upward_zeros(central[small + 1] - central[small]) if abs(x) <= 1]
        if not inside:
            raise DmmcError(
                f"U_L of L = {one} and {two} do not cross between kappa = {k.min():g} and {k.max():g}; "
                + _advice(U[small + 1] - U[small])
            )
        x = min(inside, key=abs)
        there = _zeros_near(resampled[small + 1] - resampled[small], x)
        heights = np.asarray(polynomial.polyval(there, resampled[small].T, tensor=False), dtype=np.float64)
        if np.isnan(there).mean() > 0.05:
            warnings.warn(
                f"U_L of L = {one} and {two} cross near the range of kappa in only {np.isfinite(there).mean():.0%} of "
                "the samples of the bootstrap, so that the error may be too small; run longer, or take a wider range",
                DiagnosticsWarning,
                stacklevel=2,
            )
        height = float(polynomial.polyval(x, central[small]))
        crossings.append(Crossing((one, two), centre + half * x, half * _spread(there), height, _spread(heights)))
        places.append(there)
    last = crossings[-1]
    if len(crossings) == 1:
        return BinderCrossings(tuple(curves), tuple(crossings), math.nan, math.nan, last.kappa, last.kappa_error)
    drift, drifts = last.kappa - crossings[-2].kappa, places[-1] - places[-2]
    # A geometric series: the sizes are taken to grow on by the factor of the last two pairs.
    most, least = (1 / (math.sqrt(L[-1] / L[-3]) ** exponent - 1) for exponent in CORRECTIONS)
    rest = (most + least) / 2
    error = math.hypot(half * _spread(places[-1] + rest * drifts), (most - least) * drift / math.sqrt(12))
    return BinderCrossings(
        tuple(curves), tuple(crossings), drift, half * _spread(drifts), last.kappa + rest * drift, error
    )


def _upward_zeros(coefficients: Array) -> list[float]:
    """Where a polynomial passes zero from below."""
    roots = polynomial.polyroots(coefficients)
    real = roots[np.isreal(roots)].real
    return [float(x) for x in real if polynomial.polyval(x, polynomial.polyder(coefficients)) > 0]


def _zeros_near(coefficients: Array, start: float) -> Array:
    """The upward zero of each of many polynomials ``(n, degree + 1)`` that Newton's method reaches from ``start``.

    It is nan where there is none within the range of kappa, extended by half of it on both sides.
    """
    c = coefficients.T
    slope = polynomial.polyder(c)
    x = np.full(c.shape[1], start)
    with np.errstate(all="ignore"):  # a polynomial without a zero sends x to infinity
        for _ in range(30):
            x = x - polynomial.polyval(x, c, tensor=False) / polynomial.polyval(x, slope, tensor=False)
        arrived = abs(polynomial.polyval(x, c, tensor=False)) < 1e-9
        upward = polynomial.polyval(x, slope, tensor=False) > 0
    return np.where(arrived & upward & (abs(x) <= 2), x, math.nan)


def _spread(values: Array) -> float:
    """Half of the central 68 % interval, which is the standard deviation of Gaussian values; nan are left out."""
    low, high = np.nanpercentile(values, [15.87, 84.13])
    return float(high - low) / 2


def _advice(difference: Array) -> str:
    """What to do about two curves that do not cross, from the larger size less the smaller at each kappa."""
    if (difference < 0).all():
        return "U of the larger size is smaller everywhere: take larger kappa"
    if (difference > 0).all():
        return "U of the larger size is larger everywhere: take smaller kappa"
    return "the data are too noisy to tell: run longer"

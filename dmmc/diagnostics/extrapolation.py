"""Extrapolation of estimates to a step size of zero, in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import Estimate


@dataclass(frozen=True)
class Extrapolation:
    """A polynomial in the step size, fitted to independent estimates.

    Attributes:
        value: at step size 0.
        error: its standard error.
        slope: coefficient of the first power of the step size.
        chi2: weighted sum of the squared residuals.
        p_value: probability of a larger chi2 if the polynomial is right; nan where no degree of freedom is left.
    """

    value: float
    error: float
    slope: float
    chi2: float
    p_value: float


def to_zero_step(steps: Sequence[float], estimates: Sequence[Estimate], order: int = 1) -> Extrapolation:
    """Fit ``value + slope h + ...`` to the estimates of runs with different step sizes.

    Args:
        steps: step sizes h, positive and different.
        estimates: of one quantity, from independent runs.
        order: highest power of h; 1 for small steps of Euler and Maruyama.

    Raises:
        DmmcError: if there are fewer steps than coefficients, steps are not positive or occur twice, or an error is
            unknown.
    """
    from scipy.stats import chi2 as chi2_distribution  # slow to import, which not everyone needs

    h = np.asarray(steps, dtype=np.float64)
    if order < 1 or len(h) != len(estimates) or len(h) < order + 1:
        raise DmmcError(
            f"an extrapolation of order {order} needs {order + 1} step sizes or more, each with its estimate; got "
            f"{len(h)} and {len(estimates)}"
        )
    if not (np.isfinite(h) & (h > 0)).all() or len(set(h.tolist())) < len(h):
        raise DmmcError(f"step sizes must be positive and different, got {h.tolist()}")
    y, error = (np.array([getattr(x, name) for x in estimates]) for name in ("value", "error"))
    if not (np.isfinite(y).all() and (np.isfinite(error) & (error > 0)).all()):
        raise DmmcError("an extrapolation needs estimates with known errors; run longer")
    design = h[:, None] ** np.arange(order + 1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    fitted = covariance @ design.T @ (y / error)
    chi2 = float(np.square(y / error - design @ fitted).sum())
    free = len(h) - order - 1
    p_value = float(chi2_distribution.sf(chi2, free)) if free else math.nan
    return Extrapolation(float(fitted[0]), math.sqrt(covariance[0, 0]), float(fitted[1]), chi2, p_value)

"""The widths of the reverse kernels of a path, and their measurement on given fields.

The kernels are narrower than those of the Gaussian reference by a *spectrum*, ``<|D N(p)|^2>``, and by a *precision*
``alpha + beta u^2`` on the sites; see :mod:`dmmc.proposals.path`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_PRECISION = 0.05
"""Floor of ``alpha + beta u^2``, for a fitted alpha that is negative."""


@dataclass(frozen=True)
class Calibration:
    """The numbers by which the reverse kernels are narrower than those of the Gaussian reference, for each step k.

    Attributes:
        spectrum: ``<|D N(p)|^2>`` at the upper end of the step, ``(n_steps, n_orbits)`` float64.
        precision: alpha and beta, ``(n_steps, 2)`` float64.
    """

    spectrum: Tensor
    precision: Tensor

    def fingerprint(self) -> str:
        """SHA-256 of the numbers."""
        return hashlib.sha256(torch.cat([self.spectrum, self.precision], 1).cpu().numpy().tobytes()).hexdigest()

    def shortened(self, n_steps: int, fraction: float) -> Calibration:
        """The calibration of the first ``n_steps`` steps, of the last of which only a ``fraction`` is taken.

        A shorter step departs from the Gaussian reference in proportion.
        """
        precision = self.precision[:n_steps].clone()
        gaussian = precision.new_tensor([1.0, 0.0])
        precision[-1] = gaussian + fraction * (precision[-1] - gaussian)
        return Calibration(self.spectrum[:n_steps], precision)


SINGULAR = 1e-12
"""Determinant of the normal equations, relative to the product of their diagonal, below which they are singular."""


def fit_precision(u2: Tensor, residual2: Tensor) -> Tensor:
    """The alpha and beta that make residuals of precision ``alpha + beta u^2`` most likely, by Newton's method.

    The likelihood, ``sum [log q - q residual^2] / 2``, is concave in both. With few residuals the noise of the fit
    would do more harm than the fit does good: of (1, 0), (alpha, 0) and (alpha, beta) the one with the best Akaike
    criterion is taken. A negative beta, which a poor network may give, would propose ever wilder fields where u is
    large, and is never taken.

    Args:
        u2: squares of the expected field, any shape.
        residual2: squares of the residuals, the same shape.

    Returns:
        ``(2,)``.
    """
    u, z = u2.flatten(), residual2.flatten()
    gaussian = z.new_tensor([1.0, 0.0])
    theta = constant = gaussian / z.mean()

    def precision(theta: Tensor) -> Tensor:
        return (theta[0] + theta[1] * u).clamp(min=LEAST_PRECISION)

    for _ in range(8):
        inverse = 1 / precision(theta)
        # The normal equations of two parameters by hand: what LAPACK returns for them may differ in its last digits
        # from call to call, and a chain is resumed only with the very same calibration.
        weight, slope = inverse.square(), inverse - z
        aa, ab, bb = weight.sum(), (weight * u).sum(), (weight * u.square()).sum()
        a, b = slope.sum(), (slope * u).sum()
        determinant = aa * bb - ab * ab
        if not bool(determinant > SINGULAR * aa * bb):  # u^2 is the same everywhere: alpha alone can be fitted
            theta = theta + torch.stack([a / aa, torch.zeros_like(a)])
        else:
            theta = theta + torch.stack([bb * a - ab * b, aa * b - ab * a]) / determinant

    def gain(theta: Tensor, n_parameters: int) -> float:
        q = precision(theta)
        value = float(0.5 * (q.log() - q * z).sum()) - n_parameters
        return value if math.isfinite(value) and float(theta[1]) >= 0 else -math.inf

    return max((gain(gaussian, 0), 0, gaussian), (gain(constant, 1), 1, constant), (gain(theta, 2), 2, theta))[2]

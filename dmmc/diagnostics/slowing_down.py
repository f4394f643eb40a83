"""Critical slowing down: how autocorrelation times grow towards a transition, and what that costs.

``tau_int = c xi^z`` with the dynamical exponent z, about 2 for HMC at a fixed trajectory length. Every tau_int is in
the lattice convention (white series: 0.5).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning
from dmmc.diagnostics.series import as_array

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted ``tau = c x^z``.

    Attributes:
        z: the exponent.
        z_error: its standard error, times ``inflation``.
        c: the prefactor.
        c_error: its standard error, times ``inflation``; strongly correlated with that of z.
        pivot: the x at which the fitted tau and z are uncorrelated.
        pivot_error: relative standard error of tau there, times ``inflation``.
        chi2: chi^2 of the fit.
        dof: degrees of freedom, the number of points minus two.
        p_value: probability of a larger chi2 if the law and the errors are right; nan without degrees of freedom.
        inflation: the factor ``max(1, sqrt(chi2 / dof))`` in all errors, as the Particle Data Group has it.
    """

    z: float
    z_error: float
    c: float
    c_error: float
    pivot: float
    pivot_error: float
    chi2: float
    dof: int
    p_value: float
    inflation: float

    def __call__(self, x: ArrayLike) -> Array:
        """The fitted tau at ``x``, of any shape."""
        return np.asarray(self.c * np.asarray(x, dtype=np.float64) ** self.z)

    def error(self, x: ArrayLike) -> Array:
        """Standard error of the fitted tau at ``x``, of any shape."""
        distance = np.log(np.asarray(x, dtype=np.float64) / self.pivot)
        return self(x) * np.hypot(self.pivot_error, self.z_error * distance)


def fit_power_law(
    x: ArrayLike, tau: ArrayLike, tau_error: ArrayLike, x_error: ArrayLike | None = None, name: str = "tau_int"
) -> PowerLaw:
    """Fit ``tau = c x^z`` with errors on both axes.

    The fit is a straight line in logarithms. There the errors of tau_int, which are proportional to tau_int itself
    (Wolff, hep-lat/0306017, Eq. 42), do not favour points that fluctuated downwards. With errors on x, the true
    ``ln x`` of each point is a parameter of the fit, too (York, Am. J. Phys. 37 (1969) 367; here by
    ``scipy.optimize.least_squares``). The errors of x and tau are taken to be independent.

    Args:
        x: correlation lengths or lattice sizes, ``(n,)``, positive.
        tau: autocorrelation times, ``(n,)``, positive. Leave out lower bounds.
        tau_error: their standard errors, ``(n,)``, positive.
        x_error: standard errors of x, ``(n,)``; None or zeros if x is exact.
        name: what messages call tau.

    Returns:
        The fit. Two points always lie on a power law: z then has an error, but nothing has been tested, and there is a
        :class:`DiagnosticsWarning`.

    Raises:
        DmmcError: on shapes that differ, values that are not positive and finite, fewer than two different x, or
            errors of x so large that they leave z undetermined.
    """
    from scipy.optimize import least_squares
    from scipy.stats import chi2 as chi2_distribution

    given = [("x", x), (name, tau), (f"the error of {name}", tau_error), ("the error of x", x_error)]
    values = [as_array(0.0 if a is None else a, what).astype(np.float64) for what, a in given]
    x, tau, tau_error = values[:3]
    x_error = np.broadcast_to(values[3], x.shape) if x_error is None else values[3]
    if x.ndim != 1 or not x.shape == tau.shape == tau_error.shape == x_error.shape:
        shapes = ", ".join(str(a.shape) for a in (x, tau, tau_error, x_error))
        raise DmmcError(f"x, {name} and their errors must all have shape (n,), got {shapes}")
    for what, a in (("x", x), (name, tau), (f"the error of {name}", tau_error)):
        if not (np.isfinite(a) & (a > 0)).all():
            raise DmmcError(f"{what} must be positive and finite, got {a}; leave out points without an estimate")
    if not (np.isfinite(x_error) & (x_error >= 0)).all():
        raise DmmcError(f"the error of x must be finite and not negative, got {x_error}")
    if len(np.unique(x)) < 2:
        raise DmmcError(f"a power law needs {name} at two different x or more, at three for a test; got x = {x}")
    if len(x) == 2:
        warnings.warn(
            f"the power law of {name} is drawn through two points, so that nothing tests it; add points",
            DiagnosticsWarning,
            stacklevel=2,
        )

    s, t = x_error / x, tau_error / tau
    centre = float(np.average(np.log(x), weights=t**-2))
    u, v = np.log(x) - centre, np.log(tau)
    uncertain = s > 0

    def residuals(parameters: Array) -> Array:
        true = u.copy()
        true[uncertain] = parameters[2:]
        off = (u - true)[uncertain] / s[uncertain]
        return np.concatenate([(v - parameters[0] - parameters[1] * true) / t, off])

    start = polynomial.polyfit(u, v, 1, w=1 / t)
    fit = least_squares(residuals, np.concatenate([start, u[uncertain]]), x_scale="jac", xtol=1e-12, ftol=1e-12)
    a, z = fit.x[:2]
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac)[:2, :2]
    chi2, dof = 2 * float(fit.cost), len(x) - 2
    inflation = max(1.0, math.sqrt(chi2 / dof)) if dof else 1.0
    covariance = covariance * inflation**2
    z_error = math.sqrt(covariance[1, 1])
    if not (fit.success and math.isfinite(z_error)) or np.ptp(u) < 2 * s.max():
        raise DmmcError(f"the errors of x are as large as its spread, so that z of {name} is undetermined; add points")
    # At the pivot tau and z are uncorrelated, which gives the error of c and the band about the fit simple forms.
    shift = -covariance[0, 1] / covariance[1, 1]
    pivot_error = math.sqrt(max(covariance[0, 0] - shift**2 * covariance[1, 1], 0.0))
    pivot = centre + shift
    c = math.exp(a - z * centre)
    return PowerLaw(
        z=float(z),
        z_error=z_error,
        c=c,
        c_error=c * math.hypot(pivot_error, z_error * pivot),
        pivot=math.exp(pivot),
        pivot_error=pivot_error,
        chi2=chi2,
        dof=dof,
        p_value=float(chi2_distribution.sf(chi2, dof)) if dof else math.nan,
        inflation=inflation,
    )


def cost_per_effective_sample(tau_int: float, tau_int_error: float, cost_per_draw: float) -> tuple[float, float]:
    """The cost of one effective sample, ``2 tau_int cost_per_draw``, and its standard error.

    Args:
        tau_int: in draws, in the lattice convention: N draws are worth ``N / (2 tau_int)`` independent ones.
        tau_int_error: its standard error.
        cost_per_draw: cost of one draw of one chain in any unit: seconds, or evaluations of the force or the network.
            It is taken to be exact.

    Raises:
        DmmcError: if a number is negative; nan passes through.
    """
    if min(tau_int, tau_int_error, cost_per_draw) < 0:
        raise DmmcError(
            f"tau_int, its error and the cost must not be negative: {tau_int, tau_int_error, cost_per_draw}"
        )
    return 2 * tau_int * cost_per_draw, 2 * tau_int_error * cost_per_draw

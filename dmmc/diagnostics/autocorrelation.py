"""Means, errors and autocorrelation times of Markov chains: the Gamma method.

U. Wolff, Comput. Phys. Commun. 156 (2004) 143, hep-lat/0306017; equation numbers below refer to that paper.
Series are arrays ``(chain, draw)``: the chains are Wolff's replicas, statistically independent and equally
long. Fluctuations are taken about the mean over all chains, so that chains which disagree with each other (short,
stuck, or not yet thermalised) enlarge the error instead of hiding in it.

Every tau_int here is in the lattice convention, ``1/2 + sum_{t >= 1} rho(t)``: a white series has 0.5.

How long must a series be? From 500 tau_int on (all chains together), the interval of two errors covers the true
tau_int of an AR(1) series with a probability of 95 to 97 %. At 200 tau_int it is 93 to 95 %, and the misses are values
that are too low. Below 50 tau_int there is a :class:`DiagnosticsWarning`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.series import as_series, largest, scaled, transposed

Array = NDArray[np.float64]

# With at least this many chains, the scatter of their means is an error estimate in its own right (good to 1/4).
MANY_CHAINS = 8
# A record shorter than this many tau_int gives errors that are themselves uncertain by a third.
ENOUGH = 50
# Probability with which chains that are alike are taken to be different, or a chain to be stuck.
FALSE_ALARM = 1e-4
# The tail is attached where rho is no more than this many errors above zero.
TAIL_SIGMA = 3


class DiagnosticsWarning(UserWarning):
    """A result that should not be taken at face value; the message says why."""


class AxesWarning(DiagnosticsWarning):
    """A series whose axes look like (draw, chain). It does not concern records whose axes are known."""


@dataclass(frozen=True)
class Estimate:
    """Mean of a Markov chain observable, or a function of such means.

    Attributes:
        value: the estimate.
        error: its standard error, autocorrelations included; nan if the series says nothing about it.
        tau_int: integrated autocorrelation time in draws, lattice convention (white series: 0.5).
        tau_int_error: its standard error, Eq. (42).
        window: largest lag W in the sum (with ``tau_exp`` the rest is in the tail).
        n: number of draws in all chains together.
        resolved: whether the record is long enough for ``tau_int``, and its chains agree. Otherwise tau_int is a lower
            bound or unknown, and a :class:`DiagnosticsWarning` said why.
    """

    value: float
    error: float
    tau_int: float
    tau_int_error: float
    window: int
    n: int
    resolved: bool = True

    @property
    def error_error(self) -> float:
        """Standard error of ``error``: ``error * sqrt((W + 1/2) / n)``."""
        return self.error * math.sqrt((self.window + 0.5) / self.n)

    def __str__(self) -> str:
        return format_value(self.value, self.error)


def unknown(n: int, value: float = math.nan) -> Estimate:
    """An estimate without an error, from n draws that say nothing about it."""
    return Estimate(value, math.nan, math.nan, math.nan, 0, n, resolved=False)


def evaluate(function: Callable[..., float], *means: float) -> float:
    """A function of means; nan where it is not defined, as the Binder cumulant of a field that is always zero."""
    try:
        return float(function(*means))
    except (ArithmeticError, ValueError):
        return math.nan


def autocovariance(delta: Array, max_lag: int) -> Array:
    """Autocovariance at lags 0..max_lag, Eq. (31): pairs within each chain, averaged over all chains."""
    chains, draws = delta.shape
    # Zero padding by max_lag keeps the circular convolution from wrapping; powers of two avoid slow lengths.
    padded = 1 << (draws + max_lag - 1).bit_length()
    power = np.zeros(padded // 2 + 1)
    for row in delta:
        spectrum = np.fft.rfft(row, padded)
        power += spectrum.real**2 + spectrum.imag**2
    products = np.fft.irfft(power, padded)[: max_lag + 1]
    return np.asarray(products / (chains * (draws - np.arange(max_lag + 1))))


def _window(rho: Array, n: int, S: float) -> tuple[int, bool]:
    """The automatic window, Eqs. (50)-(52), from rho at lags 0..w_max; and whether it closed by w_max."""
    w_max = len(rho) - 1
    tau = 0.5 + np.cumsum(rho[1:])
    for lag in range(1, w_max + 1):
        t = tau[lag - 1]
        decay = S / math.log((2 * t + 1) / (2 * t - 1)) if t > 0.5 else 0.0
        if (math.exp(-lag / decay) if decay > 0 else 0.0) < decay / math.sqrt(lag * n) or decay == 0.0:
            # An overrelaxed, alternating series must not be cut off at a negative term: its error would be too small.
            if rho[lag] < -3 / math.sqrt(n) and lag < w_max:
                lag += 1
            return lag, True
    return w_max, False


def _rho_errors(rho: Array, window: int, n: int) -> Array:
    """Standard errors of rho at lags 0, 1, ...: Luscher, hep-lat/0409106, Eq. (E.11), with rho = 0 beyond two windows.

    With ``A(s) = sum_k rho(k) rho(k + s)`` over all integers k the sum there is ``A(0) + A(2t) - 4 rho(t) A(t) +
    2 rho(t)^2 A(0)``.
    """
    kept = rho[: 2 * window + 1]
    size, both_sides = 2 * len(kept) - 1, np.concatenate([kept[:0:-1], kept])
    A = np.zeros(max(2 * len(rho), size))
    A[:size] = autocovariance(both_sides[None], size - 1) * np.arange(size, 0, -1)
    t = np.arange(len(rho))
    variance = A[0] + A[2 * t] - 4 * rho * A[t] + 2 * rho**2 * A[0]
    return np.asarray(np.sqrt(np.maximum(variance, 0) / n))


def stuck_chains(series: Array) -> str:
    """Says which chains never change although the others change too often for this to be chance; empty if none.

    By chance a chain does not change with probability ``(1 - r)^(draws - 1)``, where r is the fraction of steps at
    which the others do. That is likely for a short record of something that rarely changes, such as a sign.
    """
    chains, draws = series.shape
    constant = series.min(axis=1) == series.max(axis=1)
    if not constant.any():
        return ""
    if constant.all():
        return f"no chain ever changed in {draws} draws"
    moving = series[~constant]
    rate = float((moving[:, 1:] != moving[:, :-1]).mean())
    if chains * (1 - rate) ** (draws - 1) > FALSE_ALARM:
        return ""
    return f"of the chains {np.flatnonzero(constant).tolist()}, none ever changed in {draws} draws"


def _apart(delta: Array, gamma: Array, S: float) -> float:
    """Variance of the chain means over the variance that autocorrelations within the chains explain.

    It is 1 if nothing is left to explain, if the chains are too short to tell, or if the excess may be chance: an F
    test whose denominator has the degrees of freedom that Eq. (42) implies.
    """
    chains, draws = delta.shape
    means = delta.mean(axis=1)
    # Products of deviations from each chain's own mean follow from those of deviations from the common mean.
    t, partial = np.arange(len(gamma)), np.concatenate([[0.0], np.cumsum((means[:, None] * delta).sum(axis=0))])
    own = gamma - (partial[draws - t] + partial[-1] - partial[t]) / (chains * (draws - t)) + np.mean(means**2)
    if chains == 1 or not own[0] > 0:
        return 1.0
    window, closed = _window(own / own[0], delta.size, S)
    within = (own[0] + 2 * float(own[1 : window + 1].sum())) * (1 + (2 * window + 1) / draws)
    # A value below that of white noise is an artefact of subtracting the means of chains with few draws.
    within = max(within, float(own[0]) * draws / (draws - 1))
    if not closed or draws * own[0] < 15 * within:  # shorter than 30 tau_int
        return 1.0
    ratio = draws * float(means.var(ddof=1)) / within
    if ratio < 2:
        return 1.0
    from scipy.special import fdtrc  # takes a moment to import, and is seldom needed

    return ratio if fdtrc(chains - 1, delta.size / (2 * window + 1), ratio) < FALSE_ALARM else 1.0


def _disagreement(series: Array, delta: Array, gamma: Array, S: float) -> str:
    """Says what sets some chains apart from the others; empty if nothing does."""
    if stuck := stuck_chains(series):
        return stuck
    ratio = _apart(delta, gamma, S)
    if ratio == 1:
        return ""
    return (
        f"the chains differ: their means scatter {math.sqrt(ratio):.2g} times as much as the autocorrelations within "
        "them explain, as they do in different modes"
    )


def _estimate(value: float, series: Array, noise: float, S: float, tau_exp: float | None, name: str) -> Estimate:
    """The Gamma method for ``value``, which fluctuates like ``series``; that is known with precision ``noise``."""
    if not S > 0:
        raise DmmcError(f"S must be positive (1 to 2 is usual), got {S}")
    if tau_exp is not None and not 0 < tau_exp < math.inf:
        raise DmmcError(f"tau_exp must be a positive number of draws, or None for no tail, got {tau_exp}")
    chains, draws = series.shape
    n = chains * draws
    series, unit = scaled(series)
    delta = series - series.mean()
    variance = float(np.square(delta).sum()) / n
    if not variance > (noise / unit) ** 2:
        warnings.warn(
            f"{name} is constant over all {n} draws, up to rounding: no error can be given; "
            "look at the acceptance rate, the chain may never have moved",
            DiagnosticsWarning,
            stacklevel=3,
        )
        return unknown(n, value)
    # For a long record, the lags that fit the padding to the next power of two are enough, and half the work.
    all_lags = draws - 1 if chains >= MANY_CHAINS else draws // 2
    for max_lag in (min((1 << draws.bit_length()) - draws, all_lags), all_lags):
        gamma = autocovariance(delta, max_lag)
        window, closed = _window(gamma / variance, n, S)
        if (closed and max_lag > 10 * window) or max_lag == all_lags:
            break
    rho = gamma / variance
    tail = tail_error = 0.0
    if tau_exp is not None:
        errors = _rho_errors(rho, window, n)
        beyond = np.flatnonzero(rho[1:-1] < TAIL_SIGMA * errors[1:-1])
        closed, window = len(beyond) > 0, int(beyond[0]) + 1 if len(beyond) else len(rho) - 2
        tail, tail_error = tau_exp * abs(float(rho[window + 1])), tau_exp * float(errors[window + 1])
    total = gamma[0] + 2 * float(gamma[1 : window + 1].sum())
    if total <= 0:  # strong oscillation: uncorrelated draws are then the safe, larger error
        window, total = 0, gamma[0]
    # Bias from subtracting the measured mean, Eq. (49): every Gamma(t) is too small by about total / n.
    variance += total / n
    total *= 1 + (2 * window + 1) / n
    tau = total / (2 * variance)
    tau_error = math.hypot(2 * tau * math.sqrt(max(window + 0.5 - tau, 0) / n), tail_error)
    tau, total = float(tau + tail), float(total + 2 * variance * tail)
    problem, short = _disagreement(series, delta, gamma, S), not closed or n < ENOUGH * tau
    advice = "tau_int is a lower bound only and the error may be too small; run longer"
    if problem:
        advice = "mean and error cannot be trusted; look at the single chains"
    if chains >= MANY_CHAINS and (problem or not closed):
        # Chains are independent, whatever happens inside them, so the scatter of their means needs no window. A
        # window of half a chain gives error_error the value that belongs to a variance of that many means.
        window = draws // 2
        total = draws * float(delta.mean(axis=1).var(ddof=1))
        tau = total / (2 * variance)
        tau_error = 2 * tau * math.sqrt((window + 0.5) / n)
        advice = "the error is from the scatter of the chain means, and tau_int is a lower bound only"
    if short and not problem:
        problem = f"{chains} x {draws} draws are too few for an autocorrelation time of {tau:.3g}"
    if problem:
        warnings.warn(f"{name}: {problem}; {advice}", DiagnosticsWarning, stacklevel=3)
    if axes := transposed(series):
        warnings.warn(f"{name}: {axes}", AxesWarning, stacklevel=3)
    error = unit * math.sqrt(total / n)
    return Estimate(value, error, float(tau), tau_error, window, n, resolved=not problem)


def gamma_method(x: ArrayLike, S: float = 1.5, name: str = "series", *, tau_exp: float | None = None) -> Estimate:
    """Mean of an observable with error and integrated autocorrelation time.

    The window follows Eqs. (50)-(52), the bias correction Eq. (49), and the error of tau_int Eq. (42). Effects of the
    finite length, of relative order tau_int / draws within a chain, are left in the error, on the safe side. There is a
    :class:`DiagnosticsWarning`

    * if all chains together are shorter than 50 tau_int, or the window does not close within half a chain (with 8 or
      more chains it may use the whole chain);
    * if a chain never changes although the others change too often for this to be chance;
    * if the axes look like (draw, chain) (an :class:`AxesWarning`);
    * if the chain means scatter more than the autocorrelations within the chains explain, as for chains in different
      modes: by a factor of two in variance, and such that chance would do it in 1 of 10^4 cases. Chains shorter than
      30 tau_int cannot tell.

    With 8 or more chains, the error is then that of the scatter of the chain means.

    With ``tau_exp`` the sum ends at the first lag W where rho is below three of its errors, and the rest is estimated
    as ``tau_exp rho(W + 1)``: Schaefer, Sommer, Virotta, Nucl. Phys. B 845 (2011) 93, 1009.5228. This adds what Wolff's
    window cuts off when an observable couples weakly to a mode much slower than its own tau_int. Take tau_exp from the
    slowest observable known, or by scaling from other lattices. Its own error is not included.

    Args:
        x: the record, ``(chain, draw)`` with at least four draws per chain.
        S: assumed ratio of the exponential to the integrated autocorrelation time, 1 to 2.
        name: what messages call the series.
        tau_exp: exponential autocorrelation time of the chain in draws; None for Wolff's window without a tail.

    Returns:
        The estimate; the error and tau_int of a constant series are nan, with a warning.

    Raises:
        DmmcError: on a wrong shape, too few draws, NaN or infinite values; if ``S`` or ``tau_exp`` is not positive.
    """
    series = as_series(x, name)
    mean = float(series.mean())
    return _estimate(mean, series, 4 * np.finfo(float).eps * largest(series), S, tau_exp, name)


def resolved_tau(x: ArrayLike) -> tuple[Estimate, bool]:
    """The Gamma method's estimate, and whether its tau_int was resolved; in a short record it is a lower bound.

    Args:
        x: the record, ``(chain, draw)``.

    Raises:
        DmmcError: as :func:`gamma_method`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        estimate = gamma_method(x)
    return estimate, estimate.resolved


def gamma_derived(
    function: Callable[..., float],
    columns: Sequence[ArrayLike],
    S: float = 1.5,
    name: str = "derived quantity",
    *,
    tau_exp: float | None = None,
) -> Estimate:
    """A function of several means, ``F(<a_1>, <a_2>, ...)``, with error and autocorrelation time.

    The Gamma method is applied to the projected series ``sum_k dF/d<a_k> a_k`` (Eq. 33), where the gradient comes from
    central differences over a small part of the error of each mean. The bias of F, of order 1/n and far below the
    error, is not subtracted.

    Args:
        function: takes one float for each column. Where it is not defined it may return nan or divide by zero.
        columns: the records, ``(chain, draw)`` each, all of the same shape and of the same draws.
        S: as in :func:`gamma_method`.
        name: what messages call the quantity.
        tau_exp: as in :func:`gamma_method`.

    Returns:
        The estimate; all of it is nan, with a warning, if F is not defined at the measured means.

    Raises:
        DmmcError: as :func:`gamma_method`; also if the columns differ in shape.
    """
    series = [as_series(column, f"column {k} of {name}") for k, column in enumerate(columns)]
    if not series:
        raise DmmcError(f"{name} needs at least one column")
    shapes = {column.shape for column in series}
    if len(shapes) > 1:
        raise DmmcError(f"the columns of {name} must have one shape, got {sorted(shapes)}")
    means = [float(column.mean()) for column in series]
    n = series[0].size
    value = evaluate(function, *means)
    projected = np.zeros_like(series[0])
    noise = 0.0
    for mean, column, slope in zip(means, series, gradient(function, series), strict=True):
        projected += slope * (column - mean)
        noise += 4 * np.finfo(float).eps * abs(slope) * largest(column)
    if not (math.isfinite(value) and np.isfinite(projected).all()):
        warnings.warn(
            f"{name} is not defined at the measured means {means}; more statistics or a larger signal is needed",
            DiagnosticsWarning,
            stacklevel=2,
        )
        return unknown(n)
    return _estimate(value, projected, noise, S, tau_exp, name)


def gradient(function: Callable[..., float], series: Sequence[Array]) -> list[float]:
    """Derivatives of a function of means, by central differences over a small part of the error of each mean.

    Args:
        function: takes one float for each series.
        series: the records, ``(chain, draw)`` float64 each.

    Returns:
        the derivative with respect to each mean. It is zero for a constant series, which does not fluctuate, so that it
        adds no error.
    """
    means = [float(column.mean()) for column in series]
    slopes = []
    for k, (mean, column) in enumerate(zip(means, series, strict=True)):
        small, unit = scaled(column)
        step = 0.1 * unit * float(small.std()) / math.sqrt(column.size)
        if step <= 4 * np.finfo(float).eps * abs(mean):
            slopes.append(0.0)
            continue
        up, down = (evaluate(function, *means[:k], mean + sign * step, *means[k + 1 :]) for sign in (1, -1))
        slopes.append((up - down) / (2 * step))
    return slopes


def autocorrelation_function(x: ArrayLike, max_lag: int, estimate: Estimate | None = None) -> tuple[Array, Array]:
    """Normalised autocorrelation function and its errors at lags 0..max_lag.

    The errors follow Madras and Sokal, J. Stat. Phys. 50 (1988) 109, in the form of Luscher, hep-lat/0409106,
    Eq. (E.11), where correlations beyond two windows of the Gamma method are taken to be zero.

    Args:
        x: the record, ``(chain, draw)``.
        max_lag: the last lag, smaller than the number of draws.
        estimate: what :func:`gamma_method` gave for this record, where it is known already.

    Returns:
        ``(rho, rho_error)``, each ``(max_lag + 1,)``; for a constant series all nan, with a warning.

    Raises:
        DmmcError: as :func:`gamma_method`; also if ``max_lag`` is out of range.
    """
    series, unit = scaled(as_series(x))
    draws = series.shape[1]
    if not 0 <= max_lag < draws:
        raise DmmcError(f"max_lag must be from 0 to {draws - 1} (draws per chain less one), got {max_lag}")
    estimate = gamma_method(x) if estimate is None else estimate
    if math.isnan(estimate.error):
        return np.full(max_lag + 1, math.nan), np.full(max_lag + 1, math.nan)
    reach = min(max(max_lag, 2 * estimate.window), draws - 1)
    gamma = autocovariance(series - series.mean(), reach) + (estimate.error / unit) ** 2
    rho = gamma / gamma[0]
    return rho[: max_lag + 1], _rho_errors(rho, estimate.window, estimate.n)[: max_lag + 1]


def format_value(value: float, error: float) -> str:
    """The value with two digits of its error on the last places, as in ``"0.4912(13)"``.

    Errors above 1 have a decimal point of their own, as in ``"12.3(4.5)"``; very large and very small numbers have a
    common exponent, as in ``"1.234(13)e-12"``. An unknown error reads ``"0.4912(nan)"``.
    """
    if not math.isfinite(value):
        return f"{value}"
    if not math.isfinite(error):
        return f"{value:.6g}({error})"
    error = abs(error)
    if error == 0:
        return f"{value:.6g}(0)"
    top = Decimal(max(abs(value), error)).adjusted()
    if not -4 <= top <= 6:
        mantissas = (float(Decimal(number).scaleb(-top)) for number in (value, error))
        return f"{format_value(*mantissas)}e{top}"
    # The exponent is read off the rounded error, so that 0.0996 counts as 0.10 and not as 0.100.
    digits = 1 - int(f"{error:.1e}".split("e")[1])
    if digits < 0:
        return f"{round(value, digits):.0f}({round(error, digits):.0f})"
    if digits <= 1:
        return f"{value:.{digits}f}({error:.{digits}f})"
    return f"{value:.{digits}f}({error * 10.0**digits:.0f})"

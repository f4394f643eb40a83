"""Effective sample size, Monte Carlo standard error and split R-hat, in the definitions of Stan and ArviZ.

A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Burkner, Bayesian Analysis 16 (2021) 667, 1903.08008. The numbers
are those of ``arviz.ess``, ``arviz.mcse`` and ``arviz.rhat``. Where these should not be believed (a constant series, a
chain that is stuck, chains in different modes), there is a :class:`DiagnosticsWarning`.

An effective sample size counts independent draws: ``ess = n / (2 tau_int)``, with tau_int in the lattice convention.
The Gamma method (:func:`~dmmc.diagnostics.gamma_method`) answers the same question with Wolff's window; here the window
is the initial monotone sequence of C. Geyer, Statist. Sci. 7 (1992) 473.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import ENOUGH, AxesWarning, DiagnosticsWarning, autocovariance, stuck_chains
from dmmc.diagnostics.series import as_series, scaled, transposed

Array = NDArray[np.float64]

# Half chains in one mode have sqrt(1 + 2 tau_int / draws): above 1.1 they are shorter than ten tau_int, or apart.
RHAT_LARGE = 1.1


@dataclass(frozen=True)
class Convergence:
    """The numbers of :func:`convergence_summary`, each that of the function of the same name.

    Attributes:
        rhat: rank-normalised split R-hat.
        ess_bulk: effective draws for the bulk of the distribution.
        ess_tail: effective draws for its tails.
        ess_mean: effective draws for the mean.
        mcse: Monte Carlo standard error of the mean.
    """

    rhat: float
    ess_bulk: float
    ess_tail: float
    ess_mean: float
    mcse: float


def convergence_summary(x: ArrayLike, name: str = "series") -> Convergence:
    """:func:`rhat`, :func:`ess` of all kinds and :func:`mcse` at once, which sorts a long record only once.

    Args:
        x: the record, ``(chain, draw)``.
        name: what messages call the series.

    Returns:
        The numbers, all nan for a constant series; each warning of the single functions comes once.

    Raises:
        DmmcError: if the record is not ``(chain, draw)`` with four finite draws per chain or more.
    """
    series, unit = _opened(x, name)
    if _constant(series, name):
        return Convergence(math.nan, math.nan, math.nan, math.nan, math.nan)
    halves = _split(series)
    scores, folded = _normal_scores(halves)
    r = max(_rhat(scores), _rhat(folded()))
    del folded
    bulk, tail, mean = _ess(scores), _ess_tail(series, halves), _ess(halves)
    _judge(series, [bulk, tail, mean], name)
    return Convergence(r, bulk[0], tail[0], mean[0], unit * _mcse(series, mean[0]))


def rhat(x: ArrayLike, method: Literal["rank", "split"] = "rank", name: str = "series") -> float:
    """Potential scale reduction R-hat: 1 for chains that agree; chains with more than 1.01 deserve a look.

    Chains are cut in halves, so that a drift is seen as well. Even a single chain can be judged, though not for modes
    that it never visits. Chains in equilibrium have ``R^2 = 1 + 2 tau_int / draws`` (draws of half a chain).

    Args:
        x: the record, ``(chain, draw)``.
        method: ``"rank"``, the larger of the R-hats of normal scores and of folded normal scores, which sees
            differences in location and in scale, whatever the distribution (Sections 4.1 and 4.2 of Vehtari et al.);
            or ``"split"``, that of the values themselves (Gelman et al., Bayesian Data Analysis, 2013, Section 11.4).
        name: what messages call the series.

    Returns:
        R-hat. It is nan for a constant series and inf if no chain moves, each with a warning. There is also a warning
        if single chains are stuck.

    Raises:
        DmmcError: if the record is not ``(chain, draw)`` with four finite draws per chain or more; for another method.
    """
    if method not in ("rank", "split"):
        raise DmmcError(f"method must be 'rank' or 'split', got {method!r}")
    series, _ = _opened(x, name)
    if _constant(series, name):
        return math.nan
    _stuck(series, name)
    halves = _split(series)
    if method == "split":
        return _rhat(halves)
    scores, folded = _normal_scores(halves)
    return max(_rhat(scores), _rhat(folded()))


def ess(x: ArrayLike, method: Literal["bulk", "tail", "mean"] = "bulk", name: str = "series") -> float:
    """Effective number of independent draws.

    Args:
        x: the record, ``(chain, draw)``.
        method: ``"mean"`` for the error of the mean, where it is ``n / (2 tau_int)``; ``"bulk"`` for that of the normal
            scores, which exists for any distribution; ``"tail"`` for the smaller of those of the 5 % and 95 %
            quantiles.
        name: what messages call the series.

    Returns:
        The number; it exceeds n for anticorrelated draws, but is at most ``n log10(n)``. For a constant series it is
        nan, with a warning. There is also a :class:`DiagnosticsWarning` if a chain is stuck, if chains differ or are
        shorter than 20 tau_int (R-hat of the half chains above 1.1), and if the number is below 25, so that all chains
        together are shorter than 50 tau_int.

    Raises:
        DmmcError: if the record is not ``(chain, draw)`` with four finite draws per chain or more; for another method.
    """
    if method not in ("bulk", "tail", "mean"):
        raise DmmcError(f"method must be 'bulk', 'tail' or 'mean', got {method!r}")
    series, _ = _opened(x, name)
    if _constant(series, name):
        return math.nan
    halves = _split(series)
    if method == "tail":
        size, r = _ess_tail(series, halves)
    else:
        size, r = _ess(_normal_scores(halves)[0] if method == "bulk" else halves)
    _judge(series, [(size, r)], name)
    return size


def mcse(x: ArrayLike, name: str = "series") -> float:
    """Monte Carlo standard error of the mean: standard deviation over ``sqrt(ess(x, "mean"))``.

    Args:
        x: the record, ``(chain, draw)``.
        name: what messages call the series.

    Returns:
        The error; for a constant series nan, with a warning. The warnings are those of :func:`ess`.

    Raises:
        DmmcError: as :func:`ess`.
    """
    series, unit = _opened(x, name)
    if _constant(series, name):
        return math.nan
    size, r = _ess(_split(series))
    _judge(series, [(size, r)], name)
    return unit * _mcse(series, size)


def _warn(message: str) -> None:
    warnings.warn(message, DiagnosticsWarning, stacklevel=4)


def _opened(x: ArrayLike, name: str) -> tuple[Array, float]:
    """The checked series and its unit; warn if its axes look like (draw, chain)."""
    series, unit = scaled(as_series(x, name))
    if axes := transposed(series):
        warnings.warn(f"{name}: {axes}", AxesWarning, stacklevel=3)
    return series, unit


def _constant(series: Array, name: str) -> bool:
    """Whether the series is constant; warn if it is."""
    constant = bool(series.min() == series.max())
    if constant:
        _warn(f"{name} is constant over all {series.size} draws; look at the acceptance rate")
    return constant


def _stuck(series: Array, name: str) -> bool:
    """Whether chains are stuck; warn if they are."""
    stuck = stuck_chains(series)
    if stuck:
        _warn(f"{name}: {stuck}; look at the single chains")
    return bool(stuck)


def _judge(series: Array, sizes: list[tuple[float, float]], name: str) -> None:
    """Warn if effective sample sizes, each with the R-hat of its series, should not be believed."""
    size, r = min(size for size, _ in sizes), max(r for _, r in sizes)
    if _stuck(series, name):
        return
    if math.isnan(size):
        _warn(f"{name} has no tails: nearly all draws are equal")
    elif r > RHAT_LARGE:
        _warn(
            f"{name}: R-hat is {r:.3g}: the chains are too short, or sit in different modes, and the effective sample "
            "size knows only what they have seen. Look at the single chains, and run longer"
        )
    elif size < ENOUGH / 2:
        _warn(f"{name}: {size:.3g} effective draws are too few to know even their number; run longer")


def _split(series: Array) -> Array:
    """Both halves of every chain, ``(2 chain, draw // 2)``; the middle draw of an odd number is left out."""
    half = series.shape[1] // 2
    return np.concatenate([series[:, :half], series[:, -half:]])


def _normal_scores(x: Array) -> tuple[Array, Callable[[], Array]]:
    """Ranks among all draws as quantiles of a unit normal, Eq. (14) of Vehtari et al.; and a function for those of
    ``|x - median|``."""
    order = np.argsort(x, axis=None)
    values = x.ravel()[order]
    middle = (values[(x.size - 1) // 2] + values[x.size // 2]) / 2

    def put(scores: Array, places: NDArray[np.int64]) -> Array:
        out = np.empty(x.size)
        out[places] = scores
        return out.reshape(x.shape)

    def folded() -> Array:
        distance = values - middle
        np.abs(distance, out=distance)
        again = np.argsort(distance, kind="stable")  # in linear time: it falls, then it rises
        return put(_scores(distance[again]), order[again])

    return put(_scores(values), order), folded


def _scores(values: Array) -> Array:
    """Normal scores of sorted values; equal ones share their average rank."""
    from scipy.special import ndtri

    n = len(values)
    rank = np.arange(1.0, n + 1)
    new = np.concatenate([[True], values[1:] != values[:-1], [True]])
    if not new.all():
        first = np.flatnonzero(new)
        counts, first = np.diff(first), first[:-1]
        tied = counts > 1
        rank[~(new[:-1] & new[1:])] = np.repeat(first[tied] + (counts[tied] + 1) / 2, counts[tied])
    # In place, to save memory on long records.
    rank -= 3 / 8
    rank /= n + 1 / 4
    return np.asarray(ndtri(rank, out=rank))


def _rhat(halves: Array) -> float:
    draws = halves.shape[1]
    if (halves == halves[:, :1]).all():
        # The folded values of a series with only two values are all equal: there is nothing to compare.
        return 1.0 if halves.min() == halves.max() else math.inf
    within, between = float(halves.var(axis=1, ddof=1).mean()), float(halves.mean(axis=1).var(ddof=1))
    return math.sqrt((draws - 1) / draws + between / within)


def _mcse(series: Array, size: float) -> float:
    return float(series.std(ddof=1)) / math.sqrt(size)


def _ess_tail(series: Array, halves: Array) -> tuple[float, float]:
    """The smaller effective sample size of the two tails, and the larger R-hat; nan if there are no tails."""
    inside = [halves <= q for q in np.quantile(series, (0.05, 0.95))]
    constant = [bool(x.all() or not x.any()) for x in inside]
    if all(constant):
        return math.nan, math.nan
    # A tail without draws counts in full, as in ArviZ, so that the other one decides.
    tails = [(float(x.size), 1.0) if c else _ess(x.astype(np.float64)) for x, c in zip(inside, constant, strict=True)]
    return min(size for size, _ in tails), max(r for _, r in tails)


def _ess(halves: Array) -> tuple[float, float]:
    """Effective sample size by Geyer's initial monotone sequence, Eqs. (10)-(13) of Vehtari et al., and R-hat."""
    chains, draws = halves.shape
    n = chains * draws
    means = halves.mean(axis=1)
    lags = np.arange(draws)
    gamma = autocovariance(halves - means[:, None], draws - 1) * (draws - lags) / draws
    within, total = gamma[0] * draws / (draws - 1), gamma[0] + float(means.var(ddof=1))
    rho = 1 - (within - gamma) / total
    rho[0] = 1.0
    # In a reversible chain the sums of an even and the next odd lag are positive and decrease. As in ArviZ, the last
    # lags are left out, and the even lag that ends the sequence counts half.
    last = max((draws - 3) // 2, 0)
    pairs = rho[: 2 * last + 2].reshape(-1, 2).sum(axis=1)
    end = int(np.append(np.flatnonzero(pairs <= 0), last)[0])
    rest = float(rho[2 * end]) if rho[2 * end] > 0 or pairs[end] > 0 else 0.0
    two_tau = -1 + 2 * float(np.minimum.accumulate(pairs[:end]).sum()) + rest
    return n / max(two_tau, 1 / math.log10(n)), math.sqrt(total / within) if within > 0 else math.inf

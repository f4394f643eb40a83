"""What the accept/reject record of a chain says: rates, their course, runs of rejections, autocorrelation.

``accepted`` is ``(chain, draw)``: whether the step that led to this draw was accepted, true or false; with several
steps per draw, the fraction of them that were. Rejections are counted in draws: a draw is a rejection if all of its
steps were rejected.

In an independence chain a step either replaces the configuration by an unrelated one or leaves it alone. The
rejection history therefore yields an autocorrelation function that belongs to no particular observable: the probability
of t rejections in a row (Albergo, Kanwar, Shanahan, 1904.12072).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, Estimate, gamma_method
from dmmc.diagnostics.series import as_series
from dmmc.diagnostics.weights import relative_weights

Array = NDArray[np.float64]


def _as_accepted(accepted: ArrayLike) -> Array:
    series = as_series(accepted, "accepted")
    if not ((series >= 0) & (series <= 1)).all():
        raise DmmcError("accepted must be true or false for every draw, or the fraction of its steps accepted")
    return series


def acceptance_rate(accepted: ArrayLike, S: float = 1.5) -> Estimate:
    """Acceptance rate with its error, by the Gamma method.

    Args:
        accepted: ``(chain, draw)``.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if it is not between 0 and 1, or not of shape ``(chain, draw)`` with four draws per chain or more.
    """
    return gamma_method(_as_accepted(accepted), S, "acceptance")


def _error_of_mean(accepted: Array, n: int) -> float:
    """Standard error of the mean of n successive entries, from the fluctuations within the chains that moved at all."""
    moved = accepted[np.ptp(accepted, axis=1) > 0]
    if not len(moved):
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # a chain that stands out is what the caller looks for
        estimate = gamma_method(moved - moved.mean(axis=1, keepdims=True))
    return estimate.error * math.sqrt(moved.size / n)


def acceptance_by_chain(accepted: ArrayLike) -> tuple[Array, float]:
    """Acceptance rate of every chain, ``(chain,)``, and the standard error that one chain's rate has.

    The error comes from the fluctuations within the chains. It is the scatter to expect if all chains were alike, so
    that a chain many errors away from the rest is stuck or somewhere else.

    Raises:
        DmmcError: as :func:`acceptance_rate`.
    """
    array = _as_accepted(accepted)
    return array.mean(axis=1), _error_of_mean(array, array.shape[1])


def acceptance_over_time(accepted: ArrayLike, bins: int = 40) -> tuple[Array, Array, Array]:
    """Acceptance rate of all chains in successive bins of draws.

    Args:
        accepted: ``(chain, draw)``.
        bins: number of bins; there are fewer if there are fewer draws.

    Returns:
        Centres of the bins in draws, rates, and standard errors (as in :func:`acceptance_by_chain`), ``(bins,)``
        each. If the number of draws is not a multiple of the number of bins, these differ in length by one draw.

    Raises:
        DmmcError: as :func:`acceptance_rate`; also if ``bins`` is not positive.
    """
    array = _as_accepted(accepted)
    if bins < 1:
        raise DmmcError(f"acceptance over time needs at least one bin, got {bins}")
    chains, draws = array.shape
    edges = np.linspace(0, draws, min(bins, draws) + 1).astype(int)
    lengths = np.diff(edges)
    rates = np.add.reduceat(array.sum(axis=0), edges[:-1]) / (chains * lengths)
    return (edges[:-1] + edges[1:] - 1) / 2, rates, _error_of_mean(array, chains) / np.sqrt(lengths)


def rejections_in_a_row(accepted: ArrayLike) -> NDArray[np.int64]:
    """Number of rejections in a row that lead up to each draw, ``(chain, draw)``; 0 where it was accepted.

    Raises:
        DmmcError: as :func:`acceptance_rate`.
    """
    array = _as_accepted(accepted) > 0
    position = np.arange(1, array.shape[1] + 1)
    return position - np.maximum.accumulate(np.where(array, position, 0), axis=1)


def rejection_autocorrelation(accepted: ArrayLike, max_lag: int) -> Array:
    """``rho_acc(t)`` for t = 0..max_lag: the fraction of all windows of t successive steps that hold only rejections.

    It is the autocorrelation function of an observable that is independent of the weights, and close to that of a
    typical observable if the weights vary little (Albergo et al., 1904.12072).

    Raises:
        DmmcError: as :func:`acceptance_rate`; also if ``max_lag`` is not from 0 to the number of draws.
    """
    runs = rejections_in_a_row(accepted)
    chains, draws = runs.shape
    if not 0 <= max_lag <= draws:
        raise DmmcError(f"max_lag must be from 0 to {draws} (draws per chain), got {max_lag}")
    # A window of t rejections ends at every draw that at least t rejections lead up to.
    counts = np.bincount(runs.ravel(), minlength=draws + 1)
    windows = np.cumsum(counts[::-1])[::-1][: max_lag + 1].astype(np.float64)
    windows[0] = chains * (draws + 1)
    return np.asarray(windows / (chains * (draws + 1 - np.arange(max_lag + 1))))


def tau_rejections(accepted: ArrayLike, S: float = 1.5) -> Estimate:
    """Integrated autocorrelation time from the rejection history, ``1/2 + sum_{t >= 1} rho_acc(t)``.

    In draws and the lattice convention, 0.5 if every step is accepted; after Albergo et al., 1904.12072. If the windows
    are counted by their last step, the sum is the mean of :func:`rejections_in_a_row`. That is a chain average like any
    other, and its error is that of the Gamma method. Windows that would begin before the record count as not rejected,
    which lowers the value by about ``tau^2 / draws``.

    Returns:
        ``value`` and ``error`` are those of the autocorrelation time; the attribute ``tau_int`` is, as always, that of
        the series that was averaged.

    Raises:
        DmmcError: as :func:`acceptance_rate`.
    """
    mean = gamma_method(rejections_in_a_row(accepted), S, "rejections in a row")
    return replace(mean, value=0.5 + mean.value)


@dataclass(frozen=True)
class RejectionRuns:
    """Longest runs of rejections; see :func:`rejection_runs`.

    Attributes:
        by_chain: longest run of each chain, ``(chain,)``, in draws.
        longest: the longest run of all chains.
        expected: expectation value of ``longest`` in equilibrium.
        p_value: probability of a run that is at least as long.
    """

    by_chain: NDArray[np.int64]
    longest: int
    expected: float
    p_value: float


def rejection_runs(accepted: ArrayLike, log_w_proposed: ArrayLike | None = None) -> RejectionRuns:
    """The longest runs of rejections, and how long they should be.

    A step leaves a configuration of weight w with probability ``A(w) = mean_q min(1, w'/w)``, so that the time it is
    kept is geometrically distributed. In equilibrium a chain enters proposals with a probability proportional to
    ``w A(w)``, one at every acceptance; the law of the longest of that many independent stays follows. Without weights,
    every A is taken to be the mean acceptance.

    A run much longer than expected means a weight above those of all proposals: a configuration from outside the
    region that the model covers. With several steps per draw, runs are shorter than expected here, and the p value is
    on the safe side.

    Args:
        accepted: ``(chain, draw)``.
        log_w_proposed: log weights of the proposals, of any shape; None for a kernel without weights.

    Raises:
        DmmcError: as :func:`acceptance_rate`; if there are no finite log weights, or one is +inf.
    """
    runs = rejections_in_a_row(accepted)
    by_chain = runs.max(axis=1)
    longest, draws = int(by_chain.max()), runs.shape[1]
    acceptances = float((runs == 0).sum())
    if log_w_proposed is None:
        leave, entered = np.array([acceptances / runs.size]), np.ones(1)
    else:
        leave, entered = _stays(log_w_proposed)
    # A chain also stays at its start.
    stays = acceptances + runs.shape[0]

    def tail(t: Array) -> Array:
        """Probability that the longest stay has at least t rejections."""
        one = (entered[:, None] * (1 - leave[:, None]) ** t).sum(axis=0)
        return np.asarray(-np.expm1(stays * np.log1p(-np.minimum(one, 1 - 1e-15))))

    # Every t where the probability changes fast, equal ratios beyond.
    t = np.unique(np.round(np.geomspace(1, draws, 400)))
    steps = np.diff(t, prepend=0)
    return RejectionRuns(
        by_chain=by_chain,
        longest=longest,
        expected=float((steps * tail(t)).sum()),
        p_value=float(tail(np.array([float(longest)]))[0]) if longest else 1.0,
    )


def rejection_time(log_w: ArrayLike) -> float:
    """Mean number of steps for which a chain in equilibrium stays where it is, predicted from its proposals.

    A configuration of weight w is left with probability ``A(w) = mean_q min(1, w'/w)`` per step, so that a chain of
    independence Metropolis stays there for ``1 / A(w)`` steps on average; the mean is over the target, in which
    proposals count with their weights. Chains that begin at proposals forget that within a few such times.

    Args:
        log_w: log weights of independent proposals, any shape.

    Raises:
        DmmcError: if no log weight is finite, or one is +inf.
    """
    w, leave = _leaving(log_w)
    return float((w / leave).sum() / w.sum())


def _leaving(log_w: ArrayLike) -> tuple[Array, Array]:
    """Weights above zero in rising order, and the probability to leave a configuration of each."""
    w = relative_weights(log_w)
    if not w.any():
        raise DmmcError("no proposal has a finite weight, so no chain can have moved; check the model")
    n = w.size
    w = np.sort(w[w > 0])
    # Larger weights are accepted with certainty, smaller ones with probability w'/w.
    return w, np.minimum((np.arange(w.size, 0, -1) + (np.cumsum(w) - w) / w) / n, 1.0)


def _stays(log_w: ArrayLike, bins: int = 500) -> tuple[Array, Array]:
    """Probability of leaving a configuration, in bins, and the share of entries into each bin (sums to 1)."""
    w, leave = _leaving(log_w)
    entered = w * leave
    entered /= entered.sum()
    # Bins of equal ratios, each represented by its mean.
    depth = np.log(leave) / min(math.log(leave.min()), -1e-9)
    place: NDArray[np.int64] = np.minimum(depth * bins, bins - 1).astype(np.int64)
    total = np.asarray(np.bincount(place, entered, bins), dtype=np.float64)
    mean = np.asarray(np.bincount(place, entered * leave, bins), dtype=np.float64)
    held = total > 0
    return np.asarray(np.minimum(mean[held] / total[held], 1.0)), total[held]

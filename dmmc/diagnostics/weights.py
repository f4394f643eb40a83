"""How good a proposal is, from its log weights ``log w = -S - log q``.

Log weights may have any shape and any common offset (the unknown log Z). A proposal whose log weight is -inf or NaN
can never be accepted: it counts in N with weight zero. Nothing here sees regions that the model never proposes; this is
why :func:`kl_gap` and :func:`unreached` compare with an independent reference ensemble.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, gamma_method
from dmmc.diagnostics.series import as_array, scaled

Array = NDArray[np.float64]


def flat_log_w(log_w: ArrayLike, name: str = "log_w") -> Array:
    """Checked log weights in one dimension; NaN becomes -inf, a weight of zero.

    Raises:
        DmmcError: if there are none, or one is +inf.
    """
    flat = as_array(log_w, name).astype(np.float64).ravel()
    if flat.size == 0:
        raise DmmcError(f"{name} is empty; draw some proposals first")
    if np.isposinf(flat).any():
        raise DmmcError(f"{name} has +inf, that is, log_q is -inf at a proposed field; check the model")
    return np.where(np.isnan(flat), -np.inf, flat)


def relative_weights(log_w: ArrayLike) -> Array:
    """Weights up to a common factor, the largest is 1; all zero if no proposal has a finite weight."""
    flat = flat_log_w(log_w)
    top = flat.max()
    return np.exp(flat - top) if np.isfinite(top) else np.zeros_like(flat)


def n_zero_weight(log_w: ArrayLike) -> int:
    """Number of proposals with weight zero (-inf or NaN), which can never be accepted."""
    return int(np.isneginf(flat_log_w(log_w)).sum())


def ess_fraction(log_w: ArrayLike) -> float:
    """Effective sample size per proposal, ``(sum w)^2 / (N sum w^2)``: from 1/N to 1, or 0 without a finite weight.

    For Gaussian log weights of standard deviation sigma it tends to ``exp(-sigma^2)``.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = relative_weights(log_w)
    return float(w.sum() ** 2 / (w.size * np.square(w).sum())) if w.any() else 0.0


def std_log_w(log_w: ArrayLike) -> float:
    """Standard deviation of the finite log weights (nan with fewer than two)."""
    finite = flat_log_w(log_w)
    finite = finite[np.isfinite(finite)]
    if finite.size < 2:
        return math.nan
    finite, unit = scaled(finite)
    return float(finite.std(ddof=1)) * unit


def expected_acceptance(log_w: ArrayLike) -> float:
    """Acceptance rate of the stationary independence chain, exact for the empirical distribution of weights.

    It is ``E min(1, w'/w)``, where w' is a proposal and w comes from the target, that is, from proposals reweighted
    with w: ``sum_ij min(w_i, w_j) / (N sum_i w_i)``. In sorted order the rank of w_i says of how many pairs it is the
    minimum, so that the sum takes O(N log N). For Gaussian log weights of standard deviation sigma it tends to
    ``erfc(sigma / 2)``.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = np.sort(relative_weights(log_w))[::-1]
    pairs = 2 * np.arange(w.size) + 1
    return float((pairs * w).sum() / (w.size * w.sum())) if w.any() else 0.0


def log_z(log_w: ArrayLike) -> tuple[float, float]:
    """``log Z = log mean_q(w)`` and its standard error (delta method, independent proposals).

    The result is ``(-inf, nan)`` if no proposal has a finite weight. The error is meaningful only while the effective
    sample size is not small, and it does not know about regions that the model misses.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    flat = flat_log_w(log_w)
    w = relative_weights(flat)
    if not w.any():
        return -math.inf, math.nan
    error = float(w.std(ddof=1) / (w.mean() * math.sqrt(w.size))) if w.size > 1 else math.nan
    return float(flat.max() + math.log(w.mean())), error


def largest_weight_share(log_w: ArrayLike, n: int = 1) -> float:
    """Share of all weight that the ``n`` largest weights carry: from ``n / N`` to 1, or nan without a finite weight.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = relative_weights(log_w)
    top = np.partition(w, w.size - n)[w.size - n :] if n < w.size else w
    return float(top.sum() / w.sum()) if w.any() else math.nan


def pareto_k(log_w: ArrayLike) -> float:
    """Shape k of the generalised Pareto distribution that fits the largest weights: how heavy their tail is.

    The moments of the weights are finite up to the order 1/k. Below k = 0.5 the variance is finite; above 0.7, averages
    over weights converge too slowly to be of use; above 1 they do not converge. The method is that of Vehtari, Simpson,
    Gelman, Yao, Gabry, J. Mach. Learn. Res. 25 (2024) 72, 1507.02646, with a tail of ``min(N/5, 3 sqrt(N))`` weights
    and a weak prior towards 0.5.

    Returns:
        k. It is inf if the fifth largest weight is below 1e-308 of the largest, or if there is no finite weight, and
        nan if there are fewer than 25 weights, or no tail because the largest are all equal.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = np.sort(relative_weights(log_w))
    if not w.any():
        return math.inf
    n_tail = math.ceil(min(w.size / 5, 3 * math.sqrt(w.size)))
    if n_tail < 5:
        return math.nan
    cutoff = max(float(w[-n_tail - 1]), np.finfo(float).tiny)
    excess = w[w > cutoff] - cutoff
    if len(excess) < 5:
        return math.inf if w[-5] < np.finfo(float).tiny else math.nan
    return _generalised_pareto_shape(excess)


def _generalised_pareto_shape(x: Array) -> float:
    """Posterior mean over the grid of Zhang and Stephens, Technometrics 51 (2009) 316; ``x`` is positive and sorted."""
    n = len(x)
    j = np.arange(1, 31 + int(math.sqrt(n)))
    # theta = -k / sigma; quartile and grid as in Section 3 of the paper, signs as in Vehtari et al.
    theta = 1 / x[-1] + (1 - np.sqrt(len(j) / (j - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1])
    k = np.log1p(-theta[:, None] * x).mean(axis=1)
    profile = n * (np.log(-theta / k) - k - 1)
    posterior = np.exp(profile - profile.max())
    shape = float(np.log1p(-((posterior * theta).sum() / posterior.sum()) * x).mean())
    # The prior counts as much as ten observations of k = 0.5, Appendix C of Vehtari et al.
    return (n * shape + 10 * 0.5) / (n + 10)


@dataclass(frozen=True)
class Unreached:
    """A part of the target that the proposals did not reach; see :func:`unreached`.

    Attributes:
        fraction: fraction of the reference above the proposals.
        error: its standard error, autocorrelations included.
        expected: the fraction to expect from the weights of the proposals.
        n_reference: number of reference configurations.
    """

    fraction: float
    error: float
    expected: float
    n_reference: int


RANK = 10
"""Rank of the weight that counts as the upper end of the proposals; the share above is known to 1 / sqrt(10)."""

CLEARLY = 3.0
"""A fraction that is this many times the expected one is not chance."""


def unreached(log_w_proposals: ArrayLike, log_w_reference: ArrayLike) -> Unreached:
    """The fraction of reference configurations with weights beyond those of the proposals, and the fraction to expect.

    Both a model that misses a mode and one with broad weights show reference configurations of larger weight than any
    proposal. They can be told apart: the probability under the target of a weight above the r-th largest of N
    proposals is, on average, the share of all weight that the r largest of them carry. (One more proposal has rank r or
    better with probability ``r / (N + 1)``, and the target counts it with its weight; this is the argument of Good,
    Biometrika 40 (1953) 237.) Here r = 10, and the reference must exceed that weight by a factor of two, so that
    rounding makes no difference. For log weights that are Gaussian with any variance, a fraction above three times
    ``expected`` is rarer than 1 in 100; if a mode is missed, ``fraction`` is its probability and ``expected`` is tiny.

    If the model is also too narrow, so that few weights dominate, the same test is made with a factor of e^10, where
    the share beyond is extrapolated along the Pareto tail, ``e^(10 (1 - 1/k))``. The clearer result is returned.

    Args:
        log_w_proposals: of any shape, at least 10.
        log_w_reference: ``(chain, draw)``, or ``(n,)`` for one series.

    Raises:
        DmmcError: if either side is empty or too short, has +inf, or the reference has a weight of zero.
    """
    q, p = flat_log_w(log_w_proposals), np.atleast_2d(as_array(log_w_reference, "log_w_reference").astype(np.float64))
    if q.size < RANK:
        raise DmmcError(f"at least {RANK} proposals are needed for a comparison, got {q.size}")
    if not np.isfinite(p).all():
        raise DmmcError("log_w_reference has NaN or infinities; every field of the reference needs a finite log weight")
    top, k = float(np.partition(q, q.size - RANK)[q.size - RANK]), pareto_k(q)
    share = largest_weight_share(q, RANK) if np.isfinite(q).any() else 1.0
    # Without a tail, or if it has no mean, there is nothing to extrapolate.
    far = share * math.exp(10 * (1 - 1 / k)) if 0 < k < 1 else share
    candidates = [(p > top + margin, expected) for margin, expected in ((math.log(2), share), (10.0, far))]
    beyond, expected = max(candidates, key=lambda x: float(x[0].mean()) - CLEARLY * x[1])
    fraction = float(beyond.mean())
    error = 0.0
    if 0 < fraction < 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticsWarning)
            error = gamma_method(beyond).error
    return Unreached(fraction, error, expected, p.size)


@dataclass(frozen=True)
class KlGap:
    """Comparison of proposals with a reference ensemble of the target; see :func:`kl_gap`.

    Attributes:
        kl_q_p: ``KL(q||p) = log Z - mean_q(log w)``, the "reverse" divergence in machine learning.
        kl_p_q: ``KL(p||q) = mean_p(log w) - log Z``, the "forward" divergence.
        log_z: log Z from the proposals.
        log_z_error: its standard error.
        log_z_reference: log Z from the reference, ``-log mean_p(1/w)``. If the proposals miss a part of the target
            with probability m, then ``log_z = log_z_reference + log(1 - m)``.
        mean_q: mean of log w over the proposals, a lower bound of log Z.
        std_q: standard deviation of the finite log w over the proposals.
        mean_p: mean of log w over the reference, an upper bound of log Z.
        std_p: standard deviation of log w over the reference.
        max_p: largest log w of the reference.
        n_zero: number of proposals of weight zero; a single one makes ``kl_q_p`` infinite.
    """

    kl_q_p: float
    kl_p_q: float
    log_z: float
    log_z_error: float
    log_z_reference: float
    mean_q: float
    std_q: float
    mean_p: float
    std_p: float
    max_p: float
    n_zero: int


def kl_gap(log_w_proposals: ArrayLike, log_w_reference: ArrayLike) -> KlGap:
    """Compare log weights of proposals with those of an independent ensemble of the target (from HMC, say).

    A collapsed model looks perfect on its own proposals. The reference exposes it: fields that it does not propose have
    an enormous w, which shows as ``std_p`` far above ``std_q``, ``max_p`` far above ``mean_p``, and ``log_z`` below
    ``log_z_reference``. The sum ``kl_q_p + kl_p_q = mean_p - mean_q`` does not depend on log Z.

    Raises:
        DmmcError: if either side is empty or has +inf, or if the reference has a weight of zero (a field that S or
            log_q cannot evaluate).
    """
    q, p = flat_log_w(log_w_proposals, "log_w_proposals"), flat_log_w(log_w_reference, "log_w_reference")
    if not np.isfinite(p).all():
        raise DmmcError("log_w_reference has NaN or -inf; every field of the reference needs a finite log weight")
    z, z_error = log_z(q)
    mean_q, mean_p = float(q.mean()), float(p.mean())
    return KlGap(
        kl_q_p=z - mean_q if math.isfinite(z) else math.inf,
        kl_p_q=mean_p - z,
        log_z=z,
        log_z_error=z_error,
        log_z_reference=-log_z(-p)[0],
        mean_q=mean_q,
        std_q=std_log_w(q),
        mean_p=mean_p,
        std_p=std_log_w(p),
        max_p=float(p.max()),
        n_zero=n_zero_weight(q),
    )

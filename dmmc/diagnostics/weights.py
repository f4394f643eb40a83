"""How good a proposal is, from its log weights ``log w = -S - log q``.

Log weights may have any shape and any common offset (the unknown log Z). A proposal of weight zero (-inf), or
with a NaN, is one that can never be accepted: it counts in N with weight zero. Nothing here sees regions that
the model never proposes; :func:`kl_gap` compares with an independent reference ensemble for that reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.errors import DmmcError

Array = NDArray[np.float64]


def _flat(log_w: ArrayLike, name: str = "log_w") -> Array:
    flat = np.asarray(log_w, dtype=np.float64).ravel()
    if flat.size == 0:
        raise DmmcError(f"{name} is empty; draw some proposals first")
    if np.isposinf(flat).any():
        raise DmmcError(f"{name} has +inf: a density log_q of -inf at a proposed field; check the model")
    return np.where(np.isnan(flat), -np.inf, flat)


def _weights(log_w: ArrayLike) -> Array:
    """Weights up to a common factor, the largest being 1; all zero if no proposal has a finite weight."""
    flat = _flat(log_w)
    top = flat.max()
    return np.exp(flat - top) if np.isfinite(top) else np.zeros_like(flat)


def n_zero_weight(log_w: ArrayLike) -> int:
    """Number of proposals with weight zero, -inf or NaN: those that can never be accepted."""
    return int(np.isneginf(_flat(log_w)).sum())


def ess_fraction(log_w: ArrayLike) -> float:
    """Effective sample size per proposal, ``(sum w)^2 / (N sum w^2)``, from 1/N to 1 (0: no finite weight).

    For Gaussian log weights of standard deviation sigma it tends to ``exp(-sigma^2)``.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = _weights(log_w)
    return float(w.sum() ** 2 / (w.size * (w @ w))) if w.any() else 0.0


def std_log_w(log_w: ArrayLike) -> float:
    """Standard deviation of the finite log weights (nan with fewer than two)."""
    finite = _flat(log_w)
    finite = finite[np.isfinite(finite)]
    return float(finite.std(ddof=1)) if finite.size > 1 else math.nan


def expected_acceptance(log_w: ArrayLike) -> float:
    """Acceptance rate of the stationary independence chain, exact for the empirical distribution of weights.

    ``E min(1, w'/w)`` with w' a proposal and w from the target, i.e. a proposal reweighted with w. That is
    ``sum_ij min(w_i, w_j) / (N sum_i w_i)``, and after sorting each w_i is the minimum of as many pairs as
    its rank says: O(N log N). For Gaussian log weights of standard deviation sigma it tends to
    ``erfc(sigma / 2)``.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    w = np.sort(_weights(log_w))[::-1]
    pairs = 2 * np.arange(w.size) + 1
    return float(pairs @ w / (w.size * w.sum())) if w.any() else 0.0


def log_z(log_w: ArrayLike) -> tuple[float, float]:
    """``log Z = log mean_q(w)`` and its standard error (delta method, independent proposals).

    ``(-inf, nan)`` if no proposal has a finite weight. The error is meaningful only while the effective
    sample size is not small, and does not know of regions the model misses.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    flat = _flat(log_w)
    w = _weights(flat)
    if not w.any():
        return -math.inf, math.nan
    error = float(w.std(ddof=1) / (w.mean() * math.sqrt(w.size))) if w.size > 1 else math.nan
    return float(flat.max() + math.log(w.mean())), error


@dataclass(frozen=True)
class KlGap:
    """Proposals against a reference ensemble of the target; see :func:`kl_gap`.

    Attributes:
        kl_q_p: ``KL(q||p) = log Z - mean_q(log w)``, what the proposals see ("reverse" in machine learning).
        kl_p_q: ``KL(p||q) = mean_p(log w) - log Z``, what the target sees ("forward").
        log_z: log Z from the proposals.
        log_z_error: its standard error.
        log_z_reference: log Z from the reference, ``-log mean_p(1/w)``. A proposal that misses a part of the
            target holding probability m gives ``log_z = log_z_reference + log(1 - m)``.
        mean_q: mean of log w over the proposals, a lower bound of log Z.
        std_q: its standard deviation over the proposals (finite log weights).
        mean_p: mean of log w over the reference, an upper bound of log Z.
        std_p: its standard deviation over the reference.
        max_p: largest log w of the reference, the end of its upper tail.
        n_zero: proposals of weight zero; any at all make ``kl_q_p`` infinite.
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

    A collapsed model looks perfect on its own proposals. On the reference it cannot hide: fields it does not
    propose have an enormous w, which shows as ``std_p`` far above ``std_q``, ``max_p`` far above ``mean_p``,
    and ``log_z`` below ``log_z_reference``. ``kl_q_p + kl_p_q = mean_p - mean_q`` does not depend on log Z.

    Raises:
        DmmcError: if either side is empty, has +inf, or the reference has a weight zero (a field that S or
            log_q cannot evaluate).
    """
    q, p = _flat(log_w_proposals, "log_w_proposals"), _flat(log_w_reference, "log_w_reference")
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

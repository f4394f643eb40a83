"""The autocorrelation time that an independence chain will have, from the weights of its proposals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.series import as_array
from dmmc.diagnostics.weights import relative_weights

Array = NDArray[np.float64]

BLOCKS = 20
"""Blocks of the jackknife."""


def predicted_tau_int(log_w: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """tau_int of an observable in a stationary chain of independence Metropolis, from independent proposals.

    The chain on the N proposals themselves, which proposes each of them with probability 1/N, has an exact
    autocorrelation time, ``1/2 + sum_t rho(t) = (f, (1 - K)^-1 f) / (f, f) - 1/2``, where K is its transition
    matrix and the product is the mean over the target. No series has to be cut off, and nothing is simulated. Since
    ``N w_i (1 - K)_ij = -min(w_i, w_j)`` for different i and j, the equations of neighbours in the order of the weights
    differ by a few terms, and the whole system takes O(N) after sorting.

    Args:
        log_w: log weights of independent proposals.
        values: the observable on each of them, of the same shape.

    Returns:
        the autocorrelation time in steps, 0.5 for weights that are all the same, and its standard error, by the
        jackknife with :data:`BLOCKS` blocks of proposals.

    Raises:
        DmmcError: if the shapes differ, there are fewer proposals than blocks, one of the values is not finite, no log
            weight is finite, one is +inf, or the observable does not vary.
    """
    w, f = relative_weights(log_w), as_array(values, "values").astype(np.float64).ravel()
    if w.shape != f.shape or len(w) < BLOCKS:
        raise DmmcError(
            f"a value for each of at least {BLOCKS} proposals is needed, got {len(w)} weights and {len(f)} values"
        )
    if not np.isfinite(f).all():
        raise DmmcError("values must be finite")
    if not w.any() or not np.ptp(f[w > 0]) > 0:
        raise DmmcError("the observable is the same for all proposals of finite weight, so it has no tau_int")
    block = np.arange(len(w)) * BLOCKS // len(w)
    without = [_tau_int(w[block != k], f[block != k]) for k in range(BLOCKS)]
    return _tau_int(w, f), math.sqrt((BLOCKS - 1) * np.var(without))


def _tau_int(w: Array, f: Array) -> float:
    n, order = len(w), np.argsort(w, kind="stable")
    order = order[w[order] > 0]
    w, f = w[order], f[order]
    f = f - np.average(f, weights=w)
    # sum_j min(w_i, w_j) (g_i - g_j) = N w_i f_i, in rising order of the weights; g of the largest weight is set to 0.
    diagonal = np.cumsum(w) + np.arange(len(w) - 1, -1, -1) * w
    rise, right = np.diff(w).tolist(), n * np.diff(w * f)
    g, beyond = np.zeros(len(w)), 0.0
    for i in range(len(w) - 2, -1, -1):
        g[i] = (diagonal[i + 1] * g[i + 1] - rise[i] * (beyond + g[i + 1]) - right[i]) / diagonal[i]
        beyond += g[i + 1]
    return float((w * f * g).sum() / (w * f * f).sum() - 0.5)

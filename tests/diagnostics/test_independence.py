"""tau_int of an independence chain from the weights of its proposals: the transition matrix, a chain, equal weights."""

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import gamma_method, predicted_tau_int


def proposals(n, spread, seed):
    """Log weights, and an observable that is correlated with them."""
    rng = np.random.default_rng(seed)
    log_w = spread * rng.normal(size=n)
    return log_w, log_w + rng.normal(size=n)


def test_the_sum_over_the_powers_of_the_transition_matrix():
    log_w, f = proposals(60, 0.7, 1)
    log_w[5], log_w[7] = -np.inf, np.nan  # never accepted, but proposed
    n, kept = len(log_w), np.isfinite(log_w)
    w = np.exp(log_w[kept])
    matrix = np.minimum(1, w[None, :] / w[:, None]) / n
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    p = w / w.sum()
    centred = f[kept] - p @ f[kept]
    later, total = centred, 0.5
    for _ in range(2000):  # the second largest eigenvalue is 1 - A of the largest weight, below 0.95
        later = matrix @ later
        total += (p * centred) @ later / ((p * centred) @ centred)
    assert predicted_tau_int(log_w, f)[0] == pytest.approx(total, rel=1e-9)


def test_a_chain_has_it():
    log_w, f = proposals(4096, 0.5, 2)
    tau, error = predicted_tau_int(log_w, f)
    rng = np.random.default_rng(3)
    at, series = rng.choice(len(f), 256, p=np.exp(log_w) / np.exp(log_w).sum()), []
    for _ in range(1000):
        new = rng.integers(len(f), size=256)
        at = np.where(np.log(rng.random(256)) < log_w[new] - log_w[at], new, at)
        series.append(f[at])
    found = gamma_method(np.array(series).T)
    # The chain runs on these very proposals, so that the jackknife's error is not part of the comparison: 5 errors.
    assert abs(found.tau_int - tau) < 5 * found.tau_int_error
    assert tau > 0.7  # far from that of independent draws, by more than five errors
    assert error < 0.1


def test_the_error_is_the_scatter():
    found = np.array([predicted_tau_int(*proposals(1000, 0.5, seed)) for seed in range(100, 200)])
    # The scatter of 100 values is known to 7 %, and the square of an error from 20 blocks to 30 %, the mean over 100
    # of them to 3 %. Two more terms of a few percent are left for a distribution that is not Gaussian.
    assert np.sqrt(np.square(found[:, 1]).mean()) == pytest.approx(found[:, 0].std(ddof=1), rel=0.4)


def test_equal_weights_make_independent_draws():
    f = np.random.default_rng(4).normal(size=100)
    tau, error = predicted_tau_int(np.full(100, 12.3), f)
    assert tau == pytest.approx(0.5) and error < 1e-9


def test_refusals():
    log_w, f = proposals(50, 0.5, 5)
    with pytest.raises(DmmcError, match="a value for each of at least 20"):
        predicted_tau_int(log_w, f[1:])
    with pytest.raises(DmmcError, match="a value for each of at least 20"):
        predicted_tau_int(log_w[:10], f[:10])
    with pytest.raises(DmmcError, match="must be finite"):
        predicted_tau_int(log_w, np.where(f > 0, np.nan, f))
    with pytest.raises(DmmcError, match="no tau_int"):
        predicted_tau_int(log_w, np.ones(50))
    with pytest.raises(DmmcError, match="no tau_int"):
        predicted_tau_int(np.full(50, -np.inf), f)

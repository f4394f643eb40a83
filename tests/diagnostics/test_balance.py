"""Balance of signs and modes: calibrated where it should be even, loud where it is not."""

import math

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError

SIGMA = 5.0


def switching(p_flip, shape=(8, 2000), seed=1):
    """M = +-1 with a little noise; the sign flips with probability ``p_flip`` a draw and starts at random."""
    rng = np.random.default_rng(seed)
    flips = rng.random(shape) < p_flip
    flips[:, 0] = rng.random(shape[0]) < 0.5
    return (1 - 2 * (np.cumsum(flips, axis=1) % 2)) * rng.normal(1, 0.1, shape)


def test_error_of_the_balance_knows_the_autocorrelation():
    M = switching(0.1)
    balance = diagnostics.z2_balance(M)
    # A two-state chain has rho(t) = (1 - 2 p)^t, so tau_int = (1 - p) / (2 p) = 4.5.
    assert abs(balance.fraction.tau_int - 4.5) < SIGMA * balance.fraction.tau_int_error
    assert balance.fraction.value == np.mean(M > 0)
    assert balance.flips == np.sum(M[:, 1:] * M[:, :-1] < 0)
    assert abs(balance.z) < SIGMA and not balance.one_sided


def test_z_of_the_balance_is_standard_normal():
    z = np.array([diagnostics.z2_balance(switching(0.2, (4, 400), seed)).z for seed in range(200)])
    # Standard deviations of mean and mean square: 1 / sqrt(200), sqrt(2 / 200) = 0.1; errors of 1600 draws add 0.05.
    assert abs(z.mean()) < SIGMA / math.sqrt(200) and abs(np.mean(z**2) - 1) < 0.55


def test_imbalance_is_seen():
    M = np.abs(switching(0.2))
    M[:, ::3] *= -1
    balance = diagnostics.z2_balance(M)
    assert balance.fraction.value == pytest.approx(2 / 3, abs=1e-3) and balance.z > 10


def test_one_sign_only_gives_no_number_of_sigmas():
    with pytest.warns(diagnostics.DiagnosticsWarning, match="constant"):
        balance = diagnostics.z2_balance(np.abs(switching(0.2)))
    assert balance.one_sided and balance.flips == 0 and math.isnan(balance.z)


def test_zero_counts_one_half():
    assert diagnostics.z2_balance(np.tile([0.0, 1.0, -1.0, 0.0], (2, 50))).fraction.value == 0.5


def test_modes_that_agree():
    # Largest of 8 z-scores, 100 times over: 800 normal deviates exceed 5 with a probability of 5e-4.
    z = []
    for seed in range(100):
        balance = diagnostics.mode_balance(switching(0.2, (4, 400), seed), switching(0.05, (8, 400), 1000 + seed))
        assert len(balance.edges) == 7 and balance.fraction.sum() == pytest.approx(1)
        z.append(balance.z)
    # Bins have the tau_int of M at most: errors may be too large, not too small.
    assert abs(np.array(z)).max() < SIGMA and np.mean(np.square(z)) < 1.3


def test_a_missing_mode_is_found_and_located():
    chain, reference = np.abs(switching(0.2)), switching(0.1, seed=2)
    balance = diagnostics.mode_balance(chain, reference)
    assert balance.fraction[0] == 0 and balance.reference[0] == pytest.approx(1 / 8, abs=0.01)
    assert balance.z[0] < -8 and balance.z[-1] > 8
    assert balance.interval(0).startswith("M < -1") and balance.interval(7).endswith("< M")
    assert " < M < " in balance.interval(3)
    assert abs(balance.z[balance.worst]) == np.nanmax(abs(balance.z))


def test_a_chain_that_never_moved_is_not_judged():
    balance = diagnostics.mode_balance(np.ones((2, 100)), switching(0.1))
    assert np.isnan(balance.z).all() and balance.worst == -1


def test_a_frozen_reference_does_not_accuse():
    # 8 chains that never flip, 6 of them positive: as good as 8 draws.
    rng = np.random.default_rng(3)
    reference = np.array([1, 1, 1, 1, 1, 1, -1, -1])[:, None] * rng.normal(1, 0.1, (8, 500))
    balance = diagnostics.mode_balance(switching(0.3), reference)
    assert abs(balance.z[balance.worst]) < 4


def test_zero_mode():
    rng = np.random.default_rng(4)
    same = diagnostics.zero_mode(rng.normal(size=(8, 1000)) ** 2, rng.normal(size=(8, 1000)) ** 2)
    assert abs(same.z) < SIGMA
    # <x^2> of widths 1.1 and 1: 0.21 in units of sqrt(2 / 8000) sqrt(1 + 1.1^4) = 0.025
    off = diagnostics.zero_mode((1.1 * rng.normal(size=(8, 1000))) ** 2, rng.normal(size=(8, 1000)) ** 2)
    assert off.z == pytest.approx(0.21 / 0.0248, abs=SIGMA)
    assert off.chain.value > off.reference.value


def test_bad_input_is_refused():
    with pytest.raises(DmmcError, match="M must have shape"):
        diagnostics.z2_balance(np.ones(10))
    with pytest.raises(DmmcError, match="two bins"):
        diagnostics.mode_balance(switching(0.1), switching(0.1), bins=1)
    with pytest.raises(DmmcError, match="M of the reference"):
        diagnostics.mode_balance(switching(0.1), np.full((2, 9), np.nan))

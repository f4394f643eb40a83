"""Blocking and jackknife: exact small cases, coverage, agreement with the Gamma method and with pyerrors."""

import math

import numpy as np
import pyerrors
import pytest
from numpy.random import default_rng

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning, blocking, gamma_derived, gamma_method, jackknife
from helpers import ar1


def test_blocking_against_direct_formulas():
    x = default_rng(1).normal(size=(3, 40))
    found = blocking(x, [1, 4, 40])
    for k, size in enumerate((1, 4, 40)):
        means = x.reshape(3, 40 // size, size).mean(axis=2).ravel()
        assert found.n_blocks[k] == len(means)
        assert found.error[k] == pytest.approx(means.std(ddof=1) / math.sqrt(len(means)), rel=1e-12)
        assert found.error_error[k] == pytest.approx(found.error[k] / math.sqrt(2 * (len(means) - 1)), rel=1e-12)
    np.testing.assert_array_equal(blocking(x).size, [1, 2, 4, 8])  # 10 blocks or more


def test_blocking_rises_to_the_error_of_the_gamma_method():
    tau = 5.0
    x = ar1(tau, 4, 50_000, default_rng(2))
    found, gamma = blocking(x), gamma_method(x)
    a = (2 * tau - 1) / (2 * tau + 1)
    for size, error, uncertainty in zip(found.size, found.error, found.error_error, strict=True):
        lags = np.arange(1, size)
        exact = math.sqrt((1 + 2 * ((1 - lags / size) @ a**lags)) / x.size)  # variance of a block mean of AR(1)
        # 5 sigma; correlations between blocks make the error of a small block's error too small by up to sqrt(2 tau)
        assert abs(error - exact) < 5 * uncertainty * math.sqrt(max(1, 2 * tau / size))
    plateau = int(np.searchsorted(found.size, 20 * tau))
    assert abs(found.error[plateau] - gamma.error) < 5 * math.hypot(found.error_error[plateau], gamma.error_error)
    assert found.tau_int[0] == 0.5
    assert abs(found.tau_int[plateau] / tau - 1) < 10 * found.error_error[plateau] / found.error[plateau] + 0.05


def test_blocks_that_do_not_fit_leave_no_draw_out():
    x = default_rng(3).normal(size=(2, 41)) + 5
    x[:, -1] = 100.0
    assert blocking(x, [4]).error[0] > 1  # the last draw is in


def test_jackknife_of_a_mean_is_the_block_error():
    x = ar1(2.0, 4, 1000, default_rng(4), mean=1.0)
    found = jackknife(lambda a: a, [x], block_size=20)
    assert found.value == pytest.approx(x.mean(), rel=1e-12)
    assert found.error == pytest.approx(blocking(x, [20]).error[0], rel=1e-10)
    assert abs(found.bias) < 1e-12 and found.n_blocks == 200 and found.block_size == 20
    assert str(found) == str(gamma_derived(lambda a: a, [x])).split("(")[0] + str(found)[str(found).index("(") :]


def test_jackknife_of_a_square_is_exact():
    # F = a^2: the mean over leave-one-out values exceeds a^2 by s^2 / (n (n - 1)), s^2 the sample variance
    x = default_rng(5).normal(size=(1, 50)) + 1
    found = jackknife(lambda a: a * a, [x], block_size=1)
    assert found.bias == pytest.approx(x.var(ddof=1) / 50, rel=1e-9)
    assert found.corrected == pytest.approx(x.mean() ** 2 - x.var(ddof=1) / 50, rel=1e-12)


def test_jackknife_equals_pyerrors():
    x = default_rng(6).normal(size=(1, 500)) + 1
    _, *theirs = (pyerrors.Obs([x[0]], ["chain"]) ** 2).export_jackknife()
    with pytest.warns(DiagnosticsWarning, match="below 2 tau_int"):
        found = jackknife(lambda a: a * a, [x], block_size=1)
    # theirs are of the linearised function, ours of the function itself: a difference of order 1/n
    assert found.error == pytest.approx(math.sqrt(499 * np.var(theirs)), rel=0.01)


def test_jackknife_errors_cover():
    rng, tau = default_rng(7), 3.0
    pulls, biases, corrected = [], [], []
    for _ in range(300):
        x = ar1(tau, 4, 500, rng)
        found = jackknife(lambda m4, m2: 1 - m4 / (3 * m2**2), [x**4, x**2])
        pulls.append(found.value / found.error)  # Gaussian x: exactly 0
        biases.append(found.bias)
        corrected.append(found.corrected)
    # 300 pulls: 5 sigma; blocks of (tau^2 n)^(1/3) leave an error that is too small by tau / 2b = 6 %
    assert abs(np.std(pulls) - 1) < 5 / math.sqrt(600) + 0.06
    # The bias of U_L is of order tau / n; what the correction leaves is far below.
    assert abs(np.mean(corrected)) < 5 * np.std(corrected) / math.sqrt(300)
    assert np.mean(biases) > 5 * np.std(biases) / math.sqrt(300)


def test_default_blocks_agree_with_the_gamma_method():
    x = ar1(8.0, 8, 5000, default_rng(8), mean=0.5)
    columns, function = [x**2, abs(x)], lambda m2, m: m2 - m * m
    gamma, found = gamma_derived(function, columns), jackknife(function, columns)
    assert found.block_size == math.ceil((gamma.tau_int**2 * x.size) ** (1 / 3))
    assert found.value == gamma.value
    # both errors from the same draws: the larger uncertainty, and the bias tau / 2b of the blocks
    bias = gamma.tau_int / (2 * found.block_size)
    assert abs(found.error / gamma.error - 1) < 5 * found.error_error / found.error + bias


def test_unreliable_results_warn():
    x = ar1(2.0, 2, 200, default_rng(9))
    with pytest.warns(DiagnosticsWarning, match="constant"):
        assert np.isnan(blocking(np.ones((2, 50))).error).all()
    with pytest.warns(DiagnosticsWarning, match="constant"):
        assert math.isnan(jackknife(lambda a: a, [np.ones((2, 50))]).error)
    with pytest.warns(DiagnosticsWarning, match="below 2 tau_int"):
        jackknife(lambda a: a, [x], block_size=1)
    with pytest.warns(DiagnosticsWarning, match="fewer than 10 blocks"):
        jackknife(lambda a: a, [x], block_size=100)
    with pytest.warns(DiagnosticsWarning, match="single block"):
        assert math.isnan(jackknife(lambda a: a, [x[:1]], block_size=200).error)
    with pytest.warns(DiagnosticsWarning, match="not defined"):
        assert math.isnan(jackknife(lambda a: math.nan, [x]).value)
    outlier = x.copy()
    outlier[1, 100] = -100.0
    with pytest.warns(DiagnosticsWarning, match="without one of the"):
        assert math.isnan(jackknife(lambda a: a if a < 0 else math.nan, [outlier], block_size=10).error)
    stuck, shifted = x.copy(), ar1(2.0, 2, 2000, default_rng(9))
    stuck[0] = 0.1
    shifted[0] += 2
    for call in (blocking, lambda y: jackknife(lambda a: a, [y])):
        with pytest.warns(DiagnosticsWarning, match="none ever changed"):
            call(stuck)
    with pytest.warns(DiagnosticsWarning, match="the chains differ"):
        blocking(shifted)
    with (
        pytest.warns(DiagnosticsWarning, match="fewer than 10"),
        pytest.warns(DiagnosticsWarning, match="chains differ"),
    ):
        jackknife(lambda a: a, [shifted])


def test_bad_input_is_refused():
    x = default_rng(10).normal(size=(2, 20))
    for sizes in ([0], [21]):
        with pytest.raises(DmmcError, match="block size must be"):
            blocking(x, sizes)
        with pytest.raises(DmmcError, match="block size must be"):
            jackknife(lambda a: a, [x], block_size=sizes[0])
    with pytest.raises(DmmcError, match="a single one"):
        blocking(default_rng(10).normal(size=(1, 500)), [500])
    with pytest.raises(DmmcError, match="at least 4"):
        blocking(x[:, :3])
    with pytest.raises(DmmcError, match="NaN"):
        jackknife(lambda a: a, [np.full((2, 20), math.nan)])
    with pytest.raises(DmmcError, match="at least one"):
        jackknife(lambda: 0.0, [])

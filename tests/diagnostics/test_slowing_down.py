"""Power laws: published and exact answers, and errors that cover."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from checks import CHANCE
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.diagnostics.slowing_down import cost_per_effective_sample, fit_power_law
from helpers import assert_standard_normal


def test_an_exact_power_law_is_recovered_exactly():
    xi = np.array([1.5, 2.0, 3.0, 5.0])
    law = fit_power_law(xi, 2.5 * xi**1.7, 0.1 * xi, 0.02 * xi)
    assert law.z == pytest.approx(1.7, abs=1e-6)
    assert law.c == pytest.approx(2.5, rel=1e-6)
    assert (law.dof, law.inflation) == (2, 1.0)
    assert law.chi2 < 1e-6 and law.p_value > 0.999
    np.testing.assert_allclose(law(xi), 2.5 * xi**1.7, rtol=1e-6)


def test_errors_on_one_axis_are_those_of_linear_regression():
    r = np.random.default_rng(1)
    L, relative = np.array([6.0, 8, 10, 14, 20]), np.array([0.05, 0.1, 0.07, 0.08, 0.2])
    tau = 0.1 * L**2 * np.exp(relative * r.standard_normal(5))
    law = fit_power_law(L, tau, relative * tau)
    line, covariance = np.polyfit(np.log(L), np.log(tau), 1, w=1 / relative, cov="unscaled")
    assert law.z == pytest.approx(line[0], rel=1e-6)
    assert law.z_error / law.inflation == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-5)
    assert law.c_error / law.c / law.inflation == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-5)
    t = math.log(12)
    there = math.sqrt(np.array([t, 1]) @ covariance @ np.array([t, 1]))
    assert law.error(12.0) / law(12.0) / law.inflation == pytest.approx(there, rel=1e-5)


def test_errors_on_both_axes_reproduce_the_published_fit_of_pearsons_data():
    # York, Evensen, Lopez Martinez, De Basabe Delgado, Am. J. Phys. 72 (2004) 367: Pearson's data, York's weights.
    x = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
    y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
    x_error = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1]) ** -0.5
    y_error = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500]) ** -0.5
    law = fit_power_law(np.exp(x), np.exp(y), np.exp(y) * y_error, np.exp(x) * x_error)
    assert law.z == pytest.approx(-0.480533407, abs=1e-7)
    assert math.log(law.c) == pytest.approx(5.47991022, abs=1e-6)
    assert law.chi2 / law.dof == pytest.approx(1.4833, abs=1e-4)
    assert law.inflation == pytest.approx(math.sqrt(1.4833), abs=1e-4)
    assert law.z_error / law.inflation == pytest.approx(0.0580, abs=1e-4)
    assert law.c_error / law.c / law.inflation == pytest.approx(0.295, abs=1e-3)


@pytest.fixture(scope="module")
def repetitions():
    """Many fits to one power law, with and without the errors of xi, which are the larger ones here."""
    r = np.random.default_rng(2)
    xi0, n = np.array([1.5, 2, 2.5, 3, 3.5, 5]), 400
    fits, without = [], []
    for _ in range(n):
        xi = xi0 * (1 + 0.04 * r.standard_normal(6))
        tau = 3 * xi0**1.9 * np.exp(0.05 * r.standard_normal(6))
        fits.append(fit_power_law(xi, tau, 0.05 * tau, 0.04 * xi))
        without.append(fit_power_law(xi, tau, 0.05 * tau))
    return fits, without


def test_the_errors_of_a_power_law_cover(repetitions):
    fits, _ = repetitions
    assert_standard_normal([(fit.z - 1.9) / fit.z_error * fit.inflation for fit in fits])
    assert_standard_normal([math.log(fit.c / 3) / (fit.c_error / fit.c) * fit.inflation for fit in fits])
    assert_standard_normal([math.log(fit(4.0) / (3 * 4**1.9)) / (fit.error(4.0) / fit(4.0)) * fit.inflation
                            for fit in fits])  # fmt: skip
    assert scipy.stats.kstest([fit.p_value for fit in fits], "uniform").pvalue > CHANCE


def test_leaving_out_the_errors_of_xi_shows(repetitions):
    _, without = repetitions
    # The scatter about the law is sqrt(1 + (1.9 x 0.04 / 0.05)^2) = 1.8 times the errors of tau alone.
    assert np.mean([fit.chi2 / fit.dof for fit in without]) > 2
    assert np.var([(fit.z - 1.9) / fit.z_error * fit.inflation for fit in without]) > 2
    assert scipy.stats.kstest([fit.p_value for fit in without], "uniform").pvalue < CHANCE


def test_errors_that_are_too_small_are_inflated_to_what_the_scatter_says():
    r = np.random.default_rng(3)
    xi = np.array([1.0, 2, 3, 4, 6, 8])
    tau = xi**2 * np.exp(0.1 * r.standard_normal(6))
    first, second = (fit_power_law(xi, tau, scale * tau, scale * xi / 2) for scale in (0.01, 0.001))
    assert first.inflation == pytest.approx(math.sqrt(first.chi2 / first.dof)) and first.inflation > 2
    assert second.z_error == pytest.approx(first.z_error, rel=1e-3)
    assert second.p_value < first.p_value < 0.01


def test_two_points_are_drawn_through_with_a_warning():
    with pytest.warns(DiagnosticsWarning, match="two points"):
        law = fit_power_law([1.0, 2.0], [1.0, 4.0], [0.1, 0.4])
    assert law.z == pytest.approx(2) and law.dof == 0 and law.inflation == 1 and math.isnan(law.p_value)
    assert law.z_error == pytest.approx(0.1 * math.sqrt(2) / math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2.0], [3.0], [0.1]), "two different x"),
        (([], [], []), "two different x"),
        (([2.0, 2.0, 2.0], [3.0, 4.0, 5.0], [0.1] * 3), "two different x"),
        (([1.0, 2.0], [3.0, math.nan], [0.1] * 2), "positive and finite"),
        (([1.0, 2.0], [3.0, 4.0], [0.1, 0.0]), "error of tau_int must be positive"),
        (([-1.0, 2.0], [3.0, 4.0], [0.1] * 2), "x must be positive"),
        (([1.0, 2.0, 3.0], [3.0, 4.0], [0.1] * 2), "shape"),
        (([1.0, 2.0], [3.0, 4.0], [0.1] * 2, [0.1, -0.1]), "not negative"),
        (([1.0, 1.1, 1.2], [3.0, 4.0, 5.0], [0.1] * 3, [0.5] * 3), "undetermined"),
    ],
)
def test_power_laws_refuse(arguments, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        with pytest.raises(DmmcError, match=message):
            fit_power_law(*arguments)


def test_cost_per_effective_sample():
    assert cost_per_effective_sample(0.5, 0.1, 7) == pytest.approx((7, 1.4))  # every draw is an effective one
    assert cost_per_effective_sample(40, 4, 10) == pytest.approx((800, 80))
    assert all(math.isnan(x) for x in cost_per_effective_sample(math.nan, math.nan, 10))
    with pytest.raises(DmmcError, match="negative"):
        cost_per_effective_sample(-1, 0.1, 1)


def test_needs_neither_torch_nor_scipy_to_import():
    code = "import sys, dmmc.diagnostics.slowing_down; print([n for n in ('torch', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Power laws and Binder crossings: published and exact answers, and errors that cover."""

import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.diagnostics.slowing_down import binder_crossings, cost_per_effective_sample, fit_power_law
from helpers import SIGMA

CHANCE = 2 * scipy.stats.norm.sf(SIGMA)


def assert_standard_normal(pulls):
    """Mean 0, variance 1 and 68 % within one sigma, each to 5 of its standard errors."""
    n = len(pulls)
    assert abs(np.mean(pulls)) < SIGMA / math.sqrt(n)
    assert abs(np.var(pulls) - 1) < SIGMA * math.sqrt(2 / n)
    inside = math.erf(1 / math.sqrt(2))
    assert abs(np.mean(np.abs(pulls) < 1) - inside) < SIGMA * math.sqrt(inside * (1 - inside) / n)


# Power laws


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


# Binder crossings

KAPPA, SIZES = np.linspace(0.266, 0.276, 5), (8, 16, 32)


def finite_size(L, kappa, kappa_c=0.271):
    """A cumulant that obeys finite-size scaling with nu = 1, without corrections."""
    x = np.asarray(L)[:, None] * (kappa - kappa_c)
    return 0.61 + 1.5 * x - 2.0 * x**2


def test_crossings_without_noise():
    U = finite_size(SIZES, KAPPA)
    found = binder_crossings(SIZES, KAPPA, U, np.full_like(U, 1e-9), np.random.default_rng(1))
    assert [one.sizes for one in found.crossings] == [(8, 16), (16, 32)]
    assert found.best is found.crossings[-1]
    for one in found.crossings:
        assert one.kappa == pytest.approx(0.271, abs=1e-9) and one.binder == pytest.approx(0.61, abs=1e-7)
    assert abs(found.drift) < 1e-9
    assert [len(curve.coefficients) for curve in found.curves] == [3, 3, 3]  # a straight line does not fit
    np.testing.assert_allclose([curve(KAPPA) for curve in found.curves], U, atol=1e-8)


def test_the_errors_of_crossings_cover():
    r = np.random.default_rng(2)
    U, error = finite_size(SIZES, KAPPA), np.full((3, 5), 0.005)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of 450 good fits a few have p < 0.01
        found = [
            binder_crossings(SIZES, KAPPA, U + error * r.standard_normal(U.shape), error, r, degree=2, samples=200)
            for _ in range(150)
        ]
    # 200 samples know their spread to 6 %, which is far below what 150 pulls can tell.
    for k in (0, 1):
        assert_standard_normal([(one.crossings[k].kappa - 0.271) / one.crossings[k].kappa_error for one in found])
        assert_standard_normal([(one.crossings[k].binder - 0.61) / one.crossings[k].binder_error for one in found])
    assert_standard_normal([one.drift / one.drift_error for one in found])


def test_corrections_are_extrapolated_with_an_error_that_covers_other_exponents():
    sizes = np.array(SIZES)
    for exponent in (1.2, 2.0, 2.8):
        # A term in U_L that moves the crossing of L and 2 L by 0.15 L^-exponent.
        # The curves of L and 2 L are apart by a multiple of L^(1 - exponent), and their slopes by one of L.
        U = finite_size(SIZES, KAPPA) - (0.05 * sizes ** (1 - exponent) / (1 - 2 ** (1 - exponent)))[:, None]
        found = binder_crossings(SIZES, KAPPA, U, np.full_like(U, 1e-9), np.random.default_rng(1), degree=2)
        off = found.kappa_c - 0.271
        assert abs(off) < math.sqrt(3) * found.kappa_c_error  # of a uniform distribution: all of it
        assert found.kappa_c_error < abs(found.drift)
    one = binder_crossings((16, 32), KAPPA, U[1:], np.full((2, 5), 1e-3), np.random.default_rng(1), degree=2)
    assert (one.kappa_c, one.kappa_c_error) == (one.best.kappa, one.best.kappa_error)
    assert math.isnan(one.drift)


def test_the_order_of_sizes_does_not_matter():
    r = np.random.default_rng(3)
    U = finite_size(SIZES, KAPPA) + 0.003 * r.standard_normal((3, 5))
    error = np.full_like(U, 0.003)
    one = binder_crossings(SIZES, KAPPA, U, error, np.random.default_rng(4))
    order = [2, 0, 1]
    two = binder_crossings([SIZES[k] for k in order], KAPPA, U[order], error, np.random.default_rng(4))
    assert one == two
    assert one == binder_crossings(SIZES, KAPPA, U, error, np.random.default_rng(4))


def ising_binder(L):
    """``U_L(beta)`` of the two-dimensional Ising model on a periodic L x L lattice, all states enumerated."""
    spins = np.array(list(itertools.product([-1, 1], repeat=L * L)), dtype=np.int8).reshape(-1, L, L)
    bonds = sum((spins * np.roll(spins, 1, axis)).sum((1, 2), dtype=np.int64) for axis in (1, 2))
    M2 = (spins.sum((1, 2), dtype=np.int64) / L**2) ** 2

    def U(beta):
        weight = np.exp(beta * (bonds - bonds.max()))
        return 1 - (weight @ M2**2) * weight.sum() / (3 * (weight @ M2) ** 2)

    return U


def test_crossings_of_the_exact_ising_model():
    exact = {L: ising_binder(L) for L in (2, 3, 4)}
    beta = np.linspace(0.37, 0.5, 6)
    U = np.array([[curve(b) for b in beta] for curve in exact.values()])
    # The interpolation is by cubics, good to 1e-5 over this range.
    found = binder_crossings([2, 3, 4], beta, U, np.full_like(U, 1e-4), np.random.default_rng(1), degree=3)
    for one in found.crossings:
        small, large = (exact[L] for L in one.sizes)
        truth = scipy.optimize.brentq(lambda b, one=small, two=large: two(b) - one(b), 0.37, 0.5)
        assert one.kappa == pytest.approx(truth, abs=2e-4)
        assert one.binder == pytest.approx(small(truth), abs=2e-4)
    # Onsager: crossings move towards beta_c as the sizes grow.
    beta_c = math.log(1 + math.sqrt(2)) / 2
    first, last = (abs(one.kappa - beta_c) for one in found.crossings)
    assert last < first


def test_a_polynomial_that_does_not_fit_is_reported():
    U = finite_size(SIZES, KAPPA)
    with pytest.warns(DiagnosticsWarning, match="degree 1 does not describe"):
        binder_crossings(SIZES, KAPPA, U, np.full_like(U, 1e-3), np.random.default_rng(1), degree=1)


def test_crossings_lost_in_the_noise_are_reported():
    U = finite_size((8, 9), KAPPA)
    with pytest.warns(DiagnosticsWarning, match="may be too small"):
        binder_crossings((8, 9), KAPPA, U, np.full_like(U, 0.02), np.random.default_rng(1), degree=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kappa": KAPPA - 0.02}, None),  # only names: U is moved along
        ({"binder": finite_size(SIZES, KAPPA, 0.3)}, "take larger kappa"),
        ({"binder": finite_size(SIZES, KAPPA, 0.26)}, "take smaller kappa"),
        ({"sizes": (8, 8, 16)}, "two different sizes"),
        ({"kappa": np.full(5, 0.27)}, "two different kappa"),
        ({"binder": np.zeros((2, 5))}, "shape"),
        ({"binder_error": np.zeros((3, 5))}, "every error positive"),
        ({"binder": np.full((3, 5), math.nan)}, "finite"),
        ({"degree": 5}, "degree must be"),
        ({"samples": 10}, "100 samples"),
    ],
)
def test_crossings_refuse(change, message):
    U = finite_size(SIZES, KAPPA)
    arguments = {"sizes": SIZES, "kappa": KAPPA, "binder": U, "binder_error": np.full_like(U, 0.001)}
    arguments |= {"rng": np.random.default_rng(1), "degree": 2, **change}
    if message is None:
        assert binder_crossings(**arguments).best.kappa == pytest.approx(0.251, abs=1e-4)
    else:
        with pytest.raises(DmmcError, match=message):
            binder_crossings(**arguments)


def test_needs_neither_torch_nor_scipy_to_import():
    code = "import sys, dmmc.diagnostics.slowing_down; print([n for n in ('torch', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

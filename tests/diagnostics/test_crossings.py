"""Binder crossings: exact answers, and errors that cover."""

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.diagnostics.crossings import binder_crossings
from helpers import assert_standard_normal

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

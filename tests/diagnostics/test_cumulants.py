"""Cumulants: unbiased for every sample of a small population, right errors, and what noise does to them."""

import itertools
import math

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import cumulant, cumulants_of_moments, jackknife, k_statistic, noised_cumulants
from helpers import SIGMA, assert_standard_normal

VALUES, PROBABILITIES = np.array([-1.0, 0.3, 2.0]), np.array([0.5, 0.3, 0.2])


def exact(order):
    return cumulants_of_moments([float(PROBABILITIES @ VALUES**k) for k in range(1, order + 1)])[-1]


@pytest.mark.parametrize("order", range(1, 9))
@pytest.mark.parametrize("n", [8, 10])
def test_a_k_statistic_is_unbiased(order, n):
    # The mean over all samples of n draws, with their multinomial probabilities. Rounding: terms are some 10^4.
    total = 0.0
    for counts in itertools.product(range(n + 1), repeat=2):
        if sum(counts) > n:
            continue
        sample = np.array([*counts, n - sum(counts)])
        ways = math.factorial(n) / math.prod(math.factorial(c) for c in sample)
        means = [float(sample @ VALUES**k) / n for k in range(1, order + 1)]
        total += ways * float(np.prod(PROBABILITIES**sample)) * k_statistic(order, means, n)
    assert total == pytest.approx(exact(order), rel=1e-8, abs=1e-8)


def test_cumulants_of_known_distributions():
    # Poisson: all are equal to the mean, 1 here (moments: Bell numbers). Exponential: (n - 1)!
    assert cumulants_of_moments([1, 2, 5, 15, 52, 203, 877, 4140]) == [1] * 8
    wanted = [math.factorial(n - 1) for n in range(1, 9)]
    assert cumulants_of_moments([math.factorial(n) for n in range(1, 9)]) == wanted


def test_values_and_errors_scatter_as_they_say():
    # 60 records of each order: pulls are standard normal. The skewness of kappa_6 needs many draws.
    generator = np.random.default_rng(1)
    for order in (2, 3, 4, 6):
        pulls = []
        for _ in range(60):
            x = generator.choice(VALUES, p=PROBABILITIES, size=(4, 1000))
            found = cumulant(x, order)
            pulls.append((found.value - exact(order)) / found.error)
        assert_standard_normal(np.array(pulls))


def test_a_shift_does_not_matter_and_a_unit_scales():
    x = np.random.default_rng(2).normal(size=(4, 500)) ** 2
    for order in range(2, 9):
        there, here = cumulant(1e3 + 2 * x, order, 20), cumulant(x, order, 20)
        assert there.value == pytest.approx(2**order * here.value, rel=1e-7)
        assert there.error == pytest.approx(2**order * here.error, rel=1e-6)
    assert cumulant(x, 1, 20).value == pytest.approx(x.mean())
    assert cumulant(x, 1, 20).error == pytest.approx(jackknife(lambda a: a, [x], 20).error)


def test_values_of_one_draw_belong_together():
    # Copies of the same number add no information: the error must not shrink with their number.
    x = np.random.default_rng(3).normal(size=(4, 500))
    one, many = cumulant(x, 4, 10), cumulant(np.repeat(x[..., None], 16, axis=2), 4, 10)
    assert many.error == pytest.approx(one.error, rel=0.02)  # of order 1/n for the different corrections
    assert abs(many.value - one.value) < one.error


def test_noise_conserves_cumulants_beyond_the_second_or_shrinks_them():
    x = np.random.default_rng(4).exponential(size=(8, 20_000))
    eps = np.random.default_rng(5).normal(size=x.shape)
    kappa = [float(math.factorial(n - 1)) for n in range(1, 9)]
    for a, s in ((1.0, 0.7), (0.6, 0.8)):
        for order, wanted in enumerate(noised_cumulants(kappa, a, s)[:5], 1):
            found = cumulant(a * x + s * eps, order)
            assert abs(found.value - wanted) < SIGMA * found.error


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(DmmcError, match="at most 8"):
        cumulant(np.zeros((2, 50)), 9)
    with pytest.raises(DmmcError, match="at least 4 draws"):
        k_statistic(4, [0.0, 1.0, 0.0, 3.0], 3)
    with pytest.raises(DmmcError, match="means of 4 powers"):
        k_statistic(4, [0.0, 1.0], 9)
    with pytest.raises(DmmcError, match="chain, draw"):
        cumulant(np.zeros(50), 2)

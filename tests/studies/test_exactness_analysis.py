"""The statistics of the exactness laboratory, with made-up chains and by quadrature.

A correct result fails by chance with probability CHANCE of ``checks`` (5 sigma); a wrong one must be seen at 5 sigma.
"""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from checks import CHANCE
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.studies.exactness import (
    OBSERVABLES,
    Means,
    agreement,
    biases,
    means,
    quadrature,
)
from dmmc.studies.exactness.truth import odd_is_zero
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, tilted

PHI4, TWO_SITES = Phi4(0.3, 0.3), Lattice((2,))
TILTED = tilted(PHI4)


def made_up_chains(n, draws, seed):
    """Records of made-up chains ``(n, draws)`` of a field on two sites, white."""
    phi = np.random.default_rng(seed).normal(size=(n, draws, 2)) @ np.array([[1.0, 0.3], [0.0, 0.8]])
    M, difference = phi.mean(-1), (phi[..., 0] - phi[..., 1]) ** 2 / 2
    two_point = np.stack([2 * M**2, difference], -1)
    return {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "S_per_site": (phi**4).mean(-1), "two_point": two_point}


def test_means_and_errors_are_those_of_the_gamma_method():
    record = made_up_chains(400, 50, 1)
    estimates = means(record)
    errors = estimates.errors
    gamma = {**diagnostics.primary({**record, "phi2": record["M2"]}), "binder": diagnostics.binder(record)}
    gamma["G_min"] = diagnostics.gamma_method(record["two_point"][..., 1])
    for name, value, error in zip(OBSERVABLES, estimates.values, errors, strict=True):
        assert value == pytest.approx(gamma[name].value, rel=1e-12)
        # The variance of 400 chain means is known to sqrt(2 / 399), its root to half of that: 5 sigma.
        assert error == pytest.approx(gamma[name].error, rel=SIGMA / math.sqrt(2 * 399) + SIGMA * 0.01)
    # |M| and M^2 rise together, and the record says by how much.
    i, j = OBSERVABLES.index("abs_M"), OBSERVABLES.index("M2")
    expected = np.corrcoef(record["abs_M"].ravel(), record["M2"].ravel())[0, 1]
    assert estimates.covariance[i, j] / (errors[i] * errors[j]) == pytest.approx(expected, abs=SIGMA / 20)


def shifted_copy(x, offset):
    """The same numbers in memory that begins ``offset`` bytes after a multiple of 64."""
    buffer = np.empty(x.nbytes + 128, np.uint8)
    first = -buffer.ctypes.data % 64 + offset
    copy = buffer[first : first + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def test_the_analysis_does_not_depend_on_where_the_record_lies_in_memory():
    """Values, errors and biases to the bit; chi^2, which takes eigenvalues from LAPACK, to rounding."""
    records = [made_up_chains(512, 16, seed) for seed in (1, 2, 3)]
    truth = odd_is_zero(means(made_up_chains(512, 64, 4)))

    def analysed(offset):
        estimates = [means({name: shifted_copy(x, offset) for name, x in record.items()}) for record in records]
        compared = [dataclasses.astuple(bias) for one in estimates for bias in biases(one, truth).values()]
        return compared, dataclasses.astuple(agreement(estimates, truth))

    expected, together = analysed(0)
    for offset in range(8, 64, 8):
        compared, again = analysed(offset)
        assert compared == expected
        assert again == pytest.approx(together, rel=1e-9)


def test_biases_are_in_units_of_the_observable_and_of_the_size_of_m():
    k = len(OBSERVABLES)
    truth = Means(np.array([0.0, 0.5, 2.0, 0.0, -4.0, 1.0]), 0.16 * np.eye(k), 0)
    estimates = Means(truth.values + 0.25, 0.09 * np.eye(k), 100)
    compared = biases(estimates, truth)
    assert all(bias.z == pytest.approx(0.5) and bias.bias_error == pytest.approx(0.5) for bias in compared.values())
    assert [compared[name].relative for name in OBSERVABLES] == [0.5, 0.5, 0.125, None, 0.0625, 0.25]
    assert [compared[name].relative_error for name in OBSERVABLES] == pytest.approx([1, 1, 0.25, None, 0.125, 0.5])
    with pytest.raises(DmmcError, match="do not move"):
        biases(Means(truth.values, np.zeros((k, k)), 100), Means(truth.values, np.zeros((k, k)), 0))


def p_values(n_sets, share_truth=True, shift=0.0):
    """Of chi^2 of three kernels and a truth noisier than they are, all means of correlated observables."""
    generator, k, n = np.random.default_rng(2), 6, 200
    mixing = generator.normal(size=(k, k)) + 2 * np.eye(k)

    def estimate(scale=1.0):
        by_chain = scale * generator.normal(size=(n, k)) @ mixing
        return Means(by_chain.mean(0) + 5, np.cov(by_chain, rowvar=False) / n, n)

    p = []
    for _ in range(n_sets):
        truth, kernels = estimate(1.5), [estimate() for _ in range(3)]
        kernels[0] = Means(kernels[0].values + shift, kernels[0].covariance, n)
        if not share_truth:  # each kernel as if it were the only one
            alone = [agreement([kernel], truth) for kernel in kernels]
            p.append(scipy.stats.chi2.sf(sum(one.chi2 for one in alone), sum(one.dof for one in alone)))
        else:
            p.append(agreement(kernels, truth).p_value)
    return np.array(p)


def test_p_values_are_uniform():
    assert scipy.stats.kstest(p_values(1000), "uniform").pvalue > CHANCE


def test_p_values_would_not_be_uniform_without_the_covariance_through_the_truth():
    assert scipy.stats.kstest(p_values(1000, share_truth=False), "uniform").pvalue < CHANCE


def test_a_shift_lowers_the_p_value():
    assert np.median(p_values(200, shift=1.0)) < 1e-3


def test_observables_that_depend_on_each_other_count_once():
    truth = Means(np.zeros(2), np.zeros((2, 2)), 0)
    together = agreement([Means(np.array([2.0, 4.0]), np.array([[1.0, 2.0], [2.0, 4.0]]), 0)], truth)
    assert (together.dof, together.chi2) == (1, pytest.approx(4.0))
    assert together.p_value == pytest.approx(2 * scipy.stats.norm.sf(2))
    assert together.sigma == pytest.approx(2)
    far = agreement([Means(np.array([50.0, 0.0]), np.eye(2), 0)], truth)
    assert far.p_value == 0 and far.sigma == pytest.approx(50, rel=0.01)  # of one degree of freedom it would be 50
    with pytest.raises(DmmcError, match="no exact kernel"):
        agreement([], truth)


@pytest.mark.parametrize("action", [PHI4, Phi4.from_mass(-4.0, 6.0, 1), Phi4(0.5, 0.022), TILTED])
def test_quadrature_knows_the_truth(action):
    known = dict(zip(OBSERVABLES, quadrature(action, TWO_SITES).values, strict=True))
    grid = Grid.make(2, 12 * action.scale, 901)
    p, M = grid.probabilities(action), grid.phi.mean(1)
    assert known["M"] == pytest.approx(float(p @ M), rel=1e-9, abs=1e-12)
    assert known["abs_M"] == pytest.approx(float(p @ M.abs()), rel=1e-3)  # |M| has a kink
    assert known["M2"] == pytest.approx(float(p @ M**2), rel=1e-9)
    assert known["binder"] == pytest.approx(1 - float(p @ M**4) / (3 * float(p @ M**2) ** 2), rel=1e-9)
    assert known["S_per_site"] == pytest.approx(float(p @ action(grid.phi)) / 2, rel=1e-9)
    assert known["G_min"] == pytest.approx(float(p @ (grid.phi[:, 0] - grid.phi[:, 1]) ** 2) / 2, rel=1e-9)


def test_quadrature_refuses_what_it_cannot_do():
    with pytest.raises(DmmcError, match="two sites"):
        quadrature(PHI4, Lattice((3,)))
    with pytest.raises(DmmcError, match="does not fall off"):
        quadrature(AutogradAction(lambda phi: 0 * phi.flatten(1).sum(1), "flat"), TWO_SITES)


def test_odd_observables_vanish_without_an_error_under_the_symmetry_alone():
    estimates = means(made_up_chains(100, 8, 1))
    exact = odd_is_zero(estimates)
    assert (exact.values[0], exact.errors[0]) == (0, 0) and estimates.values[0] != 0
    assert np.array_equal(exact.values[1:], estimates.values[1:])
    assert np.array_equal(exact.covariance[1:, 1:], estimates.covariance[1:, 1:])

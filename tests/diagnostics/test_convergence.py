"""Effective sample size, MCSE and R-hat: equal to ArviZ wherever that is right, and a warning where it is silent."""

import math
import warnings

import arviz as az
import emcee
import numpy as np
import pytest
import torch
from numpy.random import default_rng

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import (
    Convergence,
    DiagnosticsWarning,
    autocorrelation_function,
    convergence_summary,
    ess,
    gamma_method,
    mcse,
    rhat,
)
from dmmc.kernels.hmc import HMC
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4
from helpers import ar1

if hasattr(az, "Numba"):  # before version 1; with Numba and NumPy 2.4 its functions of arrays fail or return arrays
    az.Numba.disable_numba()


def of_arviz(x):
    """The same statistics by ArviZ: its functions of arrays, which versions 0.23 and 1 have in common."""
    sizes = [az.ess(x, method="bulk"), az.ess(x, method="tail", prob=(0.05, 0.95)), az.ess(x, method="mean")]
    return [az.rhat(x), *sizes, az.mcse(x), az.rhat(x, method="split")]


def ours(x):
    return [rhat(x), *(ess(x, m) for m in ("bulk", "tail", "mean")), mcse(x), rhat(x, "split")]


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # ArviZ, folded values of a series of two
@pytest.mark.parametrize("tau", [0.125, 0.5, 3.0, 20.0])
@pytest.mark.parametrize("shape", [(2, 4), (2, 5), (3, 7), (8, 9), (4, 20), (4, 101), (2, 3000)])
def test_equals_arviz(shape, tau):
    # Ties, by rounding, as well; odd lengths; shorter than their autocorrelation.
    x = ar1(tau, *shape, default_rng(1), mean=2.0)
    for series in (x, np.round(x), x**3):
        if np.ptp(series) > 0:
            np.testing.assert_allclose(ours(series), of_arviz(series), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_summary_is_the_single_functions():
    for x in (ar1(3.0, 4, 501, default_rng(2)), np.round(ar1(3.0, 4, 20, default_rng(2)))):
        found = convergence_summary(x)
        np.testing.assert_array_equal(
            [found.rhat, found.ess_bulk, found.ess_tail, found.ess_mean, found.mcse], ours(x)[:5]
        )


@pytest.mark.parametrize("tau", [0.5, 1.0, 10.0])
def test_effective_draws_of_ar1(tau):
    x = ar1(tau, 4, int(25_000 * tau), default_rng(3))
    estimate = gamma_method(x)
    # n / (2 tau_int) by another window: 5 sigma of the Gamma method, and its truncation
    for value in (ess(x, "mean"), ess(x, "bulk")):
        assert abs(x.size / (2 * value) - tau) < 5 * estimate.tau_int_error + 0.01 * tau
    assert mcse(x) == pytest.approx(estimate.error, rel=5 * estimate.tau_int_error / (2 * tau) + 0.01)
    assert rhat(x) < 1.01


def test_rhat_of_short_chains_is_what_it_should_be():
    tau, draws = 4.0, 400
    values = [rhat(ar1(tau, 16, draws, default_rng(seed)), "split") ** 2 - 1 for seed in range(50)]
    # means of half chains: variance 2 tau / (draws / 2) to leading order in tau / draws, R^2 - 1 one draw less
    assert np.mean(values) == pytest.approx((2 * tau - 1) / (draws / 2), abs=5 * np.std(values) / math.sqrt(50) + 0.002)


def test_rank_sees_a_difference_in_scale():
    x = ar1(1.0, 4, 2000, default_rng(4))
    x[0] *= 4
    assert rhat(x, "split") < 1.01 < rhat(x)


def test_real_chain_agrees_in_all_conventions():
    lattice, generator = Lattice((4, 4)), torch.Generator().manual_seed(1)
    kernel = HMC.default(Phi4(0.2, 0.022), lattice)
    state = kernel.start(torch.randn(8, 4, 4, generator=generator, dtype=torch.float64), generator)
    M2 = [measure(state.phi, state.S, lattice)["M2"] for state, _ in kernel.steps(state, 700, generator)]
    x = torch.stack(M2, 1).numpy()[:, 100:]
    estimate = gamma_method(x)
    emcees = emcee.autocorr.integrated_time(x.T[:, :, None])[0] / 2
    for tau in (x.size / (2 * ess(x, "mean")), emcees):
        assert abs(tau - estimate.tau_int) < 3 * estimate.tau_int_error
    assert mcse(x) == pytest.approx(estimate.error, rel=3 * estimate.tau_int_error / (2 * estimate.tau_int))
    rho, _ = autocorrelation_function(x, 10)
    assert 0.5 + rho[1:].sum() == pytest.approx(estimate.tau_int, abs=3 * estimate.tau_int_error)
    np.testing.assert_allclose(ours(x), of_arviz(x), rtol=1e-9)
    assert rhat(x) < 1.02


def series_of(case: str) -> np.ndarray:
    x = ar1(2.0, 4, 1000, default_rng(5))
    if case == "constant":
        x[:] = 0.1
    elif case == "all stuck":
        x[:] = x[:, :1]
    elif case == "stuck":
        x[2] = 0.3
    elif case == "modes":
        x[2] += 3
    return x


@pytest.mark.parametrize("case", ["constant", "all stuck", "stuck", "modes"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_warns_where_arviz_is_silent(case):
    x = series_of(case)
    match = {"constant": "constant", "all stuck": "no chain ever", "stuck": r"chains \[2\], none", "modes": "R-hat"}[
        case
    ]
    for call in (ess, mcse, convergence_summary):
        with pytest.warns(DiagnosticsWarning, match=match):
            call(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = rhat(x)
    if case == "modes":
        assert value > 1.1  # the number says it
    else:
        assert any(match.split("[")[0].replace("\\", "") in str(w.message) for w in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs = of_arviz(x)[3]
    assert theirs > 0  # finite effective draws, even of a constant: as many as there are draws
    if case == "constant":
        assert theirs == x.size
    elif case == "stuck":
        assert theirs > 400  # enough, by the usual rule


def test_values_of_constant_and_stuck_chains():
    with pytest.warns(DiagnosticsWarning):
        found = convergence_summary(np.full((4, 100), 0.1))
    assert isinstance(found, Convergence) and math.isnan(found.rhat) and math.isnan(found.mcse)
    with pytest.warns(DiagnosticsWarning):
        assert rhat(series_of("all stuck")) == rhat(series_of("all stuck"), "split") == math.inf
    with pytest.warns(DiagnosticsWarning, match="no tails"):
        assert math.isnan(ess(default_rng(6).random((4, 500)) > 0.03, "tail"))


def test_too_short_warns():
    with pytest.warns(DiagnosticsWarning, match="effective draws|R-hat"):
        ess(ar1(10.0, 2, 150, default_rng(7)))


def test_single_chain_is_judged_by_its_halves():
    drift = ar1(2.0, 1, 2000, default_rng(8)) + np.linspace(0, 4, 2000)
    assert rhat(drift) > 1.2
    assert rhat(ar1(2.0, 1, 2000, default_rng(8))) < 1.02


@pytest.mark.parametrize("call", [rhat, ess, mcse, convergence_summary])
def test_bad_input_is_refused(call):
    for bad, match in [
        (np.zeros(10), "chain, draw"),
        (np.zeros((4, 3)), "at least 4"),
        (np.full((2, 9), math.nan), "NaN"),
    ]:
        with pytest.raises(DmmcError, match=match):
            call(bad)
    if call in (rhat, ess):
        with pytest.raises(DmmcError, match="method"):
            call(np.zeros((4, 10)), method="other")

"""The Gamma method: AR(1) chains of known autocorrelation, other implementations, coverage, replicas."""

import math
import subprocess
import sys
import warnings

import emcee
import numpy as np
import pyerrors
import pytest
from numpy.random import default_rng

from checks import PEAK_MEMORY, needs_proc
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import (
    DiagnosticsWarning,
    Estimate,
    autocorrelation_function,
    format_value,
    gamma_derived,
    gamma_method,
    resolved_tau,
)
from helpers import ar1


@pytest.mark.parametrize("tau", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("chains", [1, 8])
def test_tau_int_and_error_of_ar1(tau, chains):
    estimate = gamma_method(ar1(tau, chains, 400_000 // chains, default_rng(1)))
    # 5 sigma, with the error that Eq. (42) claims, plus the truncation exp(-W / tau) <= 1 % of the window
    assert abs(estimate.tau_int - tau) < 5 * estimate.tau_int_error + 0.01 * tau
    exact = math.sqrt(2 * tau / estimate.n)
    assert abs(estimate.error - exact) < 5 * estimate.error_error + 0.005 * exact
    assert estimate.n == 400_000


def test_error_bars_cover():
    rng = default_rng(2)
    estimates = [gamma_method(ar1(3.0, 2, 2000, rng)) for _ in range(600)]
    pulls = np.array([e.value / e.error for e in estimates])
    tau_pulls = np.array([(e.tau_int - 3.0) / e.tau_int_error for e in estimates])
    # 600 pulls of a unit normal: mean within 5 / sqrt(600), standard deviation within 5 / sqrt(1200) of 1; the error
    # itself is known to error_error / error = 4 %, which widens the pulls by 0.2 % only
    assert abs(pulls.mean()) < 5 / math.sqrt(600)
    assert abs(pulls.std() - 1) < 5 / math.sqrt(1200)
    # The scatter of tau_int over the 600 runs is what Eq. (42) claims, to 20 %: the equation is of leading order
    # in W / n, and the window itself fluctuates.
    assert abs(tau_pulls.std() - 1) < 5 / math.sqrt(1200) + 0.2
    # The error of the error
    scatter = np.std([e.error for e in estimates]) / np.mean([e.error_error for e in estimates])
    assert abs(scatter - 1) < 5 / math.sqrt(1200) + 0.2


@pytest.mark.parametrize("tau", [0.5, 3.0])
def test_many_short_chains(tau):
    rng = default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates = [gamma_method(ar1(tau, 512, 40, rng)) for _ in range(200)]
    # Lags that reach over a chain's end are not there: the error may be larger by tau / draws, never smaller.
    pulls = np.array([e.value / e.error for e in estimates])
    assert abs(pulls.mean()) < 5 / math.sqrt(200)
    assert 1 - tau / 40 - 5 / math.sqrt(400) < pulls.std() < 1 + 5 / math.sqrt(400)
    taus = np.array([e.tau_int for e in estimates])
    assert abs(taus.mean() - tau) < 5 * taus.std() / math.sqrt(200) + 0.02 * tau


def test_many_chains_shorter_than_their_autocorrelation():
    rng = default_rng(4)
    tau, chains, draws = 40.0, 256, 40
    with pytest.warns(DiagnosticsWarning, match="scatter of the chain means"):
        estimates = [gamma_method(ar1(tau, chains, draws, rng)) for _ in range(200)]
    pulls = np.array([e.value / e.error for e in estimates])
    assert abs(pulls.std() - 1) < 5 / math.sqrt(400)
    # variance of a mean of 40 draws of AR(1), exactly
    a = (2 * tau - 1) / (2 * tau + 1)
    lags = np.arange(1, draws)
    variance = (1 + 2 * ((1 - lags / draws) @ a**lags)) / (chains * draws)
    errors = np.array([e.error for e in estimates])
    assert abs(np.mean(errors**2) / variance - 1) < 5 * math.sqrt(2 / chains / 200)
    assert np.median([e.tau_int for e in estimates]) < tau


def test_stuck_chains_are_not_averaged_away():
    # Each chain sits at its own value: only the number of chains counts.
    values = default_rng(5).normal(size=64)
    with pytest.warns(DiagnosticsWarning):
        estimate = gamma_method(np.repeat(values[:, None], 100, axis=1))
    assert estimate.error == pytest.approx(values.std(ddof=1) / 8, rel=1e-6)
    assert estimate.tau_int == pytest.approx(50, rel=0.02)  # a chain is one draw: tau = draws / 2


def test_a_single_chain_too_short_warns():
    with pytest.warns(DiagnosticsWarning, match="lower bound"):
        gamma_method(ar1(10.0, 1, 200, default_rng(17)))
    with pytest.warns(DiagnosticsWarning, match="lower bound"):
        gamma_method(np.linspace(0, 1, 30)[None])  # not thermalised: a drift


def test_alternating_series_is_on_the_safe_side():
    # rho(t) = (-0.6)^t: tau_int = 0.125; cutting off at lag 1 would give a negative variance
    estimate = gamma_method(ar1(0.125, 1, 100_000, default_rng(6)))
    exact = math.sqrt(2 * 0.125 / 100_000)
    assert exact < estimate.error < math.sqrt(1 / 100_000)


def test_equals_pyerrors_on_one_chain():
    x = ar1(5.0, 1, 5000, default_rng(7), mean=3.0)
    ours, theirs = gamma_method(x), pyerrors.Obs([x[0]], ["chain"])
    theirs.gamma_method(S=1.5)
    assert ours.value == pytest.approx(theirs.value, rel=1e-12)
    assert ours.window == theirs.e_windowsize["chain"]
    assert ours.error == pytest.approx(theirs.dvalue, rel=1e-9)
    assert ours.error_error == pytest.approx(theirs.ddvalue, rel=1e-9)
    # pyerrors normalises the bias-corrected tau_int by Gamma(0) (1 + 1/n), Wolff by Gamma(0) (1 + 2 tau / n)
    assert ours.tau_int * (1 + 2 * ours.tau_int / 5000) == pytest.approx(theirs.e_tauint["chain"], rel=1e-3)


def test_agrees_with_pyerrors_on_replicas():
    x = ar1(2.0, 4, 20_000, default_rng(8), mean=1.0)
    ours, theirs = gamma_method(x), pyerrors.Obs(list(x), [f"e|r{k}" for k in range(4)])
    theirs.gamma_method(S=1.5)
    assert ours.value == pytest.approx(theirs.value, rel=1e-12)
    # pyerrors subtracts each replica's own mean: a difference of relative order tau / draws
    assert ours.error == pytest.approx(theirs.dvalue, rel=0.01)


def test_emcee_has_twice_our_tau_int():
    x = ar1(8.0, 16, 20_000, default_rng(9))
    theirs = emcee.autocorr.integrated_time(x.T[:, :, None])[0]
    ours = gamma_method(x)
    # different windows: emcee sums up to 5 of its taus, a bias of exp(-5)
    assert abs(theirs / 2 - ours.tau_int) < 5 * ours.tau_int_error + math.exp(-5) * 8


def binder_and_chi2(x: np.ndarray):
    return {
        "binder": (lambda m4, m2: 1 - m4 / (3 * m2**2), (x**4, x**2)),
        "chi2": (lambda m2, m: 64 * (m2 - m**2), (x**2, abs(x))),
        "ratio": (lambda m2, m4, m: m4 / m2 + m**3, (x**2, x**4, x)),
    }


@pytest.mark.parametrize("name", ["binder", "chi2", "ratio"])
def test_derived_quantities_equal_pyerrors(name):
    x = ar1(3.0, 1, 4000, default_rng(10), mean=0.5)
    function, columns = binder_and_chi2(x)[name]
    ours = gamma_derived(function, columns)
    theirs = function(*(pyerrors.Obs([column[0]], ["chain"]) for column in columns))
    theirs.gamma_method(S=1.5)
    assert ours.value == pytest.approx(theirs.value, rel=1e-10)
    assert ours.window == theirs.e_windowsize["chain"]
    assert ours.error == pytest.approx(theirs.dvalue, rel=1e-5)  # their gradient is automatic, ours numerical


def test_derived_errors_cover_with_replicas():
    rng = default_rng(11)
    pulls = []
    for _ in range(300):
        x = ar1(1.5, 32, 100, rng)
        estimate = gamma_derived(lambda m4, m2: 1 - m4 / (3 * m2**2), [x**4, x**2])
        pulls.append(estimate.value / estimate.error)  # Gaussian x: exactly 0
    # The mean may be off by the O(1/n) bias, of order the error itself over sqrt(n / tau): 0.05
    assert abs(np.mean(pulls)) < 5 / math.sqrt(300) + 0.05
    assert abs(np.std(pulls) - 1) < 5 / math.sqrt(600)


def test_linear_function_is_the_gamma_method():
    x = ar1(2.0, 4, 1000, default_rng(12), mean=1.0)
    assert gamma_derived(lambda a: a, [x]).error == pytest.approx(gamma_method(x).error, rel=1e-9)


def test_undefined_function_gives_nan_and_a_warning():
    x = ar1(0.5, 2, 100, default_rng(13), mean=-5.0)
    with pytest.warns(DiagnosticsWarning, match="not defined"):
        estimate = gamma_derived(lambda a: math.sqrt(a) if a > 0 else math.nan, [x])
    assert math.isnan(estimate.value) and math.isnan(estimate.error) and math.isnan(estimate.tau_int)


def test_autocorrelation_function_of_ar1():
    tau = 4.0
    a = (2 * tau - 1) / (2 * tau + 1)
    rho, error = autocorrelation_function(ar1(tau, 4, 50_000, default_rng(14)), 30)
    assert rho.shape == error.shape == (31,) and rho[0] == 1 and error[0] == 0
    assert np.all(abs(rho - a ** np.arange(31)) <= 5 * error)
    # Bartlett's formula for AR(1) at lags beyond the correlation: var rho -> (1 + a^2) / (1 - a^2) / n
    assert error[30] == pytest.approx(math.sqrt((1 + a * a) / (1 - a * a) / 200_000), rel=0.1)


def test_autocorrelation_errors_cover():
    rng, tau = default_rng(15), 2.0
    a = (2 * tau - 1) / (2 * tau + 1)
    pulls = []
    for _ in range(200):
        rho, error = autocorrelation_function(ar1(tau, 2, 2000, rng), 6)
        pulls.append((rho - a ** np.arange(7))[1:] / error[1:])
    # errors of errors: 10 % from the truncated sum, on top of 5 sigma of 200 pulls
    assert np.all(abs(np.std(pulls, axis=0) - 1) < 5 / math.sqrt(400) + 0.1)


def test_gamma_against_the_direct_sum():
    # FFT, padding and replica normalisation, on lengths that are not powers of two, up to the last lag
    x = default_rng(16).normal(size=(3, 11))
    delta = x - x.mean()
    direct = [sum(row[: 11 - t] @ row[t:] for row in delta) / (3 * (11 - t)) for t in range(11)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bias = gamma_method(x).error ** 2
        rho, _ = autocorrelation_function(x, 10)
    direct = np.array(direct) + bias
    np.testing.assert_allclose(rho, direct / direct[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8, 1 / 3])
def test_constant_series_has_no_error(value):
    with pytest.warns(DiagnosticsWarning, match="constant"):
        estimate = gamma_method(np.full((3, 50), value))
    assert estimate.value == pytest.approx(value, rel=1e-14)
    assert math.isnan(estimate.error) and math.isnan(estimate.tau_int) and math.isnan(estimate.tau_int_error)
    with pytest.warns(DiagnosticsWarning, match="constant"):
        assert math.isnan(gamma_derived(lambda a, b: a - b, [np.full((3, 50), value)] * 2).error)
    with pytest.warns(DiagnosticsWarning, match="constant"):
        assert np.isnan(autocorrelation_function(np.full((3, 50), value), 3)[0]).all()


@pytest.mark.parametrize(
    "bad, match",
    [
        (np.zeros(100), r"\(chain, draw\)"),
        (np.zeros((2, 3, 4)), r"\(chain, draw\)"),
        (np.zeros((5, 3)), "at least 4"),
        (np.zeros((0, 100)), "at least 4"),
        (np.array([[1.0, 2.0, np.nan, 3.0]]), "NaN"),
        (np.array([[1.0, 2.0, np.inf, 3.0]]), "NaN"),
        (np.zeros((2, 10), dtype=complex), "real"),
        (np.array([["a"] * 5]), "real"),
    ],
)
def test_bad_series_are_refused(bad, match):
    for call in (gamma_method, lambda x: gamma_derived(lambda a: a, [x]), lambda x: autocorrelation_function(x, 1)):
        with pytest.raises(DmmcError, match=match):
            call(bad)


def test_other_refusals():
    x = np.random.default_rng(0).normal(size=(2, 20))
    with pytest.raises(DmmcError, match="one shape"):
        gamma_derived(lambda a, b: a + b, [x, x[:, :10]])
    with pytest.raises(DmmcError, match="at least one"):
        gamma_derived(lambda: 0.0, [])
    for max_lag in (-1, 20):
        with pytest.raises(DmmcError, match="max_lag"):
            autocorrelation_function(x, max_lag)


@pytest.mark.parametrize(
    "value, error, text",
    [
        (0.4912, 0.0013, "0.4912(13)"),
        (-0.4912, 0.0013, "-0.4912(13)"),
        (0.49123, 0.00996, "0.491(10)"),
        (0.49123, 0.0996, "0.49(10)"),
        (0.5, 0.25, "0.50(25)"),
        (12.345, 4.51, "12.3(4.5)"),
        (12.345, 9.96, "12(10)"),
        (1234.5, 45.1, "1234(45)"),
        (123456.0, 1234.0, "123500(1200)"),
        (0.3, 123.0, "0(120)"),
        (0.0, 0.0021, "0.0000(21)"),
        (1.23456e-12, 1.3e-14, "1.235(13)e-12"),
        (-6.02214e23, 1.1e20, "-6.0221(11)e23"),
        (0.5, 0.0, "0.5(0)"),
        (0.5, math.nan, "0.5(nan)"),
        (0.5, math.inf, "0.5(inf)"),
        (math.nan, 0.1, "nan"),
        (math.inf, 0.1, "inf"),
    ],
)
def test_format_value(value, error, text):
    assert format_value(value, error) == text
    assert str(Estimate(value, error, 0.5, 0.1, 1, 100)) == text


@pytest.mark.parametrize("tau, chains, length", [(1, 1, 1000), (1, 16, 4000), (10, 4, 1000), (100, 4, 1000)])
def test_errors_of_tau_int_cover(tau, chains, length):
    # length: tau_int in all chains together
    rng = default_rng(20)
    estimates = [gamma_method(ar1(tau, chains, length * tau // chains, rng)) for _ in range(200)]
    assert np.mean([abs(e.tau_int - tau) < 2 * e.tau_int_error for e in estimates]) >= 0.93


def test_short_records_that_do_not_warn_still_cover_roughly():
    rng, inside = default_rng(21), []
    for _ in range(400):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimate = gamma_method(ar1(10.0, 4, 500, rng))
        if not caught:
            inside.append(abs(estimate.tau_int - 10) < 2 * estimate.tau_int_error)
    # 200 tau_int: 0.945 with an error of 1.1 % from the repetitions
    assert len(inside) > 380 and np.mean(inside) > 0.945 - 4 * 0.0115


def two_times(fast: float, slow: float, share: float, chains: int, draws: int, rng) -> np.ndarray:
    """A series of unit variance with a weakly coupled slow mode."""
    mode = ar1(slow, chains, draws, rng)
    return math.sqrt(1 - share) * ar1(fast, chains, draws, rng) + math.sqrt(share) * mode


def test_tail_equals_pyerrors():
    x = two_times(2.0, 50.0, 0.05, 1, 20_000, default_rng(22))
    ours, theirs = gamma_method(x, tau_exp=50.0), pyerrors.Obs([x[0]], ["chain"])
    theirs.gamma_method(tau_exp=50.0, N_sigma=3)
    # Their errors of rho sum noise over all lags, so their window may differ; the tail is there to make that harmless.
    assert abs(ours.window - theirs.e_windowsize["chain"]) < 50
    assert abs(ours.tau_int - theirs.e_tauint["chain"]) < ours.tau_int_error
    assert ours.error == pytest.approx(theirs.dvalue, rel=0.1)
    derived = gamma_derived(lambda a: a, [x], tau_exp=50.0)
    assert derived.tau_int == pytest.approx(ours.tau_int, rel=1e-9)


def test_tail_finds_a_slow_mode_that_the_window_cuts_off():
    rng, exact, taus = default_rng(23), 0.95 * 2 + 0.05 * 50, []
    for _ in range(60):
        x = two_times(2.0, 50.0, 0.05, 1, 20_000, rng)
        taus.append([gamma_method(x).tau_int, gamma_method(x, tau_exp=50.0).tau_int])
    plain, tail = np.mean(taus, axis=0)
    # The slow mode makes up 2.5 of 4.4. Wolff's window, closed after a few times 2, misses most of it; the tail
    # does not.
    # 0.6 each, the scatter of one estimate: eight standard errors of the mean.
    assert plain < exact - 1.2 + 0.6
    assert abs(tail - exact) < 0.6


@pytest.mark.parametrize("options", [{"S": 0.0}, {"S": -1.0}, {"tau_exp": 0.0}, {"tau_exp": math.inf}])
def test_bad_options_are_refused(options):
    with pytest.raises(DmmcError, match="must be"):
        gamma_method(np.random.default_rng(0).normal(size=(2, 20)), **options)


# Every value below comes without a word from emcee and pyerrors; test_convergence.py has ArviZ.


@pytest.mark.parametrize("chains", [4, 16])
def test_one_stuck_chain_warns(chains):
    x = ar1(2.0, chains, 2000, default_rng(24))
    x[1] = 0.3
    with pytest.warns(DiagnosticsWarning, match=r"chains \[1\], none ever changed"):
        gamma_method(x)
    obs = pyerrors.Obs(list(x), [f"e|r{k}" for k in range(chains)])
    obs.gamma_method()
    assert obs.dvalue > 0
    assert emcee.autocorr.integrated_time(x.T[:, :, None])[0] > 0


def test_a_rare_event_is_no_stuck_chain():
    # One step in a hundred is rejected: that a chain of 40 has no rejection is likely.
    accepted = default_rng(25).random((16, 40)) > 0.01
    assert (accepted.all(axis=1)).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gamma_method(accepted)


@pytest.mark.parametrize("chains", [2, 4, 16])
@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 20.0])
def test_chains_in_different_modes_warn(chains, shift):
    x = ar1(2.0, chains, 2000, default_rng(26))
    x[0] += shift
    match = "the chains differ" if shift < 20 else "the chains differ|too few"
    with pytest.warns(DiagnosticsWarning, match=match):
        estimate = gamma_method(x)
    if chains == 16:
        assert estimate.error == pytest.approx(x.mean(axis=1).std(ddof=1) / 4, rel=1e-9)
    with pytest.warns(DiagnosticsWarning, match=match):
        gamma_derived(lambda a: a, [x])
    obs = pyerrors.Obs(list(x), [f"e|r{k}" for k in range(chains)])
    obs.gamma_method()
    # Fluctuations about each replicum's own mean: the error does not know of the shift.
    assert obs.dvalue < 1.5 * math.sqrt(2 * 2.0 / x.size)


@pytest.mark.parametrize(
    "chains, draws, tau", [(2, 40, 0.5), (4, 30, 0.5), (4, 600, 4.0), (64, 300, 4.0), (8, 2000, 9)]
)
def test_chains_that_are_alike_do_not_warn(chains, draws, tau):
    rng = default_rng(27)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the chains differ.*", category=DiagnosticsWarning)
        warnings.filterwarnings("ignore", message=".*too few.*", category=DiagnosticsWarning)
        for _ in range(100):
            gamma_method(ar1(tau, chains, draws, rng))


def test_diagnostics_need_numpy_only():
    modules = ("torch", "scipy", "arviz", "emcee", "pyerrors", "matplotlib", "h5py")
    code = f"import sys, dmmc.diagnostics; print([m for m in {modules} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


@needs_proc
def test_long_records_fit_in_memory():
    # 16 chains of 10^6 draws take 122 MiB; everything else is a few copies of that.
    code = """
import numpy as np, scipy.special
import dmmc.diagnostics as d
x = np.random.default_rng(0).normal(size=(4, 500_000))
start = peak_memory()
d.gamma_method(x), d.autocorrelation_function(x, 100), d.convergence_summary(x)
print((peak_memory() - start) / x.nbytes)
"""
    result = subprocess.run([sys.executable, "-c", PEAK_MEMORY + code], check=True, capture_output=True, text=True)
    # 2 GiB less 100 MiB of libraries hold 15 copies besides the record.
    assert float(result.stdout) < 15


def test_an_estimate_knows_whether_its_tau_int_is_resolved():
    rng = default_rng(8)
    long, short = ar1(2.0, 4, 2000, rng), ar1(50.0, 4, 200, rng)
    assert gamma_method(long).resolved
    with pytest.warns(DiagnosticsWarning):
        assert not gamma_method(short).resolved
    with pytest.warns(DiagnosticsWarning):
        assert not gamma_method(np.ones((4, 50))).resolved
    assert not resolved_tau(short)[1]
    estimate, resolved = resolved_tau(long)
    assert resolved and estimate == gamma_method(long)


def test_other_warnings_do_not_make_tau_int_unresolved():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            warnings.warn("from another library", UserWarning, stacklevel=1)
            return ar1(2.0, 4, 2000, default_rng(8))

    with pytest.warns(UserWarning, match="another library"):
        assert resolved_tau(Tensor())[1]

"""The rejection history: closed forms for independent and for discrete weights, brute force, a stuck chain."""

import itertools
import math

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError

# Bounds are 5 standard errors, two-sided 6e-7 each, where nothing else is said.
SIGMA = 5.0


def coin(a, shape=(20, 2000), seed=1):
    return np.random.default_rng(seed).random(shape) < a


def independence_chain(log_w_proposed, seed=1, start=None):
    """Accepted and log_w of chains that are given their proposals, ``(chain, draw)``; the start is in equilibrium."""
    rng = np.random.default_rng(seed)
    chains, draws = log_w_proposed.shape
    p = np.exp(log_w_proposed - log_w_proposed.max())
    log_w = rng.choice(log_w_proposed.ravel(), chains, p=p.ravel() / p.sum()) if start is None else start
    uniform = np.log(rng.random(log_w_proposed.shape))
    accepted, states = np.empty(log_w_proposed.shape, bool), np.empty(log_w_proposed.shape)
    for i in range(draws):
        accepted[:, i] = uniform[:, i] < log_w_proposed[:, i] - log_w
        states[:, i] = log_w = np.where(accepted[:, i], log_w_proposed[:, i], log_w)
    return accepted, states


def test_independent_rejections():
    a, accepted = 0.3, coin(0.3)
    rate, tau = diagnostics.acceptance_rate(accepted), diagnostics.tau_rejections(accepted)
    assert abs(rate.value - a) < SIGMA * rate.error
    assert rate.error == pytest.approx(math.sqrt(a * (1 - a) / accepted.size), rel=0.1)  # error of tau_int: 3 %
    assert abs(tau.value - (1 / a - 0.5)) < SIGMA * tau.error
    rho = diagnostics.rejection_autocorrelation(accepted, 8)
    t = np.arange(9)
    # Windows overlap: a fraction of them of probability P has a variance of at most P (2 / a - 1) / n.
    bound = SIGMA * np.sqrt((1 - a) ** t * (2 / a - 1) / accepted.size)
    assert (abs(rho - (1 - a) ** t) < bound).all()
    assert rho[0] == 1


def test_errors_of_tau_cover():
    # 200 repetitions: the mean of z^2 has a standard deviation of sqrt(2 / 200) = 0.1 where errors are right.
    z = [
        (tau.value - 2.0) / tau.error
        for tau in (diagnostics.tau_rejections(coin(0.4, (8, 500), seed)) for seed in range(200))
    ]
    assert abs(np.mean(z)) < SIGMA / math.sqrt(200) + 0.1  # 0.1: tau^2 / draws, 0.008, is a tenth of the error
    assert 0.5 < np.mean(np.square(z)) < 1.5


def test_windows_against_brute_force():
    accepted = coin(0.2, (3, 40))
    rho = diagnostics.rejection_autocorrelation(accepted, 40)
    for t in range(1, 41):
        windows = [not accepted[c, i : i + t].any() for c in range(3) for i in range(40 - t + 1)]
        assert rho[t] == pytest.approx(np.mean(windows))
    runs = diagnostics.rejections_in_a_row(np.array([[0, 1, 0, 0, 1, 0, 0, 0]]))
    assert runs.tolist() == [[1, 0, 1, 2, 0, 1, 2, 3]]


def test_three_weights_exactly():
    # The proposal has three kinds of states: everything about the chain is a sum over them.
    w, q = np.array([1.0, 4.0, 20.0]), np.array([0.6, 0.3, 0.1])
    leave = np.minimum(1, w[None, :] / w[:, None]) @ q
    p = q * w / (q @ w)
    log_w_proposed = np.log(w)[np.random.default_rng(2).choice(3, (50, 4000), p=q)]
    accepted, _ = independence_chain(log_w_proposed)
    rate, tau = diagnostics.acceptance_rate(accepted), diagnostics.tau_rejections(accepted)
    assert abs(rate.value - p @ leave) < SIGMA * rate.error
    exact = 0.5 + p @ ((1 - leave) / leave)
    assert abs(tau.value - exact) < SIGMA * tau.error + exact**2 / 4000
    rho = diagnostics.rejection_autocorrelation(accepted, 6)
    for t in (1, 3, 6):
        assert rho[t] == pytest.approx(p @ (1 - leave) ** t, rel=0.1)


def test_tau_is_that_of_an_observable_that_knows_nothing_of_the_weights():
    log_w_proposed = np.random.default_rng(3).normal(0, 0.8, (40, 2000))
    accepted, _ = independence_chain(log_w_proposed)
    fresh = np.random.default_rng(4).normal(size=accepted.shape)
    last = np.maximum.accumulate(np.where(accepted, np.arange(2000), 0), axis=1)
    observable = diagnostics.gamma_method(np.take_along_axis(fresh, last, axis=1))
    tau = diagnostics.tau_rejections(accepted)
    assert abs(tau.value - observable.tau_int) < SIGMA * math.hypot(tau.error, observable.tau_int_error)


@pytest.mark.parametrize("sigma", [0.4, 1.2])
def test_longest_run_is_as_expected(sigma):
    rng = np.random.default_rng(5)
    longest, expected, p_values = [], [], []
    for seed in range(150):
        log_w_proposed = rng.normal(0, sigma, (4, 500))
        runs = diagnostics.rejection_runs(independence_chain(log_w_proposed, seed)[0], log_w_proposed)
        assert runs.longest == runs.by_chain.max()
        longest.append(runs.longest)
        expected.append(runs.expected)
        p_values.append(runs.p_value)
    difference = np.array(longest) - expected
    # Chains end within a stay, and the states that are accepted repeat the proposals: a few per cent.
    assert abs(difference.mean()) < SIGMA * difference.std() / math.sqrt(150) + 0.05 * np.mean(expected)
    # Uniform but for the discreteness of a length: P(p < 0.1) <= 0.1, and 150 trials of 0.1 exceed 0.25 in 1 of 10^7.
    assert np.mean(np.array(p_values) < 0.1) < 0.25
    assert min(p_values) > 1e-6


def test_longest_run_without_weights():
    longest, expected = zip(
        *(
            (r.longest, r.expected)
            for r in (diagnostics.rejection_runs(coin(0.5, (4, 500), seed)) for seed in range(200))
        ),
        strict=True,
    )
    # The longest of n/4 runs of heads and tails: log2(n / 2) + gamma / ln 2 - 1/2 (Gordon, Schilling, Waterman 1986).
    assert np.mean(expected) == pytest.approx(math.log2(1000) + 0.5772 / math.log(2) - 0.5, abs=0.15)
    assert abs(np.mean(longest) - np.mean(expected)) < SIGMA * np.std(longest) / math.sqrt(200)


def test_a_stuck_chain_stands_out():
    log_w_proposed = np.random.default_rng(6).normal(0, 0.5, (16, 300))
    start = np.zeros(16)
    start[5] = 12.0
    accepted, states = independence_chain(log_w_proposed, start=start)
    assert states[5, -1] == 12.0
    runs = diagnostics.rejection_runs(accepted, log_w_proposed)
    assert runs.by_chain.argmax() == 5 and runs.longest == 300 and runs.expected < 40 and runs.p_value < 1e-9
    rates, error = diagnostics.acceptance_by_chain(accepted)
    assert rates[5] == 0 and (np.median(rates) - rates[5]) / error > 5


def test_rates_by_chain_and_over_time():
    accepted = coin(0.6, (30, 1000))
    rates, error = diagnostics.acceptance_by_chain(accepted)
    np.testing.assert_allclose(rates, accepted.mean(1))
    # chi^2 of 30 chains: standard deviation sqrt(60)
    assert abs(np.sum(((rates - 0.6) / error) ** 2) - 30) < SIGMA * math.sqrt(60)
    when, rate, errors = diagnostics.acceptance_over_time(accepted, 7)
    assert len(when) == len(rate) == len(errors) == 7
    edges = np.linspace(0, 1000, 8).astype(int)
    np.testing.assert_allclose(rate, [accepted[:, a:b].mean() for a, b in itertools.pairwise(edges)])
    np.testing.assert_allclose(when, [np.arange(a, b).mean() for a, b in itertools.pairwise(edges)])
    assert (abs(rate - 0.6) < SIGMA * errors).all()
    assert len(diagnostics.acceptance_over_time(accepted[:, :5], 40)[0]) == 5


def test_everything_accepted_and_nothing_accepted():
    for value, longest in ((True, 0), (False, 50)):
        with pytest.warns(diagnostics.DiagnosticsWarning, match="constant"):
            assert math.isnan(diagnostics.acceptance_rate(np.full((2, 50), value)).error)
        runs = diagnostics.rejection_runs(np.full((2, 50), value))
        assert runs.longest == longest and runs.expected == pytest.approx(longest) and runs.p_value == pytest.approx(1)


def test_several_steps_a_draw():
    steps = coin(0.6, (8, 1000)).reshape(8, 500, 2)
    fraction = steps.mean(2)
    assert diagnostics.acceptance_rate(fraction).value == pytest.approx(steps.mean())
    np.testing.assert_allclose(diagnostics.acceptance_by_chain(fraction)[0], steps.mean((1, 2)))
    # A draw is rejected if all its steps are.
    np.testing.assert_array_equal(diagnostics.rejections_in_a_row(fraction) == 0, steps.any(2))


def test_bad_input_is_refused():
    with pytest.raises(DmmcError, match="true or false"):
        diagnostics.acceptance_rate(np.full((2, 10), 1.5))
    with pytest.raises(DmmcError, match="chain, draw"):
        diagnostics.tau_rejections(np.ones(10, bool))
    with pytest.raises(DmmcError, match="max_lag"):
        diagnostics.rejection_autocorrelation(coin(0.5, (2, 10)), 11)
    with pytest.raises(DmmcError, match="one bin"):
        diagnostics.acceptance_over_time(coin(0.5, (2, 10)), 0)
    with pytest.raises(DmmcError, match="finite weight"):
        diagnostics.rejection_runs(coin(0.5, (2, 10)), np.full((2, 10), -np.inf))

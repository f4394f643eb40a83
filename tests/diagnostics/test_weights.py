"""Weights of proposals: closed forms for Gaussian log weights, brute force, and a collapsed model."""

import math

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError

N = 200_000


def gaussian(sigma: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(-(sigma**2) / 2, sigma, N)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_closed_forms_for_gaussian_log_weights(sigma):
    log_w = gaussian(sigma) + 300.0  # exp(300) would overflow float32, and its square float64
    # Threshold: 5 standard deviations over 40 batches of N/40 proposals; the batches' own bias, O(40/N) relative,
    # is far below it.
    expected = {
        diagnostics.ess_fraction: math.exp(-(sigma**2)),
        diagnostics.expected_acceptance: math.erfc(sigma / 2),
        diagnostics.std_log_w: sigma,
    }
    for statistic, value in expected.items():
        batches = [statistic(batch) for batch in log_w.reshape(40, -1)]
        assert abs(statistic(log_w) - value) < 5 * np.std(batches) / math.sqrt(40), statistic.__name__
    value, error = diagnostics.log_z(log_w)
    assert abs(value - 300.0) < 5 * error
    # delta method: var(w) / N with var(w) = exp(sigma^2) - 1; its own relative error is below 10 % at sigma = 1
    assert error == pytest.approx(math.sqrt(math.expm1(sigma**2) / N), rel=0.1)


def test_acceptance_against_all_pairs():
    log_w = np.random.default_rng(2).normal(0, 2, 301)
    log_w[:5], log_w[5:9] = -np.inf, 1.25  # weights of zero, and ties
    w = np.exp(log_w)
    with np.errstate(divide="ignore", invalid="ignore"):
        accept = np.minimum(1, w[None, :] / w[:, None])  # row: current state, column: proposal
    current = w / w.sum()
    direct = sum(current[i] * accept[i].mean() for i in range(len(w)) if w[i] > 0)
    assert diagnostics.expected_acceptance(log_w) == pytest.approx(direct, rel=1e-12)


def test_acceptance_is_what_an_independence_chain_has():
    sigma, steps, rng = 1.0, 200_000, np.random.default_rng(3)
    log_w, uniform = rng.normal(0, sigma, steps), np.log(rng.random(steps))
    current, accepted = sigma**2, np.empty(steps)  # the target's mean of log w: a typical start
    for i in range(steps):
        accepted[i] = uniform[i] < log_w[i] - current
        current = log_w[i] if accepted[i] else current
    estimate = diagnostics.gamma_method(accepted[None])
    assert abs(estimate.value - diagnostics.expected_acceptance(log_w)) < 5 * estimate.error


def test_shape_and_offset_do_not_matter():
    log_w = gaussian(0.7)
    shifted = log_w.reshape(100, -1) - 5000.0
    assert diagnostics.ess_fraction(shifted) == pytest.approx(diagnostics.ess_fraction(log_w), rel=1e-9)
    assert diagnostics.expected_acceptance(shifted) == pytest.approx(diagnostics.expected_acceptance(log_w), rel=1e-9)
    assert diagnostics.log_z(shifted)[0] == pytest.approx(diagnostics.log_z(log_w)[0] - 5000.0, abs=1e-9)


def test_weights_of_zero_count():
    log_w = np.array([0.0, 0.0, -np.inf, np.nan])
    assert diagnostics.n_zero_weight(log_w) == 2
    assert diagnostics.ess_fraction(log_w) == pytest.approx(0.5)
    assert diagnostics.expected_acceptance(log_w) == pytest.approx(0.5)
    assert diagnostics.log_z(log_w)[0] == pytest.approx(math.log(0.5))
    assert diagnostics.std_log_w(log_w) == 0.0


def test_no_finite_weight_at_all():
    log_w = np.full(5, -np.inf)
    assert diagnostics.ess_fraction(log_w) == 0.0
    assert diagnostics.expected_acceptance(log_w) == 0.0
    assert diagnostics.log_z(log_w)[0] == -math.inf
    assert math.isnan(diagnostics.std_log_w(log_w))


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.0, np.inf])])
def test_bad_weights_are_refused(bad):
    for statistic in (diagnostics.ess_fraction, diagnostics.expected_acceptance, diagnostics.log_z):
        with pytest.raises(DmmcError):
            statistic(bad)


def log_normal(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def test_kl_of_two_gaussians():
    # target N(0, 1) / Z with log Z = 4, model N(m, s): KL known in closed form both ways
    m, s, log_z = 0.3, 1.2, 4.0
    rng = np.random.default_rng(4)
    x_q, x_p = rng.normal(m, s, N), rng.normal(0, 1, N)
    gap = diagnostics.kl_gap(
        *(log_normal(x, 0, 1) + log_z - log_normal(x, m, s) for x in (x_q, x_p)),
    )
    kl_q_p = (s**2 + m**2 - 1) / 2 - math.log(s)
    kl_p_q = (1 + m**2) / (2 * s**2) - 0.5 + math.log(s)
    # 5 standard errors of the means of log w, and of log Z
    assert abs(gap.log_z - log_z) < 5 * gap.log_z_error
    assert abs(gap.kl_q_p - kl_q_p) < 5 * math.hypot(gap.std_q / math.sqrt(N), gap.log_z_error)
    assert abs(gap.kl_p_q - kl_p_q) < 5 * math.hypot(gap.std_p / math.sqrt(N), gap.log_z_error)
    assert gap.mean_q < gap.log_z < gap.mean_p
    assert gap.kl_q_p + gap.kl_p_q == pytest.approx(gap.mean_p - gap.mean_q, rel=1e-12)


def test_a_collapsed_model_is_seen():
    # The target has two wells, the model knows one: its own proposals look perfect.
    rng = np.random.default_rng(5)
    x_q = rng.normal(6, 1, N)
    x_p = rng.normal(6, 1, N) * rng.choice([-1, 1], N)

    def log_w(x):
        return np.logaddexp(log_normal(x, 6, 1), log_normal(x, -6, 1)) - math.log(2) - log_normal(x, 6, 1)

    gap = diagnostics.kl_gap(log_w(x_q), log_w(x_p))
    assert diagnostics.ess_fraction(log_w(x_q)) > 0.99
    assert gap.kl_q_p < 0.01 and gap.std_q < 0.1
    # (mean log w on the missed half is log(1/2) + 72)
    assert gap.kl_p_q > 10 and gap.std_p > 10 and gap.max_p > 70
    # The missed half is log 2 of log Z: the reference's 1/w is 2 on one half of the fields and about 0 on the
    # other, so its mean has standard error 1 / sqrt(N).
    assert abs(gap.log_z_reference - gap.log_z - math.log(2)) < 5 / math.sqrt(N) + 0.001


def test_kl_gap_with_weights_of_zero():
    gap = diagnostics.kl_gap(np.array([0.0, -np.inf]), np.zeros(3))
    assert gap.n_zero == 1 and gap.kl_q_p == math.inf and math.isfinite(gap.kl_p_q)
    with pytest.raises(DmmcError, match="reference"):
        diagnostics.kl_gap(np.zeros(3), np.array([0.0, np.nan]))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("n", [25, 400, 20_000])
def test_pareto_k_is_that_of_arviz(sigma, n):
    arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "psislw"):
        pytest.skip("this ArviZ has no psislw")
    log_w = np.random.default_rng(6).normal(0, sigma, n)
    with np.errstate(over="ignore"):
        expected = float(arviz.psislw(log_w)[1])
    assert diagnostics.pareto_k(log_w + 700) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(k):
    # Weights u^-k have an exact Pareto tail of shape k; the fit sees 3 sqrt(N) of them and has the error of
    # (1 + k) / sqrt(tail) (Smith 1987) with 10 more of prior.
    n, tail = 200_000, 3 * math.sqrt(200_000)
    log_w = -k * np.log(np.random.default_rng(7).random(n))
    prior = (tail * k + 5) / (tail + 10)
    assert abs(diagnostics.pareto_k(log_w) - prior) < 5 * (1 + k) / math.sqrt(tail)


def test_pareto_k_where_there_is_no_tail():
    assert math.isnan(diagnostics.pareto_k(np.zeros(1000)))
    assert math.isnan(diagnostics.pareto_k(np.random.default_rng(8).normal(size=20)))
    assert diagnostics.pareto_k(np.r_[np.zeros(3), np.full(97, -1000.0)]) == math.inf
    assert diagnostics.pareto_k(np.full(100, -np.inf)) == math.inf


def test_largest_share():
    log_w = np.log([1.0, 6.0, 2.0, 1.0]) + 800
    assert diagnostics.largest_weight_share(log_w) == pytest.approx(0.6)
    assert diagnostics.largest_weight_share(log_w, 2) == pytest.approx(0.8)
    assert diagnostics.largest_weight_share(log_w, 9) == pytest.approx(1.0)
    assert math.isnan(diagnostics.largest_weight_share(np.full(3, -np.inf)))


@pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0])
def test_what_is_expected_out_of_reach(sigma):
    # Gaussian log weights: the target has them shifted by sigma^2. The mean of both sides over 100 repetitions.
    rng = np.random.default_rng(9)
    found = [
        diagnostics.unreached(rng.normal(-(sigma**2) / 2, sigma, 1000), rng.normal(sigma**2 / 2, sigma, (1, 2000)))
        for _ in range(100)
    ]
    fraction, expected = (np.array([getattr(x, name) for x in found]) for name in ("fraction", "expected"))
    # Less than expected by the factor of two that is asked for; never clearly more, but by a chance of 1 in 100 each
    # (5 of 100: 0.3 %).
    assert fraction.mean() < expected.mean() + 5 * (fraction - expected).std() / 10
    clearly = fraction > 3 * expected + 3 * np.array([x.error for x in found])
    assert clearly.sum() < 5


def test_a_missed_mode_is_out_of_reach():
    rng = np.random.default_rng(10)
    q, p = rng.normal(-0.02, 0.2, 4000), rng.normal(0.02, 0.2, (10, 200))
    missed = rng.random(p.shape) < 0.3
    found = diagnostics.unreached(q, p + 40 * missed)
    assert found.fraction == missed.mean() and found.n_reference == 2000
    assert found.error == pytest.approx(math.sqrt(0.3 * 0.7 / 2000), rel=0.2)
    assert found.expected < 0.01
    assert diagnostics.unreached(q, p).fraction == 0
    # The same where the model is too narrow besides, so that its own largest weights carry much of the weight.
    broad = rng.exponential(0.75, 4000)
    assert diagnostics.largest_weight_share(broad, 10) > 0.1
    found = diagnostics.unreached(broad, p + 40 * missed)
    assert found.fraction == missed.mean() and found.expected < 0.03


def test_rounding_is_not_out_of_reach():
    rng = np.random.default_rng(11)
    q, p = 300 + 1e-6 * rng.normal(size=1000), 300 + 1e-6 + 1e-6 * rng.normal(size=1000)
    assert diagnostics.unreached(q, p).fraction == 0
    assert diagnostics.unreached(np.zeros(1000), np.zeros(1000)).fraction == 0


def test_out_of_reach_refuses():
    with pytest.raises(DmmcError, match="at least 10"):
        diagnostics.unreached(np.zeros(5), np.zeros(10))
    with pytest.raises(DmmcError, match="log_w_reference"):
        diagnostics.unreached(np.zeros(50), np.array([0.0, np.nan]))

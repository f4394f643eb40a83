"""Noise schedules of other codes: what a network is told, and the noise that it stands for."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.schedules import VE, VP, schedule_of

SIGMA = torch.tensor([0.02, 0.3, 1.0, 7.5], dtype=torch.float64)


def test_what_a_network_is_told():
    torch.testing.assert_close(VE(10.0).told(SIGMA), SIGMA)
    torch.testing.assert_close(VP(argument="sigma").told(SIGMA), SIGMA)
    for schedule in (VE(10.0, argument="log_sigma"), VP(argument="log_sigma")):
        torch.testing.assert_close(schedule.told(SIGMA), SIGMA.log())


def test_times_of_variance_exploding_processes():
    # Song et al.: sigma = sigma_min (sigma_max / sigma_min)^t.
    t = VE(50.0, 0.01, argument="time").told(SIGMA)
    torch.testing.assert_close(0.01 * 5000**t, SIGMA)
    # Wang, Aarts, Zhou: d phi = base^t dW, whose variance is the integral of base^2t, here by the trapezoidal rule.
    schedule = VE(base=25.0, argument="time")
    for sigma, t in zip(SIGMA, schedule.told(SIGMA), strict=True):
        times = torch.linspace(0, float(t), 20_001, dtype=torch.float64)
        assert float(torch.trapezoid(25.0 ** (2 * times), times)) == pytest.approx(float(sigma**2), rel=1e-5)
    largest = torch.tensor(schedule.bounds[1], dtype=torch.float64)
    assert float(schedule.told(largest)) == pytest.approx(1)


def test_time_of_the_variance_preserving_process():
    for beta_min, beta_max in ((0.1, 20.0), (1.0, 1.0 + 1e-9)):
        schedule = VP(beta_min, beta_max)
        for sigma, t in zip(SIGMA, schedule.told(SIGMA), strict=True):
            times = torch.linspace(0, float(t), 2001, dtype=torch.float64)
            integral = float(torch.trapezoid(beta_min + times * (beta_max - beta_min), times))
            # The variance of the noise is 1 - a^2 with a^2 = exp(-integral of beta).
            assert math.expm1(integral) == pytest.approx(float(sigma**2), rel=1e-6)
    assert float(VP().told(torch.tensor(VP().bounds[1], dtype=torch.float64))) == pytest.approx(1)


def test_discrete_steps():
    schedule = VP(argument="step")
    # DDPM: a_k^2 is the product of 1 - beta_j, where beta rises from 0.0001 to 0.02 in 1000 steps.
    kept, sigmas = 1.0, []
    for k in range(1000):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        sigmas.append(math.sqrt(1 / kept - 1))
    sigmas = torch.tensor(sigmas, dtype=torch.float64)
    torch.testing.assert_close(schedule.told(sigmas), torch.arange(1000, dtype=torch.float64))
    assert schedule.bounds == pytest.approx((float(sigmas[0]), float(sigmas[-1])))
    between = schedule.told((sigmas[10] * sigmas[11]).sqrt().view(1))
    assert float(between) == pytest.approx(10.5)


@pytest.mark.parametrize("schedule", [VE(3.0), VE(base=25.0, argument="time"), VP(), VP(argument="step", steps=300)])
def test_descriptions(schedule):
    assert schedule_of(schedule.describe()) == schedule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VE(), "either sigma_max, its largest noise, or base"),
        (lambda: VE(3.0, base=25.0), "either sigma_max, its largest noise, or base"),
        (lambda: VE(-1.0), "sigma_max of a schedule must be a finite number above 0.01, got -1.0"),
        (lambda: VE(1.0, sigma_min=2.0), "sigma_max of a schedule must be a finite number above 2"),
        (lambda: VE(1.0, sigma_min=0.0), "sigma_min of a schedule must be a finite number above 0"),
        (lambda: VE(base=1.0), "base of a schedule must be a finite number above 1"),
        (lambda: VE("ten"), "sigma_max of a schedule must be a finite number above 0.01, got 'ten'"),
        (lambda: VE(1.0, argument="t"), "must be one of sigma, log_sigma, time; got 't'"),
        (lambda: VP(20.0, 0.1), "beta_max of a schedule must be a finite number above 20"),
        (lambda: VP(argument="steps"), "must be one of time, step, sigma, log_sigma; got 'steps'"),
        (lambda: VP(t_min=1.0), "t_min of a schedule must lie below 1"),
        (lambda: VP(argument="step", steps=10), "10 steps are too few for beta_max = 20"),
        (lambda: VP(steps=0), "steps of a VP schedule"),
        (lambda: schedule_of({"name": "cosine"}), "no description of a noise schedule"),
        (lambda: schedule_of({"name": "VE", "sigma": 3.0}), "no description of a noise schedule"),
        (lambda: schedule_of("VE"), "no description of a noise schedule"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(DmmcError, match=message):
        make()

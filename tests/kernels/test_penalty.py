"""The penalty method: exact for Gaussian noise of known variance, nearly so for measured variance, not without it.

Chance: 5 sigma of ``checks`` for all comparisons of samples; the orders are deterministic, by quadrature.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from checks import Gaussian, invariance, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.kernels import penalty as module
from dmmc.kernels.independence import Independence
from dmmc.kernels.penalty import Penalty, PenaltyInfo, penalty
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_reference, random_model, rng, z_scores

TWO_SITES, PHI4 = Lattice((2,)), Phi4(0.22, 0.1)
GAUSSIAN = Gaussian.of(TWO_SITES, torch.tensor([1.2, 0.5]).double(), mean=0.2)


@dataclass(frozen=True)
class Noisy:
    """A Gaussian proposal whose log q is blurred, the more so the larger the field."""

    strength: float
    good: Gaussian = GAUSSIAN
    evaluations = 3
    inexact = "log q is an estimate"

    def variance(self, phi):
        return self.strength * phi.square().sum(1)

    def log_q(self, phi, generator=None):
        noise = torch.randn(len(phi), generator=generator or rng(), dtype=torch.float64)
        return self.good.log_q(phi) + self.variance(phi).sqrt() * noise

    def sample(self, n, generator):
        phi, _ = self.good.sample(n, generator)
        return phi, self.log_q(phi, generator)

    def describe(self):
        return {"name": "noisy"}


def kernel(strength=0.5, **options):
    proposal = Noisy(strength)
    if options.pop("known", False):
        options["variance"] = proposal.variance
    return Penalty(PHI4, TWO_SITES, proposal, **({"n_estimates": 1} | options), allow_inexact=True)


@pytest.fixture(scope="module")
def draws():
    return phi4_draws(PHI4, TWO_SITES, 40_000, c=0.5)


# Known variance


@pytest.mark.parametrize("strength", [0.2, 1.0])
@pytest.mark.parametrize("n_estimates", [1, 3])
def test_known_variance_is_exact(draws, strength, n_estimates):
    assert invariance(kernel(strength, n_estimates=n_estimates, known=True), draws, steps=4) < 1


def test_without_the_penalty_the_chain_is_biased(draws, monkeypatch):
    monkeypatch.setattr(module, "penalty", lambda variance, _: 0 * variance)
    assert invariance(kernel(known=True), draws, steps=4) > 2


def test_noise_stored_with_the_state_is_biased_otherwise(draws):
    # The usual mistake: the estimate of the proposal is kept as its log w; p is off by E[exp(-noise)].
    assert invariance(Independence(PHI4, TWO_SITES, Noisy(0.5), allow_inexact=True), draws, steps=4) > 2


def test_acceptance_at_equal_weights():
    # log w is constant: what is left is the noise.
    lattice, n, s2 = Lattice((1,)), 40_000, 0.8

    @dataclass(frozen=True)
    class Target(Noisy):
        def variance(self, phi):
            return torch.full(phi.shape[:1], s2 / 2, dtype=torch.float64)

    action = FreeField(1.0)  # S = phi^2 / 2
    good = Gaussian.of(lattice, torch.tensor([1.0]).double())
    proposal = Target(0.0, good)
    noisy = Penalty(action, lattice, proposal, 1, proposal.variance, allow_inexact=True)
    _, info = noisy.step(noisy.start(good.sample(n, rng())[0], rng()), rng(2))
    exact = math.erfc(math.sqrt(s2 / 8))
    z = (float(info.accepted.double().mean()) - exact) / math.sqrt(exact * (1 - exact) / n)
    assert abs(z) < SIGMA
    assert abs(float(z_scores(info.acceptance_rate, exact))) < SIGMA
    assert isinstance(info, PenaltyInfo) and bool((info.noise_variance == s2).all())


# Measured variance


def violation(s2, k, u):
    """Largest breach of detailed balance ``|A(D) - exp(-D) A(-D)|`` with penalty ``u(x)``, x ~ s2 chi^2_{k-1} / (k-1).

    ``A(D)`` is the mean of ``min(1, exp(-d - u))`` over d ~ Normal(D, s2), in closed form, and over x by quadrature.
    """
    s = math.sqrt(s2)
    p = (np.arange(40_000) + 0.5) / 40_000
    penalties = u(torch.from_numpy(s2 * scipy.stats.chi2.ppf(p, k - 1) / (k - 1)), k).numpy()

    def accepted(D):
        ndtr = scipy.special.ndtr
        return np.mean(ndtr((-penalties - D) / s) + np.exp(-D + s2 / 2 - penalties) * ndtr((penalties + D) / s - s))

    return max(abs(accepted(D) - math.exp(-D) * accepted(-D)) for D in np.linspace(0, 3 * s, 13))


def test_the_series_makes_up_for_the_measured_variance():
    # E[exp(-u)] = exp(-s2 / 2) up to the first term left out, of order s2^4 / k^3; by x / 2 alone to order s2^2 / k.
    p = (np.arange(40_000) + 0.5) / 40_000
    for k in (8, 16, 32):
        s2 = 0.5
        x = torch.from_numpy(s2 * scipy.stats.chi2.ppf(p, k - 1) / (k - 1))
        exact = math.exp(-s2 / 2)
        assert abs(float((-penalty(x, k)).exp().mean()) - exact) < s2**4 / k**3 + 2e-6
        plain = float((-x / 2).exp().mean()) - exact
        assert plain == pytest.approx(exact * s2**2 / (4 * k), rel=0.3)


def test_detailed_balance_is_violated_to_the_order_that_is_stated():
    for s2 in (0.3, 0.6):
        for k in (8, 16):
            ratio = violation(s2, k, penalty) / violation(s2, 2 * k, penalty)
            assert 3 < ratio < 6  # 1 / k^2
            plain = [violation(s2, m, lambda x, _: x / 2) for m in (k, 2 * k)]
            assert 1.7 < plain[0] / plain[1] < 2.6  # 1 / k
            assert violation(s2, k, penalty) < 0.3 * plain[0]
    assert violation(0.5, 8, lambda x, _: 0 * x + 0.25) < 1e-12  # known variance: exact


def test_measured_variance_is_good_enough_for_a_statistical_test(draws):
    assert invariance(kernel(1.0, n_estimates=8), draws, steps=4) < 1
    state = kernel(known=True).start(draws[:5000], rng())
    _, measured = kernel(1.0, n_estimates=8).step(state, rng())
    _, known = kernel(1.0, n_estimates=8, known=True).step(state, rng())
    ratio = measured.noise_variance / known.noise_variance
    # chi^2 of 7 degrees over 7.
    assert abs(float(ratio.mean()) - 1) < SIGMA * math.sqrt(2 / 7 / 5000)


def test_a_flow_with_probes():
    # Noise of the divergence is nearly Gaussian here; runs, moves, and its noise shows.
    proposal = FlowProposal(random_model(free_reference(Lattice((3, 3))), strength=0.15), 4, divergence=Hutchinson(1))
    noisy = Penalty(Phi4(0.2, 0.02), Lattice((3, 3)), proposal, 4, allow_inexact=True)
    state, info = list(noisy.steps(noisy.initial(50, rng()), 3, rng(2)))[-1]
    torch.testing.assert_close(state.S, noisy.action(state.phi))
    assert bool(info.accepted.any()) and float(info.noise_variance.min()) > 0
    assert noisy.cost == {"network": 9 * 4 * 4 * 2}


# Marks and refusals


def test_it_is_refused_unless_asked_for_and_marked():
    with pytest.raises(DmmcError, match=r"approximation.*allow_inexact=True"):
        Penalty(PHI4, TWO_SITES, Noisy(0.5))
    assert "variance measured" in kernel(n_estimates=2).facts.inexact
    assert "variance known" in kernel(known=True).facts.inexact
    assert not kernel(known=True).facts.independent_weights
    described = kernel(n_estimates=2).describe()
    assert described == {"name": "penalty", "proposal": {"name": "noisy"}, "n_estimates": 2, "variance": "measured"}


def test_refusals():
    for bad in (1, 0, 2.5):
        with pytest.raises(DmmcError, match="n_estimates must be an integer of at least 2"):
            kernel(n_estimates=bad)
    with pytest.raises(DmmcError, match="at least 1"):
        kernel(n_estimates=0, known=True)

    class Misshapen(Noisy):
        def log_q(self, phi, generator=None):
            return super().log_q(phi, generator)[:, None]

    bad = Penalty(PHI4, TWO_SITES, Misshapen(0.5), 2, allow_inexact=True)
    with pytest.raises(DmmcError, match=r"log_q of shape \(16,\)"):
        bad.step(bad.start(torch.zeros(4, 2), rng()), rng())


def test_estimates_that_are_not_finite_are_rejected():
    class Spoilt(Noisy):
        def log_q(self, phi, generator=None):
            return torch.where(torch.arange(len(phi)) % 4 == 1, math.nan, super().log_q(phi, generator))

    bad = Penalty(PHI4, TWO_SITES, Spoilt(0.1), 2, allow_inexact=True)
    state = bad.start(torch.zeros(8, 2), rng())
    for after, info in bad.steps(state, 5, rng()):
        assert not info.accepted[1::4].any() and not info.acceptance_rate[1::4].any()
        assert bool(torch.isfinite(after.phi).all())

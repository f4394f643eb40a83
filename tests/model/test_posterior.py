"""Regression targets: unbiased with and without the posterior chain, which leaves the posterior invariant.

For phi^4 on one or two sites every conditional expectation given phi_s is a sum over a grid of fields. An unbiased
target y has ``E[(y - E[y | phi_s]) f(phi_s)] = 0`` for every f. The pairs (phi_0, phi_s) are independent draws, so each
of these is a plain average with a z-score. The curvature k sets both the mixture of the two targets and the dynamics of
the chain; any k >= 0 must do.
"""

import math
from dataclasses import replace

import pytest
import torch

from dmmc.model.posterior import PosteriorSampler, mean_curvature, tune
from dmmc.model.reference import GaussianReference, posterior_covariance, wiener
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_draws, free_reference, hmc_ensemble, rng, z_scores

N = 8000
LEVELS = torch.tensor([0.05, 0.3, 0.6, 1.0], dtype=torch.float64)


class Case:
    """phi^4 on a few sites, strongly coupled, with exact draws and exact conditional expectations."""

    def __init__(self, n_sites):
        self.action = Phi4(kappa=0.4, lam=0.6)
        self.grid = Grid.make(n_sites, *((3.2, 400) if n_sites == 1 else (2.4, 33)))
        lattice = self.grid.lattice
        p = self.grid.probabilities(self.action)
        assert float(p.max()) > 1e4 * float(p[0])  # the grid reaches far enough
        propagator = (p.unsqueeze(1) * lattice.two_point(self.grid.phi)).sum(0)
        self.reference = GaussianReference(lattice, propagator)
        force2 = (p.unsqueeze(1) * lattice.two_point(self.action.grad(self.grid.phi))).sum(0)
        self.curvature = lattice.spread(force2 - 1 / propagator)
        self.phi0 = torch.stack([self.grid.draws(self.action, N, seed=g) for g in range(len(LEVELS))])
        self.S = self.action(self.grid.phi)

    def conditional(self, noisy, v, values):
        """``E[values(phi_0) | phi_s]`` ``(n, k)`` for values on the grid ``(points, k)``, fields ``(n, *lattice)``."""
        found = []
        for part in noisy.split(500):
            distance = (part.unsqueeze(1) - self.grid.phi).square().flatten(2).sum(2)
            found.append(torch.softmax(-self.S - distance / (2 * v), dim=1) @ values)
        return torch.cat(found)

    def filtered(self, phi, k, level):
        """D [(1 - a) y_T + a y_D] at fields ``(n, *lattice)`` less its share of phi_s, on the sites."""
        lattice, v = self.grid.lattice, self.reference.variance(level)
        c, modes = self.reference.c(phi), lattice.to_modes(phi)
        d, p = wiener(c, v), posterior_covariance(c, v)
        a = k / (k + 1 / p)
        y_t = lattice.to_modes(self.action.grad(phi)) - modes / c
        return lattice.to_sites(d * ((1 - a) * y_t - a * modes / p))

    def of_phi_s(self, noisy, k, level):
        """D a phi_s / v, that share, from and in modes."""
        v = self.reference.variance(level)
        c = self.reference.c(noisy)
        a = k / (k + 1 / posterior_covariance(c, v))
        return wiener(c, v) * a * noisy / v


@pytest.fixture(scope="module", params=[1, 2], ids=["one site", "two sites"])
def case(request):
    return Case(request.param)


def sampler_for(case, trajectories, k):
    # One step of the longest rotation: a coarse integrator, so that rejections matter.
    return PosteriorSampler(case.reference, case.action, k, trajectories, n_steps=1)


class Unasked:
    """An action that must not be called."""

    def __call__(self, phi):
        raise AssertionError("the action was called")

    grad = __call__

    def describe(self):
        return {"name": "unasked"}


def test_functions(noisy):
    """Some functions of phi_s on the sites, ``(n, k)``."""
    x = noisy.flatten(1)
    x = x / x.std(0)
    return torch.cat([torch.ones_like(x[:, :1]), x, x**3, (2 * x).sin(), x.square(), x[:, :1] * x[:, -1:].square()], 1)


test_functions.__test__ = False


def moments(phi):
    """Powers and a product of the fields of the sites, ``(n, k)``."""
    return torch.cat([phi, phi**2, phi**3, phi**4, phi[:, :1] * phi[:, -1:]], 1)


def weighted_z(residual, noisy):
    """Largest z-score of E[residual f(phi_s)] over sites and functions f."""
    products = residual.flatten(1).unsqueeze(2) * test_functions(noisy).unsqueeze(1)
    return float(z_scores(products).abs().max())


@pytest.mark.parametrize("times", [0.0, 1.0, 4.0], ids=["k = 0", "measured k", "4 times k"])
def test_chain_leaves_the_posterior_invariant_and_targets_are_unbiased(case, times):
    lattice, k = case.grid.lattice, times * case.curvature
    sums = {}
    for trajectories in (0, 3, 4, 8):
        noisy, target, accepted = sampler_for(case, trajectories, k).targets(case.phi0, LEVELS, rng(5))
        sums[trajectories] = (trajectories + 1) * target
    assert 0.3 < float(accepted.min()) < 0.95  # a chain without rejections would test little
    for g, level in enumerate(LEVELS):
        phi_s = lattice.to_sites(noisy[g])
        known = case.of_phi_s(noisy[g], k, level)
        on_grid = moments(case.filtered(case.grid.phi, k, level))
        exact = case.conditional(phi_s, float(case.reference.variance(level)), on_grid)
        mean = exact[:, : lattice.volume]
        start = lattice.to_sites(sums[0][g] - known)
        torch.testing.assert_close(start, case.filtered(case.phi0[g], k, level))
        # The random numbers of a longer chain begin with those of a shorter one: the difference of two sums along it is
        # the target at its end, whose moments given phi_s must be those of the posterior.
        end = lattice.to_sites(sums[4][g] - sums[3][g] - known)
        assert weighted_z(moments(end) - exact, phi_s) < SIGMA, (g, "invariance")
        assert float((end != start).flatten(1).any(1).double().mean()) > 0.9  # and it does go somewhere
        variance = {}
        for trajectories, total in sums.items():
            residual = lattice.to_sites(total[g] / (trajectories + 1) - known) - mean
            assert weighted_z(residual, phi_s) < SIGMA, (g, trajectories)
            variance[trajectories] = float(residual.square().mean())
        # Nine independent draws would give 1/9; those of this coarse chain are correlated.
        assert variance[8] < 0.8 * variance[0]


def test_short_steps_conserve_the_energy(case):
    # Of second order: four times the steps leave a sixteenth of the energy's error and of the rejections.
    rejected = []
    for n_steps in (2, 8):
        sampler = replace(sampler_for(case, 3, case.curvature), n_steps=n_steps)
        rejected.append(1 - sampler.targets(case.phi0, LEVELS, rng(5))[2])
    assert bool((rejected[1] < 0.2 * rejected[0]).all()) and float(rejected[1].max()) < 0.01


def test_measured_curvature_makes_the_best_mixture(case):
    # Over phi_s, with no chain: a k that is twice or half the measured one gives a noisier target.
    lattice, level = case.grid.lattice, LEVELS[1:2]
    variances = []
    for times in (0.0, 0.4, 1.0, 2.5, 1e6):
        _, target, _ = sampler_for(case, 0, times * case.curvature).targets(case.phi0[1:2], level, rng(5))
        variances.append(lattice.sum_modes(target.abs().square()).mean())
    assert min(variances) == variances[2]


def test_noisy_fields_have_the_stated_noise(case):
    noisy, _, _ = sampler_for(case, 0, case.curvature).targets(case.phi0, LEVELS, rng(5))
    added = case.grid.lattice.to_sites(noisy) - case.phi0
    for g, v in enumerate(case.reference.variance(LEVELS)):
        assert float(z_scores(added[g].flatten(1)).abs().max()) < SIGMA
        assert float(z_scores(added[g].flatten(1).square(), v).abs().max()) < SIGMA


def zero(lattice):
    return torch.zeros(lattice.half, dtype=torch.float64)


def test_free_field_has_no_interaction():
    # grad S = phi / C for a centred free field: y_T = 0 for every pair, its curvature k = 0, and it takes all weight.
    action, lattice = FreeField(0.7), Lattice((4, 3))
    reference = free_reference(lattice, 0.7)
    phi0 = free_draws(reference, 4 * 50).view(4, 50, 4, 3)
    for trajectories in (0, 3):
        sampler = PosteriorSampler(reference, action, zero(lattice), trajectories)
        _, target, accepted = sampler.targets(phi0, LEVELS, rng(9))
        assert float(target.abs().max()) < 1e-12
        assert bool((accepted == (1 if trajectories else 0)).all())  # the rotation is the exact dynamics
    # About another mean, and with draws from there, what is left is the constant gradient at that mean.
    sampler = PosteriorSampler(replace(reference, mean=1.3), action, zero(lattice), 3)
    _, target, _ = sampler.targets(phi0 + 1.3, LEVELS, rng(9))
    d = wiener(reference.propagator[:1], reference.variance(LEVELS))
    torch.testing.assert_close(target[..., 0, 0].real, (d * 0.7**2 * 1.3 * math.sqrt(12)).expand(4, 50))
    assert float(target.flatten(2)[..., 1:].abs().max()) < 1e-12


def test_curvature_of_the_free_field_is_zero_and_of_phi4_that_of_its_potential(case):
    action, lattice = FreeField(0.7), Lattice((4, 4))
    reference, n = free_reference(lattice, 0.7), 3000
    phi = free_draws(reference, n)
    # <|grad S(p)|^2> = 1/C; measured on n fields it fluctuates by its own statistical error.
    error = lattice.spread(lattice.two_point(action.grad(phi)).std(0) / math.sqrt(n))
    k = mean_curvature(reference, action.grad(phi))
    assert float((k / error).max()) < SIGMA and float(k.min()) == 0.0
    # Schwinger-Dyson: <|grad S(p)|^2> = <S''(p)>, here from the exact second derivative.
    p, phi = case.grid.probabilities(case.action), case.grid.phi
    hop, quad, quart = case.action.coefficients
    second = 2 * quad + 12 * quart * float(p @ phi.square().mean(1)) - hop * (2 - case.grid.lattice.phat2)
    torch.testing.assert_close(case.curvature, second - 1 / case.reference.c(phi), rtol=1e-6, atol=1e-6)


def test_data_alone_uses_denoising_score_matching():
    # D y_D = -(phi_0 - D phi_s) / v; of a Gaussian ensemble its mean given phi_s is 0 and its variance D^2 / P = D / v.
    reference = free_reference(Lattice((4, 3)), mean=0.4)
    lattice, n = reference.lattice, 5000
    phi0 = free_draws(reference, 4 * n).view(4, n, 4, 3)
    sampler = PosteriorSampler.measure(reference, None, phi0[0], trajectories=5)
    noisy, target, accepted = sampler.targets(phi0, LEVELS, rng(9))
    v = reference.variance(LEVELS).view(4, 1, 1, 1)
    d = wiener(reference.c(phi0), v.flatten()).unsqueeze(1)
    torch.testing.assert_close(target, -(lattice.to_modes(phi0 - 0.4) - d * noisy) / v)
    for g in range(4):
        assert float(z_scores((target[g] * noisy[g].conj()).real).abs().max()) < SIGMA
        assert float(z_scores(target[g].abs().square(), d[g] / v[g]).abs().max()) < SIGMA
    assert not accepted.any()
    assert tune(sampler, phi0[0], rng()) is sampler


@pytest.mark.parametrize("trajectories", [0, 2])
def test_known_forces_are_taken_for_those_of_the_fields(case, trajectories):
    sampler = sampler_for(case, trajectories, case.curvature)
    found = sampler.targets(case.phi0, LEVELS, rng(5))
    known = sampler.targets(case.phi0, LEVELS, rng(5), case.action.grad(case.phi0.flatten(0, 1)).view(case.phi0.shape))
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b)
    # Without trajectories nothing else is needed of the action.
    if trajectories == 0:
        silent = replace(sampler, action=Unasked())
        assert torch.equal(silent.targets(case.phi0, LEVELS, rng(5), torch.ones_like(case.phi0))[0], found[0])


@pytest.mark.parametrize("trajectories", [0, 2])
def test_same_seed_same_bits(trajectories):
    action = Phi4(0.27, 0.022)
    phi = hmc_ensemble(action, (4, 4))
    reference = GaussianReference.measure(phi, Lattice((4, 4)))
    sampler = PosteriorSampler.measure(reference, action, phi, trajectories)
    phi0 = phi[:40].view(4, 10, 4, 4).float()
    first, second, other = (sampler.targets(phi0, LEVELS, rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == torch.complex64


def test_tuned_trajectories_are_accepted_as_asked():
    action = Phi4(kappa=0.2, lam=1.0)
    phi = hmc_ensemble(action, (6, 6), n=2000)
    reference = GaussianReference.measure(phi, Lattice((6, 6)))
    sampler = PosteriorSampler.measure(reference, action, phi, trajectories=2, n_steps=1)
    tuned = tune(sampler, phi, rng(), target_acceptance=0.75)
    assert len(tuned.angles) == 12 and max(tuned.angles) <= tuned.largest_angle
    level = torch.tensor([0.1, 0.5, 0.75, 1.0], dtype=torch.float64)
    _, _, accepted = tuned.targets(phi.view(4, 500, 6, 6), level, rng(2))
    angle = tuned.angle(level)
    free = angle > 0.99 * tuned.largest_angle  # as good as a new draw: nothing to gain from fewer acceptances
    assert bool((accepted > 0.6).all())
    assert bool((free | (accepted < 0.9)).all())
    assert not free.all()
    _, _, untuned = sampler.targets(phi.view(4, 500, 6, 6), level, rng(2))
    assert float(untuned.min()) < 0.6  # there was something to tune


def test_angles_are_interpolated():
    lattice = Lattice((4,))
    sampler = PosteriorSampler(free_reference(lattice), None, zero(lattice), n_steps=2)
    level = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert bool((sampler.angle(level) == sampler.largest_angle).all())
    table = replace(sampler, angles=(0.1, 0.5, 0.3))
    expected = torch.tensor([0.1, 0.3, 0.5, 0.34, 0.3], dtype=torch.float64)
    torch.testing.assert_close(table.angle(level), expected)


def test_ensembles_of_these_tests_are_thermalised():
    # Virial theorem, <phi dS/dphi> = V, with the spread over chains.
    action = Phi4(0.27, 0.022)
    phi = hmc_ensemble(action, (4, 4))
    virial = (phi * action.grad(phi)).flatten(1).sum(1).view(100, 10).mean(1)
    assert abs(float(z_scores(virial, 16.0))) < SIGMA

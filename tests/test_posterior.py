"""Regression targets: unbiased with and without the posterior chain, which leaves the posterior invariant.

For phi^4 on one or two sites every conditional expectation given phi_s is a sum over a grid of fields. An unbiased
target y has ``E[(y - E[y | phi_s]) f(phi_s)] = 0`` for every f. The pairs (phi_0, phi_s) are independent draws, so each
of these is a plain average with a z-score.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from dmmc.actions import FreeField, Phi4
from dmmc.diffusion import GaussianReference, posterior_covariance, wiener
from dmmc.kernels.hmc import HMC
from dmmc.lattice import Lattice
from dmmc.posterior import PosteriorSampler, TargetMixer, tune
from helpers import SIGMA, Grid, free_draws, free_reference, hmc_ensemble, rng, z_scores

N = 4000
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
        self.mixer = TargetMixer(self.reference, lattice.spread(force2))
        self.phi0 = torch.stack([self.grid.draws(self.action, N, seed=g) for g in range(len(LEVELS))])
        self.S = self.action(self.grid.phi)

    def conditional(self, noisy, v, values):
        """``E[values(phi_0) | phi_s]`` for values on the grid ``(points, k)`` and fields ``(n, *lattice)``: ``(n, k)``."""
        found = []
        for part in noisy.split(500):
            distance = (part.unsqueeze(1) - self.grid.phi).square().flatten(2).sum(2)
            found.append(torch.softmax(-self.S - distance / (2 * v), dim=1) @ values)
        return torch.cat(found)

    def interaction(self):
        """grad S_int on the grid, ``(points, *lattice)``."""
        lattice, phi = self.grid.lattice, self.grid.phi
        return self.action.grad(phi) - lattice.to_sites(lattice.to_modes(phi) / self.reference.c(phi))


@pytest.fixture(scope="module", params=[1, 2], ids=["one site", "two sites"])
def case(request):
    return Case(request.param)


def sampler_for(case, trajectories, mixer=None):
    # One kick of the full rotation: a coarse integrator, so that rejections matter.
    return PosteriorSampler(case.action, mixer or case.mixer, trajectories, n_leapfrog=1)


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


def test_targets_are_unbiased_and_averaging_lowers_their_noise(case):
    lattice = case.grid.lattice
    # v_T of the two pure targets: 0 leaves y_T alone, none y_D.
    mixers = {"mixed": case.mixer.force2, "y_T": 1 / case.reference.c(case.grid.phi), "y_D": None}
    targets = {}
    for (mix, force2), trajectories in itertools.product(mixers.items(), (0, 4, 8)):
        sampler = sampler_for(case, trajectories, TargetMixer(case.reference, force2))
        noisy, targets[mix, trajectories], accepted = sampler.targets(case.phi0, LEVELS, rng(5))
        if trajectories:
            assert 0.3 < float(accepted.min()) < 0.9  # a chain without rejections would test nothing
        if len(targets) > 1:
            assert torch.equal(noisy, first_noisy)
        first_noisy = noisy
    for g, level in enumerate(LEVELS):
        v = case.reference.variance(level)
        phi_s = lattice.to_sites(first_noisy[g])
        exact = case.conditional(phi_s, float(v), case.interaction()).view_as(phi_s)
        d_exact = lattice.to_sites(wiener(case.reference.c(phi_s), v) * lattice.to_modes(exact))
        variance = {}
        for name, target in targets.items():
            residual = lattice.to_sites(target[g]) - d_exact
            assert weighted_z(residual, phi_s) < SIGMA, (g, name)
            variance[name] = float(residual.square().mean())
        for mix in mixers:  # nine independent draws would give 1/9; those of this coarse chain are correlated
            assert variance[mix, 8] < 0.8 * variance[mix, 0], (g, mix)


def test_chain_leaves_the_posterior_invariant(case):
    # With y_D alone the target is linear in phi_0, and the difference of the sums along k and k - 1 trajectories of
    # one seed is the state after k of them: its moments given phi_s must be those of the posterior.
    lattice = case.grid.lattice
    sampler = sampler_for(case, 0, TargetMixer(case.reference, None))
    sums = {}
    for k in (0, 3, 4):
        noisy, target, _ = replace(sampler, trajectories=k).targets(case.phi0, LEVELS, rng(6))
        sums[k] = (k + 1) * target
    moved = []
    for g, level in enumerate(LEVELS):
        v = case.reference.variance(level)
        d = wiener(case.reference.c(case.grid.phi), v)
        start, end = (lattice.to_sites(d * noisy[g] - v * y[g]) for y in (sums[0], sums[4] - sums[3]))
        torch.testing.assert_close(start, case.phi0[g])
        phi_s = lattice.to_sites(noisy[g])
        exact = case.conditional(phi_s, float(v), moments(case.grid.phi))
        assert weighted_z(moments(end) - exact, phi_s) < SIGMA, g
        moved.append(float((end != start).flatten(1).any(1).double().mean()))
    assert min(moved) > 0.9  # and the chain does go somewhere


def test_noisy_fields_have_the_stated_noise(case):
    noisy, _, _ = sampler_for(case, 0).targets(case.phi0, LEVELS, rng(5))
    added = case.grid.lattice.to_sites(noisy) - case.phi0
    for g, v in enumerate(case.reference.variance(LEVELS)):
        assert float(z_scores(added[g].flatten(1)).abs().max()) < SIGMA
        assert float(z_scores(added[g].flatten(1).square(), v).abs().max()) < SIGMA


@pytest.mark.parametrize("mean", [0.0, 1.3])
def test_free_field_has_no_interaction(mean):
    # grad S = phi / C for a centred free field: y_T = 0 for every pair, its variance v_T = 0, and y_T takes all weight.
    action, lattice = FreeField(0.7), Lattice((4, 3))
    reference = free_reference(lattice, 0.7)
    phi0 = free_draws(reference, 4 * 50).view(4, 50, 4, 3)
    mixer = TargetMixer(reference, 1 / reference.c(phi0))
    for trajectories in (0, 3):
        noisy, target, accepted = PosteriorSampler(action, mixer, trajectories).targets(phi0, LEVELS, rng(9))
        assert float(target.abs().max()) < 1e-12
        assert bool((accepted == (1 if trajectories else 0)).all())  # the rotation is the exact dynamics
    if mean:  # the reference of a sector: only the Gaussian part is centred, N is the constant gradient at its mean
        shifted = replace(reference, mean=mean)
        mixer = TargetMixer(shifted, 1 / reference.c(phi0))
        noisy, target, _ = PosteriorSampler(action, mixer, 3).targets(phi0 + mean, LEVELS, rng(9))
        zero_mode = target[..., 0, 0].real
        d = wiener(reference.propagator[:1], reference.variance(LEVELS))
        torch.testing.assert_close(zero_mode, (d * 0.7**2 * mean * math.sqrt(12)).expand(4, 50))
        assert float(target.flatten(2)[..., 1:].abs().max()) < 1e-12


def test_measured_mixture_of_the_free_field():
    # <|grad S(p)|^2> = 1/C exactly; measured on n fields it fluctuates by its own statistical error.
    action, lattice = FreeField(0.7), Lattice((4, 4))
    reference, n = free_reference(lattice, 0.7), 3000
    phi = free_draws(reference, n)
    mixer = TargetMixer.measure(reference, action, phi)
    error = lattice.spread(lattice.two_point(action.grad(phi)).std(0) / math.sqrt(n))
    assert float(((mixer.force2 - 1 / reference.c(phi)) / error).abs().max()) < SIGMA


def test_shares_of_the_mixture():
    reference = free_reference(Lattice((4, 4)))
    c, v = reference.c(torch.zeros(1, dtype=torch.float64)), reference.variance(LEVELS)
    v_d = 1 / posterior_covariance(c, v)
    share = TargetMixer(reference, 1 / c + 2.0).fraction(c, v)
    torch.testing.assert_close(share, 2 / (2 + v_d))
    assert bool((TargetMixer(reference, None).fraction(c, v) == 1).all())
    assert not TargetMixer(reference, 0.5 / c).fraction(c, v).any()  # a variance is not negative
    assert TargetMixer.measure(reference, None, torch.zeros(2, 4, 4)).force2 is None


def test_data_alone_uses_denoising_score_matching():
    # D y_D = -(phi_0 - D phi_s) / v; of a Gaussian ensemble its mean given phi_s is 0 and its variance D^2 / P = D / v.
    reference = free_reference(Lattice((4, 3)), mean=0.4)
    lattice, n = reference.lattice, 5000
    phi0 = free_draws(reference, 4 * n).view(4, n, 4, 3)
    sampler = PosteriorSampler(None, TargetMixer(reference, None), trajectories=5)
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
def test_same_seed_same_bits(trajectories):
    action = Phi4(0.27, 0.022)
    phi = hmc_ensemble(action, (4, 4))
    reference = GaussianReference.measure(phi, Lattice((4, 4)))
    sampler = PosteriorSampler(action, TargetMixer.measure(reference, action, phi), trajectories)
    phi0 = phi[:40].view(4, 10, 4, 4).float()
    first, second, other = (sampler.targets(phi0, LEVELS, rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == torch.complex64


def test_float32_targets_are_those_of_float64():
    # The same draws in both: the noise is made of the same bits only per dtype, so compare the deterministic part.
    action = Phi4(0.27, 0.022)
    phi = hmc_ensemble(action, (4, 4))[:400].view(4, 100, 4, 4)
    reference = GaussianReference.measure(phi.flatten(0, 1), Lattice((4, 4)))
    mixer = TargetMixer.measure(reference, action, phi.flatten(0, 1))
    means = []
    for dtype in (torch.float64, torch.float32):
        _, target, _ = PosteriorSampler(action, mixer, 8).targets(phi.to(dtype), LEVELS, rng(3))
        means.append(target.abs().square().mean(1).double())
    torch.testing.assert_close(means[0], means[1], rtol=0.5, atol=1e-3)


def test_tuned_trajectories_are_accepted_as_asked():
    action = Phi4(kappa=0.2, lam=1.0)
    phi = hmc_ensemble(action, (6, 6), n=2000)
    reference = GaussianReference.measure(phi, Lattice((6, 6)))
    sampler = PosteriorSampler(action, TargetMixer.measure(reference, action, phi), trajectories=2, n_leapfrog=1)
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
    sampler = PosteriorSampler(None, TargetMixer(free_reference(Lattice((4,))), None), n_leapfrog=2)
    level = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert bool((sampler.angle(level) == math.pi / 4).all())
    table = replace(sampler, angles=(0.1, 0.5, 0.3))
    expected = torch.tensor([0.1, 0.3, 0.5, 0.34, 0.3], dtype=torch.float64)
    torch.testing.assert_close(table.angle(level), expected)


def test_hmc_ensemble_is_an_ensemble():
    # The ensembles that this and other files train on are thermalised: <exp(-dH)> = 1 and virial theorem <phi dS> = V.
    action = Phi4(0.27, 0.022)
    phi = hmc_ensemble(action, (4, 4))
    virial = (phi * action.grad(phi)).flatten(1).sum(1).view(100, 10).mean(1)
    assert abs(float(z_scores(virial, 16.0))) < SIGMA
    assert HMC.default(action, Lattice((4, 4))).length == 1.0

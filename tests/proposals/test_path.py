"""Paths as proposals: weights by dense linear algebra, calibration, cuts, the average over two sectors.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 20 comparisons.
"""

import functools
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from checks import Gaussian, bonferroni, phi4_draws
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.proposals.calibration import Calibration, fit_precision
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import ROUGH_STEPS, PathProposal
from dmmc.proposals.symmetrised import SymmetrisedPath
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_reference, noise, random_model, rng, z_scores
from toys import OneNoise

PHI4 = Phi4(0.22, 0.1)


@functools.cache
def draws(n_sites):
    return phi4_draws(PHI4, Lattice((n_sites,)), 20_000, c=0.5)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    weights(8), weights(8, two_sector=True), proposal(1), proposal(2), proposal(8), proposal(64)


@functools.cache
def proposal(n_steps):
    """A network of random weights around a propagator somewhat wider than the target's, on two sites."""
    lattice = Lattice((2,))
    reference = GaussianReference(lattice, 1.3 * lattice.two_point(draws(2)[:2000]).mean(0))
    return PathProposal.of(random_model(reference, strength=0.1), n_steps).calibrated(draws(2)[:500], rng())


# Weights by hand


@functools.cache
def weights(n_steps, two_sector=False):
    """A path proposal with a made-up calibration on a lattice where modes count once and twice."""
    reference = free_reference(Lattice((3, 4)), mean=0.4 if two_sector else 0.0)
    plain = PathProposal.of(random_model(reference, two_sector=two_sector, strength=0.3), n_steps)
    v = reference.variance(torch.tensor(plain.levels, dtype=torch.float64))[:, None]
    widest = (reference.propagator + v[:-1]) / (reference.propagator + v[1:]) / (v[1:] - v[:-1])
    spectrum = 0.5 * widest * torch.rand(widest.shape, generator=rng(), dtype=torch.float64)
    precision = 0.5 + torch.rand(n_steps, 2, generator=rng(2), dtype=torch.float64)
    calibrated = replace(plain, calibration=Calibration(spectrum, precision))
    return SymmetrisedPath(calibrated) if two_sector else calibrated


def dense(proposal, orbit_values):
    lattice = proposal.model.lattice
    return Gaussian.of(lattice, lattice.spread(orbit_values)).covariance


def variances(proposal):
    reference = proposal.model.reference
    return [reference.v_offset * math.expm1(level * reference.log_range) for level in proposal.levels]


def reverse_by_hand(proposal, k, above):
    """Mean ``(n, V)`` and root of the covariance ``(n, V, V)`` of a reverse step, for fields without their mean."""
    model, (b, a) = proposal.model, variances(proposal)[k : k + 2]
    c, one = dense(proposal, model.reference.propagator), torch.eye(model.lattice.volume, dtype=torch.float64)
    modes = model.lattice.to_modes(above.view(-1, *model.lattice.shape))
    drift = model.lattice.to_sites(model.network(modes[None], torch.tensor([a], dtype=torch.float64))[0]).flatten(1)
    shrink = torch.linalg.solve(c + a * one, c + b * one)
    mean = above @ shrink - (a - b) * drift
    values, vectors = torch.linalg.eigh(
        (a - b) * shrink - (a - b) ** 2 * dense(proposal, proposal.calibration.spectrum[k])
    )
    alpha, beta = proposal.calibration.precision[k]
    precision = alpha + beta * (mean + model.reference.mean).square()
    return mean, (vectors * values.sqrt()) @ vectors.T * precision.rsqrt().unsqueeze(1)


def log_q_by_hand(proposal, phi, sign, fields):
    """The log q of paths ``fields``, ``(n, V)`` each, without their mean, that end at ``sign phi``."""
    c, one, v = dense(proposal, proposal.model.reference.propagator), torch.eye(12).double(), variances(proposal)

    def log_normal(x, covariance):
        return torch.distributions.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)

    total = log_normal(fields[-1], c + v[-1] * one)
    for k, (below, above) in enumerate(pairwise(fields)):
        mean, root = reverse_by_hand(proposal, k, above)
        total = total + log_normal(below - mean, root @ root.mT) - log_normal(above - below, (v[k + 1] - v[k]) * one)
    if not proposal.model.two_sector:
        return total
    here, there = (log_normal(s * phi.flatten(1) - proposal.model.reference.mean, c) for s in (sign, -sign))
    return total - math.log(2) - (here - torch.logaddexp(here, there))


def weights_agree_with_dense_matrices():
    """Paths up and down, in one sector and with two: to 1e-8."""
    n, worst = 6, torch.zeros(())
    for two_sector in (False, True):
        paths = weights(8, two_sector)
        proposal = paths.base if two_sector else paths
        v, mean = variances(proposal), proposal.model.reference.mean
        phi, generator = noise(proposal.model.lattice, n), rng(4)
        sign = torch.ones(n, 1).double()
        if two_sector:  # two Gaussians of the reference's covariance, around mean and -mean
            slope = 2 * mean / proposal.model.reference.propagator[0] * phi.flatten(1).sum(1)
            u = torch.rand(n, generator=generator, dtype=torch.float64)
            sign = torch.where(u < torch.sigmoid(slope), 1.0, -1.0).double()[:, None]
        fields = [sign * phi.flatten(1) - mean]
        for k in range(8):
            white = torch.randn(n, 12, generator=generator, dtype=torch.float64)
            fields.append(fields[-1] + math.sqrt(v[k + 1] - v[k]) * white)
        exact = log_q_by_hand(proposal, phi, sign, fields)
        worst = worst.maximum((paths.draw_log_q(phi, rng(4)) - exact).abs().max())

        generator = rng(5)
        top = dense(proposal, (proposal.model.reference.propagator + v[-1]).sqrt())
        fields = [torch.randn(n, 12, generator=generator, dtype=torch.float64) @ top]
        for k in reversed(range(8)):
            below, root = reverse_by_hand(proposal, k, fields[0])
            white = torch.randn(n, 12, 1, generator=generator, dtype=torch.float64)
            fields.insert(0, below + (root @ white).squeeze(2))
        sign = torch.ones(n, 1).double()
        if two_sector:
            sign = 2 * torch.randint(0, 2, (n, 1), generator=generator).double() - 1
        exact_phi = sign * (fields[0] + mean)
        phi, log_q = paths.sample(n, rng(5))
        worst = worst.maximum((phi.flatten(1) - exact_phi).abs().max())
        worst = worst.maximum((log_q - log_q_by_hand(proposal, phi, sign, fields)).abs().max())
    return float(worst) / 1e-8


def test_weights_agree_with_dense_matrices():
    assert weights_agree_with_dense_matrices() < 1


@pytest.mark.parametrize("n_steps", [1, 2, 8, 64])
def test_a_free_field_is_proposed_exactly(n_steps):
    # The reverse kernels of the Gaussian reference are the exact ones: every path has the weight Z.
    lattice = Lattice((3, 4))
    reference, action = free_reference(lattice), FreeField(0.7)
    exact = PathProposal.of(DiffusionModel.untrained(reference, None), n_steps)
    log_z = 0.5 * (lattice.orbit_size * (2 * math.pi * reference.propagator).log()).sum()
    phi, log_q = exact.sample(50, rng())
    torch.testing.assert_close(-action(phi) - log_q, log_z.expand(50), rtol=0, atol=1e-9)
    phi = noise(lattice, 50)
    torch.testing.assert_close(-action(phi) - exact.draw_log_q(phi, rng()), log_z.expand(50), rtol=0, atol=1e-9)
    phi, log_ratio = exact.refresh(noise(lattice, 50), rng())
    torch.testing.assert_close(action(phi) - action(noise(lattice, 50)), log_ratio, rtol=0, atol=1e-9)


def log_z_agrees_with_quadrature():
    """From the weights of 8,000 proposals, at four numbers of steps."""
    grid = Grid.make(2, half_width=7, n=301)
    exact = float(torch.logsumexp(-PHI4(grid.phi), 0)) + math.log(grid.cell)
    estimates = [
        diagnostics.log_z(-PHI4(phi).numpy() - log_q.numpy())
        for phi, log_q in (proposal(n_steps).sample(8000 if n_steps < 64 else 1000, rng()) for n_steps in (1, 2, 8, 64))
    ]
    return max(abs(value - exact) / error for value, error in estimates) / bonferroni(4)


def test_log_z():
    assert log_z_agrees_with_quadrature() < 1


# Two sectors


def toy_average_has_the_weights_of_its_law():
    """Importance weights give log Z, a symmetric integral and a lopsided one: to 5 sigma."""
    grid = Grid.make(2, half_width=9, n=301)
    target = grid.probabilities(PHI4)
    functions = [lambda phi: phi[:, 0] * phi[:, 1], lambda phi: (phi[:, 0] - 0.3).cos() + phi.sum(1)]
    phi, log_q = SymmetrisedPath(OneNoise(Lattice((2,)))).sample(20_000, rng())
    w = torch.softmax(-PHI4(phi) - log_q, 0)
    value, error = diagnostics.log_z((-PHI4(phi) - log_q).numpy())
    worst = abs(value - float(torch.logsumexp(-PHI4(grid.phi), 0)) - math.log(grid.cell)) / error
    for f in functions:
        deviation = f(phi) - float(target @ f(grid.phi))
        worst = max(worst, abs(float(w @ deviation / (w @ (w * deviation.square())).sqrt())))
    return worst / bonferroni(3)


def test_the_average_of_any_paths_has_the_weights_of_its_law():
    assert toy_average_has_the_weights_of_its_law() < 1


def test_signs_are_fair_and_belong_to_fields():
    paths = weights(8, two_sector=True)
    phi, _ = paths.sample(3000, rng())
    assert abs(float(z_scores(torch.sign(phi.flatten(1).sum(1))))) < SIGMA
    sign = paths.draw_sign(phi, rng(2))
    expected = torch.tanh(0.5 * paths.base.log_odds(phi))  # <sign> given the field
    assert abs(float(z_scores(sign - expected))) < SIGMA
    one = torch.ones(len(phi), dtype=torch.float64)
    torch.testing.assert_close(paths.log_sign(phi, one).exp() + paths.log_sign(phi, -one).exp(), one)
    torch.testing.assert_close(paths.log_sign(phi, one), paths.log_sign(-phi, -one))


def test_an_average_is_cut_and_calibrated_as_its_base():
    paths = weights(8, two_sector=True)
    assert paths.up_to(0.3).describe()["proposal"] == paths.base.up_to(0.3).describe()
    phi = paths.rough_fields(200, rng())
    assert 50 < int((phi.flatten(1).sum(1) > 0).sum()) < 150
    calibrated = paths.calibrated(phi, rng())
    assert calibrated.describe()["proposal"]["calibration"] != paths.describe()["proposal"]["calibration"]
    assert calibrated.n_steps == paths.n_steps == 8 and calibrated.evaluations == 8 and calibrated.inexact == ""
    # Fields of either sector give the same widths up to the draws of signs.
    mirrored = paths.calibrated(-phi, rng(5))
    torch.testing.assert_close(
        mirrored.base.calibration.spectrum, calibrated.base.calibration.spectrum, rtol=0.6, atol=0.1
    )


# Calibration


def test_fit_of_the_precision():
    u2 = torch.randn(200, 1000, generator=rng(), dtype=torch.float64).square()
    for alpha, beta in [(0.8, 0.3), (1.2, 0.0), (1.0, 2.0)]:
        z2 = torch.randn(u2.shape, generator=rng(2), dtype=torch.float64).square() / (alpha + beta * u2)
        fitted = fit_precision(u2, z2)
        # Fisher information of (alpha, beta), numerically.
        t = torch.stack([torch.ones_like(u2), u2], -1).flatten(0, -2) / (alpha + beta * u2).flatten()[:, None]
        error = torch.linalg.inv(0.5 * t.T @ t).diagonal().sqrt()
        assert float(((fitted - torch.tensor([alpha, beta]).double()) / error).abs().max()) < bonferroni(6)


class ExactSite(Network):
    """The exact interaction of phi^4 on one site, by quadrature over phi_0."""

    def forward(self, modes, v, context=None):
        phi = torch.linspace(-5, 5, 201, dtype=torch.float64)
        interaction = SINGLE.grad(phi[:, None])[:, 0] - phi / self.reference.propagator
        log_p = -SINGLE(phi[:, None]) - (modes.real.flatten(1).unsqueeze(2) - phi).square() / (2 * v.view(-1, 1, 1))
        n = torch.softmax(log_p, 2) @ interaction
        d = self.reference.propagator / (self.reference.propagator + v)
        return (d.view(-1, 1) * n).view(modes.shape) + 0j


SINGLE = Phi4(0.1, 1.0)


def test_with_the_exact_score_acceptance_rises_to_one_and_calibration_helps():
    grid = Grid.make(1, half_width=5, n=801)
    c = grid.probabilities(SINGLE) @ grid.phi.square()
    network = ExactSite(GaussianReference(grid.lattice, c)).double()
    phi, rejected = grid.draws(SINGLE, 20_000), {}
    for n_steps in (2, 8, 32):
        plain = PathProposal.of(DiffusionModel(network, {}), n_steps)
        for name, paths in (("plain", plain), ("calibrated", plain.calibrated(phi, rng()))):
            fields, log_q = paths.sample(2000, rng(2))
            rejected[name, n_steps] = 1 - diagnostics.expected_acceptance((-SINGLE(fields) - log_q).numpy())
    assert rejected["plain", 2] > rejected["plain", 8] > rejected["plain", 32]
    assert all(rejected["calibrated", k] < 0.8 * rejected["plain", k] for k in (2, 8, 32)), rejected
    assert rejected["calibrated", 32] < 0.04, rejected


def test_rough_fields_are_those_of_the_flow():
    model = proposal(8).model
    fields = proposal(8).rough_fields(50, rng())
    expected, _ = FlowProposal(model, ROUGH_STEPS).sample(50, rng())
    torch.testing.assert_close(fields, expected, rtol=0, atol=1e-12)


def test_a_path_that_is_cut_at_its_end_is_the_whole():
    whole = proposal(8)
    cut = whole.up_to(1.0)
    assert cut.levels == whole.levels and cut.describe() == whole.describe()
    assert whole.up_to(0.3).levels == (*whole.levels[:5], 0.3)
    half = 0.5 * (whole._variances[4] + whole._variances[5])
    level = float(whole.model.reference.level(torch.tensor(half, dtype=torch.float64)))
    gaussian = torch.tensor([1.0, 0.0]).double()
    expected = 0.5 * (gaussian + whole.calibration.precision[4])
    torch.testing.assert_close(whole.up_to(level).calibration.precision[4], expected)


def test_bad_input():
    model = proposal(8).model
    for levels in [(0.0,), (0.1, 1.0), (0.0, 0.5, 0.5), (0.0, 1.1), ()]:
        with pytest.raises(DmmcError, match="levels must rise from 0"):
            PathProposal(model, levels)
    with pytest.raises(DmmcError, match="n_steps must be a positive integer"):
        PathProposal.of(model, 0)
    with pytest.raises(DmmcError, match="chunk_sites"):
        PathProposal(model, (0.0, 1.0), chunk_sites=0)
    with pytest.raises(DmmcError, match="another number of steps"):
        PathProposal(model, (0.0, 1.0), proposal(8).calibration)
    for make in (proposal(8).sample, proposal(8).rough_fields):
        with pytest.raises(DmmcError, match="number of fields must be a positive integer"):
            make(0, rng())
    for level in (0.0, 1.5, -1.0):
        with pytest.raises(DmmcError, match="noise level must lie"):
            proposal(8).up_to(level)
    for paths in (proposal(8), SymmetrisedPath(proposal(8))):
        with pytest.raises(DmmcError, match="NaN or infinite"):
            paths.calibrated(torch.full((3, 2), math.nan), rng())
        with pytest.raises(DmmcError, match="must have shape"):
            paths.draw_log_q(torch.zeros(3, 5), rng())


# Bugs that these checks find: each deviates by more than twice what chance may cause


def denoising(width=1.0, last_noise=1.0):
    """A way down whose noise is not that of its density."""

    def denoise(self, modes, generator):
        above, log_ratio = modes, torch.zeros(len(modes), dtype=torch.float64)
        for k in reversed(range(self.n_steps)):
            mean, sigma, precision = self._reverse(k, above)
            white = self._noise(len(modes), generator, sites=True)
            factor = width * (last_noise if k == 0 else 1.0)
            below = mean + factor * sigma.sqrt() * self.lattice.to_modes(white * precision.rsqrt())
            log_ratio = log_ratio + self._log_reverse(white, sigma, precision) - self._log_forward(above - below, k)
            above = below
        return self.lattice.to_sites(above) + self.model.reference.mean, log_ratio

    return denoise


def unnoticed_variance(self, below, k, generator):
    return below + self._noise(len(below), generator)


def without_its_normalisation(self, change, k):
    h = self._variances[k + 1] - self._variances[k]
    return -0.5 * self.lattice.sum_modes(change.abs().square()) / h


def without_precision(self, white, sigma, precision):
    return -0.5 * white.square().flatten(1).sum(1) - 0.5 * self.lattice.sum_modes(sigma.log())


def prior_without_reference(self, n, generator):
    white = self._noise(n, generator)
    variance = 0 * self._c + self._variances[-1]
    phi, log_ratio = self.denoise(variance.sqrt() * white, generator)
    return phi, log_ratio + self._log_normal(white, variance)


def counted_once(self, values):
    return values.sum(dim=self.axes)


def no_probability(self, phi, sign):
    return torch.zeros(len(phi), dtype=torch.float64)


MUTANTS = {
    "paths up without variance": (PathProposal, "_noised", unnoticed_variance, weights_agree_with_dense_matrices),
    "normalisation forgotten in log F": (
        PathProposal,
        "_log_forward",
        without_its_normalisation,
        log_z_agrees_with_quadrature,
    ),
    "last noise forgotten": (PathProposal, "denoise", denoising(last_noise=0.0), weights_agree_with_dense_matrices),
    "width of the reverse kernel": (PathProposal, "denoise", denoising(1.3), weights_agree_with_dense_matrices),
    "determinant of the precision": (
        PathProposal,
        "_log_reverse",
        without_precision,
        weights_agree_with_dense_matrices,
    ),
    "prior forgotten": (
        PathProposal,
        "_log_normal",
        lambda self, white, variance: torch.zeros(len(white), dtype=torch.float64),
        log_z_agrees_with_quadrature,
    ),
    "prior without the reference": (
        PathProposal,
        "sample",
        prior_without_reference,
        weights_agree_with_dense_matrices,
    ),
    "modes counted once": (Lattice, "sum_modes", counted_once, weights_agree_with_dense_matrices),
    "probability of the sign": (SymmetrisedPath, "log_sign", no_probability, weights_agree_with_dense_matrices),
    "probability of the sign, any paths": (
        SymmetrisedPath,
        "log_sign",
        no_probability,
        toy_average_has_the_weights_of_its_law,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    owner, attribute, bug, check = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, bug)
    assert check() > 2

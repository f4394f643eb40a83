"""Exactness of the path kernels at any number of steps: weights by dense linear algebra, one step from exact draws.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 40 comparisons.
"""

import functools
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from checks import Gaussian, bonferroni, invariance, mutate, phi4_draws
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.kernels.independence import Independence
from dmmc.kernels.path import Path, PathRefresh
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.model.sites import SiteNetwork
from dmmc.proposals import path as paths
from dmmc.proposals.path import Calibration, PathProposal
from dmmc.theory.actions import AutogradAction, FreeField, Phi4
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, Grid, free_reference, noise, random_model, rng, z_scores

TWO_SITES, RING = Lattice((2,)), Lattice((4,))
PHI4 = Phi4(0.22, 0.1)
TILTED = AutogradAction(lambda phi: PHI4(phi) + 0.3 * phi.sum(1), "phi4 in a field")


@functools.cache
def draws(n_sites):
    return phi4_draws(PHI4, Lattice((n_sites,)), 20_000, c=0.5)


@functools.cache
def tilted_draws():
    return Grid.make(2, half_width=7, n=301).draws(TILTED, 20_000)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(2), draws(4), tilted_draws(), weights(8), weights(8, two_sector=True)


@functools.cache
def proposal(n_steps, n_sites=2, two_sector=False, calibrated=True):
    """A network of random weights around a propagator somewhat wider than the target's."""
    lattice = Lattice((n_sites,))
    propagator = 1.3 * lattice.two_point(draws(n_sites)[:2000]).mean(0)
    reference = GaussianReference(lattice, propagator, mean=0.6 if two_sector else 0.0)
    found = PathProposal.of(random_model(reference, two_sector=two_sector, strength=0.1), n_steps)
    return found.calibrated(draws(n_sites)[:500], rng()) if calibrated else found


def kernel(n_steps, n_sites=2, action=PHI4, **options):
    return Path(action, Lattice((n_sites,)), proposal(n_steps, n_sites, **options))


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
    return replace(plain, calibration=Calibration(spectrum, precision))


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
    """Of paths ``fields``, ``(n, V)`` each, without their mean, that end at ``sign phi``."""
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
    """Of paths up and down, in one sector and with two: to 1e-8."""
    n, worst = 6, torch.zeros(())
    for two_sector in (False, True):
        proposal = weights(8, two_sector)
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
        worst = worst.maximum((proposal.draw_log_q(phi, rng(4)) - exact).abs().max())

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
        phi, log_q = proposal.sample(n, rng(5))
        worst = worst.maximum((phi.flatten(1) - exact_phi).abs().max())
        worst = worst.maximum((log_q - log_q_by_hand(proposal, phi, sign, fields)).abs().max())
    return float(worst) / 1e-8


def test_weights_agree_with_dense_matrices():
    assert weights_agree_with_dense_matrices() < 1


@pytest.mark.parametrize("n_steps", [1, 2, 8, 64])
def test_a_free_field_is_proposed_exactly(n_steps):
    # The reverse kernels of the Gaussian reference are the exact ones: every path has the weight Z.
    lattice = Lattice((3, 4))
    reference = free_reference(lattice)
    proposal = PathProposal.of(DiffusionModel.untrained(reference, None), n_steps)
    kernel = Path(FreeField(0.7), lattice, proposal)
    log_z = 0.5 * (lattice.orbit_size * (2 * math.pi * reference.propagator).log()).sum()
    state = kernel.start_from_proposals(50, rng())
    torch.testing.assert_close(state.log_w, log_z.expand(50), rtol=0, atol=1e-9)
    assert bool(next(kernel.steps(kernel.start(noise(lattice, 50)), 1, rng()))[1]["accepted"].all())


# Exact at any number of steps


def path_keeps_phi4(n_steps=8, n=20_000, steps=3, **options):
    """Steps from exact draws, each with a path of its own to begin with."""
    return invariance(kernel(n_steps, **options), draws(options.get("n_sites", 2))[:n], steps)


def one_step_of_two_keeps_phi4():
    """A short path, where each of its steps counts."""
    return path_keeps_phi4(2, steps=1)


def coarse_path_keeps_phi4():
    """Paths of one step, with many rejections, eight times."""
    return path_keeps_phi4(1, steps=8)


def two_sector_path_keeps_a_tilted_phi4(steps=1):
    return invariance(kernel(4, action=TILTED, two_sector=True), tilted_draws(), steps)


@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
@pytest.mark.parametrize(("n_steps", "n"), [(1, 20_000), (2, 20_000), (8, 20_000), (64, 4000)])
def test_steps_keep_phi4(n_steps, n, calibrated):
    assert path_keeps_phi4(n_steps, n, calibrated=calibrated) < 1
    state = kernel(n_steps, calibrated=calibrated).start(draws(2)[:1000])
    _, statistics = next(kernel(n_steps, calibrated=calibrated).steps(state, 1, rng(2)))
    assert 0.1 < float(statistics["accepted"].double().mean()) < 0.97  # without rejections it would be a weak test


def test_steps_keep_phi4_on_a_ring():
    assert path_keeps_phi4(n_sites=4) < 1


def test_two_sectors_keep_a_theory_without_symmetry():
    assert two_sector_path_keeps_a_tilted_phi4() < 1
    assert two_sector_path_keeps_a_tilted_phi4(4) < 1


def log_z_agrees_with_quadrature():
    """From the weights of 8,000 proposals, at four numbers of steps."""
    grid = Grid.make(2, half_width=7, n=301)
    exact = float(torch.logsumexp(-PHI4(grid.phi), 0)) + math.log(grid.cell)
    found = [
        diagnostics.log_z(-PHI4(phi).numpy() - log_q.numpy())
        for phi, log_q in (proposal(n_steps).sample(8000 if n_steps < 64 else 1000, rng()) for n_steps in (1, 2, 8, 64))
    ]
    return max(abs(value - exact) / error for value, error in found) / bonferroni(4)


def test_log_z():
    assert log_z_agrees_with_quadrature() < 1


def test_any_torch_network_will_do():
    # Untrained convolutions without a divergence; the weights are poor, the chain is exact.
    torch.manual_seed(1)

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(1, 1, 3, padding="same", padding_mode="circular")

        def forward(self, u, level):
            return torch.tanh(self.conv(u)) * (1 - level.view(-1, 1, 1))

    reference = proposal(8, 4).model.reference
    network = SiteNetwork(reference, Body()).double().requires_grad_(False)
    found = Path(PHI4, RING, PathProposal.of(DiffusionModel(network, {}), 4))
    assert not hasattr(network, "with_trace")
    assert invariance(found, draws(4), steps=2) < 1


# Partial refresh


def refresh(level, n_steps=8, action=PHI4, **options):
    return PathRefresh(action, TWO_SITES, proposal(n_steps, **options), level)


def refresh_keeps_phi4(level=0.5):
    return invariance(refresh(level), draws(2), steps=2)


def two_sector_refresh_keeps_a_tilted_phi4():
    return invariance(refresh(0.6, action=TILTED, two_sector=True), tilted_draws(), steps=2)


@pytest.mark.parametrize("level", [0.01, 0.3, 1.0])
def test_partial_refresh_keeps_phi4(level):
    assert refresh_keeps_phi4(level) < 1
    _, statistics = next(refresh(level).steps(refresh(level).start(draws(2)), 1, rng(2)))
    # Of a step from equilibrium, as for HMC.
    assert abs(float(z_scores(statistics["log_w_ratio"].exp(), 1.0))) < SIGMA


def test_two_sector_refresh_keeps_a_theory_without_symmetry():
    assert two_sector_refresh_keeps_a_tilted_phi4() < 1


def test_a_small_refresh_is_accepted():
    accepted, moved = [], []
    for level in (1.0, 0.3, 0.1, 0.01, 1e-4):
        state, statistics = next(refresh(level).steps(refresh(level).start(draws(2)), 1, rng(2)))
        accepted.append(float(statistics["accepted"].double().mean()))
        moved.append(float((state.phi - draws(2)).square().mean()))
    assert accepted[0] < 0.9 and accepted[-1] > 0.995
    assert all(x <= y + 0.01 for x, y in pairwise(accepted)), accepted
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-3


# Acceptance


class ExactSite(Network):
    """The exact interaction of phi^4 on one site, by quadrature over phi_0."""

    def forward(self, modes, v):
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
    phi, found = grid.draws(SINGLE, 20_000), {}
    for n_steps in (2, 8, 32):
        plain = PathProposal.of(DiffusionModel(network, {}), n_steps)
        for name, proposal in (("plain", plain), ("calibrated", plain.calibrated(phi, rng()))):
            log_w = Path(SINGLE, grid.lattice, proposal)._independence.propose(2000, rng(2))[3]
            found[name, n_steps] = 1 - diagnostics.expected_acceptance(log_w.numpy())
    assert found["plain", 2] > found["plain", 8] > found["plain", 32]
    assert all(found["calibrated", k] < 0.8 * found["plain", k] for k in (2, 8, 32)), found
    assert found["calibrated", 32] < 0.04, found


def test_fit_of_the_precision():
    u2 = torch.randn(200, 1000, generator=rng(), dtype=torch.float64).square()
    for alpha, beta in [(0.8, 0.3), (1.2, 0.0), (1.0, 2.0)]:
        z2 = torch.randn(u2.shape, generator=rng(2), dtype=torch.float64).square() / (alpha + beta * u2)
        found = paths._fit_precision(u2, z2)
        # Fisher information of (alpha, beta), numerically.
        t = torch.stack([torch.ones_like(u2), u2], -1).flatten(0, -2) / (alpha + beta * u2).flatten()[:, None]
        error = torch.linalg.inv(0.5 * t.T @ t).diagonal().sqrt()
        assert float(((found - torch.tensor([alpha, beta]).double()) / error).abs().max()) < bonferroni(6)


# What the state carries


def test_the_state_keeps_the_weight_of_its_path():
    found = kernel(8)
    state = found.start_from_proposals(200, rng())
    for after, statistics in found.steps(state, 30, rng(2)):
        accepted = statistics["accepted"]
        assert torch.equal(after.phi[~accepted], state.phi[~accepted])
        assert torch.equal(after.log_w[~accepted], state.log_w[~accepted])
        assert torch.equal(after.log_w[accepted], statistics["log_w_proposed"][accepted])
        assert torch.equal(after.log_w, -after.S - after.log_q) and torch.equal(after.S, PHI4(after.phi))
        assert torch.equal(statistics["log_w"], after.log_w) and torch.equal(statistics["log_q"], after.log_q)
        state = after
    assert 0.1 < float(accepted.double().mean()) < 0.97
    assert found.evaluations == {"network": 8} and refresh(0.3).evaluations == {"network": 2 * 5}


def test_same_seed_same_chain():
    for found in (kernel(4), refresh(0.4)):
        start = found.start(draws(2)[:20])
        first, second, other = ([s.phi for s, _ in found.steps(start, 3, rng(seed))] for seed in (1, 1, 2))
        assert torch.equal(torch.stack(first), torch.stack(second))
        assert not torch.equal(torch.stack(first), torch.stack(other))


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


class Spoilt(Network):
    """Not finite where the noisy field is large."""

    value = math.nan

    def forward(self, modes, v):
        bad = modes.abs().flatten(2).sum(2) > 4
        return torch.where(bad.view(*bad.shape, 1), torch.full_like(modes, self.value), 0 * modes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_paths_that_are_not_finite_are_rejected_and_counted(value):
    network = Spoilt(proposal(8).model.reference).double()
    network.value = value
    spoilt = PathProposal.of(DiffusionModel(network, {}), 4)
    found = Path(PHI4, TWO_SITES, spoilt)
    for state, statistics in found.steps(kernel(8).start_from_proposals(500, rng()), 5, rng(2)):
        bad = statistics["log_w_proposed"] == -math.inf
        assert 0 < int(bad.sum()) < 500 and not bool(statistics["accepted"][bad].any())
        assert all(bool(torch.isfinite(x).all()) for x in state.tensors().values())
    with pytest.raises(DmmcError, match="weight of an initial configuration is not finite"):
        next(found.steps(found.start(torch.full((3, 2), 5.0)), 1, rng()))
    partial = PathRefresh(PHI4, TWO_SITES, spoilt, 0.5)
    for state, statistics in partial.steps(partial.start(draws(2)[:500]), 5, rng(2)):
        bad = statistics["log_w_ratio"] == -math.inf
        assert 0 < int(bad.sum()) < 500 and not bool(statistics["accepted"][bad].any())
        assert all(bool(torch.isfinite(x).all()) for x in state.tensors().values())


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
    with pytest.raises(DmmcError, match="number of fields must be positive"):
        proposal(8).sample(0, rng())
    for level in (0.0, 1.5, -1.0):
        with pytest.raises(DmmcError, match="noise level must lie"):
            refresh(level)
    with pytest.raises(DmmcError, match="NaN or infinite"):
        proposal(8).calibrated(torch.full((3, 2), math.nan), rng())
    with pytest.raises(DmmcError, match="must have shape"):
        kernel(8).start(torch.zeros(3, 5))


def test_describe():
    found = kernel(8)
    assert found.describe() == {"name": "path", "proposal": found.proposal.describe()}
    partial = PathRefresh(PHI4, TWO_SITES, found.proposal, 0.5)
    assert partial.describe() == {"name": "path_refresh", "level": 0.5, "proposal": found.proposal.describe()}
    assert found.describe() != kernel(8, calibrated=False).describe()


# Bugs that these checks find: each deviates by more than twice what chance may cause

MUTANTS = {
    "sign of the log path ratio": (
        PathProposal,
        "sample",
        "log_q = log_ratio +",
        "log_q = -log_ratio +",
        one_step_of_two_keeps_phi4,
    ),
    "paths up without variance": (
        PathProposal,
        "_noised",
        "math.sqrt(v[k + 1] - v[k])",
        "1.0",
        weights_agree_with_dense_matrices,
    ),
    "variance forgotten in log F": (PathProposal, "_log_forward", " / h - ", " - ", one_step_of_two_keeps_phi4),
    "normalisation forgotten in log F": (
        PathProposal,
        "_log_forward",
        " - 0.5 * lattice.volume * math.log(h)",
        "",
        log_z_agrees_with_quadrature,
    ),
    "last noise forgotten": (
        PathProposal,
        "denoise",
        "white * precision.rsqrt()",
        "white * (k > 0) * precision.rsqrt()",
        one_step_of_two_keeps_phi4,
    ),
    "determinant of the precision": (
        PathProposal,
        "_log_reverse",
        "precision.log() - ",
        "-",
        weights_agree_with_dense_matrices,
    ),
    "width of the reverse kernel": (
        PathProposal,
        "denoise",
        "sigma.sqrt() * lattice",
        "1.3 * sigma.sqrt() * lattice",
        weights_agree_with_dense_matrices,
    ),
    "prior forgotten": (
        PathProposal,
        "sample",
        " + self._log_normal(white, variance)",
        "",
        log_z_agrees_with_quadrature,
    ),
    "prior without the reference": (
        PathProposal,
        "sample",
        "self._c + self._variances[-1]",
        "0 * self._c + self._variances[-1]",
        weights_agree_with_dense_matrices,
    ),
    "stale weight after a rejection": (
        Independence,
        "steps",
        "torch.where(accepted, log_w[here], state.log_w)",
        "log_w[here]",
        coarse_path_keeps_phi4,
    ),
    "weight of a given field is that of no path": (
        Path,
        "steps",
        "self.proposal.draw_log_q(state.phi, generator)",
        "0 * state.S",
        one_step_of_two_keeps_phi4,
    ),
    "probability of the sign": (
        PathProposal,
        "sample",
        " - self.log_sign(phi, sign)",
        "",
        weights_agree_with_dense_matrices,
    ),
    "sign of a given field": (
        PathProposal,
        "draw_sign",
        "torch.where(u.log() < self.log_sign(phi, sign), sign, -sign)",
        "sign",
        two_sector_path_keeps_a_tilted_phi4,
    ),
    "modes counted once": (
        Lattice,
        "sum_modes",
        "(values * self.multiplicity.to(values))",
        "values",
        weights_agree_with_dense_matrices,
    ),
    "refresh: up and down exchanged": (
        PathRefresh,
        "_step",
        "(-S - down) - (-state.S - up)",
        "(-S - up) - (-state.S - down)",
        refresh_keeps_phi4,
    ),
    "refresh: paths left out": (
        PathRefresh,
        "_step",
        "(-S - down) - (-state.S - up)",
        "state.S - S",
        refresh_keeps_phi4,
    ),
    "refresh: everything accepted": (PathRefresh, "_step", "u.log() < log_ratio", "u < 2", refresh_keeps_phi4),
    "refresh: probability of the sign": (
        PathRefresh,
        "_step",
        "+ path.log_sign(phi, sign) - path.log_sign(state.phi, sign)",
        "",
        two_sector_refresh_keeps_a_tilted_phi4,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    *bug, check = MUTANTS[name]
    mutate(monkeypatch, *bug)
    assert check() > 2

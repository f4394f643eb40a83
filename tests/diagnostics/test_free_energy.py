"""log Z from both sides against the free field and quadrature; differences between couplings; errors that cover."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from checks import Gaussian
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import LogZ
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import propose
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_draws, free_reference, rng

ONE_SITE, TWO_SITES = Phi4.from_mass(-2.5, 1.0, 1), Phi4(0.25, 0.1)


def gaussian_of(phi, width=0.9):
    """A Gaussian proposal with the moments of draws, narrower because tails of phi^4 are narrower than Gaussian."""
    return Gaussian(torch.zeros(phi.shape[1:], dtype=phi.dtype), width**2 * torch.atleast_2d(torch.cov(phi.T)))


def weights(action, proposal, lattice, phi, n=4000):
    """log w of ``n`` proposals and of fields ``phi`` of any leading shape, as NumPy."""
    flat = phi.reshape(-1, *lattice.shape)
    log_w = -action(flat) - proposal.log_q(flat)
    proposed = propose(action, lattice, proposal, n, rng(7)).log_w.numpy()
    return proposed, log_w.view(phi.shape[: -lattice.dim]).numpy()


def hmc_chain(action, lattice, start, draws, step, seed=4):
    """Fields of HMC chains with visible autocorrelations, ``(chain, draw, *lattice)``."""
    kernel = HMC(action, lattice, step, 2)
    return torch.stack([s.phi for s, _ in kernel.steps(kernel.start(start, rng(seed)), draws, rng(seed))], 1)


def quadrature(action, n_sites):
    grid = Grid.make(n_sites, 7, 401 if n_sites == 2 else 4001)
    return float(torch.logsumexp(-action(grid.phi), 0)) + math.log(grid.cell)


def assert_agree(found, exact):
    for name in ("proposals", "reference", "bennett"):
        estimate = getattr(found, name)
        assert abs(estimate.value - exact) < SIGMA * estimate.error, f"{name}: {estimate}, exact {exact}"
    assert found.lower.value - SIGMA * found.lower.error < exact < found.upper.value + SIGMA * found.upper.error
    assert found.bennett.error < 1.1 * min(found.proposals.error, found.reference.error)
    assert found.best == found.bennett


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_free_field(shape):
    lattice, action = Lattice(shape), FreeField(0.7)
    reference = free_reference(lattice, 0.7)
    exact = 0.5 * float((lattice.orbit_size * torch.log(2 * math.pi * reference.propagator)).sum())
    proposal = Gaussian.of(lattice, FreeField(0.9).propagator(lattice.phat2))
    draws = free_draws(reference, 4000).view(8, 500, *shape)
    log_w, log_w_reference = weights(action, proposal, lattice, draws)
    assert_agree(diagnostics.log_z_estimates(log_w, log_w_reference), exact)
    # Bounds in closed form: KL divergences of Gaussians with variance ratios r.
    r = FreeField(0.9).propagator(lattice.orbit_phat2) / reference.propagator
    kl_q_p = 0.5 * float((lattice.orbit_size * (r - 1 - r.log())).sum())
    kl_p_q = 0.5 * float((lattice.orbit_size * (1 / r - 1 + r.log())).sum())
    lower, upper = diagnostics.lower_bound(log_w), diagnostics.upper_bound(log_w_reference)
    assert abs(lower.value - (exact - kl_q_p)) < SIGMA * lower.error
    assert abs(upper.value - (exact + kl_p_q)) < SIGMA * upper.error


@pytest.mark.parametrize(("action", "n_sites"), [(ONE_SITE, 1), (TWO_SITES, 2)])
def test_phi4_against_quadrature_with_hmc_on_the_other_side(action, n_sites):
    lattice, exact = Lattice((n_sites,)), quadrature(action, n_sites)
    draws = Grid.make(n_sites, 7, 401).draws(action, 1000)
    proposal = gaussian_of(draws)
    for phi in (draws.view(10, 100, n_sites), hmc_chain(action, lattice, draws[:20], 500, 0.25 * action.scale)):
        assert_agree(diagnostics.log_z_estimates(*weights(action, proposal, lattice, phi)), exact)
    # The last chain is correlated, and the errors know it.
    _, log_w = weights(action, proposal, lattice, phi)
    naive = diagnostics.log_z(-log_w)[1]
    assert diagnostics.log_z_reference(log_w).error > 1.3 * naive


def gaussian_pair(seed, n_q=600, chains=4, draws=150, a=0.6, log_z=3.0):
    """log w for q = N(0, 1) against a target N(0.5, 0.8^2), log Z = 3; the target side AR(1) of rate a."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(chains, draws))
    x = np.empty((chains, draws))
    x[:, 0] = noise[:, 0]
    for t in range(1, draws):
        x[:, t] = a * x[:, t - 1] + math.sqrt(1 - a * a) * noise[:, t]

    def log_w(y):
        return log_z - 0.5 * ((y - 0.5) / 0.8) ** 2 - math.log(0.8) + 0.5 * y * y

    return log_w(generator.normal(size=n_q)), log_w(0.5 + 0.8 * x)


def test_errors_cover():
    # 300 repetitions: the mean of z^2 scatters by sqrt(2 / 300) = 0.08; errors from 600 correlated draws, a tenth off
    # each, add a few per cent to it.
    found = [diagnostics.log_z_estimates(*gaussian_pair(seed)) for seed in range(300)]
    for name in ("proposals", "reference", "bennett"):
        z = np.array([(getattr(x, name).value - 3.0) / getattr(x, name).error for x in found])
        assert abs(z.mean()) < 0.5, name  # biases, of order error^2 = 0.05 error, and 5 / sqrt(300)
        assert 0.6 < np.mean(z**2) < 1.4, name
    scatter = {name: np.std([getattr(x, name).value for x in found]) for name in ("proposals", "reference", "bennett")}
    assert scatter["bennett"] < scatter["proposals"] and scatter["bennett"] < scatter["reference"]


def test_error_of_bennett_has_both_sides():
    # Two unit Gaussians at a distance of 1, equally many samples: by symmetry each side has half of the variance.
    z = []
    for seed in range(200):
        one, two = np.random.default_rng(seed).normal(size=(2, 1, 400))
        found = diagnostics.bennett(one - 0.5, 1 + two - 0.5)  # log w = x - 1/2
        z.append(found.value / found.error)
    assert abs(np.mean(z)) < SIGMA / math.sqrt(200)
    assert 0.5 < np.mean(np.square(z)) < 1.5  # scatters by sqrt(2 / 200) = 0.1


def test_bennett_against_its_own_equation():
    one, two = gaussian_pair(1, a=0.0)
    # With as many samples as draws on both sides, its Eq. (12) as the original has it.
    two = np.random.default_rng(2).permutation(two.ravel())
    fermi = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    found = diagnostics.bennett(one, two)
    tau = max(diagnostics.gamma_method(fermi(found.value - two)[None]).tau_int, 0.5)
    tau_one = max(diagnostics.gamma_method(fermi(one - found.value)[None]).tau_int, 0.5)
    ratio = math.log(len(two) / len(one) * tau_one / tau)
    c = scipy.optimize.brentq(
        lambda c: math.exp(-ratio) * fermi(one - c).mean() - fermi(c - two).mean(), -50, 50, xtol=1e-12
    )
    assert found.value == pytest.approx(c + ratio, abs=0.02 * found.error)


def test_bennett_takes_the_better_side():
    # One side alone knows log Z: the combination must not be worse, at any ratio of the numbers of samples.
    one, two = gaussian_pair(3, n_q=200_000, draws=150)
    found = diagnostics.log_z_estimates(one, two)
    assert found.bennett.error < 1.05 * found.proposals.error < 0.2 * found.reference.error
    one, two = gaussian_pair(4, n_q=40, draws=20_000)
    found = diagnostics.log_z_estimates(one, two)
    assert found.bennett.error < 1.05 * found.reference.error < 0.3 * found.proposals.error


def test_offset_of_the_weights_goes_through():
    one, two = gaussian_pair(5)
    near, far = diagnostics.log_z_estimates(one, two), diagnostics.log_z_estimates(one + 1e4, two + 1e4)
    for name in ("proposals", "lower", "reference", "upper", "bennett"):
        assert getattr(far, name).value == pytest.approx(getattr(near, name).value + 1e4, abs=1e-8)
        assert getattr(far, name).error == pytest.approx(getattr(near, name).error, rel=1e-6)


def test_two_couplings_in_three_ways():
    lattice, actions = Lattice((2,)), (TWO_SITES, Phi4(0.28, 0.1))
    exact = quadrature(actions[1], 2) - quadrature(actions[0], 2)
    grid = Grid.make(2, 7, 401)
    chains = [hmc_chain(action, lattice, grid.draws(action, 20), 500, 0.3, seed=3) for action in actions]
    # 1: of two models
    best = [
        diagnostics.log_z_estimates(*weights(action, gaussian_of(grid.draws(action, 1000)), lattice, phi)).best
        for action, phi in zip(actions, chains, strict=True)
    ]
    # 2: one chain reweighted; 3: both chains combined
    difference = [
        (actions[1](phi.flatten(0, 1)) - actions[0](phi.flatten(0, 1))).view(20, 500).numpy() for phi in chains
    ]
    forward, both = diagnostics.log_z_change(difference[0]), diagnostics.bennett(-difference[0], -difference[1])
    backward = diagnostics.log_z_change(-difference[1])
    for found in (best[1] - best[0], forward, LogZ(-backward.value, backward.error), both):
        assert abs(found.value - exact) < SIGMA * found.error
        assert found.error < 0.2 * exact  # the difference is seen
    assert both.error < forward.error


def test_a_missed_mode_shows_as_a_gap():
    # Two wells of equal weight, one proposed: log 2 of log Z; both sides that see the target have it.
    generator = np.random.default_rng(6)

    def log_w(x):
        return np.logaddexp(-0.5 * (x - 6) ** 2, -0.5 * (x + 6) ** 2) + 0.5 * (x - 6) ** 2

    q = generator.normal(6, 1, 20_000)
    p = generator.normal(6, 1, (20, 200)) * generator.choice([-1, 1], (20, 200))
    found = diagnostics.log_z_estimates(log_w(q), log_w(p))
    assert abs(found.gap.value + math.log(2)) < SIGMA * found.gap.error
    assert found.gap.z_from_zero < -10
    assert abs(found.bennett.value - found.reference.value) < 0.1 * found.reference.error


def test_weights_of_zero_and_no_reference():
    found = diagnostics.log_z_estimates(np.array([0.0, 0.0, -np.inf, np.nan]))
    assert found.best == found.proposals and found.proposals.value == pytest.approx(math.log(0.5))
    assert found.lower.value == -math.inf and found.gap is None
    one, two = gaussian_pair(7)
    with_zeros = np.random.default_rng(8).permutation(np.concatenate([one, np.full(len(one), -np.inf)]))
    a, b = diagnostics.bennett(one, two), diagnostics.bennett(with_zeros, two)
    # Half as much weight per proposal on side 1; side 2 knows nothing of it.
    assert a.value - math.log(2) - 5 * b.error < b.value < a.value
    assert diagnostics.bennett(np.full(5, -np.inf), two).value == -math.inf


def test_bad_input_is_refused():
    with pytest.raises(DmmcError, match="log_w_reference"):
        diagnostics.log_z_estimates(np.zeros(9), np.array([0.0, 1.0, np.nan, 0.0]))
    with pytest.raises(DmmcError, match="draws"):
        diagnostics.log_z_change(np.zeros((5, 2)))
    with pytest.raises(DmmcError, match=r"\+inf"):
        diagnostics.bennett(np.array([0.0, np.inf]), np.zeros(5))


def test_format():
    assert str(LogZ(3.14159, 0.012)) == "3.142(12)"
    difference = LogZ(3.0, 0.3) - LogZ(1.0, 0.4)
    assert (difference.value, difference.error) == (2.0, 0.5) and difference.z_from_zero == 4.0

"""Exactness of the Metropolis kernels: one step from exact draws, analytic proposals against quadrature, acceptance.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 60 comparisons.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import scipy.stats
import torch

from checks import CHANCE, Gaussian, Mixture, bonferroni, invariance, mean_shift, observables, phi4_draws, steep_model
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence, propose
from dmmc.kernels.weighted import WeightedInfo
from dmmc.model.reference import GaussianReference
from dmmc.proposals.of_model import flow_proposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_draws, free_reference, random_model, rng, z_scores

TWO_SITES = Lattice((2,))
PHI4 = Phi4(0.25, 0.1)


def gaussian(lattice, width=1.0, mean=0.0, mass=0.7):
    """The free field of ``mass``, ``width`` times as wide."""
    return Gaussian.of(lattice, width**2 * FreeField(mass).propagator(lattice.phat2), mean)


def lopsided(lattice):
    """No symmetry at all: two Gaussians of different weight, place and width, sites unlike each other."""
    left = gaussian(lattice, 0.9, -0.5)
    mean = 0.8 * torch.linspace(0.5, 1.5, lattice.volume, dtype=torch.float64).view(lattice.shape)
    return Mixture((0.3, 0.7), (left, replace(gaussian(lattice, 1.2), mean=mean)))


def flow(lattice, phi, two_sector=False):
    """A flow with random weights around the propagator of the target's draws; its weights are far from constant."""
    reference = GaussianReference.measure(phi, lattice)
    if two_sector:
        # A narrower Gaussian around half the typical |M|.
        mean = 0.5 * float(reference.propagator[0] / lattice.volume) ** 0.5
        reference = GaussianReference(lattice, 0.6 * reference.propagator, mean)
    if lattice.volume < 5:
        return flow_proposal(steep_model(reference, two_sector), n_steps=8)
    return flow_proposal(random_model(reference, two_sector=two_sector, strength=0.1), n_steps=10)


def integrator_error(proposal, n=200):
    """The spread over proposals of log q less the log density of the map that makes them."""
    exact, generator = proposal.to_float64(), rng()
    return float(exact.step_doubling(exact.latents(n, generator), generator)[2].std())


def run(kernel, state, n, seed=3):
    """All of ``n`` steps: fields ``(n_chains, n, *lattice)``, what each reports ``(n_chains, n)``, the last state."""
    steps = list(kernel.steps(state, n, rng(seed)))
    reports = [info.tensors() for _, info in steps]
    stacked = {name: torch.stack([report[name] for report in reports], 1) for name in reports[0]}
    return torch.stack([s.phi for s, _ in steps], 1), WeightedInfo(**stacked), steps[-1][0]


# The checks themselves


def test_exact_draws_of_phi4_agree_with_quadrature():
    # Three couplings, six observables each, sampled with and without moving a part of phi^4 into the Gaussian.
    grid = Grid.make(2, half_width=7, n=301)
    for action, c in [(PHI4, 0.0), (Phi4(0.2, 0.3), 0.5), (Phi4.from_mass(-2.0, 1.0, 1), 1.3)]:
        exact = grid.probabilities(action) @ observables(grid.phi, TWO_SITES)
        assert mean_shift(observables(phi4_draws(action, TWO_SITES, 20_000, c), TWO_SITES) - exact) < 1


def test_hotelling_bound():
    # The statistic follows chi^2 for correct draws, and grows with n for shifted ones.
    differences = torch.randn(400, 2000, 3, generator=rng(), dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64
    )
    bound = scipy.stats.chi2.isf(CHANCE, 3)
    T2 = [mean_shift(x) * bound for x in differences]
    assert scipy.stats.kstest(T2, scipy.stats.chi2(3).cdf).pvalue > 1e-4
    assert mean_shift(differences[0] + torch.tensor([0.0, 0.05, 0.0], dtype=torch.float64)) > 2


# One step from exact draws, every kernel


@pytest.mark.parametrize("shape", [(2,), (5,), (3, 4)])
@pytest.mark.parametrize("width", [1.0, 0.8, 1.25])
def test_one_step_with_a_gaussian_proposal_keeps_the_free_field(shape, width):
    lattice, action = Lattice(shape), FreeField(0.7)
    kernel = Independence(action, lattice, gaussian(lattice, width))
    assert invariance(kernel, free_draws(free_reference(lattice, 0.7), 20_000)) < 1


@pytest.mark.parametrize("shape", [(2,), (3, 4)])
def test_one_step_with_a_lopsided_proposal_keeps_the_free_field(shape):
    lattice = Lattice(shape)
    kernel = Independence(FreeField(0.7), lattice, lopsided(lattice))
    assert invariance(kernel, free_draws(free_reference(lattice, 0.7), 20_000)) < 1


@pytest.mark.parametrize("make", [HMC, lambda *args: Cluster(HMC(*args), n_local=1)], ids=["hmc", "cluster"])
@pytest.mark.parametrize(("shape", "n"), [((2,), 40_000), ((4, 4), 20_000)])
def test_one_coarse_step_keeps_phi4(make, shape, n):
    lattice, action = Lattice(shape), Phi4(0.22, 0.1)
    kernel = make(action, lattice, 0.6, 3)
    phi = phi4_draws(action, lattice, n, c=0.5)
    assert invariance(kernel, phi) < 1
    _, info = kernel.step(kernel.start(phi, rng()), rng())
    assert 0.3 < float(info.accepted.double().mean()) < 0.95  # without rejections it would be a weak test


@pytest.mark.parametrize("width", [0.9, 1.3])
@pytest.mark.parametrize(("shape", "n"), [((2,), 40_000), ((4, 4), 20_000)])
def test_steps_with_a_gaussian_proposal_keep_phi4(shape, n, width):
    lattice, action = Lattice(shape), Phi4(0.22, 0.022)
    phi = phi4_draws(action, lattice, n)
    proposal = Gaussian.of(lattice, width**2 * lattice.spread(lattice.two_point(phi).mean(0)), mean=0.1)
    kernel = Independence(action, lattice, proposal)
    assert invariance(kernel, phi, steps=1) < 1
    assert invariance(kernel, phi, steps=4) < 1


@pytest.mark.parametrize("two_sector", [False, True], ids=["odd", "two-sector"])
@pytest.mark.parametrize(("shape", "n"), [((2,), 8000), ((4,), 8000), ((4, 4), 2000)])
def test_steps_with_a_flow_keep_phi4(shape, n, two_sector):
    lattice, action = Lattice(shape), Phi4(0.22, 0.022)
    phi = phi4_draws(action, lattice, n)
    proposal = flow(lattice, phi, two_sector)
    kernel = Independence(action, lattice, proposal)
    # An observable is off by std(delta) of its standard deviation at most: far below the 1 / sqrt(n) looked for.
    assert integrator_error(proposal) < 0.2 / math.sqrt(n)
    _, info, _ = run(kernel, kernel.start(phi[:200], rng()), 10)
    assert float(info.log_w_proposed.std()) > 0.15
    assert float(info.accepted.double().mean()) > 0.1
    assert invariance(kernel, phi, steps=2) < 1


def test_one_step_with_a_flow_keeps_the_free_field():
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    phi = free_draws(free_reference(lattice, 0.7), 2000)
    assert invariance(Independence(action, lattice, flow(lattice, phi)), phi) < 1


# Chain averages against quadrature


@pytest.mark.parametrize(
    "proposal",
    [gaussian(TWO_SITES, 0.8), gaussian(TWO_SITES, 1.1, mean=0.4), lopsided(TWO_SITES)],
    ids=["narrow", "shifted", "lopsided"],
)
@pytest.mark.parametrize("action", [PHI4, Phi4.from_mass(-2.0, 1.0, 1)], ids=["hopping", "mass"])
def test_chain_means_against_quadrature(action, proposal):
    # 64 chains from proposals; the first 100 steps are left out. Eight means, errors from the Gamma method.
    grid = Grid.make(2, half_width=7, n=301)
    kernel = Independence(action, TWO_SITES, proposal)
    phi, info, _ = run(kernel, kernel.initial(64, rng(1)), 2100)
    phi = phi[:, 100:].flatten(0, 1)

    def columns(phi):
        return torch.cat([observables(phi, TWO_SITES), phi[:, :1], action(phi)[:, None]], 1)

    exact = grid.probabilities(action) @ columns(grid.phi)
    series = columns(phi).T.view(-1, 64, 2000)
    estimates = [diagnostics.gamma_method(x.numpy()) for x in series]
    z = [(estimate.value - float(value)) / estimate.error for estimate, value in zip(estimates, exact, strict=True)]
    assert max(map(abs, z)) < bonferroni(len(z)), z
    assert 0.2 < float(info.accepted.double().mean()) < 0.95


# Acceptance


def test_proposals_from_the_target_are_always_accepted():
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    kernel = Independence(action, lattice, gaussian(lattice))
    _, info, _ = run(kernel, kernel.initial(50, rng()), 20)
    assert bool(info.accepted.all())
    assert float((info.acceptance_rate - 1).abs().max()) < 1e-12
    assert float(info.log_w_proposed.std()) < 1e-12


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_acceptance_of_gaussian_log_weights(sigma):
    # A unit Gaussian proposed from one shifted by sigma: log w is Gaussian of that standard deviation, exactly.
    lattice, n = Lattice((1,)), 100_000
    kernel = Independence(FreeField(1.0), lattice, gaussian(lattice, mean=sigma, mass=1.0))
    phi = torch.randn(n, 1, generator=rng(4), dtype=torch.float64)
    _, info = kernel.step(kernel.start(phi, rng()), rng(5))
    assert abs(float(z_scores(info.accepted.double(), math.erfc(sigma / 2)))) < SIGMA
    assert abs(float(z_scores(info.acceptance_rate, math.erfc(sigma / 2)))) < SIGMA
    log_w = info.log_w_proposed.numpy()
    # The error of the empirical value from 40 parts; Student's t of 39 instead of a Gaussian.
    parts = [diagnostics.expected_acceptance(part) for part in log_w.reshape(40, -1)]
    error = float(torch.tensor(parts).std()) / math.sqrt(40)
    z = (diagnostics.expected_acceptance(log_w) - math.erfc(sigma / 2)) / error
    assert abs(z) < scipy.stats.t.isf(CHANCE / 2, 39)


@pytest.mark.parametrize("proposal", [gaussian(TWO_SITES, 1.3), lopsided(TWO_SITES)], ids=["wide", "lopsided"])
def test_acceptance_is_that_expected_of_the_weights(proposal):
    # Stationary from the first step; 20 groups of 500 chains give the error of the difference.
    kernel = Independence(PHI4, TWO_SITES, proposal)
    _, info, _ = run(kernel, kernel.start(phi4_draws(PHI4, TWO_SITES, 10_000), rng()), 20)
    accepted = info.accepted.double().view(20, -1).mean(1)
    expected = [diagnostics.expected_acceptance(x.numpy()) for x in info.log_w_proposed.view(20, -1)]
    difference = accepted - torch.tensor(expected)
    z = float(difference.mean() / (difference.std() / math.sqrt(20)))
    assert abs(z) < scipy.stats.t.isf(CHANCE / 2, 19)
    assert float(difference.std()) / math.sqrt(20) < 0.003


# What the state carries


@pytest.mark.parametrize("make", [lambda: gaussian(TWO_SITES, 1.6), lambda: lopsided(TWO_SITES)])
def test_the_state_carries_the_weight_of_its_own_fields(make):
    kernel = Independence(PHI4, TWO_SITES, make())
    state = kernel.initial(200, rng())
    for after, info in kernel.steps(state, 100, rng(2)):
        accepted = info.accepted
        assert torch.equal(after.phi[~accepted], state.phi[~accepted])
        assert bool((after.phi[accepted] != state.phi[accepted]).all())
        again = kernel.start(after.phi, rng())
        for name in ("S", "log_q", "log_w"):
            torch.testing.assert_close(getattr(after, name), getattr(again, name), rtol=0, atol=1e-11)
        assert torch.equal(after.log_w, -after.S - after.log_q)
        assert torch.equal(info.log_w, after.log_w) and torch.equal(info.log_q, after.log_q)
        # The probability is that of the ratio of the weights, of the state before the step and of what was proposed.
        rate = torch.exp(info.log_w_proposed - state.log_w).clamp(max=1)
        torch.testing.assert_close(info.acceptance_rate, rate, rtol=1e-12, atol=0)
        state = after
    assert 0.2 < float(accepted.double().mean()) < 0.9


def test_the_state_carries_the_weight_of_a_flow():
    lattice = Lattice((4, 4))
    proposal = flow(lattice, phi4_draws(Phi4(0.22, 0.022), lattice, 500))
    kernel = Independence(Phi4(0.22, 0.022), lattice, proposal)
    _, _, state = run(kernel, kernel.initial(20, rng()), 10)
    # sample() pushes noise to fields and log_q() pulls fields back: the same density up to the integrator's error.
    difference = state.log_w - kernel.start(state.phi, rng()).log_w
    assert float(difference.abs().max()) < 10 * integrator_error(proposal)


def test_same_seed_same_chain():
    kernel = Independence(PHI4, TWO_SITES, gaussian(TWO_SITES, 1.3))
    state = kernel.initial(30, rng())
    assert state.phi.dtype == state.S.dtype == state.log_q.dtype == state.log_w.dtype == torch.float64
    phi, info, last = run(kernel, state, 6)
    assert phi.shape == (30, 6, 2) and torch.equal(phi[:, -1], last.phi)
    assert list(info.tensors()) == ["accepted", "acceptance_rate", "log_q", "log_w", "log_w_proposed"]
    assert info.accepted.dtype == torch.bool and all(x.shape == (30, 6) for x in info.tensors().values())
    assert torch.equal(phi, run(kernel, state, 6)[0])
    assert not torch.equal(phi, run(kernel, state, 6, seed=4)[0])


# Proposals and fields that are not finite


@dataclass(frozen=True)
class Broken:
    """A good proposal, of which every third is spoilt."""

    good: Gaussian
    where: str
    value: float
    inexact = ""

    def sample(self, n, generator):
        phi, log_q = self.good.sample(n, generator)
        if self.where == "phi":
            phi[::3, 0] = self.value
        else:
            log_q[::3] = self.value
        return phi, log_q

    def log_q(self, phi):
        return self.good.log_q(phi)

    def describe(self) -> dict[str, Any]:
        return {"name": "broken"}


@pytest.mark.parametrize("where", ["phi", "log_q"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_proposals_that_are_not_finite_are_rejected_and_counted(where, value):
    kernel = Independence(PHI4, TWO_SITES, Broken(gaussian(TWO_SITES), where, value))
    state = Independence(PHI4, TWO_SITES, gaussian(TWO_SITES)).initial(30, rng())
    for after, info in kernel.steps(state, 10, rng(2)):
        assert not info.accepted[::3].any() and not info.acceptance_rate[::3].any()
        assert torch.equal(after.phi[::3], state.phi[::3])
        assert bool((info.log_w_proposed[::3] == -math.inf).all())
        assert bool(torch.isfinite(info.log_w_proposed[1::3]).all())
        assert diagnostics.n_zero_weight(info.log_w_proposed.numpy()) == 10
        assert all(bool(torch.isfinite(x).all()) for x in after.tensors().values())
        state = after
    assert bool(info.accepted[1::3].any())


def test_a_nan_that_the_action_does_not_see_is_rejected():
    action = AutogradAction(lambda phi: phi[:, 1:].square().flatten(1).sum(1), "blind to a site")
    proposed = propose(action, TWO_SITES, Broken(gaussian(TWO_SITES), "phi", math.nan), 9, rng())
    assert bool((proposed.log_w[::3] == -math.inf).all()) and bool(torch.isfinite(proposed.log_q).all())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_initial_state_that_is_not_finite_is_refused(value):
    class Bad(Broken):
        def log_q(self, phi):
            return self.good.log_q(phi).index_fill(0, torch.tensor([1]), value)

    kernel = Independence(PHI4, TWO_SITES, Bad(gaussian(TWO_SITES), "log_q", value))
    with pytest.raises(DmmcError, match="weight of an initial proposal is not finite"):
        kernel.initial(6, rng())
    with pytest.raises(DmmcError, match="weight of an initial configuration is not finite"):
        kernel.start(torch.zeros(3, 2), rng())
    with pytest.raises(DmmcError, match="NaN or infinite"):
        kernel.start(torch.full((3, 2), value), rng())
    with pytest.raises(DmmcError, match="action of an initial configuration"):
        kernel.start(torch.full((3, 2), 1e200, dtype=torch.float64), rng())


@pytest.mark.parametrize("shape", [lambda x: x[:, None], lambda x: x[:-1], lambda x: x.sum(), lambda x: x[None]])
def test_log_q_of_a_wrong_shape_is_refused(shape):
    class Misshapen(Broken):
        def sample(self, n, generator):
            phi, log_q = self.good.sample(n, generator)
            return phi, shape(log_q)

        def log_q(self, phi):
            return shape(self.good.log_q(phi))

    kernel = Independence(PHI4, TWO_SITES, Misshapen(gaussian(TWO_SITES), "log_q", 0.0))
    with pytest.raises(DmmcError, match=r"log_q of shape \(4,\)"):
        kernel.start(torch.zeros(4, 2), rng())
    with pytest.raises(DmmcError, match=r"log_q of shape \(4,\)"):
        kernel.initial(4, rng())
    state = Independence(PHI4, TWO_SITES, gaussian(TWO_SITES)).start(torch.zeros(4, 2), rng())
    with pytest.raises(DmmcError, match=r"log_q of shape \(8,\)"):
        next(kernel.steps(state, 2, rng()))


@pytest.mark.parametrize("shape", [lambda x: x[:, :1], lambda x: x[:-1], lambda x: x[None], lambda x: x.tolist()])
def test_fields_of_a_wrong_shape_are_refused(shape):
    class Misshapen(Broken):
        def sample(self, n, generator):
            phi, log_q = self.good.sample(n, generator)
            return shape(phi), log_q

    kernel = Independence(PHI4, TWO_SITES, Misshapen(gaussian(TWO_SITES), "phi", 0.0))
    with pytest.raises(DmmcError, match=r"must return fields of shape \(4, 2\)"):
        kernel.initial(4, rng())


def test_a_state_survives_storage():
    kernel = Independence(PHI4, TWO_SITES, gaussian(TWO_SITES, 1.3))
    _, _, state = run(kernel, kernel.initial(30, rng()), 5)
    assert list(state.tensors()) == ["phi", "S", "log_q", "log_w"]
    restored = kernel.restore(state.tensors())
    assert type(restored) is type(state)
    assert torch.equal(run(kernel, state, 6)[0], run(kernel, restored, 6)[0])


def test_fields_are_weighed_in_float64_whatever_they_come_in():
    # The weight of a state is that of the fields that it holds, not of a rounded copy of them.
    kernel, phi = Independence(PHI4, TWO_SITES, gaussian(TWO_SITES, 1.3)), torch.randn(20, 2, generator=rng())
    state = kernel.start(phi, rng())
    assert state.log_q.dtype == torch.float64
    assert torch.equal(state.log_w, kernel.start(phi.double(), rng()).log_w)


def test_nothing_keeps_a_graph():
    @dataclass(frozen=True)
    class Learned(Broken):
        shift = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

        def sample(self, n, generator):
            phi, log_q = self.good.sample(n, generator)
            return phi + self.shift, log_q

        def log_q(self, phi):
            return self.good.log_q(phi - self.shift)

    kernel = Independence(PHI4, TWO_SITES, Learned(gaussian(TWO_SITES), "", 0.0))
    states = [kernel.initial(5, rng()), kernel.start(torch.zeros(5, 2), rng())]
    states += [state for state, _ in kernel.steps(states[0], 2, rng())]
    assert not any(value.requires_grad for state in states for value in state.tensors().values())


def test_inexact_proposals_are_refused_unless_asked_for_and_marked():
    @dataclass(frozen=True)
    class Estimated(Broken):
        inexact = "log q is estimated"

    proposal = Estimated(gaussian(TWO_SITES), "phi", 0.0)
    with pytest.raises(DmmcError, match=r"log q is estimated.*allow_inexact=True"):
        Independence(PHI4, TWO_SITES, proposal)
    assert Independence(PHI4, TWO_SITES, proposal, allow_inexact=True).facts.inexact == "log q is estimated"


@dataclass(frozen=True)
class Counted(Broken):
    evaluations = 40


def test_describe():
    proposal = gaussian(TWO_SITES)
    assert Independence(PHI4, TWO_SITES, proposal).describe() == {
        "name": "independence",
        "proposal": proposal.describe(),
    }
    kernel = Independence(PHI4, TWO_SITES, Counted(gaussian(TWO_SITES), "phi", 0.0))
    assert kernel.cost == {"network": 40}
    assert kernel.facts.independent_weights and not kernel.facts.model_free and kernel.facts.inexact == ""

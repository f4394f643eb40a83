"""Cluster updates against exact answers and against HMC.

Statistical errors come from the spread over independent chains, so autocorrelation does not enter. All z-scores,
about 70 in this file, must lie below 5 (two-sided 5.7e-7 each): chance alone fails one choice of seed in 20,000.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from checks import chain_averages, quadrature
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.cluster import Cluster, ClusterInfo, freezing_probability
from dmmc.kernels.hmc import HMC
from dmmc.kernels.hopping import declared_hopping
from dmmc.kernels.invariance import assert_invariant
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_draws, free_reference, noise, rng, z_scores


@dataclass(frozen=True)
class Phi6:
    """A user's action that declares a hopping term: ``-hopping sum phi phi_mu + sum (phi^2 + phi^6 / 10)``."""

    hopping: float = 0.6

    def __call__(self, phi):
        links = sum(phi * phi.roll(-1, axis) for axis in range(1, phi.ndim))
        return (phi**2 + 0.1 * phi**6 - self.hopping * links).flatten(1).sum(1)

    def grad(self, phi):
        neighbours = sum(phi.roll(1, axis) + phi.roll(-1, axis) for axis in range(1, phi.ndim))
        return 2 * phi + 0.6 * phi**5 - self.hopping * neighbours

    def describe(self):
        return {"name": "phi6", "hopping": self.hopping}


# Exactness


@pytest.mark.parametrize("action", [Phi4(0.25, 0.1), Phi4.from_mass(-2.0, 1.0, 1), Phi6()], ids=str)
@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_one_and_two_sites_against_quadrature(action, shape):
    # 6 cases of 5 observables. An extent of 1 couples a site to itself, one of 2 couples two sites twice.
    lattice = Lattice(shape)
    draws = chain_averages(Cluster.default(action, lattice), n_chains=2000, n_thermal=20, n_steps=60)
    assert z_scores(draws, quadrature(action, lattice.volume)).abs().max() < SIGMA


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 2)])
def test_the_free_field_keeps_its_propagator(shape):
    # Exact draws, and steps that are nearly all cluster: 3 + 12 + 6 orbits, and <S> three times.
    lattice, action = Lattice(shape), FreeField(0.5)
    kernel = Cluster(HMC(action, lattice, step_size=0.05, n_leapfrog=1))
    state = kernel.start(free_draws(free_reference(lattice, 0.5), 10_000, seed=5), rng())
    first = state
    *_, (state, info) = kernel.steps(state, 3, rng(6))
    assert z_scores(lattice.two_point(state.phi), action.propagator(lattice.orbit_phat2)).abs().max() < SIGMA
    assert abs(float(z_scores(state.S, lattice.volume / 2))) < SIGMA
    # About half of the signs were reversed, in clusters larger than a site.
    assert 0.3 < float(((first.phi > 0) != (state.phi > 0)).double().mean()) < 0.7
    assert float(info.n_clusters.double().mean()) < 0.9 * lattice.volume


@pytest.mark.parametrize("action", [Phi4(0.25, 0.1), FreeField(1.0), Phi6()], ids=str)
def test_exact_draws_stay_exact(action):
    # Two sites, from rejection on a box; with hardly any HMC, so that it cannot repair what the clusters spoil.
    grid = Grid.make(2, half_width=7, n=301)
    kernel = Cluster(HMC(action, grid.lattice, step_size=0.02, n_leapfrog=1))
    outcome = assert_invariant(kernel, grid.draws(action, 20_000), rng(3))
    assert outcome.z.keys() >= {"M", "S"}


def test_hmc_and_cluster_agree():
    # 5 observables, each from 512 independent chains.
    lattice, action = Lattice((8, 8)), Phi4(0.25, 0.022)
    kernel = HMC(action, lattice, step_size=0.2, n_leapfrog=5)
    a = chain_averages(kernel, n_chains=512, n_thermal=100, n_steps=600, seed=1)
    b = chain_averages(Cluster(kernel, n_local=2), n_chains=512, n_thermal=30, n_steps=150, seed=2)
    error = ((a.var(0) + b.var(0)) / 512).sqrt()
    assert ((a.mean(0) - b.mean(0)) / error).abs().max() < SIGMA
    assert (error / b.mean(0)).max() < 0.015  # or the comparison would not mean much


def test_cluster_flips_the_sign_in_the_broken_phase_where_hmc_does_not():
    lattice, action = Lattice((8, 8)), Phi4(0.5, 0.022)
    kernel = HMC(action, lattice, step_size=0.1, n_leapfrog=10)
    state = kernel.start(torch.full((200, 8, 8), 4.8), rng())
    *_, (stuck, _) = kernel.steps(state, 10, rng())
    assert bool((stuck.phi.mean(dim=(1, 2)) > 0).all())
    *_, (moved, _) = Cluster(kernel).steps(state, 10, rng())
    assert abs(float(z_scores((moved.phi.mean(dim=(1, 2)) > 0).double(), 0.5))) < SIGMA


# The clusters


def test_flip_keeps_moduli_and_reverses_whole_clusters():
    lattice, action = Lattice((5, 4)), Phi4(0.25, 0.022)
    phi = noise(lattice, 64)
    flipped, n_clusters = Cluster.default(action, lattice).flip(phi, rng())
    assert torch.equal(flipped.abs(), phi.abs())
    assert n_clusters.dtype == torch.int64 and bool((n_clusters >= 1).all()) and bool((n_clusters <= 20).all())
    # At strong coupling all links between equal signs freeze: one cluster, reversed in half of the chains.
    strong = torch.full((4000, 5, 4), 20.0, dtype=torch.float64)
    flipped, n_clusters = Cluster.default(action, lattice).flip(strong, rng())
    assert bool((n_clusters == 1).all())
    assert bool((flipped == flipped[:, :1, :1]).all())
    assert abs(float(z_scores((flipped[:, 0, 0] > 0).double(), 0.5))) < SIGMA
    # Opposite signs never share a cluster: a checkerboard of them, on even extents, has one cluster per site.
    board = 20.0 * (-1.0) ** torch.arange(4, dtype=torch.float64)
    _, n_clusters = Cluster.default(action, Lattice((4,))).flip(board.expand(10, 4).contiguous(), rng())
    assert bool((n_clusters == 4).all())


def test_links_freeze_as_often_as_they_should():
    # Two sites of equal sign share two links; they are apart if neither freezes: exp(-2 hopping phi phi_mu) twice.
    action, n = FreeField(1.0), 40_000
    phi = torch.tensor([0.4, 0.7], dtype=torch.float64)
    _, n_clusters = Cluster.default(action, Lattice((2,))).flip(phi.expand(n, 2).contiguous(), rng())
    apart = torch.exp(torch.tensor(-4 * 0.4 * 0.7, dtype=torch.float64))
    assert abs(float(z_scores((n_clusters == 2).double(), apart))) < SIGMA
    probability = freezing_probability(0.5, torch.tensor([2.0, -2.0, 2.0]), torch.tensor([1.5, -1.5, -1.5]))
    assert probability[:2].tolist() == pytest.approx([1 - torch.e**-3] * 2) and float(probability[2]) < 0


# What a kernel has besides


def test_tuning_tunes_the_hmc_part():
    lattice, action = Lattice((4, 4)), Phi4(0.25, 0.022)
    first = Cluster.default(action, lattice)
    state = first.start(noise(lattice, 20), rng())
    tuned, after = first.tune(state, rng(), 20)
    local, expected = first.local.tune(state, rng(), 20)
    assert tuned == Cluster(local, n_local=1)
    assert torch.equal(after.phi, expected.phi)


def test_initial_states_are_those_of_hmc():
    kernel = Cluster.default(Phi4(0.5, 0.022), Lattice((4, 4)))
    assert torch.equal(kernel.initial(10, rng()).phi, kernel.local.initial(10, rng()).phi)


def test_same_seed_same_chain():
    kernel = Cluster.default(Phi4(0.25, 0.022), Lattice((4, 5)))
    state = kernel.start(noise(Lattice((5, 4)), 10).float().transpose(1, 2), rng())
    assert state.phi.dtype == state.S.dtype == torch.float64
    *_, (whole, info) = kernel.steps(state, 6, rng())
    generator = rng()
    *_, (half, _) = kernel.steps(state, 3, generator)
    *_, (again, _) = kernel.steps(kernel.restore(half.tensors()), 3, generator)
    assert torch.equal(whole.phi, again.phi) and torch.equal(whole.S, again.S)
    torch.testing.assert_close(whole.S, kernel.action(whole.phi))
    assert isinstance(info, ClusterInfo) and list(info.tensors())[-1] == "n_clusters"
    assert info.accepted.dtype == torch.bool and info.energy_error.dtype == torch.float64
    assert info.n_clusters.dtype == torch.int64
    assert all(value.shape == (10,) for value in info.tensors().values())


def test_parameters_that_require_grad():
    @dataclass(frozen=True)
    class Learned(Phi6):
        weight: torch.Tensor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)  # noqa: RUF009

        def __call__(self, phi):
            return self.weight * super().__call__(phi)

    kernel = Cluster.default(Learned(), Lattice((3,)))
    for state, info in kernel.steps(kernel.start(torch.ones(4, 3), rng()), 2, rng()):
        assert not any(value.requires_grad for value in (*state.tensors().values(), *info.tensors().values()))


def test_describe():
    kernel = Cluster(HMC(Phi4(0.25, 0.1), Lattice((4,)), step_size=0.1, n_leapfrog=3), n_local=2)
    local = {"name": "hmc", "step_size": 0.1, "n_leapfrog": 3, "jitter": 0.2}
    assert kernel.describe() == {"name": "cluster", "n_local": 2, "local": local}
    assert kernel.cost == {"force": 7}  # two trajectories, and a cluster update that takes about as long as a force
    facts = kernel.facts
    assert facts.name == "cluster" and facts.model_free and not facts.independent_weights and facts.inexact == ""


def test_refusals():
    lattice = Lattice((4,))
    silent = AutogradAction(lambda phi: (phi**2).flatten(1).sum(1), "quadratic")
    for make in (
        lambda: Cluster.default(silent, lattice),
        lambda: Cluster(HMC(silent, lattice, 0.1, 3)),
        lambda: declared_hopping(silent),
    ):
        with pytest.raises(
            DmmcError, match="declares its hopping term, such as Phi4, and 'quadratic' does not; use HMC"
        ):
            make()
    assert declared_hopping(FreeField(1.0)) == 1.0
    assert declared_hopping(Phi4(0.25, 0.1)) == 0.5
    for n_local in (0, 1.5):
        with pytest.raises(DmmcError, match="n_local"):
            Cluster(HMC.default(Phi4(0.25, 0.1), lattice), n_local)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hopping": 0.4},  # instead of 0.5
        {"hopping": -0.5},
        {"function": lambda phi: Phi4(0.25, 0.1)(phi) - 0.1 * phi.roll(2, 1).mul(phi).flatten(1).sum(1)},
        {"function": lambda phi: Phi4(0.25, 0.1)(phi) + 0.01 * phi.pow(3).flatten(1).sum(1)},
    ],
)
@pytest.mark.parametrize("shape", [(5,), (4, 3)])
def test_a_wrong_hopping_term_is_found(wrong, shape):
    lattice = Lattice(shape)
    right = AutogradAction(Phi4(0.25, 0.1), "mine", hopping=0.5)
    Cluster.default(right, lattice)
    with pytest.raises(MismatchError, match=r"'mine' declares hopping = .*instead of"):
        Cluster.default(replace(right, **wrong), lattice)


def test_links_of_a_negative_hopping_term_freeze_between_opposite_signs():
    x, y = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([2.0, 2.0], dtype=torch.float64)
    probability = freezing_probability(-0.5, x, y)
    assert probability[0] < 0 and probability[1] == pytest.approx(1 - math.exp(-2))

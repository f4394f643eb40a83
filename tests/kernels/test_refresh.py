"""Exactness of partial refreshes at any level, with any network: steps from exact draws.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 15 comparisons.
"""

import functools
import math
from itertools import pairwise

import pytest
import torch

from checks import invariance, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.kernels import refresh as kernel_module
from dmmc.kernels.base import advance, metropolis
from dmmc.kernels.refresh import PathRefresh
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.model.sites import SiteNetwork
from dmmc.proposals.of_model import path_proposal
from dmmc.proposals.path import PathProposal
from dmmc.proposals.symmetrised import SymmetrisedPath, column
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, random_model, rng, z_scores
from toys import OneNoise

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
    draws(2), draws(4), tilted_draws()


@functools.cache
def proposal(n_steps, n_sites=2, two_sector=False, calibrated=True):
    """A network of random weights around a propagator somewhat wider than the target's."""
    lattice = Lattice((n_sites,))
    propagator = 1.3 * lattice.two_point(draws(n_sites)[:2000]).mean(0)
    reference = GaussianReference(lattice, propagator, mean=0.6 if two_sector else 0.0)
    paths = path_proposal(random_model(reference, two_sector=two_sector, strength=0.1), n_steps)
    return paths.calibrated(draws(n_sites)[:500], rng()) if calibrated else paths


def kernel(level, n_steps=8, action=PHI4, **options):
    return PathRefresh(action, TWO_SITES, proposal(n_steps, **options), level)


def refresh_keeps_phi4(level=0.5):
    return invariance(kernel(level), draws(2), steps=2)


def two_sector_refresh_keeps_a_tilted_phi4():
    return invariance(kernel(0.6, action=TILTED, two_sector=True), tilted_draws(), steps=2)


@pytest.mark.parametrize("level", [0.01, 0.3, 1.0])
def test_partial_refresh_keeps_phi4(level):
    assert refresh_keeps_phi4(level) < 1
    _, info = kernel(level).step(kernel(level).start(draws(2), rng()), rng(2))
    # Of a step from equilibrium, as for HMC.
    assert abs(float(z_scores(info.log_w_ratio.exp(), 1.0))) < SIGMA


def test_two_sector_refresh_keeps_a_theory_without_symmetry():
    assert two_sector_refresh_keeps_a_tilted_phi4() < 1


@pytest.mark.parametrize("average", [False, True], ids=["plain", "symmetrised"])
def test_any_paths_will_do(average):
    paths = SymmetrisedPath(OneNoise(TWO_SITES)) if average else OneNoise(TWO_SITES)
    assert invariance(PathRefresh(TILTED, TWO_SITES, paths, 0.5), tilted_draws(), 2) < 1


def test_a_network_without_a_trace_will_do():
    class Body(torch.nn.Module):
        def forward(self, u, level):
            return torch.tanh(2 * u) * (1 - level.view(-1, 1, 1))

    network = SiteNetwork(proposal(8, 4).model.reference, Body()).double()
    one = PathRefresh(PHI4, RING, path_proposal(DiffusionModel(network, {}), 8), 0.6)
    assert not hasattr(network, "with_trace")
    assert invariance(one, draws(4), steps=2) < 1
    tuned, state = one.tune(one.initial(20, rng()), rng(1), 10)
    assert tuned.describe() != one.describe() and bool(torch.isfinite(state.S).all())
    assert invariance(tuned, draws(4), steps=2) < 1


def test_a_small_refresh_is_accepted():
    accepted, moved = [], []
    for level in (1.0, 0.3, 0.1, 0.01, 1e-4):
        state, info = kernel(level).step(kernel(level).start(draws(2), rng()), rng(2))
        accepted.append(float(info.accepted.double().mean()))
        moved.append(float((state.phi - draws(2)).square().mean()))
    assert accepted[0] < 0.9 and accepted[-1] > 0.995
    assert all(x <= y + 0.01 for x, y in pairwise(accepted)), accepted
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-3


def test_same_seed_same_chain_and_a_report_of_each_step():
    one = kernel(0.4)
    start = one.start(draws(2)[:20], rng())
    first, second, other = (advance(one, start, 3, rng(seed)).phi for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    state, info = one.step(start, rng(1))
    torch.testing.assert_close(info.acceptance_rate, info.log_w_ratio.exp().clamp(max=1))
    assert torch.equal(state.S[info.accepted], PHI4(state.phi[info.accepted]))
    assert torch.equal(state.phi[~info.accepted], start.phi[~info.accepted])
    assert set(state.tensors()) == {"phi", "S"} and set(info.tensors()) == {
        "accepted",
        "acceptance_rate",
        "log_w_ratio",
    }
    assert kernel(0.3).cost == {"network": 2 * 5} and not one.facts.independent_weights


@pytest.mark.parametrize("two_sector", [False, True])
def test_tuning_calibrates_and_thermalises(two_sector):
    plain = kernel(0.5, 16, two_sector=two_sector, calibrated=False)
    tuned, state = plain.tune(plain.initial(4000, rng()), rng(1), 40)
    goal = kernel(0.5, 16, two_sector=two_sector)

    def acceptance(one):
        _, info = one.step(one.start(draws(2)[:4000], rng(2)), rng(3))
        return float(info.acceptance_rate.mean())

    assert acceptance(tuned) > 0.5 * (acceptance(plain) + acceptance(goal))
    # After 40 steps from fields of the model: the mean action is that of exact draws.
    difference = state.S.mean() - PHI4(draws(2)).mean()
    error = (state.S.var() / 4000 + PHI4(draws(2)).var() / 20_000).sqrt()
    assert abs(float(difference / error)) < SIGMA


class Spoilt(Network):
    """Not finite where the noisy field is large."""

    value = math.nan

    def forward(self, modes, v, context=None):
        bad = modes.abs().flatten(2).sum(2) > 4
        return torch.where(bad.view(*bad.shape, 1), torch.full_like(modes, self.value), 0 * modes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_paths_that_are_not_finite_are_rejected_and_counted(value):
    network = Spoilt(proposal(8).model.reference).double()
    network.value = value
    one = PathRefresh(PHI4, TWO_SITES, PathProposal.of(DiffusionModel(network, {}), 4), 0.5)
    for state, info in one.steps(one.start(draws(2)[:500], rng()), 5, rng(2)):
        bad = info.log_w_ratio == -math.inf
        assert 0 < int(bad.sum()) < 500 and not bool(info.accepted[bad].any())
        assert all(bool(torch.isfinite(x).all()) for x in state.tensors().values())


def test_bad_input():
    for level in (0.0, 1.5, -1.0):
        with pytest.raises(DmmcError, match="noise level must lie"):
            kernel(level)
    with pytest.raises(DmmcError, match="must have shape"):
        kernel(0.5).start(torch.zeros(3, 5), rng())


def test_describe():
    one = kernel(0.5)
    assert one.describe() == {"name": "path_refresh", "level": 0.5, "proposal": proposal(8).describe()}
    assert one.facts.name == "path_refresh" and one.facts.label == "partial path"


# Bugs that these checks find: each deviates by more than twice what chance may cause


def exchanged(self, phi, generator, refresh=PathProposal.refresh):
    new, log_ratio = refresh(self, phi, generator)
    return new, -log_ratio


def left_out(self, phi, generator, refresh=PathProposal.refresh):
    new, log_ratio = refresh(self, phi, generator)
    return new, 0 * log_ratio


def accepting(state, proposed, log_ratio, u):
    return metropolis(state, proposed, 0 * log_ratio, u)


def without_sign(self, phi, generator):
    sign = self.draw_sign(phi, generator)
    new, log_ratio = self.base.refresh(column(sign, phi) * phi, generator)
    return column(sign, phi) * new, log_ratio


MUTANTS = {
    "up and down exchanged": (PathProposal, "refresh", exchanged, refresh_keeps_phi4),
    "paths left out": (PathProposal, "refresh", left_out, refresh_keeps_phi4),
    "everything accepted": (kernel_module, "metropolis", accepting, refresh_keeps_phi4),
    "probability of the sign": (SymmetrisedPath, "refresh", without_sign, two_sector_refresh_keeps_a_tilted_phi4),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    owner, attribute, bug, check = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, bug)
    assert check() > 2

"""Exactness of the latent kernel: it is the independence kernel at pi/2, and keeps exact draws at every angle.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 20 comparisons. The
integrator error of the flows is far below what so many draws can see.
"""

import functools
import math
from dataclasses import replace

import pytest
import torch

from checks import invariance, mutate, phi4_draws, steep_model
from dmmc.core.errors import DmmcError
from dmmc.kernels import latent
from dmmc.kernels.base import State
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent, warm_up
from dmmc.model.reference import GaussianReference
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain, storage
from dmmc.runs.chain import ChainOptions
from dmmc.theory.actions import AutogradAction, FreeField, Phi4
from dmmc.theory.lattice import Lattice
from helpers import Grid, free_draws, free_reference, random_model, rng

TWO_SITES, RING = Lattice((2,)), Lattice((4,))
PHI4 = Phi4(0.22, 0.1)
TILTED = AutogradAction(lambda phi: PHI4(phi) + 0.3 * phi.sum(1), "phi4 in a field")


@functools.cache
def draws(n_sites):
    return phi4_draws(PHI4, Lattice((n_sites,)), 20_000, c=0.5)


@functools.cache
def tilted_draws():
    return Grid.make(2, half_width=7, n=301).draws(TILTED, 6000)


@functools.cache
def flow(n_sites=2, two_sector=False):
    lattice = Lattice((n_sites,))
    propagator = 1.5 * lattice.two_point(draws(n_sites)[:2000]).mean(0)
    reference = GaussianReference(lattice, propagator, mean=0.5 if two_sector else 0.0)
    return FlowProposal(steep_model(reference, two_sector), n_steps=6)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    flow(2), flow(4), flow(2, True), tilted_draws()


def kernel(theta, n_sites=2, two_sector=False, action=PHI4):
    return Latent(action, Lattice((n_sites,)), flow(n_sites, two_sector), theta)


# The independence kernel is its limit


@pytest.mark.parametrize("two_sector", [False, True], ids=["one sector", "two sectors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_angle_is_the_independence_kernel_bit_for_bit(two_sector, dtype):
    lattice = Lattice((3, 4))
    model = random_model(
        free_reference(lattice, mean=0.3 * two_sector), two_sector=two_sector, strength=0.1, dtype=dtype
    )
    proposal = FlowProposal(model, n_steps=4, chunk_sites=60)
    a, b = Independence(FreeField(0.7), lattice, proposal), Latent(FreeField(0.7), lattice, proposal)
    start, other, n_accepted = a.start_from_proposals(7, rng()), b.start_from_proposals(7, rng()), 0
    for (left, found), (right, statistics) in zip(a.steps(start, 5, rng(2)), b.steps(other, 5, rng(2)), strict=True):
        for name, value in left.tensors().items():
            assert torch.equal(value, getattr(right, name)), name
        assert found.keys() == statistics.keys()
        assert all(torch.equal(found[name], statistics[name]) for name in found)
        n_accepted += int(found["accepted"].sum())
    assert 0 < n_accepted < 35


# Exactness


def latent_keeps_phi4(theta=0.5, n_sites=2, steps=2):
    return invariance(kernel(theta, n_sites), draws(n_sites)[:8000], steps)


def two_sector_latent_keeps_a_tilted_phi4(theta=0.8, steps=1):
    """Nothing is symmetric, and the reference of a sector reaches far into the other."""
    return invariance(kernel(theta, two_sector=True, action=TILTED), tilted_draws(), steps)


@pytest.mark.parametrize("theta", [0.05, 0.4, 1.2, math.pi / 2])
def test_steps_keep_phi4(theta):
    assert flow(2).integrator_error(200, rng()).std < 0.2 / math.sqrt(8000)
    assert latent_keeps_phi4(theta) < 1


def test_steps_keep_phi4_on_a_ring():
    assert latent_keeps_phi4(0.6, 4) < 1


@pytest.mark.parametrize("theta", [0.2, 0.8, math.pi / 2])
def test_two_sectors_keep_a_theory_without_symmetry(theta):
    assert two_sector_latent_keeps_a_tilted_phi4(theta) < 1
    assert two_sector_latent_keeps_a_tilted_phi4(theta, 3) < 1


def test_one_step_keeps_the_free_field():
    lattice = Lattice((3, 4))
    reference = free_reference(lattice)
    proposal = FlowProposal(random_model(reference, strength=0.1), n_steps=10)
    assert invariance(Latent(FreeField(0.7), lattice, proposal, 0.5), free_draws(reference, 2000)) < 1


def test_the_gaussian_model_moves_as_an_autoregression():
    # All is accepted, and a step multiplies the correlation by cos(theta): 20,000 fields, 5 sigma.
    reference = free_reference(RING)
    proposal = FlowProposal(random_model(reference, strength=0.0), n_steps=1)
    proposal = replace(proposal, model=proposal.model.untrained(reference, None).to_float64())
    found, phi = Latent(FreeField(0.7), RING, proposal, 0.6), free_draws(reference, 20_000)
    state, statistics = next(found.steps(found.start(phi), 1, rng(2)))
    assert bool(statistics["accepted"].all())
    product = (phi * state.phi).mean(1) - math.cos(0.6) * (phi * phi).mean(1)
    assert abs(float(product.mean() / product.std())) * math.sqrt(20_000) < 5


def test_small_angles_are_accepted():
    accepted = []
    for theta in (math.pi / 2, 0.8, 0.3, 0.1, 0.001):
        _, statistics = next(kernel(theta, 4).steps(kernel(theta, 4).start(draws(4)[:4000]), 1, rng(2)))
        accepted.append(float(statistics["accepted"].double().mean()))
    assert accepted == sorted(accepted) and accepted[0] < 0.8 and accepted[-1] > 0.998


# What the state carries


def states_agree_with_themselves():
    """Fields, weights and latents after ten steps belong together: to 1e-9."""
    worst = 0.0
    found = kernel(0.8)
    *_, (state, _) = found.steps(found.start_from_proposals(200, rng()), 10, rng(2))
    phi, log_q = found.proposal.push(state.latent)
    worst = torch.stack([(phi - state.phi).abs().max(), (log_q - state.log_q).abs().max()])
    worst = torch.cat([worst, (state.log_w + PHI4(state.phi) + log_q).abs()])
    return float(worst.max()) / 1e-9


def test_states_agree_with_themselves():
    assert states_agree_with_themselves() < 1


def test_two_sectors_remember_the_latent_of_one_of_them():
    found = kernel(0.8, two_sector=True)
    *_, (state, _) = found.steps(found.start_from_proposals(200, rng()), 10, rng(2))
    phi, _ = found.proposal.push(state.latent)
    assert float((phi.abs() - state.phi.abs()).abs().max()) < 1e-9
    assert 50 < int((phi == state.phi).all(1).sum()) < 150
    assert float((found.proposal.log_q(state.phi) - state.log_q).abs().max()) < 0.01  # both directions of the flow


def given_fields_get_their_weights():
    """Those that the independence kernel finds, to 1e-9."""
    found, exact = (k.start(draws(2)[:50]).log_w for k in (kernel(0.8), Independence(PHI4, TWO_SITES, flow(2))))
    return float((found - exact).abs().max()) / 1e-9


def test_start():
    assert given_fields_get_their_weights() < 1
    state = kernel(0.8).start(draws(2)[:50])
    assert (
        float((flow(2).push(state.latent)[0] - state.phi).abs().max()) < 1e-3
    )  # the error of eight steps, there and back
    assert kernel(0.8, two_sector=True).start(draws(2)[:50]).latent is None
    bare = State(state.phi, state.S)
    first, second = (next(kernel(0.8).steps(s, 1, rng()))[0] for s in (state, bare))
    assert torch.equal(first.phi, second.phi) and torch.equal(first.log_w, second.log_w)


def test_a_stored_chain_goes_on_where_it_was(tmp_path):
    found, options = kernel(0.8), ChainOptions(draws=12, block=3, keep_every=1)

    def start():
        return found.start_from_proposals(5, rng())

    whole = storage.load_run(chain.run(found, start, options, tmp_path / "whole.h5", progress=False))
    chain.run(found, start, replace(options, draws=6), tmp_path / "parts.h5", progress=False)
    parts = storage.load_run(chain.run(found, start, options, tmp_path / "parts.h5", resume=True, progress=False))
    assert (whole.cfgs() == parts.cfgs()).all()
    assert all((whole.stats[name] == parts.stats[name]).all() for name in whole.stats)


# Warm-up


@pytest.mark.parametrize("target", [0.75, 0.9])
def test_warm_up_reaches_the_target(target):
    found, state = warm_up(kernel(0.1, 4), kernel(0.1, 4).start(draws(4)[:200]), 60, rng(), target)
    _, statistics = next(found.steps(found.start(draws(4)[:8000]), 1, rng(2)))
    assert 0 < found.theta < math.pi / 2
    # The last 30 iterates average the acceptance of 200 chains each.
    assert abs(float(statistics["accepted"].double().mean()) - target) < 0.03
    assert state.latent is not None and torch.isfinite(state.phi).all()


def test_warm_up_ends_at_the_right_angle_where_that_is_accepted():
    found, _ = warm_up(kernel(0.3), kernel(0.3).start_from_proposals(100, rng()), 40, rng(), 0.1)
    assert found.theta == math.pi / 2
    two, state = warm_up(kernel(0.3, two_sector=True), kernel(0.3, two_sector=True).start(draws(2)[:100]), 10, rng())
    assert state.latent is not None and two.proposal is flow(2, True)


# Refusals


@pytest.mark.parametrize("theta", [0.0, -0.1, 1.6, math.nan])
def test_angles_out_of_range_are_refused(theta):
    with pytest.raises(DmmcError, match="theta must lie"):
        kernel(theta)


def test_bad_input():
    found = kernel(0.5)
    state = found.start_from_proposals(5, rng())
    with pytest.raises(DmmcError, match="n_steps of at least 10"):
        warm_up(found, state, 9, rng())
    with pytest.raises(DmmcError, match="target_acceptance"):
        warm_up(found, state, 10, rng(), 1.0)
    with pytest.raises(DmmcError, match="must have shape"):
        found.start(torch.zeros(3, 5))
    noisy = replace(flow(2), divergence=Hutchinson())
    with pytest.raises(DmmcError, match="allow_inexact=True"):
        Latent(PHI4, TWO_SITES, noisy)
    assert Latent(PHI4, TWO_SITES, noisy, allow_inexact=True).describe()["inexact"] is True
    assert "inexact" not in found.describe()


def test_describe():
    assert kernel(0.5).describe() == {"name": "latent", "theta": 0.5, "proposal": flow(2).describe()}
    assert kernel(0.5).evaluations == {"network": 24} and kernel(0.5, two_sector=True).evaluations == {"network": 48}


# Bugs that these checks find: each deviates by more than twice what chance may cause

MUTANTS = {
    "wrong pair of cosine and sine": (
        Latent,
        "steps",
        "math.cos(self.theta) * state.latent + math.sin(self.theta) * latent",
        "math.sin(self.theta) * state.latent + math.sin(self.theta) * latent",
        latent_keeps_phi4,
    ),
    "a random walk instead of a rotation": (
        Latent,
        "steps",
        "math.cos(self.theta) * state.latent",
        "state.latent",
        latent_keeps_phi4,
    ),
    "w / w' instead of w' / w": (
        Latent,
        "steps",
        "log_w[here] - state.log_w",
        "state.log_w - log_w[here]",
        latent_keeps_phi4,
    ),
    "acceptance with w instead of its ratio": (
        Latent,
        "steps",
        "log_w[here] - state.log_w",
        "log_w[here]",
        latent_keeps_phi4,
    ),
    "latents of rejected fields": (
        Latent,
        "steps",
        "state = _choose(accepted, proposed, state)",
        "state = replace(_choose(accepted, proposed, state), latent=latent[here])",
        states_agree_with_themselves,
    ),
    "stale weight after a rejection": (
        Latent,
        "steps",
        "state = _choose(accepted, proposed, state)",
        "state = replace(_choose(accepted, proposed, state), log_w=log_w[here])",
        states_agree_with_themselves,
    ),
    "latent of a given field forgotten": (
        Latent,
        "_completed",
        "State(state.phi, state.S, log_q, log_w, latent)",
        "State(state.phi, state.S, log_q, log_w, torch.zeros_like(latent))",
        latent_keeps_phi4,
    ),
    "direction of the change of log q": (
        latent._GivenNoise,
        "pull",
        "- change",
        "+ change",
        given_fields_get_their_weights,
    ),
    "sign of a given field tossed": (
        Latent,
        "_completed",
        "u < torch.sigmoid(log_q - other)",
        "u < 0.5",
        two_sector_latent_keeps_a_tilted_phi4,
    ),
    "other sector left out of a given field's q": (
        Latent,
        "_completed",
        "torch.logaddexp(log_q, other) - math.log(2)",
        "log_q - math.log(2)",
        two_sector_latent_keeps_a_tilted_phi4,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    *bug, check = MUTANTS[name]
    mutate(monkeypatch, *bug)
    assert check() > 2

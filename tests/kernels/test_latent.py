"""Exactness of the latent kernel: it is the independence kernel at pi/2, and keeps exact draws at every angle.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 25 comparisons. The
integrator error of the flows is far below what so many draws can see.
"""

import functools
import math
from dataclasses import replace

import pytest
import torch

from checks import invariance, phi4_draws, steep_model
from dmmc.core.errors import DmmcError
from dmmc.kernels import latent
from dmmc.kernels.base import advance
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent, LatentState
from dmmc.kernels.weighted import weighted_step
from dmmc.model.reference import GaussianReference
from dmmc.proposals import symmetrised
from dmmc.proposals.base import LatentProposal
from dmmc.proposals.certify import measure_delta
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.symmetrised import Symmetrised, column
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import Grid, free_draws, free_reference, random_model, rng
from toys import ShiftedGaussian

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
    return flow_proposal(steep_model(reference, two_sector), n_steps=6)


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
    reference = free_reference(lattice, mean=0.3 * two_sector)
    model = random_model(reference, two_sector=two_sector, strength=0.1, dtype=dtype)
    proposal = flow_proposal(model, n_steps=4, chunk_sites=60)
    a, b = Independence(FreeField(0.7), lattice, proposal), Latent(FreeField(0.7), lattice, proposal)
    start, other, n_accepted = a.initial(7, rng()), b.initial(7, rng()), 0
    for (left, info), (right, its) in zip(a.steps(start, 5, rng(2)), b.steps(other, 5, rng(2)), strict=True):
        for name, value in (left.tensors() | info.tensors()).items():
            assert torch.equal(value, (right.tensors() | its.tensors())[name]), name
        n_accepted += int(info.accepted.sum())
    assert 0 < n_accepted < 35
    assert b.facts.independent_weights and not replace(b, theta=1.0).facts.independent_weights


# Exactness


def latent_keeps_phi4(theta=0.5, n_sites=2, steps=2):
    return invariance(kernel(theta, n_sites), draws(n_sites)[:8000], steps)


def block_keeps_phi4(share=0.5, n_sites=4, steps=2, theta=math.pi / 2):
    """One of four sites, two, or three: at 0.5 and 0.6 whole numbers and a fraction of a site."""
    return invariance(replace(kernel(theta, n_sites), share=share), draws(n_sites)[:8000], steps)


def two_sector_latent_keeps_a_tilted_phi4(theta=0.8, steps=1):
    """Nothing is symmetric, and the reference of a sector reaches far into the other."""
    return invariance(kernel(theta, two_sector=True, action=TILTED), tilted_draws(), steps)


@pytest.mark.parametrize("theta", [0.05, 0.4, 1.2, math.pi / 2])
def test_steps_keep_phi4(theta):
    assert float(measure_delta(flow(2), 200, rng()).std()) < 0.2 / math.sqrt(8000)
    assert latent_keeps_phi4(theta) < 1


def test_steps_keep_phi4_on_a_ring():
    assert latent_keeps_phi4(0.6, 4) < 1


@pytest.mark.parametrize(("share", "theta"), [(0.1, math.pi / 2), (0.5, math.pi / 2), (0.6, 0.7)])
def test_blocks_keep_phi4(share, theta):
    assert block_keeps_phi4(share, theta=theta) < 1
    assert block_keeps_phi4(share, n_sites=2, steps=1, theta=theta) < 1


def test_blocks_keep_a_theory_of_two_sectors_without_symmetry():
    blocks = replace(kernel(math.pi / 2, two_sector=True, action=TILTED), share=0.4)
    assert invariance(blocks, tilted_draws(), 2) < 1


@pytest.mark.parametrize("theta", [0.2, 0.8, math.pi / 2])
def test_two_sectors_keep_a_theory_without_symmetry(theta):
    assert two_sector_latent_keeps_a_tilted_phi4(theta) < 1
    assert two_sector_latent_keeps_a_tilted_phi4(theta, 3) < 1


@pytest.mark.parametrize("average", [False, True], ids=["plain", "symmetrised"])
def test_any_proposal_with_latents_will_do(average):
    toy = ShiftedGaussian.correlated()
    proposal = Symmetrised(toy) if average else toy
    assert invariance(Latent(TILTED, TWO_SITES, proposal, 0.7), tilted_draws(), 2) < 1


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
    autoregression, phi = Latent(FreeField(0.7), RING, proposal, 0.6), free_draws(reference, 20_000)
    state, info = autoregression.step(autoregression.start(phi, rng()), rng(2))
    assert bool(info.accepted.all())
    product = (phi * state.phi).mean(1) - math.cos(0.6) * (phi * phi).mean(1)
    assert abs(float(product.mean() / product.std())) * math.sqrt(20_000) < 5


def test_only_a_block_of_the_latents_moves():
    one = replace(kernel(math.pi / 2, 4), share=0.5)
    before = one.start(draws(4)[:2000], rng())
    after, info = one.step(before, rng(2))
    moved = (after.latent != before.latent)[info.accepted]
    assert len(moved) > 500 and bool((moved.sum(1) == 2).all())
    # Two neighbours on the ring, at each of the four places equally often: 5 sigma.
    places = torch.stack([(moved & moved.roll(-1, 1))[:, k] for k in range(4)], 1).double()
    assert bool((places.sum(1) == 1).all())
    assert float((places.mean(0) - 0.25).abs().max()) < 5 * math.sqrt(0.25 * 0.75 / len(moved))


def test_small_blocks_are_accepted():
    accepted = []
    for share in (1.0, 0.75, 0.5, 0.25):
        one = replace(kernel(math.pi / 2, 4), share=share)
        _, info = one.step(one.start(draws(4)[:4000], rng()), rng(2))
        accepted.append(float(info.acceptance_rate.mean()))
    assert accepted == sorted(accepted) and accepted[-1] > accepted[0] + 0.1


def test_small_angles_are_accepted():
    accepted = []
    for theta in (math.pi / 2, 0.8, 0.3, 0.1, 0.001):
        _, info = kernel(theta, 4).step(kernel(theta, 4).start(draws(4)[:4000], rng()), rng(2))
        accepted.append(float(info.accepted.double().mean()))
    assert accepted == sorted(accepted) and accepted[0] < 0.8 and accepted[-1] > 0.998


# What the state carries


def states_agree_with_themselves(two_sector=False):
    """Fields, weights and latents after ten steps belong together: to 1e-9."""
    one = kernel(0.8, two_sector=two_sector)
    state = advance(one, one.initial(200, rng()), 10, rng(2))
    phi, log_q = one.proposal.push(state.latent)
    worst = torch.stack([(phi - state.phi).abs().max(), (log_q - state.log_q).abs().max()])
    worst = torch.cat([worst, (state.log_w + PHI4(state.phi) + log_q).abs()])
    return float(worst.max()) / 1e-9


@pytest.mark.parametrize("two_sector", [False, True])
def test_states_agree_with_themselves(two_sector):
    assert states_agree_with_themselves(two_sector) < 1


def given_fields_get_their_weights():
    """The log q with which their latents are pushed forward, to 0.01: the error of the integrator there and back."""
    one = kernel(0.8)
    state = one.start(draws(2)[:50], rng())
    return float((one.proposal.push(state.latent)[1] - state.log_q).abs().max()) / 0.01


@pytest.mark.parametrize("two_sector", [False, True])
def test_start_finds_latents_of_the_given_fields(two_sector):
    state = kernel(0.8, two_sector=two_sector).start(draws(2)[:50], rng())
    # The error of the integrator there and back.
    assert float((flow(2, two_sector).push(state.latent)[0] - state.phi).abs().max()) < 1e-3
    torch.testing.assert_close(state.log_w, -state.S - flow(2, two_sector).log_q(state.phi))


def test_weights_of_given_fields():
    assert given_fields_get_their_weights() < 1
    ours, theirs = (k.start(draws(2)[:50], rng()).log_w for k in (kernel(0.8), Independence(PHI4, TWO_SITES, flow(2))))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("theta", [0.8, math.pi / 2])
def test_a_restored_state_goes_on_as_the_original(theta):
    one = kernel(theta, two_sector=True)
    state = advance(one, one.initial(5, rng()), 3, rng(2))
    restored = one.restore(state.tensors())
    assert isinstance(restored, LatentState)
    first, second = (advance(one, s, 3, rng(3)) for s in (state, restored))
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())


# Tuning


@pytest.mark.parametrize("target", [0.75, 0.9])
def test_tuning_reaches_the_target(target):
    untuned = replace(kernel(0.1, 4), target_acceptance=target)
    tuned, state = untuned.tune(untuned.start(draws(4)[:200], rng()), rng(1))
    _, info = tuned.step(tuned.start(draws(4)[:8000], rng(3)), rng(2))
    assert 0 < tuned.theta < math.pi / 2
    # The last 30 iterates average the acceptance of 200 chains each.
    assert abs(float(info.accepted.double().mean()) - target) < 0.03
    assert torch.isfinite(state.latent).all() and torch.isfinite(state.phi).all()


def test_tuning_ends_at_the_right_angle_where_that_is_accepted():
    untuned = replace(kernel(0.3), target_acceptance=0.1)
    tuned, _ = untuned.tune(untuned.initial(100, rng()), rng(1), 40)
    assert tuned.theta == math.pi / 2 and tuned.facts.independent_weights


@pytest.mark.parametrize("target", [0.27, 0.32])  # of one site it is 0.47, of all four 0.23
def test_tuning_the_share_reaches_the_target(target):
    untuned = replace(kernel(math.pi / 2, 4), target_acceptance=target, share=0.1)
    tuned, _ = untuned.tune(untuned.start(draws(4)[:200], rng()), rng(1))
    _, info = tuned.step(tuned.start(draws(4)[:8000], rng(3)), rng(2))
    assert 0.25 < tuned.share < 1 and tuned.theta == math.pi / 2
    assert abs(float(info.acceptance_rate.mean()) - target) < 0.03


def test_tuning_the_share_ends_at_the_whole_lattice_where_that_is_accepted():
    untuned = replace(kernel(math.pi / 2), target_acceptance=0.1, share=0.2)
    tuned, _ = untuned.tune(untuned.initial(100, rng()), rng(1), 40)
    assert tuned.share == 1 and tuned.facts.independent_weights and not untuned.facts.independent_weights


def test_without_a_target_nothing_is_tuned_and_the_chains_go_on():
    for one in (replace(kernel(0.3), target_acceptance=None), replace(kernel(0.3), target_acceptance=None, share=0.5)):
        before = one.initial(50, rng())
        tuned, after = one.tune(before, rng(1), 5)
        assert tuned == one and not torch.equal(before.phi, after.phi)


# Refusals


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(DmmcError, match="share of the sites that move must lie"):
        replace(kernel(0.5), share=share)


@pytest.mark.parametrize("theta", [0.0, -0.1, 1.6, math.nan])
def test_angles_out_of_range_are_refused(theta):
    with pytest.raises(DmmcError, match="theta must lie"):
        kernel(theta)


def test_bad_input():
    one = kernel(0.5)
    with pytest.raises(DmmcError, match="at least 10 steps of tuning"):
        one.tune(one.initial(5, rng()), rng(), 9)
    with pytest.raises(DmmcError, match="target_acceptance"):
        replace(one, target_acceptance=1.0)
    with pytest.raises(DmmcError, match="must have shape"):
        one.start(torch.zeros(3, 5), rng())
    for noisy in (replace(flow(2), divergence=Hutchinson()), Symmetrised(replace(flow(2), divergence=Hutchinson()))):
        with pytest.raises(DmmcError, match="allow_inexact=True"):
            Latent(PHI4, TWO_SITES, noisy)
        marked = Latent(PHI4, TWO_SITES, noisy, allow_inexact=True)
        assert "1 fixed rademacher probes" in marked.facts.inexact
        marked.step(marked.start(draws(2)[:5], rng()), rng())
    assert one.facts.inexact == ""


def test_describe():
    assert kernel(0.5).describe() == {"name": "latent", "theta": 0.5, "proposal": flow(2).describe()}
    part = replace(kernel(0.5), share=0.3).describe()
    assert part == {"name": "latent", "theta": 0.5, "share": 0.3, "proposal": flow(2).describe()}
    assert kernel(0.5).cost == {"network": 24} and kernel(0.5, two_sector=True).cost == {"network": 48}
    assert kernel(0.5).facts.name == "latent"


# Bugs that these checks find: each deviates by more than twice what chance may cause


def wrong_ratio(log_ratio):
    """A Metropolis step with another ratio."""

    def step(state, proposed, u):
        zero = torch.zeros_like(state.log_w)
        wrong = log_ratio(proposed.log_w, state.log_w)
        new, info = weighted_step(replace(state, log_w=zero), replace(proposed, log_w=wrong), u)
        return replace(new, log_w=torch.where(info.accepted, proposed.log_w, state.log_w)), info

    return step


def of_rejected(name):
    """A Metropolis step that takes one tensor of rejected proposals as well."""

    def step(state, proposed, u):
        new, info = weighted_step(state, proposed, u)
        return replace(new, **{name: getattr(proposed, name)}), info

    return step


def rotation(of_old, of_new):
    def rotate(self, latents, angle, generator, share=1.0):
        return of_old(angle) * latents + of_new(angle) * self.latents(len(latents), generator)

    return rotate


def refresh_negative(self, latents, angle, generator, share=1.0):
    """The block depends on the latents."""
    return torch.where(latents < 0, self.latents(len(latents), generator), latents)


def forgetful_start(self, phi, generator, start=Latent.start):
    state = start(self, phi, generator)
    return replace(state, latent=torch.zeros_like(state.latent))


def wrong_way(self, psi, start, end, generator=None, integrate=FlowProposal._integrate):
    psi, change = integrate(self, psi, start, end, generator)
    return psi, change if end < start else -change


def tossed_pull(self, phi, generator=None, pull=Symmetrised.pull):
    """The sector of a given field is a fair coin."""
    sign = 2.0 * torch.randint(0, 2, (len(phi),), generator=generator) - 1
    inner, _ = self.base.pull(column(sign, phi) * phi, generator)
    return self._joined(sign * self._coin(len(phi), generator).abs(), inner), pull(self, phi, generator)[1]


MUTANTS = {
    "wrong pair of cosine and sine": (LatentProposal, "rotate", rotation(math.sin, math.sin), latent_keeps_phi4),
    "a random walk instead of a rotation": (
        LatentProposal,
        "rotate",
        rotation(lambda angle: 1.0, math.sin),
        latent_keeps_phi4,
    ),
    "a block chosen by its latents": (LatentProposal, "rotate", refresh_negative, block_keeps_phi4),
    "w / w' instead of w' / w": (
        latent,
        "weighted_step",
        wrong_ratio(lambda new, old: old - new),
        latent_keeps_phi4,
    ),
    "acceptance with w instead of its ratio": (
        latent,
        "weighted_step",
        wrong_ratio(lambda new, old: new),
        latent_keeps_phi4,
    ),
    "latents of rejected fields": (latent, "weighted_step", of_rejected("latent"), states_agree_with_themselves),
    "stale weight after a rejection": (latent, "weighted_step", of_rejected("log_w"), states_agree_with_themselves),
    "latent of a given field forgotten": (Latent, "start", forgetful_start, latent_keeps_phi4),
    "direction of the change of log q": (FlowProposal, "_integrate", wrong_way, given_fields_get_their_weights),
    "sign of a given field tossed": (Symmetrised, "pull", tossed_pull, two_sector_latent_keeps_a_tilted_phi4),
    "other sector left out of a given field's q": (
        symmetrised,
        "_average",
        lambda plus, minus: plus - math.log(2),
        two_sector_latent_keeps_a_tilted_phi4,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    owner, attribute, bug, check = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, bug)
    assert check() > 2

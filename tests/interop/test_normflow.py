"""Actions and flows of normflow in dmmc and the other way, with a stand-in that has its call signatures."""

import numpy as np
import pytest
import torch

import dmmc
import normflow_standin as normflow
from checks import bonferroni, mean_shift, observables, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.interop.normflow import ActionFor, action_from, model_parts_for, proposal_from
from dmmc.kernels.base import advance
from dmmc.proposals.divergence import Hutchinson
from dmmc.theory.action_check import check_action
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import Grid, free_reference, noise, random_model, rng
from toys import OneNoise, ShiftedGaussian

TWO_SITES = Lattice((2,))
ACTION = Phi4(0.22, 0.1)


def their_model(action=None, shape=(2,)):
    """An affine flow, off centre and too narrow."""
    return normflow.Model(
        prior=normflow.NormalPrior(shape), net_=normflow.Affine_(0.2, 0.8), action=action or ActionFor(ACTION)
    )


def test_their_action_in_dmmc():
    theirs = normflow.ScalarPhi4Action(m_sq=-1.2, lambd=0.3, kappa=0.6)
    action = action_from(theirs, symmetry="z2")
    phi = noise(Lattice((3, 4)), 5)
    ours = Phi4.from_normflow(-1.2, 0.3, 2, 0.6)
    torch.testing.assert_close(action(phi), ours(phi))
    torch.testing.assert_close(action.grad(phi), -theirs.force(phi))
    check_action(action, phi)
    assert action.describe() == {"name": "normflow ScalarPhi4Action", "kappa": 0.6, "lambd": 0.3, "m_sq": -1.2}
    with pytest.raises(DmmcError, match="cannot be called"):
        action_from(object())


def test_our_action_has_their_methods():
    theirs = normflow.ScalarPhi4Action(m_sq=-1.2, lambd=0.3)
    ours = ActionFor(Phi4.from_normflow(-1.2, 0.3, 2))
    phi = noise(Lattice((3, 4)), 5)
    for method in ("action", "force", "log_prob", "__call__"):
        torch.testing.assert_close(getattr(ours, method)(phi), getattr(theirs, method)(phi))
    torch.testing.assert_close(ours.score(phi), theirs.force(phi))
    torch.testing.assert_close(ours.log_prob(phi, 2.0), theirs.log_prob(phi, 2.0))
    leaf = phi.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(ours(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, -theirs.force(phi))


def test_their_flow_in_our_chain():
    proposal = proposal_from(their_model(), "affine")
    kernel = dmmc.Independence(ACTION, TWO_SITES, proposal)
    draws = phi4_draws(ACTION, TWO_SITES, 20_000, c=0.5)
    state = advance(kernel, kernel.start(draws, rng(2)), 2, rng(2))
    assert mean_shift(observables(state.phi, TWO_SITES) - observables(draws, TWO_SITES)) < 1
    assert mean_shift(observables(proposal.sample(20_000, rng(3))[0].double(), TWO_SITES)
                      - observables(draws, TWO_SITES)) > 2  # fmt: skip  # the flow alone is wrong


def test_their_flow_in_our_runs_and_diagnostics(tmp_path):
    kernel = dmmc.Independence(ACTION, TWO_SITES, proposal_from(their_model().posterior, "affine"))
    how = {"chains": 8, "discard": 2}
    run = dmmc.run_chain(kernel, tmp_path / "whole.h5", draws=63, **how)
    assert "normflow" in run.header.to_json()["kernel"]["proposal"].values()
    assert "weights" in str(run.summary())
    dmmc.run_chain(kernel, tmp_path / "parts.h5", draws=31, **how)
    parts = dmmc.run_chain(kernel, tmp_path / "parts.h5", draws=63, resume=True, **how)
    np.testing.assert_array_equal(parts.observables["M2"], run.observables["M2"])
    other = dmmc.Independence(ACTION, TWO_SITES, proposal_from(their_model(), "another"))
    with pytest.raises(DmmcError, match="another"):
        dmmc.run_chain(other, tmp_path / "parts.h5", draws=64, resume=True, **how)


def test_their_random_numbers_come_from_our_generator():
    proposal = proposal_from(their_model(), "affine")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = proposal.sample(3, rng(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = proposal.sample(3, rng(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.testing.assert_close(proposal.log_q(first[0].double()), first[1])


def test_our_proposal_in_their_metropolis():
    grid = Grid.make(2, half_width=7, n=301)
    exact = grid.probabilities(ACTION) @ observables(grid.phi, TWO_SITES)
    prior, net_ = model_parts_for(ShiftedGaussian.correlated(2))
    theirs = normflow.Model(prior=prior, net_=net_, action=ActionFor(ACTION))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # theirs
    phi = theirs.mcmc.sample(6000)
    series = observables(phi, TWO_SITES).T.numpy()
    found = [dmmc.diagnostics.gamma_method(x[None]) for x in series]
    z = [(estimate.value - float(value)) / estimate.error for estimate, value in zip(found, exact, strict=True)]
    assert max(map(abs, z)) < bonferroni(len(z)), z


def test_our_flow_has_the_density_that_they_compute():
    flow = dmmc.flow_proposal(random_model(free_reference(Lattice((3, 2))), strength=0.1), 6)
    prior, net_ = model_parts_for(flow)
    theirs = normflow.Model(prior=prior, net_=net_, action=ActionFor(ACTION))
    y, logq = theirs.posterior.sample_(4)
    assert y.shape == (4, 3, 2) and prior.nvar == 6 and prior.shape == (3, 2)
    x, _ = net_.reverse(y)
    torch.testing.assert_close(flow.push(x)[1], logq, atol=1e-2, rtol=0)
    torch.testing.assert_close(theirs.posterior.log_prob(y), flow.log_q(y))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: proposal_from(object(), "x"), "no sample_ and no log_prob"),
        (lambda: model_parts_for(OneNoise(TWO_SITES)), "no map of latents"),
        (
            lambda: model_parts_for(
                dmmc.flow_proposal(random_model(free_reference(TWO_SITES)), 2, divergence=Hutchinson(1))
            ),
            "would not be exact",
        ),
    ],
)
def test_what_does_not_fit_is_refused(attempt, message):
    with pytest.raises(DmmcError, match=message):
        attempt()

"""bijx and blackjax: actions and samplers both ways, with these packages; skipped where they are not installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dmmc
from checks import bonferroni, mean_shift, observables, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.kernels.base import advance
from dmmc.proposals.divergence import Hutchinson
from dmmc.theory.action_check import check_action
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import Grid, free_reference, noise, random_model, rng
from toys import ShiftedGaussian

jax = pytest.importorskip("jax")
bijx = pytest.importorskip("bijx")
blackjax = pytest.importorskip("blackjax")

from dmmc.interop.bijx import DistributionFor, JaxAction, action_for, proposal_from  # noqa: E402
from dmmc.interop.blackjax import Irmh  # noqa: E402

TWO_SITES = Lattice((2,))
ACTION = Phi4(0.22, 0.1)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def mass_form(phi):
    return bijx.lattice.scalar.phi4_term(phi, -1.0, 0.8).sum()


def hopping_form(phi):
    return bijx.lattice.scalar.phi4_term_alt(phi, 0.22, 0.1).sum()


def exact():
    grid = Grid.make(2, half_width=7, n=301)
    return grid.probabilities(ACTION) @ observables(grid.phi, TWO_SITES)


def check_chain(phi):
    """A chain ``(steps, chains, 2)`` against quadrature."""
    series = observables(torch.from_numpy(np.array(phi)).double().flatten(0, 1), TWO_SITES)
    series = series.view(*phi.shape[:2], -1).permute(2, 1, 0).numpy()
    found = [dmmc.diagnostics.gamma_method(x) for x in series]
    z = [(estimate.value - float(value)) / estimate.error for estimate, value in zip(found, exact(), strict=True)]
    assert max(map(abs, z)) < bonferroni(len(z)), z


def test_their_actions_in_dmmc():
    phi = noise(Lattice((3, 4)), 5)
    for function, ours in ((mass_form, Phi4.from_mass(-1.0, 0.8, 2)), (hopping_form, ACTION)):
        action = JaxAction(function, "bijx", (("lam", 0.8),), symmetry="z2")
        torch.testing.assert_close(action(phi), ours(phi))
        torch.testing.assert_close(action.grad(phi), ours.grad(phi))
        check_action(action, phi)
        assert action.describe() == {"name": "bijx", "lam": 0.8}
    with pytest.raises(DmmcError, match="summed over the sites"):
        JaxAction(lambda phi: phi, "density")(phi)


def test_float32_is_refused():
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DmmcError, match="jax_enable_x64"):
        JaxAction(mass_form, "bijx")


def test_our_action_in_jax():
    lattice = Lattice((3, 4))
    S, ours = action_for(ACTION, lattice), noise(lattice, 5)
    phi = jax.numpy.asarray(ours.numpy())
    np.testing.assert_allclose(S(phi[0]), ACTION(ours)[0], rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(S))(phi), ACTION(ours), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(S)))(phi), ACTION.grad(ours), rtol=1e-12)


def test_their_flow_in_our_chain(tmp_path):
    flow = bijx.Transformed(bijx.IndependentNormal(event_shape=(2,)), bijx.Scaling(jax.numpy.asarray(0.8)))
    proposal = proposal_from(flow, "scaled")
    phi, log_q = proposal.sample(4, rng(1))
    again = proposal.sample(4, rng(1))
    assert torch.equal(phi, again[0]) and torch.equal(log_q, again[1])
    torch.testing.assert_close(proposal.log_q(phi), log_q)
    kernel = dmmc.Independence(ACTION, TWO_SITES, proposal)
    draws = phi4_draws(ACTION, TWO_SITES, 20_000, c=0.5)
    state = advance(kernel, kernel.start(draws, rng(2)), 2, rng(2))
    assert mean_shift(observables(state.phi, TWO_SITES) - observables(draws, TWO_SITES)) < 1
    run = dmmc.run_chain(kernel, tmp_path / "run.h5", chains=8, draws=16, discard=2)
    assert "weights" in str(run.summary())


def test_our_proposal_in_their_metropolis():
    chains = 16
    sampler = bijx.IMH(DistributionFor(ShiftedGaussian.correlated(2), TWO_SITES), lambda x: -hopping_form(x))
    step = jax.jit(jax.vmap(sampler.step))
    state = jax.vmap(sampler.init)(jax.random.split(jax.random.key(0), chains))
    phi = []
    for key in jax.random.split(jax.random.key(1), 500):
        state, _ = step(jax.random.split(key, chains), state)
        phi.append(np.asarray(state.position))
    check_chain(np.stack(phi))


@pytest.mark.parametrize("action", [ACTION, hopping_form], ids=["ours", "theirs"])
def test_our_proposal_in_blackjax(action):
    chains = 16
    chain = Irmh(ShiftedGaussian.correlated(2), action, TWO_SITES)
    kernel = blackjax.irmh(*chain.functions)
    state = jax.vmap(lambda key: kernel.init(chain.start(key)))(jax.random.split(jax.random.key(0), chains))
    step = jax.jit(jax.vmap(kernel.step))
    phi = []
    for key in jax.random.split(jax.random.key(1), 500):
        state, _ = step(jax.random.split(key, chains), state)
        phi.append(np.asarray(state.position.phi))
    check_chain(np.stack(phi))


def test_a_flow_in_blackjax_step_by_step():
    lattice = Lattice((3, 2))
    flow = dmmc.flow_proposal(random_model(free_reference(lattice), strength=0.1), 4)
    chain = Irmh(flow, ACTION, lattice)
    kernel = blackjax.irmh(*chain.functions)
    state = kernel.init(chain.at(jax.numpy.zeros((3, 2))))
    np.testing.assert_allclose(state.position.log_q, flow.log_q(torch.zeros(1, 3, 2).double())[0], rtol=1e-12)
    scanned, _ = jax.lax.scan(lambda at, key: kernel.step(key, at), state, jax.random.split(jax.random.key(3), 5))
    stepped = state
    for key in jax.random.split(jax.random.key(3), 5):
        stepped, _ = jax.jit(kernel.step)(key, stepped)
    np.testing.assert_allclose(stepped.position.phi, scanned.position.phi)  # a key gives the same numbers each time


def test_our_distribution_is_one_of_theirs():
    toy = ShiftedGaussian.correlated(2)
    ours = DistributionFor(toy, TWO_SITES)
    key = jax.random.key(7)
    x, log_density = ours.sample((3, 4), rng=key)
    assert x.shape == (3, 4, 2) and log_density.shape == (3, 4) and x.dtype == np.float64
    np.testing.assert_allclose(ours.log_density(x), log_density, rtol=1e-12)
    np.testing.assert_array_equal(ours.sample((3, 4), rng=jax.random.PRNGKey(7))[0], x)  # keys of either kind
    assert ours.sample(rng=key)[0].shape == (2,) and ours.get_batch_shape(x) == (3, 4)
    with pytest.raises(ValueError, match="rng"):
        ours.sample()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: proposal_from(object(), "x"), "no sample and no log_density"),
        (lambda: DistributionFor(ShiftedGaussian.correlated(2), TWO_SITES).sample((0,), jax.random.key(1)), "positive"),
        (
            lambda: Irmh(
                dmmc.flow_proposal(random_model(free_reference(TWO_SITES)), 2, divergence=Hutchinson(1)),
                ACTION,
                TWO_SITES,
            ),
            "would not be exact",
        ),
        (lambda: JaxAction(mass_form, "bijx", symmetry="odd"), "symmetry"),
    ],
)
def test_what_does_not_fit_is_refused(attempt, message):
    with pytest.raises(DmmcError, match=message):
        attempt()


def test_the_example_runs():
    script = Path(__file__).parents[2] / "examples" / "blackjax_and_bijx.py"
    small = ("--shape", "2", "2", "--train-steps", "4", "--steps", "40")
    ended = subprocess.run([sys.executable, "-W", "ignore", script, *small], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.count("<phi^2> = ") == 3, ended.stderr

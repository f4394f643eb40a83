"""The independence move of emcee: exactness with lopsided proposals, mutants that must be found, edge cases.

Checks return their deviation in units of the largest that chance may cause (see ``checks``): below 1 they pass, and a
mutant must go above 2. About 15 comparisons.
"""

import multiprocessing
from dataclasses import dataclass, replace

import emcee
import numpy as np
import pytest
import torch

from checks import Gaussian, Mixture, bonferroni, inject, mean_shift, observables, phi4_draws
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.interop import emcee as emcee_moves
from dmmc.interop.emcee import DiffusionMove, lattice_log_prob
from dmmc.proposals import dense
from dmmc.proposals.base import Proposal
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import Grid, free_reference, random_model

ACTION = Phi4(0.22, 0.1)
TWO_SITES = Lattice((2,))


def gaussian(lattice, width=1.0, mean=0.0):
    """The free field of mass 0.7, ``width`` times as wide."""
    return Gaussian.of(lattice, width**2 * FreeField(0.7).propagator(lattice.phat2), mean)


def lopsided(lattice):
    """No symmetry at all: two Gaussians of different weight, place and width."""
    return Mixture((0.3, 0.7), (gaussian(lattice, 0.6, -0.5), gaussian(lattice, 0.9, 0.6)))


def start(coords, seed=1):
    return emcee.State(coords, random_state=np.random.RandomState(seed).get_state())


@dataclass(frozen=True)
class Irreversible:
    """A proposal that reports another log q than it computes: either alone would do for an independence chain."""

    inner: Proposal

    def sample(self, n, generator):
        phi, log_q = self.inner.sample(n, generator)
        return phi, log_q + 0.7

    def log_q(self, phi):
        return self.inner.log_q(phi)

    def describe(self):
        return {"name": "irreversible"}


def last_fields(moves, phi, action, lattice, steps, before=0):
    """Fields after some steps, walkers that began at ``phi``, where something else was sampled ``before``."""
    log_prob = lattice_log_prob(action, lattice)
    sampler = emcee.EnsembleSampler(len(phi), lattice.volume, log_prob, moves=moves, vectorize=True)
    coords = phi.flatten(1).numpy()
    if before:
        sampler.run_mcmc(start(0.5 * coords), before, store=False)
    state = sampler.run_mcmc(start(coords), steps, store=False)
    return torch.from_numpy(state.coords).view(phi.shape)


def invariance(proposal, lattice=TWO_SITES, steps=2):
    """Whether draws of phi^4 are still draws of it after some steps: paired, walker by walker."""
    phi = phi4_draws(ACTION, lattice, 20_000, c=0.5)
    after = last_fields(DiffusionMove(proposal), phi, ACTION, lattice, steps)
    return mean_shift(observables(after, lattice) - observables(phi, lattice))


def mixed_invariance(proposal=None):
    """The same for steps of which about half are local ones of another move, walkers independent of each other.

    These are not the first steps of the sampler, so that no walker begins at this move.
    """
    phi = phi4_draws(ACTION, TWO_SITES, 20_000, c=0.5)
    moves = [emcee.moves.GaussianMove(0.3), DiffusionMove(proposal or lopsided(TWO_SITES))]
    after = last_fields(moves, phi, ACTION, TWO_SITES, 12, before=6)
    return mean_shift(observables(after, TWO_SITES) - observables(phi, TWO_SITES))


# Exactness


@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=str)
@pytest.mark.parametrize("make", [lambda lattice: gaussian(lattice, 0.7, 0.4), lopsided], ids=["shifted", "lopsided"])
def test_draws_of_the_target_stay_draws_of_it(make, shape):
    lattice = Lattice(shape)
    assert invariance(make(lattice), lattice) < 1


@pytest.mark.parametrize("wrapped", [lambda proposal: proposal, Irreversible], ids=["reversible", "irreversible"])
def test_draws_of_the_target_stay_draws_of_it_between_other_moves(wrapped):
    assert mixed_invariance(wrapped(lopsided(TWO_SITES))) < 1


# Bugs


def other_log_q(change):
    """A move that takes ``change(log_q)`` for log q, both of the walkers and of the proposals."""
    return lambda numbers: lambda *arguments: change(numbers(*arguments))


def of_proposals_forgotten(numbers):
    """log q of the walkers only, which the move asks for first."""
    asked = []

    def wrong(*arguments):
        asked.append(arguments)
        return numbers(*arguments) * (len(asked) == 1)

    return wrong


def remembered(moved):
    """A move that remembers log q of all proposals, or of where the walkers were, whatever was accepted."""
    return lambda decided: lambda self, coords, accepted: decided(self, coords, np.full_like(accepted, moved))


def stale(noted):
    """log q of where the walkers were after the last step of this move, whatever other moves have done since."""
    return lambda self, coords, shape: noted(self, coords, shape) if self._known is None else self._known[1]


def mixed_kinds(noted):
    """Values that come with proposals, compared with values that are computed from positions."""
    return lambda self, coords, shape: replace(noted(self, coords, shape), from_positions=False)


# A function that is replaced, and the check that must find it
MUTANTS = {
    "log q with the wrong sign": (emcee_moves, "_numbers", other_log_q(np.negative), "two steps"),
    "log q forgotten": (emcee_moves, "_numbers", other_log_q(np.zeros_like), "two steps"),
    "log q of proposals forgotten": (emcee_moves, "_numbers", of_proposals_forgotten, "one step"),
    "log q of rejected proposals": (DiffusionMove, "_decided", remembered(True), "five steps"),
    "log q of the past": (DiffusionMove, "_decided", remembered(False), "five steps"),
    "stale log q": (DiffusionMove, "_noted", stale, "mixed"),
    "two kinds of log q": (DiffusionMove, "_noted", mixed_kinds, "mixed, irreversible"),
}
CHECKS = {
    "one step": lambda: invariance(lopsided(TWO_SITES), steps=1),
    "two steps": lambda: invariance(lopsided(TWO_SITES)),
    "five steps": lambda: invariance(lopsided(TWO_SITES), steps=5),
    "mixed": mixed_invariance,
    "mixed, irreversible": lambda: mixed_invariance(Irreversible(lopsided(TWO_SITES))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(name, monkeypatch):
    owner, function, bug, check = MUTANTS[name]
    calls = inject(monkeypatch, owner, function, bug)
    assert CHECKS[check]() > 2 and calls


def test_chain_means_between_stretch_moves_against_quadrature():
    # The mean over walkers is one series, whatever ties the stretch move makes between them.
    grid = Grid.make(2, half_width=7, n=301)
    exact = grid.probabilities(ACTION) @ observables(grid.phi, TWO_SITES)
    sampler = emcee.EnsembleSampler(
        24,
        2,
        lattice_log_prob(ACTION, TWO_SITES),
        moves=[(emcee.moves.StretchMove(), 0.5), (DiffusionMove(lopsided(TWO_SITES)), 0.5)],
        vectorize=True,
    )
    sampler.run_mcmc(start(phi4_draws(ACTION, TWO_SITES, 24, c=0.5).numpy()), 1000)
    phi = torch.from_numpy(sampler.get_chain(flat=True))
    series = observables(phi, TWO_SITES).view(1000, 24, -1).mean(1).T.numpy()
    found = [diagnostics.gamma_method(x[None]) for x in series]
    z = [(estimate.value - float(value)) / estimate.error for estimate, value in zip(found, exact, strict=True)]
    assert max(map(abs, z)) < bonferroni(len(z)), z
    assert 0.3 < sampler.acceptance_fraction.mean() < 0.9


def test_fields_are_walkers_in_c_order():
    # Proposals from the target itself, which differs from site to site, are accepted only if the sites stay in place.
    mean = torch.arange(6, dtype=torch.float64).view(2, 3)
    covariance = torch.diag(torch.linspace(0.5, 2.0, 6, dtype=torch.float64))
    proposal = Gaussian(mean, covariance)

    def log_prob(x):
        return -0.5 * ((x - np.arange(6)) ** 2 / np.linspace(0.5, 2.0, 6)).sum(1)

    sampler = emcee.EnsembleSampler(20, 6, log_prob, moves=DiffusionMove(proposal), vectorize=True)
    sampler.run_mcmc(start(np.random.RandomState(2).normal(size=(20, 6))), 30)
    assert sampler.acceptance_fraction.min() == 1


# Blobs, infinities, refusals


def mixed_moves(proposal):
    return [(emcee.moves.StretchMove(), 0.3), (emcee.moves.GaussianMove(0.1), 0.2), (DiffusionMove(proposal), 0.5)]


def test_blobs_belong_to_their_positions():
    def log_prob(x):
        return -0.5 * (x**2).sum(), x[0], x.sum()

    sampler = emcee.EnsembleSampler(12, 2, log_prob, moves=mixed_moves(gaussian(TWO_SITES, 0.8, 0.3)))
    sampler.run_mcmc(start(np.random.RandomState(3).normal(size=(12, 2))), 60)
    chain, blobs = sampler.get_chain(), sampler.get_blobs()
    np.testing.assert_array_equal(blobs[..., 0], chain[..., 0])
    np.testing.assert_allclose(blobs[..., 1], chain.sum(-1))
    np.testing.assert_allclose(sampler.get_log_prob(), -0.5 * (chain**2).sum(-1))
    assert 0.2 < sampler.acceptance_fraction.mean() < 0.95


@dataclass(frozen=True)
class Faulty(Gaussian):
    """Every third field, its log q, or both are broken."""

    field: float = 0.0
    value: float = 0.0

    def sample(self, n, generator):
        phi, log_q = super().sample(n, generator)
        phi[::3, 0] += self.field
        return phi, log_q

    def log_q(self, phi):
        assert bool(torch.isfinite(phi).all())
        return super().log_q(phi) + torch.where(phi[:, 0] > 0.5, self.value, 0.0)


@pytest.mark.parametrize(
    ("proposal", "value"),
    [("field", np.nan), ("field", np.inf), ("value", np.nan), ("value", -np.inf), ("log_prob", np.inf)],
)
def test_what_is_not_finite_is_rejected(proposal, value):
    def log_prob(x):
        return -0.5 * (x**2).sum(1) + np.where(x[:, 0] > 0.5, value if proposal == "log_prob" else 0.0, 0.0)

    options = {} if proposal == "log_prob" else {proposal: value}
    law = gaussian(TWO_SITES)
    move = DiffusionMove(Faulty(law.mean, law.covariance, **options))
    sampler = emcee.EnsembleSampler(12, 2, log_prob, moves=move, vectorize=True)
    sampler.run_mcmc(start(-1 - np.random.RandomState(3).random(size=(12, 2))), 100)
    chain, accepted = sampler.get_chain(), sampler.acceptance_fraction
    assert np.isfinite(chain).all() and np.isfinite(sampler.get_log_prob()).all()
    if proposal == "field":
        assert (accepted[::3] == 0).all() and accepted[1::3].min() > 0.3
    else:
        assert chain[..., 0].max() <= 0.5 and accepted.min() > 0.2


def test_walkers_leave_where_the_target_vanishes_and_stay_out_of_reach():
    law = gaussian(TWO_SITES)
    outside = DiffusionMove(Faulty(law.mean, law.covariance, value=-np.inf))
    at = np.random.RandomState(3).random(size=(6, 2))

    def half(x):
        return np.where(x[:, 0] < 0, -0.5 * (x**2).sum(1), -np.inf)

    sampler = emcee.EnsembleSampler(6, 2, half, moves=DiffusionMove(law), vectorize=True)
    sampler.run_mcmc(start(0.1 + at), 40)
    assert (sampler.get_chain()[-1, :, 0] < 0).all()
    # Where the proposal's density is zero its weight is infinite: the walker waits for another move.
    sampler = emcee.EnsembleSampler(6, 2, lambda x: -0.5 * (x**2).sum(1), moves=outside, vectorize=True)
    sampler.run_mcmc(start(1 + at), 5)
    assert sampler.acceptance_fraction.max() == 0


def test_nan_of_the_log_prob_function_is_an_error_of_emcee():
    sampler = emcee.EnsembleSampler(
        6,
        2,
        lambda x: np.log(np.where(x[:, 0] < 0, 1.0, np.nan)),
        moves=DiffusionMove(lopsided(TWO_SITES)),
        vectorize=True,
    )
    with pytest.raises(ValueError, match="NaN"):
        sampler.run_mcmc(start(-1 - np.random.RandomState(3).random(size=(6, 2))), 20)


@pytest.mark.parametrize(
    ("log_q", "ndim", "message"),
    [
        (lambda phi: torch.zeros(len(phi)), 3, r"fields of \(2,\), which are not 8 walkers of 3 dimensions"),
        (lambda phi: torch.zeros(len(phi), 1), 2, r"shape \(8,\).*got \(8, 1\)"),
        (lambda phi: np.zeros(len(phi)), 2, "got ndarray"),
        (lambda phi: torch.full((len(phi),), torch.nan), 2, "NaN"),
        (lambda phi: torch.full((len(phi),), torch.inf), 2, "infinite"),
    ],
    ids=["ndim", "shape", "type", "NaN", "infinite"],
)
def test_refusals(log_q, ndim, message):
    class Bad:
        evaluations = 0

        def sample(self, n, generator):
            return torch.randn(n, 2, generator=generator), torch.zeros(n)

        def log_q(self, phi):
            return log_q(phi)

        def describe(self):
            return {}

    sampler = emcee.EnsembleSampler(8, ndim, lambda x: -0.5 * (x**2).sum(1), moves=DiffusionMove(Bad()), vectorize=True)
    with pytest.raises(DmmcError, match=message):
        sampler.run_mcmc(start(np.random.RandomState(3).normal(size=(8, ndim))), 1)


def test_an_estimated_density_is_refused():
    model = random_model(free_reference(TWO_SITES))
    with pytest.raises(DmmcError, match="exact"):
        DiffusionMove(FlowProposal(model, divergence=Hutchinson(1)))


def test_dense_model_in_a_sampler():
    # A correlated Gaussian: the model of its samples is nearly the target, before any training.
    covariance = np.array([[2.0, 0.9, 0.0], [0.9, 1.0, -0.3], [0.0, -0.3, 0.5]])
    samples = np.random.RandomState(5).multivariate_normal([1.0, -2.0, 3.0], covariance, 4000)
    inverse = np.linalg.inv(covariance)

    def log_prob(x):
        return -0.5 * np.einsum("ni,ij,nj->n", x - [1.0, -2.0, 3.0], inverse, x - [1.0, -2.0, 3.0])

    move = DiffusionMove(dense.untrained(samples, n_steps=2))
    sampler = emcee.EnsembleSampler(40, 3, log_prob, moves=move, vectorize=True)
    sampler.run_mcmc(start(samples[:40]), 50)
    assert sampler.acceptance_fraction.mean() > 0.9


def sum_in_threads():
    """Work that torch shares among its threads."""
    x = torch.ones(400_000, dtype=torch.float64)
    assert float((x + x).exp().log().sum()) == pytest.approx(800_000)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_do_not_wait_for_threads_that_they_lack():
    torch.set_num_threads(2)
    try:
        sum_in_threads()
        process = multiprocessing.get_context("fork").Process(target=sum_in_threads)
        process.start()
        process.join(timeout=60)
    finally:
        torch.set_num_threads(1)
    hung = process.is_alive()
    process.kill()
    assert not hung and process.exitcode == 0


def test_an_action_cannot_move_the_walkers():
    class Careless(FreeField):
        def __call__(self, phi):
            return super().__call__(phi.mul_(2))

    coords = np.ones((3, 4))
    expected = lattice_log_prob(FreeField(1.0), Lattice((4,)))(2 * coords)
    np.testing.assert_array_equal(lattice_log_prob(Careless(1.0), Lattice((4,)))(coords), expected)
    np.testing.assert_array_equal(coords, np.ones((3, 4)))

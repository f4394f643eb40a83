"""A chain of emcee's independence move that is resumed equals the uninterrupted one bit for bit, whatever was noted."""

from dataclasses import dataclass, field

import emcee
import numpy as np
import pytest
import torch

from checks import Gaussian, inject
from dmmc.core import rng as streams
from dmmc.interop import emcee as emcee_moves
from dmmc.interop.emcee import DiffusionMove, lattice_log_prob
from dmmc.interop.emcee_notes import any_notes
from dmmc.proposals.base import Proposal
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from helpers import free_reference, random_model


def start(coords, seed=1):
    return emcee.State(coords, random_state=np.random.RandomState(seed).get_state())


def gaussian(lattice, width=1.0, mean=0.0):
    """The free field of mass 0.7, ``width`` times as wide."""
    return Gaussian.of(lattice, width**2 * FreeField(0.7).propagator(lattice.phat2), mean)


@dataclass(frozen=True)
class Rough:
    """A proposal with rounding errors as large as life: of log q in its row of a batch, of what ``sample`` reports."""

    inner: Proposal

    def sample(self, n, generator):
        phi, log_q = self.inner.sample(n, generator)
        return phi, log_q + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)

    def log_q(self, phi):
        return self.inner.log_q(phi) + torch.sin(3.0 * torch.arange(len(phi)) + len(phi))

    evaluations = 0

    def describe(self):
        return {"name": "rough"}


def flow():
    """A float32 flow on five sites."""
    lattice = Lattice((5,))
    return FlowProposal(random_model(free_reference(lattice), strength=0.1, dtype=torch.float32), n_steps=2)


MOVES = {
    "alone": lambda proposal: DiffusionMove(proposal),
    "mixed": lambda proposal: [
        (emcee.moves.StretchMove(), 0.3),
        (emcee.moves.GaussianMove(0.1), 0.2),
        (DiffusionMove(proposal), 0.5),
    ],
}


def stored(path, parts, proposal, moves="mixed", vectorize=True, blobs=True):
    """A chain of 11 walkers run in ``parts`` steps, with a sampler and a move of their own for each part."""
    free = lattice_log_prob(FreeField(0.7), Lattice((5,)))

    def log_prob(x):
        x = np.atleast_2d(x)
        value = free(x) - 0.02 * (x**4).sum(1)
        found = np.stack([value, x[:, 0] * x[:, 1], x.sum(1)], 1) if blobs else value
        return found if vectorize else found[0]

    state = start(0.5 * np.random.RandomState(7).normal(size=(11, 5)))
    for k, n in enumerate(parts):
        np.random.seed(100 * len(parts) + k)  # noqa: NPY002  # must not matter
        torch.manual_seed(100 * len(parts) + k)
        backend = emcee.backends.HDFBackend(path)
        made = MOVES[moves](proposal)
        sampler = emcee.EnsembleSampler(11, 5, log_prob, moves=made, backend=backend, vectorize=vectorize)
        sampler.run_mcmc(state, n)
        state = None
    return [backend.get_chain(), backend.get_log_prob(), backend.get_blobs(), backend.accepted]


def resumes(tmp_path, proposal, **options):
    """Whether a chain cut into any parts is the uninterrupted one, bit for bit."""
    whole = stored(tmp_path / "whole.h5", [12], proposal, **options)
    assert 0.1 < whole[-1].mean() / 12 < 0.95
    cuts = [[5, 7], [1] * 12]
    others = [stored(tmp_path / f"{len(cut)}.h5", cut, proposal, **options) for cut in cuts]
    return all(np.array_equal(a, b) for other in others for a, b in zip(whole, other, strict=True))


def rough():
    return Rough(gaussian(Lattice((5,)), 0.8))


@pytest.mark.parametrize("moves", MOVES)
@pytest.mark.parametrize("make", [flow, rough], ids=["float32 flow", "rough"])
def test_a_resumed_chain_is_the_uninterrupted_one(tmp_path, make, moves):
    assert resumes(tmp_path, make(), moves=moves)


@pytest.mark.parametrize(("vectorize", "blobs"), [(False, True), (False, False), (True, False)])
def test_resumption_with_and_without_blobs_and_vectorisation(tmp_path, vectorize, blobs):
    assert resumes(tmp_path, rough(), vectorize=vectorize, blobs=blobs)


# Bugs that make a resumed chain another one


def decisions_of_numpy(propose):
    """A move whose decisions come from NumPy's global generator."""

    class Elsewhere:
        def __init__(self, random):
            self.randint, self.standard_exponential = random.randint, np.random.standard_exponential

    return lambda self, model, state: propose(self, model._replace(random=Elsewhere(model.random)), state)


def without_notes(read_note):
    """A move that computes log q afresh after an interruption."""
    return lambda backend, key: None


MUTANTS = {
    "nothing noted": (emcee_moves, "read_note", without_notes),
    "torch's generator": (streams, "stream", lambda stream: lambda *_, **__: torch.default_generator),
    "NumPy's generator": (DiffusionMove, "propose", decisions_of_numpy),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(name, tmp_path, monkeypatch):
    calls = inject(monkeypatch, *MUTANTS[name])
    assert not resumes(tmp_path, rough()) and calls


# What is noted


def test_a_chain_interrupted_before_its_step_is_stored_is_resumed(tmp_path, monkeypatch):
    whole = stored(tmp_path / "whole.h5", [12], rough())
    save_step, saved = emcee.backends.HDFBackend.save_step, []

    def interrupted(self, state, accepted):
        saved.append(state)
        if len(saved) == 6:
            raise KeyboardInterrupt
        save_step(self, state, accepted)

    monkeypatch.setattr(emcee.backends.HDFBackend, "save_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "parts.h5", [12], rough())
    monkeypatch.setattr(emcee.backends.HDFBackend, "save_step", save_step)
    backend = emcee.backends.HDFBackend(tmp_path / "parts.h5")
    assert backend.iteration == 5
    resumed = sampler_of(MOVES["mixed"](rough()), backend)
    resumed.run_mcmc(None, 7)
    np.testing.assert_array_equal(backend.get_chain()[:12], whole[0])


@dataclass(frozen=True)
class Counting:
    """A proposal that counts the integrations of given fields."""

    inner: Proposal
    name: str = "counting"
    calls: list = field(default_factory=list)

    def sample(self, n, generator):
        return self.inner.sample(n, generator)

    def log_q(self, phi):
        self.calls.append(len(phi))
        return self.inner.log_q(phi)

    def describe(self):
        return {"name": self.name}


def sampler_of(moves, backend=None):
    def log_prob(x):
        free = lattice_log_prob(FreeField(0.7), Lattice((5,)))
        value = free(x) - 0.02 * (x**4).sum(1)
        return np.stack([value, x[:, 0] * x[:, 1], x.sum(1)], 1)

    return emcee.EnsembleSampler(11, 5, log_prob, moves=moves, backend=backend, vectorize=True)


def walkers():
    return start(0.5 * np.random.RandomState(7).normal(size=(11, 5)))


BACKENDS = {
    "in memory": lambda path: emcee.backends.Backend(),
    "in a file": lambda path: emcee.backends.HDFBackend(path / "chain.h5"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_log_q_of_walkers_is_computed_once_where_a_chain_begins(tmp_path, name):
    backend, proposal = BACKENDS[name](tmp_path), Counting(rough())
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(walkers(), 6)
    assert proposal.calls == [11]
    # Another move object goes on with what is noted, also after steps that are not stored.
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(None, 3, thin_by=2)
    assert proposal.calls == [11] and backend.iteration == 9


@pytest.mark.parametrize("name", BACKENDS)
def test_a_note_is_never_used_for_anything_else(tmp_path, name):
    backend, proposal = BACKENDS[name](tmp_path), Counting(rough())
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(walkers(), 4)
    last = backend.get_last_sample()
    proposal.calls.clear()

    def integrations(move, state):
        proposal.calls.clear()
        sampler_of(move, backend).run_mcmc(state, 1, store=False)
        return len(proposal.calls)

    assert integrations(DiffusionMove(proposal), last) == 0
    # Another proposal, or positions that differ in one bit or in the order of the walkers: the walkers have to be
    # integrated, and the new proposals too.
    assert integrations(DiffusionMove(Counting(rough(), "another", proposal.calls)), last) == 2
    nearly = last.coords.copy()
    nearly[3, 2] = np.nextafter(nearly[3, 2], 1)
    assert integrations(DiffusionMove(proposal), emcee.State(nearly)) == 2
    assert integrations(DiffusionMove(proposal), emcee.State(last.coords[::-1].copy())) == 2
    # The same move object, between whose steps something else changes the walkers; they are known when they come back.
    move = DiffusionMove(proposal)
    assert integrations(move, last) == 0
    nearly[0] *= -1
    assert integrations(move, emcee.State(nearly)) == 2
    assert integrations(move, last) == 0
    # Nothing is read by a move that need not be resumable.
    assert integrations(DiffusionMove(proposal, resumable=False), last) == 1


def test_nothing_is_noted_unless_a_chain_is_to_be_resumed(tmp_path):
    backend, proposal = BACKENDS["in a file"](tmp_path), Counting(rough())
    sampler_of(DiffusionMove(proposal, resumable=False), backend).run_mcmc(walkers(), 2)
    assert not any_notes(backend)
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(None, 2)
    assert any_notes(backend)
    backend.reset(11, 5)
    assert not any_notes(backend)


def test_a_backend_that_is_only_read_gets_no_notes(tmp_path):
    backend, proposal = BACKENDS["in a file"](tmp_path), Counting(rough())
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(walkers(), 2)
    backend.read_only = True
    sampler_of(DiffusionMove(proposal), backend).run_mcmc(walkers(), 2, store=False)


def test_after_another_move_all_log_q_are_computed():
    proposal = Counting(rough())
    other = emcee.moves.GaussianMove(1e-3)
    sampler = sampler_of([(DiffusionMove(proposal), 0.5), (other, 0.5)])
    order = []
    for move in sampler._moves:
        propose = move.propose
        move.propose = lambda model, state, move=move, propose=propose: order.append(move) or propose(model, state)
    sampler.run_mcmc(walkers(), 20)
    ours = [move is not other for move in order]
    begun = ours.index(True)
    # After the first steps of this move: its proposals in each step, and the walkers after each step of the other move.
    again = [k for k in range(begun + 1, 20) if ours[k] and not ours[k - 1]]
    expected = 1 + (sum(ours[again[0] :]) + len(again) if again else 0)
    assert again and len(proposal.calls) == expected

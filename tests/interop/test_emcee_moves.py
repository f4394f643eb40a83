"""The moves of emcee beside the independent one: exact with lopsided toys, mutants, resumption to the bit, refusals."""

import emcee
import numpy as np
import pytest
import torch

import dmmc
from checks import inject, mean_shift, observables, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.interop.emcee import DiffusionMove, LatentMove, PathMove, RefreshMove, lattice_log_prob
from dmmc.proposals import dense
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.symmetrised import Symmetrised
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import free_reference, random_model
from toys import OneNoise, ShiftedGaussian

ACTION = Phi4(0.22, 0.1)
TWO_SITES = Lattice((2,))
TOY, PATHS = ShiftedGaussian.correlated(2), OneNoise(TWO_SITES)

MOVES = {
    "diffusion, one integration": lambda: DiffusionMove(TOY, resumable=False),
    "latent": lambda: LatentMove(TOY, 0.7),
    "latent, one integration": lambda: LatentMove(TOY, 0.7, resumable=False),
    "latent, two sectors": lambda: LatentMove(Symmetrised(TOY), 0.7),
    "latent, two sectors, one integration": lambda: LatentMove(Symmetrised(TOY), 0.7, resumable=False),
    "path": lambda: PathMove(PATHS),
    "refresh": lambda: RefreshMove(PATHS, 0.5),
}


def start(coords, seed=1):
    return emcee.State(coords, random_state=np.random.RandomState(seed).get_state())


def shift(moves, steps=3):
    """Whether draws of phi^4 are still draws of it after some steps: paired, walker by walker."""
    phi = phi4_draws(ACTION, TWO_SITES, 20_000, c=0.5)
    log_prob = lattice_log_prob(ACTION, TWO_SITES)
    sampler = emcee.EnsembleSampler(len(phi), 2, log_prob, moves=moves, vectorize=True)
    state = sampler.run_mcmc(start(phi.flatten(1).numpy()), steps, store=False)
    after = torch.from_numpy(state.coords).view(phi.shape)
    assert 0.1 < (after != phi).any(1).double().mean()
    return mean_shift(observables(after, TWO_SITES) - observables(phi, TWO_SITES))


@pytest.mark.parametrize("name", MOVES)
def test_draws_of_the_target_stay_draws_of_it(name):
    assert shift(MOVES[name]()) < 1


@pytest.mark.parametrize("name", ["diffusion, one integration", "latent, one integration", "latent, two sectors"])
def test_draws_of_the_target_stay_draws_of_it_between_other_moves(name):
    assert shift([emcee.moves.GaussianMove(0.3), MOVES[name]()], 8) < 1


def forgotten(proposed):
    """The contribution of the proposal is forgotten."""

    def wrong(self, coords, generator):
        new, log_ratio = proposed(self, coords, generator)
        return new, 0 * log_ratio

    return wrong


def never_moved(decided):
    """Remembers the latents of where the walkers were."""
    return lambda self, coords, accepted: decided(self, coords, np.zeros_like(accepted))


def always_moved(decided):
    """Remembers the latents or densities of all proposals, accepted or not."""
    return lambda self, coords, accepted: decided(self, coords, np.ones_like(accepted))


MUTANTS = {
    "latent forgotten": (LatentMove, "_proposed", forgotten, "latent"),
    "path forgotten": (PathMove, "_proposed", forgotten, "path"),
    "refresh forgotten": (RefreshMove, "_proposed", forgotten, "refresh"),
    "latents of the past": (LatentMove, "_decided", never_moved, "latent, one integration"),
    "latents of rejected proposals": (LatentMove, "_decided", always_moved, "latent, one integration"),
    "densities of rejected proposals": (DiffusionMove, "_decided", always_moved, "diffusion, one integration"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(name, monkeypatch):
    owner, function, bug, move = MUTANTS[name]
    calls = inject(monkeypatch, owner, function, bug)
    assert shift(MOVES[move](), 5) > 2 and calls


def flow(two_sector=False):
    reference = free_reference(Lattice((5,)), mean=0.5 if two_sector else 0.0)
    return dmmc.flow_proposal(random_model(reference, two_sector=two_sector, strength=0.1, dtype=torch.float32), 2)


RESUMABLE = {
    "latent": lambda: LatentMove(flow(), 0.8),
    "latent, two sectors": lambda: LatentMove(flow(True), 0.8),
    "path": lambda: PathMove(OneNoise(Lattice((5,)), mean=0.1)),
    "refresh": lambda: RefreshMove(OneNoise(Lattice((5,)), mean=0.1), 0.5),
}


def stored(path, parts, make):
    """A chain of 11 walkers run in ``parts`` steps, with a sampler and a move of their own for each part."""
    state = start(0.5 * np.random.RandomState(7).normal(size=(11, 5)))
    for n in parts:
        backend = emcee.backends.HDFBackend(path)
        moves = [(make(), 0.6), (emcee.moves.GaussianMove(0.1), 0.4)]
        log_prob = lattice_log_prob(FreeField(0.7), Lattice((5,)))
        emcee.EnsembleSampler(11, 5, log_prob, moves=moves, backend=backend, vectorize=True).run_mcmc(state, n)
        state = None
    return backend.get_chain()


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_resumed_chain_is_the_uninterrupted_one(tmp_path, name):
    whole = stored(tmp_path / "whole.h5", [8], RESUMABLE[name])
    assert (np.diff(whole, axis=0) != 0).any(-1).mean() > 0.2
    np.testing.assert_array_equal(stored(tmp_path / "parts.h5", [3, 1, 4], RESUMABLE[name]), whole)


def test_log_q_of_a_row_does_not_depend_on_the_other_rows():
    # What resumption of the latent move rests on, for float32 networks: batches of several lengths, two kinds of model.
    torch.manual_seed(1)
    for proposal in (flow(), dense.untrained(torch.randn(50, 5), n_steps=4)):
        for n in (1, 7, 33, 64):
            phi, other = torch.randn(2, n, 5, dtype=torch.float64)
            alone = proposal.log_q(phi)
            for keep in (torch.arange(n) % 2 == 0, torch.arange(n) % 3 == 1):
                mixed = proposal.log_q(torch.where(keep.unsqueeze(1), phi, 100 * other))
                assert torch.equal(mixed[keep], alone[keep])


def test_latents_are_kept_only_where_they_belong_to_the_position():
    integrations = []

    class Counting(ShiftedGaussian):
        def push(self, latents, generator=None):
            integrations.append("push")
            return super().push(latents, generator)

        def pull(self, phi, generator=None):
            integrations.append("pull")
            return super().pull(phi, generator)

    def counted(proposal, resumable):
        integrations.clear()
        sampler = emcee.EnsembleSampler(
            8,
            2,
            lattice_log_prob(ACTION, TWO_SITES),
            moves=LatentMove(proposal, 0.5, resumable=resumable),
            vectorize=True,
        )
        sampler.run_mcmc(start(np.random.RandomState(1).normal(size=(8, 2))), 6)
        return integrations.count("push"), integrations.count("pull")

    toy = Counting(TOY.lattice, TOY.mean, TOY.root)
    assert counted(toy, True) == (6, 7)
    assert counted(toy, False) == (6, 1)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: LatentMove(TOY, 0.0), "theta must lie between"),
        (lambda: LatentMove(TOY, 2.0), "theta must lie between"),
        (lambda: LatentMove(PATHS, 0.5), "no map of latents"),
        (
            lambda: LatentMove(
                dmmc.flow_proposal(random_model(free_reference(TWO_SITES)), 2, divergence=Hutchinson(1)), 0.5
            ),
            "would not sample their target",
        ),
        (lambda: RefreshMove(dmmc.path_proposal(random_model(free_reference(TWO_SITES)), 4), 1.5), "level"),
        (lambda: shift_of_three(LatentMove(TOY, 0.5)), "has 2 numbers, and walkers have 3"),
        (lambda: shift_of_three(PathMove(PATHS)), "has 2 numbers, and walkers have 3"),
        (lambda: shift_of_three(RefreshMove(PATHS, 0.5)), "has 2 numbers, and walkers have 3"),
    ],
)
def test_what_does_not_fit_is_refused(attempt, message):
    with pytest.raises(DmmcError, match=message):
        attempt()


def shift_of_three(move):
    sampler = emcee.EnsembleSampler(8, 3, lambda x: -(x**2).sum(1), moves=move, vectorize=True)
    sampler.run_mcmc(start(np.random.RandomState(1).normal(size=(8, 3))), 1)

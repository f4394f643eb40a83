"""Proposals in codes that decide by ``accrej(new, old)``: exact, one decision for all ranks, mutants, refusals.

Chains of arrays are short, and there are many of them, from exact draws of the target: paired differences of means.
"""

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import gpt_standin
from checks import Gaussian, Mixture, inject, mean_shift, observables, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.interop import gpt
from dmmc.interop.accrej import Metropolis, Update, array_metropolis
from dmmc.proposals.stream import Proposer
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from toys import ShiftedGaussian

ACTION = Phi4(0.22, 0.1)
TWO_SITES = Lattice((2,))


def lopsided(lattice=TWO_SITES):
    """No symmetry at all: two Gaussians of different weight, place and width."""
    parts = [
        Gaussian.of(lattice, width**2 * FreeField(0.7).propagator(lattice.phat2), mean)
        for width, mean in ((0.6, -0.5), (0.9, 0.6))
    ]
    return Proposer(Mixture((0.3, 0.7), tuple(parts)))


def S(phi):
    """The action of one field, as the code has it: in NumPy, of an array."""
    hop, quad, quart = ACTION.coefficients
    return float((quad * phi**2 + quart * phi**4 - hop * phi * np.roll(phi, -1)).sum())


def shift(updates=("propose", "propose"), fields=1500):
    """Whether draws of phi^4 are still draws of it after some updates, one chain for each draw."""
    draws = phi4_draws(ACTION, TWO_SITES, fields, c=0.5)
    random = np.random.default_rng(3)
    metro = Metropolis(lopsided(), 1, array_metropolis(random), batch=1000)
    after = []
    for start in draws.numpy():
        phi = start.copy()
        for kind in updates:
            accrej = metro(phi)
            old = S(phi)
            if kind == "propose":
                accrej.propose()
            else:
                phi += random.normal(size=2)
            accrej(S(phi), old)
        after.append(phi)
    metro.close()
    after = torch.from_numpy(np.stack(after))
    return mean_shift(observables(after, TWO_SITES) - observables(draws, TWO_SITES))


def test_draws_of_the_target_stay_draws_of_it():
    assert shift() < 1


def test_draws_of_the_target_stay_draws_of_it_between_updates_of_the_code():
    assert shift(("propose", "walk", "propose")) < 1


# Bugs


def wrong_sign(log_q):
    return lambda self, phi: -log_q(self, phi)


def stale(log_q):
    """log q of the field that was accepted last, wherever the field has gone since."""
    return lambda self, phi: log_q(self, phi) if self._known is None else self._known[1]


def rejected_too(decide):
    """Remembers log q of a proposal that was not accepted."""

    def wrong(self, new, old):
        accepted = decide(self, new, old)
        if self._proposed is not None:
            self._owner._known = self._owner._array(self._fields, (2,)), self._proposed[1]
        return accepted

    return wrong


MUTANTS = {
    "wrong sign": (Metropolis, "_log_q", wrong_sign, ("propose",)),
    "stale log q": (Metropolis, "_log_q", stale, ("propose", "walk", "propose")),
    "log q of what was rejected": (Update, "__call__", rejected_too, ("propose", "propose")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found(name, monkeypatch):
    owner, function, bug, updates = MUTANTS[name]
    calls = inject(monkeypatch, owner, function, bug)
    assert shift(updates) > 1.5 and calls


# The pattern of GPT, on several ranks


def gpt_chain(n, seeds, steps=60):
    """A chain of the stand-in on ``n`` ranks: what each rank saw, as (accepted, new action) of every update."""
    lattice, ranks = Lattice((4, 3)), gpt_standin.Ranks(n)
    seen = [[] for _ in range(n)]
    ends = [None] * n

    def rank(k):
        g = gpt_standin.module(n, k, ranks)
        phi = g.real(g.grid([4, 3], g.double))
        rng, action = g.random(seeds[k]), g.qcd.scalar.action.phi4(ACTION.kappa, ACTION.lam)
        # Every rank has a proposal of its own, and they differ; the one of rank 0 counts.
        proposer = Proposer(Gaussian.of(lattice, FreeField(0.9).propagator(lattice.phat2), 0.1 * k))
        metro = gpt.metropolis(g, phi, rng, proposer, seed=1 + k, batch=16)
        for _ in range(steps):
            accrej = metro(phi)
            s0 = action(phi)
            accrej.propose()
            s1 = action(phi)
            accepted = accrej(s1, s0)
            seen[k].append((accepted, s1))
            assert action(phi) == pytest.approx(s1 if accepted else s0, abs=1e-12)
        metro.close()
        ends[k] = phi.whole()

    threads = [threading.Thread(target=rank, args=(k,), daemon=True) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(end is not None for end in ends)
    return seen, ends


def test_all_ranks_take_one_decision_about_one_proposal():
    (alone,), (end,) = gpt_chain(1, [5])
    assert 10 < sum(accepted for accepted, _ in alone) < 55
    seen, ends = gpt_chain(2, [5, 6])
    assert seen[0] == seen[1]
    np.testing.assert_array_equal(ends[0], ends[1])
    # And it is the chain of a single rank: the same proposals and the same decisions.
    assert [accepted for accepted, _ in seen[0]] == [accepted for accepted, _ in alone]
    np.testing.assert_allclose(ends[0], end, atol=1e-12)


def test_a_file_for_gpt_has_its_sites_where_they_belong(tmp_path):
    fields = np.random.default_rng(1).normal(size=(2, 4, 3, 2))
    paths = gpt.write_fields(tmp_path / "new" / "fields.h5", fields)
    g = gpt_standin.module()
    for path, field in zip(paths, fields, strict=True):
        phi = g.load(tmp_path / "new" / "fields.h5", paths=[path], type_map=gpt.type_map(g))
        np.testing.assert_array_equal(phi.whole(), field)
        np.testing.assert_array_equal(phi[:].real.ravel(), field.transpose().ravel())  # as the module says
        S = g.qcd.scalar.action.phi4(0.27, 0.022)(phi)
        ours = Phi4.from_gpt(0.27, 0.022)(torch.from_numpy(field[None])).item()
        assert S == pytest.approx(ours + 0.022 * field.size, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (np.zeros((2, 4), dtype=int), "must be real"),
        (np.zeros(4), r"\(n, \*lattice\)"),
        (np.zeros((0, 4)), r"\(n, \*lattice\)"),
        (np.full((2, 4), np.inf), "NaN or infinite"),
    ],
    ids=str,
)
def test_fields_that_gpt_should_not_get_are_refused(fields, message, tmp_path):
    with pytest.raises(DmmcError, match=message):
        gpt.write_fields(tmp_path / "fields.h5", fields)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_kept(tmp_path):
    path = tmp_path / "fields.h5"
    gpt.write_fields(path, np.zeros((1, 4)))
    before = path.read_bytes()
    with pytest.raises(DmmcError, match="exists"):
        gpt.write_fields(path, np.ones((1, 4)))
    assert path.read_bytes() == before
    gpt.write_fields(path, np.ones((3, 4)), overwrite=True)


# What is refused, and what is rejected


def begun(phi, **options):
    metro = Metropolis(
        Proposer(ShiftedGaussian.correlated(2)), 1, array_metropolis(np.random.default_rng(1)), **options
    )
    return metro(phi)


def proposed(phi, **options):
    update = begun(phi, **options)
    update.propose()
    return update


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: proposed(np.zeros(3)), r"has shape \(3,\), and proposals have \(2,\)"),
        (lambda: proposed(np.zeros((1, 2))), "without further axes"),
        (lambda: proposed(np.full(2, np.nan)), "NaN"),
        (lambda: proposed(np.zeros(2)).propose(), "has its proposal already"),
        (lambda: proposed(np.zeros(2))(np.zeros(2), 0.0), "one number each; got ndarray"),
        (lambda: proposed(np.zeros(2))(1.0, np.nan), "before the update is nan"),
        (lambda: proposed(np.zeros(2))(1.0, None), "got NoneType"),
        (lambda: proposed(np.zeros(2), batch=0), "positive integer"),
    ],
)
def test_bad_updates_are_refused(attempt, message):
    with pytest.raises(DmmcError, match=message):
        attempt()


def test_a_decision_is_taken_once():
    update = proposed(np.zeros(2))
    update(0.0, 0.0)
    for again in (lambda: update(0.0, 0.0), update.propose):
        with pytest.raises(DmmcError, match="already"):
            again()


def test_an_action_that_is_not_a_number_is_rejected():
    phi = np.zeros(2)
    assert proposed(phi)(np.nan, 0.0) is False and (phi == 0).all()
    reckless = Metropolis(
        Proposer(ShiftedGaussian.correlated(2)), 1, lambda fields: lambda new, old: not np.exp(old - new) < 0.5
    )
    update = reckless(phi)
    update.propose()
    assert update(np.nan, 0.0) is False  # although this code accepts whatever does not compare


def test_an_update_without_a_proposal_is_that_of_the_code():
    asked = []
    metro = Metropolis(Proposer(ShiftedGaussian.correlated(2)), 1, lambda fields: lambda *given: asked.append(given))
    metro(np.zeros(2))(1.5, 0.5)
    assert asked == [(1.5, 0.5)] and metro.used == 0


def test_a_chain_goes_on_with_proposals_that_it_has_not_seen():
    def fields(n, **options):
        phi, seen = np.zeros(2), []
        metro = Metropolis(
            Proposer(ShiftedGaussian.correlated(2)), 1, lambda _: lambda *given: True, batch=2, **options
        )
        for _ in range(n):
            metro(phi).propose()
            seen.append(phi.copy())
        return seen, metro.used

    whole, _ = fields(6)
    _, used = fields(4)
    np.testing.assert_array_equal(fields(2, first=used)[0], whole[4:])


def test_the_example_runs():
    script = Path(__file__).parents[2] / "examples" / "own_metropolis.py"
    small = ("--shape", "2", "2", "--steps", "4", "--updates", "8")
    ended = subprocess.run([sys.executable, "-W", "ignore", script, *small], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"proposals accepted: (\S+)\n", ended.stdout)
    assert found and 0 < float(found[1]) <= 1

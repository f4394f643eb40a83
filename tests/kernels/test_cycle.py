"""Exactness of cycles of kernels: each part weighs the fields that it is given anew.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 10 comparisons.
"""

import functools
from dataclasses import dataclass, replace

import pytest
import torch

from checks import Gaussian, inject, invariance
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.rng import stream
from dmmc.kernels.base import Info, State
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.cycle import Cycle, CycleInfo, cycle
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.invariance import assert_invariant
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import rng
from kernel_parts import LOCAL, PHI4, TWO_SITES, WALK, draws, latent, model, path, refresh, weigh_other_fields, wide
from user_kernel import GuidedWalk


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(), model(), model(two_sector=True)


CYCLES = {
    "independence, hmc": lambda: ((wide(), 2), (LOCAL, 2)),
    "hmc, independence": lambda: ((LOCAL, 1), (wide(), 1)),
    "independence, walk, cluster": lambda: ((wide(), 1), (WALK, 2), (Cluster(LOCAL, 1), 1)),
    "walk, hmc": lambda: ((WALK, 3), (LOCAL, 1)),
    "cycle, walk": lambda: ((Cycle(((wide(), 1), (LOCAL, 1))), 2), (WALK, 1)),
    "latent, hmc": lambda: ((latent(), 2), (LOCAL, 1)),
    "two-sector latent, hmc": lambda: ((latent(True), 2), (LOCAL, 1)),
    "path, hmc": lambda: ((path(), 2), (LOCAL, 1)),
    "two-sector path, hmc": lambda: ((path(True), 2), (LOCAL, 1)),
    "path, refresh, cluster": lambda: ((path(), 1), (refresh(), 2), (Cluster(LOCAL, 1), 1)),
}


def cycle_keeps_phi4(name="independence, hmc", cycles=3):
    n = 6000 if "latent" in name else 20_000
    return invariance(Cycle(CYCLES[name]()), draws()[:n], cycles)


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_keep_phi4(name):
    assert cycle_keeps_phi4(name) < 1


def test_cycles_pass_the_test_for_users():
    assert_invariant(Cycle(CYCLES["independence, walk, cluster"]()), draws(), rng(3))


def test_stale_weights_would_be_found():
    # Two kernels in turn without the care that Cycle takes. HMC needs a state of fields and actions only.
    first, second = wide(), LOCAL
    state = first.start(draws(), rng())
    for seed in range(3):
        *_, (moved, _) = second.steps(State(state.phi, state.S), 2, rng(seed))
        state = replace(state, phi=moved.phi, S=moved.S)
        *_, (state, _) = first.steps(state, 2, rng(100 + seed))

    class Done:
        lattice = TWO_SITES

        def start(self, phi, generator):
            return None

        def steps(self, _, n, generator):
            yield state, Info(torch.ones(len(state.phi)), torch.ones(len(state.phi)))

    assert invariance(Done(), draws()) > 2


def test_reports_of_all_parts():
    cycle = Cycle(CYCLES["independence, walk, cluster"]())
    start = cycle.start(draws()[:50], rng())
    assert set(start.tensors()) == {"phi", "S"}
    for state, info in cycle.steps(start, 3, rng(2)):
        assert isinstance(info, CycleInfo)
        reports = info.tensors()
        assert set(reports) == {
            *("accepted", "acceptance_rate", "log_q", "log_w", "log_w_proposed"),
            *("guided_walk_accepted", "guided_walk_acceptance_rate", "guided_walk_forward"),
            *("cluster_accepted", "cluster_acceptance_rate", "cluster_energy_error", "cluster_energy"),
            *("cluster_diverging", "cluster_step_size", "cluster_n_steps", "cluster_n_clusters"),
        }
        assert all(x.shape == (50,) for x in reports.values())
        # Means over the steps of a part: of one step, and of two.
        assert set(info.accepted.tolist()) <= {0.0, 1.0} and info.accepted.dtype == torch.float64
        assert set((2 * reports["guided_walk_accepted"]).tolist()) <= {0.0, 1.0, 2.0}
        rates = reports["guided_walk_acceptance_rate"]
        assert bool((rates >= 0).all()) and bool((rates <= 1).all()) and len(rates.unique()) > 10
        assert torch.equal(state.S, PHI4(state.phi))
    # Four evaluations for the proposal and four to weigh the fields that are given; a trajectory of three forces, and a
    # cluster update that takes as long as one.
    assert cycle.cost == {"network": 8, "force": 4}


def test_reports_of_paths_and_refreshes():
    cycle = Cycle(CYCLES["path, refresh, cluster"]())
    for state, info in cycle.steps(cycle.start(draws()[:50], rng()), 3, rng(2)):
        reports = info.tensors()
        assert set(reports) == {
            *("accepted", "acceptance_rate", "log_q", "log_w", "log_w_proposed"),
            *("path_refresh_accepted", "path_refresh_acceptance_rate", "path_refresh_log_w_ratio"),
            *("cluster_accepted", "cluster_acceptance_rate", "cluster_energy_error", "cluster_energy"),
            *("cluster_diverging", "cluster_step_size", "cluster_n_steps", "cluster_n_clusters"),
        }
        assert all(x.shape == (50,) for x in reports.values())
        assert set((2 * reports["path_refresh_accepted"]).tolist()) <= {0.0, 1.0, 2.0}
        assert torch.equal(state.S, PHI4(state.phi))
    # A path of 4 steps and another to begin with; two refreshes, which begin from the fields for nothing; one
    # trajectory of three forces and a cluster update.
    assert cycle.cost == {"network": 2 * 4 + 2 * refresh().cost["network"], "force": 4}


def test_parts_of_the_same_name_are_told_apart():
    thrice = Cycle(((LOCAL, 1), (LOCAL, 1), (LOCAL, 1)))
    _, info = thrice.step(thrice.start(draws()[:5], rng()), rng())
    assert set(info.tensors()) >= {"accepted", "hmc2_accepted", "hmc3_accepted", "energy", "hmc2_energy", "hmc3_energy"}
    assert thrice.cost == {"force": 9}


def test_one_part_alone_is_that_kernel():
    alone, cycle = LOCAL.start(draws()[:20], rng()), Cycle(((LOCAL, 3),))
    steps = list(LOCAL.steps(alone, 6, rng()))
    *_, (state, info) = cycle.steps(cycle.start(draws()[:20], rng()), 2, rng())
    assert torch.equal(state.phi, steps[-1][0].phi) and torch.equal(state.S, steps[-1][0].S)
    # The last cycle: means over its three steps, and what its last step reported.
    for name in ("accepted", "acceptance_rate"):
        expected = torch.stack([getattr(step, name).double() for _, step in steps[3:]]).mean(0)
        torch.testing.assert_close(getattr(info, name), expected)
    assert torch.equal(info.tensors()["energy_error"], steps[-1][1].energy_error)


@pytest.mark.parametrize("name", [name for name in CYCLES if "two-sector" not in name])
def test_a_stored_cycle_goes_on_where_it_was(name):
    # Each block of a chain has a stream of its own; the second begins from what the first has stored.
    cycle = Cycle(CYCLES[name]())
    *_, (state, _) = cycle.steps(cycle.initial(5, rng()), 3, stream(1, "block", 0))
    stored = {key: torch.from_numpy(value.numpy().copy()) for key, value in state.tensors().items()}
    whole, parts = (list(cycle.steps(begin, 3, stream(1, "block", 1))) for begin in (state, cycle.restore(stored)))
    for (a, info_a), (b, info_b) in zip(whole, parts, strict=True):
        assert torch.equal(a.phi, b.phi) and torch.equal(a.S, b.S)
        assert all(torch.equal(value, info_b.tensors()[key]) for key, value in info_a.tensors().items())


def test_a_cycle_begins_where_its_first_part_does():
    for parts in (CYCLES["independence, hmc"](), CYCLES["hmc, independence"]()):
        state = Cycle(parts).initial(10, rng())
        assert type(state) is State and torch.equal(state.phi, parts[0][0].initial(10, rng()).phi)


def test_tuning_tunes_every_part():
    coarse = HMC(PHI4, TWO_SITES, step_size=0.05, n_leapfrog=40)
    cycle = Cycle(((wide(), 2), (coarse, 3), (Cluster(coarse), 1)))
    tuned, state = cycle.tune(cycle.start(draws()[:200], rng()), rng(2), 40)
    (first, _), (local, n), (cluster, _) = tuned.parts
    assert n == 3 and first.describe() == wide().describe()
    for part in (local, cluster.local):
        # The acceptance of steps of 0.05 is nearly 1; longer ones are chosen, of the same length together.
        assert part.step_size > 0.3 and part.length == pytest.approx(2.0)
    assert type(state) is State and state.phi.shape == (200, 2)
    assert torch.equal(state.S, PHI4(state.phi))


def test_facts():
    facts = Cycle(CYCLES["independence, walk, cluster"]()).facts
    assert (facts.name, facts.label) == ("cycle", "diffusion + guided walk + cluster")
    # The weights are independent of each other, but the chain is not an independence chain.
    assert not facts.independent_weights and not facts.model_free and facts.inexact == ""
    assert Cycle(CYCLES["walk, hmc"]()).facts.model_free

    @dataclass(frozen=True)
    class Estimated(Gaussian):
        inexact = "log q is estimated"

    proposal = Estimated.of(TWO_SITES, torch.tensor([2.5, 1.2]).double())
    noisy = Independence(PHI4, TWO_SITES, proposal, allow_inexact=True)
    assert Cycle(((LOCAL, 1), (noisy, 1))).facts.inexact == "log q is estimated"
    assert Cycle(((noisy, 1), (noisy, 1))).facts.inexact == "log q is estimated"


def test_describe():
    described = Cycle(((LOCAL, 2), (WALK, 1))).describe()
    assert described == {"name": "cycle", "parts": [LOCAL.describe(), WALK.describe()], "steps": [2, 1]}


def test_bad_input():
    for parts in [(), ((LOCAL, 0),), ((LOCAL, 1.5),)]:
        with pytest.raises(DmmcError, match="at least one kernel"):
            Cycle(parts)
    with pytest.raises(DmmcError, match="at least one kernel"):
        cycle()
    with pytest.raises(DmmcError, match=r"made of kernels, such as .*; got str"):
        cycle("hmc")
    for other in (HMC(PHI4, Lattice((3,)), 0.1, 3), HMC(Phi4(0.23, 0.1), TWO_SITES, 0.1, 3)):
        with pytest.raises(MismatchError, match="the same action and the same lattice"):
            Cycle(((LOCAL, 1), (other, 1)))


def test_what_a_cycle_says_of_its_parts():
    first, second = cycle((wide(), 2), LOCAL).facts.parts
    assert (first.label, first.statistic, first.steps) == ("diffusion", "accepted", 2)
    assert (second.label, second.statistic, second.steps) == ("HMC", "hmc_accepted", 1)
    assert (first.cost, second.cost) == ({"network": 12}, {"force": 3})
    assert cycle(LOCAL, (WALK, 2)) == Cycle(((LOCAL, 1), (WALK, 2)))


def test_a_part_makes_its_proposals_a_few_steps_at_a_time():
    asked = []

    @dataclass(frozen=True)
    class Counting(Gaussian):
        def sample(self, n, generator):
            asked.append(n)
            return super().sample(n, generator)

    part = Independence(PHI4, TWO_SITES, Counting.of(TWO_SITES, torch.ones(2, dtype=torch.float64)))
    cycle = Cycle(((part, 40), (LOCAL, 1)))
    cycle.step(cycle.start(draws()[:5], rng()), rng())
    assert asked == [80, 80, 40]


# Bugs


def lose_the_last_part(step):
    def wrong(self, state, generator):
        new, info = step(self, state, generator)
        return State(-new.phi.abs(), new.S), info

    return wrong


def always_go_up(start):
    def wrong(self, phi, generator):
        state = start(self, phi, generator)
        return replace(state, direction=state.direction.abs())

    return wrong


# A function that is replaced, and the check that must find it
MUTANTS = {
    "fields of the last part lost": (Cycle, "step", lose_the_last_part, cycle_keeps_phi4),
    "weights of other fields": (Independence, "start", weigh_other_fields, cycle_keeps_phi4),
    "what a part carries is not drawn anew": (
        GuidedWalk, "start", always_go_up, functools.partial(cycle_keeps_phi4, "walk, hmc")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    owner, function, bug, check = MUTANTS[name]
    inject(monkeypatch, owner, function, bug)
    assert check() > 2

"""Exactness of mixtures of kernels: the choice knows nothing of the fields, and each part weighs them anew.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 10 comparisons.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

import dmmc
from checks import inject, invariance
from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, choose
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.cycle import cycle
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.invariance import assert_invariant
from dmmc.kernels.mixture import Mixture, mixture
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.summary_records import RunSummary
from dmmc.theory.lattice import Lattice
from helpers import rng
from kernel_parts import LOCAL, PHI4, TWO_SITES, WALK, draws, latent, model, path, refresh, weigh_other_fields, wide


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(), model(), model(two_sector=True)


MIXTURES = {
    "independence or hmc": lambda: mixture({wide(): 3, LOCAL: 1}),
    "walk or cluster or independence": lambda: mixture([(WALK, 0.5), (Cluster(LOCAL, 1), 0.2), (wide(), 0.3)]),
    "two-sector latent or cycle": lambda: mixture([(latent(True), 2), (cycle(LOCAL, (WALK, 2)), 1)]),
    "path or refresh": lambda: mixture({path(): 1, refresh(): 1}),
}


def mixture_keeps_phi4(name="independence or hmc", steps=5):
    n = 6000 if "latent" in name else 20_000
    return invariance(MIXTURES[name](), draws()[:n], steps)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_keep_phi4(name):
    assert mixture_keeps_phi4(name) < 1


def test_mixtures_pass_the_test_for_users():
    assert_invariant(MIXTURES["walk or cluster or independence"](), draws(), rng(3))


def test_parts_of_a_mixture_are_chosen_by_their_weights():
    mixed = mixture([(LOCAL, 1), (WALK, 3)])
    chosen = []
    for _, info in mixed.steps(mixed.start(draws()[:4], rng()), 1500, rng(5)):
        reports = info.tensors()
        assert set(reports) == {"accepted", "acceptance_rate", "part"} | {
            f"{name}_{what}" for name in ("hmc", "guided_walk") for what in ("accepted", "acceptance_rate")
        }
        (part,) = info.part.unique().tolist()
        did, did_not = ("guided_walk", "hmc") if part else ("hmc", "guided_walk")
        assert torch.equal(reports[f"{did}_accepted"], info.accepted)
        assert torch.equal(reports[f"{did}_acceptance_rate"], info.acceptance_rate)
        assert bool(reports[f"{did_not}_accepted"].isnan().all())
        chosen.append(part)
    # Five standard deviations of a binomial share.
    assert abs(sum(chosen) / 1500 - 0.75) < 5 * (0.75 * 0.25 / 1500) ** 0.5
    # One after another they are independent: a repetition has the probability 0.75^2 + 0.25^2.
    repeated = sum(a == b for a, b in pairwise(chosen)) / 1499
    assert abs(repeated - 0.625) < 5 * (0.625 * 0.375 / 1499) ** 0.5


def test_what_a_mixture_says_of_itself():
    mixed = mixture([(wide(), 1), (LOCAL, 3)])
    assert mixed.describe() == {
        "name": "mixture",
        "parts": [wide().describe(), LOCAL.describe()],
        "probabilities": [0.25, 0.75],
    }
    assert mixed.describe() == mixture([(wide(), 2), (LOCAL, 6)]).describe()
    facts = mixed.facts
    assert (facts.name, facts.label) == ("mixture", "diffusion or HMC")
    assert not facts.independent_weights and not facts.model_free and mixture({LOCAL: 1}).facts.model_free
    # A quarter of the steps: four evaluations for the proposal and four to weigh the fields that are given.
    assert mixed.cost == {"network": 2, "force": 2.25}
    first, second = facts.parts
    assert (first.label, first.statistic, first.steps, first.cost) == (
        "diffusion", "independence_accepted", 0.25, {"network": 2},
    )  # fmt: skip
    assert (second.label, second.statistic, second.steps, second.cost) == ("HMC", "hmc_accepted", 0.75, {"force": 2.25})
    twice = mixture([(LOCAL, 1), (LOCAL, 1)])
    assert [part.statistic for part in twice.facts.parts] == ["hmc1_accepted", "hmc2_accepted"]
    state = mixed.initial(10, rng())
    assert type(state) is State and torch.equal(state.phi, wide().initial(10, rng()).phi)


def test_tuning_a_mixture_tunes_every_part():
    coarse = HMC(PHI4, TWO_SITES, step_size=0.05, n_leapfrog=40)
    mixed = mixture([(wide(), 2), (coarse, 3)])
    tuned, state = mixed.tune(mixed.start(draws()[:200], rng()), rng(2), 40)
    (_, first), (local, second) = tuned.parts
    assert (first, second) == (0.4, 0.6) and local.step_size > 0.3
    assert type(state) is State and torch.equal(state.S, PHI4(state.phi))


def test_a_run_of_a_mixture_is_resumed_bit_for_bit_and_reports_its_parts(tmp_path, monkeypatch):
    kernel = MIXTURES["walk or cluster or independence"]()
    how = {"chains": 8, "discard": 3, "tune": False, "steps_per_draw": 2}
    whole = dmmc.run_chain(kernel, tmp_path / "whole.h5", draws=40, **how)
    dmmc.run_chain(kernel, tmp_path / "resumed.h5", draws=15, **how)
    resumed = dmmc.run_chain(kernel, tmp_path / "resumed.h5", draws=40, resume=True, **how)
    for name in whole.observables:
        np.testing.assert_array_equal(whole.observables[name], resumed.observables[name])
    for name in whole.stats:
        np.testing.assert_array_equal(whole.stats[name], resumed.stats[name])
    summary = whole.summary()
    assert [part.label for part in summary.parts] == [kernel.facts.label for kernel, _ in kernel.parts]
    for part, facts in zip(summary.parts, kernel.facts.parts, strict=True):
        assert part.acceptance == pytest.approx(np.nanmean(whole.stats[facts.statistic]))
        assert part.cost == facts.cost and f"part {part.label}: acceptance {part.acceptance:.4g}" in str(summary)
    assert RunSummary.from_json(summary.to_json()) == summary
    monkeypatch.setattr("dmmc.pages.page.run_pictures", lambda runs: ([], []))
    dmmc.report(whole, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"guided walk in {kernel.facts.label}: acceptance" in page


def test_a_kernel_with_a_model_can_be_the_key_of_a_dictionary():
    kernel = Independence(PHI4, TWO_SITES, flow_proposal(model(), 8))
    assert mixture({kernel: 1, LOCAL: 2}) == mixture([(kernel, 1), (LOCAL, 2)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixture({}), "at least one kernel"),
        (lambda: mixture({LOCAL: 0}), "positive and finite numbers, got 0"),
        (lambda: mixture({LOCAL: -1.0, WALK: 2}), "positive and finite numbers, got -1.0"),
        (lambda: mixture({LOCAL: float("nan")}), "positive and finite numbers, got nan"),
        (lambda: mixture({LOCAL: "half"}), "positive and finite numbers, got 'half'"),
        (lambda: mixture([LOCAL, WALK]), r"\{kernel: weight\} or \[\(kernel, weight\)\]; got HMC"),
        (lambda: mixture({"hmc": 1}), "made of kernels, such as .*; got str"),
        (lambda: mixture([(HMC, 1)]), "made of kernels, such as .*; got HMC"),
        (lambda: Mixture(((LOCAL, 0.5), (WALK, 0.6))), "add up to 1"),
        (lambda: mixture([(LOCAL, 1), (HMC(PHI4, Lattice((3,)), 0.1, 3), 1)]), "the same action and the same lattice"),
    ],
)
def test_bad_mixtures(make, message):
    with pytest.raises(DmmcError, match=message):
        make()


# Bugs


def choose_by_the_fields(step):
    """Which part moves a chain depends on its field, although each of the parts is right."""

    def wrong(self, state, generator):
        first, second = (Mixture(((kernel, 1.0),)) for kernel, _ in self.parts)
        (up, info), (down, _) = step(first, state, generator), step(second, state, generator)
        return choose(state.phi.square().mean(1) > 1, up, down), info

    return wrong


# A function that is replaced, and the check that must find it
MUTANTS = {
    "the choice depends on the fields": (Mixture, "step", choose_by_the_fields, mixture_keeps_phi4),
    "a part of a mixture has stale weights": (Independence, "start", weigh_other_fields, mixture_keeps_phi4),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    owner, function, bug, check = MUTANTS[name]
    inject(monkeypatch, owner, function, bug)
    assert check() > 2

"""The pilot of blocks at the end of a chain that is accepted seldom: when there is one, what it costs, what it says."""

import numpy as np
import pytest

from dmmc.kernels.of_model import KernelOptions
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.runs.rival import Pilot
from dmmc.runs.summary import summarise
from dmmc.runs.summary_records import RunSummary
from dmmc.studies import pilot
from dmmc.studies.pilot import pilot_steps
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.stages import Stages
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from helpers import free_reference, random_model

ACTION, RING = FreeField(1.0), Lattice((24,))
GOOD, SELDOM = np.zeros(200), np.random.default_rng(1).normal(0, 3, 200)
"""Log weights of proposals that are always accepted, and of some that are accepted in 3 % of all cases (erfc(3/2))."""


def model(two_sector=False, strength=0.3, lattice=RING):
    reference = free_reference(lattice, mean=0.3 * two_sector)
    return random_model(reference, ACTION, two_sector=two_sector, strength=strength)


def chain(path, draws=160, kernel="independence", model=None, resume=False, chains=16, stages=None):
    length = ChainOptions(draws, block=16, seed=3)
    options = SampleOptions(chains, KernelOptions(kernel), length, 4, discard=0, proposals=4, determinants=0)
    return sample(model or MODEL, path, options, resume=resume, stages=stages, say=lambda _: None)


MODEL = model()


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(pilot, "BELOW", 2.0)


def test_when_there_is_a_pilot_and_how_long_it_is():
    assert pilot_steps(GOOD, 64, 10_000) == 0
    assert pilot_steps(SELDOM, 64, 100) == 0  # a quarter is too little to say anything
    assert pilot_steps(SELDOM, 64, 10_000) == pilot.PUSHES // 64
    assert pilot_steps(SELDOM, 4, 10_000) == 2500  # a few chains go on for longer
    assert pilot_steps(SELDOM, 64, 200) == 50
    assert pilot_steps(SELDOM, 100_000, 10_000) == pilot.LEAST_STEPS


def test_a_chain_that_is_accepted_often_has_none(tmp_path):
    run = chain(tmp_path / "run.h5", model=model(strength=0.0))
    assert Pilot.stored(run.evaluation) is None and summarise(run).rival is None


@pytest.mark.parametrize("kernel", ["block", "cycle", "path"])
@pytest.mark.usefixtures("always")
def test_other_kernels_have_none(kernel, tmp_path):
    length = ChainOptions(160, seed=3)
    steps = "auto" if kernel == "path" else 4
    options = SampleOptions(16, KernelOptions(kernel), length, steps, discard=0, proposals=4, determinants=0)
    assert Pilot.stored(sample(MODEL, tmp_path / "run.h5", options).evaluation) is None


def test_the_chain_does_not_notice(tmp_path, monkeypatch):
    stages = Stages()
    monkeypatch.setattr(pilot, "BELOW", 2.0)
    with_pilot = chain(tmp_path / "with.h5", stages=stages)
    monkeypatch.setattr(pilot, "BELOW", 0.0)
    without = chain(tmp_path / "without.h5")
    stored = Pilot.stored(with_pilot.evaluation)
    assert stored is not None and "pilot" in stages.seconds
    assert Pilot.stored(without.evaluation) is None
    for name, value in without.observables.items():
        np.testing.assert_array_equal(with_pilot.observables[name], value)
    for name, value in without.evaluation.items():
        np.testing.assert_array_equal(with_pilot.evaluation[name], value)
    # 40 steps in all, a quarter of those of the chain, of which 10 tune.
    assert stored.pilot_M2.shape == stored.pilot_acceptance.shape == (16, 30)


@pytest.mark.usefixtures("always")
def test_a_run_that_goes_on_has_the_same_pilot(tmp_path):
    whole = chain(tmp_path / "whole.h5")
    chain(tmp_path / "parts.h5", 31)  # too short for a pilot
    parts = chain(tmp_path / "parts.h5", resume=True)
    assert parts.evaluation.keys() == whole.evaluation.keys()
    for name, value in whole.evaluation.items():
        np.testing.assert_array_equal(parts.evaluation[name], value, err_msg=name)


@pytest.mark.usefixtures("always")
def test_the_pilot_goes_on_from_the_fields_of_the_chain(tmp_path, monkeypatch):
    begun = []
    start = pilot.Latent.start
    monkeypatch.setattr(pilot.Latent, "start", lambda self, phi, g: begun.append(phi) or start(self, phi, g))
    run = chain(tmp_path / "run.h5", model=model(two_sector=True))
    last = run.observables["M"][:, -1]
    np.testing.assert_allclose(begun[0].mean(1).numpy(), last, rtol=0, atol=1e-12)
    assert Pilot.stored(run.evaluation).pilot_M2.std() > 0


def test_where_blocks_cost_less_the_summary_says_so(tmp_path):
    """A ring of many correlation lengths, on which the errors of the model add up: blocks leave most of them alone."""
    far = model(lattice=Lattice((48,)))
    run = chain(tmp_path / "run.h5", 800, model=far, chains=64)
    summary = summarise(run)
    assert summary.acceptance < pilot.BELOW
    found = summary.rival
    assert found is not None and found.share < 1 and found.gain > 2
    text = f"(dmmc sample --kernel block --share {found.share:.2g})."
    assert text in str(summary) and "times less time for an effective M^2" in str(summary)
    assert RunSummary.from_json(summary.to_json()).rival == found
    # What it says is true: a chain of the kernel that it names has the autocorrelation time that the pilot found.
    blocks = KernelOptions("block", share=found.share)
    options = SampleOptions(64, blocks, ChainOptions(400, seed=5), 4, discard=50, proposals=4, determinants=0)
    tau = summarise(sample(far, tmp_path / "blocks.h5", options)).observables["M2"]
    error = np.hypot(found.tau_int_error, tau.tau_int_error)
    assert abs(tau.tau_int - found.tau_int) < 5 * error


def test_the_proposal_is_that_of_the_chain(tmp_path, monkeypatch):
    seen = []
    run_pilot = pilot.run_pilot
    monkeypatch.setattr("dmmc.studies.sampling.run_pilot", lambda a, p, *rest: seen.append(p) or run_pilot(a, p, *rest))
    monkeypatch.setattr(pilot, "BELOW", 2.0)
    run = chain(tmp_path / "run.h5")
    assert seen == [flow_proposal(MODEL, 4)] and run.header.kernel["proposal"] == seen[0].describe()

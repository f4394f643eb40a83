"""Pilots at the end of a chain that is accepted seldom: when there are any, what they cost, what they say."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.kernels.independence import Independence
from dmmc.kernels.of_model import KernelOptions
from dmmc.proposals.certificate import Certificate
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.runs.rival import OF_CHAIN, Pilot
from dmmc.runs.summary import estimates, summarise
from dmmc.runs.summary_records import RunSummary
from dmmc.studies import pilot
from dmmc.studies.pilot import Length, pilot_lengths
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.stages import Stages
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from helpers import free_reference, random_model

ACTION, RING = FreeField(1.0), Lattice((24,))
STEPS = 8
"""Integration steps with which log q is the same on both ways."""

ALL = {"block", "hmc", "cycle"}
GOOD, SELDOM = np.zeros(200), np.random.default_rng(1).normal(0, 3, 200)
"""Log weights of proposals that are always accepted, and of some that are accepted in 3 % of all cases (erfc(3/2))."""


def model(two_sector=False, strength=0.3, lattice=RING):
    reference = free_reference(lattice, mean=0.3 * two_sector)
    return random_model(reference, ACTION, two_sector=two_sector, strength=strength)


def chain(path, draws=160, kernel="independence", model=None, resume=False, chains=16, stages=None, steps=STEPS):
    length = ChainOptions(draws, block=16, seed=3)
    options = SampleOptions(chains, KernelOptions(kernel), length, steps, discard=0, proposals=4, determinants=0)
    return sample(model or MODEL, path, options, resume=resume, stages=stages, say=lambda _: None)


MODEL = model()


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(pilot, "BELOW", 2.0)


def works(lengths):
    """Proposals of each chain that pilots take, the clock included."""
    tuning = sum(length.tuning for name, length in lengths.items() if pilot.TRIALS[name].tuning)
    steps = sum(pilot.TRIALS[name].cost * length.steps for name, length in lengths.items())
    return tuning + steps + pilot.TURN * (1 + len(lengths))


def test_when_there_are_pilots_and_how_long_they_are():
    assert pilot_lengths(ACTION, GOOD, 64, 10_000) == {}
    assert pilot_lengths(ACTION, SELDOM, 64, 90) == {}  # a third is too little to say anything
    # Too little for all of them.
    assert pilot_lengths(ACTION, SELDOM, 64, 160).keys() == {"block"}
    assert pilot_lengths(ACTION, SELDOM, 64, 300).keys() == {"block", "hmc"}
    for chains, steps in ((64, 450), (64, 2000), (4, 10_000)):
        lengths = pilot_lengths(ACTION, SELDOM, chains, steps)
        assert lengths.keys() == ALL
        assert 0.9 * steps / 3 < works(lengths) <= steps / 3
    # Long chains need no longer pilots, and many chains only as many steps as say anything.
    longest = pilot_lengths(ACTION, SELDOM, 64, 100_000)
    assert longest == pilot_lengths(ACTION, SELDOM, 64, 10_000)
    assert works(longest) <= pilot.PUSHES / 64 + pilot.TURN * (1 + len(ALL))
    least = pilot_lengths(ACTION, SELDOM, 10**6, 10**5)
    assert least.keys() == ALL and works(least) < 300


@pytest.mark.parametrize("declared", [{"has_grad": False}, {"costly": True}])
def test_hmc_takes_part_where_forces_are_to_be_had_and_cheap(declared):
    """What is left gets all of the time."""
    action = dataclasses.make_dataclass("Declared", [], bases=(FreeField,), frozen=True, namespace=declared)(1.0)
    assert pilot_lengths(action, SELDOM, 64, 400).keys() == {"block"}
    assert 0.9 * 400 / 3 < works(pilot_lengths(action, SELDOM, 64, 400)) <= 400 / 3


def test_a_chain_that_is_accepted_often_has_none(tmp_path):
    run = chain(tmp_path / "run.h5", model=model(strength=0.0))
    assert Pilot.stored(run.evaluation) == () and summarise(run).rivals == ()
    assert run.record.step_seconds == {}


@pytest.mark.parametrize("kernel", ["block", "cycle", "path"])
@pytest.mark.usefixtures("always")
def test_other_kernels_have_none(kernel, tmp_path):
    length = ChainOptions(160, seed=3)
    steps = "auto" if kernel == "path" else STEPS
    options = SampleOptions(16, KernelOptions(kernel), length, steps, discard=0, proposals=4, determinants=0)
    assert Pilot.stored(sample(MODEL, tmp_path / "run.h5", options).evaluation) == ()


def test_the_chain_does_not_notice(tmp_path, monkeypatch):
    stages = Stages()
    monkeypatch.setattr(pilot, "BELOW", 2.0)
    with_pilots = chain(tmp_path / "with.h5", 450, stages=stages)
    monkeypatch.setattr(pilot, "BELOW", 0.0)
    without = chain(tmp_path / "without.h5", 450)
    stored = {one.kernel: one for one in Pilot.stored(with_pilots.evaluation)}
    assert stored.keys() == ALL and "pilot" in stages.seconds
    assert Pilot.stored(without.evaluation) == ()
    for name, value in without.observables.items():
        np.testing.assert_array_equal(with_pilots.observables[name], value)
    for name, value in without.evaluation.items():
        np.testing.assert_array_equal(with_pilots.evaluation[name], value)
    for name, length in pilot_lengths(ACTION, SELDOM, 16, 450).items():
        shape = (16, length.steps)
        assert stored[name].acceptance.shape == stored[name].series["M2"].shape == shape
        np.testing.assert_allclose(stored[name].series["M"] ** 2, stored[name].series["M2"], rtol=1e-12)
    assert with_pilots.record.step_seconds.keys() == {OF_CHAIN} | ALL
    assert all(0 < seconds < 60 for seconds in with_pilots.record.step_seconds.values())


@pytest.mark.usefixtures("always")
def test_a_run_that_goes_on_has_the_same_pilots(tmp_path):
    whole = chain(tmp_path / "whole.h5", 450)
    chain(tmp_path / "parts.h5", 31)  # too short for a pilot
    parts = chain(tmp_path / "parts.h5", 450, resume=True)
    assert parts.evaluation.keys() == whole.evaluation.keys()
    for name, value in whole.evaluation.items():
        np.testing.assert_array_equal(parts.evaluation[name], value, err_msg=name)
    assert parts.record.step_seconds.keys() == whole.record.step_seconds.keys()


@pytest.mark.usefixtures("always")
def test_pilots_go_on_from_the_fields_of_the_chain(tmp_path, monkeypatch):
    begun = []
    for kernel in (pilot.Latent, pilot.HMC, pilot.Cycle):
        start = kernel.start
        monkeypatch.setattr(kernel, "start", lambda self, phi, g, start=start: begun.append(phi) or start(self, phi, g))
    run = chain(tmp_path / "run.h5", 450, model=model(two_sector=True))
    last = run.observables["M"][:, -1]
    assert len(begun) > 3
    for phi in begun[:2]:  # HMC within the cycle goes on from elsewhere
        np.testing.assert_allclose(phi.mean(1).numpy(), last, rtol=0, atol=1e-12)
    assert all(one.series["M2"].std() > 0 for one in Pilot.stored(run.evaluation))


@pytest.mark.usefixtures("always")
def test_a_cycle_is_not_tried_where_the_way_back_is_another_one(tmp_path):
    """With one step log q is off by 0.5, and a cycle accepts what independent proposals do not."""
    run = chain(tmp_path / "run.h5", 450, steps=1)
    assert Certificate.stored(run.evaluation).way_back > 5 * pilot.MOST_SHIFT
    assert {one.kernel for one in Pilot.stored(run.evaluation)} == {"block", "hmc"}


def test_a_pilot_whose_tuning_fails_is_left_out(tmp_path, monkeypatch):
    def refused(self, state, generator, n_steps=60):
        raise DmmcError("no step size is accepted")

    monkeypatch.setattr(pilot, "BELOW", 2.0)
    monkeypatch.setattr(pilot.HMC, "tune", refused)
    run = chain(tmp_path / "run.h5", 450)
    assert [one.kernel for one in Pilot.stored(run.evaluation)] == ["block"]


def test_the_time_of_a_step_is_that_of_all_chains(monkeypatch):
    """A step of 20 ms at least, on any machine: sleeping does not take less than it says."""

    @dataclasses.dataclass(frozen=True)
    class Sleeper(Independence):
        seconds: float = 0.0

        def steps(self, state, n, generator):
            time.sleep(n * self.seconds)
            yield from super().steps(state, n, generator)

    flow = flow_proposal(MODEL, 2)
    slow, fast = (Sleeper(ACTION, RING, flow, seconds=seconds) for seconds in (0.02, 0.0))
    trial = dataclasses.replace(pilot.TRIALS["cycle"], make=lambda action, flow: slow)
    monkeypatch.setitem(pilot.TRIALS, "cycle", trial)
    generator = torch.Generator().manual_seed(1)
    _, seconds = pilot.run_pilots(fast, flow, fast.initial(4, generator), {"cycle": Length(10, 8)}, 1)
    assert seconds["cycle"] > 0.02 and seconds[OF_CHAIN] > 0
    _, seconds = pilot.run_pilots(slow, flow, slow.initial(4, generator), {}, 1)
    assert seconds[OF_CHAIN] > 0.02


def test_where_another_kernel_costs_less_the_summary_says_so(tmp_path):
    """A ring of many correlation lengths, on which the errors of the model add up: HMC moves all parts at once."""
    run = chain(tmp_path / "run.h5", 800, model=model(lattice=Lattice((48,))), chains=64)
    summary = summarise(run)
    assert summary.acceptance < pilot.BELOW
    assert [one.observable for one in summary.rivals] == ["M2", "M"]
    for one in summary.rivals:  # which of the kernels they are depends on the clock
        assert one.kernel in {"hmc", "cycle"} and one.gain > 2
        assert f"({one.command})" in str(summary) and "times less time" in str(summary)
    assert RunSummary.from_json(summary.to_json()).rivals == summary.rivals


@pytest.mark.parametrize("kernel", ["block", "cycle"])
def test_a_chain_of_the_kernel_has_the_autocorrelation_time_that_a_pilot_found(kernel, tmp_path):
    flow, generator = flow_proposal(MODEL, STEPS), torch.Generator().manual_seed(1)
    mine = Independence(ACTION, RING, flow)
    (found,), _ = pilot.run_pilots(mine, flow, mine.initial(64, generator), {kernel: Length(20, 300)}, 1)
    length = ChainOptions(300, seed=5)
    options = SampleOptions(
        64, KernelOptions(kernel, **found.options), length, STEPS, discard=50, proposals=4, determinants=0
    )
    means = estimates(sample(MODEL, tmp_path / "other.h5", options))
    for name, series in found.series.items():
        tau, resolved = resolved_tau(series)
        assert resolved
        assert abs(tau.tau_int - means[name].tau_int) < 5 * np.hypot(tau.tau_int_error, means[name].tau_int_error)


def test_the_proposal_is_that_of_the_chain(tmp_path, monkeypatch):
    seen = []
    run_pilots = pilot.run_pilots
    monkeypatch.setattr(
        "dmmc.studies.sampling.run_pilots", lambda k, p, *rest: seen.append((k, p)) or run_pilots(k, p, *rest)
    )
    monkeypatch.setattr(pilot, "BELOW", 2.0)
    run = chain(tmp_path / "run.h5")
    ((kernel, flow),) = seen
    assert flow == flow_proposal(MODEL, STEPS) and run.header.kernel == kernel.describe()

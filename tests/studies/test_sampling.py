"""The exact chain of a model from Python: steps, beginning, reference, certificate."""

import math

import numpy as np
import pytest

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.of_model import KERNELS, KernelOptions
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.certificate import Certificate
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import StepChoice
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies import sampling
from dmmc.studies.sampling import DISCARD_UNKNOWN, SampleOptions, predicted_discard, sample
from dmmc.studies.stages import Stages
from dmmc.theory.actions import FreeField
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, SMALL, free_draws, free_reference, random_model, rng

LATTICE, ACTION = Lattice((3, 2)), FreeField(0.7)
REFERENCE = free_reference(LATTICE)
PHAT2 = np.add.outer(*(4 * np.sin(np.pi * np.arange(extent) / extent) ** 2 for extent in LATTICE.shape))
PROPAGATOR = 1 / (PHAT2 + ACTION.mass**2)


@pytest.fixture(scope="module")
def exact():
    """A model of a free field that is the free field."""
    return DiffusionModel.untrained(REFERENCE, ACTION, config=SMALL.describe(), symmetry="z2", generator=rng())


@pytest.fixture(scope="module")
def rough():
    """A model of it with random weights, whose proposals are often rejected."""
    return random_model(REFERENCE, ACTION, strength=0.2)


def short(draws=8, **changes):
    return SampleOptions(**({"chains": 8, "run": ChainOptions(draws, seed=1), "flow_steps": 4} | changes))


def test_the_beginning_that_is_discarded():
    # Equal weights: every proposal is accepted, and the chain forgets its beginning in one step.
    assert predicted_discard(np.zeros(100)) == math.ceil(sampling.DISCARD_TIMES)
    assert predicted_discard(None) == DISCARD_UNKNOWN
    # Two weights 1 and w with equal probability: in equilibrium w/(1+w) of the chains are at the larger one, which is
    # left with probability (1 + 1/w) / 2, the smaller one always.
    w = 9.0
    time = (w * 2 / (1 + 1 / w) + 1) / (1 + w)
    assert predicted_discard(np.log([1.0, w] * 500)) == math.ceil(sampling.DISCARD_TIMES * time)


def test_an_exact_model(exact, tmp_path):
    stages = Stages()
    run = sample(exact, tmp_path / "chain.h5", short(64, flow_steps="auto"), stages=stages)
    assert run.stats["accepted"].mean() > 0.999
    # log w = log Z = 1/2 sum_p log(2 pi C(p)) for every field.
    log_z = 0.5 * float(np.log(2 * math.pi * PROPAGATOR).sum())
    np.testing.assert_allclose(run.stats["log_w"], log_z, atol=1e-3)
    # One step more if rounding rejects a proposal.
    assert sampling.DISCARD_TIMES <= run.header.discard <= sampling.DISCARD_TIMES + 1
    summary = summarise(run)
    x = summary.observables["phi2"]
    assert abs(x.value - float(PROPAGATOR.mean())) < SIGMA * x.error
    assert {"choice of steps", "warm-up", "chain", "certificate"} == run.record.wall_seconds.keys()
    assert run.record.wall_seconds["certificate"] == stages.seconds["certificate"]
    assert run.header.provenance["symmetry"]["symmetry"] == "z2"


def test_the_reference_is_weighed_and_checked(rough, tmp_path):
    fields = free_draws(REFERENCE, 700, seed=5)
    run = sample(rough, tmp_path / "chain.h5", short(), reference=fields)
    assert run.evaluation["log_w_reference"].shape == (sampling.REFERENCE_FIELDS,)
    with pytest.raises(MismatchError, match="does not fit the action"):
        sample(rough, tmp_path / "other.h5", short(), reference=0.7 * fields)
    with pytest.raises(DmmcError, match="at least 24"):
        sample(rough, tmp_path / "other.h5", short(), reference=fields[:10])
    assert not list(tmp_path.glob("other*"))
    said = []
    one_sided = fields[fields.flatten(1).mean(1) > 0]
    sample(rough, tmp_path / "said.h5", short(), reference=one_sided, say=said.append)
    assert any("note on the reference: all fields have M > 0" in remark for remark in said)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_runs_and_goes_on(kernel, rough, tmp_path):
    # Blocks of 1, 2, 4 draws: 3 is the end of one of them.
    how = {"kernel": KernelOptions(kernel), "flow_steps": 1}
    if not KernelOptions(kernel).uses_flow:
        how = {"kernel": KernelOptions(kernel, path_steps=4), "flow_steps": "auto"}
    whole = sample(rough, tmp_path / "whole.h5", short(7, **how))
    sample(rough, tmp_path / "parts.h5", short(3, **how))
    parts = sample(rough, tmp_path / "parts.h5", short(7, **how), resume=True, say=lambda _: None)
    assert parts.header == whole.header and parts.header.discard > 0
    for name, values in whole.observables.items():
        np.testing.assert_array_equal(parts.observables[name], values)
    assert ("delta" in whole.evaluation) == ("flow" in whole.header.provenance) == KernelOptions(kernel).uses_flow
    if "delta" in whole.evaluation:
        assert Certificate.stored(parts.evaluation) is not None
        np.testing.assert_array_equal(parts.evaluation["delta"], whole.evaluation["delta"])


def test_steps_that_cannot_reach_the_goal_are_remarked_on(rough, tmp_path, monkeypatch):
    said, certificate = [], Certificate(*(np.linspace(-1, 1, 16) for _ in range(5)))
    monkeypatch.setattr(
        sampling, "choose_steps", lambda proposal, *_, **__: StepChoice(flow_proposal(rough, 2), certificate, 1e-4)
    )
    sample(rough, tmp_path / "chain.h5", short(flow_steps="auto"), say=said.append)
    assert len(said) == 1 and "1.0e-04 was asked for" in said[0]


def test_long_work_is_announced(rough, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sampling.chain, "run", lambda *args, **kwargs: None)
    monkeypatch.setattr(sampling, "load_run", lambda path: None)
    ready = sampling._ready
    monkeypatch.setattr(sampling, "_ready", lambda *args: (*ready(*args)[:3], 2.0))
    sample(rough, tmp_path / "chain.h5", short(56, discard=4), say=said.append)
    assert said == ["the chain will take about 2 min 0 s"]


def test_how_many_determinants():
    run = ChainOptions(100, seed=1)
    assert SampleOptions(chains=64, run=run).determinants_on(4) == 16  # 256 integrations beside 6,400
    assert SampleOptions(chains=64, run=run).determinants_on(64) == 0
    assert SampleOptions(chains=64, run=run, determinants=8).determinants_on(256) == 8
    for bad in (SampleOptions(determinants=17), SampleOptions(determinants=-1)):
        with pytest.raises(DmmcError, match="no more than the 16 proposals"):
            bad.determinants_on(16)
    with pytest.raises(DmmcError, match="at most 256 sites"):
        SampleOptions(determinants=8).determinants_on(257)
    with pytest.raises(DmmcError, match="kernels with a flow"):
        SampleOptions(determinants=8, kernel=KernelOptions("path")).determinants_on(16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "must be positive"),
        ({"discard": -1}, "must not be negative"),
        ({"flow_steps": 0}, "positive numbers of steps"),
        ({"flow_steps": ()}, "positive numbers of steps"),
        ({"flow_steps": "many"}, "positive numbers of steps"),
        ({"proposals": 1}, "at least 2 proposals"),
        ({"flow_steps": 4, "kernel": KernelOptions("path")}, "has no integrator"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(DmmcError, match=message):
        SampleOptions(**options)


def test_models_that_are_refused(rough, tmp_path):
    with pytest.raises(MismatchError, match="was trained for"):
        sample(rough, tmp_path / "chain.h5", short(), action=FreeField(0.8))
    unknown = random_model(REFERENCE)
    with pytest.raises(DmmcError, match="does not say its action"):
        sample(unknown, tmp_path / "chain.h5", short())
    assert not list(tmp_path.iterdir())

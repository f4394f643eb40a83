"""Exact chains of a model, with every kernel: stored, resumed bit for bit, certified and summarised."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.of_model import KERNELS, KernelOptions
from dmmc.kernels.path import PathIndependence
from dmmc.model import transport
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals.certificate import Certificate
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import StepChoice
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies import sampling
from dmmc.studies.chain import WARM_UP
from dmmc.studies.sampling import SampleOptions, predicted_discard, sample
from dmmc.studies.stages import Stages
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, SMALL, Grid, free_draws, free_reference, random_model, rng

# Two sites, with a model far from perfect.
ACTION, GRID = Phi4(0.2, 0.3), Grid.make(2, 3.5, 201)
MODEL = random_model(free_reference(Lattice((2,)), mass=1.2), ACTION, strength=0.3)
OPTIONS = {
    "independence": KernelOptions(),
    "latent": KernelOptions("latent", target_acceptance=0.9),
    "block": KernelOptions("block", target_acceptance=0.9),
    "path": KernelOptions("path", path_steps=4),
    "refresh": KernelOptions("refresh", path_steps=6, level=0.4),
    "cycle": KernelOptions("cycle", trajectory=2.0),
}


def chains(path, draws, kernel="independence", resume=False, reference=None, **changes):
    length = ChainOptions(draws, block=4, keep_every=2, seed=2)
    steps = 2 if OPTIONS[kernel].uses_flow else "auto"
    options = SampleOptions(
        **{"chains": 6, "flow_steps": steps, "proposals": 4, **changes}, kernel=OPTIONS[kernel], run=length
    )
    return sample(MODEL, path, options, reference=reference, resume=resume, say=lambda _: None)


def test_every_kernel_is_tested_here():
    assert set(OPTIONS) == set(KERNELS)


@pytest.mark.parametrize("name", OPTIONS)
def test_chains_are_stored_extended_and_summarised(name, tmp_path):
    reference = GRID.draws(ACTION, 30)
    whole = chains(tmp_path / "whole.h5", 15, name, reference=reference)
    chains(tmp_path / "parts.h5", 7, name, reference=reference)
    parts = chains(tmp_path / "parts.h5", 15, name, resume=True, reference=reference)
    np.testing.assert_array_equal(parts.observables["M"], whole.observables["M"])
    np.testing.assert_array_equal(parts.cfgs(), whole.cfgs())
    assert parts.evaluation.keys() == whole.evaluation.keys()
    for key, value in whole.evaluation.items():
        np.testing.assert_array_equal(parts.evaluation[key], value, err_msg=key)

    uses_flow, has_weights = OPTIONS[name].uses_flow, name in ("independence", "latent", "block", "path")
    assert ("delta" in whole.evaluation) == uses_flow
    assert ("log_w_reference" in whole.evaluation) == has_weights
    assert not has_weights or whole.evaluation["log_w_reference"].shape == (30,)
    assert whole.evaluation["denoising"].shape == (5, 2)
    assert whole.header.provenance["symmetry"] == {"symmetry": "z2", "evidence": ""}
    summary = summarise(whole)
    assert (summary.bias_bound_sigma is not None) == uses_flow
    assert (summary.ess_fraction is not None) == (name in ("independence", "path"))
    assert 0 < summary.acceptance <= 1 and not summary.facts.inexact


@pytest.mark.parametrize(
    ("name", "steps", "said"), [("cycle", 1, True), ("cycle", 8, False), ("independence", 1, False)]
)
def test_a_cycle_says_so_where_the_way_back_is_another_one(name, steps, said, tmp_path):
    """log q differs by 0.3 and by 0.0004 on the average; a chain of proposals never goes back."""
    run = chains(tmp_path / "run.h5", 200, name, chains=32, flow_steps=steps)
    assert any("log q differs by" in note for note in summarise(run).notes) == said


@pytest.mark.skipif(not transport.has_numba(), reason="Numba is not installed")
@pytest.mark.parametrize("flow_steps", [2, "auto"])
def test_a_run_that_goes_on_keeps_its_arithmetic(flow_steps, tmp_path, monkeypatch):
    """Begun without Numba and extended with it, a run equals one without it; the other way round, it is refused."""
    compiled = chains(tmp_path / "compiled.h5", 7, flow_steps=flow_steps)
    with monkeypatch.context() as patch:
        patch.setattr(transport, "has_numba", lambda: False)
        whole = chains(tmp_path / "whole.h5", 15, flow_steps=flow_steps)
        chains(tmp_path / "parts.h5", 7, flow_steps=flow_steps)
        with pytest.raises(DmmcError, match="needs Numba"):
            chains(tmp_path / "compiled.h5", 15, flow_steps=flow_steps, resume=True)
    parts = chains(tmp_path / "parts.h5", 15, flow_steps=flow_steps, resume=True)
    np.testing.assert_array_equal(parts.cfgs(), whole.cfgs())
    np.testing.assert_array_equal(parts.evaluation["denoising"], whole.evaluation["denoising"])
    assert "compiled" not in parts.header.kernel["proposal"] and compiled.header.kernel["proposal"]["compiled"]


def test_the_header_names_the_kernel(tmp_path):
    header = chains(tmp_path / "run.h5", 4, "refresh").header
    assert header.facts.name == "path_refresh" and header.kernel["level"] == 0.4
    assert "flow" not in header.provenance  # paths have no integrator


def test_automatic_steps_stay_what_they_were(tmp_path):
    first = chains(tmp_path / "run.h5", 4, chains=2, flow_steps="auto")
    # More draws would ask for more steps.
    second = chains(tmp_path / "run.h5", 100, chains=2, flow_steps="auto", resume=True)
    assert first.header.kernel == second.header.kernel
    assert first.header.provenance["flow"] == second.header.provenance["flow"]


def test_determinants_on_request(tmp_path):
    def method(draws, determinants, resume=True):
        run = chains(tmp_path / "run.h5", draws, proposals=8, determinants=determinants, resume=resume)
        return summarise(run).certificate.method

    assert method(4, 0, resume=False) == "step doubling"
    assert method(8, None) == "step doubling"  # not cheap beside so short a chain
    assert method(120, None) == "determinant"
    assert method(124, 0) == "determinant"  # what is there is kept


def test_discarded_steps(tmp_path):
    assert chains(tmp_path / "given.h5", 3, discard=7).header.discard == 7
    predicted = chains(tmp_path / "predicted.h5", 3).header.discard
    assert predicted > 0
    # A run that goes on has thrown its first steps away already.
    assert chains(tmp_path / "predicted.h5", 7, resume=True).header.discard == predicted
    assert chains(tmp_path / "refresh.h5", 3, "refresh").header.discard == WARM_UP
    # Equal weights: nothing is ever rejected, and nothing remembered.
    assert predicted_discard(np.zeros(1000)) < predicted_discard(np.random.default_rng(1).normal(size=1000))


def test_the_warm_up_is_in_proportion_to_the_chain_and_kept_when_it_is_extended(tmp_path, monkeypatch):
    steps, tune = [], PathIndependence.tune

    def noted(kernel, state, generator, n_steps):
        steps.append(n_steps)
        return tune(kernel, state, generator, n_steps)

    monkeypatch.setattr(PathIndependence, "tune", noted)
    first = chains(tmp_path / "run.h5", 4, "path")
    second = chains(tmp_path / "run.h5", 120, "path", resume=True)
    assert first.header.kernel == second.header.kernel
    chains(tmp_path / "long.h5", 120, "path")
    assert steps == [sampling.LEAST_WARM_UP, sampling.LEAST_WARM_UP, 30]
    assert SampleOptions().warm_up == WARM_UP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chains": 0}, "chains must be a positive integer"),
        ({"discard": -1}, "discard must be an integer of at least 0"),
        ({"discard": 10**12}, "discard must be at most 10000000"),
        ({"flow_steps": 0}, "number of steps must be a positive integer"),
        ({"flow_steps": 2.5}, "number of steps must be a positive integer, got 2.5"),
        ({"flow_steps": "many"}, "or 'auto'"),
        ({"proposals": 1}, "at least 2 proposals"),
        ({"determinants": 5}, "no more than the 4 proposals"),
        ({"determinants": -1}, "no more than the 4 proposals"),
        ({"flow_steps": ()}, "must be positive integers, and there are none"),
        ({"flow_steps": 4, "kernel": "path"}, "has no integrator"),
    ],
)
def test_bad_options(change, message, tmp_path):
    with pytest.raises(DmmcError, match=message):
        chains(tmp_path / "run.h5", 3, **change)
    assert not list(tmp_path.iterdir())


def test_determinants_need_a_flow(tmp_path):
    with pytest.raises(DmmcError, match="for kernels with a flow"):
        chains(tmp_path / "run.h5", 3, "path", determinants=2)


# A free field, of which everything is known

FREE_LATTICE, FREE = Lattice((3, 2)), FreeField(0.7)
REFERENCE = free_reference(FREE_LATTICE)
PHAT2 = np.add.outer(*(4 * np.sin(np.pi * np.arange(extent) / extent) ** 2 for extent in FREE_LATTICE.shape))
PROPAGATOR = 1 / (PHAT2 + FREE.mass**2)


@pytest.fixture(scope="module")
def exact():
    """A model of a free field that is the free field."""
    return DiffusionModel.untrained(REFERENCE, FREE, config=SMALL.describe(), symmetry="z2", generator=rng())


@pytest.fixture(scope="module")
def rough():
    """A model of it with random weights, whose proposals are often rejected."""
    return random_model(REFERENCE, FREE, strength=0.2)


def short(draws=8, **changes):
    return SampleOptions(**({"chains": 8, "run": ChainOptions(draws, seed=1), "flow_steps": 4} | changes))


def test_the_beginning_that_is_discarded():
    # Equal weights: every proposal is accepted, and the chain forgets its beginning in one step.
    assert predicted_discard(np.zeros(100)) == math.ceil(sampling.DISCARD_TIMES)
    assert predicted_discard(None) == WARM_UP
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


def test_steps_that_cannot_reach_the_goal_are_remarked_on(rough, tmp_path, monkeypatch):
    said, certificate = [], Certificate(*(np.linspace(-1, 1, 16) for _ in range(5)))
    monkeypatch.setattr(
        sampling, "choose_steps", lambda proposal, *_, **__: StepChoice(flow_proposal(rough, 2), certificate, 1e-4)
    )
    sample(rough, tmp_path / "chain.h5", short(flow_steps="auto"), say=said.append)
    assert len(said) == 1 and "1.0e-04 was asked for" in said[0]


def test_known_errors_decide_the_steps_and_the_certificate_judges_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "choose_steps", None)  # which is not needed

    def steps(name, errors, **changes):
        known = replace(MODEL, flow_errors=FlowErrors("dopri5", 5, errors))
        options, said = SampleOptions(6, run=ChainOptions(64, seed=2), **changes), []
        run = sample(known, tmp_path / name, options, say=said.append)
        return tuple(run.header.provenance["flow"]["n_steps"]), said

    intervals = MODEL.network.level_intervals
    strict, said = steps("strict", (((1, 1e-2), (4, 1e-6)),) * intervals)
    loose, _ = steps("loose", (((1, 1e-2), (4, 1e-6)),) * intervals, bias_share=0.5)
    assert said == [] and sum(loose) < sum(strict)
    # Errors that are too good to be true give too few steps, which the certificate of the chain shows.
    wrong, said = steps("wrong", (((1, 1e-12),),) * intervals, bias_share=1e-4)
    assert wrong == (1,) * intervals and len(said) == 1 and "was asked for; ask for less with bias_share" in said[0]
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(DmmcError, match="bias_share must lie between 0 and 1"):
            SampleOptions(bias_share=bad)


def test_long_work_is_announced(rough, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sampling.chain, "run", lambda *args, **kwargs: None)
    monkeypatch.setattr(sampling, "load_run", lambda path: None)
    ready = sampling._ready
    monkeypatch.setattr(sampling, "_ready", lambda *args: (*ready(*args)[:3], 2.0))
    sample(rough, tmp_path / "chain.h5", short(56, discard=4), say=said.append)
    assert said == ["The chain will take about 2 min 0 s."]


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


def test_models_that_are_refused(rough, tmp_path):
    with pytest.raises(MismatchError, match="was trained for"):
        sample(rough, tmp_path / "chain.h5", short(), action=FreeField(0.8))
    unknown = random_model(REFERENCE)
    with pytest.raises(DmmcError, match="does not say its action"):
        sample(unknown, tmp_path / "chain.h5", short())
    assert not list(tmp_path.iterdir())

"""Exact chains of a model, with every kernel: stored, resumed bit for bit, certified and summarised."""

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.kernels.of_model import KERNELS, KernelOptions
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies.sampling import DISCARD_UNKNOWN, SampleOptions, predicted_discard, sample
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice
from helpers import Grid, free_reference, random_model

# Two sites, with a model far from perfect.
ACTION, GRID = Phi4(0.2, 0.3), Grid.make(2, 3.5, 201)
MODEL = random_model(free_reference(Lattice((2,)), mass=1.2), ACTION, strength=0.3)
OPTIONS = {
    "independence": KernelOptions(),
    "latent": KernelOptions("latent", target_acceptance=0.9),
    "path": KernelOptions("path", path_steps=4),
    "refresh": KernelOptions("refresh", path_steps=6, level=0.4),
    "cycle": KernelOptions("cycle", trajectory=2.0),
}


def chains(path, draws, kernel="independence", resume=False, reference=None, **changes):
    length = ChainOptions(draws, block=4, keep_every=2, seed=2)
    options = SampleOptions(
        **{"chains": 6, "flow_steps": 4, "proposals": 4, **changes}, kernel=OPTIONS[kernel], run=length
    )
    return sample(MODEL, path, options, reference=reference, resume=resume)


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

    uses_flow, has_weights = OPTIONS[name].uses_flow, name in ("independence", "latent", "path")
    assert ("delta" in whole.evaluation) == uses_flow
    assert ("log_w_reference" in whole.evaluation) == has_weights
    assert not has_weights or whole.evaluation["log_w_reference"].shape == (30,)
    assert whole.evaluation["denoising"].shape == (5, 2)
    assert whole.header.provenance["symmetry"] == "z2"
    summary = summarise(whole)
    assert (summary.bias_bound_sigma is not None) == uses_flow
    assert (summary.ess_fraction is not None) == (name in ("independence", "path"))
    assert 0 < summary.acceptance <= 1 and not summary.facts.inexact


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
    assert chains(tmp_path / "refresh.h5", 3, "refresh").header.discard == DISCARD_UNKNOWN
    # Equal weights: nothing is ever rejected, and nothing remembered.
    assert predicted_discard(np.zeros(1000)) < predicted_discard(np.random.default_rng(1).normal(size=1000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chains": 0}, "chains must be positive"),
        ({"discard": -1}, "discard must not be negative"),
        ({"flow_steps": 0}, "flow_steps must be positive"),
        ({"flow_steps": "many"}, "or 'auto'"),
        ({"proposals": 1}, "at least 2 proposals"),
        ({"determinants": 5}, "no more than the 4 proposals"),
    ],
)
def test_bad_options(change, message, tmp_path):
    with pytest.raises(DmmcError, match=message):
        chains(tmp_path / "run.h5", 3, **change)
    assert not list(tmp_path.iterdir())


def test_determinants_need_a_flow(tmp_path):
    with pytest.raises(DmmcError, match="for kernels with a flow"):
        chains(tmp_path / "run.h5", 3, "path", determinants=2)

"""Every kernel that ``dmmc sample`` offers, as it is prepared for a model: tuned, exact, resumed bit for bit."""

import math

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.kernels.invariance import assert_invariant
from dmmc.kernels.of_model import KERNELS, SamplerOptions, log_weights, prepare
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import storage
from dmmc.runs.chain import ChainOptions
from dmmc.studies import workflow
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, Grid, free_reference, random_model, rng

# Two sites, with a model far from perfect; everything exact is exact for it as well.
ACTION, GRID = Phi4(0.2, 0.3), Grid.make(2, 3.5, 201)
MODEL = random_model(free_reference(Lattice((2,)), mass=1.2), ACTION, strength=0.3)
OPTIONS = {
    "independence": SamplerOptions(),
    "latent": SamplerOptions("latent", target_acceptance=0.9),
    "path": SamplerOptions("path", path_steps=4),
    "refresh": SamplerOptions("refresh", path_steps=6, level=0.4),
    "hybrid": SamplerOptions("hybrid", trajectory=2.0),
}


def flow(model=MODEL):
    return FlowProposal(model, 12)


def test_every_kernel_is_here():
    assert set(OPTIONS) == set(KERNELS)


@pytest.mark.parametrize("name", OPTIONS)
def test_prepared_kernels_are_invariant(name):
    # alpha of assert_invariant is 1e-4 for each of the five kernels.
    kernel, _ = prepare(OPTIONS[name], ACTION, flow(), 50, seed=3)
    assert_invariant(kernel, GRID.draws(ACTION, 10_000), rng(5))


def test_options_reach_the_kernels():
    latent, _ = prepare(OPTIONS["latent"], ACTION, flow(), 400, seed=3)
    assert latent.theta < math.pi / 2
    steps = latent.steps(latent.start(GRID.draws(ACTION, 4000)), 5, rng())
    accepted = [statistics["accepted"].double().mean() for _, statistics in steps]
    assert float(torch.stack(accepted).mean()) == pytest.approx(0.9, abs=0.04)  # 400 chains tuned it
    path, _ = prepare(OPTIONS["path"], ACTION, flow(), 4, seed=3)
    assert path.proposal.n_steps == 4 and path.proposal.calibration is not None
    refresh, _ = prepare(OPTIONS["refresh"], ACTION, flow(), 4, seed=3)
    assert refresh.level == 0.4 and refresh.proposal.n_steps == 6
    hybrid, _ = prepare(OPTIONS["hybrid"], ACTION, flow(), 40, seed=3)
    (independence, _), (hmc, _) = hybrid.parts
    assert independence.proposal == flow() and hmc.length == pytest.approx(2.0)


def test_defaults():
    assert prepare(SamplerOptions("path"), ACTION, flow(), 4, seed=3)[0].proposal.n_steps == 32
    assert prepare(SamplerOptions("refresh"), ACTION, flow(), 4, seed=3)[0].level == 0.5


def test_weights_of_given_fields():
    # p and q differ by the factor w / Z, for fields and for paths: <min(1, Z/w)> over p is <min(1, w/Z)> over q.
    n = 20_000
    phi = GRID.draws(ACTION, n)
    log_z = float(torch.logsumexp(-ACTION(GRID.phi), 0)) + math.log(GRID.cell)
    for name in ("independence", "path"):
        kernel, _ = prepare(OPTIONS[name], ACTION, flow(), 4, seed=3)
        proposed, log_q = kernel.proposal.sample(n, rng(7))
        of_q = torch.exp(-ACTION(proposed.double()) - log_q - log_z).clamp(max=1)
        of_p = torch.exp(log_z - log_weights(kernel, flow(), phi, rng(8))).clamp(max=1)
        z = (of_p.mean() - of_q.mean()) / ((of_p.var() + of_q.var()) / n).sqrt()
        assert abs(float(z)) < SIGMA


@pytest.mark.parametrize("name", OPTIONS)
def test_chains_are_stored_extended_and_summarised(name, tmp_path):
    reference = GRID.draws(ACTION, 30)

    def run(path, draws, resume=False):
        return workflow.sample(
            MODEL, ACTION, 6, ChainOptions(draws, block=4, keep_every=2, seed=2), path, sampler=OPTIONS[name],
            n_steps=4 if OPTIONS[name].integrates else None, reference=reference, n_delta=4, resume=resume,
        )  # fmt: skip

    whole = run(tmp_path / "whole.h5", 16)
    run(tmp_path / "parts.h5", 8)
    parts = run(tmp_path / "parts.h5", 16, resume=True)
    np.testing.assert_array_equal(parts.observables["M"], whole.observables["M"])
    np.testing.assert_array_equal(parts.cfgs(), whole.cfgs())
    for key, value in whole.evaluation.items():
        np.testing.assert_array_equal(parts.evaluation[key], value, err_msg=key)

    assert ("delta" in whole.evaluation) == OPTIONS[name].integrates
    assert whole.evaluation["log_w_reference"].shape == (30,) and whole.evaluation["denoising"].shape == (5, 2)
    summary = workflow.summarise(whole, workflow.estimates(whole))
    assert (summary["bias_bound_sigma"] is not None) == OPTIONS[name].integrates
    assert (summary["ess_fraction"] is not None) == (name in ("independence", "path"))
    assert 0 < summary["acceptance"] <= 1 and not summary["inexact"]


def test_automatic_steps_stay_what_they_were(tmp_path):
    # Those of a hybrid are in its first part.
    def run(draws, resume):
        return workflow.sample(
            MODEL, ACTION, 2, ChainOptions(draws, block=50, seed=2), tmp_path / "run.h5", sampler=OPTIONS["hybrid"],
            n_steps="auto", n_delta=4, resume=resume,
        )  # fmt: skip

    first, second = run(4, False), run(200, True)  # more draws would ask for more steps
    assert first.header["kernel"] == second.header["kernel"]


BAD = {
    "the kernel is one of": {"kernel": "nonsense"},
    "level is an option of the kernel refresh, not of path": {"kernel": "path", "level": 0.5},
    "path_steps is an option of the kernel path and refresh, not of": {"path_steps": 8},
    "target_acceptance is an option of the kernel latent": {"kernel": "hybrid", "target_acceptance": 0.5},
    "trajectory is an option of the kernel hybrid": {"kernel": "latent", "trajectory": 1.0},
    "target_acceptance must lie between": {"kernel": "latent", "target_acceptance": 1.0},
    "path_steps must be positive": {"kernel": "path", "path_steps": 0},
    "noise level must lie above 0": {"kernel": "refresh", "level": 0.0},
    "not above 1": {"kernel": "refresh", "level": 1.5},
    "trajectory length must be a positive number": {"kernel": "hybrid", "trajectory": math.inf},
}


@pytest.mark.parametrize("message", BAD)
def test_impossible_options(message):
    with pytest.raises(DmmcError, match=message):
        SamplerOptions(**BAD[message])


def test_paths_have_no_flow_steps(tmp_path):
    with pytest.raises(DmmcError, match="has no integrator"):
        workflow.sample(
            MODEL, ACTION, 4, ChainOptions(8), tmp_path / "run.h5", sampler=SamplerOptions("path"), n_steps=4
        )
    assert not list(tmp_path.iterdir())


def test_determinants_on_request(tmp_path):
    def method(draws, resume, determinants):
        run = workflow.sample(
            MODEL, ACTION, 4, ChainOptions(draws, block=4), tmp_path / "run.h5", n_steps=4, n_delta=8,
            determinants=determinants, resume=resume,
        )  # fmt: skip
        return workflow.summarise(run, workflow.estimates(run))["certificate"]["method"]

    assert method(4, False, 0) == "step doubling"
    assert method(8, True, None) == "determinant"  # cheap on two sites
    assert method(12, True, 0) == "determinant"  # what is there is kept


def test_the_header_names_the_kernel(tmp_path):
    workflow.sample(MODEL, ACTION, 4, ChainOptions(4), tmp_path / "run.h5", sampler=OPTIONS["refresh"], n_delta=2)
    header = storage.load_run(tmp_path / "run.h5").header
    assert header["kernel"]["name"] == "path_refresh" and header["kernel"]["level"] == 0.4

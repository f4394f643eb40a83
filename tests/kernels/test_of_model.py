"""Every kernel that takes its proposals from a model, made by name and tuned: exact, and with the options asked for."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.kernels.invariance import assert_invariant
from dmmc.kernels.of_model import KERNELS, KernelOptions, make_kernel
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.of_model import flow_proposal
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, free_reference, random_model, rng

# Two sites, with a model far from perfect; everything exact is exact for it as well.
ACTION, GRID = Phi4(0.2, 0.3), Grid.make(2, 3.5, 201)
MODEL = random_model(free_reference(Lattice((2,)), mass=1.2), ACTION, strength=0.3)
TWO_SECTORS = random_model(free_reference(Lattice((2,)), mass=1.2, mean=0.3), ACTION, two_sector=True, strength=0.3)
FLOW_STEPS = 6
OPTIONS = {
    "independence": KernelOptions(),
    "latent": KernelOptions("latent", target_acceptance=0.9),
    "block": KernelOptions("block", target_acceptance=0.9),
    "path": KernelOptions("path", path_steps=4),
    "refresh": KernelOptions("refresh", path_steps=6, level=0.4),
    "cycle": KernelOptions("cycle", trajectory=2.0),
}


def tuned(options, chains, model=MODEL):
    """The kernel of these options, tuned on so many chains."""
    kernel = make_kernel(options, ACTION, model, flow_proposal(model, FLOW_STEPS) if options.uses_flow else None)
    return kernel.tune(kernel.initial(chains, rng(3)), rng(4), 60)[0]


def test_every_kernel_is_tested_here():
    assert set(OPTIONS) == set(KERNELS)


@pytest.mark.parametrize("model", [MODEL, TWO_SECTORS], ids=["one sector", "two sectors"])
@pytest.mark.parametrize("name", OPTIONS)
def test_tuned_kernels_are_invariant(name, model):
    # The rate of false alarms of assert_invariant is 1e-4 for each of the twelve kernels.
    assert_invariant(tuned(OPTIONS[name], 50, model), GRID.draws(ACTION, 3000 if model.two_sector else 8000), rng(5))


def test_options_reach_the_kernels():
    latent = tuned(OPTIONS["latent"], 200)
    assert latent.theta < math.pi / 2
    steps = latent.steps(latent.start(GRID.draws(ACTION, 2000), rng()), 5, rng())
    accepted = [info.accepted.double().mean() for _, info in steps]
    assert float(torch.stack(accepted).mean()) == pytest.approx(0.9, abs=0.05)  # 200 chains tuned it
    assert 0 < tuned(OPTIONS["block"], 200).share < 1
    fixed = tuned(KernelOptions("latent", angle=0.3), 20), tuned(KernelOptions("block", share=0.5), 20)
    assert [(one.theta, one.share) for one in fixed] == [(0.3, 1), (math.pi / 2, 0.5)]
    path = tuned(OPTIONS["path"], 4)
    assert path.proposal.n_steps == 4 and path.proposal.calibration is not None
    refresh = tuned(OPTIONS["refresh"], 4)
    assert refresh.level == 0.4 and refresh.proposal.n_steps == 6 and refresh.proposal.calibration is not None
    (independence, _), (hmc, _) = tuned(OPTIONS["cycle"], 40).parts
    assert independence.proposal == FlowProposal(MODEL, FLOW_STEPS) and hmc.length == pytest.approx(2.0)


def test_defaults():
    assert make_kernel(KernelOptions("path"), ACTION, MODEL, None).proposal.n_steps == 32
    refresh = make_kernel(KernelOptions("refresh"), ACTION, MODEL, None)
    assert refresh.level == 0.5 and refresh.proposal.n_steps == 32
    assert make_kernel(KernelOptions("latent"), ACTION, MODEL, flow_proposal(MODEL, 4)).target_acceptance == 0.4


def test_only_some_kernels_use_the_flow():
    assert {name for name, options in OPTIONS.items() if options.uses_flow} == {
        "independence",
        "latent",
        "block",
        "cycle",
    }
    with pytest.raises(DmmcError, match="the kernel latent needs the probability flow of the model"):
        make_kernel(OPTIONS["latent"], ACTION, MODEL, None)


@pytest.mark.parametrize("name", ["independence", "latent", "path"])
def test_weights_of_given_fields(name):
    # p and q differ by the factor w / Z, for fields and for paths: <min(1, Z/w)> over p is <min(1, w/Z)> over q.
    n = 8000
    log_z = float(torch.logsumexp(-ACTION(GRID.phi), 0)) + math.log(GRID.cell)
    kernel = tuned(OPTIONS[name], 20)
    of_q = torch.exp(kernel.initial(n, rng(7)).log_w - log_z).clamp(max=1)
    of_p = torch.exp(log_z - kernel.start(GRID.draws(ACTION, n), rng(8)).log_w).clamp(max=1)
    z = (of_p.mean() - of_q.mean()) / ((of_p.var() + of_q.var()) / n).sqrt()
    assert abs(float(z)) < SIGMA


BAD = {
    "the kernel must be one of": {"kernel": "nonsense"},
    "level is an option of the kernel refresh, not of path": {"kernel": "path", "level": 0.5},
    "path_steps is an option of the kernel path and refresh, not of": {"path_steps": 8},
    "angle is an option of the kernel latent, not of block": {"kernel": "block", "angle": 0.5},
    "share is an option of the kernel block, not of independence": {"share": 0.5},
    "target_acceptance tunes what angle fixes": {"kernel": "latent", "angle": 0.5, "target_acceptance": 0.4},
    "target_acceptance tunes what share fixes": {"kernel": "block", "share": 0.5, "target_acceptance": 0.4},
    "angle must lie above 0 and not above pi/2": {"kernel": "latent", "angle": 1.6},
    "share of the sites must lie above 0": {"kernel": "block", "share": 0.0},
    "target_acceptance is an option of the kernel latent and block": {"kernel": "cycle", "target_acceptance": 0.5},
    "trajectory is an option of the kernel cycle": {"kernel": "latent", "trajectory": 1.0},
    "target_acceptance must lie between": {"kernel": "latent", "target_acceptance": 1.0},
    "path_steps must be positive": {"kernel": "path", "path_steps": 0},
    "noise level must lie above 0": {"kernel": "refresh", "level": 0.0},
    "not above 1": {"kernel": "refresh", "level": 1.5},
    "trajectory length must be a positive number": {"kernel": "cycle", "trajectory": math.inf},
}


@pytest.mark.parametrize("message", BAD)
def test_impossible_options(message):
    with pytest.raises(DmmcError, match=message):
        KernelOptions(**BAD[message])

"""The whole claim: a chain whose proposals come from a trained network samples the target, whatever the network is.

Means and errors by the Gamma method. Where several observables are compared, the bound on the largest z-score is that
of a 5 sigma event for all of them together (about 5.6 for the 25 here).
"""

import math

import numpy as np
import pytest
import torch

from checks import bonferroni, mean_shift, observables, steep_model
from dmmc import diagnostics
from dmmc.diagnostics import z_score
from dmmc.kernels.independence import Independence
from dmmc.model.interaction import NetworkSize
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.proposals.certify import measure_delta
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import load_run
from dmmc.runs.summary import bias_bound_sigma, estimates
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, rng

LATTICE = Lattice((8, 8))
ACTION = Phi4(0.26, 0.022)
N_STEPS = 10


def cluster_run(action, path, keep_every=0):
    options = EnsembleOptions("cluster", chains=128, thermalise=40, run=ChainOptions(300, 2, keep_every, block=50))
    return make_ensemble(action, LATTICE, path, options)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A cluster run, from which the model is trained too."""
    return cluster_run(ACTION, tmp_path_factory.mktemp("truth") / "cluster.h5", keep_every=30)


@pytest.fixture(scope="module")
def model(truth, tmp_path_factory):
    """A small model after a short training: good, not perfect."""
    options = TrainingOptions(steps=200, levels=32, trajectories=4)
    size = NetworkSize(filters=4, hidden1=12, hidden2=8)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    phi = torch.as_tensor(truth.cfgs(), dtype=torch.float32)
    shuffled = phi[torch.randperm(len(phi), generator=rng())]
    return train(shuffled, path, options, action=ACTION, config=size.describe())


def comparisons(run, other):
    """z-scores of everything that is measured, each orbit of the two-point function included."""
    a, b = estimates(run), estimates(other)
    z = {name: z_score(a[name], b[name]) for name in a}
    orbits = [
        [diagnostics.gamma_method(r.observables["two_point"][..., k]) for r in (run, other)]
        for k in range(len(LATTICE.orbit_modes))
    ]
    return z | {f"two_point {n}": z_score(*pair) for n, pair in zip(LATTICE.orbit_modes, orbits, strict=True)}


def test_every_observable_agrees_with_cluster_updates(model, truth, tmp_path):
    options = SampleOptions(run=ChainOptions(250, 1, 0, block=50, seed=5), flow_steps=N_STEPS, proposals=64)
    sampled = sample(model, tmp_path / "chain.h5", options)
    z = comparisons(sampled, truth)
    assert set(z) >= {"M", "abs_M", "M2", "M4", "phi2", "S_per_site", "chi2", "chi2_signed", "binder", "xi"}
    assert len(z) == 10 + 15
    assert max(map(abs, z.values())) < bonferroni(len(z)), z
    # A comparison that means something: rejections, errors of a few per cent at most, ...
    accepted, log_w = sampled.stats["accepted"], sampled.stats["log_w_proposed"]
    assert 0.5 < accepted.mean() < 0.98
    means = estimates(sampled)
    assert all(means[name].error < 0.03 * means[name].value for name in ("M2", "chi2", "xi", "phi2", "S_per_site"))
    # ... and an integrator whose error is far below them.
    assert bias_bound_sigma(sampled) < 5e-3
    # Chains are stationary but for their first draws: their acceptance is that of their weights.
    by_chain = accepted.mean(1) - np.array([diagnostics.expected_acceptance(x) for x in log_w])
    assert abs(by_chain.mean()) < SIGMA * by_chain.std(ddof=1) / math.sqrt(len(by_chain))


def test_a_model_of_another_coupling_still_gives_an_exact_chain(model, tmp_path):
    # The model proposes for kappa = 0.26, the target is 0.245: wrong proposals, low acceptance, right results.
    action, path = Phi4(0.245, 0.022), tmp_path / "chain.h5"
    kernel = Independence(action, LATTICE, FlowProposal(model, N_STEPS))
    chain.run(kernel, lambda: kernel.initial(64, rng(2)), ChainOptions(200, 1, 0, block=50), path)
    run, other = load_run(path), cluster_run(action, tmp_path / "cluster.h5")
    z = comparisons(run, other)
    assert max(map(abs, z.values())) < bonferroni(len(z)), z
    assert 0.1 < run.stats["accepted"].mean() < 0.8
    phi, _ = FlowProposal(model, N_STEPS).sample(1000, rng(3))
    M2, exact = phi.double().mean((1, 2)).square(), estimates(other)["M2"]
    assert float(M2.mean() - exact.value) > 10 * math.hypot(float(M2.std()) / math.sqrt(1000), exact.error)


@pytest.mark.parametrize("two_sector", [False, True], ids=["odd", "two-sector"])
def test_two_sites_against_quadrature(two_sector):
    # Random weights: the proposals are poor, the chain is exact. Seven means of 500 chains.
    lattice, action, chains = Lattice((2,)), Phi4(0.25, 0.1), 500
    # Wide proposals, whose weights are bounded: the chains then forget their start within a few dozen steps.
    reference = GaussianReference(lattice, torch.tensor([2.4, 1.0]), mean=0.4 if two_sector else 0.0)
    proposal = flow_proposal(steep_model(reference, two_sector), n_steps=8)
    assert float(measure_delta(proposal, 500, rng()).std()) < 1e-3
    kernel = Independence(action, lattice, proposal)
    steps = list(kernel.steps(kernel.initial(chains, rng(1)), 100, rng(2)))
    assert 0.3 < float(torch.stack([info.accepted for _, info in steps]).double().mean()) < 0.95
    phi = torch.stack([state.phi for state, _ in steps[50:]])
    # Chains are independent: the scatter of their means is the error, whatever the autocorrelation.
    means = torch.stack([columns(x, lattice, action) for x in phi]).mean(0)
    grid = Grid.make(2, half_width=7, n=301)
    exact = grid.probabilities(action) @ columns(grid.phi, lattice, action)
    assert mean_shift(means - exact) < 1


def columns(phi, lattice, action):
    return torch.cat([observables(phi, lattice), action(phi)[:, None].cos()], 1)

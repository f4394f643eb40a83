"""What only a CUDA device can show: the same numbers as on the CPU, exact chains, and bits that do not change.

All of it is skipped where there is no such device.
"""

import math

import numpy as np
import pytest
import torch

import checks
import dmmc
from dmmc.core import rng as streams
from dmmc.core.graphs import RECORDED_FROM
from dmmc.kernels.base import advance
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC, leapfrog
from dmmc.kernels.of_model import KERNELS, KernelOptions, make_kernel
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.proposals.certify import certify
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_draws, free_reference, hmc_ensemble, noise, random_model, z_scores

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
LATTICE = Lattice((8, 8))
ACTION = Phi4(0.2, 0.3)
FREE = FreeField(0.7)
OPTIONS = {
    "independence": KernelOptions(),
    "latent": KernelOptions("latent", target_acceptance=0.7),
    "block": KernelOptions("block", target_acceptance=0.7),
    "path": KernelOptions("path", path_steps=40),
    "refresh": KernelOptions("refresh", path_steps=8, level=0.3),
    "cycle": KernelOptions("cycle", trajectory=2.0),
}


def model_on(device, action=ACTION, dtype=torch.float32, strength=0.2):
    """One random model, the same on every device."""
    model = random_model(free_reference(LATTICE), action, strength=strength, dtype=dtype)
    model.network.to(device)
    return model


def assert_same_run(one, other):
    assert one.observables.keys() == other.observables.keys()
    for name, values in one.observables.items():
        np.testing.assert_array_equal(other.observables[name], values, err_msg=name)
    np.testing.assert_array_equal(other.cfgs(), one.cfgs())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-3)])
@pytest.mark.parametrize("two_sector", [False, True])
def test_fields_and_densities_are_those_of_the_cpu(two_sector, dtype, bound):
    # float32 carries 6e-8 a site and step, which 64 sites, 8 steps of 4 evaluations and factors of some 10 add up to
    # 1e-3 at most; TF32, which has 13 bits less, would be off by 100 times as much.
    fields, densities = [], []
    latents = noise(LATTICE, 40).to(dtype)
    for device in ("cpu", DEVICE):
        model = random_model(free_reference(LATTICE), ACTION, two_sector=two_sector, strength=0.2, dtype=dtype)
        model.network.to(device)
        flow = flow_proposal(model, 8)
        phi, log_q = (
            flow.push(flow.latents(40, streams.stream(1, "x", device=device)))
            if two_sector
            else flow.push(latents.to(device))
        )
        if two_sector:  # densities of one set of fields: which sector a field comes from is drawn
            phi = free_draws(free_reference(LATTICE), 40).to(device)
            log_q = flow.log_q(phi)
        assert phi.device.type == torch.device(device).type and log_q.dtype == torch.float64
        fields.append(phi.cpu())
        densities.append(log_q.cpu())
    torch.testing.assert_close(fields[1], fields[0], rtol=0, atol=bound)
    torch.testing.assert_close(densities[1], densities[0], rtol=0, atol=bound)


def test_certificates_are_those_of_the_cpu():
    deltas = {}
    for device in ("cpu", DEVICE):
        flow = flow_proposal(model_on(device, dtype=torch.float64, strength=0.4), 3)
        deltas[device] = flow.by_determinant(noise(LATTICE, 4).to(device))[2].cpu()
    # Central differences have errors of 1e-10 in each of 64^2 elements, and deltas are of order 1 here.
    torch.testing.assert_close(deltas[DEVICE], deltas["cpu"], rtol=0, atol=1e-5)
    measured = certify(flow_proposal(model_on(DEVICE, strength=0.1), 6), 8, determinants=8).summary()
    assert math.isfinite(measured.limit_95)


def test_observables_are_those_of_the_cpu():
    phi = noise(LATTICE, 20)
    values = {d: measure(phi.to(d), ACTION(phi.to(d)), LATTICE, {}) for d in ("cpu", DEVICE)}
    for name, exact in values["cpu"].items():
        torch.testing.assert_close(values[DEVICE][name].cpu(), exact, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("action", [ACTION, dmmc.SineGordon(0.3, 1.0, 2.0), dmmc.ExternalField(ACTION, 0.2)])
def test_recorded_trajectories_are_those_of_single_operations(action):
    kernel = HMC.default(action, LATTICE)
    fields = (noise(LATTICE, 20).to(DEVICE), noise(LATTICE, 20, seed=5).to(DEVICE))
    step = torch.linspace(0.05, 0.1, 20, dtype=torch.float64, device=DEVICE)
    for turn in range(RECORDED_FROM + 2):  # fields and steps are other ones every time
        phi, pi = (x * (1 + turn) for x in fields)
        expected = leapfrog(action, kernel.n_leapfrog, phi, pi, (step / (1 + turn)).view(-1, 1, 1))
        torch.testing.assert_close(kernel.trajectory(phi, pi, step / (1 + turn)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [*KERNELS, "hmc"])
def test_one_step_leaves_the_free_field_invariant(name):
    lattice = Lattice((4, 4))
    reference, generator = free_reference(lattice), streams.stream(3, name, device=DEVICE)
    if name == "hmc":
        kernel = HMC.default(FREE, lattice)
    else:
        model = random_model(reference, FREE, strength=0.05)
        model.network.to(DEVICE)
        kernel = make_kernel(OPTIONS[name], FREE, model, flow_proposal(model, 6))
    # Kernels of paths are calibrated on fields, which must not be those of the test.
    kernel, _ = kernel.tune(kernel.start(free_draws(reference, 256, seed=7).to(DEVICE), generator), generator)
    phi = free_draws(reference, 4000).to(DEVICE)
    state = advance(kernel, kernel.start(phi, generator), 1, generator)
    assert state.phi.device.type == torch.device(DEVICE).type
    assert (state.phi != phi).flatten(1).any(1).double().mean() > 0.02
    before, after = (checks.bulk(x, FREE(x)) for x in (phi, state.phi))
    assert float(z_scores((after - before).cpu()).abs().max()) < SIGMA


@pytest.mark.parametrize("name", OPTIONS)
def test_chains_repeat_and_resume_bit_for_bit(name, tmp_path):
    def chains(file, draws, resume=False):
        length = ChainOptions(draws, block=4, keep_every=2, seed=2)
        steps = 2 if OPTIONS[name].uses_flow else "auto"
        options = SampleOptions(chains=6, kernel=OPTIONS[name], run=length, flow_steps=steps, proposals=4)
        return sample(model_on(DEVICE), tmp_path / file, options, resume=resume, say=lambda _: None)

    whole = chains("whole.h5", 11)
    assert_same_run(chains("again.h5", 11), whole)
    chains("parts.h5", 7)  # blocks of 1, 2 and 4 draws
    assert_same_run(chains("parts.h5", 11, resume=True), whole)


@pytest.mark.parametrize("method", ["hmc", "cluster"])
def test_ensembles_repeat_and_resume_bit_for_bit(method, tmp_path):
    def ensemble(file, draws, resume=False):
        options = EnsembleOptions(method, 8, 20, run=ChainOptions(draws, block=4, keep_every=2, seed=2))
        return make_ensemble(ACTION, LATTICE, tmp_path / file, options, resume=resume, device=DEVICE)

    whole = ensemble("whole.h5", 11)
    assert_same_run(ensemble("again.h5", 11), whole)
    ensemble("parts.h5", 7)  # blocks of 1, 2 and 4 draws
    assert_same_run(ensemble("parts.h5", 11, resume=True), whole)


def test_clusters_sample_the_same_theory_as_on_the_cpu():
    means = []
    for device in ("cpu", DEVICE):
        kernel, generator = Cluster.default(ACTION, LATTICE), streams.stream(5, "cluster", device=device)
        phi = hmc_ensemble(ACTION, LATTICE.shape, n=2000).to(device)
        state = advance(kernel, kernel.start(phi, generator), 5, generator)
        means.append(measure(state.phi, state.S, LATTICE, {})["M2"].cpu())
    difference = means[0].mean() - means[1].mean()
    assert abs(float(difference)) < SIGMA * math.sqrt(sum(float(x.var()) / len(x) for x in means))


def test_training_repeats_and_its_model_is_read_on_the_cpu(tmp_path):
    phi = hmc_ensemble(ACTION, LATTICE.shape, n=1000)
    options = TrainingOptions(steps=30, levels=16, trajectories=2, seed=1)
    config = {"filters": 3, "hidden1": 6, "hidden2": 4}
    trained = [
        train(
            phi, tmp_path / f"{k}.safetensors", options, action=ACTION, config=config, device=DEVICE, say=lambda _: None
        )
        for k in range(2)
    ]
    assert trained[0].device.type == torch.device(DEVICE).type
    read = [DiffusionModel.load(tmp_path / f"{k}.safetensors") for k in range(2)]
    assert read[0].device.type == "cpu"
    assert read[0].fingerprint() == read[1].fingerprint() == trained[0].fingerprint()
    back = DiffusionModel.load(tmp_path / "0.safetensors", device=DEVICE)
    assert back.fingerprint() == read[0].fingerprint()


@pytest.mark.parametrize("kind", ["flow", "path"])
def test_a_cpu_generator_serves_as_well(kind):
    proposal = flow_proposal(model_on(DEVICE), 2) if kind == "flow" else path_proposal(model_on(DEVICE), 3)
    draws = [proposal.sample(5, streams.stream(1, "draws")) for _ in range(2)]
    assert draws[0][0].device.type == torch.device(DEVICE).type
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)

"""The probability flow: log q against the determinant of the map, closed forms, normalisation, independence of batches.

Random networks, in float64 unless said otherwise: all of this must hold for a bad model as well as for a good one.
The splines of ``SMALL`` have 7 - 3 = 4 intervals in the noise level; numbers of steps are multiples of 4, so that no
step crosses a knot, where the velocity has two derivatives only and a fourth-order method is not of fourth order.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.proposals.certify import measure_delta
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import PathProposal
from dmmc.proposals.symmetrised import Symmetrised
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, SMALL, Grid, exact_log_q, free_reference, noise, random_model, rng, z_scores

LATTICES = [(4, 4), (3, 5), (6,), (2, 2, 3)]
CASES = [(shape, False) for shape in LATTICES] + [((3, 4), True), ((5,), True)]


def model_on(shape, lopsided=False, strength=0.08, **options):
    """A model; a lopsided one has a mean and biases, as that of one sector of two."""
    reference = free_reference(Lattice(shape), mass=0.8, mean=1.5 if lopsided else 0.0)
    return random_model(reference, two_sector=lopsided, strength=strength, **options)


@pytest.mark.parametrize(("shape", "lopsided"), CASES, ids=str)
def test_log_q_is_the_density_of_the_map_to_fourth_order(shape, lopsided):
    model = model_on(shape, lopsided)
    latents = noise(model.lattice, 4, seed=7)
    error = {}
    for n in (8, 16, 32):
        flow = FlowProposal(model, n)
        _, log_q = flow.push(latents)
        error[n] = log_q - exact_log_q(flow, latents)
    assert float(error[32].abs().max()) < 1e-4
    # Fourth order: 16 a doubling, in the limit.
    assert float(error[8].abs().max()) > 8 * float(error[16].abs().max())
    assert float(error[16].abs().max()) > 8 * float(error[32].abs().max())
    # The determinant of this map is not a constant.
    assert float((log_q + 0.5 * latents.square().flatten(1).sum(1)).std()) > 0.02


@pytest.mark.parametrize(("shape", "lopsided"), CASES, ids=str)
def test_log_q_of_a_pushed_field_is_the_density_returned_with_it(shape, lopsided):
    model = model_on(shape, lopsided)
    flow = FlowProposal(model, 32)
    latents = noise(model.lattice, 10)
    phi, log_q = flow.push(latents)
    torch.testing.assert_close(flow.log_q(phi), log_q, rtol=0, atol=1e-5)
    back, log_q_back = flow.pull(phi.float())
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_q_back, log_q, rtol=0, atol=1e-4)
    coarse = FlowProposal(model, 4)
    assert float((coarse.log_q(coarse.push(latents)[0]) - log_q).abs().max()) > 1e-4


@pytest.mark.parametrize("shape", LATTICES, ids=str)
def test_delta_is_the_distance_from_the_density_of_the_map(shape):
    flow, n = FlowProposal(model_on(shape), 12), 48
    latents = flow.latents(n, rng(3))
    exact = flow.push(latents)[1] - exact_log_q(flow, latents)
    delta = measure_delta(flow, n, rng(3))  # of the same latents
    # Beside the noise of its probe an estimate is right to first order in the error: to half of it, say.
    difference = delta - exact
    assert abs(float(difference.mean())) < SIGMA * float(difference.std()) / math.sqrt(n) + 0.5 * float(exact.std())
    # The probe's noise makes the spread larger, not smaller, and not by an order of magnitude.
    assert 0.7 < float(delta.std() / exact.std()) < 8
    phi, log_q, by_determinant = flow.by_determinant(latents[:8])
    torch.testing.assert_close(by_determinant, exact[:8], rtol=0, atol=1e-6)
    assert torch.equal(phi, flow.push(latents[:8])[0]) and torch.equal(log_q, flow.push(latents[:8])[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1,), (6,), (4, 4), (3, 5), (2, 2, 3)], ids=str)
def test_untrained_model_of_the_free_field_is_exact(shape, dtype):
    action, lattice = FreeField(0.6), Lattice(shape)
    reference = free_reference(lattice, 0.6)
    model = DiffusionModel.untrained(reference, action, config=SMALL.describe(), generator=rng())
    model.network.to(dtype)
    flow = FlowProposal(model, 4)
    kernel = Independence(action, lattice, flow)
    log_z = 0.5 * float((lattice.orbit_size * torch.log(2 * math.pi * reference.propagator)).sum())
    phi, log_q = flow.sample(200, rng(2))
    S = action(phi.double())
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(log_q, -S - log_z, rtol=0, atol=tolerance)
    torch.testing.assert_close(flow.log_q(phi), log_q, rtol=0, atol=tolerance)
    assert float(z_scores(lattice.two_point(phi.double()), reference.propagator).abs().max()) < SIGMA
    if dtype == torch.float64:
        state = kernel.initial(20, rng(3))
        assert all(bool(info.accepted.all()) for _, info in kernel.steps(state, 20, rng(4)))


def one_or_two_sites(n_sites, lopsided):
    """A model, its flow and every field; sigma of the reference is at most 1."""
    lattice = Lattice((n_sites,))
    reference = GaussianReference(lattice, torch.tensor([0.6, 0.3][:n_sites]).double(), 1.4 if lopsided else 0.0)
    model = random_model(reference, two_sector=lopsided, strength=0.3)
    grid = Grid.make(n_sites, *((9.0, 1500) if n_sites == 1 else (7.0, 100)))
    flow = FlowProposal(model, 16)
    return flow, grid, flow.log_q(grid.phi).exp() * grid.cell


@pytest.mark.parametrize("lopsided", [False, True])
@pytest.mark.parametrize("n_sites", [1, 2])
def test_q_is_normalised_and_is_what_is_sampled(n_sites, lopsided):
    flow, grid, q = one_or_two_sites(n_sites, lopsided)
    assert float(q.sum()) == pytest.approx(1, abs=1e-5)  # the integrator's error at 16 steps
    n = 4000
    phi, log_q = flow.sample(n, rng(8))
    torch.testing.assert_close(flow.log_q(phi), log_q, rtol=0, atol=1e-3)

    def functions(phi):
        a, b = phi[:, :1], phi[:, -1:]
        return torch.cat([a, b, a.abs(), a * b, a**2, b**2, a**3 * b, a**4, (3 * a).cos(), (a > 0.7).double()], 1)

    exact = (q.unsqueeze(1) * functions(grid.phi)).sum(0)
    # The step function on a grid: half a cell of q.
    slack = torch.zeros_like(exact)
    slack[-1] = float(q.view(*[round(len(q) ** (1 / n_sites))] * n_sites).flatten(1 if n_sites > 1 else 0).max()) * 100
    values = functions(phi)
    error = values.std(0) / math.sqrt(n)
    assert bool(((values.mean(0) - exact).abs() < SIGMA * error + slack + 1e-4).all())
    # Not the Gaussian of the reference.
    gaussian = flow.model.reference.propagator.sum() / n_sites + flow.model.reference.mean**2
    assert abs(float(exact[4] / gaussian) - 1) > 0.05


def test_odd_model_is_symmetric_to_the_last_bit():
    flow = FlowProposal(model_on((4, 3)), 8)
    phi, _ = flow.sample(20, rng())
    assert torch.equal(flow.log_q(phi), flow.log_q(-phi))


@pytest.mark.parametrize("lopsided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_density_of_a_field_does_not_depend_on_its_company(dtype, lopsided):
    model = model_on((5, 4), lopsided, strength=0.3, dtype=dtype)
    flow = FlowProposal(model, 4)
    phi, _ = flow.sample(9, rng())
    whole = flow.log_q(phi)
    assert whole.dtype == torch.float64 and phi.dtype == dtype
    bound = 1e-12 * float(whole.abs().max()) if dtype == torch.float64 else 1e-4
    alone = torch.cat([flow.log_q(one.unsqueeze(0)) for one in phi[:3]])
    wild = flow.log_q(torch.cat([phi[:3], 50 * phi]))[:3]
    order = torch.randperm(9, generator=rng())
    for other, expected in ((alone, whole[:3]), (wild, whole[:3]), (flow.log_q(phi[order]), whole[order])):
        assert float((other - expected).abs().max()) < bound
    latents = flow.latents(9, rng())
    pushed = flow.push(latents)
    for chunk_sites in (1, 70, 10**6):  # one, three and all of them at a time
        other = replace(flow, chunk_sites=chunk_sites)
        assert float((other.log_q(phi) - whole).abs().max()) < bound
        again = other.push(latents)
        torch.testing.assert_close(again[0], pushed[0], rtol=0, atol=1e-11 if dtype == torch.float64 else 1e-4)
        assert float((again[1] - pushed[1]).abs().max()) < bound


def test_same_seed_same_bits_and_inputs_left_alone():
    flow = FlowProposal(model_on((4, 4)), 4)
    first, second, other = (flow.sample(5, rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and not torch.equal(first[0], other[0])
    phi = first[0].clone()
    flow.log_q(phi)
    assert torch.equal(phi, first[0])


@pytest.mark.parametrize("wrap", [FlowProposal, lambda model: Symmetrised(FlowProposal(model))])
def test_a_cpu_generator_serves_a_model_on_any_device(wrap):
    model = random_model(free_reference(Lattice((4, 4))), two_sector=True)
    here = wrap(model).latents(3, rng())
    model.network.to("meta")  # a device without numbers: what is drawn there could not be moved here
    there = wrap(model).latents(3, rng())
    assert here.device.type == "cpu" and there.device.type == "meta"
    assert here.shape == there.shape and here.dtype == there.dtype


def test_rotations_keep_the_law_of_latents():
    flow = FlowProposal(model_on((4, 4)), 4)
    latents = flow.latents(2000, rng())
    turned = flow.rotate(latents, 0.6, rng(2))
    assert abs(float(z_scores((turned.square().flatten(1).mean(1)), 1.0))) < SIGMA
    assert abs(float(z_scores((turned * latents).flatten(1).mean(1), math.cos(0.6)))) < SIGMA


def test_description_tells_proposals_apart():
    model = model_on((4, 4))
    flow = FlowProposal(model, 8)
    assert flow.describe() == FlowProposal(model, 8).describe()
    others = [FlowProposal(model, 16), FlowProposal(model, 8, 64), FlowProposal(model_on((4, 4), seed=2), 8)]
    assert all(flow.describe() != other.describe() for other in others)


def test_steps_may_be_integers_of_numpy():
    model = model_on((4, 4))
    for steps, same in ((np.int64(8), 8), ((np.int64(2), 3), (2, 3)), ([2, 3], (2, 3))):
        flow = FlowProposal(model, steps)
        assert flow == FlowProposal(model, same)
        assert json.dumps(flow.describe()) == json.dumps(FlowProposal(model, same).describe())


def test_refusals():
    model = model_on((4, 4))
    for bad in ({"n_steps": 0}, {"n_steps": 8.0}, {"n_steps": (2, 2.5)}, {"n_steps": True}, {"chunk_sites": 0}):
        with pytest.raises(DmmcError, match="must be a positive integer"):
            FlowProposal(model, **bad)
    flow = FlowProposal(model, 4)
    with pytest.raises(DmmcError, match="number of fields must be a positive integer"):
        flow.sample(0, rng())
    with pytest.raises(DmmcError, match=r"phi must have shape \(batch, 4, 4\)"):
        flow.log_q(torch.zeros(2, 4, 5))
    with pytest.raises(DmmcError, match="NaN"):
        flow.log_q(torch.full((2, 4, 4), math.nan))
    with pytest.raises(DmmcError, match="floating point"):
        flow.log_q(torch.zeros(2, 4, 4, dtype=torch.int64))


def test_autocast_of_the_caller_changes_nothing():
    """Of flows with the exact trace and with another one, of paths, and of their densities."""
    model = model_on((3, 5), dtype=torch.float32)
    proposals = (
        FlowProposal(model, 2),
        FlowProposal(model, 2, divergence=Hutchinson(2)),
        PathProposal.of(model, 3),
    )
    for proposal in proposals:
        expected = proposal.sample(3, rng())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = proposal.sample(3, rng())
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)

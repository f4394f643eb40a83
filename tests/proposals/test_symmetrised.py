"""The Z2 average around flows and around a toy: its density, its latents, its delta.

Random networks in float64. Bounds on means are 5 sigma; about 20 comparisons.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from checks import bonferroni
from dmmc.core.errors import DmmcError
from dmmc.model.reference import GaussianReference
from dmmc.proposals import symmetrised
from dmmc.proposals.certify import certify
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.proposals.path import PathProposal
from dmmc.proposals.symmetrised import Symmetrised, SymmetrisedPath, column
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, Grid, free_reference, random_model, rng, z_scores
from toys import ShiftedGaussian


def model_on(shape, mean=1.5, strength=0.08, **options):
    reference = free_reference(Lattice(shape), mass=0.8, mean=mean)
    return random_model(reference, two_sector=True, strength=strength, **options)


def flow_on_sites(n_sites):
    """Wells that overlap; sigma of the reference is at most 1."""
    lattice = Lattice((n_sites,))
    reference = GaussianReference(lattice, torch.tensor([0.6, 0.3][:n_sites]).double(), 0.7)
    return FlowProposal(random_model(reference, two_sector=True, strength=0.3), 16)


PROPOSALS = {
    "flow on a site": lambda: flow_on_sites(1),
    "flow on two sites": lambda: flow_on_sites(2),
    "toy on a site": lambda: ShiftedGaussian.correlated(1),
    "toy on two sites": lambda: ShiftedGaussian.correlated(2),
}


def functions(phi):
    a, b = phi[:, :1], phi[:, -1:]
    return torch.cat([a, b, a.abs(), a * b, a**2, b**2, a**3 * b, a**4, (3 * a).cos(), (a + 0.3).sin()], 1)


@pytest.mark.parametrize("name", PROPOSALS)
def test_q_is_normalised_and_is_what_is_sampled(name):
    average = Symmetrised(PROPOSALS[name]())
    n_sites = average.lattice.volume
    grid = Grid.make(n_sites, *((9.0, 1500) if n_sites == 1 else (7.0, 100)))
    q = average.log_q(grid.phi).exp() * grid.cell
    assert float(q.sum()) == pytest.approx(1, abs=1e-5)  # the integrator's error at 16 steps
    n = 4000
    phi, log_q = average.sample(n, rng(8))
    torch.testing.assert_close(average.log_q(phi), log_q, rtol=0, atol=1e-3)
    z = z_scores(functions(phi), (q.unsqueeze(1) * functions(grid.phi)).sum(0))
    assert float(z.abs().max()) < bonferroni(4 * z.numel())
    # It is not the law of the base.
    base = average.base.log_q(grid.phi).exp() * grid.cell
    assert float(((base.unsqueeze(1) * functions(grid.phi)).sum(0) / functions(phi).std(0)).abs().max()) > 0.5


@pytest.mark.parametrize("shape", [(2,), (4, 4)], ids=str)
def test_the_average_is_symmetric(shape):
    flow, n = FlowProposal(model_on(shape), 16), 300
    average = Symmetrised(flow)
    phi, log_q = average.sample(n, rng())
    torch.testing.assert_close(average.log_q(-phi), average.log_q(phi), rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(average.log_q(phi), log_q, rtol=0, atol=1e-3)
    signs = torch.sign(phi.flatten(1).mean(1))
    assert abs(float(z_scores(signs))) < SIGMA and float(signs.std()) > 0.9
    # Both sectors count: log q is above half of that of either of them.
    plus, minus = (flow.log_q(x) for x in (phi, -phi))
    torch.testing.assert_close(log_q.exp(), (plus.exp() + minus.exp()) / 2, rtol=1e-3, atol=0)


# Latents


@pytest.mark.parametrize("name", PROPOSALS)
def test_latents_are_standard_normal_and_invert(name):
    average, n = Symmetrised(PROPOSALS[name]()), 4000
    latents = average.latents(n, rng())
    assert latents.shape == (n, *average.latent_shape) == (n, 1 + average.lattice.volume)
    phi, log_q = average.push(latents)
    back, log_q_back = average.pull(phi, rng(2))
    torch.testing.assert_close(average.push(back)[0], phi, rtol=0, atol=1e-3)
    torch.testing.assert_close(log_q_back, log_q, rtol=0, atol=1e-2)
    # Latents that are drawn for fields of the average are draws of the law of latents again.
    for sample in (latents, back, average.rotate(latents, 0.7, rng(3))):
        moments = torch.cat([sample, sample.square() - 1, sample[:, :1] * sample[:, 1:], sample**4 - 3], 1)
        assert float(z_scores(moments).abs().max()) < bonferroni(4 * 3 * moments.shape[1])
    # Both sectors are drawn, where wells overlap.
    assert 0.05 < float((torch.sign(back[:, 0]) != torch.sign(latents[:, 0])).double().mean()) < 0.5


def test_the_sector_of_a_field_has_its_conditional_probability():
    average = Symmetrised(ShiftedGaussian.correlated(2))
    phi = torch.tensor([[0.3, -0.1]], dtype=torch.float64)
    plus, minus = (float(average.base.log_q(x)) for x in (phi, -phi))
    latents, _ = average.pull(phi.expand(20_000, 2), rng())
    positive = (latents[:, 0] > 0).double()
    assert abs(float(z_scores(positive, 1 / (1 + math.exp(minus - plus))))) < SIGMA
    assert 0.1 < float(positive.mean()) < 0.9
    # |coin| does not know the sector.
    size = latents[:, 0].abs() - math.sqrt(2 / math.pi)
    assert float(z_scores(torch.stack([size, size * (positive - positive.mean())], 1)).abs().max()) < bonferroni(2)


def test_a_turn_keeps_the_base_and_tosses_the_coin():
    average = Symmetrised(FlowProposal(model_on((4, 3)), 4))
    latents, n = average.latents(3000, rng()), 3000
    turned = average.rotate(latents, 0.3, rng(2))
    product = turned * latents
    assert abs(float(z_scores(product[:, 0]))) < SIGMA
    assert abs(float(z_scores(product[:, 1:].mean(1), math.cos(0.3)))) < SIGMA
    fresh = average.rotate(latents, math.pi / 2, rng(2))
    assert abs(float(z_scores((fresh * latents).mean(1)))) < SIGMA and fresh.shape == (n, 13)


def test_draws_without_a_generator_are_the_same():
    average = Symmetrised(flow_on_sites(2))
    phi, _ = average.sample(50, rng())
    assert all(torch.equal(a, b) for a, b in zip(average.pull(phi), average.pull(phi), strict=True))
    assert not torch.equal(average.pull(phi, rng(3))[0], average.pull(phi)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(dtype):
    average = Symmetrised(FlowProposal(model_on((4, 3), dtype=dtype), 4))
    phi, log_q = average.sample(5, rng())
    assert phi.dtype == average.latents(2, rng()).dtype == average.dtype == dtype and log_q.dtype == torch.float64
    latents, _ = average.pull(phi.double())
    assert latents.dtype == dtype and average.to_float64().dtype == torch.float64


# delta


def test_delta_of_the_average_is_that_of_the_density_of_the_map():
    # One site, wells that overlap: the density of the discrete map by finite differences on a grid of latents.
    model = random_model(free_reference(Lattice((1,)), 1.0, mean=0.5), two_sector=True, strength=0.3)
    flow = FlowProposal(model, 4)
    average = Symmetrised(flow)
    z = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    phi = flow.push(z.view(-1, 1))[0].flatten()
    slope = (phi[2:] - phi[:-2]) / (z[2:] - z[:-2])
    assert float(slope.min()) > 0
    density = torch.exp(-0.5 * z[1:-1] ** 2) / math.sqrt(2 * math.pi) / slope
    inner = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1)
    coin = torch.tensor([1.0, -0.2, 0.3] * 3, dtype=torch.float64).view(-1, 1)
    latents = torch.cat([coin, inner], 1)
    at = flow.push(inner)[0].flatten().numpy()
    true = 0.5 * sum(np.interp(x, phi[1:-1].numpy(), density.numpy()) for x in (at, -at))
    fields, reported, delta = average.by_determinant(latents)
    torch.testing.assert_close(fields, torch.sign(coin) * torch.as_tensor(at).view(-1, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(reported, average.push(latents)[1], rtol=0, atol=1e-12)
    exact = reported.numpy() - np.log(true)
    np.testing.assert_allclose(delta.numpy(), exact, atol=1e-7)
    assert np.std(exact) > 1e-4
    by_doubling = average.step_doubling(latents, rng(), 2)[2].numpy()
    assert np.std(by_doubling - exact) < 0.3 * np.std(exact)


def test_far_sectors_have_the_delta_of_their_own():
    # Nothing of the mirrored sector is left: the average has the delta of the base.
    flow = FlowProposal(model_on((3, 3), mean=9.0), 4)
    average = Symmetrised(flow)
    latents = average.latents(6, rng())
    for name, extra in (("by_determinant", ()), ("step_doubling", (rng(), 2))):
        theirs = getattr(flow, name)(latents[:, 1:].view(-1, 3, 3), *extra)
        ours = getattr(average, name)(latents, *((rng(), 2) if extra else ()))
        torch.testing.assert_close(ours[2], theirs[2], rtol=0, atol=1e-12)
        torch.testing.assert_close(ours[1], theirs[1] - math.log(2), rtol=0, atol=1e-12)
        assert float(theirs[2].std()) > 1e-5


def test_the_certificate_of_an_exact_toy_is_empty():
    certificate = certify(Symmetrised(ShiftedGaussian.correlated(2)), 8, rng())
    assert max(float(np.abs(x).max()) for x in certificate.arrays().values()) < 1e-12


def test_the_certificate_works_in_the_type_of_the_model():
    certificate = certify(Symmetrised(FlowProposal(model_on((3, 3), 0.5, dtype=torch.float32), (3,) * 4)), 8, rng())
    assert 1e-8 < certificate.std_rounding < 1e-4 and certificate.reversal_phi.max() < 1e-2


# The rest of the contract


def test_descriptions_costs_and_steps():
    flow = FlowProposal(model_on((4, 3)), 4)
    average = Symmetrised(flow)
    assert average.describe() == {"name": "symmetrised", "group": "z2", "proposal": flow.describe()}
    assert average.evaluations == 2 * flow.evaluations == 32 and average.inexact == ""
    other = average.with_schedule((1, 2, 3, 4))
    assert other.schedule == (1, 2, 3, 4) and other.base == flow.with_schedule((1, 2, 3, 4))
    assert average.intervals == flow.intervals == 4 and average.method == "rk4"
    latents = average.latents(3, rng())
    errors = flow.interval_errors(latents[:, 1:].view(-1, 4, 3), rng(2))
    assert torch.equal(average.interval_errors(latents, rng(2)), errors)
    assert "1 fixed rademacher probes" in Symmetrised(replace(flow, divergence=Hutchinson())).inexact
    with pytest.raises(DmmcError, match="number of fields must be a positive integer"):
        average.sample(0, rng())
    with pytest.raises(DmmcError, match="must have shape"):
        average.log_q(torch.zeros(2, 5))


def test_a_model_says_whether_it_needs_the_average():
    one, two = (random_model(free_reference(Lattice((4,)), mean=m), two_sector=m > 0) for m in (0.0, 0.5))
    assert flow_proposal(one, 8, method="dopri5") == FlowProposal(one, 8, method="dopri5")
    assert flow_proposal(two, 8, chunk_sites=7) == Symmetrised(FlowProposal(two, 8, 7))
    assert path_proposal(one, 8) == PathProposal.of(one, 8)
    assert path_proposal(two, 8) == SymmetrisedPath(PathProposal.of(two, 8))


# Bugs that these checks find


def integral():
    """Of the density over all fields."""
    grid = Grid.make(1, 9.0, 1500)
    return float(Symmetrised(ShiftedGaussian.correlated(1)).log_q(grid.phi).exp().sum()) * grid.cell


def worst_log_q_of_a_proposal():
    """Its distance from the log q of the same field."""
    average = Symmetrised(ShiftedGaussian.correlated(2))
    phi, log_q = average.sample(100, rng())
    return float((average.log_q(phi) - log_q).abs().max())


@pytest.mark.parametrize(
    "wrong", [lambda plus, minus: torch.logaddexp(plus, minus), lambda plus, minus: torch.maximum(plus, minus)]
)
def test_a_wrong_average_is_found(wrong, monkeypatch):
    assert integral() == pytest.approx(1, abs=1e-9)
    monkeypatch.setattr(symmetrised, "_average", wrong)
    assert abs(integral() - 1) > 0.1


def test_a_sector_that_is_left_out_of_proposals_is_found(monkeypatch):
    assert worst_log_q_of_a_proposal() < 1e-12

    def one_sided(self, latents, generator=None):
        sign, inner = self._split(latents)
        phi, here = self.base.push(inner, generator)
        return column(sign, phi) * phi, here

    monkeypatch.setattr(Symmetrised, "push", one_sided)
    assert worst_log_q_of_a_proposal() > 0.1

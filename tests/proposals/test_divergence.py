"""Divergences: the trace by formula, by brute force and by probes, in the flow and in a kernel.

Random networks in float64. Bounds on means are 5 sigma; two of them for each estimator.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from checks import bonferroni
from dmmc.core.errors import DmmcError
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network
from dmmc.model.options import TrainingOptions
from dmmc.model.sites import SiteNetwork
from dmmc.model.training import fit
from dmmc.proposals.base import Proposal
from dmmc.proposals.certify import measure_delta
from dmmc.proposals.divergence import BruteForce, Hutchinson, Tractable
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, exact_log_q, free_draws, free_reference, noise, random_model, rng, z_scores

ACTION = Phi4(0.2, 0.022)


class CNN(nn.Module):
    """What a user may bring: two circular convolutions, the noise level as a second channel."""

    def __init__(self, dim=2, channels=6, seed=1):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[dim]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = conv(2, channels, 3, padding=1, padding_mode="circular")
            self.last = conv(channels, 1, 3, padding=1, padding_mode="circular", bias=False)

    def forward(self, u, level):
        level = level.view(-1, *(1,) * (u.ndim - 1)).expand_as(u)
        return self.last(torch.tanh(self.first(torch.cat([u, level], 1))))


def cnn_model(shape=(4, 3), dtype=torch.float64, two_sector=False, **options):
    reference = free_reference(Lattice(shape), mean=1.0 if two_sector else 0.0)
    network = SiteNetwork(reference, CNN(len(shape), **options)).to(dtype).requires_grad_(False)
    return DiffusionModel(network, ACTION.describe(), two_sector, symmetry="z2")


def full_jacobian(network, modes, v):
    """Traces ``(G, n)`` and squared norms of the symmetric parts of the Jacobians, by central differences."""
    lattice, h = network.lattice, 1e-4
    phi = lattice.to_sites(modes)
    units = torch.eye(lattice.volume, dtype=torch.float64).view(-1, *lattice.shape)

    def drift(phi):
        return lattice.to_sites(network(lattice.to_modes(phi), v)).flatten(2)

    columns = torch.stack([(drift(phi + h * e) - drift(phi - h * e)) / (2 * h) for e in units], -1)
    return columns, columns.diagonal(dim1=-2, dim2=-1).sum(-1)


def points(network, n=3, levels=(0.02, 0.7, 9.0)):
    """Fields at several noise levels, as modes, and their variances."""
    phi = torch.stack([noise(network.lattice, n, seed) * (1 + v) ** 0.5 for seed, v in enumerate(levels)])
    return network.lattice.to_modes(phi), torch.tensor(levels, dtype=torch.float64)


# The trace at a point


@pytest.mark.parametrize("shape", [(6,), (4, 4), (3, 5), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("two_sector", [False, True])
def test_brute_force_is_the_formula_of_the_interaction_network(shape, two_sector):
    network = random_model(free_reference(Lattice(shape)), two_sector=two_sector).network
    modes, v = points(network)
    drift, trace = BruteForce().along(network, 3, rng())(modes, v)
    exact_drift, exact = Tractable().along(network, 3, rng())(modes, v)
    torch.testing.assert_close(trace, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(drift, exact_drift, rtol=0, atol=1e-12)
    assert not trace.requires_grad and not drift.requires_grad
    assert float(exact.std()) > 0.01


@pytest.mark.parametrize("shape", [(5,), (4, 3)], ids=str)
def test_brute_force_of_a_cnn_is_the_trace_of_its_jacobian(shape):
    network = cnn_model(shape).network
    modes, v = points(network)
    _, trace = BruteForce().along(network, 3, rng())(modes, v)
    torch.testing.assert_close(trace, full_jacobian(network, modes, v)[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_have_the_mean_and_the_variance_that_theory_gives(law, fresh):
    network = cnn_model((5,)).network
    modes, v = points(network, n=1)
    jacobian, exact = full_jacobian(network, modes, v)
    symmetric = (jacobian + jacobian.mT) / 2
    variance = 2 * symmetric.square().sum((-2, -1))
    if law == "rademacher":
        variance = variance - 2 * symmetric.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    n, probes = 8000, 3
    many = modes.expand(-1, n, -1)
    _, trace = Hutchinson(probes, law, fresh).along(network, n, rng(2))(many, v)
    assert float(z_scores(trace.T, exact[:, 0]).abs().max()) < bonferroni(len(v))
    # Spread of a sample variance by its fourth moment.
    square = (trace - exact).square() * probes
    assert float(z_scores(square.T, variance[:, 0]).abs().max()) < bonferroni(len(v))


def test_fixed_probes_stay_and_fresh_ones_do_not():
    network = cnn_model().network
    modes, v = points(network)
    fixed, fresh = (Hutchinson(1, fresh=fresh).along(network, 3, rng()) for fresh in (False, True))
    assert torch.equal(fixed(modes, v)[1], fixed(modes, v)[1])
    assert not torch.equal(fresh(modes, v)[1], fresh(modes, v)[1])
    # A batch of the same field: each of its members has probes of its own.
    modes = modes[:, :1].expand_as(modes)
    assert float(fixed(modes, v)[1].std(1).min()) > 1e-6


# In the flow


@pytest.mark.parametrize(("shape", "two_sector"), [((6,), False), ((4, 3), False), ((4, 3), True)], ids=str)
def test_log_q_of_a_cnn_is_the_density_of_the_map(shape, two_sector):
    model = cnn_model(shape, two_sector=two_sector)
    latents = noise(model.lattice, 3, seed=7)
    error = {}
    for n in (8, 16):
        flow = FlowProposal(model, n, divergence=BruteForce())
        phi, log_q = flow.push(latents)
        determinant = exact_log_q(replace(flow, divergence=Hutchinson()), latents)  # of the same map
        error[n] = float((log_q - determinant).abs().max())
    assert error[16] < 3e-4 and error[8] > 8 * error[16]  # fourth order: 16, in the limit
    assert float((log_q + 0.5 * latents.square().flatten(1).sum(1)).std()) > 0.02
    torch.testing.assert_close(flow.log_q(phi), log_q, rtol=0, atol=1e-3)


def test_brute_force_changes_nothing_for_the_interaction_network():
    flow = FlowProposal(random_model(free_reference(Lattice((4, 4))), strength=0.1), 6)
    brute = replace(flow, divergence=BruteForce())
    for ours, expected in zip(brute.sample(5, rng()), flow.sample(5, rng()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    error = measure_delta(brute, 2, rng(3))
    torch.testing.assert_close(error, measure_delta(flow, 2, rng(3)), rtol=0, atol=1e-8)


def test_estimated_log_q_scatters_around_log_q_and_ever_less():
    model, n = cnn_model((3, 3)), 2000
    flow = FlowProposal(model, 4, divergence=BruteForce())
    phi = flow.sample(1, rng())[0]
    exact, spread = flow.log_q(phi), {}
    for probes in (1, 4):
        noisy = replace(flow, divergence=Hutchinson(probes))
        estimates = noisy.log_q(phi.expand(n, 3, 3), rng(probes))
        assert abs(float(z_scores(estimates, exact))) < bonferroni(2)
        spread[probes] = float(estimates.var())
        assert spread[probes] > 1e-4
    # Four probes are the mean of four. Relative errors of variances, kurtosis of Gaussian estimates doubled for safety.
    assert abs(spread[1] / spread[4] / 4 - 1) < SIGMA * math.sqrt(2 * 2 * 2 / n)
    fresh = replace(flow, divergence=Hutchinson(1, fresh=True)).log_q(phi.expand(n, 3, 3), rng(9))
    assert abs(float(z_scores(fresh, exact))) < SIGMA and float(fresh.var()) < spread[1] / 2


def test_randomness_of_estimates_is_explicit():
    flow = FlowProposal(cnn_model(), 3, divergence=Hutchinson(2))
    phi, log_q = flow.sample(4, rng())
    assert all(torch.equal(a, b) for a, b in zip(flow.sample(4, rng()), (phi, log_q), strict=True))
    assert torch.equal(flow.log_q(phi), flow.log_q(phi))
    assert torch.equal(flow.log_q(phi, rng(5)), flow.log_q(phi, rng(5)))
    generator = rng(5)
    assert not torch.equal(flow.log_q(phi, generator), flow.log_q(phi, generator))
    # Fields do not see the probes.
    exact = replace(flow, divergence=BruteForce())
    torch.testing.assert_close(flow.push(noise(flow.model.lattice, 3))[0], exact.push(noise(flow.model.lattice, 3))[0])


def test_chunks_do_not_share_probes():
    flow = FlowProposal(cnn_model(), 3, chunk_sites=12, divergence=Hutchinson(1))
    phi = flow.sample(1, rng())[0]
    assert len(flow.log_q(phi.expand(6, 4, 3)).unique()) == 6


def test_a_cnn_can_be_trained_and_samples():
    # A linear drift turns the wrong Gaussian into the right one.
    lattice, action = Lattice((4, 4)), FreeField(0.8)
    phi = free_draws(free_reference(lattice, 0.8), 500)
    model = DiffusionModel(SiteNetwork(free_reference(lattice, 1.2), CNN()), {})
    options = TrainingOptions(steps=100, learning_rate=1e-2, trajectories=0)
    trained = fit(model, action, phi, options, progress=False)

    def spread(model):
        kernel = Independence(action, lattice, FlowProposal(model, 4, divergence=BruteForce()))
        return float(kernel.initial(200, rng()).log_w.std())

    assert spread(trained) < 0.4 * spread(model)


# In kernels


def test_a_network_without_a_formula_needs_a_choice():
    model = cnn_model()
    with pytest.raises(DmmcError, match=r"SiteNetwork has no with_trace.*divergence=BruteForce\(\)"):
        FlowProposal(model)
    assert FlowProposal(model, divergence=BruteForce()).inexact == ""
    assert FlowProposal(model, divergence=Hutchinson()).inexact


def test_a_network_that_autograd_cannot_see_is_refused():
    class Detached(Network):
        @torch.no_grad()
        def forward(self, modes, v, context=None):
            return 0.1 * modes

    network = Detached(free_reference(Lattice((4,)))).double()
    flow = FlowProposal(DiffusionModel(network, {}), 2, divergence=BruteForce())
    with pytest.raises(DmmcError, match="autograd sees no way"):
        flow.sample(2, rng())


def test_a_body_that_changes_the_shape_is_refused():
    class Cropped(CNN):
        def forward(self, u, level):
            return super().forward(u, level)[..., 1:]

    network = SiteNetwork(free_reference(Lattice((4, 4))), Cropped()).double()
    flow = FlowProposal(DiffusionModel(network, {}), 2, divergence=BruteForce())
    with pytest.raises(DmmcError, match=r"must keep the shape \(2, 1, 4, 4\); got \(2, 1, 4, 3\)"):
        flow.sample(2, rng())


def test_inexact_proposals_need_a_yes_and_leave_their_mark():
    model = cnn_model()
    flow = FlowProposal(model, 3, divergence=Hutchinson(2, "gaussian"))
    with pytest.raises(DmmcError, match=r"estimated with 2 fixed gaussian probes.*allow_inexact=True"):
        Independence(ACTION, model.lattice, flow)
    kernel = Independence(ACTION, model.lattice, flow, allow_inexact=True)
    assert "2 fixed gaussian probes" in kernel.facts.inexact
    kernel.step(kernel.initial(3, rng()), rng())
    assert flow.describe()["divergence"] == {"name": "hutchinson", "n_probes": 2, "law": "gaussian", "fresh": False}
    exact = Independence(ACTION, model.lattice, replace(flow, divergence=BruteForce()), allow_inexact=True)
    assert exact.facts.inexact == ""


def test_a_foreign_proposal_can_declare_itself_inexact():
    @dataclass(frozen=True)
    class Rough(Proposal):
        inexact: str = "the density is a guess"

        def describe(self):
            return {"name": "rough"}

    with pytest.raises(DmmcError, match="the density is a guess"):
        Independence(ACTION, Lattice((2,)), Rough())
    marked = Independence(ACTION, Lattice((2,)), Rough(), allow_inexact=True)
    assert marked.facts.inexact == "the density is a guess" and marked.describe()["proposal"] == {"name": "rough"}
    assert Independence(ACTION, Lattice((2,)), Rough("")).facts.inexact == ""


@pytest.mark.parametrize("fault", ["nan", "shape", "array", "fields"])
def test_a_bad_proposal_is_refused(fault):
    model = cnn_model((4,))

    class Bad(Proposal):
        evaluations = 0

        def sample(self, n, generator):
            phi = noise(model.lattice, n)
            log_q = -0.5 * phi.square().sum(1)
            return {
                "nan": (phi, log_q * math.nan),
                "shape": (phi, log_q[:, None]),
                "array": (phi, log_q.numpy()),
                "fields": (phi[:, :3], log_q),
            }[fault]

    message = {"nan": "not finite", "shape": r"shape \(3,\)", "array": "got ndarray", "fields": r"shape \(3, 4\)"}
    with pytest.raises(DmmcError, match=message[fault]):
        Independence(ACTION, model.lattice, Bad()).initial(3, rng())


def test_descriptions_costs_and_refusals():
    flow = FlowProposal(random_model(free_reference(Lattice((4, 3)))), 5)
    assert "divergence" not in flow.describe() and flow.evaluations == 20
    brute, probed = (replace(flow, divergence=d) for d in (BruteForce(), Hutchinson(3)))
    assert brute.evaluations == 20 * 13 and probed.evaluations == 20 * 4
    assert brute.describe()["divergence"] == {"name": "brute force"} and not brute.inexact
    with pytest.raises(DmmcError, match="drowned in noise"):
        measure_delta(probed, 4, rng())
    for bad in (0, 1.5):
        with pytest.raises(DmmcError, match="n_probes must be a positive integer"):
            Hutchinson(bad)
    with pytest.raises(DmmcError, match="rademacher or gaussian"):
        Hutchinson(1, "uniform")


# The model


def test_a_model_with_a_network_of_ones_own(tmp_path):
    model = cnn_model(dtype=torch.float32)
    assert model.dtype == torch.float32 and model.to_float64().dtype == torch.float64
    assert model.fingerprint() == cnn_model(dtype=torch.float32).fingerprint()
    wider = SiteNetwork(model.reference, nn.Sequential())
    others = [cnn_model(dtype=torch.float32, seed=2), cnn_model(), replace(model, network=wider)]
    assert len({m.fingerprint() for m in [model, *others]}) == 4
    with pytest.raises(DmmcError, match="SiteNetwork cannot be saved, since no name is registered"):
        model.save(tmp_path / "model.safetensors")
    with pytest.raises(DmmcError, match=r"a SiteNetwork cannot be made again: define its config\(\)"):
        model.moved_to(model.reference, None)
    assert not list(tmp_path.iterdir())


def test_float32_brute_force_agrees_with_float64():
    single = FlowProposal(cnn_model(dtype=torch.float32), 4, divergence=BruteForce())
    phi, log_q = single.sample(20, rng())
    assert phi.dtype == torch.float32 and log_q.dtype == torch.float64
    double = replace(single, model=single.model.to_float64())
    assert float((single.log_q(phi) - double.log_q(phi.double())).abs().max()) < 1e-4

"""Fields without a density: the ODE of any network, at any level."""

import pytest
import torch
from torch import nn

from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.sites import SiteNetwork
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.integrator import Integrator, schedule_of
from dmmc.proposals.ode import ACCELERATOR_SITES, CPU_SITES, chunk, denoise
from dmmc.proposals.runge_kutta import METHODS
from dmmc.theory.lattice import Lattice
from helpers import free_reference, noise, random_model


def model_on(shape=(4, 4)):
    return random_model(free_reference(Lattice(shape), mass=0.8), strength=0.08)


def test_denoising_leads_from_noise_to_the_sample():
    model = model_on()
    reference, latents = model.reference, noise(model.lattice, 6)
    flow = FlowProposal(model, 32)
    path = denoise(model, latents, [1.0, 0.5, 0.0], n_steps=32)
    root = (reference.c(latents) + reference.v_max).sqrt()
    torch.testing.assert_close(path[0], model.lattice.to_sites(root * model.lattice.to_modes(latents)))
    torch.testing.assert_close(path[2], flow.push(latents)[0], rtol=0, atol=1e-5)
    assert float(path[0].std()) > float(path[1].std()) > float(path[2].std())
    for ours, theirs in zip(path, flow.denoise(latents, [1.0, 0.5, 0.0]), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_steps_and_method_are_those_of_the_flow(method):
    model = model_on()
    latents = noise(model.lattice, 5)
    (end,) = denoise(model, latents, [0.0], n_steps=(1, 2, 1, 3), method=method)
    expected, _ = FlowProposal(model, (1, 2, 1, 3), method=method).push(latents)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-13)
    chunks = denoise(model, latents, [0.3, 0.0], n_steps=4, method=method, chunk_sites=32)
    for ours, whole in zip(chunks, denoise(model, latents, [0.3, 0.0], n_steps=4, method=method), strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)


def test_a_network_without_a_trace_will_do():
    # A linear network on the sites: D N = g D^2 phi / <D C>, and every mode is multiplied by a factor.
    class Linear(nn.Module):
        def forward(self, u, level):
            return 0.5 * u

    reference = free_reference(Lattice((6,)), mass=0.8)
    model = DiffusionModel(SiteNetwork(reference, Linear()).double(), {})
    assert not hasattr(model.network, "with_trace")
    latents = noise(reference.lattice, 4)
    (end,) = denoise(model, latents, [0.0], n_steps=64)
    c, lattice = reference.c(latents), reference.lattice
    level = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    v = reference.variance(level).unsqueeze(1)
    d = c / (c + v)
    rms2 = lattice.sum_modes(d * c).unsqueeze(1) / lattice.volume
    # d ln psi / dv = 1/2 D_v N / psi, from v_max to 0.
    growth = torch.trapezoid(0.5 * 0.5 * d**2 / rms2, v, dim=0)
    exact = lattice.to_sites(c.sqrt() * (-growth).exp() * lattice.to_modes(latents))
    torch.testing.assert_close(end, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_noise_levels_stay_in_their_range(method):
    # Sums of steps leave [0, 1] by rounding; a network that takes a square root of what it is given sees no NaN.
    class Root(nn.Module):
        def forward(self, u, level):
            seen.extend(level.tolist())
            return u * (level * (1 - level)).sqrt().view(-1, 1, 1)

    class Variance(SiteNetwork):
        def forward(self, modes, v, context=None):
            assert float(v.min()) >= 0
            return super().forward(modes, v, context)

    seen = []
    model = DiffusionModel(Variance(free_reference(Lattice((3,))), Root()).double(), {})
    latents = noise(model.lattice, 1)
    rounded = [Integrator((n,) * k, method) for k in (3, 5, 6, 7) for n in (1, 3, 7)]
    c = METHODS[method].c
    assert min(level + c[-1] * h for made in rounded for level, h in made.steps(1.0, 0.0)) < 0
    for made in rounded:
        (end,) = denoise(model, latents, [0.0], n_steps=made.schedule, method=method)
        assert torch.isfinite(end).all()
    assert min(seen) == 0 and max(seen) == 1


def test_bad_steps_are_refused():
    model = model_on()
    with pytest.raises(DmmcError, match="must be a positive integer"):
        denoise(model, noise(model.lattice, 1), [0.0], n_steps=0)
    with pytest.raises(DmmcError, match="one of rk4, dopri5"):
        denoise(model, noise(model.lattice, 1), [0.0], method="euler")


def test_as_many_fields_at_once_as_suit_the_device():
    model = random_model(free_reference(Lattice((4, 4))))
    assert chunk(model) == CPU_SITES // 16 and chunk(model, 40) == 2 and chunk(model, 3) == 1
    assert FlowProposal(model).describe()["chunk_sites"] == CPU_SITES
    model.network.to("meta")
    assert chunk(model) == FlowProposal(model).chunk == ACCELERATOR_SITES // 16


@pytest.mark.parametrize("n_steps", [10**9, (60_000, 60_000)])
def test_more_steps_than_anyone_could_wait_for_are_refused(n_steps):
    with pytest.raises(DmmcError, match="the number of steps must be at most 100000"):
        schedule_of(n_steps)

"""Networks for fields with components: an exact divergence, equivariance under O(N), and the scalar case as N = 1."""

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import InteractionNetwork
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.model.sites import SiteNetwork
from dmmc.proposals.divergence import BruteForce
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.symmetry import rotated
from helpers import SMALL, noise, random_network, randomise, rng


def reference_on(shape, components):
    """A propagator with another value at every orbit."""
    lattice = Lattice(shape, components)
    spread = torch.rand(len(lattice.orbit_modes), generator=rng(3), dtype=torch.float64)
    return GaussianReference(lattice, 1 / (lattice.orbit_phat2 + 0.3) * (0.5 + spread))


def levels(reference, *at):
    return reference.variance(torch.tensor(at, dtype=torch.float64))


@pytest.mark.parametrize("components", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3), (2, 3, 2)], ids=str)
def test_divergence_is_that_of_the_full_jacobian(shape, components):
    reference = reference_on(shape, components)
    network = random_network(reference, strength=1.0)
    v = levels(reference, 0.0, 0.4, 1.0)
    phi = noise(network.lattice, 6).view(3, 2, components, *shape)
    modes = network.lattice.to_modes(phi * (1 + v.sqrt().view(3, *[1] * (phi.ndim - 1))))
    drift, trace = network.with_trace(modes, v)
    expected, exact = BruteForce().along(network, 2, rng())(modes, v)
    torch.testing.assert_close(trace, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(drift, expected, rtol=0, atol=1e-12)
    # The test is of something: the trace depends on the field and on the level.
    assert float(trace.std(0).min()) > 1e-3 and float(trace.std(1).max()) > 1e-3


def test_rotations_of_the_components():
    """``N(R phi) = R N(phi)``, and the trace is that of phi."""
    reference = reference_on((4, 3), 3)
    network = random_network(reference)
    phi, v = noise(reference.lattice, 4), levels(reference, 0.5)

    def drift_and_trace(phi):
        drift, trace = network.with_trace(reference.lattice.to_modes(phi).unsqueeze(0), v)
        return reference.lattice.to_sites(drift)[0], trace

    (turned, trace_turned), (drift, trace) = drift_and_trace(rotated(phi)), drift_and_trace(phi)
    torch.testing.assert_close(turned, rotated(drift), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trace_turned, trace, rtol=1e-12, atol=1e-12)
    # The rotation changes something.
    assert float((turned - drift).abs().mean()) > 0.1 * float(drift.abs().mean())


def test_one_component_is_the_scalar_field():
    vector, scalar = (reference_on((4, 3), components) for components in (1, None))
    phi, v = noise(scalar.lattice, 5), levels(scalar, 0.2, 0.7)
    modes = scalar.lattice.to_modes(phi).expand(2, 5, 4, 2)
    drift, trace = random_network(scalar).with_trace(modes, v)
    with_axis, trace_with_axis = random_network(vector).with_trace(modes.unsqueeze(2), v)
    torch.testing.assert_close(with_axis.squeeze(2), drift, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trace_with_axis, trace, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_loss_are_those_of_differences():
    network = random_network(reference_on((3, 3), 2)).requires_grad_(True)
    modes, v = network.lattice.to_modes(noise(network.lattice, 2)).unsqueeze(0), levels(network.reference, 0.4)

    def loss(a1):
        with torch.no_grad():
            network.a1.copy_(a1)
            return float(network(modes, v).abs().square().sum())

    network(modes, v).abs().square().sum().backward()
    a1, direction, h = network.a1.detach().clone(), noise(Lattice(tuple(network.a1.shape[1:])), 7), 1e-6
    slope = (loss(a1 + h * direction) - loss(a1 - h * direction)) / (2 * h)
    assert slope == pytest.approx(float((network.a1.grad * direction).sum()), rel=1e-6)


def test_the_reference_of_components_is_that_of_each():
    """Gaussian fields with independent components: C of each, and a log-determinant for all together."""
    lattice = Lattice((4, 4), 3)
    c = 1 / (lattice.orbit_phat2 + 0.5)
    phi = lattice.to_sites(lattice.spread(c).sqrt() * lattice.to_modes(noise(lattice, 20_000)))
    measured = GaussianReference.measure(phi, lattice)
    # The variance of |phi(p)|^2 over 3 components and an orbit of n momenta is 2 C^2 / (3 n), for real modes.
    error = c * (2 / (3 * lattice.orbit_size * len(phi))).sqrt() * 2**0.5
    assert float(((measured.propagator - c) / error).abs().max()) < 5
    scalar = GaussianReference(Lattice((4, 4)), c)
    assert GaussianReference(lattice, c).log_normaliser() == pytest.approx(3 * scalar.log_normaliser())


class Mixing(Network):
    """A network that treats the components differently."""

    def __init__(self, reference):
        super().__init__(reference)
        self.weight = torch.nn.Parameter(torch.tensor([[0.1, 0.3], [0.0, 0.2]]))

    def forward(self, modes, v, context=None):
        return torch.einsum("ab,gnb...->gna...", self.weight.to(modes), modes)


def test_only_a_theory_with_rotations_has_an_equivariant_network():
    reference, action = reference_on((4, 4), 2), Phi4(0.2, 0.1, components=2)
    assert DiffusionModel.untrained(reference, action).network.equivariant
    with pytest.raises(DmmcError, match=r'equivariant under rotations .* the theory is "z2"'):
        DiffusionModel.untrained(reference, action, symmetry="z2")
    with pytest.raises(DmmcError, match=r"for a field with components has no biases"):
        InteractionNetwork(reference, SMALL.__class__(odd=False))
    assert DiffusionModel(Mixing(reference), action.describe(), symmetry="none").symmetry == "none"


def test_a_network_on_the_sites_sees_components_as_channels():
    reference = reference_on((4, 4), 2)
    body = torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular").double()

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = body

        def forward(self, u, level):
            assert u.shape[1:] == (2, 4, 4) and level.shape == u.shape[:1]
            return self.convolution(u)

    network = SiteNetwork(reference, Body()).double()
    modes = reference.lattice.to_modes(noise(reference.lattice, 3)).unsqueeze(0)
    assert network(modes, levels(reference, 0.5)).shape == modes.shape


def test_a_model_of_components_survives_its_file(tmp_path):
    reference, action = reference_on((4, 3), 2), Phi4(0.2, 0.1, components=2)
    model = DiffusionModel.untrained(reference, action)
    randomise(model.network)
    model.save(tmp_path / "model.safetensors")
    again = DiffusionModel.load(tmp_path / "model.safetensors", action)
    assert again.lattice == model.lattice == Lattice((4, 3), 2)
    assert again.fingerprint() == model.fingerprint() and again.known_action() == action
    with pytest.raises(DmmcError, match="the model is of fields with 2 components, and the action is of scalar fields"):
        again.check_fits(Phi4(0.2, 0.1))
    with pytest.raises(DmmcError, match="a model of fields with 2 components cannot start one of scalar fields"):
        again.moved_to(reference_on((4, 3), None), Phi4(0.2, 0.1))

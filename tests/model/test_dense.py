"""The dense network: an exact trace, and a start that is the Gaussian reference.

Random networks in float64.
"""

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.dense import DenseNetwork, DenseSize, unit_gaussian
from dmmc.model.reference import GaussianReference
from dmmc.theory.lattice import Lattice
from helpers import free_reference, randomise, rng

SMALL = DenseSize(hidden1=6, hidden2=5, level_knots=6)


def test_weights_are_counted_without_making_them():
    network = DenseNetwork(unit_gaussian(3), DenseSize(4, 5, 6), rng())
    weights = sum(x.numel() for x in network.state_dict().values())
    assert DenseNetwork.n_weights(network.lattice, network.config()) == weights


@pytest.mark.parametrize("n_parameters", [1, 2, 5, 6])
def test_trace_is_that_of_the_full_jacobian(n_parameters):
    network = randomise(DenseNetwork(unit_gaussian(n_parameters), SMALL, rng()).double(), strength=1.0)
    lattice, v = network.lattice, torch.tensor([0.0, 0.3, 10.0], dtype=torch.float64)
    y = torch.randn(3, 2, n_parameters, generator=rng(2), dtype=torch.float64) * (1 + v.sqrt()).view(3, 1, 1)
    _, trace = network.with_trace(lattice.to_modes(y), v)
    for g in range(3):
        for i in range(2):

            def drift(row, v=v[g : g + 1]):
                return lattice.to_sites(network(lattice.to_modes(row.view(1, 1, -1)), v)).flatten()

            jacobian = torch.autograd.functional.jacobian(drift, y[g, i])
            assert float(trace[g, i]) == pytest.approx(float(jacobian.trace()), rel=1e-12, abs=1e-12)
    drift, _ = network.with_trace(lattice.to_modes(y), v)
    assert torch.equal(drift, network(lattice.to_modes(y), v))


def test_an_untrained_network_is_the_gaussian():
    network = DenseNetwork(unit_gaussian(3), generator=rng())
    modes = network.lattice.to_modes(torch.randn(2, 4, 3, generator=rng()))
    drift, trace = network.with_trace(modes, torch.tensor([0.1, 2.0]))
    assert not bool(drift.abs().any()) and not bool(trace.any())


def test_refusals():
    with pytest.raises(DmmcError, match="knots"):
        DenseSize(level_knots=3)
    with pytest.raises(DmmcError, match="unit Gaussian"):
        DenseNetwork(free_reference(Lattice((4,))))
    with pytest.raises(DmmcError, match="unit Gaussian"):
        DenseNetwork(GaussianReference(Lattice((2,)), torch.ones(2), mean=1.0))

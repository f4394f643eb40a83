"""What is kept by noise level is what would be computed, whatever happens to the weights."""

import copy
import pickle

import pytest
import torch

from dmmc.model import memo
from dmmc.model.interaction import InteractionNetwork
from dmmc.theory.lattice import Lattice
from helpers import SMALL, free_reference, noise, random_network, randomise

LATTICE = Lattice((4, 4))
MODES = LATTICE.to_modes(noise(LATTICE, 6).view(2, 3, 4, 4))
V = torch.tensor([0.3, 2.0], dtype=torch.float64)


def counted(network, monkeypatch):
    """The calls of ``filters``, which are made only where nothing is kept."""
    calls, filters = [], network.filters
    monkeypatch.setattr(network, "filters", lambda v: calls.append(1) or filters(v), raising=False)
    return calls


def fresh(network):
    """The same network without anything kept."""
    made = InteractionNetwork(network.reference, network.size).to(network.dtype)
    made.load_state_dict(network.state_dict())
    return made.requires_grad_(False)


def assert_right(network, v=V):
    modes = MODES.to(network.dtype.to_complex())
    for x, y in zip(network.with_trace(modes, v), fresh(network).with_trace(modes, v), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(network(modes, v), fresh(network)(modes, v))


def test_levels_are_computed_once(monkeypatch):
    network = random_network(free_reference(LATTICE))
    calls = counted(network, monkeypatch)
    for _ in range(3):
        for v in (V, V.flip(0), V[:1], V.clone()):
            network.with_trace(MODES[: len(v)], v)
            network(MODES[: len(v)], v)
    assert len(calls) == 3
    assert_right(network)


def load_others(network):
    network.load_state_dict(random_network(network.reference, seed=5).state_dict())


def exchange_data(network):
    network.lin.data = network.lin.data + 0.3


@pytest.mark.parametrize("change", [lambda n: randomise(n, 7), load_others, exchange_data, lambda n: n.float()])
def test_changed_weights_are_noticed(change):
    network = random_network(free_reference(LATTICE))
    before = network(MODES, V)
    change(network)
    v = V.to(network.dtype)
    assert not torch.equal(network(MODES.to(network.dtype.to_complex()), v).to(before.dtype), before)
    assert_right(network, v)


def test_copies_keep_nothing_of_the_original(monkeypatch):
    network = random_network(free_reference(LATTICE))
    network(MODES, V)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        calls = counted(other, monkeypatch)
        randomise(other, 3)
        assert_right(other)
        assert calls


def test_derivatives_are_those_without_a_memo():
    network = random_network(free_reference(LATTICE))
    with torch.inference_mode():
        network.with_trace(MODES, V)
    modes = MODES.clone().requires_grad_()  # what was kept in inference mode serves autograd
    network.with_trace(modes, V)[1].sum().backward()
    expected = MODES.clone().requires_grad_()
    fresh(network).with_trace(expected, V)[1].sum().backward()
    assert torch.equal(modes.grad, expected.grad)
    # Weights that are trained are not kept: every call has a graph of its own.
    network.requires_grad_(True)
    for _ in range(2):
        network(MODES, V).abs().sum().backward()
    assert network.radial_in.grad.any()


def test_memory_is_bounded(monkeypatch):
    network = random_network(free_reference(LATTICE), SMALL)
    network.with_trace(MODES, V)
    kept = network._memo._kept
    size = sum(x.numel() for made in kept.values() for x in made.values())
    monkeypatch.setattr(memo, "KEPT_NUMBERS", 3 * size)
    for k in range(50):
        network.with_trace(MODES, V + k)
    assert sum(x.numel() for made in kept.values() for x in made.values()) <= 4 * size
    assert_right(network)

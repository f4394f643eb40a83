"""What `dmmc train` says of the cost of a proposal."""

from dataclasses import replace

import pytest
import torch

from dmmc.model import transport
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.flow_errors import FlowErrors
from dmmc.model.interaction import SIZES
from dmmc.proposals.of_model import flow_proposal
from dmmc.studies.network_cost import NetworkCost, network_cost
from dmmc.theory.lattice import Lattice
from helpers import free_reference

REFERENCE = free_reference(Lattice((4, 4)))


def model_of(**config):
    return DiffusionModel.untrained(REFERENCE, None, config=config, symmetry="z2")


@pytest.mark.skipif(not transport.has_numba(), reason="Numba is not installed")
def test_the_other_sizes_are_compared(monkeypatch):
    # A clock that goes on by the channels of the network in each push: costs are then known.
    now = [0.0]
    clock = "dmmc.studies.network_cost.time.perf_counter"
    monkeypatch.setattr(clock, lambda: now[0])
    kind = type(flow_proposal(model_of()))
    push = kind.push

    def counted(flow, latents):
        now[0] += flow.model.network.size.hidden1 * flow.evaluations * len(latents)
        return push(flow, latents)

    monkeypatch.setattr(kind, "push", counted)
    cost = network_cost(model_of(**SIZES["medium"]))
    channels = {name: config["hidden1"] for name, config in SIZES.items()}
    assert cost.others == {name: n / channels["medium"] for name, n in channels.items() if name != "medium"}
    assert cost.evaluations == flow_proposal(model_of()).evaluations == 120
    assert cost.seconds == channels["medium"] * 120
    assert cost.size == "medium" and network_cost(model_of(hidden1=5)).size is None
    # Where the errors of the integrator are known, the evaluations are those that a chain would take.
    errors = FlowErrors("dopri5", 5, (((1, 1e-9),),) * 5)
    assert network_cost(replace(model_of(), flow_errors=errors)).evaluations == 30
    # A network of none of the sizes is compared with all of them.
    assert set(network_cost(model_of(hidden1=5)).others) == set(SIZES)


def test_what_is_said():
    text = NetworkCost("small", 2.512e-4, 60, {"medium": 1.98, "large": 9.7}).text
    assert text == (
        "A proposal takes about 0.25 ms here (60 evaluations of the small network). It would take 2 times as long with "
        "the size medium, and 9.7 times as long with the size large."
    )
    others = {"tiny": 0.68, "medium": 1.98, "large": 9.7}
    assert NetworkCost("small", 2.512e-4, 60, others).text.endswith(
        "It would take 0.68 times as long with the size tiny, 2 times as long with the size medium, and 9.7 times as "
        "long with the size large."
    )
    assert (
        NetworkCost(None, 1.0, 60, {}).text == "A proposal takes about 1e+03 ms here (60 evaluations of the network)."
    )


def test_nothing_is_said_where_it_would_take_long(monkeypatch):
    monkeypatch.setattr(transport, "has_numba", lambda: False)
    assert network_cost(model_of()) is None
    torch.manual_seed(0)
    assert (
        network_cost(DiffusionModel.untrained(REFERENCE, None, "unet", {"channels": 4, "scales": 2}, symmetry="none"))
        is None
    )

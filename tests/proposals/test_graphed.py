"""The flow as a CUDA graph is the flow step by step, up to rounding.

What prepares and integrates it also runs on a CPU, operation by operation; recording, and the Triton kernels of the
site-wise layers, need a device.
"""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from checks import inject
from dmmc.core.graphs import KEPT, RECORDED_FROM, Graphs
from dmmc.model import shells, transport
from dmmc.model.cuda.flow import GraphedFlow
from dmmc.model.cuda.layers import neighbour_table
from dmmc.model.interaction import NetworkSize
from dmmc.proposals import ode
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.lattice import Lattice
from helpers import SMALL, free_reference, noise, random_model

WIDE = replace(SMALL, shells=((), (1,), (2,), (1, 1), (3, 1)))
CASES = {
    "one site": (Lattice((1,)), SMALL),
    "square": (Lattice((8, 8)), SMALL),
    "biases": (Lattice((8, 8)), replace(SMALL, odd=False)),
    "a single filter": (Lattice((6, 6)), replace(SMALL, filters=1, hidden1=1, hidden2=1)),
    "odd extents": (Lattice((5, 9)), WIDE),
    "not the site itself": (Lattice((4, 4)), replace(SMALL, shells=((1,), (1, 1)))),
    "three dimensions": (Lattice((4, 2, 6)), WIDE),
    "components": (Lattice((4, 6), 2), SMALL),
    "large": (Lattice((8, 8)), NetworkSize(filters=6, hidden1=48, hidden2=32)),
}


def model_on(lattice, size=SMALL, dtype=torch.float64, device="cpu", strength=0.3):
    reference = free_reference(lattice, **({} if size.odd else {"mean": 0.3}))
    model = random_model(reference, size=size, dtype=dtype, strength=strength)
    model.network.to(device)
    return model


def carried(model, latents, transport, method="dopri5", traced=True):
    """Psi at the end of the flow and the change of its density, as ``transport`` computes them."""
    stages = ode.stages(model.reference, FlowProposal(model, (2, 1), method=method).integrator, 1.0, 0.0)
    return transport(latents, stages, traced)


def step_by_step(model, latents, method="dopri5"):
    flow = FlowProposal(model, (2, 1), method=method, compiled=False)
    psi, change = flow._integrate(model.lattice.to_modes(latents), 1.0, 0.0, flow._generator(None))
    return model.lattice.to_sites(psi), change


def deviation(case, method="dopri5"):
    """Largest difference on the CPU, relative to the largest number; rounding alone makes 1e-13."""
    lattice, size = CASES[case]
    model = model_on(lattice, size)
    latents = noise(lattice, 5)
    found = carried(model, latents, model.network.graphed_flow(), method)
    pairs = zip(found, step_by_step(model, latents, method), strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("case", CASES)
def test_prepared_coefficients_give_the_same_numbers(case, method):
    assert deviation(case, method) < 1e-11


MUTANTS = {
    "levels of other stages": lambda made: replace(made, filters_in=made.filters_in.roll(1, 0)),
    "a trace of other levels": lambda made: replace(made, trace={k: x.roll(1, 0) for k, x in made.trace.items()}),
    "half a step": lambda made: replace(made, arrive=0.99 * made.arrive),
    "a stage forgotten": lambda made: replace(made, advance=made.advance * (1 - torch.eye(6).roll(1, 0))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_differences_are_seen(name, monkeypatch):
    calls = inject(monkeypatch, GraphedFlow, "_coefficients", lambda made: lambda *x: MUTANTS[name](made(*x)))
    assert deviation("square") > 1e-6 and calls


def test_the_trace_is_left_out_where_it_is_not_wanted():
    model = model_on(Lattice((4, 4)))
    fields, change = carried(model, noise(model.lattice, 3), model.network.graphed_flow(), traced=False)
    torch.testing.assert_close(fields, step_by_step(model, noise(model.lattice, 3))[0])
    assert not change.any()


def test_new_weights_give_new_numbers():
    model = model_on(Lattice((4, 4)))
    latents, flow = noise(model.lattice, 3), model.network.graphed_flow()
    before = carried(model, latents, flow)[0]
    with torch.no_grad():
        model.network.o1.mul_(1.5)
    after = carried(model, latents, flow)[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, step_by_step(model, latents)[0])


class Spy:
    """Layers that count how often they prepare what they need."""

    def __init__(self, layers):
        self.layers, self.prepares = layers, 0

    def prepared(self, m, t):
        self.prepares += 1
        return self.layers.prepared(m, t)

    def __call__(self, *arguments):
        return self.layers(*arguments)


def test_other_layers_prepare_for_themselves():
    """What one kind of layers needs is not what another one needs, although the weights are the same."""
    model = model_on(Lattice((4, 4)))
    flow = model.network.graphed_flow()
    spies = [Spy(flow.layers), Spy(flow.layers)]
    for spy in (*spies, *spies):
        carried(model, noise(model.lattice, 2), replace(flow, layers=spy))
    assert [spy.prepares for spy in spies] == [1, 1]


def test_what_was_prepared_is_kept_while_weights_are_the_same():
    graphs, weight, made = Graphs(), torch.ones(1), []

    def run(key):
        return graphs.run(key, [weight], lambda: made.append(key), lambda _, x: (x + 1,), torch.zeros(2))[0]

    for key in (0, 0, 1, 0):
        assert torch.equal(run(key), torch.ones(2))
    assert made == [0, 1]
    for key in range(2, KEPT + 1):
        run(key)
    run(0)
    assert made == list(range(KEPT + 1))  # the first one was used again in between, and is still there
    run(1)
    assert made[-1] == 1
    weight.add_(1)
    run(0)
    assert made[-1] == 0


def test_graphs_are_not_copied():
    graphs = Graphs()
    graphs.run(0, [], lambda: 1, lambda _, x: (x,), torch.zeros(1))
    for other in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):
        made = []
        other.run(0, [], lambda made=made: made.append(1), lambda _, x: (x,), torch.zeros(1))
        assert made


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 3), (4, 2, 6)])
def test_neighbours_are_those_of_the_shells(shape):
    lattice = Lattice(shape)
    distances = ((), (1,), (2,), (1, 1), (3, 1))
    found = [(k, s) for k, d in enumerate(distances) if (s := shells.displacements(d, lattice.dim))]
    parts = tuple((k, part) for k, shell in found for part in shells.classes(shell, lattice))
    table, belongs = neighbour_table(lattice, parts)
    for k, (_, part) in enumerate(parts):
        x = noise(lattice, 1)[0].flatten()
        rows = table[[group for group, of in enumerate(belongs) if of == k]].flatten(0, 1).long()
        total = torch.where(rows < 0, 0.0, x[rows]).sum(0) if part != ((),) else x
        expected = shells.shell_sum(x.view(1, 1, *shape), (part,), lattice.dim)[0].flatten()
        np.testing.assert_allclose(total.numpy(), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_same_numbers_on_a_device(case, dtype):
    """Fused and other layers, before and after the recording; float32 differs from float64 as the flow itself does."""
    lattice, size = CASES[case]
    model = model_on(lattice, size, dtype, "cuda", strength=0.1)
    latents = noise(lattice, 70).to("cuda", dtype)
    exact = step_by_step(model_on(lattice, size, device="cuda", strength=0.1), latents.double())
    rounding = [float((x - y).abs().max()) for x, y in zip(step_by_step(model, latents), exact, strict=True)]
    flow = FlowProposal(model, (2, 1), method="dopri5")
    assert flow.machine_code
    for triton in (None, False):
        results = [carried(model, latents, model.network.graphed_flow(triton)) for _ in range(RECORDED_FROM + 2)]
        for x, y, error in zip(results[0], exact, rounding, strict=True):
            assert float((x - y).abs().max()) < (10 * error + 1e-6 if dtype == torch.float32 else 1e-10)
        for again in results[1:]:
            for x, y in zip(again, results[0], strict=True):
                assert torch.equal(x, y)
        model.network.o1.detach().add_(0)  # forgets what was recorded


@pytest.mark.cuda
def test_a_recorded_flow_sees_its_input_and_its_weights():
    model = model_on(Lattice((8, 8)), dtype=torch.float32, device="cuda", strength=0.1)
    latents, flow = noise(model.lattice, 40).to("cuda", torch.float32), model.network.graphed_flow()
    for _ in range(RECORDED_FROM):
        first = carried(model, latents, flow)
    kept = [x.clone() for x in first]
    others = carried(model, -2 * latents, flow)
    for x, y in zip(others, step_by_step(model, -2 * latents), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3)
    for x, y in zip(first, kept, strict=True):
        assert torch.equal(x, y)  # results of one use are not overwritten by the next
    with torch.no_grad():
        model.network.o1.mul_(1.5)
    changed = carried(model, latents, flow)[0]
    assert not torch.allclose(changed, kept[0])
    torch.testing.assert_close(changed, step_by_step(model, latents)[0], rtol=0, atol=1e-3)


@pytest.mark.cuda
def test_a_field_that_diverges_leaves_the_others_alone():
    model = model_on(Lattice((8, 8)), dtype=torch.float32, device="cuda", strength=0.1)
    latents, flow = noise(model.lattice, 20).to("cuda", torch.float32), model.network.graphed_flow()
    expected = carried(model, latents, flow)
    latents[7, 0, 0] = float("nan")
    found = carried(model, latents, flow)
    others = torch.arange(20) != 7
    for x, y in zip(found, expected, strict=True):
        assert bool(x[7].isnan().all())
        assert torch.equal(x[others], y[others])


@pytest.mark.cuda
def test_without_triton_torch_does_the_layers(monkeypatch):
    model = model_on(Lattice((8, 8)), dtype=torch.float32, device="cuda", strength=0.1)
    latents = noise(model.lattice, 20).to("cuda", torch.float32)
    fused = carried(model, latents, model.network.graphed_flow())
    monkeypatch.setattr("dmmc.model.interaction.has_triton", lambda: False)
    for x, y in zip(carried(model, latents, model.network.graphed_flow()), fused, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3)
    assert isinstance(transport.has_triton(), bool)

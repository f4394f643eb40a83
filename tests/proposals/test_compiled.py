"""The flow in machine code is the flow step by step, up to rounding, on any lattice; its bits are always the same.

Where Numba is not installed, what remains is that everything works without.
"""

import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from checks import inject
from dmmc.core.errors import DmmcError
from dmmc.model import transport
from dmmc.model.interaction import InteractionNetwork, NetworkSize
from dmmc.proposals import ode
from dmmc.proposals.divergence import BruteForce
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.of_model import flow_proposal
from dmmc.theory.lattice import Lattice
from helpers import SMALL, free_reference, noise, random_model, random_network

needs_numba = pytest.mark.skipif(not transport.has_numba(), reason="Numba is not installed")

WIDE = replace(SMALL, shells=((), (1,), (2,), (1, 1), (3, 1)))
CASES = {
    "one site": ((1,), SMALL),
    "two sites": ((2,), SMALL),
    "a chain": ((16,), WIDE),
    "square": ((8, 8), SMALL),
    "biases": ((8, 8), replace(SMALL, odd=False)),
    "a single filter": ((6, 6), replace(SMALL, filters=1, hidden1=1, hidden2=1)),
    "axes of different lengths": ((4, 6), SMALL),
    "odd extents": ((5, 9), WIDE),
    "planes that take turns": ((12, 2), SMALL),
    "distant planes that take turns": ((18, 5), WIDE),
    "shells beyond the lattice": ((3, 3), WIDE),
    "no shell but the site": ((4, 4), replace(SMALL, shells=((),))),
    "not the site itself": ((4, 4), replace(SMALL, shells=((1,), (1, 1)))),
    "three dimensions": ((4, 2, 6), replace(WIDE, shells=(*WIDE.shells, (1, 1, 1)))),
    "four dimensions": ((2, 4, 3, 2), replace(SMALL, odd=False)),
}


def model_on(shape, size=SMALL, dtype=torch.float64):
    reference = free_reference(Lattice(shape), **({} if size.odd else {"mean": 0.3}))
    return random_model(reference, size=size, dtype=dtype)


def deviation(case="square", method="rk4"):
    """Largest difference of fields and densities, both ways, in units of 1e-10: rounding grows along the flow."""
    shape, size = CASES[case]
    model = model_on(shape, size)
    latents = noise(model.lattice, 19)
    compiled, eager = (FlowProposal(model, (2, 1), method=method, compiled=c) for c in (True, False))
    fields, log_q = eager.push(latents)
    pairs = [*zip(compiled.push(latents), (fields, log_q), strict=True)]
    pairs += [*zip(compiled.pull(fields), eager.pull(fields), strict=True)]
    pairs += [*zip(compiled.denoise(latents, [0.5, 0.2]), eager.denoise(latents, [0.5, 0.2]), strict=True)]
    assert float((fields - latents).abs().max()) > 1e-2 and float(log_q.std()) > 1e-2
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1)) for x, y in pairs) / 1e-10


@needs_numba
@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case):
    assert deviation(case) < 1


@needs_numba
def test_same_numbers_with_another_method():
    assert deviation(method="dopri5") < 1


@needs_numba
@pytest.mark.parametrize("odd", [True, False])
def test_single_precision(odd):
    """Both ways to compute in float32 are about as far from float64."""
    size = NetworkSize(filters=4, hidden1=16, hidden2=12, odd=odd)
    single, double = (model_on((8, 8), size, dtype) for dtype in (torch.float32, torch.float64))
    latents = noise(single.lattice, 200)
    exact = FlowProposal(double, 4, compiled=False).push(latents)
    errors = []
    for compiled in (True, False):
        made = FlowProposal(single, 4, compiled=compiled).push(latents.float())
        assert made[0].dtype == torch.float32 and made[1].dtype == torch.float64
        errors.append([float((x - y).abs().median()) for x, y in zip(made, exact, strict=True)])
    for fast, eager in zip(*errors, strict=True):
        assert 0.2 * eager < fast < 2 * eager


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_has_its_numbers_in_every_batch(dtype):
    flow = FlowProposal(model_on((6, 5), dtype=dtype), 2, compiled=True)
    latents = noise(flow.lattice, 40).to(dtype)
    together = flow.push(latents)
    for part in (slice(0, 1), slice(3, 20), slice(39, 40)):
        for alone, among in zip(flow.push(latents[part]), together, strict=True):
            assert torch.equal(alone, among[part])


@needs_numba
def test_bits_do_not_depend_on_threads_load_or_memory():
    """Neither the number of threads, nor work beside it, nor where the numbers lie in memory changes a bit."""
    flow = FlowProposal(model_on((8, 8), dtype=torch.float32), 2, compiled=True)
    latents, done = noise(flow.lattice, 100).float(), threading.Event()
    expected = flow.push(latents)

    def burn():
        while not done.is_set():
            np.linalg.norm(np.random.default_rng(0).random((200, 200)))

    others = [threading.Thread(target=burn) for _ in range(3)]
    for thread in others:
        thread.start()
    try:
        for k in range(12):
            torch.set_num_threads(1 + k % 3)
            memory = torch.empty(latents.numel() + k)
            moved = memory[k:].view(latents.shape).copy_(latents)  # of another alignment each time
            for x, y in zip(flow.push(moved), expected, strict=True):
                assert torch.equal(x, y)
    finally:
        torch.set_num_threads(1)
        done.set()
        for thread in others:
            thread.join()


@needs_numba
def test_a_field_that_diverges_says_so_and_leaves_the_others_alone():
    flow = FlowProposal(model_on((4, 4)), 2, compiled=True)
    latents = noise(flow.lattice, 20)
    fields, log_q = flow.push(latents)
    latents[7, 0, 0] = float("nan")
    bad_fields, bad_log_q = flow.push(latents)
    others = torch.arange(20) != 7
    assert bool(bad_fields[7].isnan().all()) and bool(bad_log_q[7].isnan())
    assert torch.equal(bad_fields[others], fields[others]) and torch.equal(bad_log_q[others], log_q[others])
    latents[7, 0, 0] = 0.0  # nothing of it is left in the memory that the next ones use
    assert flow.push(latents)[0].isfinite().all()


@needs_numba
def test_new_weights_give_new_numbers():
    model = model_on((4, 4))
    compiled, latents = FlowProposal(model, 2, compiled=True), noise(model.lattice, 3)
    before = compiled.push(latents)[0]
    with torch.no_grad():
        model.network.o1.mul_(1.5)
    after = compiled.push(latents)[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, FlowProposal(model, 2, compiled=False).push(latents)[0])


def half_of(function):
    """A bug in what is prepared for the machine code: half of the numbers that ``function`` returns are wrong."""

    def wrong(*arguments):
        out = function(*arguments).copy()
        out[..., ::2] *= 1.01
        return out

    return wrong


def fewer_neighbours(neighbours):
    return lambda *arguments: neighbours(*arguments)[1:]


def few_places(slots):
    """The planes of the first layer write over each other."""
    return lambda planes, reach: slots(planes, reach) % (2 * reach)


def without_trace_of_shells(coefficients):
    def wrong(*arguments):
        made = coefficients(*arguments)
        return made | {"c": torch.zeros_like(made["c"])}

    return wrong


def at_the_level_before(program_of):
    def wrong(*arguments):
        levels, program = program_of(*arguments)
        return levels, program._replace(level=np.roll(program.level, 1))

    return wrong


MUTANTS = {
    "transforms": ("bases", half_of, "square"),
    "a neighbour forgotten": ("neighbours", fewer_neighbours, "square"),
    "planes overwritten": ("slots", few_places, "planes that take turns"),
    "a trace without shells": ("coefficients", without_trace_of_shells, "square"),
    "levels of other stages": ("program_of", at_the_level_before, "square"),
}


@needs_numba
@pytest.mark.parametrize("name", MUTANTS)
def test_differences_are_seen(name, monkeypatch):
    from dmmc.model.compiled import flow

    function, bug, case = MUTANTS[name]
    flow.workshop.cache_clear()  # it keeps what was prepared
    calls = inject(monkeypatch, flow, function, bug)
    assert deviation(case) > 2 and calls
    flow.workshop.cache_clear()


@needs_numba
def test_what_is_not_the_network_of_the_package_runs_step_by_step():
    class Louder(InteractionNetwork):
        def forward(self, modes, v, context=None):
            return 2 * super().forward(modes, v, context)

    model = model_on((4, 4))
    louder = Louder(model.reference, model.network.size).double()
    assert louder.transport() is None
    assert not FlowProposal(replace(model, network=louder), 2).machine_code
    assert not FlowProposal(model, 2, divergence=BruteForce()).machine_code
    with pytest.raises(DmmcError, match="no machine code for this flow"):
        FlowProposal(model, 2, divergence=BruteForce(), compiled=True)
    assert random_network(free_reference(Lattice((4, 4), 2))).transport() is None
    assert model_on((4, 4), dtype=torch.float16).network.transport() is None


def test_without_numba_everything_runs_step_by_step(monkeypatch):
    monkeypatch.setattr(transport, "has_numba", lambda: False)
    model = model_on((4, 4))
    flow = flow_proposal(model, 2)
    assert not flow.machine_code and "compiled" not in flow.describe()
    assert flow.push(noise(model.lattice, 2))[0].isfinite().all()
    with pytest.raises(DmmcError, match="needs Numba"):
        flow_proposal(model, 2, compiled=True)


@needs_numba
def test_the_compilation_is_announced_if_it_takes_long(monkeypatch):
    from dmmc.model.compiled import flow

    said = []
    monkeypatch.setattr(flow, "_COMPILED", set())
    monkeypatch.setattr(flow, "patience", lambda text: said.append(text) or nullcontext())
    model = model_on((4, 4))
    for _ in range(2):
        FlowProposal(model, 2).push(noise(model.lattice, 2))
    assert said == [flow.COMPILING.format("float64")]


@needs_numba
def test_the_memory_of_an_integration():
    """Fields in and out, and the coefficients of each level once for 16 fields; the workspace is larger than these."""
    model = model_on((8, 8), NetworkSize(filters=4, hidden1=8, hidden2=8), torch.float32)
    found = [ode.footprint(model, FlowProposal(model, n).integrator) for n in (2, 4)]
    field, levels = 4 * 64, [5, 9]  # rk4 meets the levels at both ends and in the middle of each step
    b, f1, f2, parts = 4, 8, 8, 2
    numbers = 2 * 64 * b + 2 * f1 * b + f2 * b + f2 + f1 + b * b  # filters, a1 and o1, a2, biases, lin
    numbers += b * f2 + f1 + f2 + 2 * (1 + parts) * f1 * f2  # o2, trace, shells and their coupling
    for one, n in zip(found, levels, strict=True):
        assert one.field == field and one.fields == 16
        assert one.coefficients == n * (4 * numbers + 8)
        assert one.traffic == 2 * field + one.coefficients / 16
        assert one.workspace > 16 * field * (2 * b + 4)  # filtered fields in and out, and the slopes of four stages
    assert ode.footprint(model_on((4, 4), dtype=torch.float16), FlowProposal(model, 2).integrator) is None


@needs_numba
def test_the_arithmetic_is_part_of_what_a_proposal_is():
    model = model_on((4, 4))
    assert flow_proposal(model, 2).describe()["compiled"] is True
    assert flow_proposal(model, 2, compiled=False).describe() != flow_proposal(model, 2).describe()
    assert (
        flow_proposal(model, 2).to_float64().machine_code and flow_proposal(model, 2).with_schedule((1, 2)).machine_code
    )

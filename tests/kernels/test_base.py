"""The contract of a kernel: the Metropolis step, starts, defaults, and a kernel that a user has written.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 10 comparisons.
"""

import functools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from checks import bonferroni, inject, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import stream
from dmmc.kernels import base
from dmmc.kernels.base import (
    Info,
    Kernel,
    State,
    WeightedState,
    advance,
    choose,
    identity,
    in_pieces,
    log_weight,
    metropolis,
    refuse_inexact,
    start_state,
    uniform,
    valid_or_rejected,
)
from dmmc.kernels.invariance import assert_invariant, check_invariance
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, noise, rng, z_scores
from user_kernel import GuidedInfo, GuidedState, GuidedWalk

TWO_SITES, SQUARE = Lattice((2,)), Lattice((3, 4))
PHI4 = Phi4(0.22, 0.1)


@functools.cache
def draws():
    return phi4_draws(PHI4, TWO_SITES, 20_000, c=0.5)


@dataclass(frozen=True)
class Rich(State):
    """A state with all sorts of things beside the fields."""

    label: Tensor
    matrix: Tensor
    flag: Tensor


def rich(value, n=6):
    full = functools.partial(torch.full, dtype=torch.float64)
    return Rich(
        phi=full((n, 3, 4), value),
        S=full((n,), value),
        label=torch.full((n,), int(value)),
        matrix=full((n, 2, 2, 5), value),
        flag=torch.full((n,), value > 0),
    )


# The Metropolis step


def test_metropolis_probabilities():
    log_ratio = torch.tensor([-2.0, -0.1, 0.0, 0.7, 800.0, math.inf, -800.0, -math.inf, math.nan], dtype=torch.float64)
    expected = torch.tensor([math.exp(-2), math.exp(-0.1), 1, 1, 1, 1, 0, 0, 0], dtype=torch.float64)
    n = len(log_ratio)
    _, accepted, probability = metropolis(rich(0, n), rich(1, n), log_ratio, torch.full((n,), 0.5).double())
    torch.testing.assert_close(probability, expected, rtol=1e-15, atol=0)
    assert accepted.dtype == torch.bool and accepted.tolist() == [False, *[True] * 5, *[False] * 3]


def test_nothing_impossible_is_accepted_and_nothing_certain_rejected():
    # The ends of [0, 1), which random numbers take now and then.
    log_ratio = torch.tensor([-math.inf, math.nan, -1e9, 0.0, 1e9], dtype=torch.float64)
    for u in (0.0, 1 - 2**-53):
        new, accepted, _ = metropolis(rich(0, 5), rich(1, 5), log_ratio, torch.full((5,), u, dtype=torch.float64))
        assert accepted.tolist() == [False, False, False, True, True]
        assert new.S.tolist() == [0, 0, 0, 1, 1]


def test_metropolis_moves_as_often_as_it_says():
    # Four ratios, 100,000 chains of each.
    log_ratio = torch.tensor([-3.0, -1.0, -0.2, 0.3], dtype=torch.float64)
    n = 100_000
    state = State(torch.zeros(4 * n, 1), torch.zeros(4 * n))
    u = uniform(4 * n, rng(), like=state.phi)
    _, accepted, probability = metropolis(state, state, log_ratio.repeat(n), u)
    p = probability.view(n, 4)[0]
    z = (accepted.view(n, 4).double().mean(0)[:3] - p[:3]) / (p[:3] * (1 - p[:3]) / n).sqrt()
    assert float(z.abs().max()) < bonferroni(3)
    assert bool(accepted.view(n, 4)[:, 3].all())


def test_each_chain_uses_its_own_uniform():
    log_ratio = torch.full((6,), math.log(0.5), dtype=torch.float64)
    u = torch.tensor([0.1, 0.9, 0.499, 0.501, 0.0, 0.7], dtype=torch.float64)
    _, accepted, _ = metropolis(rich(0), rich(1), log_ratio, u)
    assert accepted.tolist() == [True, False, True, False, True, False]
    numbers = uniform(1000, rng(), like=u)
    assert numbers.dtype == torch.float64 and len(numbers.unique()) == 1000
    assert bool((numbers >= 0).all()) and bool((numbers < 1).all())


def test_everything_in_a_state_moves_together():
    accepted = torch.tensor([True, False, True, True, False, False])
    new = choose(accepted, rich(2), rich(-1))
    assert type(new) is Rich
    for name, value in new.tensors().items():
        wanted, other = getattr(rich(2), name), getattr(rich(-1), name)
        assert value.dtype == wanted.dtype and value.shape == wanted.shape
        assert torch.equal(value[accepted], wanted[accepted]) and torch.equal(value[~accepted], other[~accepted])
    moved, _, _ = metropolis(rich(-1), rich(2), torch.where(accepted, 0.0, -math.inf), torch.zeros(6))
    assert all(torch.equal(value, getattr(new, name)) for name, value in moved.tensors().items())


def test_a_rejected_proposal_leaves_no_trace_however_bad_it_is():
    bad = replace(rich(1), phi=torch.full((6, 3, 4), math.nan).double(), S=torch.full((6,), math.nan).double())
    log_ratio = valid_or_rejected(rich(0).S - bad.S, bad.phi)
    new, accepted, probability = metropolis(rich(0), bad, log_ratio, torch.zeros(6))
    assert not accepted.any() and not probability.any()
    assert all(torch.equal(value, getattr(rich(0), name)) for name, value in new.tensors().items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_rejected(value):
    phi = torch.zeros(4, 3, 4)
    phi[1, 2, 3] = value
    log_ratio = torch.tensor([0.5, 0.5, value, -0.5], dtype=torch.float64)
    assert valid_or_rejected(log_ratio, phi).tolist() == [0.5, -math.inf, -math.inf, -0.5]


def test_log_weight():
    S, log_q = torch.tensor([1.0, 2.0]), torch.tensor([-0.5, 0.25])
    assert log_weight(S, log_q).tolist() == [-0.5, -2.25]


# States and infos


def test_tensors_are_the_fields_that_are_there():
    @dataclass(frozen=True)
    class Partial(State):
        extra: Tensor | None = None

    phi, S = torch.zeros(2, 3, 4), torch.ones(2)
    assert set(Partial(phi, S).tensors()) == {"phi", "S"}
    assert list(Partial(phi, S, S).tensors()) == ["phi", "S", "extra"]
    assert list(WeightedState(phi, S, S, S).tensors()) == ["phi", "S", "log_q", "log_w"]
    assert list(Info(S > 0, S).tensors()) == ["accepted", "acceptance_rate"]


CPU = torch.device("cpu")


def test_start_state():
    phi = noise(SQUARE, 5).float()
    state = start_state(FreeField(0.7), SQUARE, phi, CPU)
    assert state.phi.dtype == state.S.dtype == torch.float64
    torch.testing.assert_close(state.S, FreeField(0.7)(phi.double()), rtol=0, atol=0)
    # The state is a copy: what the caller does with the fields afterwards does not change it.
    before = phi.double()
    double = start_state(FreeField(0.7), SQUARE, before, CPU)
    before.zero_()
    assert torch.equal(double.phi, state.phi)


def test_start_state_keeps_no_graph():
    g = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    action = AutogradAction(lambda phi: (g * phi**4).flatten(1).sum(1), "quartic")
    state = start_state(action, TWO_SITES, torch.ones(3, 2, requires_grad=True), CPU)
    assert not state.phi.requires_grad and not state.S.requires_grad


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (torch.zeros(5, 4, 3), r"initial phi must have shape \(batch, 3, 4\)"),
        (torch.zeros(3, 4), r"initial phi must have shape \(batch, 3, 4\)"),
        (torch.full((5, 3, 4), math.nan), "initial phi .*NaN or infinite"),
        (torch.full((5, 3, 4), math.inf), "initial phi .*NaN or infinite"),
        (torch.full((5, 3, 4), 1e200, dtype=torch.float64), "action of an initial configuration is not finite"),
    ],
)
def test_start_state_refuses(phi, message):
    with pytest.raises(DmmcError, match=message):
        start_state(PHI4, SQUARE, phi, CPU)
    with pytest.raises(DmmcError, match=message):
        GuidedWalk(PHI4, SQUARE).start(phi, rng())


def test_inexact_kernels_are_refused_unless_the_user_wants_one():
    refuse_inexact("", allow_inexact=False)
    refuse_inexact("noise", allow_inexact=True)
    with pytest.raises(DmmcError, match=r"would not sample exp\(-S\): noise; .*allow_inexact=True"):
        refuse_inexact("noise", allow_inexact=False)


# The defaults of the protocol


@dataclass(frozen=True)
class Least(Kernel[State]):
    """As little as a kernel can be: fresh Gaussian fields, the exact law of a single free site."""

    action: FreeField
    lattice: Lattice

    @property
    def facts(self):
        return KernelFacts("fresh_fields")

    def describe(self):
        return {"name": "fresh_fields"}

    def initial(self, n, generator):
        return self.start(torch.zeros(n, 1), generator)

    def step(self, state, generator):
        phi = torch.randn(len(state.phi), 1, generator=generator, dtype=torch.float64) / self.action.mass
        everyone = torch.ones(len(phi), dtype=torch.float64)
        return State(phi, self.action(phi)), Info(everyone > 0, everyone)


def test_defaults():
    kernel = Least(FreeField(2.0), Lattice((1,)))
    phi = torch.linspace(-1, 1, 5).view(5, 1)
    state = kernel.start(phi, rng())
    assert (
        type(state) is State and torch.equal(state.phi, phi.double()) and torch.equal(state.S, 2 * state.phi[:, 0] ** 2)
    )
    restored = kernel.restore(state.tensors())
    assert type(restored) is State and restored.phi is state.phi and restored.S is state.S
    assert kernel.cost == {}
    assert kernel.tune(state, rng()) == (kernel, state)
    generator = rng()
    by_hand = []
    for _ in range(3):
        state, info = kernel.step(state, generator)
        by_hand.append((state.phi, info.accepted))
    together = [(state.phi, info.accepted) for state, info in kernel.steps(restored, 3, rng())]
    assert len(together) == 3
    for (phi, accepted), (phi_, accepted_) in zip(by_hand, together, strict=True):
        assert torch.equal(phi, phi_) and torch.equal(accepted, accepted_)
    assert list(kernel.steps(state, 0, rng())) == []
    exact = torch.randn(5000, 1, generator=rng(5), dtype=torch.float64) / 2
    assert assert_invariant(kernel, exact, rng(6), reversible=True).moved == 1


@pytest.mark.parametrize("name", ["facts", "describe", "initial", "step"])
def test_what_has_no_default_must_be_defined(name):
    body = {key: value for key, value in vars(Least).items() if key in {"facts", "describe", "initial", "step"}}
    del body[name]
    incomplete = type("Incomplete", (Kernel,), body)
    with pytest.raises(TypeError, match=rf"abstract .*{name}"):
        incomplete()


def test_facts_have_a_label_and_survive_json():
    assert KernelFacts("guided_walk").label == "guided walk"
    facts = KernelFacts("walk", label="random walk", independent_weights=True, inexact="noise")
    assert KernelFacts.from_json(facts.to_json()) == facts


# A kernel that a user has written


def test_a_users_kernel_is_invariant():
    kernel = GuidedWalk(PHI4, TWO_SITES)
    assert kernel.start(draws(), rng(3)).direction.dtype == torch.float64
    outcome = assert_invariant(kernel, draws(), rng(3), steps=6)
    assert 0.9 < outcome.moved
    # A walk on a larger lattice, whose exact answer is known: the law of the action of a free field.
    n, action = 20_000, FreeField(0.7)
    phi = SQUARE.to_sites(action.propagator(SQUARE.phat2).sqrt() * SQUARE.to_modes(noise(SQUARE, n, 4)))
    walk = GuidedWalk(action, SQUARE, width=0.2)
    *_, (state, info) = walk.steps(walk.start(phi, rng(5)), 10, rng(6))
    assert 0.3 < float(info.acceptance_rate.mean()) < 0.9
    assert abs(float(z_scores(state.S, SQUARE.volume / 2))) < SIGMA
    assert abs(float(z_scores(state.direction, 0.0))) < SIGMA


def kept(_):
    """Nobody turns round."""
    return lambda self, state, accepted: state


def turned(_):
    """Everybody turns round."""
    return lambda self, state, accepted: replace(state, direction=-state.direction)


@pytest.mark.parametrize("bug", [kept, turned])
def test_a_fault_in_a_users_own_state_is_found(bug, monkeypatch):
    inject(monkeypatch, GuidedWalk, "turn", bug)
    outcome = check_invariance(GuidedWalk(PHI4, TWO_SITES), draws(), rng(3), steps=6)
    assert outcome.p_value < 1e-8, outcome


def test_an_action_forgotten_in_the_state_is_found(monkeypatch):
    inject(monkeypatch, base, "choose", lambda choose: lambda a, new, old: replace(choose(a, new, old), S=new.S))
    outcome = check_invariance(GuidedWalk(PHI4, TWO_SITES), draws()[:500], rng(3), steps=2)
    assert outcome.faults == ("the S of a state is not that of its fields",)


def test_a_state_that_is_not_a_number_is_found():
    class Careless(GuidedWalk):
        def step(self, state, generator):
            new, info = super().step(state, generator)
            return replace(new, S=new.S * math.nan), info

    outcome = check_invariance(Careless(PHI4, TWO_SITES), draws()[:500], rng(3), steps=1)
    assert outcome.faults == ("the S of a state is not that of its fields",)


def test_a_users_state_survives_storage_and_goes_on_bit_for_bit():
    kernel = GuidedWalk(PHI4, TWO_SITES)
    *_, (state, info) = kernel.steps(kernel.initial(50, rng(1)), 7, rng(2))
    assert isinstance(state, GuidedState) and isinstance(info, GuidedInfo)
    assert list(state.tensors()) == ["phi", "S", "direction"]
    assert list(info.tensors()) == ["accepted", "acceptance_rate", "forward"]
    assert set(state.direction.tolist()) == {-1.0, 1.0}
    # By way of NumPy, as in a file.
    stored = {name: torch.from_numpy(value.numpy().copy()) for name, value in state.tensors().items()}
    restored = kernel.restore(stored)
    assert type(restored) is GuidedState
    one, other = kernel.steps(state, 5, stream(1, "block", 3)), kernel.steps(restored, 5, stream(1, "block", 3))
    for (a, info_a), (b, info_b) in zip(one, other, strict=True):
        for x, y in ((a, b), (info_a, info_b)):
            assert all(torch.equal(value, y.tensors()[name]) for name, value in x.tensors().items())


def test_a_start_draws_what_fields_do_not_determine():
    # The direction comes from the generator: the same one gives the same state, and both directions occur alike.
    kernel, phi = GuidedWalk(PHI4, TWO_SITES), draws()[:10_000]
    one, same, other = (kernel.start(phi, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.direction, same.direction) and not torch.equal(one.direction, other.direction)
    assert torch.equal(one.phi, other.phi)
    assert abs(float(z_scores(one.direction, 0.0))) < SIGMA


def test_steps_in_pieces_are_the_steps():
    asked = []

    @dataclass(frozen=True)
    class Counting(GuidedWalk):
        def steps(self, state, n, generator):
            asked.append(n)
            return super().steps(state, n, generator)

    kernel = Counting(PHI4, TWO_SITES)
    start = kernel.initial(3, rng())
    states = [state.phi for state, _ in in_pieces(kernel, start, 40, rng(2))]
    assert asked == [16, 16, 8]
    expected = [state.phi for state, _ in GuidedWalk(PHI4, TWO_SITES).steps(start, 40, rng(2))]
    assert torch.equal(torch.stack(states), torch.stack(expected))
    assert torch.equal(advance(kernel, start, 40, rng(2)).phi, states[-1])


def test_identities_tell_kernels_actions_and_lattices_apart():
    kernels = [
        GuidedWalk(PHI4, TWO_SITES),
        GuidedWalk(PHI4, TWO_SITES, width=0.4),
        GuidedWalk(PHI4, SQUARE),
        GuidedWalk(FreeField(0.7), TWO_SITES),
    ]
    assert len({identity(kernel) for kernel in kernels}) == 4
    with pytest.raises(DmmcError, match=r"must return JSON values: .*complex"):
        identity(GuidedWalk(PHI4, TWO_SITES, width=1j))

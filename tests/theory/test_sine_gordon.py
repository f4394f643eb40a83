"""The sine-Gordon theory: its formula, its gradient, its minimum, and what it refuses."""

import json
import math

import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError
from dmmc.kernels.hopping import check_hopping
from dmmc.kernels.invariance import assert_invariant
from dmmc.theory.actions import declaration
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.sine_gordon import SineGordon
from helpers import Grid, rng

SCHWINGER = math.sqrt(4 * math.pi)


def field(shape, n=4):
    return 2 * torch.randn(n, *shape, generator=rng(), dtype=torch.float64)


def by_hand(phi, m2, alpha, beta):
    kinetic = sum((torch.roll(phi, -1, axis) - phi) ** 2 for axis in range(1, phi.ndim)) / 2
    return (kinetic + m2 / 2 * phi**2 + alpha * (1 - torch.cos(beta * phi))).flatten(1).sum(1)


@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3), (3, 2, 4), (2, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("values", [(0.1, 0.4, SCHWINGER), (2.0, -1.5, 0.7), (0.3, 0.0, 1.0)], ids=str)
def test_its_value_and_gradient(values, shape):
    phi, action = field(shape), SineGordon(*values)
    torch.testing.assert_close(action(phi), by_hand(phi, *values))
    torch.testing.assert_close(action.grad(phi), AutogradAction(lambda x: by_hand(x, *values), "by hand").grad(phi))
    assert action.grad(phi.float()).dtype == action(phi.float()).dtype == torch.float32


def test_it_is_a_free_field_for_small_fields():
    # alpha (1 - cos(beta phi)) = alpha beta^2 phi^2 / 2 to leading order, also in float32, where 1 - cos would be 0.
    phi = 1e-5 * field((4, 4)).float()
    expected = dmmc.FreeField(math.sqrt(0.1 + 0.4 * 9))(phi)
    torch.testing.assert_close(SineGordon(0.1, 0.4, 3.0)(phi), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("alpha", [0.8, -0.8])
def test_hmc_and_clusters_keep_draws_of_the_formula(alpha):
    values, lattice = (0.4, alpha, 2.0), Lattice((2,))
    draws = Grid.make(2, half_width=8, n=201).draws(AutogradAction(lambda x: by_hand(x, *values), "by hand"), 4000)
    action = SineGordon(*values)
    kernel = dmmc.HMC(action, lattice, step_size=0.3, n_leapfrog=4)
    assert_invariant(kernel, draws, rng(7), steps=2)
    assert_invariant(dmmc.Cluster(kernel), draws, rng(7), steps=2)
    for wrong in ((0.4, 2.0, abs(alpha)), (0.4, -alpha, 2.0)):
        with pytest.raises(AssertionError, match="does not leave"):
            kernel = dmmc.HMC(SineGordon(*wrong), lattice, step_size=0.3, n_leapfrog=4)
            assert_invariant(kernel, draws, rng(7), steps=2)


def test_its_declarations_are_true():
    action = SineGordon(0.3, 0.7, SCHWINGER)
    declared, phi = declaration(action), field((4, 3))
    assert (declared.symmetry, declared.components, declared.has_grad) == ("z2", None, True)
    torch.testing.assert_close(action(-phi), action(phi), rtol=0, atol=0)
    for shape in ((5,), (4, 3), (3, 3, 3)):
        check_hopping(action, Lattice(shape))


@pytest.mark.parametrize(
    "values", [(0.1, 0.4, SCHWINGER), (0.1, -0.4, SCHWINGER), (1.0, -0.25, 2.0), (1.0, -0.26, 2.0), (0.01, -5.0, 1.0)]
)
def test_its_minimum(values):
    action = SineGordon(*values)
    value = action.minimum(2)
    assert (value > 0) == (-action.alpha * action.beta**2 > action.m2)
    uniform = torch.full((1, 3, 3), value, dtype=torch.float64)
    torch.testing.assert_close(action.grad(uniform), torch.zeros_like(uniform), rtol=0, atol=1e-12)
    others = torch.linspace(-30, 30, 6001, dtype=torch.float64).view(-1, 1, 1).repeat(1, 3, 3)
    assert float(action(uniform)) <= float(action(others).min()) + 1e-12


def test_files_and_labels():
    action = SineGordon(0.1, -0.4, 3.5)
    assert action_from_description(json.loads(json.dumps(action.describe()))) == action
    assert action_label(action, 2) == ("Sine-Gordon", "m² = 0.1, α = −0.4, β = 3.5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SineGordon(0.0, 0.4, 1.0), r"m2 must be positive, got 0.0: without a mass, .* phi \+ 2 pi/beta, and"),
        (lambda: SineGordon(-0.1, 0.4, 1.0), "m2 must be positive"),
        (lambda: SineGordon(math.nan, 0.4, 1.0), "m2 must be a finite number"),
        (lambda: SineGordon(0.1, math.nan, 1.0), "alpha must be a finite number"),
        (lambda: SineGordon(0.1, 0.4, math.inf), "beta must be a finite number"),
        (lambda: SineGordon(0.1, 0.4, 0.0), "beta must be positive"),
        (lambda: SineGordon(0.1, 0.4, -1.0), "beta must be positive"),
        (lambda: SineGordon(0.1, "0.4", 1.0), "alpha must be a finite number"),
        (lambda: action_from_description({"name": "sine_gordon", "m2": 0.1, "beta": 1.0}), "does not describe"),
        (
            lambda: action_from_description({"name": "sine_gordon", "m2": 0.1, "alpha": 1.0, "b": 1.0}),
            "does not describe an action",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(DmmcError, match=message):
        make()

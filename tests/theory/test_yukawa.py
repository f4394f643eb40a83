"""The scalar field with Wilson fermions: its formula, its gradient, what it declares, and what it refuses."""

import math

import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError
from dmmc.theory.actions import declaration
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.symmetry import find_symmetry
from dmmc.theory.yukawa import Yukawa
from fermions import PHI4, YUKAWA, action_by_hand, grid
from helpers import rng


def field(shape, n=4):
    return 0.6 * torch.randn(n, *shape, generator=rng(), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 2), (3, 4), (2, 1)], ids=str)
def test_its_value_and_gradient(shape):
    phi, step = field(shape), 1e-5
    torch.testing.assert_close(YUKAWA(phi), torch.from_numpy(action_by_hand(phi)))
    direction = torch.randn(phi.shape, generator=rng(5), dtype=torch.float64)
    difference = (YUKAWA(phi + step * direction) - YUKAWA(phi - step * direction)) / (2 * step)
    torch.testing.assert_close((YUKAWA.grad(phi) * direction).flatten(1).sum(1), difference, rtol=1e-7, atol=1e-7)
    assert YUKAWA(phi.float()).dtype == YUKAWA.grad(phi.float()).dtype == torch.float32


def test_the_condensate_is_the_derivative_of_log_z_in_the_mass():
    _, p, condensate = grid((2, 2))
    phi, step = grid((2, 2))[0], 1e-4
    some = slice(None, None, 997)
    torch.testing.assert_close(YUKAWA.condensate(phi[some]), condensate[some])
    up, down = (Yukawa(PHI4, YUKAWA.g, YUKAWA.m_f + shift)(phi[some]) for shift in (step, -step))
    torch.testing.assert_close(YUKAWA.condensate(phi[some]), (up - down) / (2 * step) / 4, rtol=1e-6, atol=1e-6)
    assert float((p * condensate).sum()) < 0
    assert YUKAWA.observables()["condensate"](phi[:3], YUKAWA(phi[:3])).shape == (3,)


def test_its_declarations_are_true():
    declared, phi = declaration(YUKAWA), field((4, 4))
    assert (declared.symmetry, declared.hopping, declared.has_grad) == ("none", None, True)
    assert declared.scale == PHI4.scale
    assert float((YUKAWA(phi) - YUKAWA(-phi)).abs().min()) > 1e-3
    # Translations are a symmetry, although fermions are antiperiodic in time.
    torch.testing.assert_close(YUKAWA(phi.roll(1, 1)), YUKAWA(phi))
    torch.testing.assert_close(YUKAWA(phi.roll(1, 2)), YUKAWA(phi))
    assert find_symmetry(YUKAWA, phi, "auto").symmetry == "none"


def test_without_a_coupling_it_is_the_theory_of_the_scalar_field():
    free, phi = Yukawa(PHI4, 0.0, 0.2), field((4, 4))
    constant = free(phi) - PHI4(phi)
    torch.testing.assert_close(constant, constant[0].expand(4))
    torch.testing.assert_close(free.grad(phi), PHI4.grad(phi))
    assert declaration(free).symmetry == "z2"
    assert free.minimum(2) == pytest.approx(abs(PHI4.minimum(2)), abs=1e-6) or free.minimum(2) == pytest.approx(
        -PHI4.minimum(2), abs=1e-6
    )


@pytest.mark.parametrize("g", [0.3, -0.3, 2.0])
def test_its_minimum(g):
    action = Yukawa(PHI4, g)
    value = action.minimum(2)
    assert value * g > 0  # the Wilson term makes a larger mass more likely
    uniform = torch.full((1, 16, 16), value, dtype=torch.float64)
    torch.testing.assert_close(action.grad(uniform), torch.zeros_like(uniform), rtol=0, atol=1e-5)
    others = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64).view(-1, 1, 1).repeat(1, 16, 16)
    assert float((action(others) - action(uniform)).min()) > -1e-9


def test_files_name_it():
    described = YUKAWA.describe()
    assert action_from_description(described) == YUKAWA
    assert action_label(described, 2) == ("φ⁴ with Wilson fermions", f"{PHI4.label(2)[1]}, g = 1, m_f = 0.1")
    assert action_from_description({**described, "action": {"name": "of mine"}}) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Yukawa(PHI4, math.nan), "g must be a finite number"),
        (lambda: Yukawa(PHI4, 0.1, math.inf), "m_f must be a finite number"),
        (lambda: Yukawa(dmmc.Phi4(0.2, 0.1, components=2), 0.1), "declares 2 components"),
        (lambda: YUKAWA(field((4,))), "live in two dimensions, and the lattice has 1"),
        (lambda: YUKAWA.grad(field((2, 2, 2))), "live in two dimensions, and the lattice has 3"),
        (lambda: YUKAWA.minimum(3), "live in two dimensions, and the lattice has 3"),
    ],
)
def test_what_it_refuses(make, message):
    with pytest.raises(DmmcError, match=message):
        make()


def test_a_costly_action_is_trained_on_with_one_force_a_field():
    from dmmc.model.options import TRAJECTORIES, TrainingOptions

    options = TrainingOptions(steps=10)
    assert declaration(YUKAWA).costly and not declaration(PHI4).costly
    assert declaration(dmmc.ExternalField(YUKAWA, 0.1)).costly
    assert (options.for_action(YUKAWA).trajectories, options.for_action(PHI4).trajectories) == (0, TRAJECTORIES)
    assert options.for_action(None).trajectories == TRAJECTORIES > 0
    asked = TrainingOptions(steps=10, trajectories=2)
    assert asked.for_action(YUKAWA) == asked

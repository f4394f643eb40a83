"""Mixtures of actions, and the free fields from which paths begin."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import declaration
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.external_field import ExternalField
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.mixture import Mixture
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, noise, z_scores

LATTICE = Lattice((4, 3))


def test_a_mixture_of_two_phi4_theories_is_the_theory_in_between():
    # In the mass form all couplings enter linearly, and the kinetic term is the same.
    phi = noise(LATTICE, 5)
    couplings = [(0.5, 0.3), (-1.5, 1.1)]
    first, second = (Phi4.from_mass(*x, 2) for x in couplings)
    m2, lam = (0.25 * a + 0.75 * b for a, b in zip(*couplings, strict=True))
    between, mixture = Phi4.from_mass(m2, lam, 2), Mixture(first, second, 0.75)
    torch.testing.assert_close(mixture(phi), between(phi))
    torch.testing.assert_close(mixture.grad(phi), between.grad(phi))
    torch.testing.assert_close(mixture.grad(phi), AutogradAction(mixture, "same").grad(phi))
    assert torch.equal(Mixture(first, second, 0.0)(phi), first(phi))
    assert torch.equal(Mixture(first, second, 1.0)(phi), second(phi))


def test_a_mixture_declares_what_both_declare():
    even, tilted = Phi4(0.2, 0.1, scale=0.7), ExternalField(Phi4(0.2, 0.1), 0.3)
    assert Mixture(FreeField(1.0), even, 0.5).symmetry == "z2" and Mixture(FreeField(1.0), even, 0.5).scale == 0.7
    assert Mixture(even, tilted, 0.5).symmetry is None  # nothing is believed that one of the two has not said
    assert declaration(Mixture(even, tilted, 0.5)).has_grad
    vector = Phi4(0.2, 0.1, components=2)
    assert declaration(Mixture(FreeField(1.0, 1.0, 2), vector, 0.5)).components == 2
    with pytest.raises(DmmcError, match="nothing between fields with None and with 2 components"):
        Mixture(even, vector, 0.5)
    for share in (-0.1, 1.1, math.nan, "half"):
        with pytest.raises(DmmcError, match="lies between 0 and 1"):
            Mixture(even, even, share)
    assert action_label(Mixture(FreeField(1.0), even, 0.25), 2)[0] == "Between Free field and φ⁴"


@pytest.mark.parametrize("action", [FreeField(0.7, 1.6), FreeField(0.7, 0.5, 3)])
def test_a_free_field_of_any_normalisation_has_its_propagator(action):
    lattice = LATTICE.carrying(action.components)
    white = noise(lattice, 4000)
    c = lattice.spread(action.propagator(lattice.orbit_phat2))
    phi = lattice.to_sites(c.sqrt() * lattice.to_modes(white))
    # Partial integration, mode by mode: <phi(p) dS/dphi(p)> = 1. And S itself, of Gaussian fields, is half its size.
    torch.testing.assert_close(action.grad(phi), lattice.to_sites(lattice.to_modes(phi) / c))
    S = action(phi)
    assert abs(float(z_scores(S, 0.5 * lattice.n_numbers))) < SIGMA
    torch.testing.assert_close(S, 0.5 * white.square().flatten(1).sum(1))
    assert action_from_description(action.describe()) == action
    assert declaration(action).hopping == pytest.approx(action.scale**-2)


def test_descriptions_of_free_fields_are_as_they_were():
    assert FreeField(0.5).describe() == {"name": "free", "mass": 0.5}
    with pytest.raises(DmmcError, match="scale must be positive"):
        FreeField(0.5, 0.0)
    with pytest.raises(DmmcError, match="components must be a positive integer"):
        FreeField(0.5, components=0)

"""Theories as a user would write them, which declare nothing, on lattices where everything is known by quadrature."""

from dmmc.theory.function_action import AutogradAction
from helpers import Grid

TILT = 0.1


def even_function(phi):
    """Two equal wells, coupled."""
    coupling = 0.5 * (phi - phi.roll(1, 1)).square()
    return (coupling + 2.5 * phi**4 - 8 * phi**2).flatten(1).sum(1)


def tilted_function(phi):
    """Two wells of different depth: the tilt breaks the symmetry, and the wells are as narrow as before."""
    return even_function(phi) - TILT * phi.flatten(1).sum(1)


EVEN = AutogradAction(even_function, "test-even")
TILTED = AutogradAction(tilted_function, "test-tilted", (("tilt", TILT),))

GRID = Grid.make(2, 2.4, 241)
"""Fields of two sites."""


def exact_mean(action, of):
    """The mean of ``of(phi)`` by quadrature on two sites."""
    return float((GRID.probabilities(action) * of(GRID.phi)).sum())

"""The known truth: quadrature on two sites, and the symmetry that makes odd observables vanish."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.studies.exactness.analysis import OBSERVABLES, Means
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure

_NEGLIGIBLE = 45.0
"""Difference of the action from its minimum at which the integrand counts as zero: exp(-45) is 3e-20."""

_LARGEST_HALF_WIDTH = 1e6

ODD = ("M",)
"""Observables that change their sign with the field."""


def quadrature(action: Action, lattice: Lattice) -> Means:
    """The values on two sites, by the trapezoidal rule, which converges faster than any power for such integrands.

    No symmetry is assumed.

    Raises:
        DmmcError: if there are more sites, or ``exp(-S)`` does not fall off.
    """
    if lattice.volume != 2:
        raise DmmcError(f"quadrature is for two sites, not {lattice.volume}")
    axis = torch.linspace(-1, 1, 801, dtype=torch.float64, device="cpu") * _half_width(action, lattice)
    phi = torch.cartesian_prod(axis, axis).view(-1, *lattice.shape)
    S = evaluate(action, phi)
    p = torch.softmax(-S, 0)

    def average(x: Tensor) -> float:
        # NumPy's sum has the same order whatever the number of threads.
        return float((p * x).numpy().sum())

    measured = measure(phi, S, lattice)
    values = {name: average(x) for name, x in measured.items() if x.ndim == 1}
    values["G_min"] = average(measured["two_point"][:, 1])
    values["binder"] = 1 - values["M4"] / (3 * values["M2"] ** 2)
    n = len(OBSERVABLES)
    return Means(np.array([values[name] for name in OBSERVABLES]), np.zeros((n, n)), 0)


def _half_width(action: Action, lattice: Lattice) -> float:
    """Half the side of a square around zero on whose edge ``exp(-S)`` is negligible."""
    unit = torch.linspace(-1, 1, 201, dtype=torch.float64, device="cpu")
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64, device="cpu")
    edge = torch.cat([torch.cartesian_prod(unit, ends), torch.cartesian_prod(ends, unit)]).view(-1, *lattice.shape)
    square = torch.cartesian_prod(unit, unit).view(-1, *lattice.shape)
    half_width = 1.0
    while half_width < _LARGEST_HALF_WIDTH:
        on_edge, inside = (evaluate(action, half_width * x).min() for x in (edge, square))
        if float(on_edge - inside) > _NEGLIGIBLE:
            return half_width
        half_width *= 1.25
    raise DmmcError("exp(-S) does not fall off at large fields, so it cannot be integrated; check the action")


def odd_is_zero(truth: Means) -> Means:
    """The truth of a theory with ``S(-phi) = S(phi)``: odd observables are zero, without an error."""
    values, covariance = truth.values.copy(), truth.covariance.copy()
    for name in ODD:
        k = OBSERVABLES.index(name)
        values[k] = covariance[k] = covariance[:, k] = 0
    return Means(values, covariance, truth.n)

"""What may have gone wrong with fields that do not fit their action: the words of a refusal, and nothing more."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from dmmc.theory.actions import Action
from dmmc.theory.identities import field_numbers, virial
from dmmc.theory.lattice import Lattice
from dmmc.theory.significance import bound, estimate, in_errors, independent_fields


def likely_cause(phi: Tensor, action: Action, lattice: Lattice) -> str:
    """In words, what may have gone wrong with fields that do not fit."""
    for order in sorted(set(itertools.permutations(lattice.shape)) - {lattice.shape}):
        other = estimate(field_numbers(phi.reshape(*phi.shape[: -lattice.dim], *order), action).virial)
        if abs(in_errors(other.value - 1, other.error)) < bound(independent_fields(other, 1)):
            return (
                f"the fields fit if their axes are read as {order}: the extents of the lattice are in the wrong order"
            )
    factor = _mending_factor(phi, action)
    if factor is None:
        return "the fields have other couplings, or another lattice shape or order of axes"
    sizes: dict[str, float] = getattr(action, "normalisations", lambda dim: {})(lattice.dim)
    for name, size in sizes.items():
        if abs(math.log(factor * size)) < 0.03 and abs(math.log(size)) > 1e-9:
            mend = f"multiply them by {1 / size:.6g}, or change the action"
            return f"the fields are in the normalisation of the {name}: {mend}"
    return (
        "the fields have other couplings, another normalisation (multiplied by about "
        f"{factor:.3g} they would fit), or another lattice shape or order of axes"
    )


def _mending_factor(phi: Tensor, action: Action) -> float | None:
    """The factor c nearest to 1 with ``<(c phi) S'(c phi)> / V = 1``, or None if there is none from 1/30 to 30."""
    count = min(len(phi), 256)
    fields = phi[torch.arange(count, device=phi.device) * len(phi) // count].double()

    def excess(log_c: float) -> float:
        return float(virial(fields * math.exp(log_c), action).mean()) - 1

    grid = np.linspace(-math.log(30), math.log(30), 35)
    values = [excess(x) for x in grid]
    brackets = [k for k in range(len(grid) - 1) if values[k] * values[k + 1] <= 0]
    if not brackets:
        return None
    k = min(brackets, key=lambda k: abs(grid[k] + grid[k + 1]))
    low, high, sign = float(grid[k]), float(grid[k + 1]), math.copysign(1.0, values[k])
    for _ in range(25):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sign * excess(middle) > 0 else (low, middle)
    return math.exp(0.5 * (low + high))

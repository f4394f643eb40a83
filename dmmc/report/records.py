"""The record of a chain as a report reads it: one series of numbers after another, whatever was measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOT_A_SERIES = ("two_point",)
"""Observables that have figures of their own in place of a row for each component."""

STANDARD = ("M", "abs_M", "M2", "M4", "phi2", "S_per_site")
"""What every chain measures, see :func:`dmmc.theory.observables.measure`, in the order of tables."""


def columns(observables: Mapping[str, Array]) -> dict[str, Array]:
    """Every observable as series ``(chain, draw)`` by name, the standard ones first.

    A vector or tensor ``(chain, draw, ...)`` becomes one series for each of its components, named ``name[k]``.
    """
    standard = [name for name in STANDARD if name in observables]
    series: dict[str, Array] = {}
    for name in [*standard, *(name for name in observables if name not in (*STANDARD, *NOT_A_SERIES))]:
        x = np.asarray(observables[name])
        shape = x.shape[2:]
        for k, index in enumerate(itertools.product(*map(range, shape))):
            component = f"{name}[{', '.join(map(str, index))}]" if index else name
            series[component] = x.reshape(*x.shape[:2], -1)[..., k]
    return series


def of(name: str, series: Mapping[str, Array]) -> list[str]:
    """The names in ``series`` under which an observable stands there: its own, or those of its components."""
    return [key for key in series if key == name or key.startswith(f"{name}[")]

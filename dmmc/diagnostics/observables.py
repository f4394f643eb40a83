"""Observables of a chain with errors and autocorrelation times: recorded ones, and functions of their means.

A ``record`` maps names to arrays ``(chain, draw, ...)``. The standard names are those that
:func:`dmmc.theory.observables.measure` gives; any other name is an observable of the user's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, Estimate, gamma_derived, gamma_method, unknown
from dmmc.diagnostics.series import as_array, scaled

Array = NDArray[Any]
Record = Mapping[str, Array]

PRIMARY = ("M", "abs_M", "M2", "M4", "phi2", "S_per_site")
"""The standard observables that are one number per configuration."""

ACTION = "S_per_site"
"""The one of them that is not there for fields of which the action is not known."""

TWO_POINT = "two_point"
"""The standard observable with one number per momentum orbit, which enters through derived quantities only."""

WELL_SEPARATED = 5.0
"""``<|M|>`` in units of ``std |M|`` above which M has no weight around zero, as in a broken phase (Gaussian: 3e-7)."""


def _columns(record: Record, *names: str) -> list[Array]:
    missing = [name for name in names if name not in record]
    if missing:
        raise DmmcError(f"the record has no {', '.join(missing)}; it has {', '.join(record) or 'nothing'}")
    return [as_array(record[name], name) for name in names]


def primary(record: Record, S: float = 1.5) -> dict[str, Estimate]:
    """Means of M, abs_M, M2, M4, phi2 and, for fields of a known action, S_per_site.

    Args:
        record: arrays ``(chain, draw)``; of one with further axes, the mean of each component as in :func:`extra`.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if one is missing, or as :func:`~dmmc.diagnostics.gamma_method`.
    """
    names = [name for name in PRIMARY if name in record or name != ACTION]
    columns = zip(names, _columns(record, *names), strict=True)
    series = (part for name, values in columns for part in components(name, values))
    return {name: gamma_method(x, S, name) for name, x in series}


def extra(record: Record, S: float = 1.5) -> dict[str, Estimate]:
    """Means of all observables that are not standard ones.

    Args:
        record: arrays ``(chain, draw, ...)``. An array with further axes gives one estimate for each component, by the
            name ``name[k]`` or ``name[i,j]``.
        S: window parameter of the Gamma method.

    Returns:
        Estimates by name. An observable that is NaN or infinite somewhere has an estimate of nan, with a
        :class:`DiagnosticsWarning`, so that one of the user's own does not hide all others.

    Raises:
        DmmcError: if an array is not real, or its first two axes are not (chain, draw) with four draws or more.
    """
    estimates = {}
    for name, values in record.items():
        if name in PRIMARY or name == TWO_POINT:
            continue
        for label, series in components(name, values):
            if np.isfinite(series).all():
                estimates[label] = gamma_method(series, S, label)
            else:
                message = f"{label} has NaN or infinite values; its mean is unknown"
                warnings.warn(message, DiagnosticsWarning, stacklevel=2)
                estimates[label] = unknown(series.size)
    return estimates


def components(name: str, values: ArrayLike) -> Iterator[tuple[str, Array]]:
    """The series ``(chain, draw)`` that an observable ``(chain, draw, ...)`` consists of, with their names."""
    array = as_array(values, name)
    if array.ndim <= 2:
        yield name, array
        return
    for index in np.ndindex(array.shape[2:]):
        yield f"{name}[{','.join(map(str, index))}]", array[(slice(None), slice(None), *index)]


def columns(record: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Every observable as series ``(chain, draw)`` by name, the standard ones first.

    An observable ``(chain, draw, ...)`` gives one series for each of its components (see :func:`components`). The
    two-point function, which enters through derived quantities only, is left out.
    """
    names = [*(name for name in PRIMARY if name in record), *(name for name in record if name not in PRIMARY)]
    return dict(part for name in names if name != TWO_POINT for part in components(name, record[name]))


def parts(observable: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` under which an observable stands in a table: its own name, or those of its components."""
    return [name for name in names if name == observable or name.startswith(f"{observable}[")]


def is_broken(M: ArrayLike) -> bool:
    """Whether the mean field M, of any shape, keeps away from zero, on one side or on both.

    The connected two-point function then differs from the recorded one, so that the second-moment length :func:`xi` is
    not a correlation length.

    Raises:
        DmmcError: if it is not a rectangular array of real numbers, is empty, or not finite.
    """
    M = as_array(M, "M").astype(np.float64)
    if not (M.size and np.isfinite(M).all()):
        raise DmmcError(f"M must be finite numbers, at least one of them, got shape {M.shape}; remove the others")
    size = np.abs(scaled(M)[0])
    return bool(size.mean() > WELL_SEPARATED * size.std())


def chi2(record: Record, volume: int, S: float = 1.5) -> Estimate:
    """Susceptibility ``V (<M^2> - <|M|>^2)``, the usual choice on finite lattices, where M can change its sign."""
    return gamma_derived(lambda m2, m: volume * (m2 - m * m), _columns(record, "M2", "abs_M"), S, "chi2")


def chi2_signed(record: Record, volume: int, S: float = 1.5) -> Estimate:
    """Susceptibility ``V (<M^2> - <M>^2)``."""
    return gamma_derived(lambda m2, m: volume * (m2 - m * m), _columns(record, "M2", "M"), S, "chi2_signed")


def binder(record: Record, S: float = 1.5) -> Estimate:
    """Binder cumulant ``U_L = 1 - <M^4> / (3 <M^2>^2)``: 0 for a Gaussian M, 2/3 for two sharp values."""
    return gamma_derived(lambda m4, m2: 1 - m4 / (3 * m2 * m2), _columns(record, "M4", "M2"), S, "binder")


def xi(record: Record, phat2_min: float, S: float = 1.5) -> Estimate:
    """Second-moment correlation length ``sqrt((G(0) / G(p_min) - 1) / phat2_min)``, in lattice units.

    ``G(p) = <|phi(p)|^2>``. Nothing is subtracted from G(0), which is ``V <M^2>``, so that this is a correlation length
    in the symmetric phase only (see :func:`is_broken`). The momentum p_min is that of orbit 1, the smallest that is not
    zero; it lies along the longest axis. If noise makes G(0) < G(p_min), the result is nan, with a warning.

    Args:
        record: needs ``two_point``, ``(chain, draw, orbit)``.
        phat2_min: ``lattice.orbit_phat2[1]``.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if ``two_point`` is missing or has fewer than two orbits, or ``phat2_min`` is not positive.
    """
    (two_point,) = _columns(record, "two_point")
    if two_point.ndim != 3 or two_point.shape[2] < 2:
        raise DmmcError(f"xi needs two_point of shape (chain, draw, orbit), two orbits or more, got {two_point.shape}")
    if not phat2_min > 0:
        raise DmmcError(f"phat2_min must be positive, got {phat2_min}; use lattice.orbit_phat2[1]")

    def second_moment(g0: float, g1: float) -> float:
        return math.sqrt((g0 / g1 - 1) / phat2_min) if g0 >= g1 > 0 else math.nan

    return gamma_derived(second_moment, [two_point[..., 0], two_point[..., 1]], S, "xi")


def derived(record: Record, volume: int, phat2_min: float | None = None, S: float = 1.5) -> dict[str, Estimate]:
    """chi2, chi2_signed (of a scalar M), binder and, if ``phat2_min`` is given, xi.

    Args:
        record: arrays ``(chain, draw)`` and, for xi, ``two_point`` ``(chain, draw, orbit)``.
        volume: number of sites V.
        phat2_min: smallest nonzero lattice momentum squared, ``lattice.orbit_phat2[1]``; None on one site.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if an array is missing or of the wrong shape.
    """
    estimates = {"chi2": chi2(record, volume, S)}
    (M,) = _columns(record, "M")
    if M.ndim == 2:
        estimates["chi2_signed"] = chi2_signed(record, volume, S)
    estimates["binder"] = binder(record, S)
    return estimates if phat2_min is None else {**estimates, "xi": xi(record, phat2_min, S)}


def summary(record: Record, volume: int, phat2_min: float | None = None, S: float = 1.5) -> dict[str, Estimate]:
    """Every observable of a record: :func:`primary`, :func:`derived` and :func:`extra`, by name."""
    return {**primary(record, S), **derived(record, volume, phat2_min, S), **extra(record, S)}


def z_score(a: Estimate, b: Estimate) -> float:
    """Difference of two independent estimates over its standard error; nan if an error is unknown."""
    error = math.hypot(a.error, b.error)
    return (a.value - b.value) / error if error > 0 else math.nan

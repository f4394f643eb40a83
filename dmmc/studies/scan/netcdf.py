"""The results of a scan as labelled arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dmmc.core.records import plain
from dmmc.studies.scan.points import coupling
from dmmc.studies.scan.results import COSTED, TAUS, Measured, PointResult, ScanResult, cost_of, tau_of

COUPLINGS = {"kappa": "hopping parameter", "lam": "quartic coupling of the hopping form"}
"""What couplings of known names mean."""


def to_xarray(result: ScanResult) -> xr.Dataset:
    """The results as arrays ``(sampler, point)``, nan where there is nothing; fits and options as JSON attributes.

    Couplings that all actions of the scan have are coordinates of the points, under their names.
    """
    samplers = list(dict.fromkeys(one.sampler for one in result.results))
    first = {one.point: one for one in reversed(result.results)}
    points = list(dict.fromkeys(one.point for one in result.results))
    by_place = {(one.sampler, one.point): one for one in result.results}
    variables: dict[str, Any] = {}

    def add(name: str, meaning: str, units: str, get: Callable[[PointResult], float], dtype: type = np.float64) -> None:
        data: Any = np.array([[get(by_place[sampler, point]) for point in points] for sampler in samplers], dtype=dtype)
        variables[name] = (("sampler", "point"), data, {"long_name": meaning, "units": units})

    def add_pair(name: str, meaning: str, units: str, get: Callable[[PointResult], Measured]) -> None:
        add(name, meaning, units, lambda one: get(one).numbers[0])
        add(f"{name}_error", f"standard error of {meaning}", units, lambda one: get(one).numbers[1])

    add_pair("xi", "second-moment correlation length", "lattice spacings", lambda one: one.xi)
    add_pair("binder", "Binder cumulant 1 - <M^4> / (3 <M^2>^2)", "1", lambda one: one.binder)
    add_pair("acceptance", "mean acceptance", "1", lambda one: one.acceptance)
    for name in TAUS:
        meaning = f"tau_int of {name}, 0.5 for a white series"
        add_pair(f"tau_int_{name}", meaning, "draws", tau_of(name))
        meaning = f"1 where tau_int_{name} was measured, 0 where it is a lower bound"
        add(f"tau_int_{name}_resolved", meaning, "1", partial(_resolved, name), dtype=np.int8)
    for name in COSTED:
        for kind in dict.fromkeys(kind for one in result.results for kind in one.cost[name]):
            add_pair(
                f"cost_{name}_{kind}",
                f"cost of an effective sample of {name}, 2 tau_int draws of one chain",
                "s" if kind == "seconds" else f"{kind} evaluations",
                cost_of(name, kind),
            )
    add("n_chains", "number of chains", "1", lambda one: one.chains, dtype=np.int64)
    add("n_draws", "number of draws of each chain", "1", lambda one: one.draws, dtype=np.int64)

    def of_points(meaning: str, units: str, values: list[Any]) -> Any:
        return "point", values, {"long_name": meaning, "units": units}

    lines = [first[point].line for point in points]
    coords: dict[str, Any] = {
        "sampler": samplers,
        "point": points,
        "L": of_points("longest extent of the lattice", "lattice spacings", [first[point].L for point in points]),
        "line": of_points("line of points along which power laws are fitted", "1", lines),
    }
    for name in dict.fromkeys(name for one in result.results for name in one.action):
        values = [coupling(first[point].action, name) for point in points]
        if None not in values and name not in variables and name not in coords:
            coords[name] = of_points(COUPLINGS.get(name, f"coupling {name}"), "1", values)
    attrs = {
        "title": f"dmmc scan along {result.along}",
        "creation_library": "dmmc",
        "creation_library_version": result.dmmc,
        "points": json.dumps(plain(result.points)),
        "options": json.dumps(plain(result.options)),
        "fits": json.dumps(plain(result.fits)),
        "crossings": json.dumps(plain(result.crossings)),
        "notes": json.dumps(plain(result.notes)),
    }
    return xr.Dataset(variables, coords, attrs)


def _resolved(name: str, result: PointResult) -> float:
    return float(result.tau_int[name].resolved)

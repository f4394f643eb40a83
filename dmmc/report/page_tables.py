"""The numbers of a page: the comparison of the samplers, their autocorrelation times, and what their samples cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dmmc.diagnostics import Estimate, format_value, resolved_tau
from dmmc.report import records, table
from dmmc.report.comparable import Runs
from dmmc.report.records import Array
from dmmc.report.wording import minus, seconds
from dmmc.runs.run import StoredRun

COSTS = ("M", "M2")
"""The observables whose effective samples are priced. M is usually the slowest."""

ODD, FAR = 3.0, 4.0
"""Standard errors from which on a difference is marked, and marked strongly."""


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        value: the number with its error.
        z: difference from the reference in standard errors; a dash where there is none.
        off: ``far``, ``odd`` or empty: how far off that is.
    """

    value: str
    z: str
    off: str


@dataclass(frozen=True)
class Table:
    """Numbers by observable and sampler.

    Attributes:
        samplers: the columns.
        rows: name of each observable, and its cells.
    """

    samplers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Price:
    """What an effective sample of one observable costs, as text.

    Attributes:
        effective: how many there are in the whole run.
        wall: wall time of each.
        evaluations: evaluations of the force or of the network for each.
    """

    effective: str
    wall: str
    evaluations: str


@dataclass(frozen=True)
class Efficiency:
    """The cost of one run.

    Attributes:
        name: the sampler.
        acceptance: mean acceptance.
        prices: one for each of the observables that are priced.
    """

    name: str
    acceptance: str
    prices: tuple[Price, ...]


def deviation(z: float) -> tuple[str, str]:
    """A difference in standard errors as text, and how far off it is: ``far``, ``odd`` or empty."""
    return minus(table.format_z(z)), "far" if abs(z) > FAR else "odd" if abs(z) > ODD else ""


def compared(estimates: Mapping[str, Mapping[str, Estimate]], reference: str) -> Table:
    """The estimates of all samplers, the reference first."""
    comparison = table.compare(estimates, reference)
    rows = [
        (
            row.name,
            tuple(
                Cell("–" if estimate is None else minus(str(estimate)), *deviation(z))
                for estimate, z in zip(row.estimates, row.z, strict=True)
            ),
        )
        for row in comparison.rows
    ]
    return Table(comparison.samplers, tuple(rows))


def taus(runs: Runs) -> Table:
    """tau_int of everything that the runs recorded."""
    series = {name: records.columns(run.observables) for name, run in runs.items()}
    observables = dict.fromkeys(name for of_run in series.values() for name in of_run)
    rows = [
        (name, tuple(Cell(tau(of_run[name]) if name in of_run else "–", "–", "") for of_run in series.values()))
        for name in observables
    ]
    return Table(tuple(runs), tuple(rows))


def tau(x: Array) -> str:
    """tau_int of a series ``(chain, draw)`` with its error; marked as a lower bound where the record is too short."""
    estimate, resolved = resolved_tau(x)
    if math.isnan(estimate.tau_int):
        return "constant"
    return ("" if resolved else "≳ ") + format_value(estimate.tau_int, estimate.tau_int_error)


def priced(runs: Runs) -> tuple[str, ...]:
    """Which of :data:`COSTS`, or of their components, all runs have recorded."""
    series = [records.columns(run.observables) for run in runs.values()]
    names = [name for wanted in COSTS for name in records.of(wanted, series[0])]
    return tuple(name for name in names if all(name in one for one in series))


def efficiency(name: str, run: StoredRun, observables: tuple[str, ...]) -> Efficiency:
    """What a run cost: an effective sample is ``2 tau_int`` draws of one chain."""
    series = records.columns(run.observables)
    accepted = run.stats.get("accepted")
    return Efficiency(
        name,
        "–" if accepted is None else f"{np.mean(accepted):.3f}",
        tuple(_price(run, series[observable]) for observable in observables),
    )


def _price(run: StoredRun, x: Array) -> Price:
    estimate, resolved = resolved_tau(x)
    if not estimate.tau_int > 0:
        return Price("–", "–", "–")
    draws, bound = 2 * estimate.tau_int, "" if resolved else "≳ "
    steps = draws * run.header.steps_per_draw
    wall = run.wall_seconds_per_draw
    evaluations = ", ".join(f"{n * steps:,.0f} {kind}" for kind, n in run.header.cost.items())
    return Price(
        ("" if resolved else "≲ ") + f"{x.size / draws:,.0f}",
        "–" if wall is None else bound + seconds(draws * wall),
        bound + evaluations if evaluations else "–",
    )

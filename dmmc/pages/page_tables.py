"""The numbers of a page: the comparison of the samplers, their autocorrelation times, and what their samples cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dmmc.diagnostics import Estimate, format_value
from dmmc.diagnostics.observables import columns, parts
from dmmc.pages import table
from dmmc.pages.comparable import Runs
from dmmc.pages.wording import minus, seconds
from dmmc.runs import summary as summaries
from dmmc.runs.summary import SLOW, RunSummary

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


def taus(runs: Runs, estimates: Mapping[str, Mapping[str, Estimate]]) -> Table:
    """tau_int of everything that the runs recorded."""
    recorded = {name: columns(run.observables) for name, run in runs.items()}
    rows = [
        (
            observable,
            tuple(
                Cell(tau(estimates[name][observable]) if observable in recorded[name] else "–", "–", "")
                for name in runs
            ),
        )
        for observable in dict.fromkeys(observable for of_run in recorded.values() for observable in of_run)
    ]
    return Table(tuple(runs), tuple(rows))


def tau(estimate: Estimate) -> str:
    """tau_int with its error; marked as a lower bound where the record is too short."""
    if math.isnan(estimate.tau_int):
        return "–" if math.isnan(estimate.value) else "constant"
    return ("" if estimate.resolved else "≳ ") + format_value(estimate.tau_int, estimate.tau_int_error)


def priced(runs: Runs) -> tuple[str, ...]:
    """Which observables of :data:`~dmmc.runs.summary.SLOW`, or of their components, all runs have recorded."""
    recorded = [columns(run.observables) for run in runs.values()]
    names = [name for slow in SLOW for name in parts(slow, recorded[0])]
    return tuple(name for name in names if all(name in of_run for of_run in recorded))


def efficiency(name: str, summary: RunSummary, observables: tuple[str, ...]) -> Efficiency:
    """What a run cost, as text."""
    acceptance = "–" if summary.acceptance is None else f"{summary.acceptance:.3f}"
    return Efficiency(name, acceptance, tuple(_price(summary.efficiency.get(observable)) for observable in observables))


def _price(cost: summaries.Efficiency | None) -> Price:
    if cost is None:
        return Price("–", "–", "–")
    bound = "≳ " if cost.bound else ""
    evaluations = ", ".join(f"{n:,.0f} {kind}" for kind, n in cost.evaluations.items())
    return Price(
        ("≲ " if cost.bound else "") + f"{cost.effective_samples:,.0f}",
        "–" if cost.seconds is None else bound + seconds(cost.seconds),
        bound + evaluations if evaluations else "–",
    )

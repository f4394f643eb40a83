"""One table that sets the samplers side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import Estimate, format_value, z_score
from dmmc.diagnostics.symbols import SYMBOLS, symbol

TAUS = ("M", "M2")
"""Observables whose tau_int the text table shows: M is usually the slowest."""


@dataclass(frozen=True)
class Row:
    """One observable of every sampler.

    Attributes:
        name: the observable.
        estimates: one for each sampler; None where a sampler lacks this observable.
        z: difference from the reference in standard errors, one for each sampler; nan where there is none to give, and
            for the reference itself.
    """

    name: str
    estimates: tuple[Estimate | None, ...]
    z: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """The samplers side by side.

    Attributes:
        samplers: the columns, the reference first.
        rows: one for each observable that any of them has.
    """

    samplers: tuple[str, ...]
    rows: tuple[Row, ...]


def compare(estimates: Mapping[str, Mapping[str, Estimate]], reference: str | None = None) -> Comparison:
    """The comparison as data.

    Args:
        estimates: the estimates of each sampler by name, as :func:`dmmc.diagnostics.summary` gives them; others may
            stand among them.
        reference: the sampler that the others are compared with; None takes the first.

    Raises:
        DmmcError: if there is no sampler, or no ``reference`` among them.
    """
    if not estimates:
        raise DmmcError("there is nothing to compare: give at least one sampler")
    reference = next(iter(estimates)) if reference is None else reference
    if reference not in estimates:
        raise DmmcError(f"no sampler {reference!r} to compare with; reference must be one of {', '.join(estimates)}")
    samplers = (reference, *(name for name in estimates if name != reference))
    present = list(dict.fromkeys(name for sampler in samplers for name in estimates[sampler]))
    names = [*(name for name in SYMBOLS if name in present), *(name for name in present if name not in SYMBOLS)]
    rows = []
    for name in names:
        of_name = tuple(estimates[sampler].get(name) for sampler in samplers)
        expected = of_name[0]
        z = (math.nan if x is None or expected is None else z_score(x, expected) for x in of_name[1:])
        rows.append(Row(name, of_name, (math.nan, *z)))
    return Comparison(samplers, tuple(rows))


def format_z(z: float) -> str:
    """``"+1.3"``; a dash for nan."""
    return "-" if math.isnan(z) else f"{round(z, 1) + 0.0:+.1f}"


def _tau(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.tau_int):
        return "-"
    return format_value(estimate.tau_int, estimate.tau_int_error)


def comparison(estimates: Mapping[str, Mapping[str, Estimate]], reference: str | None = None) -> str:
    """Every observable of every sampler, and how many standard errors it is off the reference's.

    The last rows are tau_int of M and of M^2, in draws and in the lattice convention (white series: 0.5).

    Args:
        estimates: as for :func:`compare`. What a sampler lacks is shown as ``-``.
        reference: the sampler that the others are compared with; its column comes first. None takes the first.

    Returns:
        Plain text with aligned columns, without a newline at its end.

    Raises:
        DmmcError: as :func:`compare`.
    """
    compared = compare(estimates, reference)
    first, *others = compared.samplers
    head = f"{first} (reference)" if others and first != "reference" else first
    lines = [["observable", head, *(cell for sampler in others for cell in (sampler, "z"))]]
    for row in compared.rows:
        cells = ["-" if estimate is None else str(estimate) for estimate in row.estimates]
        pairs = zip(cells[1:], map(format_z, row.z[1:]), strict=True)
        lines.append([symbol(row.name).text, cells[0], *(cell for pair in pairs for cell in pair)])
    by_name = {row.name: row for row in compared.rows}
    for name in TAUS:
        if name in by_name:
            taus = [_tau(estimate) for estimate in by_name[name].estimates]
            lines.append(
                [f"tau_int of {symbol(name).value.text}", taus[0], *(cell for tau in taus[1:] for cell in (tau, ""))]
            )

    text = aligned(lines)
    text.insert(1, "-" * max(map(len, text)))
    if others:
        text.append(f"z: difference from {first} in standard errors")
    if any(name in by_name for name in TAUS):
        text.append("tau_int: integrated autocorrelation time in draws (0.5 if there is no autocorrelation)")
    return "\n".join(text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: the first cell of each row to the left of its column, the others to the right of theirs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for first, *others in rows
    ]

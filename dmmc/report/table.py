"""One table that sets the samplers side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import Estimate, format_value, z_score

# What :func:`dmmc.diagnostics.summary` gives, in the order and notation of the table.
SYMBOLS = {
    "M": "<M>",
    "abs_M": "<|M|>",
    "M2": "<M^2>",
    "M4": "<M^4>",
    "chi2": "chi2",
    "chi2_signed": "chi2 (signed M)",
    "binder": "U_L",
    "xi": "xi",
    "phi2": "<phi^2>",
    "S_per_site": "<S>/V",
}


@dataclass(frozen=True)
class Row:
    """One observable of every sampler.

    Attributes:
        name: of the observable, as in :data:`SYMBOLS`.
        estimates: one a sampler, None where it lacks this observable.
        z: difference from the reference in standard errors, one a sampler; nan where there is none to give, and for
            the reference itself.
    """

    name: str
    estimates: tuple[Estimate | None, ...]
    z: tuple[float, ...]


def rows(estimates: Mapping[str, Mapping[str, Estimate]], reference: str) -> tuple[list[str], list[Row]]:
    """The comparison as data: the samplers, the reference first, and one row an observable.

    Args:
        estimates: of each sampler, the estimates by name, as :func:`dmmc.diagnostics.summary` gives them.
        reference: the sampler that the others are compared with.

    Raises:
        DmmcError: if there is no ``reference`` among the samplers.
    """
    if reference not in estimates:
        raise DmmcError(f"no sampler {reference!r} to compare with; reference must be one of {', '.join(estimates)}")
    samplers = [reference, *(name for name in estimates if name != reference)]
    found = list(dict.fromkeys(name for sampler in samplers for name in estimates[sampler]))
    names = [*(name for name in SYMBOLS if name in found), *(name for name in found if name not in SYMBOLS)]
    made = []
    for name in names:
        of_name = tuple(estimates[sampler].get(name) for sampler in samplers)
        expected = of_name[0]
        z = (math.nan if x is None or expected is None else z_score(x, expected) for x in of_name[1:])
        made.append(Row(name, of_name, (math.nan, *z)))
    return samplers, made


def format_z(z: float) -> str:
    """``"+1.3"``; a dash for nan."""
    return "-" if math.isnan(z) else f"{round(z, 1) + 0.0:+.1f}"


def comparison(estimates: Mapping[str, Mapping[str, Estimate]], reference: str = "cluster") -> str:
    """Every observable of every sampler, and how many standard errors it is off the reference's.

    The last row is tau_int of M^2, in draws and in the lattice convention (white series: 0.5).

    Args:
        estimates: of each sampler, the estimates by name, as :func:`dmmc.diagnostics.summary` gives them. What
            a sampler lacks is shown as ``-``.
        reference: the sampler that the others are compared with.

    Returns:
        Plain text, columns aligned, without a newline at its end.

    Raises:
        DmmcError: if there is no ``reference`` among the samplers.
    """
    samplers, compared = rows(estimates, reference)
    lines = [["observable", reference, *(cell for sampler in samplers[1:] for cell in (sampler, "z"))]]
    for row in compared:
        cells = ["-" if estimate is None else str(estimate) for estimate in row.estimates]
        pairs = zip(cells[1:], map(format_z, row.z[1:]), strict=True)
        lines.append([SYMBOLS.get(row.name, row.name), cells[0], *(cell for pair in pairs for cell in pair)])
    for row in compared:
        if row.name == "M2":
            taus = ["-" if x is None else format_value(x.tau_int, x.tau_int_error) for x in row.estimates]
            lines.append(["tau_int of M^2", taus[0], *(cell for tau in taus[1:] for cell in (tau, ""))])

    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    text.append(f"z: difference from {reference} in standard errors; tau_int in draws (uncorrelated: 0.5)")
    return "\n".join(line.rstrip() for line in text)

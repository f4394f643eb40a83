"""One table that sets the samplers side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dmmc.diagnostics import Estimate, format_value, z_score
from dmmc.errors import DmmcError

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
    if reference not in estimates:
        raise DmmcError(f"no sampler {reference!r} to compare with; reference must be one of {', '.join(estimates)}")
    samplers = [reference, *(name for name in estimates if name != reference)]
    found = list(dict.fromkeys(name for sampler in samplers for name in estimates[sampler]))
    names = [*(name for name in SYMBOLS if name in found), *(name for name in found if name not in SYMBOLS)]

    rows = [["observable", reference]]
    for sampler in samplers[1:]:
        rows[0] += [sampler, "z"]
    for name in names:
        expected = estimates[reference].get(name)
        row = [SYMBOLS.get(name, name)]
        for sampler in samplers:
            estimate = estimates[sampler].get(name)
            row.append("-" if estimate is None else str(estimate))
            if sampler != reference:
                z = math.nan if estimate is None or expected is None else z_score(estimate, expected)
                row.append("-" if math.isnan(z) else f"{round(z, 1) + 0.0:+.1f}")
        rows.append(row)
    if "M2" in names:
        row = ["tau_int of M^2"]
        for sampler in samplers:
            estimate = estimates[sampler].get("M2")
            row.append("-" if estimate is None else format_value(estimate.tau_int, estimate.tau_int_error))
            row += [""] if sampler != reference else []
        rows.append(row)

    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(f"z: difference from {reference} in standard errors; tau_int in draws (uncorrelated: 0.5)")
    return "\n".join(line.rstrip() for line in lines)

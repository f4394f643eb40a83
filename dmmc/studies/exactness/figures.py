"""The figure of the exactness laboratory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.symbols import symbol
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import styles
from dmmc.studies.exactness.analysis import OBSERVABLES, SEEN
from dmmc.studies.exactness.results import LaboratoryResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINEAR = 3.0
"""Number of standard errors up to which the axis is linear; beyond, it is logarithmic."""


def biases(result: LaboratoryResult) -> Figure:
    """The bias of each observable in units of its error: one row per variant, the exact variants above the others.

    Args:
        result: what the laboratory found.

    Raises:
        DmmcError: if there is no variant.
    """
    variants = (*result.of_kind(exact=True), *result.of_kind(exact=False))
    if not variants:
        raise DmmcError("there is nothing to draw: the laboratory has no variants")
    figure, (ax,) = make_panels(8.4, 1.3 + 0.3 * len(variants))
    ax.axvspan(-SEEN, SEEN, color="#d9d9d9", alpha=0.45, linewidth=0, zorder=0)
    ax.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    rows = np.arange(len(variants))
    for k, (name, look) in enumerate(zip(OBSERVABLES, styles(), strict=False)):
        z = np.array([variant.observables[name].z for variant in variants])
        ax.plot(
            z, rows + 0.1 * (k - 2.5), linestyle="none", marker=look.marker, markersize=5, color=look.colour,
            label=symbol(name).math, zorder=3
        )  # fmt: skip
    n_exact = len(result.of_kind(exact=True))
    for row in rows:
        if row in (0, n_exact):
            continue
        ax.axhline(row - 0.5, color="0.85", linewidth=0.5, zorder=0)
    if 0 < n_exact < len(variants):
        ax.axhline(n_exact - 0.5, color="0.3", linewidth=1)
    if n_exact:
        ax.text(1.01, (n_exact - 1) / 2, "exact", rotation=-90, va="center", transform=ax.get_yaxis_transform())
    if n_exact < len(variants):
        middle = (n_exact + len(variants) - 1) / 2
        ax.text(1.01, middle, "not exact", rotation=-90, va="center", transform=ax.get_yaxis_transform())
    largest = max(abs(bias.z) for variant in variants for bias in variant.observables.values())
    edge = max(1.6 * largest, 2 * SEEN)
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.8)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if tick <= edge]
    ticks = [tick for tick in ticks if tick not in (1, 20, 50, 200, 500, 2000, 5000)] if len(ticks) > 7 else ticks
    ax.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    ax.set_xticklabels([*(f"−{tick}" for tick in reversed(ticks)), "0", *map(str, ticks)])
    ax.minorticks_off()
    ax.set(xlim=(-edge, edge), ylim=(len(variants) - 0.5, -0.5), yticks=rows)
    ax.set_yticklabels([variant.label for variant in variants])
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"bias in standard errors (grey: within {SEEN:g})")
    figure.legend(loc="outside upper center", ncols=len(OBSERVABLES), frameon=False, fontsize=9, handletextpad=0.1)
    return figure

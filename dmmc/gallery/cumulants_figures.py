"""The figures of the exhibit of cumulants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmmc.gallery.cumulant_paths import EVEN, Point, System
from dmmc.gallery.exhibit import Drawing
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(site: System, lattice: System) -> tuple[Drawing, ...]:
    """All figures."""
    how = (
        "Above: variance-expanding, where noise conserves all cumulants but the second; below: variance-preserving, "
        "where they decay with a^n. Time runs from the prior (tau = 0) to the theory (tau = 1). Grey and broad: what "
        "noise makes of the cumulants of the theory."
    )
    return (
        Drawing(
            "one-site",
            _figure(site),
            f"Cumulants of the {site.name}, in units of their value without noise. {how} The backward process begins "
            "with a Gaussian, whose higher cumulants are zero, and learns them on the way: the line is the probability "
            "flow of the model, by quadrature. Errors of the n-th cumulant grow with the n-th power of the noise.",
        ),
        Drawing(
            "lattice", _figure(lattice), f"The same for the field at a site of {lattice.name}, kappa = 0.27. {how}"
        ),
    )


def _figure(system: System) -> Figure:
    figure, axes = make_panels(11, 5, 2, len(EVEN), sharex=True)
    for row, preserving in enumerate((False, True)):
        for ax, order in zip(axes[row * len(EVEN) :], EVEN, strict=False):
            unit = system.exact[order - 1]
            wanted = _drawn(system.course(order), preserving)
            ax.plot(wanted[0], wanted[1] / unit, color="0.75", linewidth=4, solid_capstyle="round")
            for k, process in enumerate(system.processes):
                tau, value, error = _drawn(system.of(process, order), preserving)
                look: dict[str, Any] = {"color": COLOURS[k], "label": process}
                if error.any():
                    look |= {"marker": MARKERS[k], "linestyle": "none", "markersize": 3, "elinewidth": 1}
                    ax.errorbar(tau + 0.012 * (k - 0.5), value / unit, error / abs(unit), **look)
                else:
                    ax.plot(tau, value / unit, linewidth=1.2, **look)
            _finish(ax, order, preserving)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _drawn(points: Sequence[Point], preserving: bool) -> NDArray[np.float64]:
    """Times, values and errors of either process, ``(3, n)``."""
    factors = [point.shrink if preserving else 1.0 for point in points]
    return np.array([(p.tau, p.value * f, p.error * f) for p, f in zip(points, factors, strict=True)]).T


def _finish(ax: Any, order: int, preserving: bool) -> None:
    if order == 2:
        ax.set_yscale("log")
        ax.set_ylabel("variance-preserving" if preserving else "variance-expanding")
    else:
        ax.set_ylim(*(-0.1, 1.3) if preserving else (-0.6, 2.0))
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if preserving:
        ax.set_xlabel("$\\tau$")
    else:
        ax.set_title(f"$\\kappa_{order}(\\tau) / \\kappa_{order}$", fontsize=10)

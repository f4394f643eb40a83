"""What happened along the chains: time series, and acceptance over time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.diagnostics.acceptance import acceptance_over_time
from dmmc.diagnostics.series import as_series
from dmmc.diagnostics.symbols import symbol
from dmmc.pages.figures.canvas import check_not_empty, check_present, make_panels
from dmmc.pages.styles import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

GREYS = ("#404040", "#a6a6a6")
"""The first chain of a sampler is drawn in the colour of the sampler, and the others are grey."""


def _thinned(x: Array, points: int) -> tuple[Array, Array]:
    """Draw numbers and values of a line of about ``points`` points that looks like the series ``(draw,)``.

    A longer series is cut into equal stretches, and each is drawn from its smallest to its largest value: nothing that
    happens in between is lost, as it would be by leaving draws out.
    """
    if len(x) <= points:
        return np.arange(len(x), dtype=np.float64), x
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    low, high = np.minimum.reduceat(x, edges[:-1]), np.maximum.reduceat(x, edges[:-1])
    return np.repeat((edges[:-1] + edges[1:] - 1) / 2, 2), np.stack([low, high], axis=1).ravel()


def traces(
    records: Mapping[str, Mapping[str, ArrayLike]],
    names: Sequence[str] = ("M", "S_per_site"),
    chains: int = 3,
    points: int = 600,
) -> Figure:
    """Time series of a few chains of each sampler: one row of panels per observable, one column per sampler.

    Args:
        records: the observables of each sampler by name, ``(chain, draw)`` each.
        names: which observables to draw.
        chains: how many chains of each sampler to draw; they are spread evenly over those that there are.
        points: points of a line; of longer series the envelope is drawn.

    Raises:
        DmmcError: if there is nothing to draw, an observable is missing, or a series is not ``(chain, draw)``.
    """
    check_present(records, names)
    looks = palette(records)
    figure, axes = make_panels(9.6, 0.8 + 1.7 * len(names), len(names), len(records), sharex="col", sharey="row")
    panels = np.array(axes).reshape(len(names), len(records))
    for row, name in zip(panels, names, strict=True):
        for ax, (sampler, record) in zip(row, records.items(), strict=True):
            series = as_series(record[name], f"{name} of {sampler}")
            shown = np.unique(np.linspace(0, len(series) - 1, min(chains, len(series))).astype(int))
            shades = itertools.chain([looks[sampler].colour], itertools.cycle(GREYS))
            for order, (k, shade) in enumerate(zip(shown, shades, strict=False)):
                ax.plot(*_thinned(series[k], points), color=shade, linewidth=0.8, label=f"chain {k}", zorder=3 - order)
            ax.margins(x=0)
        row[0].set_ylabel(symbol(name).value.math)
    for ax, sampler in zip(panels[0], records, strict=True):
        ax.set_title(sampler, fontsize=10)
    for ax in panels[-1]:
        ax.set_xlabel("draw")
        ax.xaxis.get_major_locator().set_params(nbins=5, integer=True)
    figure.align_ylabels()
    return figure


def acceptance(accepted: Mapping[str, ArrayLike], stretches: int = 40) -> Figure:
    """Acceptance over time: the mean over all chains in one stretch of draws after another, with standard errors.

    The rates and their errors are those of :func:`dmmc.diagnostics.acceptance_over_time`; a chain in which nothing
    changes has no error.

    Args:
        accepted: whether a step was accepted, or the fraction of a draw's steps that were, ``(chain, draw)`` for each
            sampler.
        stretches: into how many stretches each record is cut, if it is that long.

    Raises:
        DmmcError: if there is nothing to draw, or as :func:`dmmc.diagnostics.acceptance_over_time`.
    """
    check_not_empty(accepted)
    figure, (ax,) = make_panels(6.4, 3.6)
    looks = palette(accepted)
    for sampler, record in accepted.items():
        series, look = as_series(record, f"acceptance of {sampler}"), looks[sampler]
        middle, mean, error = acceptance_over_time(series, stretches)
        label = f"{sampler}: {series.mean():.3f}"
        ax.plot(
            middle, mean, label=label, color=look.colour, linestyle=look.line, marker=look.marker, markersize=3,
            linewidth=1.2
        )  # fmt: skip
        if np.isfinite(error).all():
            ax.fill_between(middle, mean - error, mean + error, color=look.colour, alpha=0.25, linewidth=0)
    # Above 1 there is room for the legend.
    ax.set(xlabel="draw", ylabel="acceptance", ylim=(0, 1.13 + 0.08 * len(accepted)), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.axhline(1, color="0.6", linewidth=0.6, zorder=0)
    ax.margins(x=0)
    ax.set_title("Acceptance over time", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return figure

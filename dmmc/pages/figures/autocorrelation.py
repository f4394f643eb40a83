"""Autocorrelation functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import Estimate, autocorrelation_function, format_value, resolved_tau
from dmmc.diagnostics.series import as_series
from dmmc.diagnostics.symbols import symbol
from dmmc.pages.figures.canvas import check_present, make_panels, points
from dmmc.pages.styles import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

APART = 4.0
"""Where the longest memory is this many times the shortest, one axis cannot show both, and a second panel is added."""

MOST_POINTS = 24
"""Points with error bars on one curve; the line in between goes through all lags."""


def _tau_label(estimate: Estimate, resolved: bool) -> str:
    """tau_int as an equality or a bound."""
    if math.isnan(estimate.tau_int):
        return "constant"
    relation = "=" if resolved else r"\gtrsim"
    return rf"$\tau_{{\rm int}} {relation} {format_value(estimate.tau_int, estimate.tau_int_error)}$"


def _reach(tau: float) -> int:
    """The lag at which an exponential of this tau_int has practically fallen to 0."""
    return 8 + math.ceil(6 * tau) if tau > 0 else 8


def autocorrelation(
    records: Mapping[str, Mapping[str, ArrayLike]],
    names: Sequence[str] = ("M", "abs_M", "M2", "S_per_site"),
    max_lag: int | None = None,
) -> Figure:
    """Autocorrelation functions rho(t) with error bars, for each observable and sampler.

    The axis of the lags is linear. Where the memories of the samplers differ by more than a factor :data:`APART`, there
    are two panels for each observable: the short lags on the left, all lags on the right. The legend gives tau_int in
    draws, in the lattice convention (0.5 for a white series). Of long curves only some points are drawn.

    Args:
        records: the observables of each sampler by name, ``(chain, draw)`` each.
        names: which observables to draw.
        max_lag: last lag; default six times the largest tau_int, and no more than half a chain.

    Raises:
        DmmcError: if there is nothing to draw, an observable is missing, or as
            :func:`dmmc.diagnostics.autocorrelation_function`.
    """
    check_present(records, names)
    if max_lag is not None and max_lag < 1:
        raise DmmcError(f"max_lag must be at least 1, got {max_lag}")
    taus, lags = {}, {}
    for name in names:
        series = {sampler: as_series(record[name], f"{name} of {sampler}") for sampler, record in records.items()}
        taus[name] = {sampler: resolved_tau(x) for sampler, x in series.items()}
        half = max(1, max(x.shape[1] for x in series.values()) // 2)
        reaches = [max_lag or min(_reach(tau.tau_int), half) for tau, _ in taus[name].values()]
        lags[name] = min(reaches), max(reaches)
    two = any(long > APART * short for short, long in lags.values())
    columns = 2 if two or len(names) > 1 else 1
    rows = len(names) if two else math.ceil(len(names) / columns)
    width, height = (9.6, 0.4 + 2.3 * rows) if columns == 2 else (6.4, 3.6)
    figure, axes = make_panels(width, height, rows, columns)
    for k, name in enumerate(names):
        short, long = lags[name]
        curves = {sampler: Curve(as_series(record[name]), *taus[name][sampler]) for sampler, record in records.items()}
        if two:
            draw_panel(axes[2 * k], curves, short, legend=False)
            draw_panel(axes[2 * k + 1], curves, long, legend=True)
            titles = {axes[2 * k]: "short lags", axes[2 * k + 1]: "all lags"}
        else:
            draw_panel(axes[k], curves, long, legend=True)
            titles = {axes[k]: ""}
        for ax, which in titles.items():
            ax.set_title(f"{symbol(name).value.math}{': ' if which else ''}{which}", fontsize=10)
    for ax in axes[len(names) * (2 if two else 1) :]:
        ax.remove()
    for ax in axes[::columns]:
        ax.set_ylabel(r"$\rho(t)$")
    for ax in axes[-columns:] if two or len(names) % 2 == 0 else axes[:1] if columns == 1 else axes[-3:]:
        ax.set_xlabel("lag t in draws")
    return figure


@dataclass(frozen=True)
class Curve:
    """An observable of one sampler, of which the autocorrelation function is drawn.

    Attributes:
        x: the record, ``(chain, draw)``.
        estimate: its mean and tau_int.
        resolved: whether tau_int was resolved.
    """

    x: Array
    estimate: Estimate
    resolved: bool

    @classmethod
    def of(cls, x: ArrayLike) -> Curve:
        """The curve of a record ``(chain, draw)``.

        Raises:
            DmmcError: as :func:`dmmc.diagnostics.resolved_tau`.
        """
        series = as_series(x)
        return cls(series, *resolved_tau(series))


def draw_panel(ax: Any, curves: Mapping[str, Curve], reach: int, legend: bool) -> None:
    """Draw the autocorrelation functions of one observable into a panel.

    Args:
        ax: the axes of the panel.
        curves: one of each sampler by name.
        reach: the last lag.
        legend: whether to name the samplers with their tau_int.
    """
    looks = palette(curves)
    lowest, crowded = -0.15, False
    for k, (sampler, curve) in enumerate(curves.items()):
        draws = curve.x.shape[1]
        last = min(reach, max(1, draws // 2) if draws > 2 else draws - 1)
        rho, error = autocorrelation_function(curve.x, last, curve.estimate)
        look, t = looks[sampler], np.arange(last + 1)
        lowest = min(lowest, float(np.nan_to_num(rho).min()) - 0.05)
        crowded = crowded or bool((rho[t > 0.4 * reach] > 0.5).any())
        every = math.ceil((reach + 1) / MOST_POINTS)
        # The points of different curves stand at different lags where there are enough of them.
        shown = slice(k * every // len(curves), None, every)
        ax.plot(t, rho, color=look.colour, linestyle=look.line, linewidth=1)
        label = f"{sampler}: {_tau_label(curve.estimate, curve.resolved)}"
        ax.errorbar(t[shown], rho[shown], error[shown], label=label, **points(look))
    ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    # A curve that is still high where the legend stands leaves it room above 1.
    highest = 1.15 + 0.2 * len(curves) if legend and crowded else 1.08
    ax.set(xlim=(-0.01 * reach, 1.01 * reach), ylim=(lowest, highest))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        ax.legend(frameon=False, fontsize=9, loc="upper right")

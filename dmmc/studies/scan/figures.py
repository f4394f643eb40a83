"""The figures of a scan, drawn from its result.

A sampler has the same colour in all of them, and line style and marker tell several lines of points apart; the lines of
a scan with a single sampler have different colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import format_value
from dmmc.diagnostics.symbols import symbol
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import COLOURS, LINES, MARKERS, palette, styles
from dmmc.studies.scan.results import COSTED, TAUS, UNKNOWN, Measured, PointResult, ScanResult, cost_of, tau_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

FIGURES = ("tau_xi", "tau_L", "cost", "acceptance", "binder")
LABELS = {"xi": r"correlation length $\xi$", "L": "lattice size L", "kappa": r"hopping parameter $\kappa$"}


def draw(scan: ScanResult) -> dict[str, Figure]:
    """Every figure that a scan has, by name; the names are in :data:`FIGURES`.

    Raises:
        DmmcError: if the scan has no results.
    """
    made = {"tau_xi": tau_int(scan, "xi")}
    if scan.along == "L":
        made["tau_L"] = tau_int(scan, "L")
    made |= {"cost": cost(scan), "acceptance": acceptance(scan)}
    if scan.crossings:
        made["binder"] = binder(scan)
    return made


@dataclass(frozen=True)
class _Curve:
    """The results of one sampler along one line of points, and how they are drawn."""

    sampler: str
    line: str
    label: str
    results: list[PointResult]
    style: dict[str, Any]

    def values(self, get: Callable[[PointResult], Measured]) -> tuple[Array, Array]:
        """Value and error of a quantity in every result; nan where it is not known."""
        value, error = np.array([get(result).numbers for result in self.results]).T
        return value, error

    def resolved(self, name: str) -> NDArray[np.bool_]:
        """Where the tau_int of an observable was measured; elsewhere it is a lower bound, as is all that follows."""
        return np.array([result.tau_int[name].resolved for result in self.results])


def _curves(scan: ScanResult) -> Iterator[_Curve]:
    if not scan.results:
        raise DmmcError("there is nothing to draw: the scan has no results")
    labels = scan.labels
    lines = list(dict.fromkeys(result.line for result in scan.results))
    looks = palette(labels.values())
    for sampler, name in labels.items():
        look = looks[name]
        for k, line in enumerate(lines):
            colour, dashes, marker = look.colour, look.line, look.marker
            if len(lines) > 1:
                dashes, marker = LINES[k % len(LINES)], MARKERS[k % len(MARKERS)]
                colour = COLOURS[k % len(COLOURS)] if len(labels) == 1 else colour
            style = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 3.5, "linewidth": 1.2}
            label = f"{name}, {line}" if len(lines) > 1 else name
            of_curve = [result for result in scan.results if (result.sampler, result.line) == (sampler, line)]
            of_curve.sort(key=lambda result: result.place(scan.along))
            yield _Curve(sampler, line, label, of_curve, style)


def _axis(ax: Any, which: str, ticks: Sequence[float] | None = None, log: bool = True) -> None:
    """Numbers such as 2 and 50 on a logarithmic axis, in place of powers of ten; or the given ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = ax.xaxis if which == "x" else ax.yaxis
    if log:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    if ticks is not None:
        axis.set_ticks(ticks)
        ax.minorticks_off()
    elif log:
        low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 5000 * low else (1,)))
        if high < 8 * low:
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 7)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter("{x:g}")


def _draw_points(
    ax: Any,
    x: Array,
    y: Array,
    error: Array,
    measured: NDArray[np.bool_],
    style: dict[str, Any],
    label: str,
    x_error: Array | None = None,
) -> None:
    """Measured values with their errors; lower bounds as open symbols with an arrow, which no line goes through."""
    dx = None if x_error is None else x_error[measured]
    ax.errorbar(x[measured], y[measured], error[measured], dx, label=label, elinewidth=1, **style)
    bound = ~measured & np.isfinite(y)
    if bound.any():
        arrow = {**style, "linestyle": "none", "markerfacecolor": "white"}
        ax.errorbar(x[bound], y[bound], 0.25 * y[bound], lolims=True, elinewidth=1, **arrow)


def tau_int(scan: ScanResult, against: str = "xi", names: Sequence[str] = TAUS) -> Figure:
    """tau_int in draws against xi or L, both axes logarithmic, with the fitted ``c x^z`` and its error band.

    Open symbols with an arrow are lower bounds, which are not fitted.

    Args:
        scan: the result of a scan.
        against: ``xi`` or ``L``.
        names: the observables, one panel for each.

    Raises:
        DmmcError: if the scan has no results.
    """
    columns = min(2, len(names)) or 1
    rows = math.ceil(len(names) / columns) or 1
    figure, axes = make_panels(1.2 + 4.2 * columns, 0.6 + 3.2 * rows, rows, columns, sharey=True)
    for ax in axes[len(names) :]:
        ax.remove()
    axes = axes[: len(names)]
    fits = {(fit.sampler, fit.line, fit.observable): fit for fit in scan.fits if fit.against == against}
    for ax, name in zip(axes, names, strict=True):
        for curve in _curves(scan):
            tau, error = curve.values(tau_of(name))
            if against == "xi":
                x, dx = curve.values(lambda result: scan.xi.get(result.point, UNKNOWN))
            else:
                x, dx = curve.values(lambda result: Measured(float(result.L), 0.0))
            label = curve.label
            if fit := fits.get((curve.sampler, curve.line, name)):
                law = fit.law
                label += f": z = {format_value(law.z, law.z_error)}"
                fitted = x[np.isin([result.point for result in curve.results], fit.points)]
                t = np.geomspace(0.93 * fitted.min(), 1.07 * fitted.max(), 100)
                ax.plot(t, law(t), color=curve.style["color"], linestyle=curve.style["linestyle"], linewidth=1.2)
                below, above = law(t) - law.error(t), law(t) + law.error(t)
                ax.fill_between(t, np.maximum(below, 1e-9), above, color=curve.style["color"], alpha=0.3, linewidth=0)
            style = {**curve.style, "linestyle": "none"}
            _draw_points(ax, x, tau, error, curve.resolved(name), style, label, dx)
        _, top = ax.get_ylim()
        ax.axhline(0.5, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlabel=LABELS[against])
        ax.set_title(rf"$\tau_{{\rm int}}$ of {symbol(name).value.math}", fontsize=10)
        ax.set_yscale("log")
        ax.set_ylim(0.4, max(top, 2.0) * 3.5)  # room for the legend
        _axis(ax, "x", sorted({result.L for result in scan.results}) if against == "L" else None)
        _axis(ax, "y")
        ax.legend(frameon=False, fontsize=9, loc="upper left")
    for ax in axes[::columns]:
        ax.set_ylabel(r"$\tau_{\rm int}$ in draws (uncorrelated: 0.5)")
    return figure


def _against_along(ax: Any, scan: ScanResult) -> None:
    """The axis of the quantity that changes along the lines of points."""
    ticks = sorted({result.place(scan.along) for result in scan.results})
    _axis(ax, "x", ticks if scan.along == "L" or len(ticks) < 7 else None, log=scan.along == "L")
    ax.set(xlabel=LABELS[scan.along])


def _x(curve: _Curve, scan: ScanResult) -> Array:
    return np.array([result.place(scan.along) for result in curve.results])


def cost(scan: ScanResult) -> Figure:
    """Cost of one effective sample (``2 tau_int`` draws) of M and of M^2: wall time, and force or network evaluations.

    Open symbols with an arrow are lower bounds, from chains that are too short to measure tau_int.

    Args:
        scan: the result of a scan.

    Raises:
        DmmcError: if the scan has no results.
    """
    figure, axes = make_panels(9.6, 0.6 + 3.3 * len(COSTED), len(COSTED), 2)
    for row, name in enumerate(COSTED):
        time, evaluations = axes[2 * row : 2 * row + 2]
        for curve in _curves(scan):
            x = _x(curve, scan)
            for kind in dict.fromkeys(kind for result in curve.results for kind in result.cost[name]):
                value, error = curve.values(cost_of(name, kind))
                ax, unit, label = (
                    (time, 1e3, curve.label) if kind == "seconds" else (evaluations, 1, f"{curve.label}: {kind}")
                )
                _draw_points(ax, x, unit * value, unit * error, curve.resolved(name), curve.style, label)
        for ax, label, title in (
            (time, "milliseconds", "Wall time"),
            (evaluations, "evaluations", "Force or network evaluations"),
        ):
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
            _axis(ax, "y")
            _against_along(ax, scan)
            ax.set(ylabel=f"{label} per effective sample")
            ax.set_title(f"{title} per effective sample of {symbol(name).value.math}", fontsize=10)
            ax.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def acceptance(scan: ScanResult) -> Figure:
    """Mean acceptance of each sampler.

    Args:
        scan: the result of a scan.

    Raises:
        DmmcError: if the scan has no results.
    """
    figure, (ax,) = make_panels(6.4, 3.6)
    for curve in _curves(scan):
        value, error = curve.values(lambda result: result.acceptance)
        ax.errorbar(_x(curve, scan), value, error, label=curve.label, elinewidth=1, **curve.style)
    _against_along(ax, scan)
    ax.axhline(1, color="0.6", linewidth=0.6, zorder=0)
    ax.set(ylabel="acceptance", ylim=(0, 1.05), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set_title("Acceptance", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="best")
    return figure


def binder(scan: ScanResult) -> Figure:
    """Binder cumulants against kappa with their fits: one panel per sampler, one colour per lattice size.

    The dark band is the crossing of the two largest sizes, the light one kappa_c, whose error includes the drift that
    is left.

    Args:
        scan: the result of a scan with crossings.

    Raises:
        DmmcError: if it has none.
    """
    crossings = scan.crossings
    if not crossings:
        raise DmmcError("the scan has no crossing of Binder cumulants to draw")
    figure, axes = make_panels(max(5.2, 0.8 + 4.4 * len(crossings)), 3.9, columns=len(crossings), sharey=True)
    labels = scan.labels
    for ax, crossed in zip(axes, crossings, strict=True):
        for curve, look in zip(crossed.curves, styles(), strict=False):
            chosen = [one for one in scan.results if (one.sampler, one.L) == (crossed.sampler, curve.size)]
            kappa = np.array([result.place("kappa") for result in chosen])
            U, error = np.array([result.binder.numbers for result in chosen]).T
            style = {
                "color": look.colour,
                "marker": look.marker,
                "markersize": 4.5,
                "elinewidth": 1,
                "linestyle": "none",
            }
            ax.errorbar(kappa, U, error, label=f"L = {curve.size}", **style)
            t = np.linspace(kappa.min(), kappa.max(), 100)
            ax.plot(t, curve(t), color=look.colour, linestyle=look.line, linewidth=1.2)
        best = crossed.best
        for place, grey in ((crossed.kappa_c, "0.92"), (best.kappa, "0.8")):
            middle, half = place.numbers
            ax.axvspan(middle - half, middle + half, color=grey, zorder=0)
        ax.axhline(2 / 3, color="0.6", linewidth=0.6, zorder=0)
        sizes = " and ".join(map(str, best.sizes))
        name = labels[crossed.sampler]
        ax.set_title(f"{name}: L = {sizes} cross at {best.kappa}\n" + rf"$\kappa_c$ = {crossed.kappa_c}", fontsize=10)
        _against_along(ax, scan)
        ax.legend(frameon=False, fontsize=9, loc="lower right")
    axes[0].set_ylabel(r"Binder cumulant $U_L$")
    return figure

"""The figures of a run: NumPy arrays in, a matplotlib ``Figure`` out.

No global state of pyplot is touched, so these work without a display and inside other programs. Colours are
those of Okabe and Ito, which the colour-blind can tell apart; a sampler's line style tells it apart too.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import (
    DiagnosticsWarning,
    Estimate,
    autocorrelation_function,
    ess_fraction,
    format_value,
    gamma_method,
    kl_gap,
    log_z,
    std_log_w,
)
from dmmc.diagnostics.autocorrelation import as_series

if TYPE_CHECKING:  # matplotlib is slow to load, and most of dmmc never draws
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

# Blue, vermillion, bluish green, reddish purple, orange, sky blue, black.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*"

SYMBOLS = {
    "M": "$M$",
    "abs_M": "$|M|$",
    "M2": "$M^2$",
    "M4": "$M^4$",
    "phi2": r"$\phi^2$",
    "S_per_site": "$S/V$",
}


def make_panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def styles() -> Iterator[tuple[str, str, str]]:
    """Colour, line style and marker of one sampler after another, without end."""
    return zip(itertools.cycle(OKABE_ITO), itertools.cycle(LINES), itertools.cycle(MARKERS), strict=False)


def _some(data: Mapping[str, Any]) -> None:
    if not data:
        raise DmmcError("there is nothing to draw: give at least one sampler")


def _present(records: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    _some(records)
    for name in names:
        missing = [sampler for sampler, record in records.items() if name not in record]
        if missing:
            raise DmmcError(f"the record of {', '.join(missing)} has no {name}")


def denoising(fields: ArrayLike, levels: ArrayLike) -> Figure:
    """One field on its way from noise to a configuration, or back, one panel a noise level.

    Every panel is divided by its own root mean square, because a noisy field is many times larger than a clean
    one; all then share one colour scale, symmetric about 0. One dimension is drawn as a line, three or four by
    the plane through the origin that the last two axes span.

    Args:
        fields: ``(n, *lattice)``, the field at each of ``n`` levels.
        levels: noise levels s, ``(n,)``.

    Raises:
        DmmcError: on shapes that do not match, or fields that are not finite.
    """
    phi, s = np.asarray(fields, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    if phi.ndim < 2 or len(phi) == 0 or s.shape != phi.shape[:1]:
        raise DmmcError(f"fields must be (n, *lattice) and levels (n,), got {phi.shape} and {s.shape}")
    if not np.isfinite(phi).all():
        raise DmmcError("fields has NaN or infinite values; draw another one")
    n, dim = len(phi), phi.ndim - 1
    # A field that vanishes everywhere has no scale, and none is needed.
    rms = np.sqrt(np.mean(phi**2, axis=tuple(range(1, dim + 1)), keepdims=True))
    phi = phi / np.where(rms > 0, rms, 1.0)
    while phi.ndim > 3:
        phi = phi[:, 0]

    aspect = 0.9 if dim == 1 else min(max(phi.shape[1] / phi.shape[2], 0.5), 2.0)
    figure, axes = make_panels(max(1.75 * n + 0.9, 5.2), 1.75 * aspect + 0.8, columns=n, sharey=True)
    for ax, field, level in zip(axes, phi, s, strict=True):
        ax.set_title(f"noise s = {level:.3g}", fontsize=10)
        if dim == 1:
            ax.plot(field, color=OKABE_ITO[0], linewidth=1)
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
            ax.set(ylim=(-3.5, 3.5), xlabel="x")
        else:
            image = ax.imshow(field, cmap="RdBu_r", vmin=-3, vmax=3, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    if dim == 1:
        axes[0].set_ylabel(r"$\phi$ / rms")
    else:
        figure.colorbar(image, ax=axes, label=r"$\phi$ / rms", ticks=[-3, 0, 3], extend="both", fraction=0.04, pad=0.01)
    what = "The field" if dim <= 2 else "A plane of the field"
    figure.suptitle(f"{what} at each noise level, divided by its own root mean square", fontsize=10)
    return figure


def _thinned(x: Array, points: int) -> tuple[Array, Array]:
    """Draw numbers and values of a line that looks like the series ``(draw,)``, of about ``points`` points.

    A longer series is cut into equal stretches and each goes from its smallest to its largest value: nothing that
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
    """Time series of a few chains of each sampler: a row of panels for an observable, a column for a sampler.

    Args:
        records: of each sampler, the observables by name, ``(chain, draw)`` each.
        names: which observables to draw.
        chains: chains of each sampler, evenly spread over those that there are.
        points: of a line; of longer series the envelope is drawn.

    Raises:
        DmmcError: if there is nothing to draw, an observable is missing, or a series is not ``(chain, draw)``.
    """
    _present(records, names)
    figure, axes = make_panels(9.6, 0.8 + 1.7 * len(names), len(names), len(records), sharex="col", sharey="row")
    panels = np.array(axes).reshape(len(names), len(records))
    for row, name in zip(panels, names, strict=True):
        for ax, (sampler, record) in zip(row, records.items(), strict=True):
            series = as_series(record[name], f"{name} of {sampler}")
            shown = np.unique(np.linspace(0, len(series) - 1, min(chains, len(series))).astype(int))
            for k, (colour, _, _) in zip(shown, styles(), strict=False):
                ax.plot(*_thinned(series[k], points), color=colour, linewidth=0.8, label=f"chain {k}")
            ax.margins(x=0)
        row[0].set_ylabel(SYMBOLS.get(name, name))
    for ax, sampler in zip(panels[0], records, strict=True):
        ax.set_title(sampler, fontsize=10)
    for ax in panels[-1]:
        ax.set_xlabel("draw")
    figure.align_ylabels()
    return figure


def acceptance(accepted: Mapping[str, ArrayLike], stretches: int = 40) -> Figure:
    """Acceptance over time: the mean over all chains of one stretch of draws after another, with standard errors.

    The error is from the scatter of the chains; a single chain has none.

    Args:
        accepted: of each sampler, ``(chain, draw)``: whether a step was accepted, or the fraction of a draw's steps.
        stretches: into how many each record is cut, if it is that long.

    Raises:
        DmmcError: if there is nothing to draw, or a record is not ``(chain, draw)``.
    """
    _some(accepted)
    figure, (ax,) = make_panels(6.4, 3.6)
    for (sampler, record), (colour, line, marker) in zip(accepted.items(), styles(), strict=False):
        series = as_series(record, f"acceptance of {sampler}")
        n, draws = series.shape
        edges = np.linspace(0, draws, min(stretches, draws) + 1).astype(int)
        by_chain = np.add.reduceat(series, edges[:-1], axis=1) / np.diff(edges)
        mean, middle = by_chain.mean(axis=0), (edges[:-1] + edges[1:] - 1) / 2
        style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 3, "linewidth": 1.2}
        ax.plot(middle, mean, label=f"{sampler}: {series.mean():.3f}", **style)
        if n > 1:
            error = by_chain.std(axis=0, ddof=1) / math.sqrt(n)
            ax.fill_between(middle, mean - error, mean + error, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlabel="draw", ylabel="acceptance", ylim=(0, 1.13 + 0.08 * len(accepted)), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.axhline(1, color="0.6", linewidth=0.6, zorder=0)
    ax.margins(x=0)
    ax.set_title("Acceptance over time", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def magnetisation(chains: Mapping[str, ArrayLike], bins: int | None = None) -> Figure:
    """Histograms of M, one for each sampler, with error bands from the Gamma method bin by bin.

    Args:
        chains: M of each sampler, ``(chain, draw)``.
        bins: number of bins, common to all; default 41, or more where |M| is narrow, deep in the broken phase.

    Raises:
        DmmcError: if there is nothing to draw, or as :func:`dmmc.diagnostics.gamma_method`.
    """
    _some(chains)
    series = {name: as_series(M, f"M of {name}") for name, M in chains.items()}
    largest = max(float(np.abs(M).max()) for M in series.values()) or 1.0
    if bins is None:
        spread = max(min(float(np.abs(M).std()) for M in series.values()), 0.01 * largest)
        bins = min(max(math.ceil(5 * largest / spread) | 1, 41), 201)
    edges = np.linspace(-largest, largest, bins + 1)
    width = edges[1] - edges[0]
    figure, (ax,) = make_panels(6.4, 3.6)
    for (name, M), (colour, line, _) in zip(series.items(), styles(), strict=False):
        inside = np.clip(np.digitize(M, edges) - 1, 0, bins - 1)
        density, error = np.zeros(bins), np.zeros(bins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticsWarning)  # bins far out are hardly ever visited
            for k in np.unique(inside):
                estimate = gamma_method(inside == k)
                density[k], error[k] = estimate.value / width, np.nan_to_num(estimate.error) / width
        ax.stairs(density, edges, color=colour, linestyle=line, linewidth=1.5, label=name)
        ax.stairs(density + error, edges, baseline=density - error, fill=True, color=colour, alpha=0.25, linewidth=0)
    ax.set(xlabel=r"$M = \frac{1}{V} \sum_x \phi(x)$", ylabel="probability density", xlim=(edges[0], edges[-1]))
    columns = min(3, len(series))
    ax.set_ylim(0, (1.05 + 0.1 * math.ceil(len(series) / columns)) * ax.get_ylim()[1])  # room for the legend
    ax.set_title("Magnetisation, with standard errors", fontsize=10)
    ax.legend(frameon=False, loc="upper center", ncols=columns)
    return figure


def resolved_tau(x: ArrayLike) -> tuple[Estimate, bool]:
    """The Gamma method's estimate, and whether its tau_int is one: where the record is too short it is a lower bound.

    Raises:
        DmmcError: as :func:`dmmc.diagnostics.gamma_method`.
    """
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", DiagnosticsWarning)
        estimate = gamma_method(x)
    return estimate, not doubts


def _tau_label(x: Array) -> str:
    """tau_int as text: an equality, or a bound."""
    estimate, resolved = resolved_tau(x)
    if math.isnan(estimate.tau_int):
        return "constant"
    relation = "=" if resolved else r"\gtrsim"
    return rf"$\tau_{{\rm int}} {relation} {format_value(estimate.tau_int, estimate.tau_int_error)}$"


def autocorrelation(
    records: Mapping[str, Mapping[str, ArrayLike]], names: Sequence[str] = ("M2",), max_lag: int | None = None
) -> Figure:
    """Autocorrelation functions rho(t) with error bands, one panel for each observable.

    The lag is on a logarithmic axis from lag 1 on, so that samplers with very different memory fit on one. The
    legend gives tau_int in draws, lattice convention (white series: 0.5).

    Args:
        records: of each sampler, the observables by name, ``(chain, draw)`` each.
        names: which observables to draw.
        max_lag: last lag; default six times the largest tau_int, and no more than half a chain.

    Raises:
        DmmcError: if there is nothing to draw, an observable is missing, or as
            :func:`dmmc.diagnostics.autocorrelation_function`.
    """
    _present(records, names)
    if max_lag is not None and max_lag < 1:
        raise DmmcError(f"max_lag must be at least 1, got {max_lag}")
    figure, axes = make_panels(1.2 + 4.2 * len(names), 3.6, columns=len(names), sharey=True)
    for ax, observable in zip(axes, names, strict=True):
        series = {
            sampler: as_series(record[observable], f"{observable} of {sampler}") for sampler, record in records.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticsWarning)
            taus = [gamma_method(x).tau_int for x in series.values()]
        reach = max_lag or 10 + math.ceil(6 * max([tau for tau in taus if tau > 0], default=0.0))
        lowest = -0.2
        for (sampler, x), (colour, line, _) in zip(series.items(), styles(), strict=False):
            last = min(reach, x.shape[1] - 1 if max_lag else x.shape[1] // 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DiagnosticsWarning)
                rho, error = autocorrelation_function(x, last)
            t = np.arange(last + 1)
            lowest = min(lowest, float(np.nan_to_num(rho).min()) - 0.05)
            ax.plot(t, rho, color=colour, linestyle=line, linewidth=1.5, label=f"{sampler}: {_tau_label(x)}")
            ax.fill_between(t, rho - error, rho + error, color=colour, alpha=0.25, linewidth=0)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.xaxis.set_major_formatter("{x:.0f}")
        # Above 1 there is room for the legend.
        ax.set(xlim=(0, reach), ylim=(lowest, 1.1 + 0.11 * len(series)), xlabel="lag t in draws")
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.set_title(f"Autocorrelation of {SYMBOLS.get(observable, observable)}", fontsize=10)
        ax.legend(frameon=False, fontsize=9, loc="upper right")
    axes[0].set_ylabel(r"$\rho(t)$")
    return figure


def log_weights(log_w_proposals: ArrayLike, log_w_reference: ArrayLike | None = None, bins: int = 60) -> Figure:
    """Log weights of proposals and of an independent ensemble of the target, relative to log Z.

    For a perfect proposal both are a spike at 0. The two densities cross at 0, since the target's is the
    proposals' times ``w / Z``; a reference with a tail far to the right shows fields that are never proposed.
    What would practically never be accepted, below -10, lies outside the axis; proposals there, and those of
    weight zero, are counted in the title.

    Args:
        log_w_proposals: ``-S - log q`` of proposals, any shape, any common offset.
        log_w_reference: the same of the reference ensemble, with the same offset; None shows the proposals alone.
        bins: number of bins.

    Raises:
        DmmcError: as :func:`dmmc.diagnostics.kl_gap`; also if no proposal has a finite weight.
    """
    z, _ = log_z(log_w_proposals)
    if not math.isfinite(z):
        raise DmmcError("no proposal has a finite weight; the model cannot be compared, train it again")
    q = np.asarray(log_w_proposals, dtype=np.float64).ravel() - z
    sides = [(q, f"proposals: ESS/N = {ess_fraction(q):.3f}, std = {std_log_w(q):.2f}")]
    if log_w_reference is not None:
        gap = kl_gap(log_w_proposals, log_w_reference)
        p = np.asarray(log_w_reference, dtype=np.float64).ravel() - z
        sides.append((p, f"reference ensemble: std = {gap.std_p:.2f}"))
    finite = np.concatenate([x[np.isfinite(x)] for x, _ in sides])
    low, high = max(float(finite.min()), -10.0), float(finite.max())
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    width = edges[1] - edges[0]

    figure, (ax,) = make_panels(6.4, 3.6)
    for (x, label), (colour, line, _) in zip(sides, styles(), strict=False):
        density = np.histogram(x, edges)[0] / (x.size * width)
        ax.stairs(density, edges, color=colour, linestyle=line, linewidth=1.5, label=label)
        ax.stairs(density, edges, fill=True, color=colour, alpha=0.15, linewidth=0)
    ax.axvline(0, ymax=0.78, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel=r"$\log w - \log Z$", ylabel="probability density", xlim=(edges[0], edges[-1]))
    outside = int(q.size - np.sum(q >= edges[0]))
    note = f"\n{outside} of {q.size} proposals lie to the left of the axis" if outside else ""
    ax.set_title(f"Log weights: proposals{' and reference' if len(sides) > 1 else ''}{note}", fontsize=10)
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the legend
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


ENOUGH_CHAINS = 64
"""The scatter of this many chain means gives an error that is itself good to a tenth."""


def propagator(two_point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``G(p)`` and its standard error, ``(n_orbits,)`` each, from ``two_point`` ``(chain, draw, orbit)``.

    The error is from the scatter of the chains, or from the Gamma method where these are few.
    """
    n = len(two_point)
    by_chain = two_point.mean(axis=1)
    if n >= ENOUGH_CHAINS:
        error = by_chain.std(axis=0, ddof=1) / math.sqrt(n)
    else:
        error = np.array([resolved_tau(two_point[..., k])[0].error for k in range(two_point.shape[-1])])
    return by_chain.mean(axis=0), error


def two_point(samplers: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Figure:
    """Propagator ``G(p) = <|phi(p)|^2>`` against ``phat^2``, and below it the ratio to the first sampler.

    The momentum axis is logarithmic from the smallest nonzero momentum on; p = 0 stands at its left end.

    Args:
        samplers: ``(phat2, G, error)`` of each, ``(n_orbits,)`` each; all on the same momenta. An unknown error
            may be nan.

    Raises:
        DmmcError: if there is nothing to draw, the momenta differ, or G is not positive.
    """
    from matplotlib.transforms import ScaledTranslation

    _some(samplers)
    curves = {name: tuple(np.asarray(x, dtype=np.float64) for x in curve) for name, curve in samplers.items()}
    first, (phat2, G0, error0) = next(iter(curves.items()))
    for name, curve in curves.items():
        if any(x.shape != phat2.shape or x.ndim != 1 for x in curve) or not np.allclose(curve[0], phat2):
            raise DmmcError(f"phat2, G and error of {name} must be (n_orbits,), on the same momenta as {first}")
        if not (curve[1] > 0).all() or not np.isfinite(curve[1]).all():
            raise DmmcError(f"G of {name} must be positive and finite: it is a mean of |phi(p)|^2")
    figure, (ax, below) = make_panels(6.4, 4.8, rows=2, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    ax.set_yscale("log")
    smallest = float(phat2[phat2 > 1e-12].min(initial=math.inf))
    if math.isfinite(smallest):
        below.set_xscale("symlog", linthresh=smallest, linscale=0.4)
        below.set_xlim(-0.25 * smallest, 1.15 * float(phat2.max()))
        # Below the smallest momentum the axis is linear: the usual ticks of every decade would crowd there.
        ticks = [digit * 10.0**k for k in range(-9, 3) for digit in (1, 2, 5)]
        ticks = [0.0, *(x for x in ticks if 1.5 * smallest < x < phat2.max())]
        below.set_xticks(ticks if len(ticks) < 9 else [x for x in ticks if x == 0 or f"{x:e}"[0] == "1"])
        below.xaxis.set_major_formatter("{x:g}")
        below.minorticks_off()
    for k, ((name, (_, G, error)), (colour, _, marker)) in enumerate(zip(curves.items(), styles(), strict=False)):
        style = {"color": colour, "linestyle": "none", "marker": marker, "markersize": 3.5, "elinewidth": 1}
        # Samplers that agree would hide each other: they stand side by side, a few points (1/72 inch) apart.
        aside = ScaledTranslation(3 * (k - (len(curves) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
        ax.errorbar(phat2, G, error, label=name, transform=ax.transData + aside, **style)
        if name == first:
            below.fill_between(phat2, 1 - error0 / G0, 1 + error0 / G0, color=colour, alpha=0.25, linewidth=0)
        else:
            below.errorbar(phat2, G / G0, error / abs(G0), transform=below.transData + aside, **style)
    # Shifted points do not take part in automatic limits.
    values = np.concatenate([G for _, G, _ in curves.values()])
    ax.set_ylim(0.7 * values.min(), 1.6 * values.max())
    off = max(float(np.max(abs(G / G0 - 1) + np.nan_to_num(error / abs(G0)))) for _, G, error in curves.values())
    below.set_ylim(1 - 1.1 * (off or 0.1), 1 + 1.1 * (off or 0.1))
    below.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.set(ylabel=r"$G(p) = \langle |\phi(p)|^2 \rangle$")
    ax.set_title("Two-point function", fontsize=10)
    ax.legend(frameon=False, loc="lower left")  # where G, which falls, leaves room
    below.set(xlabel=r"$\hat p^2$", ylabel=f"ratio to {first}")
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG of 150 dots an inch.

    Raises:
        DmmcError: if ``path`` does not end in ``.png``, or its directory does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DmmcError(f"figures are written as PNG, got {path}; end the name in .png")
    if not path.parent.is_dir():
        raise DmmcError(f"there is no directory {path.parent}; make it first")
    figure.savefig(path, format="png", dpi=150)

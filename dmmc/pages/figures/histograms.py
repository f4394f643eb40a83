"""Histograms: of the magnetisation, and of the log weights of proposals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning, ess_fraction, gamma_method, kl_gap, log_z, std_log_w
from dmmc.diagnostics.series import as_series
from dmmc.pages.figures.canvas import check_not_empty, make_panels
from dmmc.pages.styles import Style, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR = -10.0
"""A proposal of this log weight relative to log Z is practically never accepted, and is not drawn."""


def magnetisation(chains: Mapping[str, ArrayLike], bins: int | None = None, symbol: str = "M") -> Figure:
    """Histograms of M, one for each sampler, with error bands from the Gamma method bin by bin.

    Args:
        chains: M of each sampler, ``(chain, draw)``.
        bins: number of bins, common to all; default 41, or more where ``|M|`` is narrow, deep in the broken phase.
        symbol: what the axis calls M, for a component of a field of several.

    Raises:
        DmmcError: if there is nothing to draw, or as :func:`dmmc.diagnostics.gamma_method`.
    """
    check_not_empty(chains)
    series = {name: as_series(M, f"{symbol} of {name}") for name, M in chains.items()}
    largest = max(float(np.abs(M).max()) for M in series.values()) or 1.0
    if bins is None:
        spread = max(min(float(np.abs(M).std()) for M in series.values()), 0.01 * largest)
        bins = min(max(math.ceil(5 * largest / spread) | 1, 41), 201)
    edges = np.linspace(-largest, largest, bins + 1)
    width = edges[1] - edges[0]
    figure, (ax,) = make_panels(6.4, 3.6)
    looks = palette(series)
    for name, M in series.items():
        look = looks[name]
        inside = np.clip(np.digitize(M, edges) - 1, 0, bins - 1)
        density, error = np.zeros(bins), np.zeros(bins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticsWarning)  # bins far out are hardly ever visited
            for k in np.unique(inside):
                estimate = gamma_method(inside == k)
                density[k], error[k] = estimate.value / width, np.nan_to_num(estimate.error) / width
        ax.stairs(density, edges, color=look.colour, linestyle=look.line, linewidth=1.5, label=name)
        low, high = density - error, density + error
        ax.stairs(high, edges, baseline=low, fill=True, color=look.colour, alpha=0.25, linewidth=0)
    meaning = r" = \frac{1}{V} \sum_x \phi(x)" if symbol == "M" else ""
    ax.set(xlabel=f"${symbol}{meaning}$", ylabel="probability density", xlim=(edges[0], edges[-1]))
    columns = min(3, len(series))
    ax.set_ylim(0, (1.05 + 0.1 * math.ceil(len(series) / columns)) * ax.get_ylim()[1])  # room for the legend
    ax.set_title("Magnetisation, with standard errors", fontsize=10)
    ax.legend(frameon=False, loc="upper center", ncols=columns)
    return figure


def log_weights(
    log_w_proposals: ArrayLike,
    log_w_reference: ArrayLike | None = None,
    bins: int = 60,
    look: Style | None = None,
) -> Figure:
    """Log weights of proposals and of an independent ensemble of the target, relative to log Z.

    For a perfect proposal both are a spike at 0. The two densities cross at 0, since the target's is the
    proposals' times ``w / Z``; a reference with a tail far to the right shows fields that are never proposed. What lies
    below :data:`FAR` is outside the axis; proposals there, and those of weight zero, are counted in the title.

    Args:
        log_w_proposals: ``-S - log q`` of proposals, of any shape, with any common offset.
        log_w_reference: the same of the reference ensemble, with the same offset; None shows the proposals alone.
        bins: number of bins.
        look: of the proposals; None takes that of the label ``diffusion``. The reference is black.

    Raises:
        DmmcError: as :func:`dmmc.diagnostics.kl_gap`; also if no proposal has a finite weight.
    """
    z, _ = log_z(log_w_proposals)
    if not math.isfinite(z):
        raise DmmcError("no proposal has a finite weight; the model cannot be compared, train it again")
    q = np.asarray(log_w_proposals, dtype=np.float64).ravel() - z
    look = palette(["diffusion"])["diffusion"] if look is None else look
    sides = [(q, look, f"proposals: ESS/N = {ess_fraction(q):.3f}, std = {std_log_w(q):.2f}")]
    if log_w_reference is not None:
        gap = kl_gap(log_w_proposals, log_w_reference)
        p = np.asarray(log_w_reference, dtype=np.float64).ravel() - z
        sides.append((p, Style("#000000", ":" if look.line == "-" else "-", "o"), f"reference: std = {gap.std_p:.2f}"))
    finite = np.concatenate([x[np.isfinite(x)] for x, _, _ in sides])
    low, high = max(float(finite.min()), FAR), float(finite.max())
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    width = edges[1] - edges[0]

    figure, (ax,) = make_panels(6.4, 3.6)
    for x, of_side, label in sides:
        density = np.histogram(x, edges)[0] / (x.size * width)
        ax.stairs(density, edges, color=of_side.colour, linestyle=of_side.line, linewidth=1.5, label=label)
        ax.stairs(density, edges, fill=True, color=of_side.colour, alpha=0.15, linewidth=0)
    ax.axvline(0, ymax=0.78, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel=r"$\log w - \log Z$", ylabel="probability density", xlim=(edges[0], edges[-1]))
    outside = int(q.size - np.sum(q >= edges[0]))
    note = f"\n{outside} of {q.size} proposals lie to the left of the axis" if outside else ""
    ax.set_title(f"Log weights of proposals{' and reference' if len(sides) > 1 else ''}{note}", fontsize=10)
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the legend
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    return figure

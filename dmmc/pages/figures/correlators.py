"""Two-point functions: in momentum space, and between walls in position space with the effective mass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.correlator import WallCorrelator
from dmmc.pages.figures.canvas import check_not_empty, make_panels, points
from dmmc.pages.styles import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

LOGARITHMIC = 3.0
"""The axis of C(t) is logarithmic where the largest value is this many times the smallest."""

KNOWN = 0.5
"""An effective mass is drawn up to the distance where its error exceeds this part of it."""


def two_point(samplers: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Figure:
    """Propagator ``G(p) = <|phi(p)|^2>`` against ``phat^2``, and below it the ratio to the first sampler.

    The momentum axis is logarithmic from the smallest nonzero momentum on; p = 0 stands at its left end.

    Args:
        samplers: ``(phat2, G, error)`` of each sampler, ``(n_orbits,)`` each, all on the same momenta. An unknown error
            may be nan.

    Raises:
        DmmcError: if there is nothing to draw, the momenta differ, or G is not positive.
    """
    from matplotlib.transforms import ScaledTranslation

    check_not_empty(samplers)
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
    looks = palette(curves)
    for k, (name, (_, G, error)) in enumerate(curves.items()):
        style = points(looks[name])
        # Samplers that agree would hide each other: they stand side by side, a few points (1/72 inch) apart.
        aside = ScaledTranslation(3 * (k - (len(curves) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
        ax.errorbar(phat2, G, error, label=name, transform=ax.transData + aside, **style)
        if name == first:
            band = {"color": looks[name].colour, "alpha": 0.25, "linewidth": 0}
            below.fill_between(phat2, 1 - error0 / G0, 1 + error0 / G0, **band)
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
    ax.legend(frameon=False, loc="lower left")  # G falls, which leaves room there
    below.set(xlabel=r"$\hat p^2$", ylabel=f"ratio to {first}")
    return figure


def wall_correlator(samplers: Mapping[str, WallCorrelator]) -> Figure:
    """Correlator C(t) of walls at distance t, and its effective mass beside it, with standard errors.

    The axis of C(t) is logarithmic where that helps, see :data:`LOGARITHMIC`. Effective masses are drawn up to the
    distance where noise drowns them, see :data:`KNOWN`.

    Args:
        samplers: the correlator of each sampler, as :func:`dmmc.diagnostics.correlator.wall_correlator` gives it.

    Raises:
        DmmcError: if there is nothing to draw, or a correlator is not finite.
    """
    check_not_empty(samplers)
    for name, one in samplers.items():
        if not np.isfinite(one.value).all():
            raise DmmcError(f"C(t) of {name} must be finite")
    figure, (left, right) = make_panels(9.6, 3.4, columns=2)
    looks = palette(samplers)
    anything = False
    for k, (name, one) in enumerate(samplers.items()):
        aside = 0.12 * (k - (len(samplers) - 1) / 2)
        style = points(looks[name])
        left.errorbar(one.t + aside, one.value, np.nan_to_num(one.error), label=name, **style)
        mass, error = np.asarray(one.mass, dtype=np.float64), np.asarray(one.mass_error, dtype=np.float64)
        known = np.isfinite(mass) & np.isfinite(error) & (error <= KNOWN * abs(mass))
        shown = slice(int(np.argmin(known)) if not known.all() else len(known))
        anything = anything or bool(known[shown].any())
        right.errorbar(one.mass_t[shown] + aside, mass[shown], error[shown], label=name, **style)
    low = min(float(one.value.min()) for one in samplers.values())
    high = max(float(one.value.max()) for one in samplers.values())
    if low <= 0:
        left.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    elif high > LOGARITHMIC * low:
        left.set_yscale("log")
        left.set_ylim(low / 1.6, high * 1.6)
        if high < 30 * low:
            from matplotlib.ticker import LogLocator, NullFormatter

            left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            left.yaxis.set_major_formatter("{x:g}")
            left.yaxis.set_minor_formatter(NullFormatter())
    left.set_title("Wall correlator $C(t)$", fontsize=10)
    right.set_title(r"Effective mass $m_{\rm eff}(t)$", fontsize=10)
    right.set_ylim(0, 1.25 * right.get_ylim()[1] if anything else 1)
    right.set_xlim(left.get_xlim())
    if not anything:
        right.text(0.5, 0.5, "lost in the noise", transform=right.transAxes, ha="center", va="center", color="0.4")
    for ax in (left, right):
        ax.set_xlabel("t in lattice spacings")
        ax.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False, fontsize=9, loc="best")
    return figure

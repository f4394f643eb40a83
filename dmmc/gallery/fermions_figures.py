"""The figure of the exhibit about fermions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dmmc.gallery.exhibit import Drawing
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Costing(Protocol):
    """What is drawn of a sampler; see :class:`dmmc.studies.race.Entry`."""

    @property
    def cost(self) -> Mapping[str, float]: ...


class Raced(Protocol):
    """What is drawn of a point; see :class:`dmmc.gallery.fermions_runs.Race`."""

    @property
    def extent(self) -> int: ...

    @property
    def g(self) -> float: ...

    @property
    def entries(self) -> Mapping[str, Costing]: ...

    @property
    def training(self) -> float: ...

    @property
    def curve(self) -> Sequence[tuple[float, float]]: ...


def drawings(races: Sequence[Raced]) -> tuple[Drawing, ...]:
    """The figure."""
    return (
        Drawing(
            "fermions",
            _figure(races),
            "Left: a model that is exact for a free field becomes one of the full theory, in rounds on its own exact "
            "chains: the effective sample size per proposal before each round, against the share of the way to the "
            "full theory; the last point of each is the finished model. Middle: wall time of an effective sample, "
            "filled for M^2 and open for the chiral condensate. Right: wall time of so many effective samples of M^2 "
            "on the largest lattice, the training of the model included.",
        ),
    )


def _figure(races: Sequence[Raced]) -> Figure:
    figure, (learning, cost, total) = make_panels(11.5, 3.9, columns=3)
    names = list(races[0].entries)
    looks, shades = palette(names), palette([f"point {k}" for k in range(len(races))])
    for race, shade in zip(races, shades.values(), strict=True):
        share, ess = zip(*race.curve, strict=True)
        label = f"{race.extent}$^2$, g = {race.g:g}"
        learning.plot(share, ess, color=shade.colour, marker=shade.marker, markersize=4, linewidth=1, label=label)
    learning.set(xlabel="share of the way from the free field", ylabel="ESS per proposal", ylim=(0, 1.02))
    learning.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for k, name in enumerate(names):
        place = np.arange(len(races)) + 0.12 * (k - (len(names) - 1) / 2)
        for observable, filled in (("M2", True), ("condensate", False)):
            values = [1e3 * race.entries[name].cost[observable] for race in races]
            _points(cost, place, values, looks[name], filled, name if filled else None)
    cost.set(ylabel="wall time of an effective sample (ms)", yscale="log")
    cost.set_xticks(range(len(races)), [f"{race.extent}$^2$\ng = {race.g:g}" for race in races])
    cost.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    last = max(races, key=lambda race: race.extent)
    n = np.geomspace(1e2, 1e6, 200)
    for name in names:
        spent = n * last.entries[name].cost["M2"] + (last.training if name == "diffusion" else 0.0)
        total.plot(n, spent / 60, color=looks[name].colour, linestyle=looks[name].line)
    total.set(
        xlabel=f"effective samples of $M^2$, {last.extent}$^2$, g = {last.g:g}",
        ylabel="wall time (min)",
        xscale="log",
        yscale="log",
    )
    return figure


def _points(ax: Any, x: Any, y: Any, look: Any, filled: bool, label: str | None) -> None:
    face = look.colour if filled else "none"
    ax.plot(x, y, linestyle="none", marker=look.marker, color=look.colour, markerfacecolor=face, label=label)

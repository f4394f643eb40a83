"""The figures of the exhibit about enhanced statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dmmc.diagnostics import Estimate
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery.exhibit import Drawing
from dmmc.model.history import RoundRecord
from dmmc.pages import figures
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Gained(Protocol):
    """What is drawn of an observable; see :class:`dmmc.gallery.statistics.Gain`."""

    @property
    def given(self) -> Estimate: ...

    @property
    def exact(self) -> Estimate: ...

    @property
    def same_time(self) -> float: ...

    @property
    def gain(self) -> float: ...

    @property
    def gain_error(self) -> float: ...


def drawings(
    gains: Mapping[str, Gained], curves: Mapping[str, Sequence[RoundRecord]], n_in: int, n_out: int
) -> tuple[Drawing, ...]:
    """All figures."""
    return (
        Drawing(
            "gain",
            _gain(gains, n_in, n_out),
            f"Left: the errors of the {n_out:,} exact configurations, and of HMC in the same CPU time, relative to "
            f"those of the {n_in:,} HMC configurations that were given. Right: the CPU time that HMC needs for the "
            "same error, over that of the chain. Right of the line the chain gains; its training is not counted.",
        ),
        Drawing(
            "learning",
            figures.learning_curve(curves),
            "How good the proposals were after so many rounds of training on the model's own chain. Open symbols are "
            "of rounds on the way from the free field, weighed with what lies in between. The last point is the model "
            "that is used, frozen.",
        ),
    )


def _gain(gains: Mapping[str, Gained], n_in: int, n_out: int) -> Figure:
    figure, (errors, ratio) = make_panels(8.4, 3.9, columns=2, sharey=True)
    looks, place = palette(["HMC", "diffusion"]), np.arange(len(gains))[::-1]

    def draw(ax: Any, values: Sequence[float], look: str, label: str, spread: Sequence[float] | None = None) -> None:
        style = looks[look]
        ax.errorbar(
            values, place, xerr=spread, color=style.colour, marker=style.marker, linestyle="none", markersize=5,
            label=label
        )  # fmt: skip

    rows = list(gains.values())
    draw(errors, [x.same_time / x.given.error for x in rows], "HMC", "HMC in the same CPU time")
    draw(errors, [x.exact.error / x.given.error for x in rows], "diffusion", f"{n_out:,} exact configurations")
    errors.axvline(1, color="0.6", linewidth=0.8)
    errors.set(xlabel=f"error relative to that of {n_in:,} HMC configurations", xscale="log")
    errors.set_yticks(place, [symbol(name).math for name in gains])
    errors.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    draw(ratio, [x.gain for x in rows], "diffusion", "", [x.gain_error for x in rows])
    ratio.axvline(1, color="0.6", linewidth=0.8)
    ratio.set(xlabel="CPU time for the same error, HMC / chain", xscale="log")
    for ax in (errors, ratio):
        ax.xaxis.set_major_formatter("{x:g}")
    return figure

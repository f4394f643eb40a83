"""The figures of the exhibit of complex Langevin dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmmc.gallery.complex_laws import HOLOMORPHIC, complex_action, edge, log_gaussian
from dmmc.gallery.complex_learned import Learned, learned_score, square
from dmmc.gallery.distances import ScoreError
from dmmc.gallery.exhibit import Drawing
from dmmc.gallery.few_numbers import flow_of
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

POINTS = 101
"""Points of a grid along each axis."""


def drawings(gaussian: Learned, quartic: Learned, scores: Sequence[ScoreError]) -> tuple[Drawing, ...]:
    """All figures."""
    return (
        Drawing(
            "gaussian",
            _gaussian(gaussian, scores),
            "The Gaussian model, whose P(x, y) is known. Left: contours of P (grey, broad) and of the density of the "
            "flow, at 0.5, 0.1, 0.02 and 0.004 of the maximum, with fields of the model. Middle: the score at tau = 1 "
            "as a vector field, exact (grey, broad) and learned. Right: relative error of the learned score at each "
            "time, and that of the Gaussian reference, whose two components are independent and alike.",
        ),
        Drawing(
            "quartic",
            _quartic(quartic),
            "The quartic model, whose P(x, y) is not known. Above: the fields of complex Langevin dynamics, and the "
            "density that the model has learned from them; broken lines: the strip that the dynamics never leaves. "
            "Below: the drift of the Langevin equation, which is not the gradient of anything, and the learned score, "
            "which stands for the gradient of ln P.",
        ),
        Drawing(
            "moments",
            _moments([gaussian, quartic]),
            "Deviations of averages from the integrals over the complex weight, and from zero for L O, which vanishes "
            "in any law that the Langevin equation leaves alone. Weights and Metropolis steps are possible where P is "
            "known, on the left, and put the model right there.",
        ),
    )


def _gaussian(one: Learned, scores: Sequence[ScoreError]) -> Figure:
    figure, (left, middle, right) = make_panels(11, 3.4, 1, 3)
    phi = square((2.8, 1.6), POINTS)
    p, q = log_gaussian(phi, 0.0)[0].exp(), flow_of(one.model).log_q(phi.unsqueeze(2)).exp()
    levels = [float(p.max()) * share for share in (0.004, 0.02, 0.1, 0.5)]
    left.scatter(*one.proposed[:2000].T, s=1.5, color="0.6", linewidth=0, zorder=0)
    left.contour(*_grid(phi), _values(p), levels, colors="0.75", linewidths=4)
    left.contour(*_grid(phi), _values(q), levels, colors=COLOURS[0], linewidths=1)
    left.set(xlabel="x", ylabel="y")
    left.set_title("P (grey) and the model", fontsize=10)
    few = square((2.2, 1.2), 11)
    exact, learned = log_gaussian(few, 0.0)[1], learned_score(one.model, few, 0.0)
    _arrows(middle, few, exact, color="0.75", width=0.016)
    _arrows(middle, few, learned, color=COLOURS[0], width=0.005)
    middle.set(xlabel="x", ylabel="y")
    middle.set_title("score at $\\tau = 1$", fontsize=10)
    taus = [one.tau for one in scores]
    right.plot(taus, [one.error for one in scores], "o-", color=COLOURS[0], markersize=3.5, label="learned")
    right.plot(taus, [one.gaussian for one in scores], "--", color=COLOURS[1], linewidth=1.2, label="reference")
    right.set(xlabel="$\\tau$", ylabel="relative error of the score", yscale="log", xlim=(0, 1))
    right.axhline(1e-2, color="0.6", linewidth=0.8, zorder=0)
    right.legend(frameon=False, fontsize=8)
    return figure


def _quartic(one: Learned) -> Figure:
    strip = edge(one.lam)
    ends = (2.2, 1.25 * strip)
    figure, axes = make_panels(10, 6.4, 2, 2, sharex=True, sharey=True)
    bins = [np.linspace(-end, end, POINTS).tolist() for end in ends]
    counts = np.histogram2d(one.data[:, 0].numpy(), one.data[:, 1].numpy(), bins, density=True)[0]
    phi = square(ends, POINTS)
    q = _values(flow_of(one.model).log_q(phi.unsqueeze(2)).exp())
    top = max(float(counts.max()), float(q.max()))
    look: dict[str, Any] = {"vmin": 0, "vmax": top, "cmap": "Blues", "shading": "auto", "rasterized": True}
    axes[0].pcolormesh(*bins, counts.T, **look)
    axes[0].set_title("complex Langevin", fontsize=10)
    shown = axes[1].pcolormesh(*_grid(phi), q, **look)
    axes[1].set_title("density of the model", fontsize=10)
    figure.colorbar(shown, ax=axes[:2], shrink=0.8, label="density")
    few = square((2.0, 0.9 * strip), 13)
    _arrows(axes[2], few, complex_action(one.lam).drift(few.unsqueeze(2)).squeeze(2), color=COLOURS[1], width=0.004)
    axes[2].set_title("drift of the Langevin equation", fontsize=10)
    _arrows(axes[3], few, learned_score(one.model, few, 0.0), color=COLOURS[0], width=0.004)
    axes[3].set_title("learned score at $\\tau = 1$", fontsize=10)
    for ax in axes:
        for y in (-strip, strip):
            ax.axhline(y, color="0.4", linestyle="--", linewidth=0.8)
        ax.set(xlabel="x", ylabel="y", xlim=(-ends[0], ends[0]), ylim=(-ends[1], ends[1]))
        ax.label_outer()
    return figure


def _moments(learned: Sequence[Learned]) -> Figure:
    figure, axes = make_panels(11, 3.6, 1, len(learned))
    for one, ax in zip(learned, axes, strict=True):
        labels = list(dict.fromkeys(x.observable for x in one.averages))
        samplers = list(dict.fromkeys(x.sampler for x in one.averages))
        for k, sampler in enumerate(samplers):
            found = [x for x in one.averages if x.sampler == sampler]
            place = [labels.index(x.observable) + 0.13 * (k - 0.5 * (len(samplers) - 1)) for x in found]
            ax.errorbar(
                place, [x.value - x.exact for x in found], [x.error for x in found], color=COLOURS[k],
                marker=MARKERS[k], linestyle="none", markersize=3.5, elinewidth=1, label=sampler
            )  # fmt: skip
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.axvline(len(HOLOMORPHIC) - 0.5, color="0.85", linewidth=0.8, zorder=0)
        ax.set(ylabel="deviation", xticks=range(len(labels)), xticklabels=labels)
        ax.tick_params(axis="x", labelsize=8)
        ax.set_title(f"{one.name} model", fontsize=10)
        ax.legend(frameon=False, fontsize=7)
    return figure


def _grid(phi: Tensor) -> tuple[Array, Array]:
    """The two axes of the points of a square."""
    points = phi.view(POINTS, POINTS, 2).numpy()
    return points[:, 0, 0], points[0, :, 1]


def _values(x: Tensor) -> Array:
    """Values at the points of a square, y first, as matplotlib wants them."""
    return np.asarray(x.view(POINTS, POINTS).numpy().T)


def _arrows(ax: Any, points: Tensor, field: Tensor, **look: Any) -> None:
    """A vector field, whose arrows grow like the root of its length, so that small ones are seen as well."""
    length = field.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    ax.quiver(*points.T, *(field / length.sqrt()).T, angles="xy", pivot="mid", **look)

"""The figures of the toy model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmmc.gallery.distances import ScoreError
from dmmc.gallery.exhibit import Drawing
from dmmc.gallery.few_numbers import flow_of
from dmmc.gallery.wells import Toy, learned_score, variance, where
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import COLOURS, MARKERS

Array = NDArray[np.float64]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Times at which functions are drawn: 0 is the prior, 1 the target."""

EXACT: dict[str, Any] = {"color": "0.75", "linewidth": 4, "solid_capstyle": "round"}
"""How exact curves are drawn: broad and grey, under what is learned."""


def drawings(toys: Sequence[Toy], scores: dict[str, list[ScoreError]]) -> tuple[Drawing, ...]:
    """All figures."""
    return (
        Drawing(
            "scores",
            _scores(toys, scores),
            "Left: the learned score (coloured) on top of the exact one (grey, broad), which is the force of the "
            "theory smeared by the noise, from the prior (tau = 0) to the theory (tau = 1). Right: the relative error "
            "of the learned score at each time, weighted by the density, and that of the Gaussian reference alone, "
            "from which training starts.",
        ),
        Drawing(
            "actions",
            _actions(toys),
            "The action of each time, the integral of the learned score, each less its minimum. The prior is nearly "
            "constant where the theory lives; the wells grow out of it. Grey and broad: the exact actions.",
        ),
        Drawing(
            "densities",
            _densities(toys),
            "Above: fields that the learned process generates, by its ordinary and by its stochastic equation, and "
            "those of the exact chain, beside the exact density (grey, broad) and the density of the flow, which is "
            "computed. Below: ratios to the exact density. The chain is right whatever the flow does.",
        ),
    )


def _seen(toy: Toy) -> torch.Tensor:
    """Values of the field that matter, ``(n,)``."""
    phi = where(toy.theory, 0.0)
    return phi[toy.theory.log_density(phi) > -14]


def _label(toy: Toy) -> str:
    return f"{toy.name}, $\\mu^2 = {toy.mass2:+g}$"


def _scores(toys: Sequence[Toy], scores: dict[str, list[ScoreError]]) -> Figure:
    figure, axes = make_panels(9, 3.1 * len(toys), len(toys), 2, width_ratios=(1.3, 1))
    for toy, left, right in zip(toys, axes[::2], axes[1::2], strict=True):
        phi = _seen(toy)
        for tau, colour in zip(TIMES, COLOURS, strict=False):
            v = variance(toy.model, tau)
            left.plot(phi, toy.theory.noised(phi, v)[1], **EXACT)
            left.plot(phi, learned_score(toy.model, phi, v), color=colour, linewidth=1.2, label=f"{tau:g}")
        left.set(xlabel="$\\phi$", ylabel="score")
        left.set_title(_label(toy), fontsize=10)
        left.legend(title="$\\tau$", frameon=False, fontsize=8, title_fontsize=9)
        taus = [one.tau for one in scores[toy.name]]
        right.plot(
            taus, [one.error for one in scores[toy.name]], "o-", color=COLOURS[0], markersize=3.5, label="learned"
        )
        right.plot(
            taus, [one.gaussian for one in scores[toy.name]], "--", color=COLOURS[1], linewidth=1.2, label="Gaussian"
        )
        right.axhline(1e-2, color="0.6", linewidth=0.8, zorder=0)
        right.set(xlabel="$\\tau$", ylabel="relative error of the score", yscale="log", xlim=(0, 1))
        right.legend(frameon=False, fontsize=8)
    return figure


def _actions(toys: Sequence[Toy]) -> Figure:
    figure, axes = make_panels(9, 3.6, 1, len(toys))
    for toy, ax in zip(toys, axes, strict=True):
        phi = _seen(toy)
        for tau, colour in zip(TIMES, COLOURS, strict=False):
            v = variance(toy.model, tau)
            exact = -toy.theory.noised(phi, v)[0]
            action = -torch.cumulative_trapezoid(learned_score(toy.model, phi, v), phi)
            action = torch.cat([torch.zeros(1, dtype=action.dtype, device="cpu"), action])
            ax.plot(phi, exact - exact.min(), **EXACT)
            ax.plot(phi, action - action.min(), color=colour, linewidth=1.2, label=f"{tau:g}")
        ax.set(xlabel="$\\phi$", ylabel="$S_\\tau(\\phi)$ less its minimum", ylim=(-0.3, 10))
        ax.set_title(_label(toy), fontsize=10)
        ax.legend(title="$\\tau$", frameon=False, fontsize=8, title_fontsize=9, loc="upper center")
    return figure


def _densities(toys: Sequence[Toy]) -> Figure:
    figure, axes = make_panels(9, 5, 2, len(toys), sharex="col", height_ratios=(1.6, 1))
    for toy, above, below in zip(toys, axes[: len(toys)], axes[len(toys) :], strict=True):
        phi = _seen(toy)
        p, q = toy.theory.log_density(phi).exp(), flow_of(toy.model).log_q(phi.view(-1, 1)).exp()
        above.plot(phi, p, **EXACT, label="exact")
        above.plot(phi, q, color=COLOURS[6], linewidth=1, label="flow density")
        below.plot(phi, q / p, color=COLOURS[6], linewidth=1)
        edges = np.linspace(float(phi[0]), float(phi[-1]), 41)
        weight = _probabilities(toy, edges)
        samples = {"exact chain": toy.fields, **{kind: x.numpy() for kind, x in toy.generated.items()}}
        for k, (name, x) in enumerate(samples.items()):
            centre = 0.5 * (edges[1:] + edges[:-1]) + (k - 1) * 0.2 * (edges[1] - edges[0])
            counts = np.histogram(x, edges)[0]
            density, error = (y / (len(x) * np.diff(edges)) for y in (counts, np.sqrt(counts)))
            look: dict[str, Any] = {
                "color": COLOURS[k], "marker": MARKERS[k], "linestyle": "none", "markersize": 2.5, "elinewidth": 0.8
            }  # fmt: skip
            above.errorbar(centre, density, error, **look, label=name)
            enough = len(x) * weight > 25
            exact = weight / np.diff(edges)
            below.errorbar(centre[enough], (density / exact)[enough], (error / exact)[enough], **look)
        below.axhline(1, color="0.75", linewidth=4, zorder=0)
        below.set(xlabel="$\\phi$", ylabel="ratio to exact", ylim=(0.8, 1.2))
        above.set(ylabel="density", ylim=(0, None))
        above.set_title(_label(toy), fontsize=10)
        above.legend(frameon=False, fontsize=8)
    return figure


def _probabilities(toy: Toy, edges: Array) -> Array:
    """The exact probability of each bin."""
    fine = torch.linspace(0, 1, 33, dtype=torch.float64, device="cpu")
    left, width = torch.from_numpy(edges[:-1]).view(-1, 1), torch.from_numpy(np.diff(edges)).view(-1, 1)
    p = toy.theory.log_density((left + width * fine).flatten()).exp().view(-1, len(fine))
    return (width.flatten() * torch.trapezoid(p, fine)).numpy()

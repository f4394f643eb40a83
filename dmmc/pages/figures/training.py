"""The loss of a model while it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dmmc.core.errors import DmmcError
from dmmc.pages.figures.canvas import check_not_empty, make_panels
from dmmc.pages.styles import PLACES, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LossRecord(Protocol):
    """A point of a loss curve, as :class:`dmmc.model.history.TrainingRecord` has it."""

    @property
    def step(self) -> int:
        """Number of steps done."""
        ...

    @property
    def kl_removed(self) -> float:
        """How much of the divergence between reference and target the network has removed."""
        ...


def training_loss(curves: Mapping[str, Sequence[LossRecord]]) -> Figure:
    """Validation loss against the steps of training, relative to that of the Gaussian reference.

    The loss is a Kullback-Leibler divergence of paths up to a constant. The constant drops out of the difference from
    the loss of a network that is zero, which is the reference alone: at -2.5 the network has removed 2.5 of the
    divergence between the reference and the target.

    Args:
        curves: the loss curve of each model.

    Raises:
        DmmcError: if there is no model, or the loss of one was never recorded.
    """
    check_not_empty(curves)
    figure, (ax,) = make_panels(6.4, 3.6)
    best = []
    # A single model has the style of the chains that it proposes for.
    for (name, records), look in zip(curves.items(), map(style, count(PLACES.index("diffusion"))), strict=False):
        if not records:
            raise DmmcError(f"no validation loss of {name} was recorded: it was trained for too few steps")
        step = np.array([record.step for record in records], dtype=np.float64)
        loss = -np.array([record.kl_removed for record in records], dtype=np.float64)
        ax.plot(
            step, loss, color=look.colour, linestyle=look.line, marker=look.marker, markersize=3, linewidth=1.2,
            label=f"{name}: {loss[-1]:.2f}"
        )  # fmt: skip
        best.append(float(np.nanmin(loss)))
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    low = min(best)
    ax.set_ylim(1.15 * low if low < 0 else -1.0, 0.25 * abs(low) if low else 1.0)  # room for the legend
    ax.set_xlim(0, None)
    ax.set(xlabel="steps of training", ylabel="loss less that of the reference")
    ax.set_title("Validation loss, relative to the Gaussian reference", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return figure

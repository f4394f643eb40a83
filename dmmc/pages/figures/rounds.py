"""How good a model was in each round of a training on its own chain."""

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


class Round(Protocol):
    """A round, as :class:`dmmc.model.history.RoundRecord` has it."""

    @property
    def stage(self) -> int:
        """Number of the action of the path towards which the round went."""
        ...

    @property
    def share(self) -> float:
        """How far it went on the way there."""
        ...

    @property
    def ess(self) -> float:
        """Effective sample size per proposal."""
        ...

    @property
    def acceptance(self) -> float:
        """Acceptance of a chain of the proposals."""
        ...


def learning_curve(rounds: Mapping[str, Sequence[Round]]) -> Figure:
    """ESS per proposal and acceptance against the number of trainings that the model had had.

    Open symbols are of proposals that were weighed with an action on the way, full ones of those for the last action.

    Args:
        rounds: the rounds of each model; the last of them is the finished model.

    Raises:
        DmmcError: if there is no model, or one without rounds.
    """
    check_not_empty(rounds)
    figure, panels = make_panels(7.2, 3.2, columns=2, sharex=True, sharey=True)
    for (name, records), look in zip(rounds.items(), map(style, count(PLACES.index("diffusion"))), strict=False):
        if not records:
            raise DmmcError(f"{name} was not trained in rounds")
        trained = np.arange(len(records))
        there = np.array([(x.stage, x.share) == (records[-1].stage, records[-1].share) for x in records])
        for ax, values in zip(panels, ([x.ess for x in records], [x.acceptance for x in records]), strict=True):
            y = np.array(values)
            ax.plot(trained, y, color=look.colour, linestyle=look.line, linewidth=1, label=f"{name}: {y[-1]:.2f}")
            for which, face in ((there, look.colour), (~there, "none")):
                ax.plot(
                    trained[which], y[which], color=look.colour, marker=look.marker, linestyle="none", markersize=5,
                    markerfacecolor=face
                )  # fmt: skip
    for ax, title in zip(panels, ("ESS per proposal", "acceptance"), strict=True):
        ax.set(xlabel="rounds of training done", ylabel=title, ylim=(0, 1))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure

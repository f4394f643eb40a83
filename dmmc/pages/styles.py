"""Which colour, line and marker belongs to which sampler: the same in every figure, page and scan.

The colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart. Line style and
marker tell curves apart a second time, in print as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

# Blue, vermillion, bluish green, reddish purple, orange, sky blue, black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*"

PLACES = ("HMC", "diffusion", "cluster")
"""Labels with a style of their own, whatever else is drawn. All others take the styles after these, in order."""


@dataclass(frozen=True)
class Style:
    """How one sampler is drawn.

    Attributes:
        colour: as ``"#0072B2"``.
        line: line style, as matplotlib writes it.
        marker: marker of single points, as matplotlib writes it.
    """

    colour: str
    line: str
    marker: str


def style(place: int) -> Style:
    """The style at a place, counted from 0; different for the first 28 places."""
    return Style(COLOURS[place % len(COLOURS)], LINES[place % len(LINES)], MARKERS[place % len(MARKERS)])


def styles() -> Iterator[Style]:
    """The styles of things that are not samplers, one after another, without end."""
    return map(style, count())


def palette(labels: Iterable[str]) -> dict[str, Style]:
    """The style of each label.

    A label of :data:`PLACES` always has the same style. The others take the next free ones in the order in which they
    are given, so that an output which shows the same labels in the same order shows them in the same styles.
    """
    others = map(style, count(len(PLACES)))
    return {label: style(PLACES.index(label)) if label in PLACES else next(others) for label in dict.fromkeys(labels)}

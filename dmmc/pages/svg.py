"""Figures as a page shows them: the same SVG twice, in the colours of a light and of a dark page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1c2230"

# Of the light page's figures -> of the dark page's: the Okabe-Ito colours in brighter shades, and the ink.
DARK = {
    INK: "#e3e7ee",
    "#0072b2": "#5cb8f0",
    "#d55e00": "#ff8f4a",
    "#009e73": "#35cc9f",
    "#cc79a7": "#f0a3cb",
    "#e69f00": "#ffcb5c",
    "#56b4e9": "#c3e6ff",
    "#000000": "#ffffff",
    # White is the inside of open symbols, the page's own colour; the light grey is that of bands.
    "#ffffff": "#191d24",
    "#d9d9d9": "#3a414d",
    "#404040": "#c3c8d1",
}

HALF, FULL = 4.8, 9.6
"""Widths of figures in inches; two halves stand side by side."""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        name: identifies it in the page.
        light: data URI of the SVG for a light page.
        dark: the same for a dark one.
        width: natural width in pixels.
        height: natural height.
        full: whether it takes the width of the page, or stands beside another one.
        alt: what is to be seen, for those who do not see it.
        caption: how to read it.
    """

    name: str
    light: str
    dark: str
    width: int
    height: int
    full: bool
    alt: str
    caption: str


@contextmanager
def page_style() -> Iterator[None]:
    """Figures made within are transparent, their text is paths in the page's ink, and they are reproducible."""
    import matplotlib

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    style |= {"figure.facecolor": "none", "axes.facecolor": "none", "svg.fonttype": "path", "svg.hashsalt": "dmmc"}
    with matplotlib.rc_context(style):
        yield


def picture(
    name: str, figure: Figure, alt: str, caption: str, width: float = HALF, height: float | None = None
) -> Picture:
    """Fit a figure to the page, and draw it for a light and a dark one."""
    old_width, old_height = figure.get_size_inches()
    height = old_height * width / old_width if height is None else height
    figure.set_size_inches(width, height)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    dark = re.sub("#[0-9a-f]{6}", lambda match: DARK.get(match[0], match[0]), svg)

    def uri(text: str) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()

    return Picture(name, uri(svg), uri(dark), round(96 * width), round(96 * height), width > HALF, alt, caption)

"""An empty figure with its panels, and how a finished one is saved.

No global state of pyplot is touched, so that figures can be made without a display and inside other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmmc.core.errors import DmmcError
from dmmc.core.files import replace_file
from dmmc.pages.styles import Style

if TYPE_CHECKING:  # matplotlib is slow to load, and most of dmmc never draws
    from matplotlib.figure import Figure


def make_panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row; ``options`` are those of ``subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def points(style: Style) -> dict[str, Any]:
    """Options of ``errorbar`` for points without a line between them."""
    return {
        "color": style.colour, "marker": style.marker, "linestyle": "none", "markersize": 3.5, "elinewidth": 1
    }  # fmt: skip


def check_not_empty(data: Mapping[str, Any]) -> None:
    """Refuse to draw nothing.

    Raises:
        DmmcError: if ``data`` is empty.
    """
    if not data:
        raise DmmcError("there is nothing to draw: give at least one sampler")


def check_present(records: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuse records that lack one of ``names``.

    Raises:
        DmmcError: if there is no record, or one lacks an observable; the message says which.
    """
    check_not_empty(records)
    for name in names:
        missing = [sampler for sampler, record in records.items() if name not in record]
        if missing:
            raise DmmcError(f"the record of {', '.join(missing)} has no {name}")


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG of 150 dots per inch; it appears complete or not at all.

    Raises:
        DmmcError: if ``path`` does not end in ``.png``, or its directory does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DmmcError(f"figures are written as PNG, got {path}; let the name end in .png")
    if not path.parent.is_dir():
        raise DmmcError(f"there is no directory {path.parent}; make it first")
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))

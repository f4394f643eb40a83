"""Numbers and tables as people read them, on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dmmc.diagnostics import format_value


def number(value: float | None, error: float | None = None) -> str:
    """A number with its error, if that is known; a hyphen for a number that is not."""
    if value is None:
        return "-"
    return f"{value:.4g}" if error is None else format_value(value, error)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right, a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def html_table(rows: Sequence[tuple[str, ...]]) -> str:
    """The same table in HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

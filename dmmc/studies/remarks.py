"""What long work tells its user on the way."""

from __future__ import annotations

from collections.abc import Callable

from dmmc.core.progress import EVERY_SECONDS, duration, tell

Say = Callable[[str], None]
"""Takes a remark of one line."""


def note(text: str) -> None:
    """Print a remark on standard error, where it does not mix with results."""
    tell(text)


def announce(what: str, seconds: float, say: Say) -> None:
    """Say how long work will take, if it is long enough for anyone to wait for it.

    Args:
        what: what is about to be done, as the subject of a sentence.
        seconds: how long it will probably take.
        say: called with the remark, if there is one.
    """
    if seconds > EVERY_SECONDS:
        say(f"{what.capitalize()} will take about {duration(seconds)}.")

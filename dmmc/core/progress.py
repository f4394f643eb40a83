"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from tqdm import tqdm

EVERY_SECONDS = 30.0
"""Seconds between two lines where there is no terminal."""


def tell(text: str) -> None:
    """Print a line on standard error; that nobody can read it is no reason for the work to end."""
    if sys.stderr is None:
        return
    # A pipe that nobody reads, a full disk, a closed stream.
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


@contextmanager
def patience(text: str, after: float = 2.0) -> Iterator[None]:
    """Say what takes so long, if it does.

    Args:
        text: what is being done.
        after: seconds after which that is said.
    """
    timer = threading.Timer(after, tell, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def duration(seconds: float) -> str:
    """``"45 s"``, ``"3 min 20 s"`` or ``"2 h 5 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress(Protocol):
    """The receiver of the reports of long work."""

    def advance(self, amount: float, note: str = "") -> None:
        """Add what has been done since the last call; ``note`` is shown beside it, such as a present loss."""
        ...


class _Bar:
    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def advance(self, amount: float, note: str = "") -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)


class _Lines:
    """A line on standard error every :data:`EVERY_SECONDS`, with the share that is done and the time that is left."""

    def __init__(self, name: str, total: float, done: float) -> None:
        self._name, self._total, self._first, self._done = name, total, done, done
        self._began = self._last = time.monotonic()
        self._announced = False

    def advance(self, amount: float, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if self._done <= self._first:
            return
        left = (now - self._began) * (self._total - self._done) / (self._done - self._first)
        # The first line comes as soon as the duration can be estimated, unless the work is short.
        due = now - self._last >= EVERY_SECONDS or (not self._announced and left > EVERY_SECONDS)
        if not due:
            return
        self._last, self._announced = now, True
        text = f"{self._name}: {100 * self._done / self._total:.0f} %, about {duration(max(left, 0))} left"
        tell(f"{text}; {note}" if note else text)


class _Silent:
    def advance(self, amount: float, note: str = "") -> None:
        pass


@contextmanager
def progress(name: str, total: float, *, done: float = 0.0, unit: str = "it", show: bool = True) -> Iterator[Progress]:
    """Report the progress of long work.

    Args:
        name: what is being done, in a word.
        total: how much there is to do, in any unit.
        done: how much of it was done earlier, where a run is resumed.
        unit: the unit of ``total``, as the bar shows it.
        show: whether to report anything.
    """
    if not show:
        yield _Silent()
    elif sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty():
        yield _Lines(name, total, done)
    else:
        form = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
        with tqdm(total=total, initial=done, desc=name, unit=unit, bar_format=form) as bar:
            yield _Bar(bar)

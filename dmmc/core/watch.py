"""Waiting for another process without losing time to being woken up."""

from __future__ import annotations

import select
import time
from typing import IO

AWAKE = 1e-3
"""Seconds to stay awake. Waking up takes tens of microseconds, which matter little in a wait that is longer."""

INTERRUPTED = 1e-4
"""Seconds between two looks that show that something else has used the core in between."""

REST = 256
"""Waits that are spent asleep once staying awake does not pay; fewer after a wait that was merely too long."""


class Watch:
    """Waits until there is something to read in a file, such as a pipe: awake at first, and then asleep.

    A process that sleeps while it waits has to be woken up, which takes tens of microseconds on an idle core. One that
    stays awake and looks again and again is there at once, but keeps its core from others. A watch stays awake for
    ``AWAKE`` seconds at most. If others turn out to want the core, it spends the next ``REST`` waits asleep. If there
    still is nothing to read, it sleeps in the next wait; if that happens again, in the next three, seven, and so on, up
    to ``REST``.

    Args:
        file: where something to read is expected.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._poll, self._rest, self._late = select.poll(), 0, 0
        self._poll.register(file, select.POLLIN)

    def wait(self, until: float) -> bool:
        """Whether there is something to read, or the end of the file, before ``until`` on :func:`time.monotonic`."""
        began = now = time.monotonic()
        ready = False
        if self._rest:
            self._rest -= 1
        else:
            while not ready and not self._rest and now < until:
                ready = bool(self._poll.poll(0))
                before, now = now, time.monotonic()
                if now - before > INTERRUPTED:
                    self._rest = REST
                elif ready:
                    self._late = 0
                elif now - began > AWAKE:
                    self._rest = self._late = min(2 * self._late + 1, REST)
        return ready or bool(self._poll.poll(max(0.0, 1000 * (until - now))))

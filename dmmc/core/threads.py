"""How the threads of an arithmetic library wait for each other."""

from __future__ import annotations

import os

SPIN_COUNT = "1000"
"""Turns of a waiting loop. This is what GNU OpenMP itself takes where it knows that there are too few cores."""


def sleep_soon() -> None:
    """Let the threads of GNU OpenMP, which torch uses on Linux, sleep soon while they wait for each other.

    By default they keep their cores busy for milliseconds, which pays only while nothing else wants to run. Beside two
    other processes on two cores, training with two threads took 70 times as long as with one; with this 3 times. What
    the user has set stands. It has no effect after torch was imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

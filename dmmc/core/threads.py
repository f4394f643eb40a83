"""How many threads of an arithmetic library work together, and how they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_COUNT = "1000"
"""Turns of a waiting loop. This is what GNU OpenMP itself takes where it knows that there are too few cores."""

WORTH_THREADS = 1 << 15
"""Numbers in an array from which on more than one thread pays."""


def sleep_soon() -> None:
    """Let the threads of GNU OpenMP, which torch uses on Linux, sleep soon while they wait for each other.

    By default they keep their cores busy for milliseconds, which pays only while nothing else wants to run. Beside two
    other processes on two cores, training with two threads took 70 times as long as with one; with this 3 times. What
    the user has set stands. It has no effect after torch was imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Let torch use a single thread within this context where its arrays are small.

    Threads would spend more time on waiting for each other than on arithmetic, and much more on a busy machine.

    Args:
        numbers: how many numbers the typical array has.
    """
    import torch

    before = torch.get_num_threads()
    if numbers < WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Locks between processes: one writer for each file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmmc.core.errors import FileError


def take_lock(path: Path, work: str) -> int:
    """Take a lock for this process; the operating system gives it back when the process ends, however it ends.

    Args:
        path: the lock file; it is made if need be. Whoever is done removes it, and then closes the descriptor.
        work: what is locked, for the message.

    Returns:
        the file descriptor that holds the lock.

    Raises:
        FileError: if another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # the umask takes away from this
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous owner may have finished, and removed this very file, between our open and our lock.
        if not path.exists() or os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise BlockingIOError
    except BlockingIOError:
        os.close(descriptor)
        raise FileError(f"{work} is being written by another process; wait for it, or choose another --out") from None
    return descriptor


@contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """Hold the lock :func:`take_lock` of a file while something is done, and remove the file in the end.

    Raises:
        FileError: if another process has it.
    """
    descriptor = take_lock(path, work)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)

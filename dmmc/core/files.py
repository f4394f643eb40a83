"""Files that appear complete or not at all, places that can be written to, and locks between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dmmc.core.errors import FileError


def check_place(path: Path) -> None:
    """Refuse a place for a file or a folder where nothing can be written, before any work is done.

    Raises:
        FileError: if the nearest folder above ``path`` that exists cannot be written to.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise FileError(f"{path}: {folder} is not a directory that can be written to; choose another place")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it to the disk, and give it its final name.

    Args:
        path: the final name; an earlier file of that name is replaced.
        write: writes a file of the name that it is given. If it fails, an earlier file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

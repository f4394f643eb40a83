"""Files that appear complete or not at all, replace nothing but files, and lie where something can be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
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


def target(path: Path) -> Path:
    """The path itself, or what a symbolic link points to, whether there is anything yet or not."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def beside(path: Path, suffix: str) -> Path:
    """The path of something that lies beside a file and bears its name with a suffix; where ``path`` is a symbolic
    link, beside its target.

    Raises:
        FileError: if ``path`` is a directory, such as ``.``, which need not have a name.
    """
    real = target(path)
    if real.is_dir():
        raise FileError(f"{path} is a directory; name a file in it")
    return real.with_name(f"{real.name}{suffix}")


def replaceable(path: Path) -> Path:
    """The file that is written in the place of ``path``: its :func:`target`.

    Raises:
        FileError: if there is a directory, a pipe, a device or anything else that is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # nothing is there, or a link to nothing
        return target(path)
    except OSError as error:
        raise FileError(f"{path} cannot be reached: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise FileError(f"{path} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise FileError(f"{path} is not a regular file, and is not replaced; choose another name")
    return target(path)


def replace_file(path: Path, write: Callable[[Path], object], folder: Path | None = None) -> None:
    """Write a file under a temporary name, flush it to the disk, and give it its final name.

    When this returns, the file survives even a loss of power.

    Args:
        path: the final name; an earlier regular file of that name is replaced, and so is the target of a link.
        write: writes the file of the name that it is given, which exists and is empty. If it fails, an earlier file
            stays as it was.
        folder: where the temporary file lies, on the same file system; by default beside the final one.

    Raises:
        FileError: if something is in the way that is not a regular file.
        OSError: if the disk is full, or fails otherwise; the message names the file.
    """
    path = replaceable(path)
    temporary = (path.parent if folder is None else folder) / f".{path.name}.tmp"
    try:
        if stat.S_ISREG(temporary.lstat().st_mode):
            temporary.unlink()  # what an interruption has left
    except FileNotFoundError:
        pass
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # the umask takes away from this
    except FileExistsError:
        raise FileError(f"{temporary} is not a regular file, and is in the way; move it away") from None
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        # The new name is flushed too, before anything that the file makes superfluous is removed.
        sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The format of run files: its name, its version, and headers of any version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmmc.core.errors import DmmcError, FileError
from dmmc.runs import format1
from dmmc.runs.header import RunHeader

FORMAT = "dmmc-run"
FORMAT_VERSION = 2


def check_version(version: Any, path: Path) -> int:
    """The format version of a file, if this dmmc can read it.

    Raises:
        FileError: if it is none, or that of a newer dmmc.
    """
    try:
        number = int(version)
    except (TypeError, ValueError):
        raise FileError(f"{path} is damaged: its format version is {version!r}; restore it from a copy") from None
    if number < 1:
        raise FileError(f"{path} is damaged: there is no format version {number}; restore it from a copy")
    if number > FORMAT_VERSION:
        raise FileError(f"{path} has format version {number}, this dmmc reads up to {FORMAT_VERSION}; update dmmc")
    return number


def parse_header(data: Any, version: int, path: Path) -> RunHeader:
    """The header of a run file of any version.

    Raises:
        FileError: if it is not the header of a run.
    """
    try:
        return format1.header(data) if version == format1.VERSION else RunHeader.from_json(data)
    except (DmmcError, AttributeError) as error:
        raise FileError(f"the header of {path} is not that of a dmmc run: {error}") from None

"""The manifest of a journal: which run it belongs to, and from where it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.core.errors import DmmcError, FileError
from dmmc.runs import format1
from dmmc.runs.header import RunHeader

FORMAT = "dmmc-run"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds.

    Attributes:
        run_id: identifies the run through all its extensions.
        header: what the run is.
        base_blocks: blocks in the finished file that the journal extends; 0 for a new run.
        base_draws: draws in that file.
        format_version: version of the layout in which it was written.
    """

    run_id: str
    header: RunHeader
    base_blocks: int = 0
    base_draws: int = 0
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        return {
            "format": FORMAT,
            "format_version": self.format_version,
            "run_id": self.run_id,
            "header": self.header.to_json(),
            "base_blocks": self.base_blocks,
            "base_draws": self.base_draws,
        }

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest of any version.

        Raises:
            FileError: if it cannot be read.
        """
        try:
            data = json.loads(path.read_text())
            version = check_format(data.get("format"), data["format_version"], path)
            return cls(
                run_id=data["run_id"],
                header=parse_header(data["header"], version, path),
                base_blocks=data["base_blocks"],
                base_draws=data["base_draws"],
                format_version=version,
            )
        except FileError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path} is damaged: {error}") from None


def check_format(name: object, version: Any, path: Path) -> int:
    """The format version of a file, if this dmmc can read it.

    Raises:
        FileError: if the file is not a run, or a newer dmmc wrote it.
    """
    if name != FORMAT:
        raise FileError(
            f"{path} is an HDF5 file, but not a dmmc run (no attribute format = {FORMAT!r}); "
            "foreign configurations are read if they are in a dataset /cfgs, N x lattice"
        )
    if int(version) > FORMAT_VERSION:
        raise FileError(f"{path} has format version {version}, this dmmc reads up to {FORMAT_VERSION}; update dmmc")
    return int(version)


def parse_header(data: Any, version: int, path: Path) -> RunHeader:
    """The header of a run file of any version.

    Raises:
        FileError: if it is not the header of a run.
    """
    try:
        return format1.header(data) if version == format1.VERSION else RunHeader.from_json(data)
    except (DmmcError, AttributeError) as error:
        raise FileError(f"the header of {path} is not that of a dmmc run: {error}") from None

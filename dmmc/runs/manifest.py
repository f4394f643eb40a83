"""The manifest of a journal: which run it belongs to, and from where it goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.core.errors import FileError
from dmmc.runs.format import FORMAT, FORMAT_VERSION, check_version, parse_header
from dmmc.runs.header import RunHeader


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
        """The manifest as a JSON object, with the SHA-256 of everything else in it."""
        data = {
            "format": FORMAT,
            "format_version": self.format_version,
            "run_id": self.run_id,
            "header": self.header.to_json(),
            "base_blocks": self.base_blocks,
            "base_draws": self.base_draws,
        }
        return data | {"sha256": _checksum(data)}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest of any version.

        Raises:
            FileError: if it cannot be read, is damaged, or belongs to something else than a run.
        """
        afresh = f"restore it, or remove {path.parent} to start afresh"
        try:
            data = json.loads(path.read_text())
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            what = "is damaged" if path.stat().st_size else "is empty"
            raise FileError(f"{path} {what}; {afresh} [{error}]") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise FileError(f"{path} is not the manifest of a dmmc run (its format is not {FORMAT!r}); {afresh}")
        try:
            version = check_version(data["format_version"], path)
            # Those of version 1 have none; their runs are not resumed.
            if version > 1 and data.pop("sha256") != _checksum(data):
                raise FileError(f"{path} is damaged (SHA-256 mismatch); {afresh}")
            return cls(
                run_id=str(data["run_id"]),
                header=parse_header(data["header"], version, path),
                base_blocks=int(data["base_blocks"]),
                base_draws=int(data["base_draws"]),
                format_version=version,
            )
        except FileError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"{path} is damaged; {afresh} [{type(error).__name__}: {error}]") from None


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

"""The summary of what a command has made: printed, and written to the file of ``--json``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dmmc.core.errors import FileError
from dmmc.core.files import check_place, replaceable

if TYPE_CHECKING:  # modules that are slow to import, which not every command needs
    from dmmc.runs.run import StoredRun
    from dmmc.runs.summary_records import RunSummary


def print_summary(run: StoredRun, reference: Path | None = None) -> RunSummary:
    """Print the summary of a finished run, with the table beside its reference if that is a run, and return it."""
    from dmmc.runs.summary import summarise
    from dmmc.studies.comparison import beside_reference

    summary = summarise(run)
    table = "" if reference is None else beside_reference(run, reference)
    print(f"{table}\n\n{summary}" if table else summary)
    return summary


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that asks for a summary."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary to this file")


def check_json(args: argparse.Namespace) -> None:
    """Refuse a summary file that cannot be written, or would replace anything but an earlier summary.

    Raises:
        FileError: if it is one.
    """
    path = args.json
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise FileError(f"--json {path}: there is no directory {path.parent}; make it first")
    replaceable(path)
    if "out" in args and path.absolute() == args.out.absolute():
        raise FileError(f"--json {path} is the --out of this command too; choose another --json")
    check_place(path)
    if not path.exists():
        return
    if not (args.overwrite or getattr(args, "resume", False)):
        raise FileError(f"--json {path} exists; choose another --json, or pass --overwrite")
    if not _is_summary(path):
        raise FileError(f"--json {path} exists and is not an earlier summary; choose another --json")


def _is_summary(path: Path) -> bool:
    """Whether a file holds a JSON object, and neither the plan nor the result of a study, which say what they are."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and not {"format", "kind"} & content.keys()

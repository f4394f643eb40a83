"""A folder of results that is made step by step: what a long command keeps in one, and how it finds it again.

``plan.json`` says what the folder is for. Each step has a file of its own, so that what is finished is read, not
computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.core.errors import FileError, MismatchError
from dmmc.core.files import replace_file

PLAN = "plan.json"
LONG = 100
"""Characters from which on a setting is not written out in messages."""


def open_folder(
    out: Path, plan: dict[str, Any], what: str, resume: bool, overwrite: bool, remove: Callable[[dict[str, Any]], None]
) -> None:
    """Make a folder ready for a plan, or refuse.

    Args:
        out: the folder.
        plan: JSON-ready; compared on resumption.
        what: of what there is a plan, for messages.
        resume: go on with the same plan.
        overwrite: remove the files of an earlier plan.
        remove: does that, given the earlier plan.

    Raises:
        FileError: if there is a plan, without ``resume`` or ``overwrite``, or none to resume, or it is damaged.
        MismatchError: if the plan to be resumed is another one; the message names what differs.
    """
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file; {what} needs a folder")
    path = out / PLAN
    stored: Any = None
    if path.exists():
        with suppress(ValueError):
            stored = json.loads(path.read_text())
        if not isinstance(stored, dict) or not plan.keys() & stored.keys():
            raise FileError(f"{path} is damaged; remove {out}, or restore that file")
    if resume:
        if stored is None:
            raise FileError(f"there is no {what} to resume in {out}; start it without --resume")
        given = json.loads(json.dumps(plan))
        differing = []
        for key in sorted(stored.keys() | given.keys()):
            pair = stored.get(key), given.get(key)
            if pair[0] != pair[1]:
                long = max(map(len, map(str, pair))) > LONG
                differing.append(f"{key} differ" if long else f"{key} is {pair[0]} there and {pair[1]} here")
        if differing:
            raise MismatchError(
                f"{out} holds another {what}: {'; '.join(differing)}; use the same options or another --out"
            )
        return
    if stored is not None:
        if not overwrite:
            raise FileError(f"{out} holds a {what}; go on with --resume, choose another --out, or pass --overwrite")
        remove(stored)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(plan, indent=2) + "\n"))


@dataclass(frozen=True)
class Result:
    """The file that says what a finished folder holds.

    Attributes:
        file: its name.
        format: what stands in it as ``format``.
        what: of what it is the result, for messages.
    """

    file: str
    format: str
    what: str

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` is such a file, or a folder with one."""
        return path.name == self.file or (path / self.file).exists()


def load_result(path: str | Path, result: Result) -> dict[str, Any]:
    """The content of a result, from its folder or the file itself.

    Raises:
        FileError: if there is none.
    """
    path = Path(path)
    path = path / result.file if path.is_dir() else path
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is not the result of a finished {result.what} [{error}]") from None
    if not isinstance(summary, dict) or summary.get("format") != result.format:
        raise FileError(f"{path} is not the result of a {result.what}")
    return summary


def begun(path: Path) -> bool:
    """Whether there is a run at ``path``, finished or not."""
    return path.exists() or (path.with_name(f"{path.name}.partial") / "manifest.json").exists()


def remove_run(path: Path) -> None:
    """Remove a run or a model, with what an interruption may have left of it."""
    partial = path.with_name(f"{path.name}.partial")
    for file in (path, path.with_name(f"{path.name}.checkpoint"), *partial.glob("*")):
        file.unlink(missing_ok=True)
    if partial.exists():
        partial.rmdir()

"""Folders of results: what a long command keeps in one, and how it finds its way when it is resumed.

``plan.json`` says what the folder is for. Every step has a file of its own, so that what is finished is read and not
computed again, and a last file holds the result of it all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.files import replace_file
from dmmc.core.records import Record
from dmmc.runs.names import journal_of, manifest_path

PLAN = "plan.json"

LONG = 100
"""Settings that take more characters than this are not written out in messages."""

R = TypeVar("R", bound=Record)


def open_folder(
    out: Path, plan: dict[str, Any], what: str, resume: bool, overwrite: bool, remove: Callable[[dict[str, Any]], None]
) -> None:
    """Make a folder ready for a plan, or refuse to.

    Args:
        out: the folder.
        plan: JSON-ready settings, which are compared when the folder is resumed.
        what: what there is a plan of, such as "scan", for messages.
        resume: go on with the plan that the folder holds, which must be the same.
        overwrite: remove the files of an earlier plan.
        remove: removes these files, given the earlier plan.

    Raises:
        FileError: if the folder holds a plan and neither ``resume`` nor ``overwrite`` is set, there is none to resume,
            or ``plan.json`` is damaged.
        MismatchError: if the plan to be resumed is another one; the message names what differs.
    """
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file; a {what} needs a folder, so choose another --out")
    path = out / PLAN
    stored = _stored_plan(path, plan)
    if resume:
        if stored is None:
            raise FileError(f"there is no {what} to resume in {out}; start it without --resume")
        _check_same(stored, json.loads(json.dumps(plan)), out, what)
        return
    if stored is not None:
        if not overwrite:
            raise FileError(f"{out} holds a {what}; go on with --resume, choose another --out, or pass --overwrite")
        remove(stored)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(plan, indent=2) + "\n"))


def _stored_plan(path: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The plan in the file ``path``; None if there is no such file. It must share a setting with ``plan``."""
    if not path.exists():
        return None
    stored: Any = None
    with suppress(ValueError):
        stored = json.loads(path.read_text())
    if not isinstance(stored, dict) or not plan.keys() & stored.keys():
        raise FileError(f"{path} is damaged; remove {path.parent}, or restore that file")
    return stored


def _check_same(stored: dict[str, Any], given: dict[str, Any], out: Path, what: str) -> None:
    differing = []
    for key in sorted(stored.keys() | given.keys()):
        pair = stored.get(key), given.get(key)
        if pair[0] != pair[1]:
            is_long = max(map(len, map(str, pair))) > LONG
            differing.append(f"{key} differ" if is_long else f"{key} is {pair[0]} there and {pair[1]} here")
    if differing:
        raise MismatchError(
            f"{out} holds another {what}: {'; '.join(differing)}; use the same options or another --out"
        )


@dataclass(frozen=True)
class Result(Generic[R]):
    """The file with the result of a finished folder: a typed record as JSON.

    Attributes:
        file: its name, such as ``scan.json``.
        format: what its entry ``format`` says, so that it is told from other JSON files.
        what: what it is the result of, such as "scan", for messages.
        kind: the type of the record.
    """

    file: str
    format: str
    what: str
    kind: type[R]

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` is such a file, or a folder that holds one."""
        return path.name == self.file or (path / self.file).exists()

    def write(self, folder: Path, record: R) -> Path:
        """Write the file, complete or not at all, and return its path."""
        path = folder / self.file
        text = json.dumps({"format": self.format, **record.to_json()}, indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
        return path

    def read(self, path: str | Path) -> R:
        """The record in a folder, or in the file itself.

        Raises:
            FileError: if there is no such file, or it is damaged or of another kind.
        """
        path = Path(path)
        path = path / self.file if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"{path} is not the result of a finished {self.what} [{error}]") from None
        if not isinstance(content, dict) or content.get("format") != self.format:
            raise FileError(f"{path} is not the result of a {self.what}")
        try:
            return self.kind.from_json(content)
        except DmmcError as error:
            raise FileError(f"{path} cannot be read: {error}; run the {self.what} again with --resume") from None


def begun(path: Path) -> bool:
    """Whether there is a run at ``path``, finished or not."""
    return path.exists() or manifest_path(journal_of(path)).exists()


def remove_run(path: Path) -> None:
    """Remove a run or a model, with what an interruption may have left of it."""
    journal = journal_of(path)
    for file in (path, path.with_name(f"{path.name}.checkpoint"), *journal.glob("*")):
        file.unlink(missing_ok=True)
    if journal.exists():
        journal.rmdir()

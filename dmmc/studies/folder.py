"""Folders of results: what a long command keeps in one, and how it finds its way when it is resumed.

``plan.json`` says what the folder is for. Every step has a file of its own, so that what is finished is read and not
computed again, and a last file holds the result of it all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.files import check_place, replace_file
from dmmc.core.records import Record
from dmmc.runs.names import journal_of
from dmmc.studies.remarks import Say, note
from dmmc.studies.resumption import check_choice, checkpoint_of, say_whether, training_lock

PLAN = "plan.json"

LONG = 100
"""Settings that take more characters than this are not written out in messages."""

R = TypeVar("R", bound=Record)


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


@dataclass(frozen=True)
class Folder:
    """A folder for the results of a study.

    Attributes:
        path: where it is, or will be.
        what: what kind of study it is for, such as "scan"; ``plan.json`` says so, and so do messages.
        plan: JSON-ready settings, which are compared when the folder is resumed.
        files: the names of all files that a study with the given plan writes, relative to the folder.
    """

    path: Path
    what: str
    plan: Mapping[str, Any]
    files: Callable[[Mapping[str, Any]], Iterable[str]]

    def check(self, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Refuse a folder that is not for this plan, before any work is done; returns the plan that it holds.

        Args:
            resume: whether to go on with the plan that the folder holds, which must be the same.
            overwrite: whether the files of an earlier plan, or others in the way, may be replaced.

        Raises:
            FileError: if the folder holds a plan and neither ``resume`` nor ``overwrite`` is set, files of others are
                in the way, the plan is one of another kind of study or damaged, or nothing can be written there.
            MismatchError: if the plan to be resumed is another one; the message names what differs.
            DmmcError: if the folder is to be resumed and to be overwritten.
        """
        check_choice(resume, overwrite)
        stored = stored_plan(self.path)
        check_free(self.path, self.what, () if stored else self.files(self.plan), overwrite)
        if stored is None:
            return None
        kind = stored.get("kind")
        if kind != self.what:
            raise FileError(f"{self.path} holds a {kind}, not a {self.what}; choose another --out")
        if resume:
            self._check_same(stored)
        elif not overwrite:
            raise FileError(
                f"{self.path} holds a {self.what}; go on with --resume, choose another --out, or pass --overwrite"
            )
        return stored

    def open(self, resume: bool, overwrite: bool, say: Say = note) -> None:
        """Make the folder ready for the plan, or refuse to; where there is nothing to resume, it begins afresh.

        Args:
            resume: as for :meth:`check`.
            overwrite: as for :meth:`check`; the files of an earlier plan are removed.
            say: is told whether a study that is to be resumed goes on or begins afresh.

        Raises:
            DmmcError: as :meth:`check`.
        """
        stored = self.check(resume, overwrite)
        if resume and say_whether(stored is not None, self.path, say):
            return
        if overwrite:
            for plan in (self.plan, stored or {}):
                remove(self.path, self.files(plan))
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"kind": self.what, **self.plan}, indent=2) + "\n"
        replace_file(self.path / PLAN, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _check_same(self, stored: Mapping[str, Any]) -> None:
        given = json.loads(json.dumps({"kind": self.what, **self.plan}))
        differing = []
        for key in sorted(stored.keys() | given.keys()):
            pair = stored.get(key), given.get(key)
            if pair[0] != pair[1]:
                is_long = max(map(len, map(str, pair))) > LONG
                differing.append(f"{key} differ" if is_long else f"{key} is {pair[0]} there and {pair[1]} here")
        if differing:
            raise MismatchError(
                f"{self.path} holds another {self.what}: {'; '.join(differing)}; use the same options, another --out, "
                "or --overwrite alone"
            )


def stored_plan(folder: Path) -> dict[str, Any] | None:
    """The plan that a folder holds; None if there is none. Its entry ``kind`` says of what it is the plan.

    Raises:
        FileError: if ``plan.json`` is damaged, or was not written by a study of this package.
    """
    path = folder / PLAN
    if not path.exists():
        return None
    stored: Any = None
    with suppress(ValueError):
        stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or not isinstance(stored.get("kind"), str):
        raise FileError(f"{path} is damaged, or is no plan of a study; restore it, or choose another --out")
    return stored


def check_free(folder: Path, what: str, names: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder in which the named files cannot be written, or would replace others.

    Args:
        folder: the folder, which need not exist.
        what: what would be written there, such as "scan", for messages.
        names: the files, relative to the folder.
        overwrite: whether they may replace others.

    Raises:
        FileError: if it is such a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise FileError(f"{folder} is a file; a {what} needs a folder, so choose another --out")
    check_place(folder / PLAN)
    in_the_way = () if overwrite else present(folder, names)
    if in_the_way:
        raise FileError(
            f"{folder} holds {', '.join(in_the_way)}, which this {what} would replace; choose another --out, or pass "
            "--overwrite"
        )


def present(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the named files of a folder of which there is anything, finished or not."""
    return [name for name in names if any(map(Path.exists, _parts(folder / name)))]


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove the named files of a folder, with all that an interruption may have left of them, and nothing else."""
    for name in names:
        file, journal, *others = _parts(folder / name)
        for path in (file, *others, *journal.glob("*")):
            path.unlink(missing_ok=True)
        for emptied in (journal, file.parent):
            if emptied != folder:
                with suppress(OSError):  # it does not exist, or holds files of others
                    emptied.rmdir()


def _parts(path: Path) -> tuple[Path, ...]:
    """A file, and what there may be of it while it is made: the journal of a run, the checkpoint of a training."""
    return path, journal_of(path), checkpoint_of(path), training_lock(path)

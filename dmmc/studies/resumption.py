"""What to do with earlier work at the same place: go on with it, begin afresh, or refuse."""

from __future__ import annotations

from pathlib import Path

import torch

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import beside, check_place, replaceable
from dmmc.model.checkpoint import threads_of
from dmmc.runs.names import is_begun, journal_of, manifest_path
from dmmc.runs.run import begun_header
from dmmc.studies.remarks import Say


def check_choice(resume: bool, overwrite: bool) -> None:
    """Refuse to go on with earlier work and to replace it at once.

    Raises:
        DmmcError: if both are asked for.
    """
    if resume and overwrite:
        raise DmmcError("resume goes on with earlier work, and overwrite replaces it; give one of them, not both")


def say_whether(begun: bool, what: Path, say: Say) -> bool:
    """Say whether work that is to be resumed goes on or begins afresh, and return it."""
    say(f"going on with {what}" if begun else f"nothing of {what} was saved yet: starting afresh")
    return begun


def resumes_run(path: Path, asked: bool, overwrite: bool, say: Say) -> bool:
    """Whether a run goes on; if that was asked for, says whether it does.

    Args:
        path: the file of the run.
        asked: whether the user wants it to go on.
        overwrite: whether an earlier run may be replaced.
        say: called with a remark on whether the run goes on.

    Raises:
        FileError: if an earlier run is in the way, or something that is not a file, or nothing can be written there, so
            that this is noticed before any work is done.
        DmmcError: if it is to go on and to be replaced.
    """
    check_choice(asked, overwrite)
    check_place(path)
    replaceable(path)
    if asked:
        begun = say_whether(is_begun(path), path, say)
        if begun:
            say_threads(path, say)
        return begun
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists; choose another --out, extend it with --resume, or pass --overwrite")
    if manifest_path(journal_of(path)).exists() and not overwrite:
        raise FileError(
            f"{journal_of(path)} holds an unfinished run; choose another --out, finish it with --resume, or pass "
            "--overwrite"
        )
    return False


def say_threads(path: Path, say: Say) -> None:
    """Say so if the run or the training of ``path`` was begun with another number of CPU threads than there are now."""
    threads, before = torch.get_num_threads(), recorded_threads(path)
    if before not in (None, threads):
        say(
            f"note: it was begun with {before} CPU threads, and goes on with {threads}: sums are rounded differently, "
            "so that the result will not be that of uninterrupted work bit for bit"
        )


def recorded_threads(path: Path) -> int | None:
    """The number of CPU threads of the run or the training that is to be resumed; None if it was not recorded.

    Raises:
        FileError: if what was saved of it is damaged.
    """
    if path.is_dir():  # of a study
        return None
    for checkpoint in (checkpoint_of(path), checkpoint_of(round_of(path))):
        if checkpoint.exists():
            return threads_of(checkpoint) or None
    header = begun_header(path)
    return None if header is None or not header.threads else header.threads


def checkpoint_of(path: Path) -> Path:
    """The file with the state of the unfinished training of a model; like the journal of a run, beside the file itself,
    also where ``path`` is a symbolic link."""
    return beside(path, ".checkpoint")


def round_of(path: Path) -> Path:
    """The file with the model after the last finished round of an unfinished training in rounds; its own checkpoint is
    that of the round at work."""
    return beside(path, ".round")


def unfinished_training(path: Path) -> list[Path]:
    """The files that an unfinished training of a model has left, in rounds or not."""
    state = round_of(path)
    return [file for file in (checkpoint_of(path), checkpoint_of(state), state) if file.exists()]


def training_lock(path: Path) -> Path:
    """The file that a process holds while it trains a model, beside the model itself."""
    return beside(path, ".lock")


def check_training(path: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a training that cannot be begun or resumed, before any work is done.

    Args:
        path: the model file.
        resume: whether the user wants an unfinished training to go on.
        overwrite: whether an earlier model may be replaced.

    Raises:
        FileError: if an earlier model or training is in the way, the training that is to be resumed is finished, or
            nothing can be written there.
        DmmcError: if it is to go on and to be replaced.
    """
    check_choice(resume, overwrite)
    check_place(path)
    replaceable(path)
    unfinished = unfinished_training(path)
    if resume and path.exists() and not unfinished:
        raise FileError(
            f"{path} is finished, there is nothing to resume; to train on, start from it (--init {path}) with another "
            "--out, and to replace it, pass --overwrite"
        )
    if resume or overwrite:
        return
    if path.exists():
        raise FileError(f"{path} exists; choose another --out, or pass --overwrite")
    if unfinished:
        raise FileError(
            f"{unfinished[0]} holds an unfinished training; choose another --out, finish it with --resume, or pass "
            "--overwrite"
        )

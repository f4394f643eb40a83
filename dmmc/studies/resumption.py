"""What to do with earlier work at the same place: go on with it, begin afresh, or refuse."""

from __future__ import annotations

from pathlib import Path

import torch

from dmmc.core.errors import FileError
from dmmc.core.files import replaceable
from dmmc.runs.names import is_begun, journal_of, manifest_path
from dmmc.runs.run import begun_header
from dmmc.studies.remarks import Say


def resumes_run(path: Path, asked: bool, overwrite: bool, say: Say) -> bool:
    """Whether a run goes on; if that was asked for, says whether it does.

    Args:
        path: the file of the run.
        asked: whether the user wants it to go on.
        overwrite: whether an earlier run may be replaced.
        say: is told.

    Raises:
        FileError: if an earlier run is in the way, or something that is not a file, so that this is noticed before any
            work is done.
    """
    replaceable(path)
    if not asked:
        if path.exists() and not overwrite:
            raise FileError(f"{path} exists; choose another --out, extend it with --resume, or pass --overwrite")
        if manifest_path(journal_of(path)).exists() and not overwrite:
            raise FileError(
                f"{journal_of(path)} holds an unfinished run; choose another --out, finish it with --resume, or pass "
                "--overwrite"
            )
        return False
    begun = is_begun(path)
    say(f"going on with {path}" if begun else f"nothing of {path} was saved yet: starting afresh")
    threads, before = torch.get_num_threads(), recorded_threads(path) if begun else None
    if before not in (None, threads):
        say(
            f"note: the run was begun with {before} CPU threads, and goes on with {threads}: sums are rounded "
            "differently, so that it will not be the uninterrupted run bit for bit"
        )
    return begun


def recorded_threads(path: Path) -> int | None:
    """The number of CPU threads of the run that is to be resumed; None if it was not recorded."""
    header = begun_header(path)
    return None if header is None or not header.threads else header.threads


def resumes_training(path: Path, checkpoint: Path, asked: bool, overwrite: bool, say: Say) -> bool:
    """Whether a training goes on; if that was asked for, says whether it does.

    Args:
        path: the model file.
        checkpoint: the file with the state of an unfinished training.
        asked: whether the user wants it to go on.
        overwrite: whether a finished model may be replaced.
        say: is told.

    Raises:
        FileError: if the training is finished.
    """
    if not asked:
        return False
    begun = checkpoint.exists()
    if path.exists() and not begun and not overwrite:
        raise FileError(f"{path} is finished, there is nothing to resume; to train on, start from it (--init {path})")
    say(f"going on from {checkpoint}" if begun else f"nothing of {path} was saved yet: starting afresh")
    return begun

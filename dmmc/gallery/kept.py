"""Parts of an exhibit that take long: read where they are finished, gone on with where they were interrupted."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import FileError
from dmmc.core.files import replace_file
from dmmc.core.progress import progress
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.runs.names import is_begun
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.resumption import checkpoint_of


def kept_run(path: Path, make: Callable[[bool], object]) -> StoredRun:
    """The run in a file.

    Args:
        path: the HDF5 file.
        make: makes the file, such as :func:`dmmc.studies.ensemble.make_ensemble`; called only if the run is not
            finished, with whether it was begun, which is the ``resume`` of functions that make runs.

    Raises:
        FileError: if the file is damaged.
        MismatchError: if the run was begun with other options.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(is_begun(path))
    return load_run(path)


def kept_model(path: Path, make: Callable[[bool], object], device: str = "cpu") -> DiffusionModel:
    """The model in a file.

    Args:
        path: the model file.
        make: makes the file, such as :func:`dmmc.studies.training.train`; called only if the training is not finished,
            with whether there is a checkpoint to go on from, which is the ``resume`` of functions that train.
        device: where to put the model.

    Raises:
        FileError: if the file is damaged.
        MismatchError: if the checkpoint belongs to another training.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(checkpoint_of(path).exists())
    return DiffusionModel.load(path, device=device)


def kept_arrays(path: Path, pieces: int, make: Callable[[int], Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Arrays that are made in pieces, each of which is kept as soon as it is made.

    Args:
        path: the ``.npz`` file.
        pieces: number of pieces.
        make: called with the number of a piece, whose random numbers must depend on this number alone; returns arrays
            by name, whose first axes are joined.

    Raises:
        FileError: if the file is damaged.
    """
    kept: dict[str, NDArray[Any]] = {}
    if path.exists():
        try:
            with np.load(path) as file:
                kept = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise FileError(f"{path} is damaged [{error}]; remove it") from None
    done = int(kept.pop(_DONE, 0))
    with progress(path.stem, pieces, done=done) as bar:
        for piece in range(done, pieces):
            new = {name: np.asarray(values) for name, values in make(piece).items()}
            kept = {name: np.concatenate([kept[name], new[name]]) if kept else new[name] for name in new}
            _write(path, kept | {_DONE: np.array(piece + 1)})
            bar.advance(1)
    return kept


_DONE = "pieces_done"


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stubs take allow_pickle for any keyword

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)

"""Parts of an exhibit that take long: read where they are finished, gone on with where they were interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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

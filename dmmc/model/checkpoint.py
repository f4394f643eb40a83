"""Checkpoints: the file from which an interrupted training goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.records import Record
from dmmc.core.scalars import check_count
from dmmc.model.file import TensorFile, read_tensors, write_tensors
from dmmc.model.history import TrainingRecord
from dmmc.model.trainer import Trainer

FORMAT = "dmmc-training"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class CheckpointHeader(Record):
    """The contents of a checkpoint beside its tensors.

    Attributes:
        identity: everything that the numbers of the training depend on; a training is resumed only if it is the same.
        step: number of steps done.
        seconds: the wall time of these steps.
        angles: the angles of the posterior chains.
        curve: the loss curve.
        threads: CPU threads of torch with which the training was begun, or last resumed; 0 where that was not recorded.
            Sums are rounded differently with another number of threads, which is allowed on resumption.
    """

    identity: dict[str, Any]
    step: int
    seconds: float
    angles: tuple[float, ...]
    curve: tuple[TrainingRecord, ...]
    threads: int = 0

    def __post_init__(self) -> None:
        check_count(self.step, "the step of a training", 0)
        check_count(self.threads, "the threads of a training", 0)
        if not 0 <= self.seconds < math.inf:
            raise DmmcError(f"the seconds of a training must be finite and not negative, got {self.seconds}")
        if not all(0 < angle < math.inf for angle in self.angles):
            raise DmmcError(f"the angles of a training must be positive and finite, got {self.angles}")


def write_checkpoint(path: str | Path, trainer: Trainer, identity: Mapping[str, Any]) -> None:
    """Keep the state of a training in a file.

    Raises:
        FileError: if it cannot be written.
    """
    header = CheckpointHeader(
        dict(identity),
        trainer.step,
        trainer.seconds,
        trainer.angles,
        tuple(trainer.curve),
        torch.get_num_threads(),
    ).to_json()
    write_tensors(path, trainer.tensors(), FORMAT, FORMAT_VERSION, header)


def read_checkpoint(path: str | Path, trainer: Trainer, identity: Mapping[str, Any]) -> None:
    """Restore the state of a training from its file.

    Raises:
        FileError: if the file is missing, truncated, damaged or foreign.
        MismatchError: if it belongs to another training.
    """
    file = read_tensors(path, FORMAT, FORMAT_VERSION)
    header = _header(path, file)
    same = json.loads(json.dumps(identity))
    differing = [key for key in same if header.identity.get(key) != same[key]]
    if differing:
        raise MismatchError(
            f"{path} belongs to another training run (different {', '.join(differing)}); resume with the options "
            "it was started with, or remove it to start afresh"
        )
    if trainer.options.steps is not None and header.step > trainer.options.steps:
        raise FileError(
            f"{path} has {header.step} steps of a training of {trainer.options.steps}; remove it to start afresh"
        )
    try:
        trainer.restore(file.tensors)
    except DmmcError as error:
        raise FileError(f"{path} is not a complete checkpoint: {error}; remove it to start afresh") from None
    trainer.step, trainer.seconds = header.step, header.seconds
    trainer.angles, trainer.curve = header.angles, list(header.curve)


def threads_of(path: str | Path) -> int:
    """CPU threads of the training that a checkpoint belongs to; 0 where that was not recorded.

    Raises:
        FileError: if the file is missing, truncated, damaged or foreign.
        MismatchError: if an older dmmc began the training.
    """
    return _header(path, read_tensors(path, FORMAT, FORMAT_VERSION)).threads


def seed_of(path: str | Path) -> int | None:
    """Seed of the training that a checkpoint belongs to; None where there is no checkpoint.

    Raises:
        FileError: if the file is truncated, damaged or foreign.
        MismatchError: if an older dmmc began the training.
    """
    if not Path(path).exists():
        return None
    seed: int = _header(path, read_tensors(path, FORMAT, FORMAT_VERSION)).identity["options"]["seed"]
    return seed


def _header(path: str | Path, file: TensorFile) -> CheckpointHeader:
    if file.version < FORMAT_VERSION:
        raise MismatchError(
            f"{path} belongs to a training that an older dmmc began, with other random numbers; remove it to start "
            "afresh"
        )
    try:
        return CheckpointHeader.from_json(file.header)
    except DmmcError as error:
        raise FileError(f"{path} is not a complete checkpoint: {error}; remove it to start afresh") from None


def remove_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint that is not needed any more, since the trained model has been saved."""
    Path(path).unlink(missing_ok=True)

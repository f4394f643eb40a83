"""The record of a training: what was done, and the loss curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.core.scalars import check_count
from dmmc.model.options import TrainingOptions


@dataclass(frozen=True)
class TrainingRecord(Record):
    """A point of the loss curve.

    Attributes:
        step: number of steps done.
        loss: the loss of the batch of this step, which is noisy.
        validation: the loss of the averaged weights on fixed noise and held-out fields.
        gaussian: the loss of the Gaussian reference, which has N = 0, on the same noise and fields.
    """

    step: int
    loss: float
    validation: float
    gaussian: float

    def __post_init__(self) -> None:
        check_count(self.step, "the step of a point of a loss curve", 0)

    @property
    def kl_removed(self) -> float:
        """The part of KL(p || reference) along the path that the network has removed, in nats."""
        return self.gaussian - self.validation


@dataclass(frozen=True)
class TrainingHistory(Record):
    """How a model was trained.

    Attributes:
        options: the options of the training.
        steps: number of steps done.
        seconds: the wall time of these steps.
        ensemble: number of configurations, those held out included.
        curve: the loss curve.
        before: the history of the model that the training started from; None if that model was untrained.
    """

    options: TrainingOptions
    steps: int
    seconds: float
    ensemble: int
    curve: tuple[TrainingRecord, ...] = ()
    before: TrainingHistory | None = None

    def __post_init__(self) -> None:
        check_count(self.steps, "the steps of a training", 0)
        check_count(self.ensemble, "the ensemble of a training", 0)
        if not 0 <= self.seconds < math.inf:
            raise DmmcError(f"the seconds of a training must be finite and not negative, got {self.seconds}")

    @classmethod
    def from_version_1(cls, data: Mapping[str, Any]) -> TrainingHistory | None:
        """The history in a model file of format 1; None for the empty one of an untrained model.

        Raises:
            DmmcError: if it is not one.
        """
        if not data:
            return None
        try:
            before = cls.from_version_1(data["before"])
            curve = [
                {"step": x["step"], "loss": x["loss"], "validation": x["validation"], "gaussian": x["N=0"]}
                for x in data["validation"]
            ]
            kept = {name: data[name] for name in ("options", "steps", "seconds", "ensemble")}
        except (KeyError, TypeError) as error:
            raise DmmcError(f"this is not a training history of format 1: {error!r}") from None
        return cls.from_json(kept | {"curve": curve, "before": None if before is None else before.to_json()})

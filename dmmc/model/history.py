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
class RoundRecord(Record):
    """One round of a training on the model's own chain: how good the proposals were, and what was trained on.

    Attributes:
        action: description of the action that the proposals were weighed with, and the model then trained for.
        stage: number of the action of the path towards which this round went, from 0.
        share: how far it went on the way from the action before it, 0 to 1.
        proposals: number of proposals of the model as it was before this round.
        ess: their effective sample size, per proposal.
        acceptance: the acceptance of an independence chain of them.
        std_log_w: standard deviation of their log weights; None if it is not finite.
        fields: number of different fields of the chain, which were trained on; 0 where nothing was.
        steps: optimiser steps of this round.
        seconds: wall time of this round.
    """

    action: dict[str, Any]
    stage: int
    share: float
    proposals: int
    ess: float
    acceptance: float
    std_log_w: float | None
    fields: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Rounds(Record):
    """A training on the model's own chain.

    Attributes:
        plan: what was asked for: actions, options, seeds and the start.
        records: the rounds in their order. The last one, of 0 steps, says how good the finished model is.
    """

    plan: dict[str, Any]
    records: tuple[RoundRecord, ...]

    @property
    def trained(self) -> tuple[RoundRecord, ...]:
        """The rounds in which the model was trained."""
        return tuple(record for record in self.records if record.steps)

    @property
    def remark(self) -> str:
        """What everybody who sees a chain of the model is to know."""
        rounds, fields = len(self.trained), sum(record.fields for record in self.trained)
        return (
            f"The model was trained on {fields:,} fields of its own chain in {rounds} round{'s' * (rounds != 1)}. "
            "Recorded chains are of the frozen model, with random numbers of their own."
        )


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
        rounds: what was done if the model was trained on its own chain; ``steps`` and ``seconds`` are then those of all
            rounds, ``ensemble`` and ``curve`` those of the last one.
    """

    options: TrainingOptions
    steps: int
    seconds: float
    ensemble: int
    curve: tuple[TrainingRecord, ...] = ()
    before: TrainingHistory | None = None
    rounds: Rounds | None = None

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

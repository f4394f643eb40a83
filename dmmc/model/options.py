"""The options of a training: its budget, its batches, its learning rate and its random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dmmc.core.errors import DmmcError
from dmmc.core.rng import check_seed
from dmmc.core.scalars import check_count
from dmmc.theory.actions import Action, declaration

TRAJECTORIES = 1
"""Trajectories of the posterior chain for an action that is cheap to evaluate. More make each step better, but in the
same time there are fewer steps, and the models are worse (docs/cost.md)."""

MOST_UPDATES = 10_000
"""Most trajectories of the posterior chains of a batch, and most steps of each. More would never give a batch."""


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training.

    Attributes:
        steps: number of optimiser steps; exactly one of ``steps`` and ``minutes`` is given. Only a budget in steps is
            reproducible, since the learning rate follows the share of the budget that is spent.
        minutes: wall time.
        levels: noise levels in a batch, stratified.
        fields_per_level: number of fields at each noise level of a batch.
        learning_rate: peak of the schedule (linear warm-up over 5 % of the budget, then a cosine to zero).
        average: share of the budget over which the weights are averaged (exponentially).
        trajectories: trajectories of the posterior chain that averages the targets. With 0 there is no such chain, and
            the force of the action is evaluated once for each field of the ensemble, and not in every step. By default
            1, or 0 for an action that declares itself costly.
        posterior_steps: integrator steps in each trajectory of the posterior chain.
        validation_every: number of steps between validation losses.
        checkpoint_seconds: least time between two checkpoints.
        seed: seed of all random numbers.
        compile: whether to fuse the site-wise layers with torch.compile where that works; the numbers are the same up
            to rounding.

    Raises:
        DmmcError: if a number is out of its range, or not exactly one budget is given.
    """

    steps: int | None = None
    minutes: float | None = None
    levels: int = 64
    fields_per_level: int = 1
    learning_rate: float = 5e-3
    average: float = 0.05
    trajectories: int | None = None
    posterior_steps: int = 3
    validation_every: int = 100
    checkpoint_seconds: float = 30.0
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise DmmcError("give the training budget either in steps or in minutes")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise DmmcError(f"the training budget must be positive and finite, got minutes={self.minutes}")
        counts = {"levels": 1, "fields_per_level": 1, "posterior_steps": 1, "validation_every": 1}
        if self.trajectories is not None:
            counts["trajectories"] = 0
        most = {"posterior_steps": MOST_UPDATES, "trajectories": MOST_UPDATES}
        if self.steps is not None:
            counts["steps"] = 1
        for name, minimum in counts.items():
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum, most.get(name)))
        if not 0 < self.learning_rate < math.inf:
            raise DmmcError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 < self.average < 1:
            raise DmmcError(f"average must lie between 0 and 1, got {self.average}")
        if not self.checkpoint_seconds >= 0:
            raise DmmcError(f"checkpoint_seconds must not be negative, got {self.checkpoint_seconds}")
        check_seed(self.seed)

    def for_action(self, action: Action | None) -> TrainingOptions:
        """These options, with the default of ``trajectories`` that suits an action."""
        if self.trajectories is not None:
            return self
        costly = action is not None and declaration(action).costly
        return replace(self, trajectories=0 if costly else TRAJECTORIES)

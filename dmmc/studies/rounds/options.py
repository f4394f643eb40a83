"""The options of a training in rounds, and how its budget is shared among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.model.options import TrainingOptions

LAST_SHARE = 0.5
"""Share of the budget of the last round, which makes the model that is used."""

FEWEST_PROPOSALS = 64
"""Fewest proposals of a round, whose chain has hardly as many fields as a training needs."""

MOST_ROUNDS = 200
"""Most rounds. An annealing that has not come to its end by then never will."""


@dataclass(frozen=True)
class RoundOptions:
    """How a model is trained on its own chain.

    Attributes:
        rounds: rounds in which the model proposes fields and is trained on a chain of them. There are more if the path
            of actions is not at its end by then.
        proposals: proposals of a round.
        least_ess: effective sample size per proposal that a step to another action needs; below it, the step is
            bisected.
        flow_steps: integration steps of the probability flow in the rounds, whose chains need not be exact.

    Raises:
        DmmcError: if a number is out of its range.
    """

    rounds: int = 6
    proposals: int = 4096
    least_ess: float = 0.3
    flow_steps: int = 8

    def __post_init__(self) -> None:
        for name, minimum, maximum in (
            ("rounds", 1, MOST_ROUNDS),
            ("proposals", FEWEST_PROPOSALS, None),
            ("flow_steps", 1, None),
        ):
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum, maximum))
        if not 0 < self.least_ess < 1:
            raise DmmcError(f"least_ess must lie between 0 and 1, got {self.least_ess}")


@dataclass(frozen=True)
class Budget:
    """The options of each of several trainings, of which the last one has :data:`LAST_SHARE` of all steps.

    Attributes:
        options: those of all of them together.
        planned: number of rounds that are planned.
        first: whether there is a training on an ensemble before them.
    """

    options: TrainingOptions
    planned: int
    first: bool

    def of(self, number: int | None, last: bool = False) -> TrainingOptions:
        """The options of a round, or with None those of the training before the first."""
        others, options = self.planned - 1 + self.first, self.options
        share = 1.0 if others == 0 else LAST_SHARE if last else (1 - LAST_SHARE) / others
        steps = None if options.steps is None else max(1, round(share * options.steps))
        return replace(
            options,
            steps=steps,
            minutes=None if options.minutes is None else share * options.minutes,
            validation_every=options.validation_every if steps is None else min(steps, options.validation_every),
            seed=rng.child_seed(options.seed, "before the rounds" if number is None else f"round {number}"),
        )

"""Fixed integration steps in the noise level, from 1 (largest noise) to 0 (the field) and back.

Steps are the same for every field: steps chosen from a batch would make the density of one field depend on its
neighbours. They need not be of equal length: for strong couplings nearly all of the error arises at small noise.
:func:`dmmc.proposals.steps.choose_steps` distributes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.proposals.runge_kutta import METHODS, RungeKutta

DEFAULT_STEPS = 30
"""Six for each interval between the spline knots of the default network. Steps that do not straddle a knot, where third
derivatives jump, keep their fourth order."""

MOST_STEPS = 100_000
"""Most integration steps. More are not meant seriously, and would take a lifetime."""

Velocity = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""``(psi (n, ...), level) -> d psi / d level, d log q / d level (n,)``."""


def schedule_of(n_steps: int | tuple[int, ...]) -> tuple[int, ...]:
    """Steps in each of as many equal intervals; a single number stands for that many equal steps.

    Raises:
        DmmcError: if a number of steps is not a positive integer, or there is none, or there are more than
            :data:`MOST_STEPS` together.
    """
    steps = n_steps if isinstance(n_steps, (tuple, list)) else (n_steps,)
    if not steps:
        raise DmmcError("the numbers of steps must be positive integers, and there are none")
    schedule = tuple(check_count(n, "the number of steps") for n in steps)
    check_count(sum(schedule), "the number of steps", maximum=MOST_STEPS)
    return schedule


@dataclass(frozen=True)
class Integrator:
    """An explicit Runge-Kutta method with a schedule of steps.

    Args:
        schedule: steps in each of as many equal intervals of the noise level, from the largest noise to the field.
        method: one of :data:`dmmc.proposals.runge_kutta.METHODS`.

    Raises:
        DmmcError: if a number of steps is not a positive integer, or the method is unknown.
    """

    schedule: tuple[int, ...]
    method: str = "rk4"

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", schedule_of(self.schedule))
        if self.method not in METHODS:
            raise DmmcError(f"the method is one of {', '.join(METHODS)}, not {self.method!r}")

    @property
    def table(self) -> RungeKutta:
        """The coefficients of the method."""
        return METHODS[self.method]

    @property
    def total_steps(self) -> int:
        """Steps of all intervals."""
        return sum(self.schedule)

    @property
    def evaluations(self) -> int:
        """Evaluations of the velocity on the whole way."""
        return len(self.table.b) * self.total_steps

    def steps(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """Level and signed length of each step from ``start`` to ``end``.

        Over the whole way, up or down, they follow the schedule; over a part of it, as many steps are of equal length.
        """
        schedule = self.schedule if abs(end - start) == 1 else (self.total_steps,)
        width = (end - start) / len(schedule)
        for k, n in enumerate(schedule if end < start else schedule[::-1]):
            for step in range(n):
                yield start + width * (k + step / n), width / n

    def integrate(self, velocity: Velocity, psi: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """``psi`` ``(n, ...)`` carried from level ``start`` to ``end``, and the change of its log density ``(n,)``."""
        log_q = torch.zeros(len(psi), dtype=torch.float64, device=psi.device)
        table = self.table
        for level, h in self.steps(start, end):
            slopes: list[Tensor] = []
            for row, weight, c in zip(table.a, table.b, table.c, strict=True):
                slope, change = velocity(_advanced(psi, h, row, slopes), level + c * h)
                slopes.append(slope)
                log_q = log_q + h * weight * change
            psi = _advanced(psi, h, table.b, slopes)
        return psi, log_q


def _advanced(psi: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            psi = psi + h * weight * slope
    return psi

"""What the integrator of a model's probability flow does to the density, as far as it was measured.

It belongs to the model: measured once, it says for every later chain how many steps each part of the way needs.
:mod:`dmmc.proposals.steps` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.core.scalars import check_count

MOST_EXTRAPOLATED = 3
"""The law of the order is trusted up to this many times the largest measured number of steps."""


@dataclass(frozen=True)
class FlowErrors(Record):
    """Standard deviations of the error that each interval of the noise level makes in log q.

    Errors of different intervals add up in quadrature: they are hardly correlated, and where they are, the certificate
    of the proposal shows it.

    Attributes:
        method: name of the integrator, one of :data:`dmmc.proposals.runge_kutta.METHODS`.
        order: its order p; the error of n steps falls like ``n^-p``.
        intervals: for each interval in which the velocity is smooth, from the largest noise to the field, pairs of a
            number of steps and the standard deviation of the error that they make, in rising order.

    Raises:
        DmmcError: if there is no interval, or one in which nothing was measured, or a number is out of its range.
    """

    method: str
    order: int
    intervals: tuple[tuple[tuple[int, float], ...], ...]

    def __post_init__(self) -> None:
        check_count(self.order, "the order of an integrator")
        if not self.intervals or not all(self.intervals):
            raise DmmcError("errors of a flow need at least one measurement in each interval")
        for measured in self.intervals:
            steps = [check_count(n, "a number of steps") for n, _ in measured]
            if steps != sorted(set(steps)) or not all(0 <= x < math.inf for _, x in measured):
                raise DmmcError(f"errors of a flow are finite, by rising numbers of steps; got {measured}")

    def with_measured(self, schedule: tuple[int, ...], spreads: tuple[float, ...]) -> FlowErrors:
        """These errors and those of another schedule; what was measured before is replaced."""
        merged = []
        for known, n, spread in zip(self.intervals, schedule, spreads, strict=True):
            found: Mapping[int, float] = dict(known) | {n: spread}
            merged.append(tuple(sorted(found.items())))
        return replace(self, intervals=tuple(merged))

    def knows(self, schedule: tuple[int, ...]) -> bool:
        """Whether all of these numbers of steps were measured."""
        return all(n in dict(known) for n, known in zip(schedule, self.intervals, strict=True))

    def of_interval(self, interval: int, steps: int) -> float:
        """Standard deviation of the error of one interval, by the law of the order from the nearest measured number."""
        n, spread = min(self.intervals[interval], key=lambda known: (abs(math.log(known[0] / steps)), -known[0]))
        return spread * (n / steps) ** self.order

    def spread(self, schedule: tuple[int, ...]) -> float:
        """Standard deviation of the error in log q of a schedule."""
        return math.hypot(*(self.of_interval(k, n) for k, n in enumerate(schedule)))

    def fewest(self, goal: float) -> tuple[int, ...]:
        """About the fewest steps whose errors have a standard deviation of at most ``goal``.

        In each interval they are at least half of the smallest and at most thrice the largest measured number, so that
        the schedule may miss the goal where that is far from everything that was measured.
        """
        steps = [-(-known[0][0] // 2) for known in self.intervals]
        most = [MOST_EXTRAPOLATED * known[-1][0] for known in self.intervals]
        squares = [self.of_interval(k, n) ** 2 for k, n in enumerate(steps)]
        while sum(squares) > goal**2:
            # Every step costs the same; the next one goes where it removes most of the error.
            free = [k for k, n in enumerate(steps) if n < most[k]]
            if not free:
                break
            fewer = {k: self.of_interval(k, steps[k] + 1) ** 2 for k in free}
            best = max(free, key=lambda k: squares[k] - fewer[k])
            steps[best] += 1
            squares[best] = fewer[best]
        return tuple(steps)

"""Cumulants on the way from a theory to noise and back, measured and exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmmc.diagnostics import noised_cumulants

EVEN = (2, 4, 6, 8)
"""Orders of the cumulants; those of odd order vanish by symmetry."""


@dataclass(frozen=True)
class Point:
    """A cumulant of one variable at one time.

    Attributes:
        process: which fields it is of.
        tau: time, 0 at the prior and 1 at the target.
        v: variance of the noise.
        order: of the cumulant.
        value: its value, of ``phi_0 + sqrt(v) eps`` (variance-expanding).
        error: its standard error; 0 if it was computed.
    """

    process: str
    tau: float
    v: float
    order: int
    value: float
    error: float

    @property
    def shrink(self) -> float:
        """``a^n``, by which the cumulant of the variance-preserving process is smaller.

        It is that of ``a phi_0 + s eps`` with ``a^2 + s^2 = 1``: of the same field, times ``a = (1 + v)^(-1/2)``.
        """
        return (1 + self.v) ** (-0.5 * self.order)


@dataclass(frozen=True)
class System:
    """A theory, and the cumulants of its field at a site along both processes.

    Attributes:
        name: of the theory.
        exact: its cumulants ``kappa_1, ..., kappa_8``, without noise.
        errors: their standard errors; 0 if they were computed.
        points: what was measured, or computed from the model.
        variances: times, closely spaced, and the variance of the noise at each.
    """

    name: str
    exact: tuple[float, ...]
    errors: tuple[float, ...]
    points: tuple[Point, ...]
    variances: tuple[tuple[float, float], ...]

    def expected(self, order: int, v: float) -> float:
        """The cumulant with noise of variance v: conserved beyond the second."""
        return noised_cumulants(self.exact, 1.0, math.sqrt(v))[order - 1]

    def course(self, order: int) -> list[Point]:
        """What noise makes of a cumulant in the course of time."""
        return [Point("exact", tau, v, order, self.expected(order, v), 0.0) for tau, v in self.variances]

    def z(self, point: Point) -> float:
        """The deviation of a measured point in standard errors."""
        error = math.hypot(point.error, self.errors[point.order - 1])
        return (point.value - self.expected(point.order, point.v)) / error

    def of(self, process: str, order: int) -> list[Point]:
        """The points of a process and an order, in the order of time."""
        return [point for point in self.points if (point.process, point.order) == (process, order)]

    @property
    def processes(self) -> list[str]:
        """Names of all processes."""
        return list(dict.fromkeys(point.process for point in self.points))

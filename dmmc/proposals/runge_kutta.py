"""Explicit Runge-Kutta methods as Butcher's tables.

A step of length h from ``y`` evaluates the velocity f at the stages ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)`` and
goes to ``y + h sum_i b_i k_i``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method, given by its Butcher table.

    Attributes:
        order: the order p of the method; with steps of half the length the error is smaller by ``2^p``.
        a: the coefficients ``a_ij`` of the stages; row i has those with j < i.
        b: the weights ``b_i`` of the stages.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def c(self) -> tuple[float, ...]:
        """The times ``c_i`` of the stages in units of the step, which are the sums of the rows of ``a``."""
        return tuple(sum(row) for row in self.a)


METHODS = {
    "rk4": RungeKutta(4, ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": RungeKutta(
        5,
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
}
"""By name: the classical method (Kutta, 1901), and that of Dormand and Prince, J. Comp. Appl. Math. 6 (1980) 19."""

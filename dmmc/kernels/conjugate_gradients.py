"""Conjugate gradients for a batch of positive systems, each of which stops by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_ITERATIONS = 2000
"""Iterations after which a system counts as one that cannot be solved to the accuracy asked for."""

_LOOK_EVERY = 4
"""Iterations between two looks at whether all systems are solved, which would interrupt an accelerator."""


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], right: Tensor, tolerance: float, batch_axes: int = 1
) -> tuple[Tensor, int]:
    """The solutions x of ``operator(x) = right`` by the method of Hestenes and Stiefel, from ``x = 0``.

    A solution does not depend on its neighbours in the batch: each system stands still once its residual is below
    ``tolerance`` times its right-hand side.

    Args:
        operator: a symmetric positive operator, applied to each member of a batch.
        right: right-hand sides; the first ``batch_axes`` axes count them.
        tolerance: relative size of the residual, as the recursion has it.
        batch_axes: number of axes of the batch.

    Returns:
        the solutions, and the number of iterations of the slowest. A system that is not finite, or not solved after
        :data:`MAX_ITERATIONS`, has NaN for a solution.
    """
    axes = tuple(range(batch_axes, right.ndim))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(axes, keepdim=True)

    x, residual = torch.zeros_like(right), right.clone()
    search, rho = residual.clone(), dot(right, right)
    enough = tolerance**2 * rho
    for iteration in range(MAX_ITERATIONS):
        going = rho > enough
        if iteration % _LOOK_EVERY == 0 and not bool(going.any()):
            break
        image = operator(search)
        alpha = torch.where(going, rho / dot(search, image), 0.0)
        x.addcmul_(alpha, search)
        residual.addcmul_(alpha, image, value=-1)
        new = torch.where(going, dot(residual, residual), rho)
        beta = torch.where(going, new / rho, 0.0)
        search, rho = torch.addcmul(residual, beta, search), new
    return torch.where(rho <= enough, x, torch.nan), iteration

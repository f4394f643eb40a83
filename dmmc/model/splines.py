"""Uniform cubic B-splines: the smooth functions of noise level and momentum that the network is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from dmmc.core.linalg import least_squares

DEGREE = 3


def basis(x: Tensor, n: int) -> Tensor:
    """The ``n`` uniform cubic B-splines on [0, 1], which sum to one there.

    Args:
        x: arguments, any shape; clamped to [0, 1].
        n: number of splines, at least 4.

    Returns:
        values ``(*x.shape, n)`` in the dtype of ``x``; at most four of them are not zero.
    """
    position = x.clamp(0, 1) * (n - DEGREE)
    knot = torch.arange(n, dtype=x.dtype, device=x.device) - DEGREE
    # The centred cubic B-spline of |distance| r has support 2.
    r = (position[..., None] - knot - 2).abs()
    inner = 2 / 3 - r**2 + r**3 / 2
    outer = (2 - r).clamp(min=0) ** 3 / 6
    return torch.where(r < 1, inner, outer)


def refit(coefficients: Tensor, to_old: Tensor, n: int) -> Tensor:
    """Coefficients on a new domain of the function that ``coefficients`` describes on an old one.

    Args:
        coefficients: ``(n_old, ...)``.
        to_old: arguments in [0, 1] on the old domain of equally spaced points of the new domain, ``(m,)``, ``m >= n``.
        n: number of new splines.

    Returns:
        least-squares coefficients ``(n, ...)``.
    """
    old = basis(to_old, coefficients.shape[0])
    new = basis(torch.linspace(0, 1, len(to_old), dtype=to_old.dtype, device=to_old.device), n)
    values = old @ coefficients.to(old).flatten(1)
    solution = least_squares(new, values)
    return solution.reshape(n, *coefficients.shape[1:]).to(coefficients)

"""The uniform field of least action, found by a search where there is no formula for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_POINTS, _SCALES, _ZOOMS = 401, 20, 8
"""The uniform field of least action is looked for among that many values, from the scale of the theory up to 4^19 times
that, and then more closely around the best of them."""


def least_uniform(S: Callable[[Tensor], Tensor], centre: float, width: float) -> float | None:
    """The value of the uniform field of least action, to about 1e-8 of its size.

    Args:
        S: maps values ``(n,)``, float64, to the actions of uniform fields of these values, ``(n,)``.
        centre: where the search begins.
        width: how far from there the field is expected.

    Returns:
        the value; None if S falls without end.
    """

    def least(phi: Tensor) -> int:
        return int(S(phi).nan_to_num(nan=torch.inf).argmin())

    line = torch.linspace(-1, 1, _POINTS, dtype=torch.float64, device="cpu")
    widths = width * 4.0 ** torch.arange(_SCALES, dtype=torch.float64, device="cpu")
    phi = centre + torch.outer(widths, line).flatten()
    best = least(phi)
    if abs(float(phi[best]) - centre) >= float(widths[-1]):
        return None
    width = float(widths[best // _POINTS])
    for _ in range(_ZOOMS):
        width *= 4 / (_POINTS - 1)
        phi = float(phi[best]) + width * line
        best = least(phi)
    return float(phi[best])

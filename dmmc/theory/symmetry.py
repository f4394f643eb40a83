"""The two sectors of a broken phase: when to model one of them, and how to align an ensemble with it."""

from __future__ import annotations

import torch
from torch import Tensor

WELL_SEPARATED = 5.0
"""<|M|> in units of std |M| above which fields between the sectors are too rare to matter (Gaussian: 3e-7)."""


def magnetisation(phi: Tensor) -> Tensor:
    """Mean field M of each configuration, ``(n, *lattice) -> (n,)`` float64."""
    return phi.double().flatten(1).mean(1)


def is_broken(phi: Tensor) -> bool:
    """Whether the histogram of M is two narrow peaks, from an ensemble ``(n, *lattice)``.

    One Gaussian reference centred at zero is then a poor one, and a two-sector model the better choice.
    """
    size = magnetisation(phi).abs()
    return bool(size.mean() > WELL_SEPARATED * size.std())


def align(phi: Tensor) -> Tensor:
    """Flip the fields with M < 0, ``(n, *lattice)``: an ensemble of the sector M > 0."""
    sign = torch.where(magnetisation(phi) < 0, -1.0, 1.0).to(phi)
    return phi * sign.view(-1, *(1,) * (phi.ndim - 1))

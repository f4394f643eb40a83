"""The two sectors of a broken phase: the sign of M."""

from __future__ import annotations

import torch
from torch import Tensor

from dmmc import diagnostics


def magnetisation(phi: Tensor) -> Tensor:
    """Mean field M of each configuration of a scalar field, ``(n, *lattice) -> (n,)`` float64."""
    return phi.double().flatten(1).mean(1)


def is_broken(phi: Tensor) -> bool:
    """Whether the histogram of M has two narrow peaks, from an ensemble ``(n, *lattice)`` of a symmetric theory.

    One Gaussian reference centred at zero is then a poor one, and a two-sector model the better choice.
    """
    return diagnostics.is_broken(magnetisation(phi).cpu().numpy())


def align(phi: Tensor) -> Tensor:
    """Flip the fields with M < 0, ``(n, *lattice)``: an ensemble of the sector M > 0."""
    negative = (magnetisation(phi) < 0).view(-1, *(1,) * (phi.ndim - 1))
    return torch.where(negative, -phi, phi)

"""A real orthonormal Fourier basis: products over the axes of cosines and sines.

Along an axis of extent L the functions are ``cos(2 pi k x / L)`` for k from 0 to L/2 and ``sin(2 pi k x / L)`` for k
between these, normalised. What is diagonal in momentum and even in each of its components, as every function of
``phat^2`` is, is diagonal in their products too, with its value at ``(k_1, ..., k_d)``. A field has as many
coefficients as sites, and none of them is complex.

Where L is even, the functions with even k are the same on both halves of the axis, and those with odd k change their
sign. So the sum and the difference of two halves are transformed apart, which takes half of the operations; even k come
first.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.theory.lattice import Lattice


def is_split(extent: int) -> bool:
    """Whether an axis is taken in halves."""
    return extent % 2 == 0


def wave_numbers(extent: int) -> NDArray[np.int64]:
    """k of each function, ``(L,)``: that of the cosines and then of the sines, first of even k and then of odd."""
    both = np.concatenate([np.arange(extent // 2 + 1), np.arange(1, (extent + 1) // 2)])
    return np.concatenate([both[both % 2 == 0], both[both % 2 == 1]]) if is_split(extent) else both


def basis(extent: int) -> NDArray[np.float64]:
    """The functions at each site, ``(sites, functions)``: an orthogonal matrix."""
    cosines = np.arange(extent // 2 + 1)
    sines = np.arange(1, (extent + 1) // 2)
    x = 2 * np.pi / extent * np.arange(extent)[:, None]
    # The norm of the functions that are alone at their k: of constant modulus.
    alone = (cosines == 0) | (2 * cosines == extent)
    values = np.concatenate(
        [np.cos(x * cosines) * np.where(alone, 1, np.sqrt(2)), np.sin(x * sines) * np.sqrt(2)], 1
    ) / np.sqrt(extent)
    if not is_split(extent):
        return values
    odd = np.concatenate([cosines, sines]) % 2
    return np.concatenate([values[:, odd == 0], values[:, odd == 1]], 1)


def from_half(values: Tensor, lattice: Lattice) -> Tensor:
    """A function of momentum ``(..., *half)``, even in each component, on the real modes ``(..., V)``."""
    for axis, extent in zip(lattice.axes, lattice.shape, strict=True):
        values = values.index_select(axis, torch.from_numpy(wave_numbers(extent)))
    return values.flatten(-lattice.dim)

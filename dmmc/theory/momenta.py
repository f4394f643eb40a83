"""Lattice momenta and their hypercubic orbits, in plain NumPy.

A mode is a tuple of integers n, one for each axis, with ``p_mu = 2 pi n_mu / L_mu``. An orbit is a set of momenta that
reflections, and exchanges of axes of equal extent, map onto each other. Orbits are numbered by increasing
``phat^2 = sum_mu 4 sin^2(p_mu / 2)``; orbit 0 is p = 0. Every array with an orbit axis, such as ``two_point`` of a
run or a propagator, is in this order.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import cache

import numpy as np
from numpy.typing import NDArray


def representative(mode: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The member of a mode's orbit that stands for it: ``|n|``, with the largest first among axes of equal extent."""
    folded = [min(n % extent, -n % extent) for n, extent in zip(mode, shape, strict=True)]
    for extent in set(shape):
        axes = [axis for axis, other in enumerate(shape) if other == extent]
        for axis, value in zip(axes, sorted((folded[a] for a in axes), reverse=True), strict=True):
            folded[axis] = value
    return tuple(folded)


def phat2(mode: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """``sum_mu 4 sin^2(pi n_mu / L_mu)``."""
    return sum(4 * math.sin(math.pi * n / extent) ** 2 for n, extent in zip(mode, shape, strict=True))


@cache
def _orbits(shape: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    sizes = Counter(representative(mode, shape) for mode in itertools.product(*map(range, shape)))
    modes = sorted(sizes, key=lambda mode: (phat2(mode, shape), mode))
    return tuple(modes), tuple(sizes[mode] for mode in modes)


def n_orbits(shape: tuple[int, ...]) -> int:
    """The number of orbits of a lattice of this ``shape``, without making them.

    Of m axes of equal extent L, an orbit has a multiset of m of the L // 2 + 1 values of ``|n|``.
    """
    return math.prod(math.comb(extent // 2 + m, m) for extent, m in Counter(shape).items())


def orbit_modes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """One representative of each orbit of a lattice of this ``shape``."""
    return _orbits(shape)[0]


def orbit_size(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Number of momenta in each orbit, ``(n_orbits,)``; sums to the volume."""
    return np.array(_orbits(shape)[1], dtype=np.float64)


def orbit_phat2(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """``phat^2`` of each orbit, ``(n_orbits,)``, increasing."""
    return np.array([phat2(mode, shape) for mode in orbit_modes(shape)])


def wall_modes(shape: tuple[int, ...], axis: int) -> NDArray[np.int64]:
    """The orbits of the momenta that point along one axis.

    They are what the correlator of wall averages needs: with ``G(p) = <|phi(p)|^2>`` (orthonormal Fourier transform)
    it is ``C(t) = 1/L sum_n cos(2 pi n t / L) G(p_n)``; see :func:`dmmc.diagnostics.correlator.wall_correlator`.

    Args:
        shape: of the lattice.
        axis: the direction t, counted as in ``shape``.

    Returns:
        the orbit numbers of the modes n = 0, ..., L - 1, ``(L,)``.
    """
    number = {mode: k for k, mode in enumerate(orbit_modes(shape))}
    position = axis % len(shape)
    along = (tuple(n if a == position else 0 for a in range(len(shape))) for n in range(shape[position]))
    return np.array([number[representative(mode, shape)] for mode in along], dtype=np.int64)

"""What the machine code works on: flat arrays, whose indices are not checked there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from dmmc.core.vectors import LANES

ROWS = 4
"""Rows of a matrix that are worked on at once. Channels are padded to multiples of it with zeros."""

GAP = LANES
"""Numbers between the rows of an array, which would else be powers of two apart; of such a cache holds but few."""

TERMS = 4
"""Neighbours that are added at once."""


class Geometry(NamedTuple):
    """The lattice.

    Attributes:
        shape: extents ``(d,)``.
        split: for each axis, whether it is taken in halves (:mod:`dmmc.model.compiled.real_modes`).
        basis: the matrices of each axis, for the way to the sites and the way back, of even and of odd momenta or, if
            the axis is not split, of all; with padded rows, and flat: ``(d, 2, 2, numbers)``.
        slots: which place in the window each plane of the first layer has, ``(L_1,)``; after the last one comes one
            that is zero.
        reach: how many planes to each side the shells reach.
        parts: the part of a shell to which each group of neighbours belongs, ``(groups,)``, in rising order.
        places: in which place of the window the neighbours of each plane are, ``(L_1, groups, TERMS)``.
        sites: where in their planes they are, in numbers from its beginning, ``(groups, sites of a plane, TERMS)``.
    """

    shape: Any
    split: Any
    basis: Any
    slots: Any
    reach: int
    parts: Any
    places: Any
    sites: Any


class Levels(NamedTuple):
    """Everything that depends on the weights, at each of n noise levels; matrices are flat, their rows padded.

    Attributes:
        filters_in, filters_out: ``(C + v)^(1/2) D R / rms`` and ``(C + v)^(-1/2) D Q / rms`` of the modes,
            ``(n, B V)``.
        a1, b1, a2, w0, w, b2: the layers, where w0 is of the site itself and w of the other parts of shells.
        lin, o1, o2: the output.
        t1, t2, c0, c: coefficients of the trace; c0 and c belong to w0 and w.
        constant: the part of the trace that does not depend on the field, ``(n,)`` float64.
    """

    filters_in: Any
    filters_out: Any
    a1: Any
    b1: Any
    a2: Any
    w0: Any
    w: Any
    b2: Any
    lin: Any
    o1: Any
    o2: Any
    t1: Any
    t2: Any
    c0: Any
    c: Any
    constant: Any


class Program(NamedTuple):
    """The steps of an explicit Runge-Kutta method.

    Attributes:
        a, b: coefficients times the length of each step, ``(n_steps, s, s)`` and ``(n_steps, s)``.
        level: number of the noise level of each stage, ``(n_steps, s)``.
        weight: what multiplies the trace of each stage in the change of log q, ``(n_steps, s)`` float64.
    """

    a: Any
    b: Any
    level: Any
    weight: Any


class Workspace(NamedTuple):
    """Memory for one tile; see :func:`workspace`."""

    psi: Any
    at: Any
    slopes: Any
    modes: Any
    scratch: Any
    column: Any
    u: Any
    out: Any
    h1: Any
    d1: Any
    sums: Any
    h2: Any
    d2: Any
    total: Any
    log_q: Any


def workspace(geometry: Geometry, levels: Levels, stages: int) -> Workspace:
    """Memory for the tiles that one thread carries, one after another."""
    volume, planes = int(np.prod(geometry.shape)), int(geometry.shape[0])
    size, pitch = volume * LANES, volume // planes * LANES + GAP
    f1, f2, b = levels.b1.shape[1], levels.b2.shape[1], levels.filters_in.shape[1] // volume
    window, parts = int(geometry.slots.max()) + 2, len(set(geometry.parts.tolist()))

    def zeros(*shape: int) -> Any:
        return np.zeros(shape, levels.a1.dtype)

    return Workspace(
        psi=zeros(size),
        at=zeros(size),
        slopes=zeros(stages * size),
        modes=zeros(size),
        scratch=zeros(2, size),
        column=zeros(int(max(geometry.shape)) * LANES),
        u=zeros(b * (size + GAP)),
        out=zeros(-(-b // ROWS) * ROWS * (size + GAP)),
        h1=zeros(window * f1 * pitch),
        d1=zeros(window * f1 * pitch),
        sums=zeros(parts * f1 * pitch),
        h2=zeros(f2 * pitch),
        d2=zeros(f2 * pitch),
        total=np.zeros(LANES),
        log_q=np.zeros(LANES),
    )


# Nothing of this needs memory of its own, so that no references are counted. No assumption is made of the numbers: a
# field that diverges must come out as one that has.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

compiled = numba.njit(**OPTIONS)
inlined = numba.njit(forceinline=True, **OPTIONS)
"""Tuples of arrays are passed by value, which costs more than many a function does."""

"""The flow of the interaction network for tiles of fields, compiled by Numba: one pass over memory that stays in cache.

A tile is :data:`~dmmc.core.vectors.LANES` fields, of which the i-th number of all stands together, so that every
operation works on whole vectors of the machine whatever the lattice is, and no field can enter the numbers of another.
A tile is carried through all integration steps before the next one begins. Fourier coefficients are those of the real
basis of :mod:`dmmc.model.real_modes`, transforms are products with small matrices, and the site-wise layers go over the
lattice plane by plane, with no more planes of the first layer in memory than a shell of neighbours reaches.

Everything here works on flat arrays, and checks no index; :mod:`dmmc.model.fused` prepares them. The letters are those
of :mod:`dmmc.model.interaction`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from dmmc.core.vectors import LANES, add, inverse_root, load, multiply, multiply_add, none, ones, spread, store, subtract, widen

ROWS = 4
"""Rows of a matrix that are worked on at once. Channels are padded to multiples of it with zeros."""

TERMS = 4
"""Neighbours that are added at once."""


class Geometry(NamedTuple):
    """The lattice.

    Attributes:
        shape: extents ``(d,)``.
        split: for each axis, whether it is taken in halves (:mod:`dmmc.model.real_modes`).
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
        filters_in, filters_out: ``(C + v)^(1/2) D R / rms`` and ``(C + v)^(-1/2) D Q / rms`` on the modes, ``(n, B V)``.
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
    size, plane = volume * LANES, volume // planes * LANES
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
        u=zeros(b * size),
        out=zeros(-(-b // ROWS) * ROWS * size),
        h1=zeros(window * f1 * plane),
        d1=zeros(window * f1 * plane),
        sums=zeros(parts * f1 * plane),
        h2=zeros(f2 * plane),
        d2=zeros(f2 * plane),
        total=np.zeros(LANES),
        log_q=np.zeros(LANES),
    )


# Neither is anything assumed of the numbers: a field that diverges must come out as one that has.
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
_inline = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True, _nrt=False)


@_inline
def _times(m, row, columns, x, at, step, second, sums):  # type: ignore[no-untyped-def]
    """Add :data:`ROWS` rows of ``m x`` to ``sums``, for the vectors of x at ``at`` and ``second`` further on."""
    a0, a1, a2, a3, b0, b1, b2, b3 = sums
    r0 = row * columns
    r1, r2, r3 = r0 + columns, r0 + 2 * columns, r0 + 3 * columns
    for k in range(columns):
        p, q = load(x, at + k * step), load(x, at + k * step + second)
        w = spread(m, r0 + k)
        a0, b0 = multiply_add(w, p, a0), multiply_add(w, q, b0)
        w = spread(m, r1 + k)
        a1, b1 = multiply_add(w, p, a1), multiply_add(w, q, b1)
        w = spread(m, r2 + k)
        a2, b2 = multiply_add(w, p, a2), multiply_add(w, q, b2)
        w = spread(m, r3 + k)
        a3, b3 = multiply_add(w, p, a3), multiply_add(w, q, b3)
    return a0, a1, a2, a3, b0, b1, b2, b3


@_inline
def _begin(bias, row):  # type: ignore[no-untyped-def]
    c0, c1, c2, c3 = spread(bias, row), spread(bias, row + 1), spread(bias, row + 2), spread(bias, row + 3)
    return c0, c1, c2, c3, c0, c1, c2, c3


@_inline
def _activate(z, h, d, at, slopes):  # type: ignore[no-untyped-def]
    """Put ``h(z)`` and, if ``slopes``, ``h'(z)`` to their places."""
    r = inverse_root(multiply_add(z, z, ones(z)))
    store(h, at, multiply(z, r))
    if slopes:
        store(d, at, multiply(r, multiply(r, r)))


@_inline
def _activate_all(z, h, d, at, step, second, slopes):  # type: ignore[no-untyped-def]
    a0, a1, a2, a3, b0, b1, b2, b3 = z
    _activate(a0, h, d, at, slopes)
    _activate(b0, h, d, at + second, slopes)
    _activate(a1, h, d, at + step, slopes)
    _activate(b1, h, d, at + step + second, slopes)
    _activate(a2, h, d, at + 2 * step, slopes)
    _activate(b2, h, d, at + 2 * step + second, slopes)
    _activate(a3, h, d, at + 3 * step, slopes)
    _activate(b3, h, d, at + 3 * step + second, slopes)


@_jit
def _to_sites(x, begin, out, start, extent, split, rest, m):  # type: ignore[no-untyped-def]
    """Transform the first axis of ``(L, rest)`` at ``x[begin:]``, which becomes the last one at ``out[start:]``."""
    size = rest * LANES
    if not split:
        _rotate_through(x, begin, out, start, extent, rest, m[0])
        return
    n = extent // 2
    even, odd = m[0], m[1]
    for i in range(0, n, ROWS):
        r0 = i * n
        r1, r2, r3 = r0 + n, r0 + 2 * n, r0 + 3 * n
        for j in range(rest):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = none(x)
            for k in range(n):
                at = begin + k * size + j * LANES
                p, q = load(x, at), load(x, at + n * size)
                a0, b0 = multiply_add(spread(even, r0 + k), p, a0), multiply_add(spread(odd, r0 + k), q, b0)
                a1, b1 = multiply_add(spread(even, r1 + k), p, a1), multiply_add(spread(odd, r1 + k), q, b1)
                a2, b2 = multiply_add(spread(even, r2 + k), p, a2), multiply_add(spread(odd, r2 + k), q, b2)
                a3, b3 = multiply_add(spread(even, r3 + k), p, a3), multiply_add(spread(odd, r3 + k), q, b3)
            low, left = start + (j * extent + i) * LANES, n - i
            high = low + n * LANES
            store(out, low, add(a0, b0))
            store(out, high, subtract(a0, b0))
            if left > 1:
                store(out, low + LANES, add(a1, b1))
                store(out, high + LANES, subtract(a1, b1))
            if left > 2:
                store(out, low + 2 * LANES, add(a2, b2))
                store(out, high + 2 * LANES, subtract(a2, b2))
            if left > 3:
                store(out, low + 3 * LANES, add(a3, b3))
                store(out, high + 3 * LANES, subtract(a3, b3))


@_jit
def _to_modes(x, begin, out, start, extent, split, rest, m):  # type: ignore[no-untyped-def]
    """The inverse, of x from its place ``begin`` on."""
    size = rest * LANES
    if not split:
        _rotate_through(x, begin, out, start, extent, rest, m[0])
        return
    n = extent // 2
    even, odd = m[0], m[1]
    for i in range(0, n, ROWS):
        r0 = i * n
        r1, r2, r3 = r0 + n, r0 + 2 * n, r0 + 3 * n
        for j in range(rest):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = none(x)
            for k in range(n):
                at = begin + k * size + j * LANES
                low, high = load(x, at), load(x, at + n * size)
                p, q = add(low, high), subtract(low, high)
                a0, b0 = multiply_add(spread(even, r0 + k), p, a0), multiply_add(spread(odd, r0 + k), q, b0)
                a1, b1 = multiply_add(spread(even, r1 + k), p, a1), multiply_add(spread(odd, r1 + k), q, b1)
                a2, b2 = multiply_add(spread(even, r2 + k), p, a2), multiply_add(spread(odd, r2 + k), q, b2)
                a3, b3 = multiply_add(spread(even, r3 + k), p, a3), multiply_add(spread(odd, r3 + k), q, b3)
            to, left = start + (j * extent + i) * LANES, n - i
            store(out, to, a0)
            store(out, to + n * LANES, b0)
            if left > 1:
                store(out, to + LANES, a1)
                store(out, to + (n + 1) * LANES, b1)
            if left > 2:
                store(out, to + 2 * LANES, a2)
                store(out, to + (n + 2) * LANES, b2)
            if left > 3:
                store(out, to + 3 * LANES, a3)
                store(out, to + (n + 3) * LANES, b3)


@_jit
def _rotate_through(x, begin, out, start, extent, rest, m):  # type: ignore[no-untyped-def]
    """Either way for an axis that is not split."""
    size = rest * LANES
    for i in range(extent):
        for j in range(rest):
            total = none(x)
            for k in range(extent):
                total = multiply_add(spread(m, i * extent + k), load(x, begin + k * size + j * LANES), total)
            store(out, start + (j * extent + i) * LANES, total)


@_jit
def _transform(x, begin, out, start, shape, split, basis, forward, scratch):  # type: ignore[no-untyped-def]
    """Sites at ``x[begin:]`` to modes at ``out[start:]`` (``forward``), or modes to sites; axis after axis."""
    volume, d = 1, len(shape)
    for extent in shape:
        volume *= extent
    for axis in range(d):
        extent, to, at = shape[axis], scratch[axis % 2], 0
        if axis == d - 1:
            to, at = out, start
        if forward:
            _to_modes(x, begin, to, at, extent, split[axis], volume // extent, basis[axis, 1])
        else:
            _to_sites(x, begin, to, at, extent, split[axis], volume // extent, basis[axis, 0])
        x, begin = to, at


@_inline
def _four(x, at, a, b, c, d):  # type: ignore[no-untyped-def]
    return add(add(load(x, at + a), load(x, at + b)), add(load(x, at + c), load(x, at + d)))


@_inline
def _shells(window, y, g, channels, plane, sums):  # type: ignore[no-untyped-def]
    """The sums over the parts of shells around plane y, of the channels in a window of planes."""
    block, last = channels * plane, -1
    for group in range(len(g.parts)):
        part, places, sites = g.parts[group], g.places[y, group], g.sites[group]
        p, q, r, t = places[0] * block, places[1] * block, places[2] * block, places[3] * block
        for channel in range(0, block, ROWS * plane):
            for site in range(plane // LANES):
                a, b, c, d = p + sites[site, 0], q + sites[site, 1], r + sites[site, 2], t + sites[site, 3]
                to = part * block + channel + site * LANES
                for i in range(channel, channel + ROWS * plane, plane):
                    total = _four(window, i, a, b, c, d)
                    if part == last:
                        total = add(load(sums, to), total)
                    store(sums, to, total)
                    to += plane
        last = part


@_inline
def _first_layer(y, k, g, n, plane, w, slopes):  # type: ignore[no-untyped-def]
    size, f1 = len(w.psi), n.b1.shape[1]
    b, place = len(w.u) // size, g.slots[y] * f1 * plane
    a1, b1 = n.a1[k], n.b1[k]
    for i in range(0, f1, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            z = _times(a1, i, b, w.u, y * plane + j, size, second, _begin(b1, i))
            _activate_all(z, w.h1, w.d1, place + i * plane + j, plane, second, slopes)


@_inline
def _second_layer(y, k, g, n, plane, w, slopes):  # type: ignore[no-untyped-def]
    size, f1, f2 = len(w.psi), n.b1.shape[1], n.b2.shape[1]
    b, place = len(w.u) // size, g.slots[y] * f1 * plane
    parts = len(w.sums) // (f1 * plane)
    a2, w0, around, b2 = n.a2[k], n.w0[k], n.w[k], n.b2[k]
    for i in range(0, f2, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            z = _times(a2, i, b, w.u, y * plane + j, size, second, _begin(b2, i))
            z = _times(w0, i, f1, w.h1, place + j, plane, second, z)
            z = _times(around, i, parts * f1, w.sums, j, plane, second, z)
            _activate_all(z, w.h2, w.d2, i * plane + j, plane, second, slopes)


@_inline
def _output(y, k, g, n, plane, w):  # type: ignore[no-untyped-def]
    size, f1, f2 = len(w.psi), n.b1.shape[1], n.b2.shape[1]
    b, place = len(w.u) // size, g.slots[y] * f1 * plane
    lin, o1, o2 = n.lin[k], n.o1[k], n.o2[k]
    for i in range(0, b, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            zero = none(w.u)
            z = (zero, zero, zero, zero, zero, zero, zero, zero)
            z = _times(lin, i, b, w.u, y * plane + j, size, second, z)
            z = _times(o1, i, f1, w.h1, place + j, plane, second, z)
            a0, a1, a2, a3, b0, b1, b2, b3 = _times(o2, i, f2, w.h2, j, plane, second, z)
            at = i * size + y * plane + j
            store(w.out, at, a0)
            store(w.out, at + second, b0)
            store(w.out, at + size, a1)
            store(w.out, at + size + second, b1)
            store(w.out, at + 2 * size, a2)
            store(w.out, at + 2 * size + second, b2)
            store(w.out, at + 3 * size, a3)
            store(w.out, at + 3 * size + second, b3)


@_inline
def _trace(y, k, g, n, plane, w):  # type: ignore[no-untyped-def]
    """Add the trace of plane y to ``w.total``; ``w.sums`` are those of the slopes."""
    f1, f2 = n.b1.shape[1], n.b2.shape[1]
    parts, place = len(w.sums) // (f1 * plane), g.slots[y] * f1 * plane
    t1, t2, c0, c = n.t1[k], n.t2[k], n.c0[k], n.c[k]
    for j in range(0, plane, 2 * LANES):
        second = LANES if j + LANES < plane else 0
        p = q = none(w.d2)
        for f in range(f1):
            t, at = spread(t1, f), place + f * plane + j
            p, q = multiply_add(t, load(w.d1, at), p), multiply_add(t, load(w.d1, at + second), q)
        for i in range(0, f2, ROWS):
            z = _times(c0, i, f1, w.d1, place + j, plane, second, _begin(t2, i))
            a0, a1, a2, a3, b0, b1, b2, b3 = _times(c, i, parts * f1, w.sums, j, plane, second, z)
            at = i * plane + j
            p, q = multiply_add(load(w.d2, at), a0, p), multiply_add(load(w.d2, at + second), b0, q)
            at += plane
            p, q = multiply_add(load(w.d2, at), a1, p), multiply_add(load(w.d2, at + second), b1, q)
            at += plane
            p, q = multiply_add(load(w.d2, at), a2, p), multiply_add(load(w.d2, at + second), b2, q)
            at += plane
            p, q = multiply_add(load(w.d2, at), a3, p), multiply_add(load(w.d2, at + second), b3, q)
        total = add(load(w.total, 0), widen(p))
        if second:
            total = add(total, widen(q))
        store(w.total, 0, total)


@_inline
def _evaluate(x, k, g, n, w, to, slopes):  # type: ignore[no-untyped-def]
    """The velocity of the modes ``x`` at level k to ``w.slopes[to:]``, and the trace to ``w.total`` if ``slopes``."""
    size, planes = len(x), g.shape[0]
    plane, volume = size // planes, size // LANES
    b, f1 = len(w.u) // size, n.b1.shape[1]
    filters_in, filters_out = n.filters_in[k], n.filters_out[k]
    for i in range(b):
        for site in range(volume):
            filtered = multiply(spread(filters_in, i * volume + site), load(x, site * LANES))
            store(w.modes, site * LANES, filtered)
        _transform(w.modes, 0, w.u, i * size, g.shape, g.split, g.basis, False, w.scratch)
    w.total[:] = 0
    # All planes that the first one needs, then one more for each, but those that keep their places.
    rolling = planes > 4 * g.reach + 1
    for ahead in range(-g.reach if rolling else g.reach - planes, planes + g.reach):
        if ahead < g.reach or (rolling and ahead < planes - g.reach):
            _first_layer(ahead % planes, k, g, n, plane, w, slopes)
        y = ahead - g.reach
        if y < 0:
            continue
        _shells(w.h1, y, g, f1, plane, w.sums)
        _second_layer(y, k, g, n, plane, w, slopes)
        _output(y, k, g, n, plane, w)
        if slopes:
            _shells(w.d1, y, g, f1, plane, w.sums)
            _trace(y, k, g, n, plane, w)
    for i in range(b):
        _transform(w.out, i * size, w.u, i * size, g.shape, g.split, g.basis, True, w.scratch)
    for site in range(volume):
        total = none(x)
        for i in range(b):
            total = multiply_add(spread(filters_out, i * volume + site), load(w.u, i * size + site * LANES), total)
        store(w.slopes, to + site * LANES, total)


@_jit
def _advance(x, count, weights, slopes, to):  # type: ignore[no-untyped-def]
    """``x`` and the first ``count`` slopes, each times its weight."""
    for i in range(0, len(x), LANES):
        total = load(x, i)
        for j in range(count):
            total = multiply_add(spread(weights, j), load(slopes, j * len(x) + i), total)
        store(to, i, total)


@_jit
def carry(x, first, last, g, n, p, w, traced, out, change):  # type: ignore[no-untyped-def]
    """Carry tiles ``first`` to ``last`` of fields ``x`` on the sites through all steps.

    Args:
        x: standardised fields ``(fields, V)``.
        first, last: the tiles; the last one may be incomplete.
        g, n, p, w: :class:`Geometry`, :class:`Levels`, :class:`Program` and :class:`Workspace`.
        traced: whether the trace is wanted.
        out: the fields at the end, as ``x``.
        change: of log q, ``(fields,)`` float64; not written to unless ``traced``.
    """
    fields, volume = x.shape
    stages = p.b.shape[1]
    for tile in range(first, last):
        begin = tile * LANES
        used = min(LANES, fields - begin)
        w.at[:] = 0
        for lane in range(used):
            for site in range(volume):
                w.at[site * LANES + lane] = x[begin + lane, site]
        _transform(w.at, 0, w.psi, 0, g.shape, g.split, g.basis, True, w.scratch)
        w.log_q[:] = 0
        for step in range(len(p.b)):
            for i in range(stages):
                k = p.level[step, i]
                _advance(w.psi, i, p.a[step, i], w.slopes, w.at)
                _evaluate(w.at, k, g, n, w, i * len(w.at), traced)
                for lane in range(LANES):
                    w.log_q[lane] += p.weight[step, i] * (w.total[lane] + n.constant[k])
            _advance(w.psi, stages, p.b[step], w.slopes, w.psi)
        _transform(w.psi, 0, w.at, 0, g.shape, g.split, g.basis, False, w.scratch)
        for lane in range(used):
            for site in range(volume):
                out[begin + lane, site] = w.at[site * LANES + lane]
            if traced:
                change[begin + lane] = w.log_q[lane]

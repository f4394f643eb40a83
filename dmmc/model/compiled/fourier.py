"""Transforms between sites and the modes of :mod:`dmmc.model.compiled.real_modes`, of all fields of a tile at once."""

from __future__ import annotations

from dmmc.core.vectors import LANES, add, load, multiply_add, none, spread, store, subtract
from dmmc.model.compiled.tiles import ROWS, compiled


@compiled
def _to_sites(x, begin, out, start, extent, split, rest, m, column):
    """Transform the first axis of ``(L, rest)`` at ``x[begin:]``, which becomes the last one at ``out[start:]``."""
    size = rest * LANES
    if not split:
        _rotate_through(x, begin, out, start, extent, rest, m[0])
        return
    n = extent // 2
    even, odd = m[0], m[1]
    for j in range(rest):
        # In its place a column is spread over memory, and is read again for each block of rows.
        for k in range(extent):
            store(column, k * LANES, load(x, begin + k * size + j * LANES))
        for i in range(0, n, ROWS):
            r0 = i * n
            r1, r2, r3 = r0 + n, r0 + 2 * n, r0 + 3 * n
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = none(x)
            for k in range(n):
                p, q = load(column, k * LANES), load(column, (n + k) * LANES)
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


@compiled
def _to_modes(x, begin, out, start, extent, split, rest, m, column):
    """The inverse, of x from its place ``begin`` on."""
    size = rest * LANES
    if not split:
        _rotate_through(x, begin, out, start, extent, rest, m[0])
        return
    n = extent // 2
    even, odd = m[0], m[1]
    for j in range(rest):
        for k in range(n):
            at = begin + k * size + j * LANES
            low, high = load(x, at), load(x, at + n * size)
            store(column, k * LANES, add(low, high))
            store(column, (n + k) * LANES, subtract(low, high))
        for i in range(0, n, ROWS):
            r0 = i * n
            r1, r2, r3 = r0 + n, r0 + 2 * n, r0 + 3 * n
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = none(x)
            for k in range(n):
                p, q = load(column, k * LANES), load(column, (n + k) * LANES)
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


@compiled
def _rotate_through(x, begin, out, start, extent, rest, m):
    """Either way for an axis that is not split."""
    size = rest * LANES
    for i in range(extent):
        for j in range(rest):
            total = none(x)
            for k in range(extent):
                total = multiply_add(spread(m, i * extent + k), load(x, begin + k * size + j * LANES), total)
            store(out, start + (j * extent + i) * LANES, total)


@compiled
def transform(x, begin, out, start, shape, split, basis, forward, scratch, column):
    """Sites at ``x[begin:]`` to modes at ``out[start:]`` (``forward``), or modes to sites; axis after axis."""
    volume, d = 1, len(shape)
    for extent in shape:
        volume *= extent
    for axis in range(d):
        extent, to, at = shape[axis], scratch[axis % 2], 0
        if axis == d - 1:
            to, at = out, start
        if forward:
            _to_modes(x, begin, to, at, extent, split[axis], volume // extent, basis[axis, 1], column)
        else:
            _to_sites(x, begin, to, at, extent, split[axis], volume // extent, basis[axis, 0], column)
        x, begin = to, at

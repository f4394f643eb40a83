"""The site-wise layers of the interaction network on one plane of the lattice, for all fields of a tile at once."""

from __future__ import annotations

from dmmc.core.vectors import LANES, add, inverse_root, load, multiply, multiply_add, none, ones, spread, store, widen
from dmmc.model.compiled.tiles import GAP, ROWS, inlined


@inlined
def _times(m, row, columns, x, at, step, second, sums):
    """Add ``ROWS`` rows of ``m x`` to ``sums``, for the vectors of x at ``at`` and ``second`` further on."""
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


@inlined
def _begin(bias, row):
    c0, c1, c2, c3 = spread(bias, row), spread(bias, row + 1), spread(bias, row + 2), spread(bias, row + 3)
    return c0, c1, c2, c3, c0, c1, c2, c3


@inlined
def _activate(z, h, d, at, slopes):
    """Put ``h(z)`` and, if ``slopes``, ``h'(z)`` to their places."""
    r = inverse_root(multiply_add(z, z, ones(z)))
    store(h, at, multiply(z, r))
    if slopes:
        store(d, at, multiply(r, multiply(r, r)))


@inlined
def _activate_all(z, h, d, at, step, second, slopes):
    a0, a1, a2, a3, b0, b1, b2, b3 = z
    _activate(a0, h, d, at, slopes)
    _activate(b0, h, d, at + second, slopes)
    _activate(a1, h, d, at + step, slopes)
    _activate(b1, h, d, at + step + second, slopes)
    _activate(a2, h, d, at + 2 * step, slopes)
    _activate(b2, h, d, at + 2 * step + second, slopes)
    _activate(a3, h, d, at + 3 * step, slopes)
    _activate(b3, h, d, at + 3 * step + second, slopes)


@inlined
def _four(x, at, a, b, c, d):
    return add(add(load(x, at + a), load(x, at + b)), add(load(x, at + c), load(x, at + d)))


@inlined
def sum_shells(window, y, g, channels, plane, sums):
    """The sums over the parts of shells around plane y, of the channels in a window of planes."""
    pitch = plane + GAP
    block, last = channels * pitch, -1
    for group in range(len(g.parts)):
        part, places, sites = g.parts[group], g.places[y, group], g.sites[group]
        p, q, r, t = places[0] * block, places[1] * block, places[2] * block, places[3] * block
        for channel in range(0, block, ROWS * pitch):
            for site in range(plane // LANES):
                a, b, c, d = p + sites[site, 0], q + sites[site, 1], r + sites[site, 2], t + sites[site, 3]
                to = part * block + channel + site * LANES
                for i in range(channel, channel + ROWS * pitch, pitch):
                    total = _four(window, i, a, b, c, d)
                    if part == last:
                        total = add(load(sums, to), total)
                    store(sums, to, total)
                    to += pitch
        last = part


@inlined
def first_layer(y, k, g, n, plane, w, slopes):
    pitch, row, f1 = plane + GAP, len(w.psi) + GAP, n.b1.shape[1]
    b, place = len(w.u) // row, g.slots[y] * f1 * pitch
    a1, b1 = n.a1[k], n.b1[k]
    for i in range(0, f1, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            z = _times(a1, i, b, w.u, y * plane + j, row, second, _begin(b1, i))
            _activate_all(z, w.h1, w.d1, place + i * pitch + j, pitch, second, slopes)


@inlined
def second_layer(y, k, g, n, plane, w, slopes):
    pitch, row, f1, f2 = plane + GAP, len(w.psi) + GAP, n.b1.shape[1], n.b2.shape[1]
    b, place = len(w.u) // row, g.slots[y] * f1 * pitch
    parts = len(w.sums) // (f1 * pitch)
    a2, w0, around, b2 = n.a2[k], n.w0[k], n.w[k], n.b2[k]
    for i in range(0, f2, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            z = _times(a2, i, b, w.u, y * plane + j, row, second, _begin(b2, i))
            z = _times(w0, i, f1, w.h1, place + j, pitch, second, z)
            z = _times(around, i, parts * f1, w.sums, j, pitch, second, z)
            _activate_all(z, w.h2, w.d2, i * pitch + j, pitch, second, slopes)


@inlined
def output(y, k, g, n, plane, w):
    pitch, row, f1, f2 = plane + GAP, len(w.psi) + GAP, n.b1.shape[1], n.b2.shape[1]
    b, place = len(w.u) // row, g.slots[y] * f1 * pitch
    lin, o1, o2 = n.lin[k], n.o1[k], n.o2[k]
    for i in range(0, b, ROWS):
        for j in range(0, plane, 2 * LANES):
            second = LANES if j + LANES < plane else 0
            zero = none(w.u)
            z = (zero, zero, zero, zero, zero, zero, zero, zero)
            z = _times(lin, i, b, w.u, y * plane + j, row, second, z)
            z = _times(o1, i, f1, w.h1, place + j, pitch, second, z)
            a0, a1, a2, a3, b0, b1, b2, b3 = _times(o2, i, f2, w.h2, j, pitch, second, z)
            at = i * row + y * plane + j
            store(w.out, at, a0)
            store(w.out, at + second, b0)
            store(w.out, at + row, a1)
            store(w.out, at + row + second, b1)
            store(w.out, at + 2 * row, a2)
            store(w.out, at + 2 * row + second, b2)
            store(w.out, at + 3 * row, a3)
            store(w.out, at + 3 * row + second, b3)


@inlined
def trace(y, k, g, n, plane, w):
    """Add the trace of plane y to ``w.total``; ``w.sums`` are those of the slopes."""
    pitch, f1, f2 = plane + GAP, n.b1.shape[1], n.b2.shape[1]
    parts, place = len(w.sums) // (f1 * pitch), g.slots[y] * f1 * pitch
    t1, t2, c0, c = n.t1[k], n.t2[k], n.c0[k], n.c[k]
    for j in range(0, plane, 2 * LANES):
        second = LANES if j + LANES < plane else 0
        p = q = none(w.d2)
        for f in range(f1):
            t, at = spread(t1, f), place + f * pitch + j
            p, q = multiply_add(t, load(w.d1, at), p), multiply_add(t, load(w.d1, at + second), q)
        for i in range(0, f2, ROWS):
            z = _times(c0, i, f1, w.d1, place + j, pitch, second, _begin(t2, i))
            a0, a1, a2, a3, b0, b1, b2, b3 = _times(c, i, parts * f1, w.sums, j, pitch, second, z)
            at = i * pitch + j
            p, q = multiply_add(load(w.d2, at), a0, p), multiply_add(load(w.d2, at + second), b0, q)
            at += pitch
            p, q = multiply_add(load(w.d2, at), a1, p), multiply_add(load(w.d2, at + second), b1, q)
            at += pitch
            p, q = multiply_add(load(w.d2, at), a2, p), multiply_add(load(w.d2, at + second), b2, q)
            at += pitch
            p, q = multiply_add(load(w.d2, at), a3, p), multiply_add(load(w.d2, at + second), b3, q)
        total = add(load(w.total, 0), widen(p))
        if second:
            total = add(total, widen(q))
        store(w.total, 0, total)

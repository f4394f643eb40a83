"""Evaluations of the network and integration steps, for tile after tile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba

from dmmc.core import vectors
from dmmc.core.vectors import LANES, load, multiply, multiply_add, none, spread, store
from dmmc.model.compiled.fourier import transform
from dmmc.model.compiled.layers import first_layer, output, second_layer, sum_shells, trace
from dmmc.model.compiled.tiles import GAP, OPTIONS, compiled, inlined


@inlined
def _evaluate(x, k, g, n, w, to, slopes):
    """The velocity of the modes ``x`` at level k to ``w.slopes[to:]``, and the trace to ``w.total`` if ``slopes``."""
    size, planes = len(x), g.shape[0]
    plane, volume = size // planes, size // LANES
    row, f1 = size + GAP, n.b1.shape[1]
    b = len(w.u) // row
    filters_in, filters_out = n.filters_in[k], n.filters_out[k]
    for i in range(b):
        for site in range(volume):
            filtered = multiply(spread(filters_in, i * volume + site), load(x, site * LANES))
            store(w.modes, site * LANES, filtered)
        transform(w.modes, 0, w.u, i * row, g.shape, g.split, g.basis, False, w.scratch, w.column)
    w.total[:] = 0
    # All planes that the first one needs, then one more for each, but those that keep their places.
    rolling = planes > 4 * g.reach + 1
    for ahead in range(-g.reach if rolling else g.reach - planes, planes + g.reach):
        if ahead < g.reach or (rolling and ahead < planes - g.reach):
            first_layer(ahead % planes, k, g, n, plane, w, slopes)
        y = ahead - g.reach
        if y < 0:
            continue
        sum_shells(w.h1, y, g, f1, plane, w.sums)
        second_layer(y, k, g, n, plane, w, slopes)
        output(y, k, g, n, plane, w)
        if slopes:
            sum_shells(w.d1, y, g, f1, plane, w.sums)
            trace(y, k, g, n, plane, w)
    for i in range(b):
        transform(w.out, i * row, w.u, i * row, g.shape, g.split, g.basis, True, w.scratch, w.column)
    for site in range(volume):
        total = none(x)
        for i in range(b):
            total = multiply_add(spread(filters_out, i * volume + site), load(w.u, i * row + site * LANES), total)
        store(w.slopes, to + site * LANES, total)


@compiled
def _advance(x, count, weights, slopes, to):
    """``x`` and the first ``count`` slopes, each times its weight."""
    for i in range(0, len(x), LANES):
        total = load(x, i)
        for j in range(count):
            total = multiply_add(spread(weights, j), load(slopes, j * len(x) + i), total)
        store(to, i, total)


def _sources() -> str:
    """A digest of everything that is compiled."""
    files = [Path(vectors.__file__), *sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _make(digest: str, cache: bool) -> Callable[..., None]:
    # Numba looks for changes in the file of a function alone, and at the values that it encloses.
    @numba.njit(cache=cache, **OPTIONS)
    def carry(x, first, last, g, n, p, w, traced, out, change):
        """Carry tiles ``first`` to ``last`` of fields ``x`` on the sites through all steps.

        Args:
            x: standardised fields ``(fields, V)``.
            first, last: the tiles; the last one may be incomplete.
            g, n, p, w: ``Geometry``, ``Levels``, ``Program`` and ``Workspace``.
            traced: whether the trace is wanted.
            out: the fields at the end, as ``x``.
            change: of log q, ``(fields,)`` float64; not written to unless ``traced``.
        """
        digest  # noqa: B018
        fields, volume = x.shape
        stages = p.b.shape[1]
        for tile in range(first, last):
            begin = tile * LANES
            used = min(LANES, fields - begin)
            w.at[:] = 0
            for lane in range(used):
                for site in range(volume):
                    w.at[site * LANES + lane] = x[begin + lane, site]
            transform(w.at, 0, w.psi, 0, g.shape, g.split, g.basis, True, w.scratch, w.column)
            w.log_q[:] = 0
            for step in range(len(p.b)):
                for i in range(stages):
                    k = p.level[step, i]
                    _advance(w.psi, i, p.a[step, i], w.slopes, w.at)
                    weight = p.weight[step, i]
                    _evaluate(w.at, k, g, n, w, i * len(w.at), traced and weight != 0)
                    for lane in range(LANES):
                        w.log_q[lane] += weight * (w.total[lane] + n.constant[k])
                _advance(w.psi, stages, p.b[step], w.slopes, w.psi)
            transform(w.psi, 0, w.at, 0, g.shape, g.split, g.basis, False, w.scratch, w.column)
            for lane in range(used):
                for site in range(volume):
                    out[begin + lane, site] = w.at[site * LANES + lane]
                if traced:
                    change[begin + lane] = w.log_q[lane]

    return carry


try:
    carry = _make(_sources(), cache=True)
except RuntimeError:  # no place to keep machine code can be written to
    carry = _make(_sources(), cache=False)

"""Triton kernels of the site-wise layers of the interaction network (:mod:`dmmc.model.layers`), for a scalar field.

A program works on a block of sites of all fields, which lie one after another. Products are those of float32 numbers,
without the shorter mantissa of TF32. A sum is made in the same order every time, so the bits are always the same.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmc.model.memo import Prepared

SITES, WARPS = 64, 4
"""Sites of a program, and the warps that share them."""

LEAST = 16
"""Least extent of the factors in a product of matrices; channels are padded to it, or to the next power of two."""


@triton.jit
def _matrix(m, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A matrix ``(rows, columns)`` with zeros beside it."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(m + i * columns + j, mask=(i < rows) & (j < columns), other=0.0)


@triton.jit
def _vector(x, n, N: tl.constexpr):
    i = tl.arange(0, N)
    return tl.load(x + i, mask=i < n, other=0.0)[:, None]


@triton.jit
def _channels(x, n, at, total, inside, N: tl.constexpr):
    """Channels ``(n, total)`` at some sites."""
    i = tl.arange(0, N)[:, None]
    return tl.load(x + i.to(tl.int64) * total + at[None, :], mask=(i < n) & inside[None, :], other=0.0)


@triton.jit
def _store(x, values, n, at, total, inside, N: tl.constexpr):
    i = tl.arange(0, N)[:, None]
    tl.store(x + i.to(tl.int64) * total + at[None, :], values, mask=(i < n) & inside[None, :])


@triton.jit
def _first_layer(
    u, a1, b1, h, d, total, b, f1,
    B: tl.constexpr, F1: tl.constexpr, SITES: tl.constexpr, BIASED: tl.constexpr, TRACED: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * SITES + tl.arange(0, SITES)
    inside = at < total
    z = tl.dot(_matrix(a1, f1, b, F1, B), _channels(u, b, at, total, inside, B), input_precision="ieee")
    if BIASED:
        z += _vector(b1, f1, F1)
    r = 1.0 / tl.sqrt_rn(z * z + 1.0)
    _store(h, z * r, f1, at, total, inside, F1)
    if TRACED:
        _store(d, r * r * r, f1, at, total, inside, F1)


@triton.jit
def _second_layer(
    u, h, d, neighbours, starts, a2, b2, w, lin, o1, o2, t1, t2, c, out, trace, total, volume, parts, b, f1, f2,
    B: tl.constexpr, F1: tl.constexpr, F2: tl.constexpr, SITES: tl.constexpr, BIASED: tl.constexpr,
    TRACED: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * SITES + tl.arange(0, SITES)
    inside = at < total
    site = at % volume
    field = at - site
    filtered = _channels(u, b, at, total, inside, B)
    z = tl.dot(_matrix(a2, f2, b, F2, B), filtered, input_precision="ieee")
    if BIASED:
        z += _vector(b2, f2, F2)
    coupled = tl.zeros((F2, SITES), tl.float32)
    for part in range(parts):
        around = tl.zeros((F1, SITES), tl.float32)
        slopes = tl.zeros((F1, SITES), tl.float32)
        for term in range(tl.load(starts + part), tl.load(starts + part + 1)):
            there = field + tl.load(neighbours + term * volume + site, mask=inside, other=0)
            around += _channels(h, f1, there, total, inside, F1)
            if TRACED:
                slopes += _channels(d, f1, there, total, inside, F1)
        z += tl.dot(_matrix(w + part * f2 * f1, f2, f1, F2, F1), around, input_precision="ieee")
        if TRACED:
            coupled += tl.dot(_matrix(c + part * f2 * f1, f2, f1, F2, F1), slopes, input_precision="ieee")
    r = 1.0 / tl.sqrt_rn(z * z + 1.0)
    result = tl.dot(_matrix(lin, b, b, B, B), filtered, input_precision="ieee")
    result += tl.dot(_matrix(o1, b, f1, B, F1), _channels(h, f1, at, total, inside, F1), input_precision="ieee")
    result += tl.dot(_matrix(o2, b, f2, B, F2), z * r, input_precision="ieee")
    _store(out, result, b, at, total, inside, B)
    if TRACED:
        own = tl.sum(_vector(t1, f1, F1) * _channels(d, f1, at, total, inside, F1), 0)
        own += tl.sum(r * r * r * (coupled + _vector(t2, f2, F2)), 0)
        tl.store(trace + at, own, mask=inside)


def padded(n: int) -> int:
    """Channels with those that are added to them."""
    return max(LEAST, triton.next_power_of_2(n))


def site_layers(
    u: Tensor, neighbours: Tensor, starts: Tensor, m: Prepared, t: Prepared | None
) -> tuple[Tensor, Tensor | None]:
    """Both layers, and the part of the trace that depends on the field.

    Args:
        u: filtered fields ``(B, n V)`` float32.
        neighbours, starts: as :func:`dmmc.model.cuda.layers.neighbour_table` makes them.
        m: the matrices at one noise level, with ``parts``, those of the parts of shells, ``(parts, F2, F1)``.
        t: the coefficients of the trace; None if it is not wanted.

    Returns:
        the output, as ``u``, and the trace site by site, ``(n V,)``.
    """
    u, m = u.contiguous(), {name: x.contiguous() for name, x in m.items()}
    (b, total), f1, f2 = u.shape, m["a1"].shape[0], m["a2"].shape[0]
    h, out = u.new_empty(f1, total), torch.empty_like(u)
    nothing, traced, biased = u.new_empty(0), t is not None, "b1" in m
    d, trace = (torch.empty_like(h), u.new_empty(total)) if traced else (nothing, nothing)
    t = {} if t is None else {name: x.contiguous() for name, x in t.items()}
    grid = (triton.cdiv(total, SITES),)
    sizes = {"B": padded(b), "F1": padded(f1), "SITES": SITES, "BIASED": biased, "TRACED": traced, "num_warps": WARPS}
    b1, b2 = (m.get(name, nothing) for name in ("b1", "b2"))
    t1, t2, c = (t.get(name, nothing) for name in ("first", "second", "coupling"))
    _first_layer[grid](u, m["a1"], b1, h, d, total, b, f1, **sizes)
    _second_layer[grid](
        u, h, d, neighbours, starts, m["a2"], b2, m["parts"], m["lin"], m["o1"], m["o2"], t1, t2, c, out, trace,
        total, neighbours.shape[1], len(starts) - 1, b, f1, f2, F2=padded(f2), **sizes,
    )  # fmt: skip
    return out, trace if traced else None

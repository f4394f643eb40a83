"""Triton kernels of the site-wise layers of the interaction network (:mod:`dmmc.model.layers`), for a scalar field.

A program works on a block of sites of all fields, which lie one after another. Where the device has the unit for TF32,
each product of float32 numbers is made of three products of their halves (``tf32x3``), whose error of about 2^-22 is
below that of the transforms around it. A sum is made in the same order every time, so the bits are always the same.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmc.model.memo import Prepared

SITES, WARPS = 64, 4
"""Sites of a program, and the warps that share them: sixteen sites a warp, the height of a tile of the unit for matrix
products. With more warps than such tiles, Triton 3.6 makes code that reads beyond its shared memory."""

LEAST = 16
"""Least extent of the factors in a product of matrices; channels are padded to it, or to the next power of two."""


@triton.jit
def _matrix(m, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The transpose of a matrix ``(rows, columns)``, with zeros beside it: ``(COLUMNS, ROWS)``."""
    i, j = tl.arange(0, ROWS)[None, :], tl.arange(0, COLUMNS)[:, None]
    return tl.load(m + i * columns + j, mask=(i < rows) & (j < columns), other=0.0)


@triton.jit
def _vector(x, n, N: tl.constexpr):
    i = tl.arange(0, N)
    return tl.load(x + i, mask=i < n, other=0.0)[None, :]


@triton.jit
def _fields(x, n, at, total, inside, N: tl.constexpr):
    """The numbers of n fields ``(n, total)`` at some sites, ``(SITES, N)``."""
    i = tl.arange(0, N)[None, :]
    return tl.load(x + i.to(tl.int64) * total + at[:, None], mask=(i < n) & inside[:, None], other=0.0)


@triton.jit
def _place(at, which, F1: tl.constexpr, TRACED: tl.constexpr):
    """Where the channels of the first layer (0) or their slopes (1) are at some sites."""
    kinds = 2 if TRACED else 1
    return (at[:, None].to(tl.int64) * kinds + which) * F1 + tl.arange(0, F1)[None, :]


@triton.jit
def _first_layer(
    u, a1, b1, h, total, b, f1,
    B: tl.constexpr, F1: tl.constexpr, SITES: tl.constexpr, BIASED: tl.constexpr, TRACED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * SITES + tl.arange(0, SITES)
    inside = at < total
    z = tl.dot(_fields(u, b, at, total, inside, B), _matrix(a1, f1, b, F1, B), input_precision=PRECISION)
    if BIASED:
        z += _vector(b1, f1, F1)
    r = 1.0 / tl.sqrt_rn(z * z + 1.0)
    tl.store(h + _place(at, 0, F1, TRACED), z * r, mask=inside[:, None])
    if TRACED:
        tl.store(h + _place(at, 1, F1, TRACED), r * r * r, mask=inside[:, None])


@triton.jit
def _second_layer(
    u, h, neighbours, a2, b2, w0, w, lin, o1, o2, t1, t2, c0, c, out, trace, total, volume, groups, b, f1, f2,
    B: tl.constexpr, F1: tl.constexpr, F2: tl.constexpr, SITES: tl.constexpr, TERMS: tl.constexpr,
    BIASED: tl.constexpr, TRACED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * SITES + tl.arange(0, SITES)
    inside = at < total
    site = at % volume
    field = at - site
    filtered = _fields(u, b, at, total, inside, B)
    own = tl.load(h + _place(at, 0, F1, TRACED), mask=inside[:, None], other=0.0)
    z = tl.dot(filtered, _matrix(a2, f2, b, F2, B), input_precision=PRECISION)
    z = tl.dot(own, _matrix(w0, f2, f1, F2, F1), z, input_precision=PRECISION)
    result = tl.dot(filtered, _matrix(lin, b, b, B, B), input_precision=PRECISION)
    result = tl.dot(own, _matrix(o1, b, f1, B, F1), result, input_precision=PRECISION)
    if BIASED:
        z += _vector(b2, f2, F2)
    if TRACED:
        own = tl.load(h + _place(at, 1, F1, TRACED), mask=inside[:, None], other=0.0)
        coupled = tl.dot(own, _matrix(c0, f2, f1, F2, F1), input_precision=PRECISION) + _vector(t2, f2, F2)
        per_site = tl.sum(_vector(t1, f1, F1) * own, 1)
    for group in range(groups):
        around = tl.zeros((SITES, F1), tl.float32)
        slopes = tl.zeros((SITES, F1), tl.float32)
        for term in tl.static_range(TERMS):
            ahead = tl.load(neighbours + (group * TERMS + term) * volume + site, mask=inside, other=-1)
            there, mask = field + ahead, (ahead >= 0)[:, None]
            around += tl.load(h + _place(there, 0, F1, TRACED), mask=mask, other=0.0)
            if TRACED:
                slopes += tl.load(h + _place(there, 1, F1, TRACED), mask=mask, other=0.0)
        z = tl.dot(around, _matrix(w + group * f2 * f1, f2, f1, F2, F1), z, input_precision=PRECISION)
        if TRACED:
            coupled = tl.dot(slopes, _matrix(c + group * f2 * f1, f2, f1, F2, F1), coupled, input_precision=PRECISION)
    r = 1.0 / tl.sqrt_rn(z * z + 1.0)
    result = tl.dot(z * r, _matrix(o2, b, f2, B, F2), result, input_precision=PRECISION)
    i = tl.arange(0, B)[None, :]
    tl.store(out + i.to(tl.int64) * total + at[:, None], result, mask=(i < b) & inside[:, None])
    if TRACED:
        tl.store(trace + at, per_site + tl.sum(r * r * r * coupled, 1), mask=inside)


def padded(n: int) -> int:
    """Channels with those that are added to them."""
    return max(LEAST, triton.next_power_of_2(n))


def precision(device: torch.device) -> str:
    """How float32 numbers are multiplied on a device."""
    modern = device.type == "cuda" and torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32x3" if modern else "ieee"


def site_layers(u: Tensor, m: Prepared, t: Prepared | None) -> tuple[Tensor, Tensor | None]:
    """Both layers, and the part of the trace that depends on the field.

    Args:
        u: filtered fields ``(B, n V)`` float32.
        m: the matrices at one noise level, with that of the site itself, ``own``, those of the groups of neighbours,
            ``around``, and the ``neighbours`` of :func:`dmmc.model.cuda.layers.neighbour_table`.
        t: the coefficients of the trace, with the same names; None if it is not wanted.

    Returns:
        the output, as ``u``, and the trace site by site, ``(n V,)``.
    """
    u, m = u.contiguous(), {name: x.contiguous() for name, x in m.items()}
    (b, total), f1, f2 = u.shape, m["a1"].shape[0], m["a2"].shape[0]
    nothing, traced, biased = u.new_empty(0), t is not None, "b1" in m
    # The channels of a site lie side by side, and those of its slopes after them, so that they are read together.
    h, out = u.new_empty(total, 2 if traced else 1, padded(f1)), torch.empty_like(u)
    trace = u.new_empty(total) if traced else nothing
    t = {} if t is None else {name: x.contiguous() for name, x in t.items()}
    neighbours = m["neighbours"]
    grid = (triton.cdiv(total, SITES),)
    options = {
        "B": padded(b), "F1": padded(f1), "SITES": SITES, "BIASED": biased, "TRACED": traced,
        "PRECISION": precision(u.device), "num_warps": WARPS, "num_stages": 1,
    }  # fmt: skip
    b1, b2 = (m.get(name, nothing) for name in ("b1", "b2"))
    t1, t2, c0, c = (t.get(name, nothing) for name in ("first", "second", "own", "around"))
    _first_layer[grid](u, m["a1"], b1, h, total, b, f1, **options)
    _second_layer[grid](
        u, h, neighbours, m["a2"], b2, m["own"], m["around"], m["lin"], m["o1"], m["o2"], t1, t2, c0, c, out, trace,
        total, neighbours.shape[-1], len(neighbours), b, f1, f2, F2=padded(f2), TERMS=neighbours.shape[1], **options,
    )  # fmt: skip
    return out, trace if traced else None

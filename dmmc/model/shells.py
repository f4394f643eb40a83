"""Hypercubic neighbour shells: how the second layer of the network looks around.

A *displacement* is a tuple of ``(axis, distance)`` pairs with distinct axes; it stands for itself and all its images
under reflections of each axis. A *shell* is a list of displacements that the hypercubic group maps onto each other.
With ``X_{mu,m} f(y) = f(y + m e_mu) + f(y - m e_mu)``, the sum over a displacement is a product of commuting X.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dmmc.theory.lattice import Lattice, both_neighbours

Displacement = tuple[tuple[int, int], ...]
Shell = tuple[Displacement, ...]


def displacements(distances: Sequence[int], dim: int) -> Shell:
    """All ways to lay ``distances`` along distinct axes.

    () is the site itself, (1,) the nearest neighbours, (1, 1) the plane diagonals. There are none if there are fewer
    axes than distances.
    """
    ways: set[Displacement] = {()}
    for distance in distances:
        ways = {
            tuple(sorted((*chosen, (axis, distance))))
            for chosen in ways
            for axis in range(dim)
            if all(axis != used for used, _ in chosen)
        }
    return tuple(sorted(ways))


def classes(shell: Shell, lattice: Lattice) -> list[Shell]:
    """Split a shell into parts that exchanges of axes of equal extent relate (one part on a hypercube)."""
    parts: dict[tuple[tuple[int, int], ...], list[Displacement]] = {}
    for displacement in shell:
        key = tuple(sorted((lattice.shape[axis], distance) for axis, distance in displacement))
        parts.setdefault(key, []).append(displacement)
    return [tuple(part) for part in parts.values()]


def vectors(shell: Shell, dim: int) -> list[tuple[int, ...]]:
    """The vectors ``(dim,)`` from a site to those that the sum over ``shell`` takes."""
    found = []
    for displacement in shell:
        for signs in itertools.product((1, -1), repeat=len(displacement)):
            ahead = [0] * dim
            for (axis, distance), sign in zip(displacement, signs, strict=True):
                ahead[axis] = sign * distance
            found.append(tuple(ahead))
    return found


def n_sites(shell: Shell) -> int:
    """Number of terms in the sum over a shell."""
    return sum(2 ** len(displacement) for displacement in shell)


def site_index(shell: Shell, lattice: Lattice) -> int:
    """Flat index of the site at the first displacement of ``shell`` from the origin."""
    index = 0
    for axis, extent in enumerate(lattice.shape):
        index = index * extent + dict(shell[0]).get(axis, 0) % extent
    return index


def _split(terms: list[tuple[Displacement, int]], axis: int) -> dict[int, list[tuple[Displacement, int]]]:
    """Group terms by their distance along ``axis`` (0 for none), which is removed from them."""
    groups: dict[int, list[tuple[Displacement, int]]] = {}
    for displacement, k in terms:
        distance = dict(displacement).get(axis, 0)
        rest = tuple(pair for pair in displacement if pair[0] != axis)
        groups.setdefault(distance, []).append((rest, k))
    return groups


def _gather(x: Tensor, terms: list[tuple[Displacement, int]], axis: int, dim: int) -> Tensor:
    # Horner's scheme over the axes: X_0 (a + X_1 b) needs one X_0 where X_0 a + X_0 X_1 b would need two.
    if axis == dim:
        total = x[:, terms[0][1]]
        for _, k in terms[1:]:
            total = total + x[:, k]
        return total
    parts = []
    for distance, group in _split(terms, axis).items():
        part = _gather(x, group, axis + 1, dim)
        parts.append(both_neighbours(part, axis - dim, distance) if distance else part)
    return sum(parts[1:], parts[0])


def _scatter(g: Tensor, terms: list[tuple[Displacement, int]], axis: int, dim: int, out: Tensor) -> None:
    # The transpose of _gather; every X is symmetric.
    if axis == dim:
        for _, k in terms:
            out[:, k] += g
        return
    for distance, group in _split(terms, axis).items():
        _scatter(both_neighbours(g, axis - dim, distance) if distance else g, group, axis + 1, dim, out)


def _terms(shells: Sequence[Shell]) -> list[tuple[Displacement, int]]:
    return [(displacement, k) for k, shell in enumerate(shells) for displacement in shell]


class _ShellSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shells: tuple[Shell, ...], dim: int) -> Tensor:
        ctx.shells, ctx.dim = shells, dim
        return _gather(x, _terms(shells), 0, dim)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        out = g.new_zeros(g.shape[0], len(ctx.shells), *g.shape[1:])
        _scatter(g, _terms(ctx.shells), 0, ctx.dim, out)
        return out, None, None


def shell_sum(x: Tensor, shells: tuple[Shell, ...], dim: int) -> Tensor:
    """``sum_k sum_{displacements d of shell k} x_k(y + d)``.

    Args:
        x: ``(batch, len(shells), ..., *lattice)``.
        shells: which displacements each slice k is summed over.
        dim: number of lattice axes.

    Returns:
        ``(batch, ..., *lattice)``. It has first derivatives only.
    """
    result: Tensor = _ShellSum.apply(x, shells, dim)
    return result

"""The Wilson Dirac operator in two dimensions, with a mass that may depend on the site.

With the Euclidean gamma matrices ``gamma_1 = sigma_1`` (time, the first axis) and ``gamma_2 = sigma_3`` (space) the
operator is real:

    (D psi)(x) = (2 + m(x)) psi(x) - (H psi)(x),
    (H psi)(x) = 1/2 sum_mu [(1 - gamma_mu) psi(x + mu) + (1 + gamma_mu) psi(x - mu)].

Fermions are antiperiodic in time and periodic in space. Since ``eps D eps^-1 = D^T`` with ``eps = gamma_1 gamma_2``,
the determinant of one flavour is real, and that of two, ``det(D)^2 = det(D D^T)``, is positive.

Determinants and inverses are those of dense matrices. H connects even sites with odd ones only, so that on a lattice
of even extents, with ``d = 2 + m`` on the even (e) and the odd (o) sites,

    det D = prod_e d_e^2  det A,      A = d_o - H_oe d_e^-1 H_eo,
    (D^-1)_oo = A^-1,                 (D^-1)_ee = d_e^-1 + d_e^-1 H_eo A^-1 H_oe d_e^-1,

where A has half as many rows as D. (I. Montvay, G. Muenster, Quantum Fields on a Lattice, Cambridge 1994, sections 4.2
and 7.1.)
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.linalg import inverse, log_abs_det

AT_ONCE = 64
"""Matrices that are held at once; those of 16 x 16 sites take 0.5 MB each."""

SMALLEST = 1e-2
"""Where ``|d|`` is smaller than this on any even site, the division by it would cost accuracy, and all of D is used."""


def apply(d: Tensor, psi: Tensor) -> Tensor:
    """``D psi`` of spinor fields.

    Args:
        d: ``2 + m(x)``, ``(n, 1, time, space)``.
        psi: spinors ``(n, 2, time, space)``; any further axis between is broadcast, as in ``(n, k, 2, time, space)``
            with ``d`` ``(n, 1, 1, time, space)``.
    """
    up, down = psi.unbind(-3)
    forward, backward = _hop(0.5 * (up - down), -1), _hop(0.5 * (up + down), 1)
    hop = torch.stack((forward + backward + up.roll(1, -1), backward - forward + down.roll(-1, -1)), -3)
    return d * psi - hop


def apply_transposed(d: Tensor, psi: Tensor) -> Tensor:
    """``D^T psi`` of spinor fields, as :func:`apply`."""
    up, down = psi.unbind(-3)
    forward, backward = _hop(0.5 * (up + down), -1), _hop(0.5 * (up - down), 1)
    hop = torch.stack((forward + backward + up.roll(-1, -1), forward - backward + down.roll(1, -1)), -3)
    return d * psi - hop


def _hop(psi: Tensor, shift: int) -> Tensor:
    """A shift by one site in time, with the sign of the antiperiodic boundary."""
    moved = psi.roll(shift, -2)
    moved[..., -1 if shift < 0 else 0, :] *= -1
    return moved


def dense(d: Tensor) -> Tensor:
    """D as matrices ``(n, 2 V, 2 V)``, spin before site, from ``d = 2 + m(x)``, ``(n, time, space)``."""
    matrices = -_hopping(tuple(d.shape[1:])).to(d).repeat(len(d), 1, 1)
    matrices.diagonal(dim1=1, dim2=2).add_(d.flatten(1).repeat(1, 2))
    return matrices


def log_det(d: Tensor) -> Tensor:
    """``ln |det D|``, ``(n,)``; -inf where D is singular.

    Args:
        d: ``2 + m(x)``, ``(n, time, space)``.
    """
    board = _checkerboard(tuple(d.shape[1:]))
    if board is None:
        return torch.cat([log_abs_det(dense(part)) for part in d.split(AT_ONCE)])
    even = d.flatten(1)[:, board.even.to(d.device)]
    result = 2 * even.abs().log().sum(1)
    whole = (even.abs() < SMALLEST).any(1)
    result[~whole] += torch.cat([log_abs_det(board.complement(part)) for part in d[~whole].split(AT_ONCE)])
    result[whole] = torch.cat([log_abs_det(dense(part)) for part in d[whole].split(AT_ONCE)])
    return result


def trace_inverse(d: Tensor) -> Tensor:
    """The trace over the spin of ``D^-1(x, x)``, which is ``d ln |det D| / dm(x)``, the shape of ``d``.

    Args:
        d: ``2 + m(x)``, ``(n, time, space)``.

    Raises:
        DmmcError: if D is singular.
    """
    board, result = _checkerboard(tuple(d.shape[1:])), torch.empty_like(d)
    whole = torch.ones(len(d), dtype=torch.bool, device=d.device)
    try:
        if board is not None:
            whole = (d.flatten(1)[:, board.even.to(d.device)].abs() < SMALLEST).any(1)
            parts = [board.trace_inverse(part) for part in d[~whole].split(AT_ONCE)]
            result[~whole] = torch.cat(parts).view(-1, *d.shape[1:])
        parts = [_diagonal(inverse(dense(part))) for part in d[whole].split(AT_ONCE)]
        result[whole] = torch.cat(parts).view(-1, *d.shape[1:])
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch documents it, without exporting it
        raise DmmcError("the Dirac operator of a field is singular, and its force infinite") from error
    return result


def uniform_log_det(m: Tensor, shape: tuple[int, int]) -> Tensor:
    """``ln |det D|`` for masses ``m`` ``(n,)`` that are the same on all sites, in closed form, ``(n,)``.

    ``sum_p ln [(m + sum_mu (1 - cos p_mu))^2 + sum_mu sin^2 p_mu]``, with ``p_1`` an odd multiple of pi over the extent
    in time.
    """
    time, space = shape
    p1 = math.pi * (2 * torch.arange(time, dtype=m.dtype, device=m.device) + 1).unsqueeze(1) / time
    p2 = 2 * math.pi * torch.arange(space, dtype=m.dtype, device=m.device) / space
    wilson = (2 - p1.cos() - p2.cos()).flatten()
    return ((m.unsqueeze(1) + wilson).square() + (p1.sin().square() + p2.sin().square()).flatten()).log().sum(1)


def _diagonal(inverse: Tensor) -> Tensor:
    """The diagonal of matrices ``(n, 2 k, 2 k)``, summed over the spin, ``(n, k)``."""
    return inverse.diagonal(dim1=1, dim2=2).unflatten(1, (2, -1)).sum(1)


@functools.lru_cache(maxsize=16)
def _hopping(shape: tuple[int, int]) -> Tensor:
    """H as a matrix ``(2 V, 2 V)``, float64."""
    volume = math.prod(shape)
    units = torch.eye(2 * volume, dtype=torch.float64, device="cpu").view(-1, 2, *shape)
    return -apply(units.new_zeros(1, 1, *shape), units).flatten(1).T.contiguous()


@dataclass(frozen=True)
class _Checkerboard:
    """The even and the odd sites of a lattice, and the elements of products of H between them.

    Attributes:
        even: numbers of the even sites, ``(V/2,)``.
        odd: those of the odd sites, ``(V/2,)``.
        place: where in ``H_oe d_e^-1 H_eo``, flattened, each of its terms belongs, ``(terms,)``.
        site: the even site that each term passes, as its number among the even ones, ``(terms,)``.
        factor: the product of the two elements of H, ``(terms,)``.
    """

    even: Tensor
    odd: Tensor
    place: Tensor
    site: Tensor
    factor: Tensor

    def complement(self, d: Tensor) -> Tensor:
        """The matrices A, ``(n, V, V)``, spin before site."""
        flat, n = d.flatten(1), len(self.odd)
        index = self.even.to(d.device)[self.site.to(d.device)]
        terms = self.factor.to(d) / flat[:, index]
        matrices = d.new_zeros(len(d), 4 * n * n).index_add_(1, self.place.to(d.device), terms, alpha=-1)
        matrices = matrices.view(-1, 2 * n, 2 * n)
        matrices.diagonal(dim1=1, dim2=2).add_(flat[:, self.odd.to(d.device)].repeat(1, 2))
        return matrices

    def trace_inverse(self, d: Tensor) -> Tensor:
        """The trace over the spin of ``D^-1(x, x)``, ``(n, V)``."""
        flat, inverses = d.flatten(1), inverse(self.complement(d))
        even = flat[:, self.even.to(d.device)]
        # The term that takes A from o' to o over e is also the one that takes D^-1 from e back to itself.
        returning = inverses.transpose(1, 2).flatten(1)[:, self.place.to(d.device)] * self.factor.to(d)
        around = torch.zeros_like(even).index_add_(1, self.site.to(d.device), returning)
        result = torch.empty_like(flat)
        result[:, self.odd.to(d.device)] = _diagonal(inverses)
        result[:, self.even.to(d.device)] = 2 / even + around / even.square()
        return result


@functools.lru_cache(maxsize=16)
def _checkerboard(shape: tuple[int, int]) -> _Checkerboard | None:
    """None if an extent is odd, so that the neighbour of an even site may be even."""
    if any(extent % 2 for extent in shape):
        return None
    time, space = (torch.arange(extent, device="cpu") for extent in shape)
    parity = ((time.unsqueeze(1) + space) % 2).flatten()
    even, odd = (parity == 0).nonzero().flatten(), (parity == 1).nonzero().flatten()
    volume, n = parity.numel(), len(odd)
    hopping = _hopping(shape)
    of_even, of_odd = (torch.cat((sites, volume + sites)) for sites in (even, odd))
    down, up = hopping[of_odd][:, of_even], hopping[of_even][:, of_odd]
    terms = []
    for e in range(2 * n):
        rows, columns = down[:, e].nonzero().flatten(), up[e].nonzero().flatten()
        place = (rows.unsqueeze(1) * 2 * n + columns).flatten()
        factor = torch.outer(down[rows, e], up[e, columns]).flatten()
        terms.append((place, torch.full_like(place, e % n), factor))
    place, site, factor = (torch.cat(parts) for parts in zip(*terms, strict=True))
    # The two spins of a site contribute to the same elements, where they often cancel.
    pairs, index = torch.unique(torch.stack((place, site)), dim=1, return_inverse=True)
    factor = factor.new_zeros(pairs.shape[1]).index_add_(0, index, factor)
    kept = factor.abs() > 1e-14
    return _Checkerboard(even, odd, pairs[0][kept], pairs[1][kept], factor[kept])

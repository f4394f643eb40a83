"""What is known exactly of the fields of any theory, measured on each field, so that an ensemble can be tested.

Partial integration gives ``<phi(p)^* dS/dphi(p)> = 1`` for every momentum p (orthonormal Fourier transform), a
Schwinger-Dyson equation; the mean over all momenta is ``<phi dS/dphi> / V = 1``. Likewise ``<dS/dphi> = 0``, in which
an external field shows. On a periodic lattice no mean depends on the position. All of it is told here by a few
numbers for each field, so that an ensemble may be larger than memory.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.theory.actions import Action, components_of, differentiable
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

MAX_SHELLS = 8
"""Momentum shells of the Schwinger-Dyson equation: p = 0, the smallest momenta, and at most six more."""

PROFILES = ("phi", "phi^2", "the product of neighbours")
"""What must not depend on the position: averages over all sites with the same coordinate along an axis."""

CHUNK_SITES = 1 << 20
"""Sites that are handled at a time."""


@dataclass(frozen=True)
class FieldNumbers:
    """What the checks need of an ensemble, measured on each field.

    Attributes:
        M: mean field, ``(chain, draw, component)``, with one component for a scalar field.
        digest: a hash of the values of each field, ``(chain, draw)`` int64.
        links: product of neighbours along each axis, averaged over the sites, ``(chain, draw, dim)``.
        waves: amplitudes with which the :data:`PROFILES` vary along the axes, in the order of :func:`wave_names`,
            ``(chain, draw, wave)``.
        virial: ``phi dS/dphi / V``, ``(chain, draw)``; without columns, ``(chain, draw, 0)``, where there is no action.
        shells: ``phi(p)^* dS/dphi(p)`` averaged over each shell of :func:`shell_orbits`, ``(chain, draw, shell)``;
            without columns where there is no action, or none with a gradient.
        force: ``dS/dphi`` averaged over the sites, ``(chain, draw)``; ``(chain, draw, 0)`` likewise.
        log_w: the logarithm of :func:`log_weight` for a factor that shrinks the fields, ``(chain, draw)``; without
            columns where there is no action.
    """

    M: NDArray[np.float64]
    digest: NDArray[np.int64]
    links: NDArray[np.float64]
    waves: NDArray[np.float64]
    virial: NDArray[np.float64]
    shells: NDArray[np.float64]
    force: NDArray[np.float64]
    log_w: NDArray[np.float64]

    def room_for(self, draws: int) -> FieldNumbers:
        """Numbers of as many draws of the same chains, to be filled stretch by stretch with :meth:`fill`."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return FieldNumbers(*(np.empty((len(x), draws, *x.shape[2:]), x.dtype) for x in arrays))

    def fill(self, first: int, part: FieldNumbers) -> None:
        """Put the numbers of a stretch of draws where they belong, from the draw ``first`` on."""
        for field in fields(self):
            values = getattr(part, field.name)
            getattr(self, field.name)[:, first : first + values.shape[1]] = values

    def only(self, kept: NDArray[np.bool_]) -> FieldNumbers:
        """The numbers of some of the fields, ``(chain, draw)``, of an action, as those of one chain."""
        return FieldNumbers(*(getattr(self, field.name)[kept][None] for field in fields(self)))

    @property
    def n(self) -> int:
        """Number of fields."""
        return self.digest.size


def field_numbers(phi: Tensor, action: Action | None, chains: int = 1) -> FieldNumbers:
    """Measure fields ``(n, *lattice)``, those of one chain after those of another; ``chains`` divides n.

    Fields with components, as the action declares them, are told by averages over these: those of the field, of its
    square, and of its scalar product with a neighbour.
    """
    lattice = Lattice.of_fields(phi, components_of(action))
    size = max(1, CHUNK_SITES // lattice.n_numbers)
    parts = [_numbers(part, action, lattice) for part in phi.detach().split(size)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return FieldNumbers(*(column.reshape(chains, len(phi) // chains, *column.shape[1:]) for column in columns))


def virial(phi: Tensor, action: Action) -> Tensor:
    """``phi dS/dphi / V`` of each field, ``(n,)``; without a gradient, what stands in for it.

    With ``c = 1 + 1 / (2 sqrt(V))`` the weight w of :func:`log_weight` fluctuates by less than its mean,
    ``1 + (1 - w) / [(c - 1) V]`` has the mean 1 exactly, and of other fields it is off by about as much as
    ``phi dS/dphi / V``.
    """
    if differentiable(action) is not None:
        return (phi * force(action, phi)).flatten(1).mean(1)
    volume = phi[0].numel()
    excess = 0.5 / math.sqrt(volume)
    # Fields that fit stay far below the bound; without it, those that do not would overflow.
    log_w = log_weight(phi, action, 1 + excess).clamp(max=30.0)
    return 1 - torch.expm1(log_w) / (excess * volume)


def log_weight(phi: Tensor, action: Action, c: float) -> Tensor:
    """``ln w`` of each field, ``(n,)``, with ``w = c^V exp[S(phi) - S(c phi)]`` and V the numbers in a field.

    The substitution ``phi -> c phi`` in Z gives ``<w> = 1`` for every c > 0. As w is positive, it exceeds t with a
    probability of at most ``1 / t`` (Markov), whatever the action is.
    """
    return phi[0].numel() * math.log(c) + evaluate(action, phi) - evaluate(action, c * phi)


def shrinking(volume: int) -> float:
    """The factor of :attr:`FieldNumbers.log_w`: that of free fields tells ``phi dS/dphi`` 7 standard deviations away.

    With ``c = 1 - a / sqrt(V)`` their ``ln w`` is about ``sqrt(2) a z - a^2`` for one z standard deviations away, and
    weights above ``e^21`` are refused of a thousand of them: a = 3 is near the best, and no field is to vanish.
    """
    return max(0.5, 1 - 3 / math.sqrt(volume))


def shell_orbits(lattice: Lattice) -> list[slice]:
    """The momentum shells, as ranges of orbits: p = 0, the smallest momenta, and the rest in parts of similar size."""
    sizes = lattice.orbit_size.numpy()
    n = len(sizes)
    edges = [0, *range(1, min(n, 2) + 1)]
    if n > 2:
        filled = np.cumsum(sizes[2:])
        inner = [
            2 + int(np.searchsorted(filled, k * filled[-1] / (MAX_SHELLS - 2))) + 1 for k in range(1, MAX_SHELLS - 2)
        ]
        edges += [*inner, n]
    edges = sorted({min(edge, n) for edge in edges})
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def wave_names(lattice: Lattice) -> list[tuple[int, str, int]]:
    """Axis, profile and wave number of each column of :attr:`FieldNumbers.waves`."""
    return [
        (axis, profile, k)
        for axis, extent in enumerate(lattice.shape)
        for profile in PROFILES
        for k, _ in _waves(extent)
    ]


@cache
def _waves(extent: int) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Wave numbers and waves along an axis: the longest two, and the shortest, which sorts even from odd sites."""
    waves: list[tuple[int, tuple[float, ...]]] = []
    for k in sorted({k for k in (1, 2, extent // 2) if 0 < k <= extent // 2}):
        phase = 2 * math.pi * k * np.arange(extent) / extent
        waves.append((k, tuple(np.cos(phase))))
        if 2 * k != extent:
            waves.append((k, tuple(np.sin(phase))))
    return tuple(waves)


def _numbers(phi: Tensor, action: Action | None, lattice: Lattice) -> list[NDArray[np.generic]]:
    """One array ``(n, ...)`` for each entry of :class:`FieldNumbers`."""
    n, links, waves = len(phi), list[Tensor](), list[Tensor]()
    digest = _digests(phi)
    phi = phi.double()
    for axis, extent in zip(lattice.axes, lattice.shape, strict=True):
        link = phi * torch.roll(phi, -1, axis)
        links.append(link.flatten(1).mean(1))
        for density in (phi, phi * phi, link):
            profile = density.movedim(axis, 1).flatten(2).mean(2) if density.ndim > 2 else density
            waves += [(profile * profile.new_tensor(wave)).mean(1) for _, wave in _waves(extent)]
    of_scale, shells = phi.new_zeros(n, 0), phi.new_zeros(n, 0)
    of_shift, log_w = phi.new_zeros(n, 0), phi.new_zeros(n, 0)
    followed = differentiable(action)
    if action is not None:
        log_w = log_weight(phi, action, shrinking(lattice.n_numbers))
    if action is not None and followed is None:
        of_scale = virial(phi, action)
    if followed is not None:
        f = force(followed, phi)
        of_scale, of_shift = (phi * f).flatten(1).mean(1), f.flatten(1).mean(1)
        a, b = lattice.to_modes(phi), lattice.to_modes(f)
        products = a.real * b.real + a.imag * b.imag
        orbits = lattice.orbit_mean(products if lattice.components is None else products.mean(1))
        sizes = lattice.orbit_size.to(orbits)
        shells = torch.stack([(orbits[:, s] * sizes[s]).sum(1) / sizes[s].sum() for s in shell_orbits(lattice)], 1)
    waved = torch.stack(waves, 1) if waves else phi.new_zeros(n, 0)
    mean = phi.mean(dim=lattice.axes).view(n, -1)
    tensors = (mean, digest, torch.stack(links, 1), waved, of_scale, shells, of_shift, log_w)
    return [x.cpu().numpy() for x in tensors]


def _digests(phi: Tensor) -> Tensor:
    rows = phi.cpu().contiguous().flatten(1).numpy()
    # 64 bits are enough: of a million different fields, two have the same digest with a probability of 3e-8.
    digests = [
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True) for row in rows
    ]
    return torch.tensor(digests, dtype=torch.int64, device="cpu")

"""The site-wise layers on a GPU: as Triton kernels for scalar fields in float32, and by torch for all others."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmmc.model import shells
from dmmc.model.layers import SiteLayers
from dmmc.model.memo import Prepared
from dmmc.theory.lattice import Lattice

Part = tuple[int, shells.Shell]
"""The number of a shell, and a part of it."""


@dataclass(frozen=True)
class TorchLayers:
    """The layers as the network itself computes them.

    Args:
        lattice: the lattice.
        layers: those of the network.
        shells: its shells.
        parts: the shells in the parts that the trace needs.
    """

    lattice: Lattice
    layers: SiteLayers
    shells: tuple[shells.Shell, ...]
    parts: tuple[Part, ...]

    def __call__(self, u: Tensor, m: Prepared, t: Prepared, level: int, traced: bool) -> tuple[Tensor, Tensor | None]:
        here, trace_here = ({name: x[level : level + 1] for name, x in of.items()} for of in (m, t))
        first, second, out = self.layers.apply(u.unsqueeze(0), here, self.shells, False)
        trace = None
        if traced:
            parts = tuple(part for _, part in self.parts)
            fields = torch.Size((u.shape[1], *self.lattice.shape))
            trace = self.layers.trace(first, second, trace_here, parts, fields)[0]
        return out.view(u.shape), trace


@dataclass(frozen=True)
class FusedLayers:
    """The layers of a scalar field in two Triton kernels; of a hidden layer, only the first goes through memory.

    Args:
        lattice: the lattice.
        parts: the shells, in the parts that the trace needs.
    """

    lattice: Lattice
    parts: tuple[Part, ...]

    def __call__(self, u: Tensor, m: Prepared, t: Prepared, level: int, traced: bool) -> tuple[Tensor, Tensor | None]:
        from dmmc.model.cuda.kernels import site_layers  # which loads Triton

        neighbours, starts = neighbour_table(self.lattice, self.parts, u.device)
        here, trace_here = ({name: x[level] for name, x in of.items()} for of in (m, t))
        out, per_site = site_layers(u.flatten(1), neighbours, starts, here, trace_here if traced else None)
        trace = None if per_site is None else per_site.view(u.shape[1], -1).sum(1, dtype=torch.float64)
        return out.view(u.shape), trace


@functools.lru_cache(16)
def neighbour_table(lattice: Lattice, parts: tuple[Part, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The sites that the sums over parts of shells take.

    Returns:
        their flat numbers for each site, ``(terms, V)`` int32, those of one part after those of another, and where each
        part begins, ``(parts + 1,)`` int32.
    """
    site = np.indices(lattice.shape).reshape(lattice.dim, lattice.volume)
    rows, starts = [], [0]
    for _, part in parts:
        for displacement in part:
            for signs in itertools.product((1, -1), repeat=len(displacement)):
                ahead = np.zeros((lattice.dim, 1), np.int64)
                for (axis, distance), sign in zip(displacement, signs, strict=True):
                    ahead[axis] = sign * distance
                moved = (site + ahead) % np.array(lattice.shape)[:, None]
                rows.append(np.ravel_multi_index(tuple(moved), lattice.shape))
        starts.append(len(rows))
    table = torch.from_numpy(np.stack(rows).astype(np.int32))
    return table.to(device), torch.tensor(starts, dtype=torch.int32, device="cpu").to(device)

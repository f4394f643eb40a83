"""The site-wise layers on a GPU: as Triton kernels for scalar fields in float32, and by torch for all others."""

from __future__ import annotations

import functools
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

TERMS = 4
"""Neighbours that are added at once."""


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

    def prepared(self, m: Prepared, t: Prepared) -> tuple[Prepared, Prepared]:
        return m, t

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

    def prepared(self, m: Prepared, t: Prepared) -> tuple[Prepared, Prepared]:
        neighbours, belongs = neighbour_table(self.lattice, self.parts)
        here = [k for k, (_, part) in enumerate(self.parts) if part == ((),)]

        def grouped(matrices: Tensor) -> Prepared:
            """The matrices ``(levels, parts, F2, F1)`` of the site itself and of each group of neighbours."""
            own = matrices[:, here[0]] if here else torch.zeros_like(matrices[:, 0])
            return {"own": own.contiguous(), "around": matrices[:, list(belongs)].contiguous()}

        w = m["w"][:, [shell for shell, _ in self.parts]]
        of_levels = neighbours.to(w.device).expand(len(w), *neighbours.shape)
        return m | grouped(w) | {"neighbours": of_levels}, t | grouped(t["coupling"])

    def __call__(self, u: Tensor, m: Prepared, t: Prepared, level: int, traced: bool) -> tuple[Tensor, Tensor | None]:
        from dmmc.model.cuda.kernels import site_layers  # which loads Triton

        here, trace_here = ({name: x[level] for name, x in of.items()} for of in (m, t))
        out, per_site = site_layers(u.flatten(1), here, trace_here if traced else None)
        trace = None if per_site is None else per_site.view(u.shape[1], -1).sum(1, dtype=torch.float64)
        return out.view(u.shape), trace


@functools.lru_cache(16)
def neighbour_table(lattice: Lattice, parts: tuple[Part, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The neighbours that are summed over the parts of shells, in groups of :data:`TERMS` of one part.

    Returns:
        their flat numbers for each site, ``(groups, TERMS, V)`` int32, with -1 where a group has fewer; and the part to
        which each group belongs. The site itself is in no group.
    """
    site = np.indices(lattice.shape).reshape(lattice.dim, lattice.volume)
    groups, belongs = [np.zeros((0, TERMS, lattice.volume), np.int32)], []
    for k, (_, part) in enumerate(parts):
        rows = []
        for ahead in shells.vectors(part, lattice.dim):
            moved = (site + np.array(ahead)[:, None]) % np.array(lattice.shape)[:, None]
            rows.append(np.ravel_multi_index(tuple(moved), lattice.shape))
        if part != ((),):
            rows += [np.full(lattice.volume, -1)] * (-len(rows) % TERMS)
            groups.append(np.stack(rows).reshape(-1, TERMS, lattice.volume))
            belongs += [k] * len(groups[-1])
    return torch.from_numpy(np.concatenate(groups).astype(np.int32)), tuple(belongs)

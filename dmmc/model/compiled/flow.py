"""The preparation of everything that the machine code needs, and the work that is given to threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.progress import patience
from dmmc.core.vectors import LANES
from dmmc.model import shells
from dmmc.model.compiled import real_modes
from dmmc.model.compiled.steps import carry
from dmmc.model.compiled.tiles import ROWS, TERMS, Geometry, Levels, Program, Workspace, workspace
from dmmc.model.memo import Prepared
from dmmc.model.reference import GaussianReference
from dmmc.model.transport import Footprint, Stages
from dmmc.theory.lattice import Lattice

COMPILING = "The flow is being compiled for this machine ({}), which takes some seconds the first time."

_COMPILED: set[np.dtype[Any]] = set()
"""The types of numbers for which this process has the machine code."""

Part = tuple[int, shells.Shell]
"""The number of a shell, and a part of it."""


def padded(x: Tensor, *axes: int) -> Tensor:
    """``x`` with zeros after the end of each of ``axes``, up to a multiple of the block size."""
    for axis in axes:
        missing = -x.shape[axis] % ROWS
        if missing:
            shape = list(x.shape)
            shape[axis] = missing
            x = torch.cat([x, x.new_zeros(shape)], axis)
    return x


def bases(lattice: Lattice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The matrices of :attr:`dmmc.model.compiled.tiles.Geometry.basis`."""
    blocks = [2 if real_modes.is_split(extent) else 1 for extent in lattice.shape]
    widths = [extent // n for extent, n in zip(lattice.shape, blocks, strict=True)]
    out = np.zeros((lattice.dim, 2, 2, max(n * (n + ROWS) for n in widths)), dtype)
    for axis, (extent, n) in enumerate(zip(lattice.shape, widths, strict=True)):
        functions = real_modes.basis(extent)
        for block in range(blocks[axis]):
            square = functions[:n, block * n : (block + 1) * n]
            out[axis, 0, block, : n * n] = square.ravel()
            out[axis, 1, block, : n * n] = square.T.ravel()
    return out


def neighbours(shell: shells.Shell, lattice: Lattice) -> list[tuple[int, NDArray[Any]]]:
    """The sites that the sum over a shell takes.

    Returns:
        for each of them how many planes ahead it is, and the number of its site in that plane for each site of one.
    """
    rest = lattice.shape[1:]
    site = np.indices(rest).reshape(len(rest), int(np.prod(rest)))
    found = []
    for planes, *ahead in shells.vectors(shell, lattice.dim):
        moved = (site + np.array(ahead, np.int64)[:, None]) % np.array(rest, np.int64)[:, None]
        found.append((planes, np.ravel_multi_index(tuple(moved), rest) if rest else np.zeros(1, np.int64)))
    return found


def slots(planes: int, reach: int) -> NDArray[Any]:
    """The place in the window of each plane: the first and the last ones keep theirs, the others take turns."""
    y = np.arange(planes)
    if planes <= 4 * reach + 1:
        return y
    ring = 2 * reach + (y - reach) % (2 * reach + 1)
    return np.where(y < reach, y, np.where(y >= planes - reach, y - planes + 2 * reach, ring))


def geometry_of(lattice: Lattice, parts: Sequence[shells.Shell], dtype: np.dtype[Any]) -> Geometry:
    """The lattice with the parts of shells, the site itself not among them."""
    planes, plane = lattice.shape[0], lattice.volume // lattice.shape[0]
    # A plane is also reached the other way round.
    around = [
        [(min(y % planes, y % planes - planes, key=abs), site) for y, site in neighbours(part, lattice)]
        for part in parts
    ]
    reach = max((abs(y) for terms in around for y, _ in terms), default=0)
    place = slots(planes, reach)
    groups, places, sites = [], [], []
    for part, terms in enumerate(around):
        for start in range(0, len(terms), TERMS):
            group = terms[start : start + TERMS]
            groups.append(part)
            missing = TERMS - len(group)
            nothing = np.full(planes, place.max() + 1)
            places.append(
                np.stack([place[(np.arange(planes) + y) % planes] for y, _ in group] + [nothing] * missing, 1)
            )
            sites.append(np.stack([site * LANES for _, site in group] + [np.zeros(plane, np.int64)] * missing, 1))
    return Geometry(
        shape=np.array(lattice.shape, np.int64),
        split=np.array([real_modes.is_split(n) for n in lattice.shape]),
        basis=bases(lattice, dtype),
        slots=place,
        reach=reach,
        parts=np.array(groups, np.int64),
        places=np.stack(places, 1) if places else np.zeros((planes, 0, TERMS), np.int64),
        sites=np.stack(sites) if sites else np.zeros((0, plane, TERMS), np.int64),
    )


def coefficients(
    reference: GaussianReference, parts: Sequence[Part], v: Tensor, levels: Sequence[tuple[Prepared, Prepared]]
) -> Prepared:
    """:class:`dmmc.model.compiled.tiles.Levels` at noise variances ``v`` ``(n,)``, by name.

    Args:
        reference: the Gaussian reference.
        parts: the parts of shells.
        v: noise variances ``(n,)``.
        levels: at each of them filters and matrices, and the coefficients of the trace, ``(1, ...)`` each.
    """
    m, t = ({name: torch.cat([level[k][name] for level in levels]) for name in levels[0][k]} for k in (0, 1))
    root = (reference.c(m["r"]) + v.to(m["r"]).view(-1, 1, *(1,) * reference.lattice.dim)).sqrt()
    nothing = torch.zeros_like(m["w"][:, 0])
    here = [k for k, (_, part) in enumerate(parts) if part == ((),)]
    around = [k for k, (_, part) in enumerate(parts) if part != ((),)]
    w = m["w"][:, [shell for shell, _ in parts]]

    def own(x: Tensor) -> Tensor:
        return padded(x[:, here[0]] if here else nothing, 1, 2).flatten(1)

    def others(x: Tensor) -> Tensor:
        return padded(x[:, around], 2, 3).transpose(1, 2).flatten(1)

    def matrix(x: Tensor, *axes: int) -> Tensor:
        return padded(x, 1, *axes).flatten(1)

    b1, b2 = (m["b1"], m["b2"]) if "b1" in m else (nothing[:, 0], nothing[:, :, 0])
    made = {
        "filters_in": real_modes.from_half(m["r"] * root, reference.lattice).flatten(1),
        "filters_out": real_modes.from_half(m["q"] / root, reference.lattice).flatten(1),
        "a1": matrix(m["a1"]),
        "b1": matrix(b1),
        "a2": matrix(m["a2"]),
        "w0": own(w),
        "w": others(w),
        "b2": matrix(b2),
        "lin": matrix(m["lin"]),
        "o1": matrix(m["o1"], 2),
        "o2": matrix(m["o2"], 2),
        "t1": matrix(t["first"]),
        "t2": matrix(t["second"]),
        "c0": own(t["coupling"]),
        "c": others(t["coupling"]),
        "constant": t["constant"].double(),
    }
    return {name: value.contiguous() for name, value in made.items()}


@functools.lru_cache(32)
def program_of(stages: Stages, dtype: np.dtype[Any]) -> tuple[Tensor, Program]:
    """The noise variances at which coefficients are needed, ``(n,)`` float64, and the steps."""
    levels = tuple(dict.fromkeys(v for row in stages.variances for v in row))
    number = {v: k for k, v in enumerate(levels)}
    h, rates = np.array(stages.lengths)[:, None], np.array(stages.rates)
    s = len(stages.b)
    a = np.array([[*row, *(0.0,) * (s - len(row))] for row in stages.a])
    weights = h * np.array(stages.b) * rates
    program = Program(
        a=(h[:, None] * a * rates[:, None]).astype(dtype),
        b=weights.astype(dtype),
        level=np.array([[number[v] for v in row] for row in stages.variances], np.int64),
        weight=-weights,
    )
    return torch.tensor(levels, dtype=torch.float64, device="cpu"), program


@dataclass
class Workshop:
    """A lattice as the machine code needs it, and the memory of threads that are not at work."""

    geometry: Geometry
    idle: list[Workspace] = field(default_factory=list)


@functools.lru_cache(8)
def workshop(
    lattice: Lattice, around: tuple[shells.Shell, ...], dtype: np.dtype[Any], channels: tuple[int, ...], stages: int
) -> Workshop:
    """The workshop for a kind of network; memory that was used once serves the next integration, too."""
    return Workshop(geometry_of(lattice, around, dtype))


@dataclass(frozen=True)
class CompiledFlow:
    """A :class:`dmmc.model.transport.Transport`.

    Args:
        lattice: the lattice.
        parts: the parts of shells.
        at_levels: gives the :func:`coefficients` at noise variances ``(n,)`` float64.
    """

    lattice: Lattice
    parts: tuple[Part, ...]
    at_levels: Callable[[Tensor], Prepared]

    def __call__(self, fields: Tensor, stages: Stages, traced: bool) -> tuple[Tensor, Tensor]:
        x = fields.detach().flatten(1).contiguous().numpy()
        levels, program = self._prepared(stages, x.dtype)
        place = self._workshop(levels, len(stages.b))
        out, change = np.empty_like(x), np.zeros(len(x))
        if x.dtype not in _COMPILED:
            memory = self._memory(place, levels, stages)
            with patience(COMPILING.format(x.dtype)):
                carry(x, 0, 0, place.geometry, levels, program, memory, traced, out, change)  # no tile at all
            place.idle.append(memory)
            _COMPILED.add(x.dtype)

        def work(first: int, last: int) -> None:
            memory = self._memory(place, levels, stages)
            carry(x, first, last, place.geometry, levels, program, memory, traced, out, change)
            place.idle.append(memory)

        # Each tile is the work of one thread, so that their number does not enter the result.
        tiles = -(-len(x) // LANES)
        n = max(1, min(tiles, torch.get_num_threads()))
        shares = [tiles * k // n for k in range(n + 1)]
        if n == 1:
            work(0, tiles)
        else:
            with ThreadPoolExecutor(n) as pool:
                list(pool.map(work, shares[:-1], shares[1:]))
        return torch.from_numpy(out).view(fields.shape), torch.from_numpy(change)

    @staticmethod
    def _memory(place: Workshop, levels: Levels, stages: Stages) -> Workspace:
        try:
            return place.idle.pop()
        except IndexError:
            return workspace(place.geometry, levels, len(stages.b))

    def footprint(self, stages: Stages) -> Footprint | None:
        levels, _ = self._prepared(stages, np.dtype(np.float32))
        memory = workspace(self._workshop(levels, len(stages.b)).geometry, levels, len(stages.b))
        return Footprint(
            workspace=sum(x.nbytes for x in memory),
            coefficients=sum(x.nbytes for x in levels),
            fields=LANES,
            field=self.lattice.volume * levels.a1.itemsize,
        )

    def _prepared(self, stages: Stages, dtype: np.dtype[Any]) -> tuple[Levels, Program]:
        variances, program = program_of(stages, dtype)
        return Levels(**{name: value.numpy() for name, value in self.at_levels(variances).items()}), program

    def _workshop(self, levels: Levels, stages: int) -> Workshop:
        around = tuple(part for _, part in self.parts if part != ((),))
        channels = (levels.filters_in.shape[1], levels.b1.shape[1], levels.b2.shape[1])
        return workshop(self.lattice, around, levels.a1.dtype, channels, stages)

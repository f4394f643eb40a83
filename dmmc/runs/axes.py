"""Which axis of an array is what: the arrays of other codes, seen as fields of chains.

Axes are named by letters, in the order in which NumPy shows them (the last one varies fastest in C order): ``x``,
``y``, ``z``, ``t`` for those of the lattice, ``i`` for the components of the field, ``n`` for the configurations of a
chain and ``c`` for the chains. The lattice of dmmc has its axes in the order x, y, z, t, whatever their order in the
array: ``"t x n"`` is a lattice of extents ``(X, T)``. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.runs.foreign import ForeignArray, Read, check_type

LATTICE = "xyzt"
CHAIN, DRAW, COMPONENT = "c", "n", "i"

SANE = (1e-12, 1e12)
"""Sizes between which nearly all values of a field lie; numbers in a wrong byte order lie anywhere."""

ABSURD = 0.05
"""Part of the values that may lie outside: of misread ones it is two thirds or more."""


@dataclass(frozen=True)
class _Part:
    """An array whose axes are known.

    Attributes:
        array: what it is of.
        axes: names of the axes of ``shape``; both CHAIN and DRAW are among them, or neither.
        shape: in which it is read.
    """

    array: ForeignArray
    axes: str
    shape: tuple[int, ...]

    def extent(self, axis: str) -> int:
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def lattice(self) -> tuple[int, ...]:
        return tuple(self.extent(axis) for axis in LATTICE if axis in self.axes)

    @property
    def components(self) -> int | None:
        return self.extent(COMPONENT) if COMPONENT in self.axes else None

    def read(self, first: int, last: int) -> NDArray[np.float64]:
        """Draws from ``first`` to before ``last`` of all chains, ``(chain, draw, *lattice)``."""
        reader: Read = self.array.reader(self.shape)
        slices = [
            slice(first, last) if axis == DRAW else slice(0, n) for axis, n in zip(self.axes, self.shape, strict=True)
        ]
        values = reader(tuple(slices))
        order = [self.axes.index(axis) for axis in CHAIN + DRAW + COMPONENT + LATTICE if axis in self.axes]
        values = np.transpose(values, order)
        return _sound(values if DRAW in self.axes else values[None, None], self.array)


@dataclass(frozen=True)
class Configurations:
    """Fields of chains that have not been read yet.

    Attributes:
        parts: the arrays: one that holds everything, one for each chain, or one for each configuration, those of one
            chain after those of another.
        chains: number of chains.
        draws: configurations of each.
        lattice: extents, in the order x, y, z, t.
        components: number of components of the fields; None for scalar fields.
    """

    parts: tuple[_Part, ...]
    chains: int
    draws: int
    lattice: tuple[int, ...]
    components: int | None = None

    @property
    def field_shape(self) -> tuple[int, ...]:
        """The shape of one field: that of the lattice, with the axis of components before it if there are any."""
        return self.lattice if self.components is None else (self.components, *self.lattice)

    @property
    def name(self) -> str:
        """What messages call them."""
        first = self.parts[0].array.name
        return first if len(self.parts) == 1 else f"{first} and {len(self.parts) - 1} more"

    def read(self, first: int, last: int) -> NDArray[np.float64]:
        """Draws from ``first`` to before ``last`` of all chains, ``(chain, draw, *lattice)`` float64.

        Raises:
            FileError: if the file is damaged.
            DmmcError: if the values are not finite, or absurd, as in a wrong byte order.
        """
        if len(self.parts) == 1:
            return self.parts[0].read(first, last)
        if len(self.parts) == self.chains and self.parts[0].extent(DRAW) == self.draws > 1:
            return np.concatenate([part.read(first, last) for part in self.parts])
        chosen = [self.parts[chain * self.draws + k] for chain in range(self.chains) for k in range(first, last)]
        fields = np.concatenate([part.read(0, 1) for part in chosen])
        return fields.reshape(self.chains, last - first, *self.field_shape)


def located(
    arrays: Sequence[ForeignArray],
    axes: str | None = None,
    lattice: tuple[int, ...] | None = None,
    chains: int | None = None,
    components: int | None = None,
) -> Configurations:
    """Find the chains, the configurations and the lattice in arrays.

    Args:
        arrays: one array, or one for each chain, or one for each configuration (without an axis ``n``).
        axes: the names of the axes, such as ``"x y n"``. Where an array has one axis for both, ``n`` and ``c`` may be
            named one after the other: ``"c n x y"`` if chains follow each other, ``"n c x y"`` if they take turns. By
            default the lattice comes last, after ``c n`` or ``n``, as far as there are axes, and directly before it
            come the components, if there should be any.
        lattice: extents in the order x, y, z, t; they are needed for raw files and for arrays of one axis, and by
            default those of the array.
        chains: number of chains; by default one, or the number of arrays. Without an axis ``c``, chains follow each
            other along ``n``.
        components: how many components the field should have; None for a scalar field, which has no axis ``i``.

    Raises:
        DmmcError: if the axes have no such names, or occur twice, or the numbers are no real ones.
        MismatchError: if array, axes, lattice and chains do not fit each other.
        FileError: if a raw file does not hold a whole number of configurations.
    """
    if not arrays:
        raise DmmcError("there are no fields to import: name a file")
    for array in arrays:
        check_type(array)
    if chains is not None and chains < 1:
        raise DmmcError(f"the number of chains must be positive, got {chains}")
    names = _default(arrays[0], lattice, components) if axes is None else parsed(axes)
    if (COMPONENT in names) != (components is not None):
        raise MismatchError(
            f"the axes {' '.join(names)} "
            + (
                f"have none for the {components} components of the field; call that one i"
                if components
                else "have one for components, i, and the action is not one of a field with components"
            )
        )
    dim = sum(axis in LATTICE for axis in names)
    if lattice is not None and len(lattice) != dim:
        raise MismatchError(
            f"the shape {_text(lattice)} has {len(lattice)} extents, and the axes {' '.join(names)} have {dim} of a "
            "lattice; name as many axes as there are extents"
        )
    many = len(arrays) > 1
    if many and CHAIN in names:
        raise MismatchError("several files are one for each chain, or for each configuration; leave the axis c out")
    parts = tuple(_part(array, names, lattice, None if many else chains, components) for array in arrays)
    shape = parts[0].lattice
    other = next((part for part in parts if part.lattice != shape), None)
    if other is not None:
        raise MismatchError(
            f"{parts[0].array.name} is on a lattice {_text(shape)} and {other.array.name} on {_text(other.lattice)}; "
            "import them apart"
        )
    if not many:
        return Configurations(parts, parts[0].extent(CHAIN), parts[0].extent(DRAW), shape, components)
    counts = [part.extent(DRAW) for part in parts]
    if DRAW not in names:
        return Configurations(parts, chains or 1, _equal(len(parts), chains or 1, "the files"), shape, components)
    if len(set(counts)) > 1:
        short = counts.index(min(counts))
        raise MismatchError(
            f"the chains are of unequal length: {arrays[short].name} has {min(counts)} configurations, and "
            f"{arrays[counts.index(max(counts))].name} {max(counts)}; leave some out, or import them apart"
        )
    if chains not in (None, len(arrays)):
        raise MismatchError(f"there are {len(arrays)} files, one for each chain, and {chains} chains; leave chains out")
    return Configurations(parts, len(parts), counts[0], shape, components)


def parsed(axes: str) -> str:
    """The names of axes, one letter each.

    Raises:
        DmmcError: if there is no such name, one occurs twice, or none is that of an axis of the lattice.
    """
    names = axes.replace(",", " ").replace(" ", "")
    for axis in names:
        if axis not in LATTICE + CHAIN + DRAW + COMPONENT:
            raise DmmcError(
                f"there is no axis {axis!r}: x, y, z, t are those of the lattice, n is that of the configurations, c "
                f"that of the chains, i that of the components; got {axes!r}"
            )
        if names.count(axis) > 1:
            raise DmmcError(f"the axis {axis} is named twice in {axes!r}; give each axis a name of its own")
    if not any(axis in LATTICE for axis in names):
        raise DmmcError(f"none of the axes {axes!r} is one of the lattice; name them x, y, z, t")
    return names


def _default(array: ForeignArray, lattice: tuple[int, ...] | None, components: int | None) -> str:
    # An array of one axis has the shape that is said, components and all.
    n = len(array.shape) - (components is not None and len(array.shape) > 1)
    if lattice is None and n < 2:
        raise DmmcError(f"{array.name} has {n} axis; say on which lattice its fields live (shape)")
    dim = n - 1 if lattice is None else len(lattice)
    if not 1 <= dim <= len(LATTICE):
        raise MismatchError(
            f"{array.name} has shape {array.shown_shape}; a lattice has 1 to 4 axes, so say which it has"
        )
    front = CHAIN + DRAW if n == dim + 2 else "" if n == dim > 1 else DRAW
    return front + (COMPONENT if components is not None else "") + LATTICE[:dim]


def _part(
    array: ForeignArray, names: str, lattice: tuple[int, ...] | None, chains: int | None, components: int | None
) -> _Part:
    """The array with an axis for the chains and one for the draws, if it has any of the two."""
    given = dict(zip((axis for axis in LATTICE if axis in names), lattice or (), strict=False))
    shape, fused = array.shape, next((pair for pair in (CHAIN + DRAW, DRAW + CHAIN) if pair in names), None)
    order = names
    if len(shape) == 1 < len(names):
        return _flat(array, names, given, chains, components)
    if fused and len(names) == len(shape) + 1:
        order = names.replace(fused, DRAW)
    elif len(names) != len(shape):
        raise MismatchError(
            f"{array.name} has {len(shape)} axes, {array.shown_shape}, and {len(names)} are named, "
            f"{' '.join(names)}; name each of them"
        )
    order = order[::-1] if array.fortran else order
    extents = dict(zip(order, shape, strict=True))
    wrong = next((axis for axis, extent in given.items() if extents[axis] != extent), None)
    if wrong is not None:
        raise MismatchError(
            f"{array.name} has shape {array.shown_shape}, so that its axis {wrong} in {' '.join(names)} has "
            f"{extents[wrong]} sites, not {given[wrong]} as in the shape {_text(tuple(given.values()))}; give another "
            "shape, or other axes"
        )
    if components is not None and extents[COMPONENT] != components:
        raise MismatchError(
            f"{array.name} has shape {array.shown_shape}, so that its axis i in {' '.join(names)} has "
            f"{extents[COMPONENT]} components, and the fields of the action have {components}; give other axes, or "
            "another action"
        )
    if 0 in shape:
        raise MismatchError(f"{array.name} has shape {array.shown_shape}: it is empty")
    if CHAIN in extents:
        if chains not in (None, extents[CHAIN]):
            raise MismatchError(f"{array.name} has {extents[CHAIN]} chains along its axis c, not {chains}")
        if DRAW not in extents:
            raise MismatchError(f"{array.name} has an axis c and none for its configurations; call that one n")
        return _Part(array, order, shape)
    if DRAW not in extents:
        if chains not in (None, 1):
            raise MismatchError(f"{array.name} holds one configuration, which cannot be {chains} chains")
        return _Part(array, order, shape)
    pair = fused or CHAIN + DRAW
    if fused and chains is None:
        raise MismatchError(f"{array.name} has one axis for {' and '.join(fused)}; say how many chains there are")
    count = chains or 1
    inner = {CHAIN: count, DRAW: _equal(extents[DRAW], count, array.name)}
    at = order.index(DRAW)
    return _Part(array, order.replace(DRAW, pair), (*shape[:at], *(inner[axis] for axis in pair), *shape[at + 1 :]))


def _flat(
    array: ForeignArray, names: str, lattice: dict[str, int], chains: int | None, components: int | None
) -> _Part:
    """Numbers without a shape: they have that which the axes and the lattice give them."""
    if not lattice:
        raise DmmcError(f"nothing says the shape of {array.name}; give the extents of the lattice (shape)")
    if CHAIN in names and chains is None:
        raise MismatchError(f"nothing says how many chains there are in {array.name}; give their number")
    given = lattice if components is None else {COMPONENT: components, **lattice}
    volume, total = math.prod(given.values()), array.shape[0]
    if total % volume or not total:
        raise FileError(
            f"{array.name} holds {total} numbers of type {array.dtype}, which are {total // volume} fields of "
            f"{_text(tuple(given.values()))} and {total % volume} numbers more; it is truncated, or has another shape "
            "or type"
        )
    if DRAW not in names:
        if CHAIN in names or total != volume:
            raise MismatchError(f"{array.name} holds {total // volume} configurations; name their axis n")
        return _Part(array, names, tuple(given[axis] for axis in names))
    count = chains or 1
    extents = {**given, CHAIN: count, DRAW: _equal(total // volume, count, array.name)}
    order = names if CHAIN in names else names.replace(DRAW, CHAIN + DRAW)
    return _Part(array, order, tuple(extents[axis] for axis in order))


def _equal(total: int, chains: int, name: str) -> int:
    """The length of each of the chains."""
    if total % chains or total < chains:
        raise MismatchError(
            f"the {total} configurations of {name} are not {chains} chains of equal length: {total % chains} are left "
            "over; give another number of chains, or leave some configurations out"
        )
    return total // chains


def _sound(values: NDArray[np.floating], array: ForeignArray) -> NDArray[np.float64]:
    """The values as float64, if they may be those of fields.

    Raises:
        DmmcError: if they are not finite, or absurd.
    """
    if _absurd(values):
        other = ""
        if not _absurd(values.byteswap()):
            other = f"; in the other byte order, {array.dtype.newbyteorder().str}, they are not"
        raise DmmcError(
            f"the values of {array.name}, read as {array.dtype.str}, are of absurd sizes{other}; give the type and "
            "byte order in which it was written"
        )
    fields = np.ascontiguousarray(values, dtype=np.float64)
    if not np.isfinite(fields).all():
        chain, _, *site = (int(k) for k in np.argwhere(~np.isfinite(fields))[0])
        raise DmmcError(
            f"{array.name} has NaN or infinite values, the first at site {tuple(site)} of a field of chain {chain}; "
            "remove those configurations first"
        )
    return fields


def _absurd(values: NDArray[np.floating]) -> bool:
    with np.errstate(all="ignore"):
        size = np.abs(values[(values != 0) & ~np.isnan(values)].astype(np.float64))
        outside = np.count_nonzero((size < SANE[0]) | (size > SANE[1]))
    return bool(outside > ABSURD * max(values.size, 1))


def _text(lattice: tuple[int, ...]) -> str:
    return " x ".join(map(str, lattice))

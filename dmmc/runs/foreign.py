"""Arrays of other codes, in files or in memory, of which a piece can be read at a time.

A file is never read as a whole, unless it is compressed in an ``.npz`` archive: what is asked for is mapped into memory
in windows, copied, and unmapped, so that an array may be larger than memory. This module does not import torch.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from dmmc.core.arrays import array_of
from dmmc.core.errors import DmmcError, FileError
from dmmc.runs.fields import NUMPY_SIGNATURE, SHOWN_NAMES, ZIP_SIGNATURE
from dmmc.runs.format import FORMAT
from dmmc.runs.hdf5 import SIGNATURE, Array, dataset_of, first_bytes, get_text, lies_here, verified

WINDOW_BYTES = 1 << 25
"""Bytes of a file that are mapped into memory at a time."""

Slices = tuple[slice, ...]
Read = Callable[[Slices], Array]


@dataclass(frozen=True)
class ForeignArray:
    """An array that has not been read yet.

    Attributes:
        name: what messages call it.
        shape: its shape, in C order.
        dtype: the type of its numbers, byte order included.
        reader: makes the function that reads a piece, for the array in another shape of the same size: that of the
            array, with one axis split in two, or any for an array of one axis.
        fortran: whether it is stored in Fortran order, so that ``shape`` is the reverse of the shape that NumPy shows.
        raw: whether nothing in the file says its type and shape.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reader: Callable[[tuple[int, ...]], Read]
    fortran: bool = False
    raw: bool = False

    @property
    def shown_shape(self) -> tuple[int, ...]:
        """The shape as NumPy shows it."""
        return self.shape[::-1] if self.fortran else self.shape


def open_array(source: object, name: str | None = None, dtype: str | None = None, skip: int = 0) -> ForeignArray:
    """Find out what an array is, without reading it.

    Args:
        source: an array in memory, or the path of a file: ``.npy``, ``.npz`` or HDF5, which are told by their first
            bytes, or a raw one.
        name: the array in an archive, or the dataset in an HDF5 file; needed where there are several.
        dtype: the type of the numbers in a raw file, such as ``"<f8"`` or ``">f4"``; needed for one, and refused for
            others, which say it.
        skip: bytes at the beginning of a raw file that are left out.

    Raises:
        FileError: if the file is missing, truncated, damaged or of an unknown kind, or does not have the array.
        DmmcError: if the numbers are no real floating-point ones, or an option does not fit the kind of the source.
    """
    if not isinstance(source, (str, os.PathLike)):
        found = _in_memory(source)
        kind = "an array in memory"
    else:
        path = Path(source)
        start = first_bytes(path)
        if start.startswith(NUMPY_SIGNATURE):
            kind, found = "a .npy file", _numpy(path, 0, str(path))
        elif start.startswith(ZIP_SIGNATURE):
            return _no_raw_options(_archive(path, name), "an .npz archive", dtype, skip)
        elif start == SIGNATURE or h5py.is_hdf5(path):
            return _no_raw_options(_dataset(path, name), "an HDF5 file", dtype, skip)
        elif dtype is None:
            raise FileError(
                f"{path} is neither a .npy file, nor an .npz archive, nor an HDF5 file; if it holds nothing but "
                "numbers, say of which type (dtype such as <f8 or >f8) and on which lattice (shape)"
            )
        else:
            kind, found = "", _raw(path, dtype, skip)
    if name is not None:
        raise DmmcError(f"{found.name} is {kind or 'a raw file'}, in which arrays have no names; leave the name out")
    return found if found.raw else _no_raw_options(found, kind, dtype, skip)


def check_type(array: ForeignArray) -> None:
    """Refuse numbers that are no fields.

    Raises:
        DmmcError: if they are not real floating-point numbers.
    """
    kind = array.dtype.kind
    if kind == "c":
        raise DmmcError(
            f"{array.name} holds complex numbers ({array.dtype}), and fields are real here; if the imaginary parts are "
            "0, save the real parts alone"
        )
    if kind in "iub":
        raise DmmcError(
            f"{array.name} holds integers ({array.dtype}), which are hardly values of a field; if they are, save them "
            "as float64"
        )
    if kind != "f":
        raise DmmcError(f"{array.name} must hold real numbers, got {array.dtype}")


def _no_raw_options(array: ForeignArray, kind: str, dtype: str | None, skip: int) -> ForeignArray:
    if dtype is not None or skip:
        raise DmmcError(
            f"{array.name} is {kind}, which says its type and where its numbers begin; leave dtype and skip out"
        )
    return array


def _in_memory(source: Any) -> ForeignArray:
    array = array_of(source.detach().cpu() if hasattr(source, "detach") else source, "the array")
    return ForeignArray("the array", array.shape, array.dtype, lambda shape: array.reshape(shape).__getitem__)


def _mapped(path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Read:
    """Reads pieces of numbers that lie in a file in C order."""
    row = math.prod(shape[1:]) * dtype.itemsize
    step = max(1, WINDOW_BYTES // max(row, 1))

    def read(slices: Slices) -> Array:
        start, stop, _ = slices[0].indices(shape[0])
        parts = []
        for first in range(start, stop, step):
            rows = min(step, stop - first)
            # Mapped anew each time: pages that were read do not pile up in the memory of this process.
            window = np.memmap(path, dtype, "r", offset + first * row, (rows, *shape[1:]))
            parts.append(np.array(window[(slice(None), *slices[1:])]))
            del window
        return np.concatenate(parts)

    return read


def _in_file(
    path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], name: str, fortran: bool = False
) -> ForeignArray:
    held, size = os.path.getsize(path) - offset, math.prod(shape) * dtype.itemsize
    if held < size:
        raise FileError(
            f"{name} is truncated: {tuple(shape)} numbers of type {dtype} take {size} bytes, and {max(held, 0)} are "
            "there; copy it again"
        )
    return ForeignArray(name, shape, dtype, lambda shape: _mapped(path, offset, dtype, shape), fortran)


def _numpy(path: Path, start: int, name: str) -> ForeignArray:
    """The array whose ``.npy`` header begins at byte ``start``."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            shape, fortran, dtype = _header(stream)
            offset = stream.tell()
        shape = tuple(int(extent) for extent in shape)
        if min(shape, default=0) < 0:
            raise ValueError(f"shape {shape}")
    except Exception as error:  # whatever NumPy makes of a header that is none
        reason = ascii(str(error) or type(error).__name__)[1:100]
        raise FileError(f"{name} is not a readable .npy file of numbers; save it again [{reason}]") from None
    if dtype.hasobject:
        raise FileError(f"{name} holds Python objects, not numbers; save an array of numbers, as many in each row")
    return _in_file(path, offset, dtype, shape[::-1] if fortran else shape, name, fortran and len(shape) > 1)


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _archive(path: Path, name: str | None) -> ForeignArray:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.file_size}
    except (zipfile.BadZipFile, OSError) as error:
        raise FileError(f"{path} is truncated or damaged; restore it from a copy [{error}]") from None
    chosen = _chosen(path, "array", list(members), name)
    info, where = members[chosen], f"{chosen} in {path}"
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as stream:  # the header in front of the member may differ from that in the directory
            stream.seek(info.header_offset + 26)
            lengths = stream.read(4)
        offset = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        return _numpy(path, offset, where)
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = np.asarray(archive[chosen])
    except Exception as error:  # whatever NumPy and the archive make of what is no array
        reason = ascii(str(error) or type(error).__name__)[1:100]
        raise FileError(f"{where} is not a readable array of numbers; save it again [{reason}]") from None
    return ForeignArray(where, array.shape, array.dtype, lambda shape: array.reshape(shape).__getitem__)


def _dataset(path: Path, name: str | None) -> ForeignArray:
    def look(file: h5py.File) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
        if get_text(file, "format") == FORMAT:
            raise FileError(f"{path} is a run of dmmc already, which can be used as it is")
        chosen = _chosen(path, "dataset", _datasets(file), name)
        dataset = _found(file, chosen)
        lies_here(dataset)
        return chosen, tuple(dataset.shape or ()), dataset.dtype

    chosen, shape, dtype = verified(path, look)

    def reader(wanted: tuple[int, ...]) -> Read:
        return lambda slices: verified(path, lambda file: _read_split(_found(file, chosen), wanted, slices))

    return ForeignArray(f"{chosen} in {path}", shape, dtype, reader)


def _datasets(group: h5py.Group) -> list[str]:
    """The datasets with axes in a file, by their paths."""
    names: list[str] = []

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and node.shape:
            names.append(name)

    group.visititems(visit)
    return names


def _found(file: h5py.File, name: str) -> h5py.Dataset:
    *groups, last = name.strip("/").split("/")
    return dataset_of(file["/".join(groups)] if groups else file, last)


def _read_split(dataset: h5py.Dataset, shape: tuple[int, ...], slices: Slices) -> Array:
    """A piece of a dataset that is seen with one of its axes split in two."""
    stored = tuple(dataset.shape)
    if shape == stored:
        return np.asarray(dataset[slices])
    if len(stored) == 1 < len(shape) - 1:
        raise DmmcError(
            f"{dataset.name} in {dataset.file.filename} has one axis; save it with an axis for each "
            "of those of the lattice"
        )
    axis = next(k for k, extent in enumerate(stored) if extent != shape[k])
    outer, inner = (s.indices(n) for s, n in zip(slices[axis : axis + 2], shape[axis : axis + 2], strict=True))
    parts = [
        dataset[
            (*slices[:axis], slice(k * shape[axis + 1] + inner[0], k * shape[axis + 1] + inner[1]), *slices[axis + 2 :])
        ]
        for k in range(*outer)
    ]
    return np.stack(parts, axis)


def _raw(path: Path, dtype: str, skip: int) -> ForeignArray:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise DmmcError(f"dtype {dtype!r} is no type of numbers; write <f8, >f8, <f4 or >f4") from None
    if skip < 0:
        raise DmmcError(f"skip must not be negative, got {skip}")
    n_bytes = os.path.getsize(path) - skip
    if n_bytes <= 0:
        raise FileError(f"{path} is empty" + (f" after its first {skip} bytes" if skip else ""))
    if n_bytes % kind.itemsize:
        raise FileError(
            f"{path} is truncated, or its type is another: {n_bytes} bytes are no whole number of values of type "
            f"{dtype}, {kind.itemsize} bytes each"
        )
    shape = (n_bytes // kind.itemsize,)
    return ForeignArray(str(path), shape, kind, lambda shape: _mapped(path, skip, kind, shape), raw=True)


def _chosen(path: Path, what: str, names: list[str], name: str | None) -> str:
    shown = f"{', '.join(names[:SHOWN_NAMES]) or 'none'}{', and more' if len(names) > SHOWN_NAMES else ''}"
    if name is not None:
        if name.strip("/") not in names:
            raise FileError(f"{path} has no {what} {name}; those that it has: {shown}")
        return name.strip("/")
    if len(names) != 1:
        raise FileError(f"{path} has {len(names)} {what}s ({shown}); say which of them holds the fields")
    return names[0]

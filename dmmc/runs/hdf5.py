"""HDF5 files whose damage is noticed: datasets with checksums, text attributes, one message for every kind of fault.

Every dataset carries the Fletcher-32 checksums of HDF5, which are verified whenever it is read, and the SHA-256 of its
bytes (C order) as the attribute ``sha256``. The first finds damage of the disk, the second also changes that were
written through HDF5.

A file may come from a stranger. What is read lies in the file itself, and is as large as the file says it is.

HDF5 does not survive a disk that is full: it may crash the process when it closes the file. Small files are therefore
made in memory, and large ones where the space that they need has been set aside.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError, FileError

Array = NDArray[Any]
Arrays = dict[str, Array]
T = TypeVar("T")

LIBVER = ("v110", "v110")
"""Layout of the files: readable by every HDF5 since 1.10. Older layouts have no checksums on their metadata."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHUNK_BYTES = 1 << 18

METADATA_BYTES = 1 << 18
"""Room for what describes the datasets of a file: a few hundred bytes each."""

CHUNK_ENTRY_BYTES = 64
"""Room for what describes a chunk: its checksum, and its place in the index, which grows by doubling."""

MOST_COMPRESSED = 100
"""How many times smaller than its values a compressed dataset of another program may be. Fields hardly get smaller."""

_SPACELESS = (h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SHUFFLE)
"""Filters that do not compress."""


def set_text(node: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
    """Store ``text`` as an attribute."""
    # Of fixed length: HDF5 keeps other strings in a heap that is not checksummed, and a flipped bit there can
    # make it loop for ever.
    node.attrs[name] = np.bytes_(text.encode())


def get_text(node: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """The text of an attribute; None if there is no such attribute, or it is not text of a fixed length."""
    if name not in node.attrs or node.attrs.get_id(name).dtype.kind != "S":
        return None
    value = node.attrs[name]
    return value.decode() if isinstance(value, bytes) else None


def write_array(group: h5py.Group, name: str, array: Array) -> None:
    """Store a whole array with its checksums.

    Raises:
        DmmcError: if HDF5 cannot have a dataset of this name.
    """
    pieces = PiecewiseDataset(group, name, array.shape, array.dtype)
    pieces.write(array)
    pieces.close()


class PiecewiseDataset:
    """A dataset with checksums that is written piece by piece along its first axis, so that it never lies in memory.

    Args:
        group: where to make it.
        name: its name.
        shape: its shape.
        dtype: its type.

    Raises:
        DmmcError: if HDF5 cannot have a dataset of this name.
    """

    def __init__(self, group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if not name or "/" in name or name == ".":
            raise DmmcError(f"{name!r} cannot be the name of an array in a run file; leave out slashes")
        # Where there is nothing to chunk, HDF5 has no checksum either.
        chunked = {"chunks": _chunks(shape, dtype.itemsize), "fletcher32": True} if math.prod(shape) and shape else {}
        self._dataset = group.create_dataset(name, shape, dtype, **chunked)
        self._digest = hashlib.sha256()
        self._rows = 0

    def write(self, rows: Array) -> None:
        """Store the next rows; a dataset without axes has one piece, which is its value."""
        if self._dataset.shape:
            self._dataset[self._rows : self._rows + len(rows)] = rows
            self._rows += len(rows)
        else:
            self._dataset[()] = rows
        self._digest.update(_bytes(rows).data)

    def close(self) -> None:
        """Store the SHA-256 of everything that was written."""
        set_text(self._dataset, "sha256", self._digest.hexdigest())


def stored_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """The space that a dataset takes in a file; its last chunks are as large as the others."""
    if not shape or not math.prod(shape):
        return itemsize
    chunks = _chunks(shape, itemsize)
    number = math.prod(math.ceil(extent / chunk) for extent, chunk in zip(shape, chunks, strict=True))
    return number * (math.prod(chunks) * itemsize + CHUNK_ENTRY_BYTES)


def image(write: Callable[[h5py.File], object]) -> bytes:
    """The bytes of a file that is made in memory.

    Args:
        write: fills the file.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        write(file)
    return buffer.getvalue()


def write_file(path: Path, n_bytes: int, write: Callable[[h5py.File], object]) -> None:
    """Write a large file.

    Args:
        path: a file that exists and is empty.
        n_bytes: the space that its datasets take, see :func:`stored_bytes`.
        write: fills the file.

    Raises:
        OSError: if the disk has not as much space.
    """
    path.write_bytes(image(lambda file: None))
    if hasattr(os, "posix_fallocate"):  # not everywhere
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, n_bytes + METADATA_BYTES)
    with h5py.File(path, "r+", libver=LIBVER) as file:  # closing it gives back what it did not need
        write(file)


def lies_here(dataset: h5py.Dataset) -> str:
    """Refuse a dataset that cannot be read from its file; returns what messages call it.

    Raises:
        FileError: if it does not lie in its file, claims to be larger than it is there, or does not consist of numbers.
    """
    where = f"{dataset.file.filename}: {dataset.name}"
    if dataset.dtype.kind not in "biufc":
        raise FileError(f"{where} must be numbers, got {dataset.dtype}")
    if dataset.is_virtual or dataset.external:
        raise FileError(f"{where} lies in another file, and is not read; copy the values into this file")
    if max(dataset.nbytes, _chunk_bytes(dataset)) > _most_bytes(dataset):
        raise FileError(f"{where} is damaged: it claims {dataset.nbytes} bytes, which the file does not hold")
    return where


def read_array(dataset: h5py.Dataset, foreign: bool = False) -> Array:
    """The whole dataset, verified.

    Args:
        dataset: the dataset.
        foreign: whether another program wrote it, so that it may lack its SHA-256, or be compressed.

    Raises:
        FileError: if it does not lie in its file, claims to be larger than it is there, does not consist of numbers,
            cannot be read, or does not have its SHA-256.
    """
    where = lies_here(dataset)
    try:
        array = np.asarray(dataset[()])
        stored = get_text(dataset, "sha256")
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"{where} is damaged (checksum mismatch), or packed by a filter that is not installed here; restore the "
            f"file from a copy, or save it without that filter [{error}]"
        ) from None
    if stored is None and not foreign:
        raise FileError(f"{where} has lost its SHA-256, so that it cannot be trusted; restore the file from a copy")
    if stored is not None and stored != hashlib.sha256(_bytes(array).data).hexdigest():
        raise FileError(f"{where} is damaged (SHA-256 mismatch); restore the file from a copy")
    return array


def read_group(file: h5py.File, name: str) -> Arrays:
    """All datasets of a group by name, verified.

    Raises:
        FileError: if there is no such group, it holds anything but datasets, or as :func:`read_array`.
    """
    group = member(file, name)
    if not isinstance(group, h5py.Group):
        raise FileError(f"{file.filename}: there is no group {name}; restore the file from a copy")
    # By name: items() and "in" pass over what cannot be opened, where indexing raises.
    return {key: read_array(dataset_of(group, key)) for key in list(group)}


def dataset_of(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset of this name.

    Raises:
        FileError: if there is none.
    """
    found = member(group, name)
    if not isinstance(found, h5py.Dataset):
        raise FileError(f"{group.file.filename}: there is no dataset {name} in {group.name}")
    return found


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What has this name in a group; None if nothing has.

    Raises:
        FileError: if it is a link, which may point into any other file.
    """
    if name not in list(group):
        return None
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise FileError(f"{group.file.filename}: {name} is a link, and is not followed; copy what it points to")
    return group[name]


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, which tells its kind.

    Raises:
        FileError: if there is no such file, or it cannot be read.
    """
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a file")
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is not a regular file")
    try:
        with path.open("rb") as stream:
            return stream.read(len(SIGNATURE))
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None


def verified(path: Path, read: Callable[[h5py.File], T]) -> T:
    """``read(file)`` of a file that is opened for reading.

    Raises:
        FileError: if there is no such file, it is not an HDF5 file, or it is truncated or damaged, also where HDF5
            notices that only while ``read`` is at work; the message says which.
    """
    start = first_bytes(path)
    if start != SIGNATURE and not h5py.is_hdf5(path):  # other programs may put a block of their own before it
        raise FileError(f"{path} is {'empty' if not start else 'not an HDF5 file'}")
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileError(f"{path} is truncated or damaged; restore it from a copy [{error}]") from None
    with file:
        try:
            return read(file)
        except FileError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise FileError(f"{path} is damaged or incomplete; restore it from a copy [{error}]") from None


def _bytes(array: Array) -> Array:
    """The array's memory in C order, without a copy if it has that order already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks that split the leading axes only, of about CHUNK_BYTES."""
    chunks, size = list(shape), itemsize * math.prod(shape)
    for axis, extent in enumerate(shape):
        if size <= CHUNK_BYTES:
            break
        # Pieces of nearly equal length, so that the last one wastes little space.
        pieces = min(extent, math.ceil(size / CHUNK_BYTES))
        chunks[axis] = math.ceil(extent / pieces)
        size = size // extent * chunks[axis]
    return tuple(chunks)


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    return 0 if dataset.chunks is None else math.prod(dataset.chunks) * dataset.dtype.itemsize


def _most_bytes(dataset: h5py.Dataset) -> int:
    """How many bytes of values the file can hold of this dataset."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    factor = 1 if all(code in _SPACELESS for code in filters) else MOST_COMPRESSED
    return factor * min(dataset.id.get_storage_size(), os.path.getsize(dataset.file.filename))

"""HDF5 files whose damage is noticed: datasets with checksums, text attributes, one message for every kind of fault.

Every dataset carries the Fletcher-32 checksums of HDF5, which are verified whenever it is read, and the SHA-256 of its
bytes (C order) as the attribute ``sha256``. The first finds damage of the disk, the second also changes that were
written through HDF5.
"""

from __future__ import annotations

import hashlib
import math
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


def set_text(node: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
    """Store ``text`` as an attribute."""
    # Of fixed length: HDF5 keeps other strings in a heap that is not checksummed, and a flipped bit there can
    # make it loop for ever.
    node.attrs[name] = np.bytes_(text.encode())


def get_text(node: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """The text of an attribute; None if there is no such attribute, or it is not text."""
    value = node.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else None


def write_array(group: h5py.Group, name: str, array: Array) -> None:
    """Store a whole array with its checksums.

    Raises:
        DmmcError: if HDF5 cannot have a dataset of this name.
    """
    if not name or "/" in name or name == ".":
        raise DmmcError(f"{name!r} cannot be the name of an array in a run file; leave out slashes")
    if math.prod(array.shape) == 0 or not array.shape:  # nothing to chunk, and HDF5 has no checksum without chunks
        dataset = group.create_dataset(name, shape=array.shape, dtype=array.dtype)
    else:
        chunks = _chunks(array.shape, array.itemsize)
        dataset = group.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=chunks, fletcher32=True)
    dataset[...] = array
    digest = hashlib.sha256(_bytes(array).data)
    set_text(dataset, "sha256", digest.hexdigest())


class GrowingDataset:
    """A dataset with checksums that is written piece by piece along its first axis, so that it never lies in memory.

    Args:
        group: where to make it.
        name: its name.
        n_pieces: about how many pieces like the first there will be, for the size of the chunks.
    """

    def __init__(self, group: h5py.Group, name: str, n_pieces: int) -> None:
        self._group, self._name, self._n_pieces = group, name, n_pieces
        self._dataset: h5py.Dataset | None = None
        self._digest = hashlib.sha256()

    def append(self, rows: Array) -> None:
        """Add ``rows`` at the end."""
        if self._dataset is None:
            rest = rows.shape[1:]
            chunks = _chunks((self._n_pieces * len(rows), *rest), rows.itemsize)
            self._dataset = self._group.create_dataset(
                self._name, (0, *rest), rows.dtype, maxshape=(None, *rest), chunks=chunks, fletcher32=True
            )
        self._dataset.resize(len(self._dataset) + len(rows), axis=0)
        self._dataset[-len(rows) :] = rows
        self._digest.update(_bytes(rows).data)

    def close(self) -> None:
        """Store the SHA-256 of everything that was appended."""
        if self._dataset is not None:
            set_text(self._dataset, "sha256", self._digest.hexdigest())


def read_array(dataset: h5py.Dataset) -> Array:
    """The whole dataset, verified.

    Raises:
        FileError: if it cannot be read or does not have its SHA-256.
    """
    where = f"{dataset.file.filename}: {dataset.name}"
    try:
        array = np.asarray(dataset[()])
        stored = get_text(dataset, "sha256")
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"{where} is damaged (checksum mismatch), or packed by a filter that is not installed here; restore the "
            f"file from a copy, or save it without that filter [{error}]"
        ) from None
    if stored is not None and stored != hashlib.sha256(_bytes(array).data).hexdigest():
        raise FileError(f"{where} is damaged (SHA-256 mismatch); restore the file from a copy")
    return array


def read_group(file: h5py.File, name: str) -> Arrays:
    """All datasets of a group by name, verified.

    Raises:
        FileError: as :func:`read_array`.
    """
    # By name: items() and "in" pass over what cannot be opened, where indexing raises.
    group = file[name]
    return {key: read_array(group[key]) for key in list(group)}


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, which tells its kind."""
    with path.open("rb") as stream:
        return stream.read(len(SIGNATURE))


def verified(path: Path, read: Callable[[h5py.File], T]) -> T:
    """``read(file)`` of a file that is opened for reading.

    Raises:
        FileError: if there is no such file, it is not an HDF5 file, or it is truncated or damaged, also where HDF5
            notices that only while ``read`` is at work; the message says which.
    """
    with _open(path) as file:
        try:
            return read(file)
        except FileError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise FileError(f"{path} is damaged or incomplete; restore it from a copy [{error}]") from None


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise FileError(f"there is no file {path}")
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a file")
    start = first_bytes(path)
    if start != SIGNATURE and not h5py.is_hdf5(path):  # other programs may put a block of their own before it
        raise FileError(f"{path} is {'empty' if not start else 'not an HDF5 file'}")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileError(f"{path} is truncated or damaged; restore it from a copy [{error}]") from None


def _bytes(array: Array) -> Array:
    """The array's memory in C order, without a copy if it has that order already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks that split the leading axes only, of about CHUNK_BYTES."""
    chunks, size = list(shape), itemsize * math.prod(shape)
    for axis, extent in enumerate(shape):
        if size <= CHUNK_BYTES:
            break
        chunks[axis] = max(1, math.ceil(extent * CHUNK_BYTES / size))
        size = size // extent * chunks[axis]
    return tuple(chunks)

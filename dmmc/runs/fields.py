"""Configurations from files: those of a run, and those of other codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import FileError, MismatchError
from dmmc.runs.format import FORMAT
from dmmc.runs.hdf5 import dataset_of, first_bytes, get_text, member, read_array, verified
from dmmc.runs.names import refuse_unfinished

NUMPY_SIGNATURE = b"\x93NUMPY"


def load_fields(path: str | Path, lattice_shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Configurations of a dmmc run, of any HDF5 file with a dataset ``/cfgs``, or of a ``.npy`` file.

    Args:
        path: the file; its content decides how it is read, not its name.
        lattice_shape: what the lattice must be; None accepts any lattice of one to four dimensions.

    Returns:
        ``(N, *lattice)`` float64.

    Raises:
        FileError: if the file is missing, cannot be read, unfinished, of another kind, truncated, damaged, or its
            fields are not real and finite ``(N, *lattice)``, or lie in another file.
        MismatchError: if they are on another lattice than ``lattice_shape``.
    """
    path = Path(path)
    refuse_unfinished(path)
    if first_bytes(path).startswith(NUMPY_SIGNATURE):
        try:
            # Mapped, so that no memory is taken for numbers that the file claims to have and has not.
            fields = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise FileError(f"{path} is not a readable .npy file of numbers; save it again [{error}]") from None
        where = f"{path}"
    else:
        fields, where = verified(path, _read_cfgs), f"/cfgs of {path}"
    if fields.dtype.kind not in "fiu":
        raise FileError(f"{where} must be real numbers, got {fields.dtype}")
    if not 2 <= fields.ndim <= 5 or 0 in fields.shape:
        raise FileError(f"{where} must have shape (N, *lattice), lattice of 1 to 4 dimensions, got {fields.shape}")
    if lattice_shape is not None and fields.shape[1:] != tuple(lattice_shape):
        raise MismatchError(
            f"{where} is on a lattice {fields.shape[1:]}, not {tuple(lattice_shape)}; "
            "choose that lattice or another file"
        )
    fields = np.array(fields, dtype=np.float64, order="C")
    if not np.isfinite(fields).all():
        raise FileError(f"{where} has NaN or infinite values; remove those configurations first")
    return fields


def _read_cfgs(file: h5py.File) -> NDArray[Any]:
    foreign = get_text(file, "format") != FORMAT
    if member(file, "cfgs") is None:
        kind = "file has no dataset /cfgs" if foreign else "run kept no configurations"
        raise FileError(
            f"{file.filename}: this {kind}; fields are read from /cfgs, N x lattice "
            f"(at its top level are: {', '.join(file) or 'nothing'})"
        )
    return read_array(dataset_of(file, "cfgs"), foreign)

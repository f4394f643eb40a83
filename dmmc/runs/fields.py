"""Configurations from files: those of a run, and those of other codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.arrays import float64_of
from dmmc.core.errors import FileError
from dmmc.runs.format import FORMAT
from dmmc.runs.hdf5 import dataset_of, first_bytes, get_text, member, read_array, verified
from dmmc.runs.names import refuse_unfinished

NUMPY_SIGNATURE = b"\x93NUMPY"
ZIP_SIGNATURE = b"PK\x03\x04"

SHOWN_NAMES = 8
"""So many of the names in a foreign file are shown."""


def load_fields(path: str | Path) -> NDArray[np.float64]:
    """Configurations of a dmmc run, of any HDF5 file with a dataset ``/cfgs``, or of a ``.npy`` file.

    Args:
        path: the file; its content decides how it is read, not its name.

    Returns:
        ``(N, *lattice)`` float64.

    Raises:
        FileError: if the file is missing, unfinished, of another kind, truncated, damaged, or its fields are
            not real and finite ``(N, *lattice)``, with a lattice of one to four dimensions, or lie in another file.
    """
    path = Path(path)
    refuse_unfinished(path)
    start = first_bytes(path)
    try:
        if start.startswith(NUMPY_SIGNATURE):
            fields, where = _read_npy(path), f"{path}"
        elif start.startswith(ZIP_SIGNATURE):
            raise FileError(f"{path} is an archive such as .npz; save its fields alone as a .npy file, (N, *lattice)")
        else:
            fields, where = verified(path, _read_cfgs), f"/cfgs of {path}"
        if fields.dtype.kind not in "fiu":
            raise FileError(f"{where} must be real numbers, got {fields.dtype}")
        if not 2 <= fields.ndim <= 6 or 0 in fields.shape:
            raise FileError(f"{where} must have shape (N, *lattice), lattice of 1 to 4 dimensions, got {fields.shape}")
        fields = float64_of(fields)
    except MemoryError as error:
        raise FileError(f"{path} holds more than fits into memory; keep fewer configurations [{error}]") from None
    if not np.isfinite(fields).all():
        raise FileError(f"{where} has NaN or infinite values; remove those configurations first")
    return fields


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        # Mapped first: an array that the file is too short for is refused before it is given memory.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except MemoryError:
        raise
    except Exception as error:  # whatever NumPy makes of a header that is none
        reason = ascii(str(error) or type(error).__name__)[1:100]
        raise FileError(f"{path} is not a readable .npy file of numbers; save it again [{reason}]") from None


def _read_cfgs(file: h5py.File) -> NDArray[Any]:
    foreign = get_text(file, "format") != FORMAT
    if not isinstance(member(file, "cfgs"), h5py.Dataset):
        names = list(file)
        kind = "file has no dataset /cfgs" if foreign else "run kept no configurations"
        more = f", and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        raise FileError(
            f"{file.filename}: this {kind}; fields are read from the dataset /cfgs, (N, *lattice) "
            f"(at its top level are: {', '.join(names[:SHOWN_NAMES]) or 'nothing'}{more})"
        )
    cfgs = dataset_of(file, "cfgs")
    if cfgs.dtype.kind not in "fiu" or cfgs.shape is None:
        raise FileError(f"/cfgs of {file.filename} must be real numbers (N, *lattice), got {cfgs.dtype} {cfgs.shape}")
    return read_array(cfgs, foreign)

"""The configurations of a run, written for other codes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import check_place, replace_file, replaceable
from dmmc.core.records import Record
from dmmc.runs.axes import CHAIN, COMPONENT, DRAW, LATTICE, parsed
from dmmc.runs.hdf5 import dataset_of, set_text, verified, write_file
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.importing import relative_size
from dmmc.theory.descriptions import action_from_description

PIECE_BYTES = 1 << 24
"""Bytes of fields that are read at a time."""

DATASET_BYTES = 1 << 11
"""Room for what describes one dataset of an HDF5 file, and its part of the index of its group."""

HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class ExportSummary(Record):
    """What was written; the same is in the file of the same name with ``.json`` at its end, or in an HDF5 file.

    Attributes:
        file: the file.
        axes: names of its axes, in the order in which NumPy shows them; the last one varies fastest.
        shape: its shape; in an HDF5 file that of each dataset ``<replicum>/<number>``.
        dtype: type of its numbers.
        chains: number of chains.
        lattice: extents in the order x, y, z, t.
        field: how many times larger the fields are than those of the action.
        action: description of the action; {} if it is not known.
        idl: numbers of the configurations of each replicum, as in pyerrors: first, last and step.
        run_id: identifies the run.
        remarks: what is to be known about the run, such as that it was imported unchecked.
    """

    file: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    chains: int
    lattice: tuple[int, ...]
    field: float
    action: dict[str, Any]
    idl: dict[str, tuple[int, int, int]]
    run_id: str
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: axes {self.axes}, shape {' x '.join(map(str, self.shape))}, type {self.dtype}"


def export_fields(
    run: StoredRun | str | Path,
    path: str | Path,
    *,
    axes: str | None = None,
    field: str | float = 1.0,
    dtype: str = "<f8",
    overwrite: bool = False,
) -> ExportSummary:
    """Write the kept configurations of a run for another code; they are never all in memory.

    Args:
        run: a run, or the path of one.
        path: the file. A name that ends with ``.npy`` is a NumPy file. One that ends with ``.h5`` or ``.hdf5`` is an
            HDF5 file with a dataset ``r0001/<number>`` for each configuration of the first chain, and so on. Anything
            else is a raw file of nothing but numbers.
        axes: the order of the axes, see :mod:`dmmc.runs.axes`; by default ``"c n x y"``, with ``i`` before the x of a
            field with components. Without ``c``, chains follow each other along ``n``. For an HDF5 file those of a
            field alone, such as ``"y x"``.
        field: normalisation to write: ``hopping``, ``mass``, ``textbook``, or how many times larger than the field of
            the action.
        dtype: type and byte order of the numbers, such as ``"<f8"`` or ``">f4"``.
        overwrite: replace an earlier file.

    Returns:
        what was written. For all but HDF5 files it is also stored beside the file, as ``<path>.json``.

    Raises:
        FileError: if the run cannot be read or kept no fields, or a file is in the way.
        DmmcError: if an option is none of those above, or the chains did not keep the same draws.
    """
    run, path = run if isinstance(run, StoredRun) else load_run(run), Path(path)
    rows, draws = _kept(run)
    dim, shape = len(run.lattice), run.header.field_shape
    of_field = (COMPONENT if run.header.components is not None else "") + LATTICE[:dim]
    factor = relative_size(field, action_from_description(run.header.action), dim)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype("V")
    if kind.kind != "f":
        raise DmmcError(f"dtype {dtype!r} is no type of real numbers; write <f8, >f8, <f4 or >f4")
    in_datasets = path.suffix in HDF5_SUFFIXES
    names = parsed(axes or ("" if in_datasets else CHAIN + DRAW) + of_field)
    named = "".join(axis for axis in names if axis not in CHAIN + DRAW)
    others = {""} if in_datasets else {DRAW, CHAIN + DRAW, DRAW + CHAIN}
    if sorted(named) != sorted(of_field) or "".join(axis for axis in names if axis in CHAIN + DRAW) not in others:
        raise DmmcError(
            f"the axes {axes!r} do not fit: name {', '.join(of_field)}"
            + (
                " alone, since each field is a dataset"
                if in_datasets
                else ", n, and c if chains get an axis of their own"
            )
        )
    replaceable(path)
    for place in (path, *([] if in_datasets else [beside(path)])):
        check_place(place)
        replaceable(place)
        if place.exists() and not overwrite:
            raise FileError(f"{place} exists; choose another --out, or pass --overwrite")
    numbers = run.configurations
    every = draws[1] - draws[0] if len(draws) > 1 else 1
    first, last = numbers[draws[0]], numbers[draws[-1]]
    step = numbers.step * int(every)
    extents = {CHAIN: run.n_chains, DRAW: len(draws), **dict(zip(of_field, shape, strict=True))}
    full = names if CHAIN in names or in_datasets else names.replace(DRAW, CHAIN + DRAW)
    fused = {**extents, DRAW: rows.size} if CHAIN not in names else extents
    summary = ExportSummary(
        file=str(path),
        axes=" ".join(names),
        shape=tuple((extents if in_datasets else fused)[axis] for axis in names),
        dtype=kind.str,
        chains=run.n_chains,
        lattice=run.lattice,
        field=factor,
        action=run.header.action,
        idl={f"r{chain + 1:04d}": (first, last, step) for chain in range(run.n_chains)},
        run_id=run.run_id,
        remarks=tuple(run.header.provenance.get("remarks", ())),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = _fields(run.path, rows, factor, kind)
    if in_datasets:
        order = [of_field.index(axis) for axis in names]
        space = rows.size * (kind.itemsize * math.prod(shape) + DATASET_BYTES)

        def write(file: h5py.File) -> None:
            set_text(file, "fields", json.dumps(summary.to_json()))
            for k, phi in pieces:
                chain, draw = divmod(k, len(draws))
                group = file.require_group(f"r{chain + 1:04d}")
                group.create_dataset(str(first + step * draw), data=np.transpose(phi, order))

        replace_file(path, lambda temporary: write_file(temporary, space, write))
        return summary

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            if path.suffix == ".npy":
                header = {"descr": kind.str, "fortran_order": False, "shape": summary.shape}
                np.lib.format.write_array_header_2_0(stream, header)
            offset, size = stream.tell(), rows.size * math.prod(shape) * kind.itemsize
            stream.flush()
            if hasattr(os, "posix_fallocate"):  # a map of a file on a full disk would end this process
                os.posix_fallocate(stream.fileno(), offset, size)
            else:
                stream.truncate(offset + size)
        values = np.memmap(temporary, kind, "r+", offset, tuple(extents[axis] for axis in full))
        by_name = np.transpose(values, [full.index(axis) for axis in CHAIN + DRAW + of_field])
        for k, phi in pieces:
            by_name[divmod(k, len(draws))] = phi
        values.flush()

    replace_file(path, fill)
    text = json.dumps(summary.to_json(), indent=1) + "\n"
    replace_file(beside(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return summary


def beside(path: Path) -> Path:
    """The file that says what is in an exported one."""
    return path.with_name(f"{path.name}.json")


def _kept(run: StoredRun) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the kept fields, ``(chain, draw)``, and the draws that they are of."""
    if not len(run.cfg_rows):
        raise FileError(f"{run.path} kept no configurations; make it with --keep-every 1")
    order = np.lexsort((run.cfg_index[:, 1], run.cfg_index[:, 0]))
    index, rows = run.cfg_index[order], run.cfg_rows[order]
    if len(rows) % run.n_chains:
        raise DmmcError(f"the chains of {run.path} did not keep the same draws; export a run whose chains did")
    draws = index[:, 1].reshape(run.n_chains, -1)
    if (draws != draws[0]).any() or len(set(np.diff(draws[0]).tolist())) > 1:
        raise DmmcError(f"the chains of {run.path} did not keep the same draws; export a run whose chains did")
    return rows.reshape(run.n_chains, -1), draws[0]


def _fields(
    path: Path, rows: NDArray[np.int64], factor: float, kind: np.dtype[Any]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The fields one after another with their number, those of one chain after those of another."""
    flat = rows.ravel()
    shape = verified(path, lambda file: dataset_of(file, "cfgs").shape[1:])
    size = max(1, PIECE_BYTES // (8 * math.prod(shape)))
    for start in range(0, len(flat), size):
        wanted = flat[start : start + size]
        order = np.argsort(wanted)  # HDF5 reads rows in increasing order only
        found = verified(path, lambda file, rows=wanted[order]: dataset_of(file, "cfgs")[rows])  # type: ignore[misc]
        for k, place in enumerate(np.argsort(order)):
            yield start + k, (factor * found[place]).astype(kind)

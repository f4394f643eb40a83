"""Writing runs, safe against a kill at any moment.

While a run is going, its blocks of draws lie one file each in the journal, a directory ``<path>.partial``. Every file
there is written under a temporary name, flushed to the disk and then renamed, so what has a final name is complete: a
kill, or a full disk, loses at most the block that is being written. :meth:`RunWriter.finish` assembles the blocks into
``<path>`` in the same way and removes the journal.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import sync
from dmmc.core.locks import take_lock
from dmmc.core.records import json_text
from dmmc.core.version import VERSION
from dmmc.runs.hdf5 import (
    LIBVER,
    Array,
    Arrays,
    GrowingDataset,
    read_array,
    read_group,
    set_text,
    verified,
    write_array,
)
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.manifest import FORMAT, FORMAT_VERSION, Manifest
from dmmc.runs.names import block_numbers, block_path, journal_of, manifest_path
from dmmc.runs.run import extent, load_run, stored_format

RECORDED = ("observables", "sample_stats")
GROUPS = (*RECORDED, "state")


@dataclass(frozen=True)
class _Layout:
    """Number of chains, and names, trailing shapes and dtypes of the arrays, which all blocks of a run share."""

    chains: int
    arrays: dict[str, tuple[tuple[int, ...], str]]

    @classmethod
    def of(cls, groups: Mapping[str, Arrays]) -> _Layout:
        arrays = {
            f"{group}/{name}": (array.shape[2:], array.dtype.str)
            for group in RECORDED
            for name, array in sorted(groups[group].items())
        }
        return cls(_extent(groups)[0], arrays)


def _extent(groups: Mapping[str, Arrays]) -> tuple[int, int]:
    return extent(*(groups[name] for name in RECORDED))


class RunWriter:
    """Writes one run, block by block. Make one with :meth:`create` or :meth:`resume`.

    A context manager: leaving it releases the run without finishing it, so that it can be resumed.

    Attributes:
        path: the file that the finished run will be.
        header: what the run is.
        n_blocks: number of blocks committed so far, those of an extended file included.
        n_draws: number of draws committed so far, likewise.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: int) -> None:
        self.path = path
        self.header = manifest.header
        self.n_blocks = manifest.base_blocks
        self.n_draws = manifest.base_draws
        self._journal = journal_of(path)
        self._manifest = manifest
        self._lock: int | None = lock
        self._layout: _Layout | None = None

    @classmethod
    def create(cls, path: str | Path, header: RunHeader, overwrite: bool = False) -> RunWriter:
        """Begin a run.

        Args:
            path: the file that the finished run will be; its directory is made if need be.
            header: what the run is.
            overwrite: delete a finished or unfinished run that is in the way.

        Raises:
            FileError: if there is one and ``overwrite`` is not given, or another process is writing it.
            DmmcError: if the header holds something that JSON has no form for.
        """
        path = Path(path)
        header.text()  # refuses what cannot be stored, before anything is touched
        if path.exists() and not overwrite:
            raise FileError(f"{path} exists; choose another --out, extend it with --resume, or allow overwriting")
        if path.is_dir():
            raise FileError(f"{path} is a directory; --out must name a file")
        journal = journal_of(path)
        journal.mkdir(parents=True, exist_ok=True)
        lock = take_lock(journal / "lock", str(journal))
        if manifest_path(journal).exists() and not overwrite:
            os.close(lock)
            raise FileError(
                f"{journal} holds an unfinished run; choose another --out, finish it with --resume, "
                "or allow overwriting"
            )
        path.unlink(missing_ok=True)
        for leftover in [manifest_path(journal), *journal.glob("block_*.h5"), *journal.glob("*.tmp")]:
            leftover.unlink(missing_ok=True)
        writer = cls(path, Manifest(uuid.uuid4().hex, header), lock)
        writer._write_manifest()
        return writer

    @classmethod
    def resume(cls, path: str | Path, header: RunHeader) -> RunWriter:
        """Go on with an unfinished run, or extend a finished one.

        Args:
            path: as for :meth:`create`.
            header: what the run is; only ``n_draws`` may differ from the stored one, and replaces it.

        Raises:
            FileError: if there is no such run, an older dmmc wrote it, a part of it cannot be read, or another process
                is writing it.
            MismatchError: if the header differs; the message says where.
        """
        path = Path(path)
        header.text()
        journal = journal_of(path)
        if not path.exists() and not manifest_path(journal).exists():
            raise FileError(f"there is nothing to resume at {path}; start the run without --resume")
        journal.mkdir(exist_ok=True)
        lock = take_lock(journal / "lock", str(journal))
        try:
            finished = _finished_manifest(path) if path.exists() else None
            manifest = _resumed_manifest(journal, finished)
            if manifest.format_version < FORMAT_VERSION:
                raise FileError(
                    f"{path} was begun by an older dmmc, which made its random numbers in another way; "
                    "finish it with that version, or start a new run"
                )
            manifest.header.check_same_run(header, str(path))
            writer = cls(path, replace(manifest, header=header), lock)
            writer._write_manifest()
            writer._scan()
        except BaseException:
            if not manifest_path(journal).exists():
                _remove(journal)
            os.close(lock)
            raise
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the run; what was appended stays in the journal, to be resumed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def append(
        self,
        block: Mapping[str, Array],
        stats: Mapping[str, Array],
        cfgs: Array | None,
        state: Mapping[str, Array],
        cfg_index: Array | None = None,
    ) -> None:
        """Commit one block of draws; when this returns it is on the disk.

        Args:
            block: observables, ``(chain, draw_in_block, ...)`` each.
            stats: sample statistics, likewise.
            cfgs: kept configurations, ``(n_kept, *lattice)``, or None.
            state: what the chains need to go on after this block; any arrays.
            cfg_index: chain and draw of each kept configuration, ``(n_kept, 2)``, draws counted within the
                block; needed with ``cfgs``.

        Raises:
            DmmcError: if the arrays do not fit each other or the earlier blocks, or a name has a slash.
        """
        self._check_open()
        groups: dict[str, Arrays] = {
            "observables": {name: np.asarray(array) for name, array in block.items()},
            "sample_stats": {name: np.asarray(array) for name, array in stats.items()},
            "state": {name: np.asarray(array) for name, array in state.items()},
        }
        layout = _Layout.of(groups)
        draws = _extent(groups)[1]
        if self._layout is not None and layout != self._layout:
            raise DmmcError(f"the arrays of this block do not fit the earlier ones: {layout}, before {self._layout}")
        final = block_path(self._journal, self.n_blocks)
        temporary = _temporary(final)
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            for name, arrays in groups.items():
                group = file.create_group(name)
                for key, array in arrays.items():
                    write_array(group, key, array)
            if cfgs is not None and len(cfgs):
                write_array(file, "cfgs", np.asarray(cfgs, dtype=np.float64))
                write_array(file, "cfg_index", _checked_index(cfg_index, len(cfgs), layout.chains, draws))
        _commit(temporary, final)
        self._layout = layout
        self.n_blocks += 1
        self.n_draws += draws

    def last_state(self) -> Arrays | None:
        """The chains' state after the last committed block; None before the first.

        Raises:
            FileError: if it cannot be read.
        """
        self._check_open()
        if self.n_blocks == 0:
            return None
        in_file = self.n_blocks == self._manifest.base_blocks
        last = self.path if in_file else block_path(self._journal, self.n_blocks - 1)
        return verified(last, lambda file: read_group(file, "state"))

    def finish(self, record: RunRecord, evaluation: Mapping[str, Array] | None = None) -> Path:
        """Assemble the finished file, remove the journal, and release the run.

        Args:
            record: what is known of the run now that it ends.
            evaluation: arrays that are not part of the chains, of any shape.

        Returns:
            The path of the finished file.

        Raises:
            FileError: if a block cannot be read.
            DmmcError: if there are no blocks, or the record holds something that JSON has no form for.
        """
        self._check_open()
        if self.n_blocks == 0:
            raise DmmcError("the run has no draws yet; append a block before finishing it")
        ending = json_text(record.to_json(), "the record of a run")
        temporary = _temporary(self._journal / "assembled.h5")
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            self._assemble(file)
            group = file.create_group("evaluation")
            for name, array in (evaluation or {}).items():
                write_array(group, name, np.asarray(array))
            set_text(file, "format", FORMAT)
            file.attrs["format_version"] = FORMAT_VERSION
            set_text(file, "run_id", self._manifest.run_id)
            file.attrs["n_blocks"] = self.n_blocks
            set_text(file, "header", self.header.text())
            set_text(file, "record", ending)
            versions = {name: version(name) for name in ("numpy", "h5py", "torch") if find_spec(name)}
            set_text(file, "versions", json_text({"dmmc": VERSION, **versions}, "the versions of a run"))
        _commit(temporary, self.path)
        _remove(self._journal)
        self.close()
        return self.path

    def _check_open(self) -> None:
        if self._lock is None:
            raise DmmcError(f"the run {self.path} is closed; use RunWriter.resume to go on with it")

    def _write_manifest(self) -> None:
        final = manifest_path(self._journal)
        temporary = _temporary(final)
        temporary.write_text(json.dumps(self._manifest.to_json(), indent=1))
        _commit(temporary, final)

    def _scan(self) -> None:
        """Take stock of the journal: drop what was never committed, count what was."""
        for leftover in self._journal.glob("*.tmp"):
            leftover.unlink()
        if self._manifest.base_blocks:
            self._layout = _Layout.of(verified(self.path, lambda file: {n: read_group(file, n) for n in GROUPS}))
        numbers = block_numbers(self._journal)
        if numbers != list(range(self.n_blocks, self.n_blocks + len(numbers))):
            raise FileError(f"{self._journal} lacks blocks between {numbers[0]} and {numbers[-1]}; restore them")
        for number in numbers:
            groups, _, _ = _read_block(block_path(self._journal, number))
            self._layout = _Layout.of(groups)
            self.n_blocks += 1
            self.n_draws += _extent(groups)[1]

    def _assemble(self, out: h5py.File) -> None:
        base = self._manifest.base_blocks
        parts = [self.path] * (base > 0) + [block_path(self._journal, n) for n in range(base, self.n_blocks)]
        records: dict[tuple[str, str], list[Array]] = {}
        # Configurations are the bulk of a run: they are passed on block by block.
        all_cfgs = GrowingDataset(out, "cfgs", len(parts))
        all_indices = GrowingDataset(out, "cfg_index", len(parts))
        draws = 0
        state: Arrays = {}
        for part in parts:
            groups, cfgs, index = _read_block(part)
            for group in RECORDED:
                for name, array in groups[group].items():
                    records.setdefault((group, name), []).append(array)
            if cfgs is not None and index is not None:
                all_cfgs.append(cfgs)
                all_indices.append(index + np.array([0, draws]))
            draws += _extent(groups)[1]
            state = groups["state"]
        all_cfgs.close()
        all_indices.close()
        for name in GROUPS:
            out.create_group(name)
        for (group, name), arrays in records.items():
            write_array(out[group], name, np.concatenate(arrays, axis=1))
        for name, array in state.items():
            write_array(out["state"], name, array)


def _checked_index(cfg_index: Array | None, kept: int, chains: int, draws: int) -> Array:
    index = np.asarray(cfg_index if cfg_index is not None else [], dtype=np.int64)
    if index.shape != (kept, 2) or (index < 0).any() or (index >= (chains, draws)).any():
        raise DmmcError(
            f"cfg_index must give chain (< {chains}) and draw in the block (< {draws}) of the {kept} "
            f"configurations, shape ({kept}, 2); got shape {index.shape}"
        )
    return index


def _temporary(final: Path) -> Path:
    return final.with_name(final.name + ".tmp")


def _commit(temporary: Path, final: Path) -> None:
    """Give a completely written file its name, so that it survives even a loss of power."""
    sync(temporary)
    os.replace(temporary, final)
    sync(final.parent)


def _read_block(path: Path) -> tuple[dict[str, Arrays], Array | None, Array | None]:
    def read(file: h5py.File) -> tuple[dict[str, Arrays], Array | None, Array | None]:
        groups = {name: read_group(file, name) for name in GROUPS}
        kept = "cfgs" in list(file)
        return groups, read_array(file["cfgs"]) if kept else None, read_array(file["cfg_index"]) if kept else None

    return verified(path, read)


def _remove(journal: Path) -> None:
    # The manifest goes last: with it and a finished file, a half-removed journal is known to be a leftover.
    for path in [*journal.glob("*.tmp"), *journal.glob("block_*.h5"), manifest_path(journal), journal / "lock"]:
        path.unlink(missing_ok=True)
    journal.rmdir()
    sync(journal.parent)


def _finished_manifest(path: Path) -> Manifest:
    """The manifest with which a finished file is extended."""
    run = load_run(path)
    return Manifest(run.run_id, run.header, run.n_blocks, run.n_draws, stored_format(path))


def _resumed_manifest(journal: Path, finished: Manifest | None) -> Manifest:
    """What to go on from: the manifest of the journal, or that of the finished file where the journal is used up."""
    path = manifest_path(journal)
    if not path.exists():
        if finished is None:  # another process removed the run meanwhile
            raise FileError(f"there is nothing to resume in {journal}; start the run without --resume")
        return finished
    manifest = Manifest.read(path)
    if finished is None:
        if manifest.base_blocks:
            raise FileError(f"{journal} extends a finished file that is gone; restore it next to the journal")
        return manifest
    if manifest.run_id != finished.run_id:
        raise FileError(f"{journal} belongs to another run than the file next to it; move one of them away")
    if finished.base_blocks == manifest.base_blocks:
        return manifest
    # The kill came after the file was assembled and before its journal was removed.
    for leftover in journal.glob("block_*.h5"):
        leftover.unlink()
    return finished

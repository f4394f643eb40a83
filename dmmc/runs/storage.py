"""Runs on disk: one HDF5 file each, safe against a kill at any moment.

While a run is going, its blocks of draws lie one file each in the journal, a directory ``<path>.partial``.
Every file there is written under a temporary name, flushed to the disk and then renamed, so what has a final
name is complete: a kill loses at most the block being written. :meth:`RunWriter.finish` assembles the blocks
into ``<path>`` in the same way and removes the journal.

A finished file holds::

    /cfgs                 (N, *lattice) float64, the kept configurations; absent if none were kept
    /cfg_index            (N, 2) int64, chain and draw of each
    /observables/<name>   (chain, draw, ...)
    /sample_stats/<name>  (chain, draw, ...)
    /state/<name>         the chains' state after the last draw, from which a run is extended
    /evaluation/<name>    what was measured once, beside the chains; empty for most samplers

with root attributes ``format``, ``format_version``, ``run_id``, ``n_blocks`` and, as JSON, ``header``,
``summary`` and ``versions``. Every dataset carries HDF5's Fletcher-32 checksums, verified on each read, and the
SHA-256 of its bytes (C order) as the attribute ``sha256``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

import dmmc
from dmmc.core.errors import DmmcError, FileError, MismatchError

Array = NDArray[Any]
Arrays = dict[str, Array]
T = TypeVar("T")

FORMAT = "dmmc-run"
FORMAT_VERSION = 1
# Readable by every HDF5 since 1.10; older layouts have no checksums on their metadata.
LIBVER = ("v110", "v110")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
NUMPY_SIGNATURE = b"\x93NUMPY"
GROUPS = ("observables", "sample_stats", "state")
# The one entry of the header that may differ when a run is resumed: how far it is to go.
EXTENDABLE = "n_draws"
CHUNK_BYTES = 1 << 18


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(temporary: Path, final: Path) -> None:
    """Give a completely written file its name, so that it survives even a loss of power."""
    _sync(temporary)
    os.replace(temporary, final)
    _sync(final.parent)


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise DmmcError(f"the {name} of a run must consist of JSON values: {error}") from None


# ---------------------------------------------------------------------------------------------------------
# Text and datasets with checksums


def _set_text(node: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
    # Of fixed length: HDF5 keeps other strings in a heap that is not checksummed, and a flipped bit there can
    # make it loop for ever.
    node.attrs[name] = np.bytes_(text.encode())


def _text(node: h5py.Group | h5py.Dataset, name: str) -> str | None:
    value = node.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else None


def _bytes(array: Array) -> Array:
    """The array's memory in C order, without a copy where it is so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _hash(array: Array) -> str:
    return hashlib.sha256(_bytes(array).data).hexdigest()


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks that split the leading axes only, of about CHUNK_BYTES."""
    chunks, size = list(shape), itemsize * math.prod(shape)
    for axis, extent in enumerate(shape):
        if size <= CHUNK_BYTES:
            break
        chunks[axis] = max(1, math.ceil(extent * CHUNK_BYTES / size))
        size = size // extent * chunks[axis]
    return tuple(chunks)


def _create(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    if math.prod(shape) == 0 or not shape:  # nothing to chunk, and HDF5 has no checksum without chunks
        return group.create_dataset(name, shape=shape, dtype=dtype)
    return group.create_dataset(
        name, shape=shape, dtype=dtype, chunks=_chunks(shape, np.dtype(dtype).itemsize), fletcher32=True
    )


def _write(group: h5py.Group, name: str, array: Array) -> None:
    dataset = _create(group, name, array.shape, array.dtype)
    dataset[...] = array
    _set_text(dataset, "sha256", _hash(array))


def _read(dataset: h5py.Dataset) -> Array:
    """The whole dataset, verified.

    Raises:
        FileError: if it cannot be read or does not have its SHA-256.
    """
    where = f"{dataset.file.filename}: {dataset.name}"
    try:
        array = np.asarray(dataset[()])
        stored = _text(dataset, "sha256")
    except (OSError, RuntimeError) as error:
        raise FileError(f"{where} is damaged (checksum mismatch); restore the file from a copy [{error}]") from None
    if stored is not None and stored != _hash(array):
        raise FileError(f"{where} is damaged (SHA-256 mismatch); restore the file from a copy")
    return array


def _read_group(file: h5py.File, name: str) -> Arrays:
    # By name: items() and "in" pass over what cannot be opened, where indexing raises.
    group = file[name]
    return {key: _read(group[key]) for key in list(group)}


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(HDF5_SIGNATURE))


def _open(path: Path) -> h5py.File:
    """Open for reading, with one clear message for everything that is not an intact HDF5 file."""
    if not path.exists():
        journal = _journal(path)
        if (journal / "manifest.json").exists():
            blocks = len(_block_numbers(journal))
            raise FileError(
                f"{path} is not finished: {journal} holds {blocks} blocks of it; run the same command with --resume"
            )
        raise FileError(f"there is no file {path}")
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a file")
    start = _start(path)
    if start != HDF5_SIGNATURE:
        raise FileError(f"{path} is {'empty' if not start else 'not an HDF5 file'}")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileError(f"{path} is truncated or damaged; restore it from a copy [{error}]") from None


def _verified(path: Path, read: Callable[[h5py.File], T]) -> T:
    """``read(file)``, with damage that HDF5 finds underway reported like any other."""
    with _open(path) as file:
        try:
            return read(file)
        except FileError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise FileError(f"{path} is damaged or incomplete; restore it from a copy [{error}]") from None


# ---------------------------------------------------------------------------------------------------------
# The journal


@dataclass(frozen=True)
class _Layout:
    """Names, trailing shapes and dtypes of a run's arrays, which every block must share."""

    chains: int
    arrays: dict[str, tuple[tuple[int, ...], str]]

    @classmethod
    def of(cls, groups: Mapping[str, Arrays]) -> _Layout:
        arrays = {
            f"{group}/{name}": (array.shape[2:], array.dtype.str)
            for group in ("observables", "sample_stats")
            for name, array in sorted(groups[group].items())
        }
        return cls(_extent(groups)[0], arrays)


def _extent(groups: Mapping[str, Arrays]) -> tuple[int, int]:
    """``(chain, draw)`` that all recorded arrays share."""
    shapes: dict[str, tuple[int, ...]] = {}
    for group in ("observables", "sample_stats"):
        for name, array in groups[group].items():
            shapes[f"{group}/{name}"] = array.shape[:2]
    extents = set(shapes.values())
    if len(extents) != 1 or len(extent := extents.pop()) != 2 or 0 in extent:
        raise DmmcError(f"the arrays of a block must all begin with the same (chain, draw), got {shapes}")
    return extent[0], extent[1]


def _block_numbers(journal: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("block_")) for path in journal.glob("block_*.h5"))


def _block_path(journal: Path, number: int) -> Path:
    return journal / f"block_{number:06d}.h5"


def _read_block(path: Path) -> tuple[dict[str, Arrays], Array | None, Array | None]:
    def read(file: h5py.File) -> tuple[dict[str, Arrays], Array | None, Array | None]:
        groups = {name: _read_group(file, name) for name in GROUPS}
        kept = "cfgs" in list(file)
        return groups, _read(file["cfgs"]) if kept else None, _read(file["cfg_index"]) if kept else None

    return _verified(path, read)


def _lock(journal: Path) -> int:
    """Take the journal for this process; the operating system releases it when the process ends.

    Raises:
        FileError: if another process has it.
    """
    lock = journal / "lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous owner may have finished, and removed this very file, between our open and our lock.
        if not lock.exists() or os.fstat(descriptor).st_ino != lock.stat().st_ino:
            raise BlockingIOError
    except BlockingIOError:
        os.close(descriptor)
        raise FileError(f"{journal} is being written by another process; wait for it or choose another --out") from None
    return descriptor


def _remove(journal: Path) -> None:
    # The manifest goes last: with it and a finished file, a half-removed journal is known to be a leftover.
    for path in [*journal.glob("*.tmp"), *journal.glob("block_*.h5"), journal / "manifest.json", journal / "lock"]:
        path.unlink(missing_ok=True)
    journal.rmdir()
    _sync(journal.parent)


class RunWriter:
    """Writes one run, block by block. Make one with :meth:`create` or :meth:`resume`.

    A context manager: leaving it releases the run without finishing it, so that it can be resumed.

    Attributes:
        path: the finished file to be.
        header: the run's header, JSON values.
        n_blocks: blocks committed so far, those of an extended file included.
        n_draws: draws committed so far, likewise.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], lock: int) -> None:
        self.path = path
        self.header: dict[str, Any] = manifest["header"]
        self.n_blocks: int = manifest["base_blocks"]
        self.n_draws: int = manifest["base_draws"]
        self._journal = _journal(path)
        self._manifest = manifest
        self._lock: int | None = lock
        self._layout: _Layout | None = None

    @classmethod
    def create(cls, path: str | Path, header: dict[str, Any], overwrite: bool = False) -> RunWriter:
        """Begin a run.

        Args:
            path: the file that the finished run will be; its directory is made if need be.
            header: what the run is (action, lattice, kernel, seed, n_draws ...), JSON values.
            overwrite: delete a finished or unfinished run that is in the way.

        Raises:
            FileError: if there is one and ``overwrite`` is not given, or another process is writing it.
            DmmcError: if the header is not JSON.
        """
        path = Path(path)
        text = _json(header, "header")
        if path.exists() and not overwrite:
            raise FileError(f"{path} exists; choose another --out, extend it with --resume, or allow overwriting")
        if path.is_dir():
            raise FileError(f"{path} is a directory; --out must name a file")
        journal = _journal(path)
        journal.mkdir(parents=True, exist_ok=True)
        lock = _lock(journal)
        if (journal / "manifest.json").exists() and not overwrite:
            os.close(lock)
            raise FileError(
                f"{journal} holds an unfinished run; choose another --out, finish it with --resume, "
                "or allow overwriting"
            )
        path.unlink(missing_ok=True)
        for leftover in [journal / "manifest.json", *journal.glob("block_*.h5"), *journal.glob("*.tmp")]:
            leftover.unlink(missing_ok=True)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "run_id": uuid.uuid4().hex,
            "header": json.loads(text),
            "base_blocks": 0,
            "base_draws": 0,
        }
        writer = cls(path, manifest, lock)
        writer._write_manifest()
        return writer

    @classmethod
    def resume(cls, path: str | Path, header: dict[str, Any]) -> RunWriter:
        """Go on with an unfinished run, or extend a finished one.

        Args:
            path: as for :meth:`create`.
            header: the run's header; only ``n_draws`` may differ from the stored one, and replaces it.

        Raises:
            FileError: if there is no such run, a part of it cannot be read, or another process is writing it.
            MismatchError: if the header differs, naming where.
        """
        path = Path(path)
        text = _json(header, "header")
        journal = _journal(path)
        if not path.exists() and not (journal / "manifest.json").exists():
            raise FileError(f"there is nothing to resume at {path}; start the run without --resume")
        journal.mkdir(exist_ok=True)
        lock = _lock(journal)
        try:
            finished = _finished_manifest(path) if path.exists() else None
            manifest = _resumed_manifest(journal, finished)
            _compare_headers(path, manifest["header"], json.loads(text))
            manifest["header"] = json.loads(text)
            writer = cls(path, manifest, lock)
            writer._write_manifest()
            writer._scan()
        except BaseException:
            if not (journal / "manifest.json").exists():
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
            DmmcError: if the arrays do not fit each other or the earlier blocks.
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
        number = self.n_blocks
        temporary = self._journal / f"block_{number:06d}.h5.tmp"
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            for name, arrays in groups.items():
                group = file.create_group(name)
                for key, array in arrays.items():
                    _write(group, key, array)
            if cfgs is not None and len(cfgs):
                _write(file, "cfgs", np.asarray(cfgs, dtype=np.float64))
                _write(file, "cfg_index", self._index(cfg_index, len(cfgs), layout.chains, draws))
        _commit(temporary, _block_path(self._journal, number))
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
        last = self.path if self.n_blocks == self._manifest["base_blocks"] else self._block_path(self.n_blocks - 1)
        return _verified(last, lambda file: _read_group(file, "state"))

    def finish(self, extra: dict[str, Any], evaluation: Mapping[str, Array] | None = None) -> Path:
        """Assemble the finished file, remove the journal, and release the run.

        Args:
            extra: the run's summary, JSON values.
            evaluation: arrays that are not part of the chains, of any shape.

        Returns:
            The path of the finished file.

        Raises:
            FileError: if a block cannot be read.
            DmmcError: if there are no blocks, or the summary is not JSON.
        """
        self._check_open()
        if self.n_blocks == 0:
            raise DmmcError("the run has no draws yet; append a block before finishing it")
        summary = _json(extra, "summary")
        temporary = self._journal / "assembled.h5.tmp"
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            self._assemble(file)
            group = file.create_group("evaluation")
            for name, array in (evaluation or {}).items():
                _write(group, name, np.asarray(array))
            _set_text(file, "format", FORMAT)
            file.attrs["format_version"] = FORMAT_VERSION
            _set_text(file, "run_id", self._manifest["run_id"])
            file.attrs["n_blocks"] = self.n_blocks
            _set_text(file, "header", _json(self.header, "header"))
            _set_text(file, "summary", summary)
            versions = {name: version(name) for name in ("numpy", "h5py", "torch") if find_spec(name)}
            _set_text(file, "versions", _json({"dmmc": dmmc.__version__, **versions}, "versions"))
        _commit(temporary, self.path)
        _remove(self._journal)
        self.close()
        return self.path

    def _check_open(self) -> None:
        if self._lock is None:
            raise DmmcError(f"the run {self.path} is closed; use RunWriter.resume to go on with it")

    def _block_path(self, number: int) -> Path:
        return _block_path(self._journal, number)

    def _write_manifest(self) -> None:
        temporary = self._journal / "manifest.json.tmp"
        temporary.write_text(json.dumps(self._manifest, indent=1))
        _commit(temporary, self._journal / "manifest.json")

    def _scan(self) -> None:
        """Take stock of the journal: drop what was never committed, count what was."""
        for leftover in self._journal.glob("*.tmp"):
            leftover.unlink()
        if self._manifest["base_blocks"]:
            self._layout = _Layout.of(_verified(self.path, lambda file: {n: _read_group(file, n) for n in GROUPS}))
        numbers = _block_numbers(self._journal)
        if numbers != list(range(self.n_blocks, self.n_blocks + len(numbers))):
            raise FileError(f"{self._journal} lacks blocks between {numbers[0]} and {numbers[-1]}; restore them")
        for number in numbers:
            groups, _, _ = _read_block(self._block_path(number))
            self._layout = _Layout.of(groups)
            self.n_blocks += 1
            self.n_draws += _extent(groups)[1]

    @staticmethod
    def _index(cfg_index: Array | None, kept: int, chains: int, draws: int) -> Array:
        index = np.asarray(cfg_index if cfg_index is not None else [], dtype=np.int64)
        if index.shape != (kept, 2) or (index < 0).any() or (index >= (chains, draws)).any():
            raise DmmcError(
                f"cfg_index must give chain (< {chains}) and draw in the block (< {draws}) of the {kept} "
                f"configurations, shape ({kept}, 2); got shape {index.shape}"
            )
        return index

    def _assemble(self, out: h5py.File) -> None:
        base = self._manifest["base_blocks"]
        parts = [self.path] * (base > 0) + [self._block_path(number) for number in range(base, self.n_blocks)]
        records: dict[str, list[Array]] = {}
        digests: dict[str, Any] = {}
        draws = 0
        state: Arrays = {}
        for part in parts:
            groups, cfgs, index = _read_block(part)
            for group in ("observables", "sample_stats"):
                for name, array in groups[group].items():
                    records.setdefault(f"{group}/{name}", []).append(array)
            if cfgs is not None and index is not None:
                # Configurations are the bulk of a run: they are passed on block by block.
                for name, rows in (("cfgs", cfgs), ("cfg_index", index + np.array([0, draws]))):
                    if name not in out:
                        rest = rows.shape[1:]
                        chunks = _chunks((len(parts) * len(rows), *rest), rows.itemsize)
                        out.create_dataset(
                            name, (0, *rest), rows.dtype, maxshape=(None, *rest), chunks=chunks, fletcher32=True
                        )
                    out[name].resize(len(out[name]) + len(rows), axis=0)
                    out[name][-len(rows) :] = rows
                    digests.setdefault(name, hashlib.sha256()).update(_bytes(rows).data)
            draws += _extent(groups)[1]
            state = groups["state"]
        for name, digest in digests.items():
            _set_text(out[name], "sha256", digest.hexdigest())
        for group in GROUPS:
            out.create_group(group)
        for name, arrays in records.items():
            _write(out, name, np.concatenate(arrays, axis=1))
        for name, array in state.items():
            _write(out["state"], name, array)


def _finished_manifest(path: Path) -> dict[str, Any]:
    """The manifest with which a finished file is extended."""
    run = load_run(path)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "run_id": run.run_id,
        "header": run.header,
        "base_blocks": run.n_blocks,
        "base_draws": run.n_draws,
    }


def _resumed_manifest(journal: Path, finished: dict[str, Any] | None) -> dict[str, Any]:
    """What to go on from: the journal's manifest, or the finished file's where the journal is used up."""
    path = journal / "manifest.json"
    if not path.exists():
        if finished is None:  # another process removed the run meanwhile
            raise FileError(f"there is nothing to resume in {journal}; start the run without --resume")
        return finished
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        _check_format(manifest.get("format"), manifest["format_version"], path)
        run_id, base = manifest["run_id"], manifest["base_blocks"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DmmcError):
            raise
        raise FileError(f"{path} is damaged: {error}") from None
    if finished is None:
        if base:
            raise FileError(f"{journal} extends a finished file that is gone; restore it next to the journal")
        return manifest
    if run_id != finished["run_id"]:
        raise FileError(f"{journal} belongs to another run than the file next to it; move one of them away")
    if finished["base_blocks"] == base:
        return manifest
    # The kill came after the file was assembled and before its journal was removed.
    for leftover in journal.glob("block_*.h5"):
        leftover.unlink()
    return finished


def _compare_headers(path: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    def text(header: dict[str, Any], key: str) -> str:
        return json.dumps(header[key], sort_keys=True) if key in header else "absent"

    keys = sorted((stored.keys() | given.keys()) - {EXTENDABLE})
    differing = [
        f"{key} is {text(stored, key)} there and {text(given, key)} here"
        for key in keys
        if text(stored, key) != text(given, key)
    ]
    if differing:
        raise MismatchError(
            f"{path} is another run: {'; '.join(differing)}; use the same options (only {EXTENDABLE} may change) "
            "or another --out"
        )


# ---------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class Run:
    """A finished run, as :func:`load_run` gives it.

    Attributes:
        path: its file.
        header: what the run is.
        summary: what was given to :meth:`RunWriter.finish`.
        versions: of the packages that wrote it.
        observables: arrays ``(chain, draw, ...)`` by name.
        stats: sample statistics, ``(chain, draw, ...)`` by name.
        state: the chains' state after the last draw.
        evaluation: arrays measured beside the chains, of any shape, by name; may be empty.
        cfg_index: chain and draw of each kept configuration, ``(N, 2)``; N may be 0.
        run_id: identifies the run through all its extensions.
        n_blocks: number of blocks it was written in.
    """

    path: Path
    header: dict[str, Any]
    summary: dict[str, Any]
    versions: dict[str, str]
    observables: Arrays = field(repr=False)
    stats: Arrays = field(repr=False)
    state: Arrays = field(repr=False)
    evaluation: Arrays = field(repr=False)
    cfg_index: Array = field(repr=False)
    run_id: str
    n_blocks: int

    @property
    def n_chains(self) -> int:
        """Number of parallel chains."""
        return self._extent[0]

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self._extent[1]

    @property
    def _extent(self) -> tuple[int, int]:
        return _extent({"observables": self.observables, "sample_stats": self.stats})

    def cfgs(self) -> NDArray[np.float64]:
        """The kept configurations, ``(N, *lattice)``, read and verified at each call.

        Raises:
            FileError: if none were kept, or they are damaged.
        """
        return load_fields(self.path)


def _check_format(name: Any, version: Any, path: Path) -> None:
    if name != FORMAT:
        raise FileError(
            f"{path} is an HDF5 file, but not a dmmc run (no attribute format = {FORMAT!r}); "
            "foreign configurations are read if they are in a dataset /cfgs, N x lattice"
        )
    if int(version) > FORMAT_VERSION:
        raise FileError(f"{path} has format version {version}, this dmmc reads up to {FORMAT_VERSION}; update dmmc")


def load_run(path: str | Path) -> Run:
    """Read a finished run and verify every array of it but the configurations (see :meth:`Run.cfgs`).

    While a run is being extended, this gives the file as it was before.

    Raises:
        FileError: if the file is missing, unfinished, foreign, truncated or damaged; the message says which.
    """
    path = Path(path)

    def read(file: h5py.File) -> Run:
        _check_format(_text(file, "format"), file.attrs.get("format_version", 0), path)
        run = Run(
            path=path,
            header=json.loads(_text(file, "header") or ""),
            summary=json.loads(_text(file, "summary") or ""),
            versions=json.loads(_text(file, "versions") or ""),
            observables=_read_group(file, "observables"),
            stats=_read_group(file, "sample_stats"),
            state=_read_group(file, "state"),
            evaluation=_read_group(file, "evaluation") if "evaluation" in list(file) else {},
            cfg_index=_read(file["cfg_index"]) if "cfg_index" in list(file) else np.empty((0, 2), dtype=np.int64),
            run_id=_text(file, "run_id") or "",
            n_blocks=int(file.attrs["n_blocks"]),
        )
        _extent({"observables": run.observables, "sample_stats": run.stats})
        return run

    return _verified(path, read)


def stored_header(path: str | Path) -> dict[str, Any] | None:
    """The header of a finished run; None for a file that is not one but may hold fields all the same."""
    try:
        with h5py.File(path) as file:
            text = _text(file, "header") if _text(file, "format") == FORMAT else None
    except OSError:
        return None
    header: dict[str, Any] | None = None if text is None else json.loads(text)
    return header


def begun_header(path: str | Path) -> dict[str, Any] | None:
    """The header of a run that ``resume`` would go on with, finished or not; None if there is none to be read."""
    journal = _journal(Path(path)) / "manifest.json"
    try:
        header: dict[str, Any] = json.loads(journal.read_text())["header"]
    except (OSError, ValueError, KeyError, TypeError):
        return stored_header(path)
    return header


def load_fields(path: str | Path, lattice_shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Configurations of a dmmc run, of any HDF5 file with a dataset ``/cfgs``, or of a ``.npy`` file.

    Args:
        path: the file; its content decides how it is read, not its name.
        lattice_shape: what the lattice must be; None takes any of one to four dimensions.

    Returns:
        ``(N, *lattice)`` float64.

    Raises:
        FileError: if the file is missing, unfinished, of another kind, truncated, damaged, or its fields are
            not real and finite ``(N, *lattice)``.
        MismatchError: if they are on another lattice than ``lattice_shape``.
    """
    path = Path(path)
    if path.is_file() and _start(path).startswith(NUMPY_SIGNATURE):
        try:
            fields = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise FileError(f"{path} is not a readable .npy file of numbers; save it again [{error}]") from None
        where = f"{path}"
    else:
        fields, where = _verified(path, _read_cfgs), f"/cfgs of {path}"
    if fields.dtype.kind not in "fiu":
        raise FileError(f"{where} must be real numbers, got {fields.dtype}")
    if not 2 <= fields.ndim <= 5 or 0 in fields.shape:
        raise FileError(f"{where} must have shape (N, *lattice), lattice of 1 to 4 dimensions, got {fields.shape}")
    if lattice_shape is not None and fields.shape[1:] != tuple(lattice_shape):
        raise MismatchError(
            f"{where} is on a lattice {fields.shape[1:]}, not {tuple(lattice_shape)}; "
            "choose that lattice or another file"
        )
    fields = np.ascontiguousarray(fields, dtype=np.float64)
    if not np.isfinite(fields).all():
        raise FileError(f"{where} has NaN or infinite values; remove those configurations first")
    return fields


def _read_cfgs(file: h5py.File) -> Array:
    cfgs = file["cfgs"] if "cfgs" in list(file) else None
    if not isinstance(cfgs, h5py.Dataset):
        kind = "run kept no configurations" if _text(file, "format") == FORMAT else "file has no dataset /cfgs"
        raise FileError(
            f"{file.filename}: this {kind}; fields are read from /cfgs, N x lattice "
            f"(at its top level are: {', '.join(file) or 'nothing'})"
        )
    return _read(cfgs)

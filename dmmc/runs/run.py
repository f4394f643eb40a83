"""Finished runs, read back.

A file holds::

    /cfgs                 (N, *lattice) float64, the kept configurations; absent if none were kept
    /cfg_index            (N, 2) int64, chain and draw of each
    /observables/<name>   (chain, draw, ...)
    /sample_stats/<name>  (chain, draw, ...)
    /state/<name>         the chains' state after the last draw, from which a run is extended
    /evaluation/<name>    what was measured once, beside the chains; empty for most samplers

with root attributes ``format``, ``format_version``, ``run_id``, ``n_blocks`` and, as JSON, ``header``
(:class:`~dmmc.runs.header.RunHeader`), ``record`` (:class:`~dmmc.runs.header.RunRecord`) and ``versions``. This module
does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError, FileError
from dmmc.diagnostics.means import OfMeans, check_functions
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.runs import format1
from dmmc.runs.fields import load_fields
from dmmc.runs.format import FORMAT, FORMAT_VERSION, check_version, parse_header
from dmmc.runs.hdf5 import (
    SIGNATURE,
    Array,
    Arrays,
    dataset_of,
    first_bytes,
    get_text,
    read_array,
    read_group,
    verified,
)
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.manifest import Manifest
from dmmc.runs.names import journal_of, manifest_path, refuse_unfinished

MOST_IN_ORBIT = 384
"""Most momenta that a two-point function on a lattice of up to four dimensions has one number for: 2^4 4!."""


@dataclass(frozen=True, repr=False, eq=False)
class StoredRun:
    """A finished run, as :func:`load_run` gives it.

    Attributes:
        path: its file.
        header: what the run is.
        record: what was known when it ended.
        versions: versions of the packages that wrote it.
        observables: arrays ``(chain, draw, ...)`` by name.
        stats: sample statistics, ``(chain, draw, ...)`` by name.
        state: the chains' state after the last draw.
        evaluation: arrays measured beside the chains, of any shape, by name; may be empty.
        cfg_index: chain and draw of each kept configuration, ``(N, 2)``; N may be 0.
        run_id: identifies the run through all its extensions.
        n_blocks: number of blocks it was written in.
        format_version: version of the layout of its file.
        discarded: draws at the start of each chain that were left out, see :meth:`discarding`.
        cfg_rows: row in the file of each kept configuration, ``(N,)``.
        derived: functions of means that stand in every table of the run, by name, see :meth:`deriving`. They are not in
            the file.
    """

    path: Path
    header: RunHeader
    record: RunRecord
    versions: dict[str, str]
    observables: Arrays
    stats: Arrays
    state: Arrays
    evaluation: Arrays
    cfg_index: Array
    run_id: str
    n_blocks: int
    format_version: int = FORMAT_VERSION
    discarded: int = 0
    cfg_rows: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    derived: Mapping[str, OfMeans] = field(default_factory=dict)

    @property
    def n_chains(self) -> int:
        """Number of parallel chains."""
        return extent(self.observables, self.stats)[0]

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return extent(self.observables, self.stats)[1]

    @property
    def lattice(self) -> tuple[int, ...]:
        """Extents of the lattice."""
        return self.header.lattice

    @property
    def volume(self) -> int:
        """Number of sites."""
        return self.header.volume

    @property
    def configurations(self) -> range:
        """The number of each draw, the same in all chains: 1, 2, ..., or as the code that made the fields counts them.

        They are what pyerrors calls ``idl``.
        """
        said = self.header.provenance.get("configurations", {})
        first, every = int(said.get("first", 1)), int(said.get("every", 1))
        first += every * self.discarded
        return range(first, first + every * self.n_draws, every)

    @property
    def wall_seconds_per_draw(self) -> float | None:
        """Wall time of one draw of one chain, all chains running together; None if it was not recorded."""
        seconds, draws = self.record.wall_seconds.get("chain"), self.record.wall_draws
        return None if seconds is None or not draws else seconds / (draws * self.n_chains)

    def cfgs(self) -> NDArray[np.float64]:
        """The kept configurations, ``(N, *lattice)``, read and verified at each call.

        Raises:
            FileError: if none were kept, or they are damaged.
        """
        cfgs = load_fields(self.path)
        return cfgs if len(self.cfg_rows) == len(cfgs) else cfgs[self.cfg_rows]

    def fields(self) -> NDArray[np.float64]:
        """The kept configurations, ``(chain, draw, *lattice)``, read and verified at each call.

        They are those of the draws :attr:`field_draws`, the same of every chain.

        Raises:
            FileError: if none were kept, or they are damaged.
            DmmcError: if they are not of the same draws of every chain; take :meth:`cfgs` with ``cfg_index`` then.
        """
        cfgs, draws = self.cfgs(), self.field_draws
        order = np.lexsort((self.cfg_index[:, 1], self.cfg_index[:, 0]))
        chains = np.unique(self.cfg_index[:, 0])
        expected = np.stack(np.meshgrid(chains, draws, indexing="ij"), -1).reshape(-1, 2)
        if not np.array_equal(self.cfg_index[order], expected):
            raise DmmcError(f"{self.path} does not hold the same draws of every chain; use cfgs() and cfg_index")
        return cfgs[order].reshape(len(chains), len(draws), *self.header.field_shape)

    @property
    def field_draws(self) -> Array:
        """The draws whose configurations were kept, ``(n,)``: the second axis of :meth:`fields`."""
        return np.unique(self.cfg_index[:, 1])

    def deriving(self, functions: Mapping[str, OfMeans]) -> StoredRun:
        """The run with functions of means in its summary, and in every table that it is part of.

        Args:
            functions: by name; each takes the means by name, as in ``lambda mean: mean["M4"] / mean["M2"] ** 2``.

        Raises:
            DmmcError: as :func:`dmmc.diagnostics.means.check_functions`.
        """
        check_functions(functions, self.observables)
        return replace(self, derived={**self.derived, **functions})

    def discarding(self, n: int) -> StoredRun:
        """The run without the first ``n`` draws of each chain; the file stays as it is.

        Draws are counted from the start of this object, so that discarding twice adds up.

        Raises:
            DmmcError: if ``n`` is negative, or fewer draws would be left than the diagnostics need.
        """
        draws = self.n_draws
        if n < 0:
            raise DmmcError(f"the number of draws to discard must not be negative, got {n}")
        if draws - n < MIN_DRAWS:
            raise DmmcError(
                f"{n} of the {draws} draws of each chain in {self.path} cannot be discarded: at least {MIN_DRAWS} "
                "must be left; discard fewer, or run longer"
            )
        kept = self.cfg_index[:, 1] >= n
        return replace(
            self,
            observables={name: array[:, n:] for name, array in self.observables.items()},
            stats={name: array[:, n:] for name, array in self.stats.items()},
            cfg_index=self.cfg_index[kept] - np.array([0, n]),
            cfg_rows=self.cfg_rows[kept],
            discarded=self.discarded + n,
        )

    def __repr__(self) -> str:
        lattice = " x ".join(map(str, self.lattice))
        action = self.header.action.get("name", "an action")
        discarded = f", the first {self.discarded} draws discarded" if self.discarded else ""
        return (
            f"Run {self.path.name}: {self.header.facts.label}, {self.n_chains} chains x {self.n_draws} draws, "
            f"{action} on {lattice}{discarded}"
        )


def extent(*groups: Arrays) -> tuple[int, int]:
    """The ``(chain, draw)`` with which all arrays of all groups begin.

    Raises:
        DmmcError: if they do not all begin with the same two extents, or one of these is zero.
    """
    shapes = [(name, array.shape[:2]) for arrays in groups for name, array in arrays.items()]
    extents = {shape for _, shape in shapes}
    if len(extents) != 1 or len(shared := extents.pop()) != 2 or 0 in shared:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes) or "no arrays"
        raise DmmcError(f"the arrays of a block must all begin with the same (chain, draw), got {listed}")
    return shared[0], shared[1]


def load_run(path: str | Path) -> StoredRun:
    """Read a finished run and verify every array of it but the configurations (see :meth:`StoredRun.cfgs`).

    While a run is being extended, this gives the file as it was before.

    Raises:
        FileError: if the file is missing, unfinished, foreign, truncated or damaged; the message says which.
    """
    path = Path(path)
    refuse_unfinished(path)

    def read(file: h5py.File) -> StoredRun:
        if get_text(file, "format") != FORMAT:
            raise FileError(
                f"{path} is an HDF5 file, but not a dmmc run (no attribute format = {FORMAT!r}); "
                "foreign configurations are read if they are in a dataset /cfgs, N x lattice"
            )
        version = check_version(file.attrs.get("format_version", 0), path)
        header = _header(file, version, path)
        stats = read_group(file, "sample_stats")
        if version == format1.VERSION:
            record = format1.record(json.loads(get_text(file, "summary") or ""))
            stats = format1.statistics(stats, header.steps_per_draw)
        else:
            record = RunRecord.from_json(json.loads(get_text(file, "record") or ""))
        kept = "cfg_index" in list(file)
        index = read_array(dataset_of(file, "cfg_index")) if kept else np.empty((0, 2), dtype=np.int64)
        run = StoredRun(
            path=path.absolute(),  # so that the fields are found also after a change of directory
            header=header,
            record=record,
            versions=json.loads(get_text(file, "versions") or ""),
            observables=read_group(file, "observables"),
            stats=stats,
            state=read_group(file, "state"),
            evaluation=read_group(file, "evaluation") if "evaluation" in list(file) else {},
            cfg_index=index,
            run_id=get_text(file, "run_id") or "",
            n_blocks=int(file.attrs["n_blocks"]),
            format_version=version,
            cfg_rows=np.arange(len(index)),
        )
        extent(run.observables, run.stats)
        if not 1 <= run.n_blocks <= run.n_draws:
            raise FileError(f"{path} is damaged: it has {run.n_blocks} blocks of {run.n_draws} draws")
        if kept and dataset_of(file, "cfgs").shape != (len(index), *header.field_shape):
            raise FileError(
                f"{path} is damaged: its configurations are not on the lattice {header.field_shape} it names"
            )
        two_point = run.observables.get("two_point")
        if two_point is not None and header.volume > MOST_IN_ORBIT * two_point.shape[-1]:
            raise FileError(
                f"{path} is damaged: its two-point function is not of the lattice {header.lattice} it names"
            )
        return run

    return verified(path, read)


def stored_header(path: str | Path) -> RunHeader | None:
    """The header of a finished run; None for a file that is not one but may hold fields all the same.

    Raises:
        FileError: if the file is damaged or cannot be read, is a run of a newer dmmc, or its header is not that of a
            run.
    """
    path = Path(path)
    if not path.is_file() or first_bytes(path) != SIGNATURE:
        return None

    def read(file: h5py.File) -> RunHeader | None:
        if get_text(file, "format") != FORMAT:
            return None
        return _header(file, check_version(file.attrs.get("format_version", 0), path), path)

    return verified(path, read)


def begun_header(path: str | Path) -> RunHeader | None:
    """The header of a run that is to be resumed, finished or not; None if there is none that can be read."""
    try:
        return Manifest.read(manifest_path(journal_of(Path(path)))).header
    except FileError:
        return stored_header(path)


def _header(file: h5py.File, version: int, path: Path) -> RunHeader:
    text = get_text(file, "header")
    try:
        data = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise FileError(f"the header of {path} is damaged; restore the file from a copy [{error}]") from None
    return parse_header(data, version, path)

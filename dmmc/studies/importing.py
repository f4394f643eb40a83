"""Configurations of another code become a run, which stands beside those of dmmc."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.progress import progress
from dmmc.runs.axes import Configurations, located
from dmmc.runs.foreign import open_array
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.journal import RunWriter
from dmmc.studies.remarks import Say, note
from dmmc.studies.results import Run, load_run
from dmmc.studies.resumption import resumes_run
from dmmc.theory.action_check import PROBED, check_action
from dmmc.theory.actions import Action, components_of
from dmmc.theory.ensemble import EnsembleCheck, check_numbers
from dmmc.theory.evaluation import evaluate
from dmmc.theory.identities import FieldNumbers, field_numbers
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import Observable, check_names, measure
from dmmc.theory.symmetry import find_symmetry

PIECE_BYTES = 1 << 24
"""Fields that are read, checked and written at a time, in float64; the work on them takes about ten times as much."""

SAMPLED_BYTES = 1 << 25
"""Fields that are kept to find the cause of a mistake and to test symmetries, at most 512."""

NORMALISATIONS = ("hopping", "mass", "textbook")
"""Normalisations that have names; see :class:`dmmc.theory.phi4.Phi4`."""

Sources = Any
"""An array or the path of a file, or a list of them: one for each chain, or one for each configuration."""


def import_fields(
    sources: Sources,
    path: str | Path,
    *,
    action: Action | None = None,
    shape: Sequence[int] | None = None,
    axes: str | None = None,
    chains: int | None = None,
    field: str | float = 1.0,
    name: str | None = None,
    dtype: str | None = None,
    skip: int = 0,
    label: str = "imported",
    first: int = 1,
    every: int = 1,
    observables: Mapping[str, Observable] | None = None,
    unchecked: bool = False,
    overwrite: bool = False,
    say: Say = note,
) -> Run:
    """Import configurations of another code: check them against their action, measure them, store them as a run.

    They are read in pieces, twice, so that they may be larger than memory. Nothing is written before they are checked.

    Args:
        sources: an array, or the path of a ``.npy``, ``.npz``, HDF5 or raw file; or a list of them, one for each chain,
            or one for each configuration.
        path: the run file.
        action: the action that they are of; None for fields whose action is not known, which are checked less.
        shape: extents of the lattice in the order x, y, z, t; needed for raw files.
        axes: what the axes of an array are, such as ``"x y n"``: x, y, z, t those of the lattice, n the configurations,
            c the chains; see :mod:`dmmc.runs.axes`. By default ``"n x y"``, with as many axes of the lattice as there
            are.
        chains: number of chains, one after another along the axis n.
        field: the normalisation of the fields: ``hopping``, ``mass``, ``textbook``, or how many times larger they are
            than the field of the action.
        name: the array of an archive, or the dataset of an HDF5 file.
        dtype: the type of the numbers of a raw file, such as ``"<f8"`` (little-endian) or ``">f8"`` (big-endian).
        skip: bytes at the beginning of a raw file that are left out.
        label: what tables and figures call the run.
        first: number of the first configuration of each chain, as the other code counts them.
        every: difference of the numbers of two configurations.
        observables: what is measured beside the standard observables, by name.
        unchecked: take fields that do not pass the checks; the run, its summary and every page say so.
        overwrite: replace an earlier run file.
        say: is told what the checks have shown.

    Raises:
        FileError: if a file cannot be read, or ``path`` is in the way.
        MismatchError: if array, shape, axes and chains do not fit each other, or the fields do not fit the action.
        DmmcError: if an option is out of its range, or the values are not those of a field.
    """
    path, measured = Path(path), dict(observables or {})
    check_names(measured)
    if every < 1 or first < 0:
        raise DmmcError(f"configurations have numbers from 0 on, and grow by 1 or more; got {first} and {every}")
    if not label:
        raise DmmcError("the label of a run must not be empty, since tables call it that")
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    arrays = [open_array(source, name, dtype, skip) for source in many]
    fields = located(arrays, axes, None if shape is None else tuple(shape), chains, components_of(action))
    lattice = Lattice(fields.lattice, fields.components)
    factor = 1 / relative_size(field, action, lattice.dim)
    resumes_run(path, False, overwrite, say)
    began = time.monotonic()
    numbers, sample = _looked_through(fields, action, factor)
    check, failure = None, ""
    try:
        check = check_numbers(numbers, sample, action, known=True)
    except DmmcError as error:
        if not unchecked:
            raise type(error)(
                f"{fields.name}: {error}. Give another field, axes, shape, chains or action if one of them is wrong, "
                "or take the fields unchecked"
            ) from None
        failure = str(error)
    finding = find_symmetry(action, sample)
    remarks = _remarks(fields, action, check, failure)
    for remark in remarks:
        say(f"note: {remark}")
    draws = _piece(fields)
    header = RunHeader(
        kernel={
            "name": "imported",
            "source": Path(fields.name).name,
            "field": field,
            "digest": hashlib.sha256(numbers.digest.tobytes()).hexdigest(),
        },
        facts=KernelFacts(
            "imported", label, model_free=True, inexact=failure and f"it was imported although {failure}"
        ),
        cost={},
        action={} if action is None else action.describe(),
        lattice=lattice.shape,
        components=lattice.components,
        seed=0,
        steps_per_draw=1,
        keep_every=1,
        block=draws,
        n_draws=fields.draws,
        observables=tuple(measured),
        provenance={
            "chains": fields.chains,
            "configurations": {"first": first, "every": every},
            "check": None if check is None else check.to_json(),
            "remarks": remarks,
            **({} if action is None else {"symmetry": {"symmetry": finding.symmetry, "evidence": finding.evidence}}),
        },
        threads=torch.get_num_threads(),
    )
    # What cannot be measured is refused before anything is written.
    _observables(sample[:PROBED], action, lattice, measured)
    with RunWriter.create(path, header, overwrite=overwrite) as writer:
        for piece in _pieces(fields, factor, "import"):
            phi = piece.flatten(0, 1)
            recorded = _observables(phi, action, lattice, measured)
            shape_ = piece.shape[:2]
            index = np.stack(np.divmod(np.arange(len(phi)), piece.shape[1]), 1)
            block = {key: x.numpy().reshape(*shape_, *x.shape[1:]) for key, x in recorded.items()}
            writer.append(block, {}, phi.numpy(), {}, cfg_index=index)
        writer.finish(RunRecord({"import": time.monotonic() - began}))
    return load_run(path)


def relative_size(field: str | float, action: Action | None, dim: int) -> float:
    """How many times larger than the field of the action those of a normalisation are.

    Raises:
        DmmcError: if it is neither a positive number nor known to the action.
    """
    if not isinstance(field, str):
        if not (math.isfinite(field) and field > 0):
            raise DmmcError(f"field is one of {', '.join(NORMALISATIONS)} or a positive number, got {field!r}")
        return float(field)
    if field not in NORMALISATIONS:
        raise DmmcError(f"field is one of {', '.join(NORMALISATIONS)} or a positive number, got {field!r}")
    sizes: Mapping[str, float] = getattr(action, "normalisations", lambda dim: {})(dim)
    if f"{field} form" not in sizes:
        raise DmmcError(
            f"the field of the {field} form is not known "
            + ("without an action; give the action, or a number" if action is None else "to this action; give a number")
        )
    return sizes[f"{field} form"]


def _piece(fields: Configurations) -> int:
    """Draws that are read at a time."""
    return max(1, PIECE_BYTES // (8 * fields.chains * math.prod(fields.field_shape)))


def _pieces(fields: Configurations, factor: float, what: str) -> Iterator[Tensor]:
    """Stretches of draws of all chains, ``(chain, draw, *lattice)``."""
    step = _piece(fields)
    with progress(what, fields.draws, unit="draws") as bar:
        for first in range(0, fields.draws, step):
            last = min(first + step, fields.draws)
            values = fields.read(first, last)
            yield torch.from_numpy(values if factor == 1 else factor * values)
            bar.advance(last - first)


def _looked_through(fields: Configurations, action: Action | None, factor: float) -> tuple[FieldNumbers, Tensor]:
    """What the checks need of the fields, and some of the fields, from all over the chains."""
    n_bytes = 8 * math.prod(fields.field_shape)
    wanted = max(PROBED, min(512, SAMPLED_BYTES // n_bytes))
    every = max(1, fields.chains * fields.draws // wanted)
    # What is kept of each piece has its place from the beginning. Small arrays that stay between large ones that are
    # freed would leave holes too small for the next piece, and memory would grow with the file.
    kept = torch.empty(
        (-(-fields.chains * fields.draws // every), *fields.field_shape), dtype=torch.float64, device="cpu"
    )
    numbers: FieldNumbers | None = None
    seen = n_kept = done = 0
    for piece in _pieces(fields, factor, "check"):
        phi = piece.flatten(0, 1)
        if action is not None and numbers is None:
            check_action(action, phi[:PROBED])
        part = field_numbers(phi, action, len(piece))
        numbers = part.room_for(fields.draws) if numbers is None else numbers
        numbers.fill(done, part)
        some = phi[-seen % every :: every]
        kept[n_kept : n_kept + len(some)] = some
        seen, n_kept, done = seen + len(phi), n_kept + len(some), done + piece.shape[1]
    assert numbers is not None and n_kept == len(kept)
    return numbers, kept


def _observables(
    phi: Tensor, action: Action | None, lattice: Lattice, measured: Mapping[str, Observable]
) -> dict[str, Tensor]:
    S = None if action is None else evaluate(action, phi)
    if S is not None and not bool(torch.isfinite(S).all()):
        raise DmmcError("the action of some of the fields is not finite; remove these, or give another action")
    return measure(phi, S, lattice, measured)


def _remarks(fields: Configurations, action: Action | None, check: EnsembleCheck | None, failure: str) -> list[str]:
    """What people should know of the fields, one sentence or more each."""
    origin = f"Imported from {Path(fields.name).name}"
    if failure:
        return [f"UNCHECKED: {origin[0].lower()}{origin[1:]}, although {failure}."]
    if action is None:
        what = (
            f"{origin} without an action, so that it is not known whether the fields are of the theory they should be."
        )
    else:
        what = f"{origin}; the fields fit the action: {check}."
    return [what, *(f"{remark[0].upper()}{remark[1:]}." for remark in (check.notes if check is not None else ()))]

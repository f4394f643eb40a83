"""log q of walkers, noted beside their positions in the backend of an emcee sampler.

A chain is resumed from what a backend stores: positions, log_prob and the state of the random generator. The log q that
proposals report cannot be found again from positions, at least not to the last bit. It is therefore noted in the
backend, under a key that is made of the exact positions of all walkers. Positions that differ in a single bit have
no note, so that a note is never taken for walkers that something else has moved.

In the file of an ``HDFBackend`` notes are the group ``log_q`` beside the chain, which emcee does not look at; any other
backend holds them as an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import emcee
import numpy as np
from numpy.typing import NDArray

_GROUP, _ATTRIBUTE = "log_q", "log_q_notes"


@dataclass(frozen=True)
class Note:
    """log q of the walkers.

    Attributes:
        log_q: ``(n_walkers,)``.
        from_positions: whether log q was computed from the positions, as it is after other moves; if not, it is what
            came with the proposals.
    """

    log_q: NDArray[np.float64]
    from_positions: bool


def backend_of(model: Any) -> Any:
    """The backend in which a step of this ``emcee.model.Model`` will be stored; None if there is none to write to."""
    sampler = getattr(model.compute_log_prob_fn, "__self__", None)
    backend = getattr(sampler, "backend", None)
    return None if getattr(backend, "read_only", False) else backend


def any_notes(backend: Any) -> bool:
    """Whether anything was noted in a backend."""
    if isinstance(backend, emcee.backends.HDFBackend):
        with backend.open() as file:
            return _GROUP in file[backend.name]
    return bool(getattr(backend, _ATTRIBUTE, None))


def read_note(backend: Any, key: str) -> Note | None:
    """What was noted under a key."""
    if isinstance(backend, emcee.backends.HDFBackend):
        with backend.open() as file:
            found = file[backend.name].get(f"{_GROUP}/{key}")
            return None if found is None else Note(found[...], bool(found.attrs["from_positions"]))
    note: Note | None = getattr(backend, _ATTRIBUTE, {}).get(key)
    return note


def write_note(backend: Any, key: str, note: Note) -> None:
    """Note log q under a key, unless there is a note already."""
    if isinstance(backend, emcee.backends.HDFBackend):
        with backend.open("a") as file:
            group = file[backend.name].require_group(_GROUP)
            if key not in group:
                group.create_dataset(key, data=note.log_q).attrs["from_positions"] = note.from_positions
    else:
        vars(backend).setdefault(_ATTRIBUTE, {}).setdefault(key, note)

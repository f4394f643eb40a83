"""What is known of a run before it begins, and when it ends: the typed parts of a run file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.facts import KernelFacts
from dmmc.core.records import Record, json_text
from dmmc.core.scalars import check_count, is_finite

EXTENDABLE = ("n_draws",)
"""The entry that may differ when a run is resumed: how far it goes."""

_MACHINE = ("threads",)
"""Entries that say how a run was computed, and not what it is."""

_FOLLOWING = ("facts", "cost")
"""Entries that follow from the description of the kernel, which is compared."""


@dataclass(frozen=True)
class RunHeader(Record):
    """What a run is.

    With the same header, the same version of dmmc and the same kind of machine, two runs are the same bit for bit. The
    exception is a run that was extended after it had ended within a block: it goes on with the next block.

    Attributes:
        kernel: description of the kernel, ``describe()``.
        facts: what others need to know about the kernel.
        cost: what one step of one chain costs: evaluations of the ``force`` or of the ``network``.
        action: description of the action, ``describe()``.
        lattice: extents of the lattice.
        seed: the seed of everything random.
        steps_per_draw: kernel steps between two recorded draws.
        keep_every: the fields of every k-th draw are kept; 0 keeps none.
        block: draws between two writes to disk.
        n_draws: draws of each chain, as asked for.
        discard: steps between the initial state and the first recorded draw, which were thrown away.
        observables: names of the observables that are recorded beside the standard ones.
        provenance: anything else about the origin of the run, such as the number of chains or the symmetry that was
            found (``provenance["symmetry"]``, a :class:`dmmc.theory.symmetry.SymmetryFinding` as JSON). It is compared
            on resumption like everything else.
        threads: CPU threads of torch with which the run was begun, or last resumed; 0 where that was not recorded.
            Sums are rounded differently with another number of threads, which is allowed on resumption.
        components: number of components of the fields; None for scalar fields.

    Raises:
        DmmcError: if a number is out of its range.
    """

    kernel: dict[str, Any]
    facts: KernelFacts
    cost: dict[str, float]
    action: dict[str, Any]
    lattice: tuple[int, ...]
    seed: int
    steps_per_draw: int
    keep_every: int
    block: int
    n_draws: int
    discard: int = 0
    observables: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    components: int | None = None

    def __post_init__(self) -> None:
        if not (1 <= len(self.lattice) <= 4 and min(self.lattice) >= 1):
            raise DmmcError(f"a lattice has 1 to 4 positive extents, got {self.lattice}")
        if self.components is not None:
            check_count(self.components, "components")
        for name in ("steps_per_draw", "block", "n_draws"):
            check_count(getattr(self, name), name)
        for name in ("seed", "keep_every", "discard", "threads"):
            check_count(getattr(self, name), name, 0)
        for what, number in self.cost.items():
            if not (is_finite(number) and number >= 0):  # a mixture of kernels has costs that are no whole numbers
                raise DmmcError(f"the number of {what} evaluations must not be negative, got {number}")

    @property
    def volume(self) -> int:
        """Number of sites."""
        return math.prod(self.lattice)

    @property
    def field_shape(self) -> tuple[int, ...]:
        """The shape of one field: that of the lattice, with the axis of components before it if there are any."""
        return self.lattice if self.components is None else (self.components, *self.lattice)

    def text(self) -> str:
        """The header as JSON.

        Raises:
            DmmcError: if it holds something that JSON has no form for.
        """
        return json_text(self.to_json(), "the header of a run")

    def check_same_run(self, given: RunHeader, where: str) -> None:
        """Check that ``given`` describes the run with this header; :data:`EXTENDABLE` entries may differ.

        Args:
            given: the header of the run that is to go on.
            where: the file of the run with this header, for the message.

        Raises:
            MismatchError: if it is another run; the message names the entries that differ.
        """
        here, there = (json.loads(header.text()) for header in (given, self))
        differing = [
            f"{key} is {_text(there, key)} there and {_text(here, key)} here"
            for key in sorted(there.keys() - {*EXTENDABLE, *_FOLLOWING, *_MACHINE})
            if _text(there, key) != _text(here, key)
        ]
        if differing:
            raise MismatchError(
                f"{where} is another run: {'; '.join(differing)}; use the same options "
                f"(only {' and '.join(EXTENDABLE)} may change), another --out, or --overwrite in place of --resume"
            )


def _text(header: dict[str, Any], key: str) -> str:
    return json.dumps(header[key], sort_keys=True)


@dataclass(frozen=True)
class RunRecord(Record):
    """What is known of a run when it ends.

    Attributes:
        wall_seconds: wall time by stage; ``chain`` is that of the chain itself. A run that was interrupted knows only
            about the process that finished it.
        wall_draws: draws of each chain that were made in this time.
        step_seconds: wall seconds of a step of all chains, by kernel, where others were tried beside that of the chain.
    """

    wall_seconds: dict[str, float] = field(default_factory=dict)
    wall_draws: int = 0
    step_seconds: dict[str, float] = field(default_factory=dict)

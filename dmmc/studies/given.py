"""Ensembles that a user brings: in run files, in arrays, and in files of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dmmc.core.arrays import array_of, float64_of
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.runs.fields import load_fields
from dmmc.runs.run import StoredRun, load_run, stored_header
from dmmc.studies.remarks import Say
from dmmc.theory.actions import Action, Symmetry, components_of
from dmmc.theory.descriptions import action_from_description, same_action
from dmmc.theory.ensemble import MIN_DISTINCT, EnsembleCheck, check_ensemble, may_fit
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Ensemble:
    """Fields, and what is known about them.

    Attributes:
        phi: ``(n, *lattice)`` float64, one chain after another where the chains are known.
        chains: number of chains, all of equal length; None if that is not known.
        action: the action that they were sampled from; None if that is not known.
        name: what messages call them.
        described: the description of the action in the run file that they come from; None for any other source.
        components: number of components of the fields; None for scalar fields.
    """

    phi: Tensor
    chains: int | None
    action: Action | None
    name: str
    described: Mapping[str, Any] | None = None
    components: int | None = None

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields."""
        return Lattice.of_fields(self.phi, self.components)

    def check(self, symmetry: Symmetry | None = None) -> EnsembleCheck:
        """Whether the fields fit their action; without one, only what is known of any fields is checked.

        Raises:
            MismatchError: if they do not fit; the message gives the number and the likely cause.
            DmmcError: if they are too few; the message says how their shape was read.
        """
        few = self.described is None and len(self.phi) < MIN_DISTINCT
        if self.action is None:
            if few:
                raise DmmcError(self._too_few())
            return check_ensemble(self.phi, None, chains=self.chains, symmetry=symmetry)
        try:
            return check_ensemble(self.phi, self.action, chains=self.chains, symmetry=symmetry)
        except DmmcError:
            if self.described is not None:
                raise
            fitting = [how for how, phi in self._readings() if self._fits(phi)]
            if few and may_fit(self.phi, self.action):
                other = f". If it is meant {fitting[0]}" if fitting else ""
                raise DmmcError(f"{self._too_few()}{other}") from None
            if fitting:
                raise MismatchError(f"{self._as_read()} does not fit its action; it does {fitting[0]}") from None
            if few:
                raise DmmcError(self._too_few()) from None
            raise

    def remarks(self, symmetry: Symmetry | None, unchecked: bool, say: Say, what: str) -> tuple[str, ...]:
        """Check the fields, and say what is unusual about them.

        Args:
            symmetry: of the theory, as for :meth:`check`.
            unchecked: whether fields are taken all the same that do not pass.
            say: is told what the check has shown.
            what: what the fields are for, such as "the reference", for what is said.

        Returns:
            a sentence that has to be kept with whatever is made of fields that did not pass; nothing if they did.

        Raises:
            DmmcError: as :meth:`check`, unless unchecked fields are taken.
        """
        try:
            check = self.check(symmetry)
        except DmmcError as error:
            if not unchecked:
                raise
            remark = f"UNCHECKED: {what} {self.name} was taken although {error}."
            say(f"note: {remark}")
            return (remark,)
        if check.virial is not None:
            say(f"{self.name}: {check}")
        for note in check.notes:
            say(f"note on {what}: {note}")
        return ()

    def _as_read(self) -> str:
        n, *lattice = self.phi.shape
        return (
            f"{self.name} of shape {tuple(self.phi.shape)}, read as {n} configurations on a lattice {tuple(lattice)},"
        )

    def _too_few(self) -> str:
        return (
            f"{self._as_read()} is too small: at least {MIN_DISTINCT} configurations are needed. The shape must be "
            "(configurations, *lattice), where those of one chain follow those of another along the first axis"
        )

    def _readings(self) -> list[tuple[str, Tensor]]:
        """Other ways to read an array: with its first two axes as chain and draw, without axes of extent 1."""
        shape = self.phi.shape
        narrow = self.phi.reshape(shape[0], *(extent for extent in shape[1:] if extent > 1))
        readings = [("without its axes of extent 1", narrow)] if 1 < narrow.ndim < self.phi.ndim else []
        readings += [
            ("with its first two axes as chain and draw", phi.flatten(0, 1))
            for phi in (self.phi, narrow)
            if phi.ndim > 2
        ]
        return [(f"{what}: reshape it to {tuple(phi.shape)}", phi) for what, phi in readings]

    def _fits(self, phi: Tensor) -> bool:
        try:
            check_ensemble(phi, self.action)
        except DmmcError:
            return False
        return True


Source = Ensemble | StoredRun | str | Path | Tensor | ArrayLike
"""Where fields come from: a finished run, the path of a run or of another file with fields, the fields themselves
``(n, *lattice)`` as a tensor or an array of any kind, or an ensemble that was read already."""


def read_ensemble(source: Source, action: Action | None = None, lattice: tuple[int, ...] | None = None) -> Ensemble:
    """Read an ensemble; its fields are not checked against the action yet.

    Args:
        source: where the fields are.
        action: their action; needed only where the source does not say it.
        lattice: what the lattice must be; None takes any.

    Raises:
        FileError: if a file is missing, unfinished, damaged, or without fields.
        MismatchError: if the source says another action or lattice.
        DmmcError: if an array is not an ensemble of fields.
    """
    given = source if isinstance(source, Ensemble) else _read(source)
    if action is None:
        return _on(given, lattice)
    if given.described is not None and not same_action(action.describe(), given.described):
        raise MismatchError(
            f"{given.name} is an ensemble of {given.described}, not of {action.describe()}; leave the action out, or "
            "use an ensemble of that action"
        )
    components = components_of(action)
    if given.described is not None and components != given.components:
        raise MismatchError(
            f"{given.name} has fields {_kind(given.components)}, and the action is one of fields {_kind(components)}; "
            "use an ensemble of that action"
        )
    return _on(replace(given, action=action, components=components), lattice)


def _on(given: Ensemble, lattice: tuple[int, ...] | None) -> Ensemble:
    """The ensemble, if its fields are on this lattice, or with None on any."""
    if given.lattice.shape != (lattice or given.lattice.shape):
        raise MismatchError(
            f"{given.name} has shape {tuple(given.phi.shape)}, which is on a lattice {given.lattice.shape}, not "
            f"{lattice}; use another ensemble, or give it the shape (configurations, *lattice)"
        )
    return given


def _kind(components: int | None) -> str:
    return "without components" if components is None else f"with {components} components"


def _read(source: StoredRun | str | Path | Tensor | ArrayLike) -> Ensemble:
    if isinstance(source, Tensor):
        return Ensemble(_checked(source), None, None, "the ensemble")
    if not isinstance(source, (StoredRun, str, Path)):
        array = array_of(source, "an ensemble")
        if array.dtype.kind != "f":
            raise DmmcError(f"an ensemble must be real floating point, got {array.dtype}")
        return Ensemble(_checked(torch.from_numpy(float64_of(array))), None, None, "the ensemble")
    path = source.path if isinstance(source, StoredRun) else Path(source)
    header = source.header if isinstance(source, StoredRun) else stored_header(path)
    if header is None:
        return Ensemble(torch.from_numpy(load_fields(path)), None, None, str(path))
    run = source if isinstance(source, StoredRun) else load_run(path)
    # One chain after another, so that autocorrelations can be seen.
    order = np.lexsort((run.cfg_index[:, 1], run.cfg_index[:, 0]))
    lengths = np.unique(run.cfg_index[:, 0], return_counts=True)[1]
    chains = len(lengths) if len(set(lengths.tolist())) == 1 else None
    fields = torch.from_numpy(run.cfgs()[order])
    # Imported fields need not have an action; another one may be given for them.
    described = header.action or None
    action = action_from_description(header.action)
    return Ensemble(fields, chains, action, str(run.path), described, header.components)


def _checked(phi: Tensor) -> Tensor:
    if phi.ndim < 2:
        raise DmmcError(f"an ensemble must have shape (n, *lattice), got {tuple(phi.shape)}")
    if phi.is_sparse or phi.is_meta:
        raise DmmcError(f"an ensemble must be an ordinary tensor with values, got {phi.layout} on {phi.device}")
    if not phi.dtype.is_floating_point:
        raise DmmcError(f"an ensemble must be real floating point, got {phi.dtype}")
    # The first axis after that of the fields may be one of components, of which only the action knows.
    Lattice.of_fields(phi, phi.shape[1] if phi.ndim == 6 else None).check(phi, "ensemble")
    return phi.detach().to("cpu", torch.float64)

"""Ensembles that a user brings: run files, arrays and files of other programs, checked against their action."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.runs.fields import load_fields
from dmmc.runs.header import RunHeader
from dmmc.runs.run import StoredRun, load_run, stored_header
from dmmc.theory.actions import Action, Symmetry, action_from_description, same_action
from dmmc.theory.ensemble import EnsembleCheck, check_ensemble
from dmmc.theory.lattice import Lattice

Source = StoredRun | str | Path | Tensor | NDArray[np.floating]
"""A finished run, the path of a run or of another file with fields, or the fields themselves ``(n, *lattice)``."""


@dataclass(frozen=True)
class Ensemble:
    """Fields, and what is known about them.

    Attributes:
        phi: ``(n, *lattice)`` float64, one chain after another where the chains are known.
        chains: number of chains, all of equal length; None if that is not known.
        action: the action that they were sampled from; None if that is not known.
        name: what messages call them.
    """

    phi: Tensor
    chains: int | None
    action: Action | None
    name: str

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields."""
        return Lattice(tuple(self.phi.shape[1:]))

    def check(self, symmetry: Symmetry | None = None) -> EnsembleCheck | None:
        """Whether the fields fit their action; None for fields without an action.

        Raises:
            MismatchError: if they do not fit; the message gives the number and the likely cause.
        """
        if self.action is None:
            return None
        return check_ensemble(self.phi, self.action, chains=self.chains, symmetry=symmetry)


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
    if isinstance(source, (Tensor, np.ndarray)):
        return Ensemble(_checked(torch.as_tensor(source), lattice), None, action, "the ensemble")
    path = source.path if isinstance(source, StoredRun) else Path(source)
    header = source.header if isinstance(source, StoredRun) else stored_header(path)
    if header is None:
        return Ensemble(torch.as_tensor(load_fields(path, lattice)), None, action, str(path))
    if action is not None and not same_action(action.describe(), header.action):
        raise MismatchError(
            f"{path} is an ensemble of {header.action}, not of {action.describe()}; leave the action out, or use an "
            "ensemble of that action"
        )
    action = action or action_from_description(header.action)
    run = source if isinstance(source, StoredRun) else load_run(path)
    return _of_run(run, header, action, lattice)


def _of_run(run: StoredRun, header: RunHeader, action: Action | None, lattice: tuple[int, ...] | None) -> Ensemble:
    if lattice is not None and header.lattice != lattice:
        raise MismatchError(f"{run.path} is on a lattice {header.lattice}, not {lattice}; use another ensemble")
    fields = run.cfgs()
    # One chain after another, so that autocorrelations can be seen.
    order = np.lexsort((run.cfg_index[:, 1], run.cfg_index[:, 0]))
    lengths = np.unique(run.cfg_index[:, 0], return_counts=True)[1]
    chains = len(lengths) if len(set(lengths.tolist())) == 1 else None
    return Ensemble(torch.as_tensor(fields[order]), chains, action, str(run.path))


def _checked(phi: Tensor, lattice: tuple[int, ...] | None) -> Tensor:
    if phi.ndim < 2:
        raise DmmcError(f"an ensemble must have shape (n, *lattice), got {tuple(phi.shape)}")
    if not phi.dtype.is_floating_point:
        raise DmmcError(f"an ensemble must be real floating point, got {phi.dtype}")
    shape = tuple(phi.shape[1:])
    if lattice is not None and shape != lattice:
        raise MismatchError(f"the fields are on a lattice {shape}, not {lattice}; use another ensemble")
    Lattice(shape).check(phi, "ensemble")
    return phi.detach().to("cpu", torch.float64)

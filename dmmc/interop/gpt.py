"""Real scalar fields of the Grid Python Toolkit (GPT, github.com/lehner/gpt): proposals in its loop, files for it.

GPT is not on PyPI and is built from source together with Grid. Nothing here imports it: what is needed of it is given
as arguments, and this module has been tested against a stand-in with the same call signatures, read in the sources of
GPT at commit 851072d, not against GPT itself.

A field of GPT and an array ``phi`` of dmmc have the same axes: ``phi[x, y]`` is the site with coordinate x in GPT's
direction 0. Only GPT's flat view ``field[:]`` runs through the first direction fastest, so that it is
``phi.transpose().ravel()``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.core.files import check_place, replace_file
from dmmc.interop.accrej import Metropolis
from dmmc.proposals.stream import Proposer


def metropolis(g: Any, field: Any, rng: Any, proposer: Proposer, seed: int, *, batch: int = 64) -> Metropolis:
    """GPT's ``g.algorithms.markov.metropolis(rng)``, whose updates may be proposals of a model.

    ::

        metro = metropolis(g, phi, rng, dmmc.propose(model), seed=1)

        accrej = metro(phi)
        s0 = action(phi)
        accrej.propose()
        s1 = action(phi)
        accepted = accrej(s1, s0)

    Every rank proposes the fields of rank 0 and takes the decision of rank 0.

    Args:
        g: the module ``gpt``.
        field: a field of the grid that is updated, ``g.real(grid)``.
        rng: GPT's random generator, ``g.random(...)``, for the decisions.
        proposer, seed, batch: as :class:`dmmc.interop.accrej.Metropolis`.

    Raises:
        DmmcError: as :class:`dmmc.interop.accrej.Metropolis`.
    """
    grid = field.grid
    here = np.asarray(g.coordinates(field))  # the coordinates of this rank's sites, (sites, dimensions)
    sites = tuple(here.T)

    def read(phi: Any) -> NDArray[np.float64]:
        whole = np.zeros(tuple(grid.fdimensions))
        whole[sites] = np.asarray(phi[here]).real.ravel()
        return grid.globalsum(whole)

    def write(phi: Any, values: NDArray[np.float64]) -> None:
        phi[here] = np.ascontiguousarray(values[sites])

    def share(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return grid.globalsum(values.copy() if grid.processor == 0 else np.zeros_like(values))

    return Metropolis(
        proposer, seed, g.algorithms.markov.metropolis(rng), read=read, write=write, share=share, batch=batch
    )


def write_fields(path: str | Path, fields: Any, *, group: str = "phi", overwrite: bool = False) -> list[str]:
    """Write fields to an HDF5 file that GPT can load, one dataset for each field.

    In GPT::

        phi = g.load(path, paths=["/phi/0"], type_map=type_map(g))

    GPT takes the shape of the grid from the dataset, and reverses the axes by itself on the way to its own order of
    sites, so that the datasets have the axes of ``fields``.

    Args:
        path: the file.
        fields: ``(n, *lattice)``, in the normalisation that the action in GPT takes.
        group: the group in the file.
        overwrite: replace an earlier file.

    Returns:
        the paths of the datasets, as GPT takes them.

    Raises:
        DmmcError: if the fields are not finite real ``(n, *lattice)``, a file is in the way, or nothing can be written.
    """
    path, array = Path(path), np.asarray(fields)
    if array.dtype.kind != "f" or array.ndim < 2 or not len(array):
        raise DmmcError(f"fields must be real (n, *lattice), got shape {array.shape} of {array.dtype}")
    if not np.isfinite(array).all():
        raise DmmcError("the fields have NaN or infinite values; remove those configurations first")
    if path.exists() and not overwrite:
        raise DmmcError(f"{path} exists; choose another name, or pass overwrite=True")
    check_place(path)

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            for k, field in enumerate(array):
                file.create_dataset(f"{group}/{k}", data=field.astype("<f8"))

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)
    return [f"/{group}/{k}" for k in range(len(array))]


def type_map(g: Any) -> dict[Any, Any]:
    """What ``g.load`` needs to know to make real fields of the datasets; ``g`` is the module ``gpt``."""
    return {(np.float64, ()): (lambda shape: g.real(g.grid(list(shape), g.double)), lambda values: values)}

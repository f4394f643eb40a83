"""A stand-in for the Grid Python Toolkit with the call signatures of its scalar fields, for any number of ranks.

The real one is built from source together with Grid. What has the same name here is called in the same way there (read
in its sources at commit 851072d); how it is done has nothing to do with it. Ranks are threads that wait for each other
in every global sum, as ranks of MPI do, and each holds a part of direction 0.
"""

import threading
from types import SimpleNamespace

import h5py
import numpy as np


class Ranks:
    """What the ranks share: where they meet, and what each of them brings."""

    def __init__(self, n):
        self.n, self.barrier, self.brought = n, threading.Barrier(n, timeout=20), [None] * n

    def sum(self, rank, value):
        self.brought[rank] = value
        self.barrier.wait()
        total = sum(self.brought[1:], start=self.brought[0])
        self.barrier.wait()
        return total


class Grid:
    def __init__(self, fdimensions, ranks, processor):
        self.fdimensions, self.nd, self.processor = list(fdimensions), len(fdimensions), processor
        self.ldimensions = [fdimensions[0] // ranks.n, *fdimensions[1:]]
        self.fsites = int(np.prod(fdimensions))
        self._ranks = ranks

    def globalsum(self, value):
        total = self._ranks.sum(self.processor, value)
        if isinstance(value, np.ndarray):
            value[...] = total  # arrays are summed in place, and returned
            return value
        return total


class Field:
    """A real field, stored as complex numbers: this rank's sites, the first direction fastest."""

    def __init__(self, grid):
        self.grid = grid
        self.sites = np.zeros(int(np.prod(grid.ldimensions)), dtype=complex)

    def _rows(self, key):
        if isinstance(key, slice):
            return key
        local = np.asarray(key) - [self.grid.processor * self.grid.ldimensions[0], *[0] * (self.grid.nd - 1)]
        return local @ np.cumprod([1, *self.grid.ldimensions[:-1]])

    def __getitem__(self, key):
        return self.sites[self._rows(key)][:, None]

    def __setitem__(self, key, value):
        self.sites[self._rows(key)] = np.ravel(value)

    def whole(self):
        """The field of all ranks as an array; real GPT has no such method."""
        values = np.zeros(self.grid.fdimensions)
        values[tuple(coordinates(self).T)] = self.sites.real
        return self.grid.globalsum(values)


def coordinates(field):
    """Of this rank's sites, the first direction fastest."""
    grid = field.grid
    local = np.indices(grid.ldimensions[::-1]).reshape(grid.nd, -1)[::-1].T
    return (local + np.array([grid.processor * grid.ldimensions[0], *[0] * (grid.nd - 1)])).astype(np.int32)


def copy(first, second=None):
    """A copy of a field, or the second field written to the first."""
    if second is None:
        made = Field(first.grid)
        made.sites[:] = first.sites
        return made
    first.sites[:] = second.sites
    return None


class Random:
    def __init__(self, seed):
        self._random = np.random.default_rng(seed)

    def uniform_real(self, min=0, max=1):
        return float(self._random.uniform(min, max))


def metropolis(rng, probability_ratio=lambda new, old: np.exp(-new + old)):
    def trial(fields):
        kept = copy(fields)

        def accept_reject(f1, f0):
            drawn = rng.uniform_real(min=0, max=1)
            drawn = fields.grid.globalsum(drawn if fields.grid.processor == 0 else 0.0)
            if probability_ratio(f1, f0) < drawn:
                copy(fields, kept)
                return False
            return True

        return accept_reject

    return trial


class phi4:  # its name there
    """``-2 kappa sum phi phi_mu + phi^2 + l (phi^2 - 1)^2``."""

    def __init__(self, kappa, l):  # noqa: E741
        self.kappa, self.l = kappa, l

    def __call__(self, field):
        phi = field.whole()
        hop = sum((phi * np.roll(phi, -1, axis)).sum() for axis in range(phi.ndim))
        return float(-2 * self.kappa * hop + (phi**2 + self.l * (phi**2 - 1) ** 2).sum())


def module(n=1, processor=0, ranks=None):
    """The module as one rank sees it, mostly called g."""
    ranks = ranks or Ranks(n)

    def load(path, paths, type_map):
        (path_in_file,) = paths
        with h5py.File(path) as file:
            dataset = file[path_in_file]
            make, munge = type_map[dataset.dtype.type, ()]
            field = make(dataset.shape)
            values = dataset[...]
        field[:] = np.ascontiguousarray(munge(np.moveaxis(values, range(values.ndim), range(values.ndim)[::-1])))
        return field

    return SimpleNamespace(
        double="double",
        grid=lambda dimensions, precision: Grid(dimensions, ranks, processor),
        real=Field,
        coordinates=coordinates,
        copy=copy,
        random=Random,
        load=load,
        algorithms=SimpleNamespace(markov=SimpleNamespace(metropolis=metropolis)),
        qcd=SimpleNamespace(scalar=SimpleNamespace(action=SimpleNamespace(phi4=phi4))),
    )

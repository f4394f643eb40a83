"""Proposals of a model in codes whose Metropolis test is ``accrej(new, old)`` on the action.

In such a code a *metropolis* object copies the fields, the update changes them in place, and a decision keeps them or
puts the copy back (the pattern of the Grid Python Toolkit, ``g.algorithms.markov.metropolis``)::

    accrej = metro(phi)                 # copies phi
    old = action(phi)
    mdint(tau)                          # changes phi
    accepted = accrej(action(phi), old)

:class:`Metropolis` wraps the metropolis object of the code and adds log q, so that a proposal of a model takes the
place of the trajectory and nothing else changes::

    metro = Metropolis(dmmc.propose(model), seed=1, metropolis=metro)

    accrej = metro(phi)
    old = action(phi)
    accrej.propose()                    # changes phi
    accepted = accrej(action(phi), old)

The copy, the random number, the decision and putting the fields back remain those of the code; with ranks of MPI there
is one decision for all of them if the code has one. An update without ``propose()`` is left as it is, so that
proposals and trajectories take turns with one object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.proposals.stream import Proposer

Array = NDArray[np.float64]
Decide = Callable[[Any, Any], Any]


class CodeMetropolis(Protocol):
    """What codes of this pattern have: copies fields, and returns the function that decides.

    That function is called with the new and the old action. It accepts with ``min(1, exp(-new + old))``, puts the old
    fields back unless it accepts, and returns whether it does.
    """

    def __call__(self, fields: Any) -> Decide:
        """Begin an update of ``fields``."""
        ...


def array_metropolis(random: np.random.Generator) -> CodeMetropolis:
    """The metropolis object of a code that has none, for fields that are NumPy arrays."""

    def begin(fields: Array) -> Decide:
        before = fields.copy()

        def decide(new: float, old: float) -> bool:
            if random.random() < math.exp(min(0.0, old - new)):
                return True
            fields[...] = before
            return False

        return decide

    return begin


def _overwrite(fields: Any, values: Array) -> None:
    fields[...] = values


def _unshared(values: Array) -> Array:
    return values


class Metropolis:
    """A metropolis object whose updates may be proposals of a model.

    The weight of a proposal is ``exp(-S) / q``, so the decision is about ``S + log q`` in place of the action. Log q of
    the present field is the one with which it was proposed. Where the field came from elsewhere (the start, a
    trajectory, a file), it is evaluated.

    Args:
        proposer: :func:`dmmc.propose` of a model.
        seed: seed of the proposals. Decisions are made with the random numbers of the code.
        metropolis: the metropolis object of the code.
        read: gives the whole field as an array ``lattice``, on every rank; by default the fields are such an array.
        write: ``write(fields, values)`` gives the fields the values of an array ``lattice``, or this rank's part of it.
        share: gives every rank the array that rank 0 has, such as ``lambda x: comm.bcast(x)`` of mpi4py. Proposals
            and densities go through it, so that ranks cannot come to differ by rounding. By default there is one rank.
        batch: proposals made at once, ahead, in a background thread.
        first: number of the first batch, to go on with an interrupted chain; see :attr:`used`.

    Raises:
        DmmcError: if an argument is out of its range. In an update: if a field has another shape than the proposals, an
            action is no number, the action of the present field is not finite, or an update is decided twice.
    """

    def __init__(
        self,
        proposer: Proposer,
        seed: int,
        metropolis: CodeMetropolis,
        *,
        read: Callable[[Any], Any] = np.asarray,
        write: Callable[[Any, Array], None] = _overwrite,
        share: Callable[[Array], Array] = _unshared,
        batch: int = 64,
        first: int = 0,
    ) -> None:
        self._proposer, self._metropolis = proposer, metropolis
        self._read, self._write, self._share = read, write, share
        self._batches = proposer.stream(seed, batch=batch, first=first)
        self._batch: tuple[Array, Array] | None = None
        self._row, self._size = batch, batch
        self._known: tuple[Array, float] | None = None  # a field as it is stored, and its log q
        self.used = first
        """Batches begun so far. ``first=used`` begins with proposals that have not been seen yet."""

    def __call__(self, fields: Any) -> Update:
        """Begin an update of ``fields``."""
        return Update(self, fields, self._metropolis(fields))

    def close(self) -> None:
        """End the background thread. Nothing can be proposed afterwards."""
        getattr(self._batches, "close", lambda: None)()

    def _next(self) -> tuple[Array, float]:
        if self._batch is None or self._row == self._size:
            phi, log_q = next(self._batches)
            self._batch, self._row = (self._share(phi), self._share(log_q)), 0
            self.used += 1
        row, self._row = self._row, self._row + 1
        return self._batch[0][row], float(self._batch[1][row])

    def _log_q(self, phi: Array) -> float:
        if self._known is None or not np.array_equal(self._known[0], phi):
            self._known = phi, float(self._share(self._proposer.log_q(phi[None]))[0])
        return self._known[1]

    def _array(self, fields: Any, shape: tuple[int, ...]) -> Array:
        phi = np.array(self._read(fields), dtype=np.float64)  # a copy, since the code changes its fields in place
        if phi.shape != shape:
            raise DmmcError(
                f"the field has shape {phi.shape}, and proposals have {shape}; read= should give the whole lattice as "
                "one array, without further axes"
            )
        return phi


class Update:
    """One update: what a metropolis object returns, and what is called to decide."""

    def __init__(self, owner: Metropolis, fields: Any, decide: Decide) -> None:
        self._owner, self._fields, self._decide = owner, fields, decide
        self._decided = False
        self._proposed: tuple[Array, float, float] | None = None  # the field as stored, its log q, log q of the old one

    def propose(self) -> None:
        """Give the fields the values of the next proposal."""
        if self._decided or self._proposed is not None:
            raise DmmcError("this update has its proposal already; begin another with metro(fields)")
        owner = self._owner
        values, log_q = owner._next()
        old = owner._log_q(owner._array(self._fields, values.shape))
        owner._write(self._fields, values)
        self._proposed = owner._array(self._fields, values.shape), log_q, old

    def __call__(self, new: Any, old: Any) -> Any:
        """Decide, given the action of the fields as they are now and of the fields before the update.

        Returns:
            what the metropolis object of the code returns: whether the update was accepted.
        """
        if self._decided:
            raise DmmcError("this update has been decided already; begin another with metro(fields)")
        new, old = _number(new), _number(old)
        if not math.isfinite(old):
            raise DmmcError(f"the action of the fields before the update is {old}; start from other fields")
        if math.isnan(new):
            new = math.inf  # rejected, whichever way a code compares
        self._decided = True
        if self._proposed is None:
            return self._decide(new, old)
        stored, log_q, log_q_old = self._proposed
        accepted = self._decide(new + log_q, old + log_q_old)
        if accepted:
            self._owner._known = stored, log_q
        return accepted


def _number(action: Any) -> float:
    try:
        return float(action)
    except (TypeError, ValueError):
        raise DmmcError(
            f"accrej takes the action of the new and of the old field, one number each; got {type(action).__name__}"
        ) from None

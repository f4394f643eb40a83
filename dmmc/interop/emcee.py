"""Diffusion-model proposals as moves of emcee.

::

    from dmmc.interop.emcee import DiffusionMove

    sampler = emcee.EnsembleSampler(n_walkers, ndim, log_prob, moves=DiffusionMove(proposal))

======================  =========================================  =====================================
move                    the kernel                                 what it needs
======================  =========================================  =====================================
:class:`DiffusionMove`  whole fields, independent of the walkers   a proposal with a density of fields
:class:`LatentMove`     fields near those of the walkers           a map of latents: the flow of a model
:class:`PathMove`       whole paths, independent of the walkers    paths of a model, any network
:class:`RefreshMove`    walkers noised and denoised again          paths of a model, any network
======================  =========================================  =====================================

emcee: D. Foreman-Mackey et al., PASP 125 (2013) 306. Its autocorrelation times are ``1 + 2 sum rho``, twice those of
:mod:`dmmc.diagnostics`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.records import json_text
from dmmc.core.rng import stream
from dmmc.interop.emcee_notes import Note, any_notes, backend_of, read_note, write_note
from dmmc.proposals.base import LatentProposal, Paths, Proposal
from dmmc.proposals.checked import checked_log_q
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice

Array = NDArray[np.float64]


class FieldMove(emcee.moves.Move):  # type: ignore[misc]  # emcee has no annotations
    """What the moves of this module share: proposed fields, a decision for each walker, and what is rejected.

    Walkers do not see each other, so that their number is free; more of them make larger batches, which cost less per
    walker. If there are fewer walkers than dimensions, as on a lattice, emcee's test of the initial state must be
    skipped: ``run_mcmc(..., skip_initial_state_check=True)``. The moves mix with other moves in any proportion, and
    work with ``vectorize``, pools, blobs and backends. Fields ``(n, *lattice)`` are walkers ``(n, ndim)`` in C order,
    where ndim is the number of sites.

    Everything random comes from emcee's generator: the seed of what is proposed, and the decisions.

    **Pools.** The processes of a pool evaluate the log_prob function, and the proposal works in the process of the
    sampler. Import dmmc before the pool is made: then torch uses one thread in every forked process
    (:mod:`dmmc.core.forks`), which otherwise would wait for ever for threads that it did not inherit.

    A proposal that is not finite, or whose log_prob or log_q is not, is rejected. If the log_prob function itself gives
    NaN, emcee raises an error; let it return ``-inf`` instead.
    """

    def __init__(self, proposal: Any, device: str | torch.device) -> None:
        if reason := getattr(proposal, "inexact", ""):
            raise DmmcError(f"these walkers would not sample their target: {reason}; use an exact divergence")
        self.proposal = proposal
        self.device = torch.device(device)

    def propose(self, model: Any, state: emcee.State) -> tuple[emcee.State, NDArray[np.bool_]]:
        """One step of all walkers, called by emcee: the new state, and which walkers have moved ``(n_walkers,)``."""
        seed = int(model.random.randint(2**63, dtype=np.uint64))
        with torch.no_grad():
            coords, log_ratio = self._proposed(state.coords, stream(seed, "emcee", device=self.device))
        log_prob, blobs = model.compute_log_prob_fn(coords)
        with np.errstate(invalid="ignore"):  # a walker may begin where log_prob is -inf, or outside what is proposed
            log_ratio = (log_prob - state.log_prob) + log_ratio
        accepted = np.isfinite(log_prob) & (-model.random.standard_exponential(len(coords)) < log_ratio)
        state = self.update(state, emcee.State(coords, log_prob=log_prob, blobs=blobs), accepted)
        self._decided(state.coords.copy(), accepted)  # a copy, since emcee changes its array in place
        return state, accepted

    def _proposed(self, coords: Array, generator: torch.Generator) -> tuple[Array, Array]:
        """New positions, all finite, and what the log of the acceptance ratio has beside log_prob.

        The latter is ``-inf`` where a walker must not move.
        """
        raise NotImplementedError

    def _decided(self, coords: Array, accepted: NDArray[np.bool_]) -> None:
        """Learn where the walkers are after the step, and which of them have moved there."""

    def _fields(self, coords: Array, shape: tuple[int, ...]) -> Tensor:
        # A copy, because rounding may depend on the alignment of the memory, and torch always aligns its own alike.
        return torch.tensor(coords, dtype=torch.float64, device=self.device).view(len(coords), *shape)

    def _on_lattice(self, coords: Array) -> Tensor:
        lattice = self.proposal.lattice
        if coords.shape[1] != lattice.n_numbers:
            raise DmmcError(
                f"a field of shape {lattice.field_shape} has {lattice.n_numbers} numbers, and walkers have "
                f"{coords.shape[1]} dimensions; ndim is the number of sites, times that of components"
            )
        return self._fields(coords, lattice.field_shape)


def _finite_walkers(phi: Tensor, coords: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Fields as positions, the present ones in place of those that are not finite; and which of them are."""
    new = phi.flatten(1).to("cpu", torch.float64).numpy().copy()
    finite = np.isfinite(new).all(1)
    new[~finite] = coords[~finite]  # emcee and the proposal take finite numbers only
    return new, finite


def _log_ratio(here: Array, there: Array, possible: NDArray[np.bool_]) -> Array:
    """``log q`` of the present fields less that of the proposed ones; ``-inf`` where a walker must not move."""
    with np.errstate(invalid="ignore"):
        return np.where(possible & np.isfinite(there), here - there, -np.inf)


def _numbers(log_q: Any, n: int) -> Array:
    return checked_log_q(log_q, n).to("cpu", torch.float64).numpy()


def _of_walkers(log_q: Array) -> Array:
    if np.isnan(log_q).any() or (log_q == np.inf).any():
        raise DmmcError("log q of a walker is NaN or infinite; check the proposal, or start from other positions")
    return log_q


class DiffusionMove(FieldMove):
    """Independence Metropolis: every walker gets a proposal that does not depend on where it is.

    A proposal x' for the walker at x is accepted with ``min(1, p(x') q(x) / [p(x) q(x')])`` (L. Tierney, Ann. Statist.
    22 (1994) 1701). What holds for all moves is said at :class:`FieldMove`.

    **A resumed chain equals an uninterrupted one, bit for bit** (on the same machine, with the same number of threads).
    emcee stores positions, log_prob and the state of its random generator, but not log q. That of a proposal comes with
    it from ``proposal.sample``, and ``proposal.log_q`` would not give the same afterwards: it differs by rounding and
    by the irreversibility of the integrator. Therefore the move notes log q of the walkers in the backend of the
    sampler, beside their positions (see :mod:`dmmc.interop.emcee_notes`), and a step costs a single integration. A note
    belongs to the proposal, by what ``proposal.describe()`` says, and to the exact positions of all walkers.

    After another move has changed a walker there is no note, and log q has to be computed from the positions. From then
    on this is done for the proposals as well, so that never a value of one kind is compared with one of the other: the
    price is a second integration of each proposal, and one of all walkers after a step of another move. Where chains
    begin, log q of the walkers is computed from the positions too, once.

    With ``resumable=False`` nothing is noted, and log q of proposals is always what came with them. The chain also goes
    on bit for bit as long as sampler and move live; only what a new process makes of a file of a backend differs from
    what the old one would have made of it.

    Args:
        proposal: where proposals come from.
        device: where the proposal draws its random numbers and gets its fields.
        resumable: whether a chain that is resumed from a backend equals the uninterrupted one.

    Raises:
        DmmcError: if log q of the proposal is only an estimate. In a run: if ndim is not the number of sites, log_q
            has a wrong shape, or log_q of a walker is NaN or ``+inf``.
    """

    def __init__(self, proposal: Proposal, device: str | torch.device = "cpu", *, resumable: bool = True) -> None:
        super().__init__(proposal, device)
        self.resumable = resumable
        self._identity = json_text(proposal.describe(), "the description of the proposal").encode()
        self._backend: Any = None
        self._known: tuple[str, Note] | None = None  # key of the last positions, and log q there
        self._asked: tuple[Note, Array] | None = None  # log q of the walkers in this step, and of their proposals

    def propose(self, model: Any, state: emcee.State) -> tuple[emcee.State, NDArray[np.bool_]]:
        self._backend = backend_of(model) if self.resumable else None
        return super().propose(model, state)

    def _proposed(self, coords: Array, generator: torch.Generator) -> tuple[Array, Array]:
        n, ndim = coords.shape
        phi, reported = self.proposal.sample(n, generator)
        if len(phi) != n or phi[0].numel() != ndim:
            raise DmmcError(
                f"the proposal makes {len(phi)} fields of {tuple(phi.shape[1:])}, which are not {n} walkers of "
                f"{ndim} dimensions; ndim is the number of sites"
            )
        new, finite = _finite_walkers(phi, coords)
        here = self._noted(coords, phi.shape)
        there = self._log_q(new, phi.shape) if here.from_positions else _numbers(reported, n)
        self._asked = here, there
        return new, _log_ratio(here.log_q, there, finite)

    def _decided(self, coords: Array, accepted: NDArray[np.bool_]) -> None:
        assert self._asked is not None
        here, there = self._asked
        self._know(self._key(coords), Note(np.where(accepted, there, here.log_q), here.from_positions))

    def _noted(self, coords: Array, shape: torch.Size) -> Note:
        """log q of the walkers where they are."""
        key = self._key(coords)
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        note = None if self._backend is None else read_note(self._backend, key)
        if note is None:
            # Where chains begin, nothing was noted before; where something was, another move has changed the walkers.
            moved = self._backend is not None and any_notes(self._backend)
            note = Note(_of_walkers(self._log_q(coords, shape)), from_positions=moved)
            self._know(key, note)
        return note

    def _know(self, key: str, note: Note) -> None:
        self._known = key, note
        if self._backend is not None:
            write_note(self._backend, key, note)

    def _key(self, coords: Array) -> str:
        return hashlib.sha256(self._identity + np.ascontiguousarray(coords).tobytes()).hexdigest()

    def _log_q(self, coords: Array, shape: torch.Size) -> Array:
        return _numbers(self.proposal.log_q(self._fields(coords, shape[1:])), len(coords))


class LatentMove(FieldMove):
    """Latent Metropolis: every walker is mapped to its latents, which are rotated into fresh noise and mapped back.

    The kernel is that of :class:`dmmc.Latent`, where the acceptance is derived. Small angles are accepted at any
    volume. What holds for all moves is said at :class:`FieldMove`.

    Latents and log q of a walker are those of ``proposal.pull`` of its position, in a batch of all walkers, so that a
    resumed chain equals an uninterrupted one bit for bit, at the price of a second integration in each step (a third
    for the two sectors of a broken phase, where the latents of a position are drawn). With ``resumable=False`` a walker
    keeps the latents that it was made of, as in the kernel, and a step costs one integration. The chain also goes on
    bit for bit as long as sampler and move live, but not in a new process.

    Args:
        proposal: the map from latents to fields, such as :func:`dmmc.flow_proposal` of a model.
        theta: angle of the rotation, ``0 < theta <= pi/2``. :meth:`dmmc.Latent.tune` finds a good one.
        device: where random numbers are drawn.
        resumable: whether latents and log q depend on the positions alone.

    Raises:
        DmmcError: if the angle is out of its range, log q is only an estimate, or the proposal is no map of latents. In
            a run: as :class:`DiffusionMove`.
    """

    def __init__(
        self, proposal: LatentProposal, theta: float, device: str | torch.device = "cpu", *, resumable: bool = True
    ) -> None:
        super().__init__(proposal, device)
        if not 0 < theta <= math.pi / 2:
            raise DmmcError(f"theta must lie between 0 and pi/2 (an independent proposal), got {theta}")
        if not hasattr(proposal, "pull"):
            raise DmmcError(f"{type(proposal).__name__} is no map of latents; use dmmc.flow_proposal(model)")
        self.theta, self.resumable = theta, resumable
        self._known: tuple[Array, Tensor, Array] | None = None  # positions of the walkers, their latents and log q
        self._asked: tuple[Pulled, Pulled] | None = None  # of the walkers in this step, and of their proposals

    def _proposed(self, coords: Array, generator: torch.Generator) -> tuple[Array, Array]:
        n = len(coords)
        phi_here = self._on_lattice(coords)
        if self._known is not None and np.array_equal(self._known[0], coords):
            here = Pulled(*self._known[1:], False)
        else:
            here = self._pulled(phi_here, generator)
            _of_walkers(here.log_q)
        rotated = self.proposal.rotate(here.latents, self.theta, generator)
        phi, reported = self.proposal.push(rotated, generator)
        new, finite = _finite_walkers(phi, coords)
        there = Pulled(rotated, _numbers(reported, n), False)
        if self.resumable:
            there = self._pulled(self._on_lattice(new), generator)
        self._asked = here, there
        return new, _log_ratio(here.log_q, there.log_q, finite)

    def _decided(self, coords: Array, accepted: NDArray[np.bool_]) -> None:
        assert self._asked is not None
        here, there = self._asked
        if there.drawn:  # after an interruption they would be drawn again
            self._known = None
            return
        moved = torch.from_numpy(accepted).to(here.latents.device)
        latents = torch.where(moved.view(-1, *(1,) * (here.latents.ndim - 1)), there.latents, here.latents)
        self._known = coords, latents, np.where(accepted, there.log_q, here.log_q)

    def _pulled(self, phi: Tensor, generator: torch.Generator) -> Pulled:
        before = generator.get_state()
        latents, log_q = self.proposal.pull(phi, generator)
        return Pulled(latents, _numbers(log_q, len(phi)), not torch.equal(before, generator.get_state()))


@dataclass(frozen=True)
class Pulled:
    """Latents of fields, their log q ``(n,)``, and whether random numbers were used to find them."""

    latents: Tensor
    log_q: Array
    drawn: bool


class PathMove(FieldMove):
    """Path Metropolis: whole paths of the reverse diffusion are proposed, whatever the network.

    The kernel is that of :class:`dmmc.PathIndependence`, except that every step draws a new path to the present field
    from its conditional law, which is exact as well. A step costs two paths, and needs nothing but the positions, so
    that a resumed chain equals an uninterrupted one bit for bit. What holds for all moves is said at
    :class:`FieldMove`.

    Args:
        paths: :func:`dmmc.path_proposal` of a model, best calibrated:
            ``paths.calibrated(paths.rough_fields(512, generator), generator)``.
        device: where random numbers are drawn.

    Raises:
        DmmcError: if the weight of a path is only an estimate. In a run: if ndim is not the number of sites.
    """

    def __init__(self, paths: Paths, device: str | torch.device = "cpu") -> None:
        super().__init__(paths, device)

    def _proposed(self, coords: Array, generator: torch.Generator) -> tuple[Array, Array]:
        n = len(coords)
        here = _of_walkers(_numbers(self.proposal.draw_log_q(self._on_lattice(coords), generator), n))
        phi, log_q = self.proposal.sample(n, generator)
        new, finite = _finite_walkers(phi, coords)
        return new, _log_ratio(here, _numbers(log_q, n), finite)


class RefreshMove(FieldMove):
    """Partial refresh: every walker is noised up to some level, and denoised again.

    The kernel is that of :class:`dmmc.PathRefresh`. It needs nothing but the positions, so that a resumed chain equals
    an uninterrupted one bit for bit. What holds for all moves is said at :class:`FieldMove`.

    Args:
        paths: as for :class:`PathMove`.
        level: noise level in (0, 1]; small ones are accepted more often and change less.
        device: where random numbers are drawn.

    Raises:
        DmmcError: if the level is not in the paths, or the weight of a path is only an estimate. In a run: if ndim is
            not the number of sites.
    """

    def __init__(self, paths: Paths, level: float, device: str | torch.device = "cpu") -> None:
        super().__init__(paths, device)
        self.level = level
        self._part = paths.up_to(level)

    def _proposed(self, coords: Array, generator: torch.Generator) -> tuple[Array, Array]:
        phi, log_paths = self._part.refresh(self._on_lattice(coords), generator)
        new, finite = _finite_walkers(phi, coords)
        log_ratio = _numbers(log_paths, len(coords))
        return new, np.where(finite & ~np.isnan(log_ratio), log_ratio, -np.inf)


def lattice_log_prob(action: Action, lattice: Lattice, device: str | torch.device = "cpu") -> Callable[[Array], Array]:
    """``-S`` as a log_prob function for emcee with ``vectorize=True``: ``(n, V) -> (n,)``, fields in C order."""
    fields = lattice_of(action, lattice).field_shape

    def log_prob(coords: Array) -> Array:
        # A copy: an action that changes its argument must not change the walkers.
        phi = torch.tensor(coords, dtype=torch.float64, device=device).view(-1, *fields)
        return -evaluate(action, phi).cpu().numpy()

    return log_prob

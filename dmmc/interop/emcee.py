"""Diffusion-model proposals as a move of emcee.

::

    from dmmc.interop.emcee import DiffusionMove

    sampler = emcee.EnsembleSampler(n_walkers, ndim, log_prob, moves=DiffusionMove(proposal))

emcee: D. Foreman-Mackey et al., PASP 125 (2013) 306. Its autocorrelation times are ``1 + 2 sum rho``, twice those of
:mod:`dmmc.diagnostics`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import stream
from dmmc.proposals.base import Proposal
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice

Array = NDArray[np.float64]

# A process that is forked, as those of a multiprocessing.Pool are by default on Linux, inherits the bookkeeping of
# torch's threads without the threads, and waits for them for ever. With a single thread it needs none of them.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class DiffusionMove(emcee.moves.Move):  # type: ignore[misc]  # emcee has no annotations
    """Independence Metropolis: every walker gets a proposal that does not depend on where it is.

    A proposal x' for the walker at x is accepted with ``min(1, p(x') q(x) / [p(x) q(x')])`` (L. Tierney, Ann. Statist.
    22 (1994) 1701). Walkers do not see each other, so that their number is free; more of them make larger batches,
    which cost less per walker. If there are fewer walkers than dimensions, as on a lattice, emcee's test of the initial
    state must be skipped: ``run_mcmc(..., skip_initial_state_check=True)``. The move mixes with other moves in any
    proportion, and works with ``vectorize``, pools, blobs and backends.

    **A resumed chain equals an uninterrupted one, bit for bit** (on the same machine, with the same number of threads).
    emcee stores positions, log_prob and the state of its random generator, but not log q, which is computed afresh
    after an interruption. Therefore log q must not depend on how a walker got to its place. The value that
    ``proposal.sample`` reports does: it differs from ``proposal.log_q`` by rounding and by the irreversibility of the
    integrator. It is not used here. In floating point, ``proposal.log_q`` may also depend on the size of a batch and on
    a field's row in it (where vector instructions end, where a matrix product has its edge), though not on the other
    rows. Therefore log q of walker k is always that of row k in a batch of all walkers, even if a single walker has
    moved. The price is a second integration of each proposal, and one of all walkers after a step of another move; the
    values of the walkers are kept in between.

    **Pools.** The processes of a pool evaluate the log_prob function, and the proposal works in the process of the
    sampler. A process that is forked after torch has used several threads would wait for ever for threads that it did
    not inherit; therefore importing this module lets torch use one thread in every forked process. Import it before the
    pool is made, or use ``multiprocessing.get_context("spawn").Pool()``.

    Everything random comes from emcee's generator: the seed for ``proposal.sample``, and the decisions.

    Args:
        proposal: where proposals come from. Its fields ``(n, *lattice)`` are walkers ``(n, ndim)`` in C order, where
            ndim is the number of sites.
        device: where the proposal draws its random numbers and gets its fields.

    Raises:
        DmmcError: if log q of the proposal is only an estimate. In a run: if ndim is not the number of sites, log_q
            has a wrong shape, or log_q of a walker is NaN or ``+inf``.

    A proposal that is not finite, or whose log_prob or log_q is not, is rejected. If the log_prob function itself gives
    NaN, emcee raises an error; let it return ``-inf`` instead.
    """

    def __init__(self, proposal: Proposal, device: str | torch.device = "cpu") -> None:
        if reason := getattr(proposal, "inexact", ""):
            raise DmmcError(f"these walkers would not sample their target: {reason}; use an exact divergence")
        self.proposal = proposal
        self.device = torch.device(device)
        self._known: tuple[Array, Array] | None = None  # positions of the walkers, and their log q

    def propose(self, model: Any, state: emcee.State) -> tuple[emcee.State, NDArray[np.bool_]]:
        """One step of all walkers, called by emcee: the new state, and which walkers have moved ``(n_walkers,)``."""
        n, ndim = state.coords.shape
        seed = int(model.random.randint(2**63, dtype=np.uint64))
        phi, _ = self.proposal.sample(n, stream(seed, "emcee", device=self.device))
        if len(phi) != n or phi[0].numel() != ndim:
            raise DmmcError(
                f"the proposal makes {len(phi)} fields of {tuple(phi.shape[1:])}, which are not {n} walkers of "
                f"{ndim} dimensions; ndim is the number of sites"
            )
        coords = phi.flatten(1).to("cpu", torch.float64).numpy().copy()
        finite = np.isfinite(coords).all(1)
        coords[~finite] = state.coords[~finite]  # emcee and the proposal take finite numbers only

        here = self._log_q_of_walkers(state.coords, phi.shape)
        there = self._log_q(coords, phi.shape)
        log_prob, blobs = model.compute_log_prob_fn(coords)
        possible = finite & np.isfinite(log_prob) & np.isfinite(there)
        with np.errstate(invalid="ignore"):  # a walker may begin where log_prob is -inf, or outside what is proposed
            log_ratio = (log_prob - there) - (state.log_prob - here)
        accepted = possible & (-model.random.standard_exponential(n) < log_ratio)

        state = self.update(state, emcee.State(coords, log_prob=log_prob, blobs=blobs), accepted)
        self._known = state.coords.copy(), np.where(accepted, there, here)  # emcee changes its array in place
        return state, accepted

    def _log_q_of_walkers(self, coords: Array, shape: torch.Size) -> Array:
        if self._known is not None and np.array_equal(self._known[0], coords):
            return self._known[1]
        log_q = self._log_q(coords, shape)
        if np.isnan(log_q).any() or (log_q == np.inf).any():
            raise DmmcError("log q of a walker is NaN or infinite; check the proposal, or start from other positions")
        return log_q

    def _log_q(self, coords: Array, shape: torch.Size) -> Array:
        # A copy, because rounding may depend on the alignment of the memory, and torch always aligns its own alike.
        phi = torch.tensor(coords, dtype=torch.float64, device=self.device).view(shape)
        log_q = self.proposal.log_q(phi)
        if not isinstance(log_q, Tensor) or log_q.shape != shape[:1]:
            got = tuple(log_q.shape) if isinstance(log_q, Tensor) else type(log_q).__name__
            raise DmmcError(f"the proposal must report log_q of shape {tuple(shape[:1])}, one per field; got {got}")
        return log_q.to("cpu", torch.float64).numpy()


def lattice_log_prob(action: Action, lattice: Lattice, device: str | torch.device = "cpu") -> Callable[[Array], Array]:
    """``-S`` as a log_prob function for emcee with ``vectorize=True``: ``(n, V) -> (n,)``, fields in C order."""

    def log_prob(coords: Array) -> Array:
        # A copy: an action that changes its argument must not change the walkers.
        phi = torch.tensor(coords, dtype=torch.float64, device=device).view(-1, *lattice.shape)
        return -evaluate(action, phi).cpu().numpy()

    return log_prob

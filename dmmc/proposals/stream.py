"""Proposals for a Metropolis loop outside of dmmc: batches of fields with their log density, made ahead.

::

    proposer = dmmc.propose(model)
    for phi, log_q in proposer.stream(seed=1, batch=64):
        ...  # accept each of them with min(1, exp(-S(phi) - log_q + S(old) + log_q_old))

Fields are NumPy arrays or tensors, float64. The next batches are made in a background thread while the loop works on
the present one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.arrays import array_of
from dmmc.core.errors import DmmcError
from dmmc.core.rng import check_seed, stream
from dmmc.core.scalars import check_count
from dmmc.proposals.base import Paths, Proposal
from dmmc.proposals.checked import checked_log_q, checked_sample

Array = NDArray[np.float64]
Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Proposer:
    """Fields with their log density, for a loop that decides by itself.

    Args:
        proposal: where fields come from. It may also be paths: their "log q" is that of the whole path, which makes an
            exact chain if it is kept together with its field.
        device: where random numbers are drawn and fields are made.

    Raises:
        DmmcError: if log q of the proposal is only an estimate.
    """

    proposal: Proposal | Paths
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if reason := getattr(self.proposal, "inexact", ""):
            raise DmmcError(f"a chain with these proposals would not be exact: {reason}; use an exact divergence")

    @overload
    def stream(
        self, seed: int, *, batch: int = ..., output: Literal["numpy"] = ..., prefetch: int = ..., first: int = ...
    ) -> Iterator[tuple[Array, Array]]: ...
    @overload
    def stream(
        self, seed: int, *, batch: int = ..., output: Literal["torch"], prefetch: int = ..., first: int = ...
    ) -> Iterator[tuple[Tensor, Tensor]]: ...
    def stream(
        self, seed: int, *, batch: int = 64, output: str = "numpy", prefetch: int = 1, first: int = 0
    ) -> Iterator[Batch]:
        """Batches of proposals without end: fields ``(batch, *lattice)`` and their log density ``(batch,)``, float64.

        Batch k depends on the seed, on k and on the size of a batch only, so that ``first=k`` goes on where an earlier
        loop has used k batches, bit for bit. A field that is not finite, or whose density is not, is replaced by a
        field of zeros with ``log_q = inf``, which has no weight and is never accepted.

        Leaving the loop ends the background thread; whoever keeps the iterator calls its ``close()``.

        Args:
            seed: seed of the random numbers.
            batch: fields in a batch.
            output: ``"numpy"``, or ``"torch"`` for tensors on the device of the proposer.
            prefetch: batches that are made ahead. 0 makes each when it is asked for, without a thread. It does not
                change the bits.
            first: number of the first batch.

        Raises:
            DmmcError: if an argument is out of its range; in the loop, if the proposal returns a wrong shape.
        """
        check_seed(seed)
        batch = check_count(batch, "the number of fields in a batch")
        prefetch = check_count(prefetch, "the number of batches made ahead", 0)
        first = check_count(first, "the number of the first batch", 0)
        if output not in ("numpy", "torch"):
            raise DmmcError(f'output must be "numpy" or "torch", got {output!r}')

        @torch.no_grad()
        def make(k: int) -> Batch:
            generator = stream(seed, "proposals", k, device=self.device)
            phi, log_q = checked_sample(*self.proposal.sample(batch, generator), batch)
            valid = torch.isfinite(phi).flatten(1).all(1) & torch.isfinite(log_q)
            phi = torch.where(valid.view(-1, *(1,) * (phi.ndim - 1)), phi, 0.0)
            log_q = torch.where(valid, log_q, torch.inf)
            return (phi, log_q) if output == "torch" else (phi.cpu().numpy(), log_q.cpu().numpy())

        return _ahead(make, first, prefetch) if prefetch else map(make, itertools.count(first))

    @overload
    def log_q(self, phi: Tensor) -> Tensor: ...
    @overload
    def log_q(self, phi: NDArray[Any]) -> Array: ...
    def log_q(self, phi: Any) -> Any:
        """Log density ``(n,)`` float64 of given fields ``(n, *lattice)``, such as those that a chain begins with.

        Arrays of any real floating-point type and byte order give an array, tensors a tensor.

        Raises:
            DmmcError: if ``phi`` is not a finite field on the lattice, or the proposal consists of paths, which have no
                density of a field alone.
        """
        density = getattr(self.proposal, "log_q", None)
        if density is None:
            raise DmmcError(
                "paths have no log density of a given field, only one together with their path; begin the chain with a "
                "proposal of stream(), or use dmmc.flow_proposal(model)"
            )
        given = phi if isinstance(phi, Tensor) else _tensor(phi)
        with torch.no_grad():
            log_q = checked_log_q(density(given.to(self.device)), len(given)).to(torch.float64)
        return log_q if isinstance(phi, Tensor) else log_q.cpu().numpy()


def _tensor(phi: Any) -> Tensor:
    array = array_of(phi, "phi")
    if array.dtype.kind != "f" or array.ndim < 2:
        raise DmmcError(
            f"phi must be real floating-point fields (n, *lattice), got shape {array.shape} of {array.dtype}; a single "
            "field is phi[None], and integers are converted by phi.astype(float)"
        )
    # A copy: rounding may depend on the alignment of the memory.
    return torch.tensor(array.astype(np.float64), device="cpu")


def _ahead(make: Callable[[int], Batch], first: int, prefetch: int) -> Iterator[Batch]:
    """``make(first), make(first + 1), ...``, of which one is at work or done for each of ``prefetch`` places ahead."""
    # A single thread, so that batches do not share cores; made when the first batch is asked for.
    pool = ThreadPoolExecutor(1, thread_name_prefix="dmmc-proposals")
    try:
        numbers = itertools.count(first)
        ahead: deque[Future[Batch]] = deque(pool.submit(make, k) for k in itertools.islice(numbers, prefetch))
        while True:
            ready = ahead.popleft().result()
            ahead.append(pool.submit(make, next(numbers)))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)

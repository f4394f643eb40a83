"""Proposals at work: what they return has the shapes of the contract, or there is one clear error.

A proposal may come from a user. Densities of another shape would be broadcast, and a chain would sample something else
without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import Lattice


def checked_sample(phi: Any, log_q: Any, n: int, lattice: Lattice | None = None) -> tuple[Tensor, Tensor]:
    """What a proposal returned as ``n`` fields and their log density, both float64.

    Args:
        phi: should be ``(n, *lattice)``.
        log_q: should be ``(n,)``.
        n: how many there should be.
        lattice: the lattice of the fields; None where nobody knows it but the proposal.

    Raises:
        DmmcError: if fields or log_q have a wrong shape.
    """
    shape = (n, *lattice.field_shape) if lattice else (n, *phi.shape[1:]) if isinstance(phi, Tensor) else (n,)
    if not isinstance(phi, Tensor) or phi.shape != shape or phi.ndim < 2:
        got = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
        wanted = f"{shape}" if lattice else f"({n}, *lattice)"
        raise DmmcError(f"the proposal must return fields of shape {wanted}; got {got}")
    return phi.to(torch.float64), checked_log_q(log_q, n).to(torch.float64)


def checked_log_q(log_q: Any, n: int) -> Tensor:
    """``log_q``, if it has shape ``(n,)``.

    Raises:
        DmmcError: if it has not.
    """
    if not isinstance(log_q, Tensor) or log_q.shape != (n,):
        got = tuple(log_q.shape) if isinstance(log_q, Tensor) else type(log_q).__name__
        raise DmmcError(f"the proposal must report log_q of shape ({n},), one number per field; got {got}")
    return log_q

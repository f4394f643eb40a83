"""The contract of a flow as a whole: all steps of an integration for many fields at once.

A network that has one offers it (:meth:`dmmc.model.network.Network.transport`). It computes what the network computes
step by step, up to rounding. On a CPU it is machine code, on a GPU a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stages:
    """The steps of an explicit Runge-Kutta method along ``d psi / dt = rate (C + v)^(-1/2) D N((C + v)^(1/2) psi, v)``.

    Attributes:
        a: Butcher's coefficients ``a_ij``; row i has those with j < i.
        b: his weights.
        lengths: the signed length of each step.
        variances: the noise variance v at each stage of each step.
        rates: the factor in front of the velocity at each stage of each step; minus the same factor in front of the
            trace of the Jacobian of ``D N`` is the rate of change of log q.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    lengths: tuple[float, ...]
    variances: tuple[tuple[float, ...], ...]
    rates: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Footprint:
    """The memory that an integration works in.

    Attributes:
        workspace: bytes that one thread works in, again and again.
        coefficients: bytes of what is read at all noise levels.
        fields: how many fields are carried at once, so that they share one reading of the coefficients.
        field: bytes of a field.
    """

    workspace: int
    coefficients: int
    fields: int
    field: int

    @property
    def traffic(self) -> float:
        """Bytes that a field moves at least through the main memory: itself in and out, and its share of the rest."""
        return 2 * self.field + self.coefficients / self.fields


class Transport(Protocol):
    """Carries fields through the steps of an integration."""

    def __call__(self, fields: Tensor, stages: Stages, traced: bool) -> tuple[Tensor, Tensor]:
        """Carry ``fields``.

        Args:
            fields: psi on the sites, ``(n, *lattice)``, in the type of the network.
            stages: the steps.
            traced: whether the change of the log density is wanted.

        Returns:
            psi at the end, ``(n, *lattice)``, and the change of its log density ``(n,)`` float64, or 0 if that is not
            wanted. The numbers of a field depend neither on its neighbours nor on the number of threads.
        """
        ...

    def footprint(self, stages: Stages) -> Footprint | None:
        """The memory of an integration with these steps; None where that is not known."""
        ...


def works_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a way to do this for numbers of this type on this device."""
    possible = device.type == "cuda" or (device.type == "cpu" and has_numba())
    return possible and dtype in (torch.float32, torch.float64)


@cache
def has_numba() -> bool:
    """Whether Numba can be used here."""
    try:
        import numba  # noqa: F401
    except Exception:  # it may also be one that does not fit the Python or the NumPy that is installed
        return False
    return True


@cache
def has_triton() -> bool:
    """Whether Triton can be used here, as it can where torch has come with CUDA on Linux."""
    try:
        import triton  # noqa: F401
    except Exception:  # it may also be one that does not fit the torch that is installed
        return False
    return True

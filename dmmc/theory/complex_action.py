"""Complex actions, and the pair of real fields on which complex Langevin dynamics runs.

With a complex action ``exp(-S)`` is no probability. Fields are continued to complex ones, ``z = x + i y``, and kept as
real fields of two components, x and y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError

Complex = Callable[[Tensor], Tensor]


def to_complex(phi: Tensor) -> Tensor:
    """``z = x + i y``, ``(n, *lattice)`` complex, of fields ``(n, 2, *lattice)``."""
    return torch.complex(phi[:, 0], phi[:, 1])


def to_real(z: Tensor) -> Tensor:
    """Fields ``(n, 2, *lattice)`` of complex ones ``(n, *lattice)``."""
    return torch.stack([z.real, z.imag], 1)


@dataclass(frozen=True)
class ComplexAction:
    """A complex action, holomorphic in its fields.

    As an :class:`~dmmc.theory.actions.Action` of fields ``(x, y)`` it is the real part of S(z), which is what runs
    record. ``exp(-Re S)`` is not what complex Langevin dynamics samples, and there is no gradient to take it for one.

    Args:
        function: maps complex fields ``(n, *lattice)`` to S, ``(n,)`` complex.
        derivative: maps them to ``dS/dz``, of the shape of the fields.
        name: recorded in files.
        parameters: names and values that JSON can hold, recorded likewise.
    """

    function: Complex
    derivative: Complex
    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    components = 2
    has_grad = False

    def __call__(self, phi: Tensor) -> Tensor:
        """``Re S``, ``(n,)``, of fields ``(n, 2, *lattice)``.

        Raises:
            DmmcError: if the function returns another shape than ``(n,)``.
        """
        S = self.function(to_complex(phi))
        if S.shape != phi.shape[:1]:
            raise DmmcError(
                f"the complex action {self.name!r} must return shape ({phi.shape[0]},), one value for each field; got "
                f"{tuple(S.shape)}"
            )
        return S.real

    def grad(self, phi: Tensor) -> Tensor:
        raise DmmcError(f"the complex action {self.name!r} has no gradient that leads to exp(-Re S); see drift()")

    def drift(self, phi: Tensor) -> Tensor:
        """The drift ``K = -dS/dz`` of the complex Langevin equation, ``(n, 2, *lattice)``: ``K_x + i K_y``."""
        return -to_real(self.derivative(to_complex(phi)))

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.parameters)}

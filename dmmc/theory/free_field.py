"""The free field, whose propagator and partition function are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_finite, number_text
from dmmc.theory.actions import Symmetry
from dmmc.theory.lattice import neighbours
from dmmc.theory.registry import register_action


@register_action("free")
@dataclass(frozen=True)
class FreeField:
    """Free massive field, ``S = 1/2 sum_x [sum_mu (phi_mu - phi)^2 + mass^2 phi^2]``.

    Its propagator is ``1 / (phat^2 + mass^2)`` and ``log Z = 1/2 sum_p log(2 pi C(p))``.

    Raises:
        DmmcError: if ``mass`` is not a positive finite number.
    """

    symmetry: ClassVar[Symmetry] = "z2"
    hopping: ClassVar[float] = 1.0

    mass: float

    def __post_init__(self) -> None:
        check_finite(mass=self.mass)
        if self.mass <= 0:
            raise DmmcError(f"mass must be positive, got {self.mass}: the zero mode would not be normalisable")

    def __call__(self, phi: Tensor) -> Tensor:
        return 0.5 * (phi * self.grad(phi)).flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        return (2 * (phi.ndim - 1) + self.mass**2) * phi - neighbours(phi)

    def propagator(self, phat2: Tensor) -> Tensor:
        """C(p) for lattice momenta squared ``phat2``, any shape."""
        return 1 / (phat2 + self.mass**2)

    def describe(self) -> dict[str, Any]:
        return {"name": "free", "mass": self.mass}

    def label(self, dim: int) -> tuple[str, str]:
        """``"Free field"`` and its mass."""
        return "Free field", f"m = {number_text(self.mass)}"

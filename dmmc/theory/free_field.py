"""The free field, whose propagator and partition function are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count, check_finite, number_text
from dmmc.theory.actions import Symmetry
from dmmc.theory.lattice import neighbours
from dmmc.theory.registry import register_action


@register_action("free")
@dataclass(frozen=True)
class FreeField:
    """Free massive field, ``S = 1/(2 scale^2) sum_x [sum_mu (phi_mu - phi)^2 + mass^2 phi^2]``.

    Its propagator is ``scale^2 / (phat^2 + mass^2)`` and ``log Z = 1/2 sum_p log(2 pi C(p))``.

    Args:
        mass: its mass in units of the inverse lattice spacing.
        scale: the field that S takes is ``scale`` times the one with the kinetic term ``1/2 (d phi)^2``.
        components: number of components, each of which is such a field; None for a scalar field.

    Raises:
        DmmcError: if ``mass`` or ``scale`` is not a positive finite number, or ``components`` no positive integer.
    """

    mass: float
    scale: float = 1.0
    components: int | None = None

    def __post_init__(self) -> None:
        check_finite(mass=self.mass, scale=self.scale)
        if self.mass <= 0:
            raise DmmcError(f"mass must be positive, got {self.mass}: the zero mode would not be normalisable")
        if self.scale <= 0:
            raise DmmcError(f"scale must be positive, got {self.scale}")
        if self.components is not None:
            object.__setattr__(self, "components", check_count(self.components, "components"))

    @property
    def symmetry(self) -> Symmetry:
        """``"z2"``, or ``"o_n"`` of a field with components."""
        return "z2" if self.components is None else "o_n"

    @property
    def hopping(self) -> float:
        """Coefficient of ``-sum phi(x) phi(x+mu)``."""
        return 1 / self.scale**2

    def __call__(self, phi: Tensor) -> Tensor:
        return 0.5 * (phi * self.grad(phi)).flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        dim = phi.ndim - (1 if self.components is None else 2)
        return ((2 * dim + self.mass**2) * phi - neighbours(phi, self.components)) * self.hopping

    def propagator(self, phat2: Tensor) -> Tensor:
        """C(p) for lattice momenta squared ``phat2``, any shape."""
        return self.scale**2 / (phat2 + self.mass**2)

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"name": "free", "mass": self.mass}
        if self.scale != 1:
            described["scale"] = self.scale
        return described if self.components is None else {**described, "components": self.components}

    def label(self, dim: int) -> tuple[str, str]:
        """``"Free field"`` and its mass."""
        return "Free field", f"m = {number_text(self.mass)}"

"""The sine-Gordon theory with a mass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_finite, number_text
from dmmc.theory.actions import Symmetry
from dmmc.theory.lattice import neighbours
from dmmc.theory.registry import register_action


@register_action("sine_gordon")
@dataclass(frozen=True)
class SineGordon:
    """Massive sine-Gordon theory, any dimension.

    ``S = sum_x [1/2 sum_mu (phi_mu - phi)^2 + m2/2 phi^2 + alpha (1 - cos(beta phi))]``.

    In two dimensions and with ``beta = sqrt(4 pi)`` this is the massive Schwinger model after bosonisation: ``m2`` is
    e^2/pi in lattice units, ``alpha`` is proportional to the mass of the fermion, and ``alpha < 0`` is the vacuum angle
    theta = pi (S. Coleman, R. Jackiw, L. Susskind, Annals Phys. 93 (1975) 267; S. Coleman, Annals Phys. 101 (1976)
    239).

    Args:
        m2: squared mass, > 0.
        alpha: strength of the periodic potential, of either sign.
        beta: its frequency, > 0.

    Raises:
        DmmcError: if a parameter is not finite or out of its range.
    """

    symmetry: ClassVar[Symmetry] = "z2"
    hopping: ClassVar[float] = 1.0
    recordable: ClassVar[bool] = True

    m2: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        check_finite(m2=self.m2, alpha=self.alpha, beta=self.beta)
        if self.m2 <= 0:
            raise DmmcError(
                f"m2 must be positive, got {self.m2}: without a mass, S is the same for phi and phi + 2 pi/beta, and "
                "exp(-S) cannot be normalised"
            )
        if self.beta <= 0:
            raise DmmcError(f"beta must be positive, got {self.beta}; for a theory without interaction use FreeField")

    def minimum(self, dim: int) -> float:
        """The value of the uniform field of least action, 0 or positive."""
        # Beyond pi/beta the mass term only adds to what a smaller field has. Up to there the force has at most one zero
        # beside that at phi = 0, since sin is concave.
        if -self.alpha * self.beta**2 <= self.m2:
            return 0.0
        low, high = 0.0, math.pi / self.beta
        while low < (middle := 0.5 * (low + high)) < high:
            falling = self.m2 * middle + self.alpha * self.beta * math.sin(self.beta * middle) < 0
            low, high = (middle, high) if falling else (low, middle)
        return high

    def __call__(self, phi: Tensor) -> Tensor:
        dim = phi.ndim - 1
        density = 0.5 * phi * ((2 * dim + self.m2) * phi - neighbours(phi))
        # 1 - cos(x) = 2 sin(x/2)^2 does not cancel for small x.
        return (density + 2 * self.alpha * torch.sin(0.5 * self.beta * phi).square()).flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        dim = phi.ndim - 1
        return (2 * dim + self.m2) * phi - neighbours(phi) + self.alpha * self.beta * torch.sin(self.beta * phi)

    def describe(self) -> dict[str, Any]:
        return {"name": "sine_gordon", "m2": self.m2, "alpha": self.alpha, "beta": self.beta}

    def label(self, dim: int) -> tuple[str, str]:
        """``"Sine-Gordon"`` and the parameters."""
        values = {"m²": self.m2, "α": self.alpha, "β": self.beta}
        return "Sine-Gordon", ", ".join(f"{name} = {number_text(value)}" for name, value in values.items())

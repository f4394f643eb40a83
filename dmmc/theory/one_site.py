"""A theory of one degree of freedom, solved by quadrature: the truth for toy models.

Everything is an integral over one number, by the trapezoidal rule, which converges faster than any power of the spacing
for smooth functions that vanish at the ends. With ``phi_s = phi_0 + s eps`` and ``v = s^2`` the density of the noisy
field and its score are

    p_v(phi)  = int dphi_0 p(phi_0) Normal(phi - phi_0; 0, v)        (a convolution)
    s_v(phi)  = d ln p_v / dphi = -E[ S'(phi_0) | phi_v = phi ].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.theory.actions import Action, check_differentiable, check_scalar
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

CUT = 45.0
"""``S - min S`` at the ends of the grid, where exp(-S) no longer counts: exp(-45) is 3e-20."""

WIDEST = 1e6
"""Largest half-width of a grid that is tried."""

REACH = 9.0
"""Standard deviations of the noise that count: exp(-9^2 / 2) is 3e-18."""


@dataclass(frozen=True)
class OneSite:
    """The theory ``exp(-S) / Z`` of one number.

    Args:
        action: the action, of fields ``(n, 1)``, with a gradient.
        n: number of points of the grid.

    Raises:
        DmmcError: if the action is not of a scalar field with a gradient, or does not grow towards infinity.
    """

    action: Action
    n: int = 2001

    lattice = Lattice((1,))

    def __post_init__(self) -> None:
        check_scalar(self.action, "the solution of one site")
        check_differentiable(self.action, "the exact score")
        object.__setattr__(self, "n", check_count(self.n, "n", 101))

    @cached_property
    def grid(self) -> Tensor:
        """Equally spaced values of the field, ``(n,)``; beyond them the density vanishes."""
        half_width = 1.0
        while half_width < WIDEST:
            phi = torch.linspace(-half_width, half_width, self.n, dtype=torch.float64, device="cpu")
            S = self._S(phi)
            if float(torch.minimum(S[0], S[-1]) - S.min()) > CUT:
                return phi
            half_width *= 1.25
        raise DmmcError(f"exp(-S) does not vanish at |phi| = {half_width:.3g}; the action must grow towards infinity")

    @cached_property
    def log_z(self) -> float:
        """``ln int dphi exp(-S)``."""
        return float(torch.logsumexp(-self._S(self.grid), 0)) + math.log(self._spacing)

    def log_density(self, phi: Tensor) -> Tensor:
        """``ln p`` at values ``(m,)``."""
        return -self._S(phi) - self.log_z

    def moments(self, highest: int) -> list[float]:
        """``<phi>, <phi^2>, ..., <phi^highest>``."""
        weight = self.log_density(self.grid).exp() * self._spacing
        return [float((weight * self.grid**k).sum()) for k in range(1, highest + 1)]

    def quantiles(self, u: Tensor) -> Tensor:
        """Fields ``(m, 1)`` below which the theory is with probabilities u ``(m,)``.

        Uniform random u give independent draws. The midpoints of m equal intervals give an ensemble that stands for
        the theory up to errors of order 1/m in place of ``1/sqrt(m)``.
        """
        # The integral of the trapezoids from one point of the grid to the next.
        p = self.log_density(self.grid).exp().numpy()
        below = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))]) * self._spacing
        phi = np.interp(u.double().numpy(), below / below[-1], self.grid.numpy())
        return torch.from_numpy(phi).view(-1, 1)

    def noised(self, phi: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """``ln p_v`` and the score at values ``(m,)`` of the field with noise of variance v.

        Raises:
            DmmcError: if v is negative.
        """
        if not v >= 0:
            raise DmmcError(f"the variance of the noise must not be negative, got {v}")
        phi, sigma = phi.double().view(-1, 1), math.sqrt(v)
        if sigma < 4 * self._spacing:  # narrower than the grid resolves: integrate over the noise
            xi = torch.linspace(-REACH, REACH, 145, dtype=torch.float64, device="cpu")
            phi_0 = phi + sigma * xi
            exponent = -self._S(phi_0) - 0.5 * xi.square()
            log_measure = math.log(float(xi[1] - xi[0]) / math.sqrt(2 * math.pi))
        else:
            reach = float(self.grid[-1])
            if sigma < 0.5 * reach:  # far out the noisy field comes from beyond the grid
                reach = max(reach, float(phi.abs().max()) + REACH * sigma)
            points = torch.arange(-math.ceil(reach / self._spacing), math.ceil(reach / self._spacing) + 1, device="cpu")
            phi_0 = (self._spacing * points.double()).unsqueeze(0)
            exponent = -self._S(phi_0) - (phi - phi_0).square() / (2 * v)
            log_measure = math.log(self._spacing / math.sqrt(2 * math.pi * v))
        total = torch.logsumexp(exponent, 1)
        mean_force = ((exponent - total.unsqueeze(1)).exp() * self._force(phi_0)).sum(1)
        return total + log_measure - self.log_z, -mean_force

    @property
    def _spacing(self) -> float:
        return float(self.grid[1] - self.grid[0])

    def _S(self, phi: Tensor) -> Tensor:
        return evaluate(self.action, phi.reshape(-1, 1)).view(phi.shape)

    def _force(self, phi: Tensor) -> Tensor:
        return force(self.action, phi.reshape(-1, 1)).view(phi.shape)

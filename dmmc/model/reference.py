"""The noise process ``phi_s = phi_0 + s eps`` and its Gaussian reference.

All linear algebra of a Gaussian field with propagator C(p) is diagonal in momentum and done exactly. With noise
variance ``v = s^2`` (the time variable throughout):

* ``D_v = C / (C + v)``: Wiener filter, the Gaussian-optimal denoiser;
* ``P_v = v D_v``: posterior covariance of ``phi_0`` given ``phi_s``;
* prior at ``v_max``: ``Normal(mean, C + v_max)``.

Integrals over v are done in ``t = ln(v + v_offset)``, which starts at v = 0 exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory import momenta
from dmmc.theory.actions import Action, differentiable
from dmmc.theory.evaluation import CHUNK, stored_forces
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class GaussianReference:
    """A Gaussian field of given mean and propagator, with the noise levels that suit it.

    The components of a field, if it has any, are independent of each other and have the same mean and propagator.

    Args:
        lattice: the lattice.
        propagator: connected C(p) of each momentum orbit, ``(n_orbits,)`` float64, positive.
        mean: uniform expectation of the field; 0 unless one sector of a broken phase is modelled.
        v_max: largest noise variance; 0 stands for the default, ``10 max_p C(p)``.
        v_offset: scale below which noise is too small to matter; 0 stands for the default, the smallest C(p).

    Raises:
        DmmcError: on a propagator of the wrong type or shape or with values that are not positive and finite, or other
            arguments that are not numbers in their range.
    """

    lattice: Lattice
    propagator: Tensor
    mean: float = 0.0
    v_max: float = 0.0
    v_offset: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("v_max", self.v_max), ("v_offset", self.v_offset)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (name != "mean" and value < 0):
                raise DmmcError(
                    f"{name} of a reference must be a finite number{' >= 0' * (name != 'mean')}; got {value!r}"
                )
        if isinstance(self.propagator, Tensor) and not self.propagator.dtype.is_floating_point:
            raise DmmcError(f"propagator must be real floating point, got {self.propagator.dtype}")
        with torch.inference_mode(False):  # autograd refuses tensors that were made in inference mode
            c = torch.as_tensor(self.propagator, device="cpu").detach().to(torch.float64, copy=True)
        n = momenta.n_orbits(self.lattice.shape)  # not of the orbits themselves, which may be too many to list
        if c.shape != (n,):
            raise DmmcError(
                f"propagator must have shape ({n},), one value for each momentum orbit; got {tuple(c.shape)}"
            )
        if not bool((torch.isfinite(c) & (c > 0)).all()):
            raise DmmcError("propagator must be positive and finite at every momentum; use more configurations")
        object.__setattr__(self, "propagator", c)
        object.__setattr__(self, "mean", float(self.mean))
        object.__setattr__(self, "v_max", float(self.v_max or 10 * c.max()))
        object.__setattr__(self, "v_offset", float(self.v_offset or c.min()))
        if not 0 < self.log_range < math.inf:
            raise DmmcError(f"v_max = {self.v_max} and v_offset = {self.v_offset} of a reference are too far apart")

    @classmethod
    def measure(
        cls,
        phi: Tensor,
        lattice: Lattice,
        connected: bool = False,
        action: Action | None = None,
        forces: Tensor | None = None,
    ) -> GaussianReference:
        """The reference of an ensemble ``phi``, ``(n, *lattice)``.

        Args:
            phi: fields.
            lattice: their lattice.
            connected: whether to measure the mean field and subtract it, as for one sector of a broken phase and for
                every theory without the symmetry phi -> -phi; else the mean is 0 by symmetry.
            action: reduces the statistical error of C, which a model cannot train away: by partial integration
                ``<phi(-p) dS/dphi(p)> = 1``, so this is a control variate of ``|phi(p)|^2``. For a free field
                it makes C exact. An action without a gradient is of no use here.
            forces: dS/dphi of the fields, ``(n, *lattice)``, where they are known; the action is not called then.

        Raises:
            DmmcError: if ``phi`` is not a finite ensemble on ``lattice`` with at least two fields.
        """
        lattice.check(phi, "ensemble")
        if len(phi) < 2:
            raise DmmcError(f"a propagator needs at least 2 configurations, got {len(phi)}")
        mean, action = float(phi.double().mean()) if connected else 0.0, differentiable(action)
        if forces is None and action is not None:
            forces = stored_forces(action, phi)
        square, product, n = [], [], lattice.n_components
        for start in range(0, len(phi), CHUNK):
            field = phi[start : start + CHUNK].double() - mean
            square.append(lattice.two_point(field) / n)
            if forces is not None:
                gradient = lattice.to_modes(forces[start : start + CHUNK].double())
                modes = lattice.to_modes(field)
                along = modes.real * gradient.real + modes.imag * gradient.imag
                product.append(lattice.orbit_mean(along if lattice.components is None else along.mean(1)))
        x = torch.cat(square)
        c = x.mean(0)
        if forces is not None:
            y = torch.cat(product)
            spread = y - y.mean(0)
            slope = ((x - c) * spread).mean(0) / spread.square().mean(0)
            c = c - slope * (y.mean(0) - 1)
        return cls(lattice, c, mean)

    def c(self, like: Tensor) -> Tensor:
        """C(p) on the stored modes, ``half``, in the real dtype and on the device of ``like``."""
        return self.lattice.spread(self.propagator).to(device=like.device, dtype=like.real.dtype)

    def level(self, v: Tensor) -> Tensor:
        """Position of noise variance ``v`` on the scale ``ln(v + v_offset)``, 0 at v = 0 and 1 at v_max."""
        return torch.log1p(v / self.v_offset) / self.log_range

    def variance(self, level: Tensor) -> Tensor:
        """Inverse of :meth:`level`."""
        return self.v_offset * torch.expm1(level * self.log_range)

    @property
    def log_range(self) -> float:
        """``ln((v_max + v_offset) / v_offset)``: the length of the integration interval in t."""
        return math.log1p(self.v_max / self.v_offset)

    def log_normaliser(self) -> float:
        """``1/2 sum_p log C(p)``, the log-determinant of the square root of the covariance."""
        per_component = 0.5 * float((self.lattice.orbit_size * self.propagator.log()).sum())
        return per_component * self.lattice.n_components

    def describe(self) -> dict[str, Any]:
        """Everything but the values of the propagator, as JSON values."""
        return {"mean": self.mean, "v_max": self.v_max, "v_offset": self.v_offset}


def wiener(c: Tensor, v: Tensor) -> Tensor:
    """``D_v = C / (C + v)``, ``(*v.shape, *half)``."""
    v = v.reshape(*v.shape, *(1,) * c.ndim)
    return c / (c + v)


def posterior_covariance(c: Tensor, v: Tensor) -> Tensor:
    """``P_v = v C / (C + v)``, ``(*v.shape, *half)``."""
    v = v.reshape(*v.shape, *(1,) * c.ndim)
    return v * c / (c + v)

"""What a model has learned of complex Langevin dynamics, and how far it is from what is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core.linalg import inverse
from dmmc.gallery.complex_laws import log_gaussian, precision
from dmmc.gallery.distances import DensityError, ScoreError, relative_error
from dmmc.gallery.few_numbers import flow_of
from dmmc.model.diffusion_model import DiffusionModel


@dataclass(frozen=True)
class Average:
    """An average over P, measured by a sampler.

    Attributes:
        observable: which one.
        sampler: how it was sampled.
        exact: value: that of the complex weight, or zero for a balance.
        value: measured.
        error: its standard error.
    """

    observable: str
    sampler: str
    exact: float
    value: float
    error: float

    @property
    def z(self) -> float:
        """The deviation in standard errors."""
        return (self.value - self.exact) / self.error


@dataclass(frozen=True)
class Learned:
    """One model.

    Attributes:
        name: of the model.
        lam: its quartic coupling.
        model: the diffusion model.
        data: fields ``(n, 2)`` that it has learned from.
        proposed: fields ``(m, 2)`` that it generates.
        averages: what all samplers give.
    """

    name: str
    lam: float
    model: DiffusionModel
    data: Tensor
    proposed: Tensor
    averages: tuple[Average, ...]


def learned_score(model: DiffusionModel, phi: Tensor, v: float) -> Tensor:
    """The score ``(n, 2)`` of a model at points ``(n, 2)``."""
    return model.score(phi.unsqueeze(2), math.sqrt(v)).squeeze(2)


def square(half_widths: tuple[float, float], n: int = 101) -> Tensor:
    """Points ``(n * n, 2)`` of a grid around zero, x first."""
    x, y = (torch.linspace(-half_width, half_width, n, dtype=torch.float64, device="cpu") for half_width in half_widths)
    return torch.cartesian_prod(x, y)


def gaussian_score_error(model: DiffusionModel, tau: float) -> ScoreError:
    """The learned score of the Gaussian model at time tau against that of P."""
    v = float(model.reference.variance(torch.tensor(1 - tau, dtype=torch.float64, device="cpu")))
    widths = (inverse(precision()).diagonal() + v).sqrt()
    phi = square((6 * float(widths[0]), 6 * float(widths[1])))
    log_p, exact = log_gaussian(phi, v)
    reference = -phi / (float(model.reference.propagator[0]) + v)
    learned = learned_score(model, phi, v)
    return ScoreError(tau, v, relative_error(log_p, exact, learned), relative_error(log_p, exact, reference))


def gaussian_density_error(model: DiffusionModel) -> DensityError:
    """The density of the flow of the Gaussian model against P, by quadrature."""
    widths = inverse(precision()).diagonal().sqrt()
    half_widths = (6 * float(widths[0]), 6 * float(widths[1]))
    phi = square(half_widths)
    cell = 4 * half_widths[0] * half_widths[1] / 100**2
    return DensityError.of(log_gaussian(phi, 0.0)[0], flow_of(model).log_q(phi.unsqueeze(2)), cell)

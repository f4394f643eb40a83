"""The toy models of the gallery: single and double well, their models, and how far these are from the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.rng import child_seed
from dmmc.gallery.distances import DensityError, ScoreError, relative_error
from dmmc.gallery.exhibit import Request
from dmmc.gallery.few_numbers import flow_of
from dmmc.gallery.one_number import trained
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.runs.run import StoredRun
from dmmc.theory.one_site import OneSite
from dmmc.theory.phi4 import Phi4

COUPLING = 0.4
WELLS = {"single well": 1.0, "double well": -1.0}
"""``mu^2`` of each, in ``S = mu^2/2 phi^2 + g/4! phi^4`` with g = 0.4: the toy models of 2309.17082."""

V_MAX = 100.0
"""Noise variance of the prior, in which both wells drown: its action is nearly constant on them."""

V_OFFSET = 0.3
"""Noise variance below which little changes: about a quarter of the variance within a well of either theory."""


@dataclass(frozen=True)
class Toy:
    """A well, the model of it, and what was made with the model.

    Attributes:
        name: of the well.
        theory: the exact solution.
        model: the model.
        generated: fields ``(n,)`` of the reverse process by kind, not exact.
        chain: of the exact Metropolis chain.
    """

    name: str
    theory: OneSite
    model: DiffusionModel
    generated: dict[str, Tensor]
    chain: StoredRun

    @property
    def mass2(self) -> float:
        """``mu^2``."""
        return WELLS[self.name]

    @property
    def fields(self) -> NDArray[np.float64]:
        """Fields ``(n,)`` of the exact chain."""
        return self.chain.cfgs().ravel()


def well(mass2: float, coupling: float = COUPLING) -> OneSite:
    """``S = mass2/2 phi^2 + coupling/4! phi^4`` on one site.

    There every neighbour is the site itself, so that it is phi^4 theory with ``lam = coupling/24`` and
    ``2 kappa = 1 - 2 lam - mass2/2``.
    """
    lam = coupling / 24
    return OneSite(Phi4(kappa=0.5 * (1 - 2 * lam - 0.5 * mass2), lam=lam))


def model_of(name: str, request: Request) -> DiffusionModel:
    """The model of a well, trained or read; exhibits share it in the folder ``models`` of the gallery."""
    options = TrainingOptions(
        steps=200 if request.quick else 3000,
        fields_per_level=32 if request.quick else 256,
        learning_rate=0.1,  # the output is linear in the weights
        average=0.2,
        trajectories=2,
        seed=child_seed(request.seed, "gallery", "models", name),
    )
    size = "-quick" if request.quick else ""
    path = request.gallery / "models" / f"{name.replace(' ', '-')}{size}-seed{request.seed}.safetensors"
    return trained(well(WELLS[name]), path, options, request, v_max=V_MAX, v_offset=V_OFFSET)


def variance(model: DiffusionModel, tau: float) -> float:
    """The variance of the noise at time tau."""
    return float(model.reference.variance(torch.tensor(1 - tau, dtype=torch.float64, device="cpu")))


def where(theory: OneSite, v: float, n: int = 501) -> Tensor:
    """Values of the field ``(n,)`` beyond which the density with noise of variance v vanishes."""
    end = math.hypot(float(theory.grid[-1]), 6 * math.sqrt(v))
    return torch.linspace(-end, end, n, dtype=torch.float64, device="cpu")


def learned_score(model: DiffusionModel, phi: Tensor, v: float) -> Tensor:
    """The score of a model at values ``(n,)``."""
    return model.score(phi.view(-1, 1), math.sqrt(v)).flatten()


def score_error(theory: OneSite, model: DiffusionModel, tau: float) -> ScoreError:
    """The learned score at time tau against that of the numerical convolution."""
    v = variance(model, tau)
    phi = where(theory, v)
    log_p, exact = theory.noised(phi, v)
    gaussian = -phi / (float(model.reference.propagator[0]) + v)
    learned = learned_score(model, phi, v)
    return ScoreError(tau, v, relative_error(log_p, exact, learned), relative_error(log_p, exact, gaussian))


def density_error(theory: OneSite, model: DiffusionModel) -> DensityError:
    """The density of the flow against the exact one."""
    phi = where(theory, 0.0)
    log_q = flow_of(model).log_q(phi.view(-1, 1))
    return DensityError.of(theory.log_density(phi), log_q, float(phi[1] - phi[0]))

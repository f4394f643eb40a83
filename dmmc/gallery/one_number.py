"""Models of one degree of freedom: a network of splines, and its training on the exact distribution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmmc.core.rng import permutation, stream
from dmmc.gallery.exhibit import Request
from dmmc.gallery.few_numbers import fitted
from dmmc.model import splines
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network, refuse_context, register_network
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference, wiener
from dmmc.theory.one_site import OneSite

ENSEMBLE = 100_000
"""Fields of a training ensemble."""


@register_network("one-number")
class OneNumberNetwork(Network):
    """``D N = D (v + v_offset)^(-1/2) f(u, level)`` of one number, odd, where f is a tensor product of cubic splines.

    The argument ``u = phi_s / sqrt(C + v)`` has unit variance, and f is of order one at every noise level, since the
    interaction decays like the width of the noise once that smears its structure. The output is linear in the weights,
    so that the loss has a single minimum.

    Args:
        reference: the Gaussian reference, of one site.
        n_splines: number of splines in u, on ``[-width, width]``; beyond it f goes on as a straight line.
        knots: number of splines in the noise level.
        width: in standard deviations.
    """

    odd = True

    def __init__(self, reference: GaussianReference, n_splines: int = 32, knots: int = 10, width: float = 4.0) -> None:
        super().__init__(reference)
        self._config: dict[str, Any] = {"n_splines": n_splines, "knots": knots, "width": width}
        self.width = width
        self.level_intervals = knots - splines.DEGREE
        self.coefficients = nn.Parameter(torch.zeros(knots, n_splines, device="cpu"))
        self.slope = nn.Parameter(torch.zeros(knots, 1, device="cpu"))

    def config(self) -> dict[str, Any]:
        return self._config

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        refuse_context(self, context)
        reference = self.reference
        c, per_level = reference.c(modes), v.view(-1, *(1,) * (modes.ndim - 1))
        u = self.lattice.to_sites(modes * (c + per_level).rsqrt())
        values = splines.basis(0.5 * (u / self.width + 1), self.coefficients.shape[1])
        level = splines.basis(reference.level(v).to(u), len(self.coefficients))
        # f(u) - f(-u), since the splines are symmetric to each other.
        odd = level @ (self.coefficients - self.coefficients.flip(1))
        f = torch.einsum("gk,g...k->g...", odd, values) + (level @ self.slope).view_as(per_level) * u
        scale = wiener(c, v).view(len(v), *(1,) * (modes.ndim - 1 - c.ndim), *c.shape)
        return scale * (per_level + reference.v_offset).rsqrt() * self.lattice.to_modes(f)


def trained(
    theory: OneSite, path: Path, options: TrainingOptions, request: Request, *, v_max: float, v_offset: float
) -> DiffusionModel:
    """The model of a symmetric theory of one number, trained on its quantiles and its force.

    Args:
        theory: the theory.
        path: the model file.
        options: of the training.
        request: of the exhibit.
        v_max: noise variance of the prior.
        v_offset: noise variance below which nothing changes, about the square of the width of a well.
    """
    u = (torch.arange(ENSEMBLE, dtype=torch.float64, device="cpu") + 0.5) / ENSEMBLE
    order = permutation(ENSEMBLE, stream(options.seed, "order of the quantiles"))
    phi = theory.quantiles(u)[order].float()
    reference = GaussianReference.measure(phi, theory.lattice, action=theory.action)
    reference = replace(reference, v_max=v_max, v_offset=v_offset)
    start = DiffusionModel.untrained(reference, theory.action, "one-number")
    return fitted(path, start, theory.action, phi, options, request)

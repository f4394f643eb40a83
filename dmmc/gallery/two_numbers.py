"""Models of two numbers, such as the real and imaginary part of a complexified degree of freedom."""

from __future__ import annotations

from collections.abc import Sequence
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
from dmmc.theory.lattice import Lattice

LATTICE = Lattice((1,), components=2)

PRIOR = 300
"""Variance of the prior in units of that of the wider component."""


@register_network("two-numbers")
class TwoNumbersNetwork(Network):
    """A linear map and two hidden layers from ``(x, y)`` to ``D N``, odd.

    Arguments are ``u_i = phi_i / sqrt(scale_i^2 + v)``, and outputs ``D (scale_i^2 + v)^(-1/2) f_i(u, level)``, so that
    both are of order one at every noise level and in either direction.

    Args:
        reference: the Gaussian reference, of one site and two components.
        scales: standard deviations of the two components.
        width: of the hidden layers; 0 for the linear map alone.
        knots: number of splines in the noise level, of which the linear map consists.
    """

    odd = True
    scales: Tensor

    def __init__(
        self, reference: GaussianReference, scales: Sequence[float] = (1.0, 1.0), width: int = 32, knots: int = 10
    ) -> None:
        super().__init__(reference)
        self._config: dict[str, Any] = {"scales": list(scales), "width": width, "knots": knots}
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32, device="cpu"))
        self.level_intervals = knots - splines.DEGREE
        self.linear = nn.Parameter(torch.zeros(knots, 2, 2, device="cpu"))
        self.first, self.second, self.last = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2, False)
        nn.init.zeros_(self.last.weight)

    def config(self) -> dict[str, Any]:
        return self._config

    def _hidden(self, u: Tensor, level: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(torch.cat([u, level], -1))))))

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        refuse_context(self, context)
        v = v.to(self.scales)
        unit = (self.scales.square() + v.view(-1, 1, 1)).rsqrt()
        u = self.lattice.to_sites(modes).squeeze(-1) * unit  # (G, n, 2)
        level = self.reference.level(v)
        told = (3 * (2 * level - 1)).view(-1, 1, 1).expand(*u.shape[:2], 1)
        matrix = torch.einsum("gk,kij->gij", splines.basis(level, len(self.linear)), self.linear)
        f = u @ matrix + self._hidden(u, told) - self._hidden(-u, told)
        d = wiener(self.reference.c(modes), v).view(-1, 1, 1)
        return self.lattice.to_modes((d * unit * f).unsqueeze(-1))


def trained(
    phi: Tensor, path: Path, options: TrainingOptions, request: Request, config: dict[str, Any]
) -> DiffusionModel:
    """The model of data ``(n, 2, 1)`` with the symmetry ``phi -> -phi`` and without any action.

    Args:
        phi: fields of an ensemble.
        path: the model file.
        options: of the training.
        request: of the exhibit.
        config: of the network, but for its scales, which are measured.
    """
    phi = phi[permutation(len(phi), stream(options.seed, "order of the ensemble"))].float()
    scales = phi.double().square().mean(0).sqrt().flatten()
    # The prior is isotropic, and the flow keeps what its two variances are wrong by: about 1 / PRIOR of them. Below the
    # variance of the narrower component there is little structure left.
    v_max, v_offset = PRIOR * float(scales.max().square()), float(scales.min().square()) / 4
    reference = replace(GaussianReference.measure(phi, LATTICE), v_max=v_max, v_offset=v_offset)
    settings = {"scales": scales.tolist(), **config}
    start = DiffusionModel.untrained(reference, None, "two-numbers", settings, symmetry="z2")
    return fitted(path, start, None, phi, options, request)

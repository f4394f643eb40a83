"""A dense network for a few parameters, with an exact trace of its Jacobian.

The mathematics of :mod:`dmmc.model.interaction` on a lattice of one site; the Gaussian reference of the D parameters y
is the unit Gaussian, and there is no symmetry to respect. With matrices A, A2, W, O, O2, Lin and biases b1, b2 that are
smooth functions of the noise variance v, and ``h(z) = z / sqrt(1 + z^2)``,

    u   = y_s / sqrt(1 + v)                             D parameters of unit variance
    h1  = h(A u + b1)                                   F1 channels
    h2  = h(W h1 + A2 u + b2)                           F2 channels
    D N = (O h1 + O2 h2 + Lin u) / sqrt(1 + v)

and the trace of the Jacobian of D N is exact at the cost of the network itself:

    (1 + v) tr = tr Lin + sum_f h1'_f (A O)_ff + sum_f h2'_f [(A2 O2)_ff + sum_g W_fg (A O2)_gf h1'_g]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.model import splines
from dmmc.model.layers import activation
from dmmc.model.network import Network, register_network
from dmmc.model.reference import GaussianReference
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class DenseSize:
    """Numbers that fix the shape of every parameter of a dense network.

    Attributes:
        hidden1: F1, channels of the first layer.
        hidden2: F2, channels of the second layer.
        level_knots: splines in the noise level.
    """

    hidden1: int = 48
    hidden2: int = 48
    level_knots: int = 8

    def __post_init__(self) -> None:
        for name, minimum in (("hidden1", 1), ("hidden2", 1), ("level_knots", splines.DEGREE + 1)):
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum))


def unit_gaussian(n_parameters: int) -> GaussianReference:
    """The reference of a dense network: ``n_parameters`` independent numbers of mean 0 and variance 1."""
    lattice = Lattice((n_parameters,))
    return GaussianReference(lattice, torch.ones(len(lattice.orbit_modes), dtype=torch.float64, device="cpu"))


@register_network("dense")
class DenseNetwork(Network):
    """The network of this module's formulas.

    Args:
        reference: a unit Gaussian on a lattice ``(D,)``: propagator 1 at every momentum, mean 0.
        size: numbers of channels and knots.
        generator: source of the random initial weights; by default one of a fixed seed. The maps out of the layers
            start at zero, so an untrained network is the Gaussian reference exactly.

    Raises:
        DmmcError: if ``reference`` is another Gaussian.
    """

    def __init__(
        self, reference: GaussianReference, size: DenseSize | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(reference)
        if reference.lattice.dim != 1 or reference.mean != 0 or not bool((reference.propagator == 1).all()):
            raise DmmcError("a dense network needs a unit Gaussian reference: one axis, propagator 1, mean 0")
        self.size = DenseSize() if size is None else size
        generator = rng.stream(0, "network") if generator is None else generator
        self.level_intervals = self.size.level_knots - splines.DEGREE
        d, f1, f2, k = reference.lattice.volume, self.size.hidden1, self.size.hidden2, self.size.level_knots

        def normal(*shape: int, std: float) -> nn.Parameter:
            one_level = rng.normal((1, *shape), generator, torch.float32, "cpu") * std
            return nn.Parameter(one_level.expand(k, *shape).clone())

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(k, *shape, dtype=torch.float32, device="cpu"))

        self.a1 = normal(f1, d, std=1.5 / math.sqrt(d))
        self.b1 = normal(f1, std=0.7)
        self.w = normal(f2, f1, std=1.0 / math.sqrt(f1))
        self.a2 = normal(f2, d, std=0.5 / math.sqrt(d))
        self.b2 = normal(f2, std=0.3)
        self.o1 = zeros(d, f1)
        self.o2 = zeros(d, f2)
        self.lin = zeros(d, d)

    def config(self) -> dict[str, Any]:
        return asdict(self.size)

    @classmethod
    def from_config(
        cls, reference: GaussianReference, config: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> DenseNetwork:
        return cls(reference, DenseSize(**config), generator)

    @classmethod
    def n_weights(cls, lattice: Lattice, config: Mapping[str, Any]) -> int:
        size, d = DenseSize(**config), lattice.volume
        f1, f2 = size.hidden1, size.hidden2
        return size.level_knots * (2 * d * (f1 + f2) + f1 * f2 + f1 + f2 + d * d)

    def _matrices(self, v: Tensor) -> dict[str, Tensor]:
        """The matrices and biases at noise variances ``v`` ``(G,)``, each ``(G, ...)``: one product for all."""
        level = splines.basis(self.reference.level(v), self.size.level_knots)
        names, values = zip(*self.named_parameters(), strict=True)
        flat = level @ torch.cat([value.flatten(1) for value in values], 1)
        parts = flat.split([value[0].numel() for value in values], 1)
        return {name: part.view(-1, *p.shape[1:]) for name, part, p in zip(names, parts, values, strict=True)}

    def _layers(self, modes: Tensor, v: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        m = self._matrices(v)
        u = self.lattice.to_sites(modes) * (1 + v).rsqrt().view(-1, 1, 1)
        h1, r1 = activation(torch.baddbmm(m["b1"].unsqueeze(1), u, m["a1"].mT))
        h2, r2 = activation(torch.baddbmm(m["b2"].unsqueeze(1), u, m["a2"].mT).baddbmm(h1, m["w"].mT))
        out = (u @ m["lin"].mT).baddbmm(h1, m["o1"].mT).baddbmm(h2, m["o2"].mT)
        return m, r1, r2, self.lattice.to_modes(out * (1 + v).rsqrt().view(-1, 1, 1))

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        return self._layers(modes, v)[3]

    def with_trace(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """D N as in :meth:`forward`, and the trace of its Jacobian, ``(G, n)`` float64."""
        m, r1, r2, drift = self._layers(modes, v)
        slope1, slope2 = r1 * r1 * r1, r2 * r2 * r2
        first = (m["a1"] * m["o1"].mT).sum(-1, keepdim=True)
        second = (m["a2"] * m["o2"].mT).sum(-1).unsqueeze(1)
        coupling = m["w"] * (m["a1"] @ m["o2"]).mT
        trace = (slope1 @ first).squeeze(-1) + (slope2 * (second + slope1 @ coupling.mT)).sum(-1)
        constant = m["lin"].diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        return drift, (trace + constant).double() / (1 + v.double()).unsqueeze(1)

"""The interaction network N(phi_s, s): two nonlinear layers, with an exact and cheap divergence.

In momentum space let ``R_i(p) D_v(p) / rms_i(v)``, i = 1..B, be a bank of learned radial filters, each scaled to
unit Gaussian standard deviation, and ``Q_i(p) D_v(p) / rms_i(v)`` a second one. With site-wise matrices A, A2, O, O2,
Lin and shell kernels W_b that are smooth functions of the noise level,

    u    = R D phi_s / rms                                  B filtered copies of the field
    h1   = h(A u + b1)                                      F1 channels; h(z) = z / sqrt(1 + z^2)
    h2   = h(sum_b W_b S_b h1 + A2 u + b2)                  F2 channels; S_b sums over the b-th shell of neighbours
    D N  = (Q D / rms)^T [O h1 + O2 h2 + Lin u]

(the biases b exist only where the model is not odd). With ``G_ij(x) = 1/V sum_p Q_i R_j D^2 e^{ipx} / (rms_i rms_j)``
and ``h'(z) = (1 + z^2)^(-3/2)``, the trace of the Jacobian of D N is a sum of products of h1', h2' at sites one shell
apart:

    tr = V sum_ij Lin_ij G_ij(0) + sum_y sum_f h1'_f(y) [O^T G(0) A]_ff + sum_y sum_f h2'_f(y) [O2^T G(0) A2^T]_ff
       + sum_b sum_y sum_fg h2'_f(y) W_b,fg [O2^T G(x_b) A^T]_fg (S_b h1'_g)(y)

at about the cost of one more forward pass. A third nonlinear layer would not have this property.

This is written for a scalar field. For one with N components, u and h are vectors, the network is equivariant under
O(N), and the trace is as exact (:mod:`dmmc.model.layers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.graphs import Graphs
from dmmc.core.scalars import check_count
from dmmc.model import shells, splines
from dmmc.model.cuda.flow import GraphedFlow
from dmmc.model.cuda.layers import FusedLayers, TorchLayers
from dmmc.model.layers import ScalarLayers, SiteLayers, VectorLayers
from dmmc.model.memo import LevelMemo, Prepared
from dmmc.model.network import Network, refuse_context, register_network
from dmmc.model.reference import GaussianReference, wiener
from dmmc.model.transport import Transport, has_triton, works_for
from dmmc.theory.lattice import Lattice

SIZES = {
    "tiny": {"filters": 4, "hidden1": 4, "hidden2": 4},
    "small": {"filters": 4, "hidden1": 8, "hidden2": 8},
    "medium": {"filters": 4, "hidden1": 16, "hidden2": 12},
    "large": {"filters": 6, "hidden1": 48, "hidden2": 32},
}
"""The sizes that have a name, from the cheapest to the best. A proposal of the large network takes ten to fifteen times
as long as one of the tiny network, and the acceptance is little better where the theory is easy or the training short.
"""

USUAL = "small"
"""The size of a network of which nothing else is said."""

TINY_UP_TO = 4096
"""Numbers in a scalar field up to which an effective sample costs least with the tiny network.

Measured in phi^4 theory with a correlation length of a quarter of the lattice, at equal training time, on 16 x 16,
32 x 32 and 64 x 64 (docs/cost.md). Beyond, nothing is known but that acceptance counts for more and more.
"""

SMALL_UP_TO = 2048
"""Numbers in a field up to which the small network is taken where the tiny one is not; above, it is the medium one."""

LONGEST = 1 << 16
"""Longest distance of a shell."""


@dataclass(frozen=True)
class NetworkSize:
    """The numbers that fix the shape of every parameter of an :class:`InteractionNetwork`.

    The defaults are those of the size :data:`USUAL`.

    Attributes:
        filters: B, copies of the filtered field.
        hidden1: F1, channels of the first layer.
        hidden2: F2, channels of the second layer.
        shells: the neighbour shells of the second layer, each a sorted tuple of distances along distinct axes:
            () is the site itself, (1,) the nearest neighbours, (1, 1) the plane diagonals, (2,) two steps.
            Shells that need more axes than the lattice has are left out.
        level_knots: number of splines in the noise level.
        radial_knots: number of splines in ``ln(phat^2 + const)``.
        odd: whether there are no biases, so that N(-phi) = -N(phi) exactly. Fields with components have none.
    """

    filters: int = SIZES[USUAL]["filters"]
    hidden1: int = SIZES[USUAL]["hidden1"]
    hidden2: int = SIZES[USUAL]["hidden2"]
    shells: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1))
    level_knots: int = 8
    radial_knots: int = 8
    odd: bool = True

    def __post_init__(self) -> None:
        for name in ("filters", "hidden1", "hidden2"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))
        for name in ("level_knots", "radial_knots"):
            object.__setattr__(self, name, check_count(getattr(self, name), name, splines.DEGREE + 1))
        kinds = tuple(tuple(sorted(check_count(m, "a distance of shells") for m in kind)) for kind in self.shells)
        if len(set(kinds)) != len(kinds) or not kinds or any(m > LONGEST for kind in kinds for m in kind):
            raise DmmcError(f"shells must be distinct tuples of distances from 1 to {LONGEST}, got {self.shells}")
        if not isinstance(self.odd, bool):
            raise DmmcError(f"odd must be true or false, got {self.odd!r}")
        object.__setattr__(self, "shells", kinds)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> NetworkSize:
        """The sizes that :meth:`describe` gave; JSON has lists for their tuples."""
        fields = dict(config)
        if "shells" in fields:
            fields["shells"] = tuple(tuple(kind) for kind in fields["shells"])
        return cls(**fields)

    def describe(self) -> dict[str, Any]:
        """The sizes as JSON values."""
        return asdict(self)


@register_network("interaction")
class InteractionNetwork(Network):
    """The network of this module's formulas for one Gaussian reference.

    Args:
        reference: the Gaussian field whose filters D_v scale inputs and outputs.
        size: numbers of channels, knots and shells.
        generator: source of the random initial weights; by default one of a fixed seed. The maps to the output
            start at zero, so that N = 0: an untrained network is the Gaussian reference exactly.

    Attributes:
        fused: whether to run the site-wise layers through torch.compile; the numbers are the same up to rounding.

    Raises:
        DmmcError: if a network for a field with components is not odd.
    """

    _multiplicity: Tensor
    _radial_basis: Tensor

    def __init__(
        self, reference: GaussianReference, size: NetworkSize | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(reference)
        size = NetworkSize() if size is None else size
        self.size = size
        self.odd = size.odd
        self.equivariant = reference.lattice.components is not None
        if self.equivariant and not size.odd:
            raise DmmcError(
                "an interaction network for a field with components has no biases, and is for theories with the "
                'symmetry "o_n" alone; for others use a network of your own, such as a SiteNetwork'
            )
        self.level_intervals = size.level_knots - splines.DEGREE
        generator = rng.stream(0, "network") if generator is None else generator
        lattice = reference.lattice
        self._layers: SiteLayers = (
            ScalarLayers(lattice.dim) if lattice.components is None else VectorLayers(lattice.dim, lattice.components)
        )
        candidates = (shells.displacements(distances, lattice.dim) for distances in size.shells)
        self.shells = tuple(shell for shell in candidates if shell)
        # Where extents differ, G(x) differs between the axes, and the trace needs each class of axes by itself.
        self._parts = tuple((k, part) for k, shell in enumerate(self.shells) for part in shells.classes(shell, lattice))
        k, b, f1, f2 = size.level_knots, size.filters, size.hidden1, size.hidden2

        n_sites = [shells.n_sites(shell) for shell in self.shells]

        def normal(*shape: int, std: float) -> nn.Parameter:
            one_level = rng.normal((1, *shape), generator, torch.float32, "cpu") * std
            return nn.Parameter(one_level.expand(k, *shape).clone())

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(k, *shape, dtype=torch.float32, device="cpu"))

        self.radial_in = nn.Parameter(self._initial_bank())
        self.radial_out = nn.Parameter(self._initial_bank())
        self.a1 = normal(f1, b, std=1.0 / math.sqrt(b))
        self.a2 = normal(f2, b, std=0.5 / math.sqrt(b))
        self.w = nn.Parameter(
            torch.cat([normal(1, f2, f1, std=0.7 / math.sqrt(f1 * len(self.shells) * n)) for n in n_sites], 1)
        )
        self.o1 = zeros(b, f1)
        self.o2 = zeros(b, f2)
        self.lin = zeros(b, b)
        if not size.odd:
            self.b1 = normal(f1, std=0.3)
            self.b2 = zeros(f2)
        radial = splines.basis(self._radial_argument(), size.radial_knots)
        self.register_buffer("_radial_basis", radial, persistent=False)
        self.register_buffer("_multiplicity", lattice.multiplicity.float(), persistent=False)
        self._memo = LevelMemo()
        self._graphs = Graphs()

    def config(self) -> dict[str, Any]:
        return self.size.describe()

    @classmethod
    def from_config(
        cls, reference: GaussianReference, config: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> InteractionNetwork:
        """The network of a :class:`NetworkSize` given by its fields.

        Raises:
            DmmcError: if the sizes are not possible.
        """
        return cls(reference, NetworkSize.of(config), generator)

    @classmethod
    def n_weights(cls, lattice: Lattice, config: Mapping[str, Any]) -> int:
        size = NetworkSize.of(config)
        b, f1, f2 = size.filters, size.hidden1, size.hidden2
        n_shells = sum(len(distances) <= lattice.dim for distances in size.shells)
        biases = 0 if size.odd else f1 + f2
        per_level = 2 * b * (f1 + f2) + b * b + n_shells * f1 * f2 + biases
        return size.level_knots * per_level + 2 * b * (size.radial_knots + 1)

    @classmethod
    def oddness(cls, odd: bool) -> dict[str, Any]:
        return {"odd": odd}

    @classmethod
    def sizes(cls) -> Mapping[str, Mapping[str, Any]]:
        return SIZES

    @classmethod
    def usual_size(cls, lattice: Lattice, precise: bool = False) -> str:
        if not precise and lattice.components is None and lattice.n_numbers <= TINY_UP_TO:
            return "tiny"
        return "small" if lattice.n_numbers <= SMALL_UP_TO else "medium"

    @property
    def operations(self) -> int | None:
        b, f1, f2 = self.size.filters, self.size.hidden1, self.size.hidden2
        return 2 * (2 * b * (f1 + f2) + b * b + 2 * len(self.shells) * f1 * f2)

    def identity(self) -> dict[str, Any]:
        """The shells, if they are not the default ones; shapes and values of the weights determine the rest."""
        return {} if self.size.shells == NetworkSize().shells else {"shells": self.size.shells}

    def moved_to(self, reference: GaussianReference) -> InteractionNetwork:
        """A start for another lattice or coupling: the same filters in p, and matrices refitted in the noise level."""
        network = InteractionNetwork(reference, self.size).to(device=self.device, dtype=self.dtype)
        network.load_state_dict(self.coefficients_for(reference))
        return network

    @property
    def _level_parameters(self) -> list[str]:
        return ["a1", "a2", "w", "o1", "o2", "lin"] + ([] if self.size.odd else ["b1", "b2"])

    def _radial_argument(self) -> Tensor:
        # ln(phat^2 + c) resolves the infrared; on every lattice the same momentum has the same argument, so that a
        # bank of filters moves from one lattice size to another.
        low, top = 0.02, 4.0 * self.lattice.dim
        return (torch.log(self.lattice.phat2 + low) - math.log(low)).float() / math.log((top + low) / low)

    def _initial_bank(self) -> Tensor:
        # Filter 1 is the field itself; the others are low-pass filters of ever longer range. Last column: p = 0.
        n, b = self.size.radial_knots, self.size.filters
        knots = torch.linspace(0, 1, n, dtype=torch.float32, device="cpu")
        rows = [torch.ones(n + 1, dtype=torch.float32, device="cpu")]
        for i in range(1, b):
            edge = 1.0 - i / b
            values = torch.sigmoid((edge - knots) * 8)
            rows.append(torch.cat([values, values[:1]]))
        return torch.stack(rows)

    def _bank(self, coefficients: Tensor) -> Tensor:
        bank = torch.einsum("...k,bk->b...", self._radial_basis, coefficients[:, :-1])
        zero = torch.zeros_like(bank[:1])
        zero[(0, *(0,) * self.lattice.dim)] = 1.0
        return bank * (1 - zero) + zero * coefficients[:, -1].reshape(-1, *(1,) * self.lattice.dim)

    def filters(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """``R D / rms`` and ``Q D / rms`` at noise variances ``v`` ``(G,)``: two tensors ``(G, B, *half)``."""
        d = wiener(self._c, v).unsqueeze(1)
        r = self._bank(self.radial_in).unsqueeze(0)
        q = self._bank(self.radial_out).unsqueeze(0)
        mean_square = (r.square() * d * self._c * self._multiplicity).sum(self.lattice.axes, keepdim=True)
        scale = d * torch.rsqrt(mean_square / self.lattice.volume + 1e-12)
        return r * scale, q * scale

    def matrices(self, v: Tensor) -> dict[str, Tensor]:
        """The site-wise matrices at noise variances ``v`` ``(G,)``, each ``(G, ...)``."""
        level = splines.basis(self.reference.level(v), self.size.level_knots)
        at_levels = {}
        for name in self._level_parameters:
            parameter: Tensor = getattr(self, name)
            at_levels[name] = (level @ parameter.flatten(1)).view(len(v), *parameter.shape[1:])
        return at_levels

    def coefficients_for(self, reference: GaussianReference) -> dict[str, Tensor]:
        """The state dictionary of the same functions of the noise variance v, for another reference.

        Beyond the range of v of this network, its value at the end of the range is used.
        """
        level = torch.linspace(0, 1, 200, dtype=torch.float64, device=self.device)
        old = self.reference.level(reference.variance(level))
        coefficients = dict(self.state_dict())
        for name in self._level_parameters:
            coefficients[name] = splines.refit(coefficients[name], old, self.size.level_knots)
        return coefficients

    def _prepared(self, kind: str, v: Tensor, compute: Callable[[Tensor], Prepared]) -> Prepared:
        return self._memo.get(kind, v, (*self.parameters(), *self.buffers()), compute)

    def _at_levels(self, v: Tensor) -> Prepared:
        """Filters ``r`` and ``q`` and the site-wise matrices at noise variances ``v`` ``(G,)``."""
        r, q = self.filters(v)
        return {"r": r, "q": q, **self.matrices(v)}

    def _trace_at_levels(self, v: Tensor) -> Prepared:
        """The coefficients of the formula for the trace at noise variances ``v`` ``(G,)``."""
        return self._trace_of(self._prepared("drift", v, self._at_levels))

    def _trace_of(self, m: Prepared) -> Prepared:
        volume = self.lattice.volume
        gram = self.lattice.to_sites(m["q"].unsqueeze(2) * m["r"].unsqueeze(1) + 0j) / math.sqrt(volume)
        here = gram.flatten(3)[..., 0]
        coupling = [
            m["w"][:, k] * (m["o2"].mT @ gram.flatten(3)[..., shells.site_index(part, self.lattice)] @ m["a1"].mT)
            for k, part in self._parts
        ]
        return {
            "constant": self.lattice.n_numbers * torch.einsum("gij,gij->g", m["lin"], here),
            "first": torch.einsum("gif,gij,gfj->gf", m["o1"], here, m["a1"]),
            "second": torch.einsum("gif,gij,gfj->gf", m["o2"], here, m["a2"]),
            "coupling": torch.stack(coupling, 1),
        }

    def _drift(self, modes: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``D N``, and what the trace needs of both layers."""
        m = self._prepared("drift", v, self._at_levels)
        per_field = (*m["r"].shape[:2], *(1,) * (modes.ndim - 1 - self.lattice.dim), *self.lattice.half)
        u = self.lattice.to_sites(m["r"].view(per_field) * modes.unsqueeze(1))
        first, second, out = self._layers.apply(u, m, self.shells, self.fused)
        return (m["q"].view(per_field) * self.lattice.to_modes(out.view(u.shape))).sum(1), first, second

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        refuse_context(self, context)
        return self._drift(modes, v)[0]

    def with_trace(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``D N`` as in :meth:`forward`, and the trace of its Jacobian, ``(G, n)`` float64."""
        refuse_context(self, context)
        drift, first, second = self._drift(modes, v)
        t = self._prepared("trace", v, self._trace_at_levels)
        parts = tuple(part for _, part in self._parts)
        fields = torch.Size((modes.shape[1], *self.lattice.shape))
        trace = self._layers.trace(first, second, t, parts, fields)
        return drift, trace + t["constant"].double().unsqueeze(1)

    def transport(self) -> Transport | None:
        # A subclass may compute something else than this class.
        if type(self) is not InteractionNetwork or not works_for(self.device, self.dtype):
            return None
        if self.device.type != "cpu":
            return self.graphed_flow()
        if self.equivariant:
            return None
        from dmmc.model.compiled import flow  # which loads Numba

        def at_levels(v: Tensor) -> Prepared:
            matrices = (self._at_levels(one) for one in v.to(self.dtype).split(1))
            return flow.coefficients(self.reference, self._parts, v, [(m, self._trace_of(m)) for m in matrices])

        return flow.CompiledFlow(self.lattice, self._parts, lambda v: self._prepared("flow", v, at_levels))

    def graphed_flow(self, triton: bool | None = None) -> GraphedFlow:
        """The flow as a CUDA graph, with coefficients that are computed once for all levels.

        Args:
            triton: whether the site-wise layers are Triton kernels, which there are for scalar fields in float32; by
                default where these kernels can be used.
        """
        if triton is None:
            triton = self.dtype == torch.float32 and not self.equivariant and has_triton()

        def at_levels(v: Tensor) -> tuple[Prepared, Prepared]:
            m = self._at_levels(v)
            return m, self._trace_of(m)

        layers = (
            FusedLayers(self.lattice, self._parts)
            if triton
            else TorchLayers(self.lattice, self._layers, self.shells, self._parts)
        )
        weights = (*self.parameters(), *self.buffers())
        return GraphedFlow(self.reference, at_levels, layers, weights, self._graphs)

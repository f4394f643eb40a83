"""The site-wise layers of the interaction network, and what they contribute to the trace of its Jacobian.

Channels z of a scalar field pass through ``h(z) = z / sqrt(1 + z^2)``, with the slope ``h'(z) = r^3``. Those of a field
with N components are vectors, which are kept parallel to themselves so that the network is equivariant under O(N)::

    h^a = r z^a,    r = 1 / sqrt(1 + |z|^2),    J^ab = dh^a / dz^b = r (delta^ab - h^a h^b),

and where slopes of the two layers meet in the trace, it is the trace of a product over the components:
``h2' h1'`` becomes ``sum_ab J2^ab J1^ba``. Matrices act on the channels alone. With N = 1 this is the scalar case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.model import shells

Matrices = dict[str, Tensor]


class _Activation(torch.autograd.Function):
    # Written by hand, since autograd would save and revisit every intermediate of what is one memory-bound sweep.
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        r = torch.rsqrt(z.square().add_(1))
        ctx.save_for_backward(z, r)
        return z * r, r

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_r: Tensor | None) -> Tensor:
        z, r = ctx.saved_tensors
        if grad_h is None:
            grad_h = torch.zeros_like(z)
        if grad_r is not None:
            grad_h = grad_h - z * grad_r
        return r.square().mul_(r).mul_(grad_h)


def activation(z: Tensor) -> tuple[Tensor, Tensor]:
    """``h(z) = z / sqrt(1 + z^2)`` and ``r = 1 / sqrt(1 + z^2)``; the slope of h is ``r^3``."""
    h, r = _Activation.apply(z)
    return h, r


def vector_activation(z: Tensor, fields: tuple[int, ...]) -> Tensor:
    """``h = z / sqrt(1 + |z|^2)`` of channels ``(G, F, n N V)``, with ``fields = (n, N)``."""
    vectors = z.view(*z.shape[:2], *fields, -1)
    return (vectors * torch.rsqrt(vectors.square().sum(3, keepdim=True) + 1)).view_as(z)


def shell_layer(h: Tensor, w: Tensor, which: tuple[shells.Shell, ...], fields: tuple[int, ...], dim: int) -> Tensor:
    """``sum_k W_k S_k h``.

    Args:
        h: ``(G, F1, n V)``, or what else has the lattice as its last axes, flattened.
        w: ``(G, len(which), F2, F1)``.
        which: the shells.
        fields: the shape of what is flattened in h, ``(n, *lattice)``.
        dim: how many of these axes are the lattice's.
    """
    mixed = (w.flatten(1, 2) @ h).view(*w.shape[:3], *fields)
    return shells.shell_sum(mixed, which, dim).flatten(2)


class SiteLayers(Protocol):
    """The site-wise part of the network, for fields of one kind."""

    def apply(
        self, u: Tensor, m: Matrices, which: tuple[shells.Shell, ...], fused: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The two hidden layers and ``O h1 + O2 h2 + Lin u``.

        Args:
            u: filtered fields ``(G, B, n, *lattice)``.
            m: matrices, ``(G, ...)`` each.
            which: the shells.
            fused: whether to run through torch.compile.

        Returns:
            what :meth:`trace` needs of each layer, and the output ``(G, B, ...)``, flattened.
        """
        ...

    def trace(
        self, first: Tensor, second: Tensor, t: Matrices, parts: tuple[shells.Shell, ...], fields: torch.Size
    ) -> Tensor:
        """The part of the trace that depends on the field, ``(G, n)`` float64.

        Args:
            first, second: what :meth:`apply` returned of the layers.
            t: coefficients of the formula: ``first`` and ``second`` ``(G, channels)``, and ``coupling``.
            parts: the shells of the coupling.
            fields: the shape of the fields, ``(n, *lattice)``.
        """
        ...


@dataclass(frozen=True)
class ScalarLayers:
    """The layers of a scalar field on a lattice of ``dim`` axes; of each layer, the trace needs r."""

    dim: int

    def apply(
        self, u: Tensor, m: Matrices, which: tuple[shells.Shell, ...], fused: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        layers = _fused_scalar_layers() if fused else scalar_layers
        return layers(u, m, which, self.dim)

    def trace(
        self, first: Tensor, second: Tensor, t: Matrices, parts: tuple[shells.Shell, ...], fields: torch.Size
    ) -> Tensor:
        slope1, slope2 = first * first * first, second * second * second
        coupled = shell_layer(slope1, t["coupling"], parts, fields, self.dim) + t["second"].unsqueeze(-1)
        per_site = (slope2 * coupled).sum(1) + (t["first"].unsqueeze(1) @ slope1).squeeze(1)
        return per_site.view(len(per_site), fields[0], -1).sum(-1, dtype=torch.float64)


def scalar_layers(u: Tensor, m: Matrices, which: tuple[shells.Shell, ...], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :meth:`ScalarLayers.apply` computes; r of both layers and the output are ``(G, channels, n V)``."""
    flat = u.flatten(2)
    z1 = m["a1"] @ flat
    z2 = m["a2"] @ flat
    if "b1" in m:
        z1 = z1 + m["b1"].unsqueeze(-1)
        z2 = z2 + m["b2"].unsqueeze(-1)
    h1, r1 = activation(z1)
    h2, r2 = activation(z2 + shell_layer(h1, m["w"], which, u.shape[2:], dim))
    return r1, r2, m["lin"] @ flat + m["o1"] @ h1 + m["o2"] @ h2


@functools.cache
def _fused_scalar_layers() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(scalar_layers, dynamic=False)


@dataclass(frozen=True)
class VectorLayers:
    """The layers of a field with components on a lattice of ``dim`` axes; of each layer, the trace needs z.

    There are no biases, since no constant vector is invariant under O(N).
    """

    dim: int
    components: int

    def apply(
        self, u: Tensor, m: Matrices, which: tuple[shells.Shell, ...], fused: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        layers = _fused_vector_layers() if fused else vector_layers
        return layers(u, m, which, self.dim)

    def trace(
        self, first: Tensor, second: Tensor, t: Matrices, parts: tuple[shells.Shell, ...], fields: torch.Size
    ) -> Tensor:
        (n, *lattice), components = fields, self.components
        slope1, slope2 = (self._slopes(z.view(*z.shape[:2], n, components, -1)) for z in (first, second))
        pairs = slope1.shape[3]
        coupled = shell_layer(slope1.flatten(2), t["coupling"], parts, (n, pairs, *lattice), self.dim).view_as(slope2)
        coupled[:, :, :, :components] += t["second"].view(*t["second"].shape, 1, 1, 1)
        coupled[:, :, :, components:] *= 2  # each element off the diagonal of a symmetric matrix stands for two
        alone = t["first"].unsqueeze(1) @ slope1[:, :, :, :components].sum(3).flatten(2)
        per_site = (slope2 * coupled).sum((1, 3)).flatten(1) + alone.squeeze(1)
        return per_site.view(len(per_site), n, -1).sum(-1, dtype=torch.float64)

    def _slopes(self, z: Tensor) -> Tensor:
        """``J^ab`` for a <= b, those with a = b first: ``(G, F, n, N, V)`` to ``(G, F, n, N (N + 1) / 2, V)``."""
        square = z.square()
        length = square.sum(3, keepdim=True).add_(1)
        r = length.rsqrt()
        a, b = torch.triu_indices(self.components, self.components, 1, device=z.device)
        return torch.cat([length - square, -z[:, :, :, a] * z[:, :, :, b]], 3).mul_(r * r * r)


def vector_layers(u: Tensor, m: Matrices, which: tuple[shells.Shell, ...], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :meth:`VectorLayers.apply` computes; z of both layers and the output are ``(G, channels, n N V)``."""
    fields, flat = u.shape[2:], u.flatten(2)
    z1 = m["a1"] @ flat
    h1 = vector_activation(z1, fields[:2])
    z2 = m["a2"] @ flat + shell_layer(h1, m["w"], which, fields, dim)
    return z1, z2, m["lin"] @ flat + m["o1"] @ h1 + m["o2"] @ vector_activation(z2, fields[:2])


@functools.cache
def _fused_vector_layers() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(vector_layers, dynamic=False)

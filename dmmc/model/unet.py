"""A compact U-Net, the kind of network of Wang, Aarts, Zhou, JHEP 05 (2024) 060 (arXiv 2309.17082).

It has no tractable density. It predicts the score of the noisy field of a variance-expanding process. The time of that
paper, with ``sigma^2 = (b^(2t) - 1) / (2 ln b)``, is in other units the noise level of
:class:`dmmc.model.reference.GaussianReference`, where b is so large that the noise exceeds the field at every momentum.
Trained on fields alone (``action=None``), the loss
of :mod:`dmmc.model.loss` is denoising score matching with its usual weight.

Published codes of this kind have faults that bias what they generate, whatever the network has learned:

* zero padding of convolutions, which breaks the periodicity of the lattice; here they are circular;
* fields that are normalised by their minimum and maximum over the ensemble, which depend on its size; here by their
  variance;
* a largest sigma below that of the zero mode, ``sqrt(V <M^2>)``, so that generation begins with too small a
  magnetisation; here ``sigma_max^2 = 10 max_p C(p)``, and generation begins with the covariance ``C + sigma_max^2``;
* generation that ends at a least sigma, which leaves this noise on the field; here nothing is singular at sigma = 0,
  where training and generation end.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmmc.core.errors import DmmcError
from dmmc.core.rng import normal
from dmmc.core.scalars import check_count
from dmmc.model.network import refuse_context, register_network
from dmmc.model.reference import GaussianReference
from dmmc.model.sites import SiteNetwork

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Predicts = Literal["score", "interaction"]


class FourierTime(nn.Module):
    """Sines and cosines of the time with fixed Gaussian frequencies (Tancik et al., 2006.10739), and a layer."""

    frequencies: Tensor

    def __init__(self, features: int, width: float = 4.0) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", width * normal((features // 2,), torch.default_generator, torch.get_default_dtype())
        )
        self.layer = nn.Linear(features, features)

    def forward(self, time: Tensor) -> Tensor:
        """Features ``(m, features)`` of times ``(m,)``."""
        phase = 2 * math.pi * time[:, None] * self.frequencies
        return functional.silu(self.layer(torch.cat([phase.sin(), phase.cos()], dim=1)))


class Block(nn.Module):
    """Two circular convolutions with group norm, the time added between them, and the way round them."""

    def __init__(self, dim: int, inputs: int, channels: int, features: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(min(groups, inputs), inputs), nn.GroupNorm(groups, channels)
        self.first, self.second = _convolution(dim, inputs, channels), _convolution(dim, channels, channels)
        self.time = nn.Linear(features, channels)
        self.round = nn.Identity() if inputs == channels else _convolution(dim, inputs, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``(n, inputs, *lattice)`` to ``(n, channels, *lattice)``, with features of the time ``(n, features)``."""
        h = self.first(functional.silu(self.norm1(x)))
        h = h + self.time(time).view(*h.shape[:2], *(1,) * (h.ndim - 2))
        return self.round(x) + self.second(functional.silu(self.norm2(h)))


class UNetBody(nn.Module):
    """The U-Net: on every scale a block on the way down and one on the way up, which sees the former too.

    Args:
        dim: number of dimensions, 1 to 3.
        fields: number of channels that come in and go out.
        channels: of the finest scale; the others have twice as many.
        scales: number of scales, each half as fine as the one before.
        features: of the time.
        groups: of the group norms.
    """

    def __init__(self, dim: int, fields: int, channels: int, scales: int, features: int, groups: int) -> None:
        super().__init__()
        widths = [channels if k == 0 else 2 * channels for k in range(scales)]
        self.time = FourierTime(features)
        self.enter = _convolution(dim, fields, channels)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            self.down.append(Block(dim, widths[max(k - 1, 0)], width, features, groups))
        for k in reversed(range(scales - 1)):
            self.up.append(Block(dim, widths[k + 1] + widths[k], widths[k], features, groups))
        self.leave = _convolution(dim, channels, fields)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Fields of the shape of ``x``, ``(m, fields, *lattice)``, at times ``(m,)``."""
        features, h, seen = self.time(time), self.enter(x), []
        for k, block in enumerate(self.down):
            h = block(h if k == 0 else _coarser(h), features)
            seen.append(h)
        for block, finer in zip(self.up, reversed(seen[:-1]), strict=True):
            h = block(torch.cat([_finer(h), finer], dim=1), features)
        return self.leave(functional.silu(h))


@register_network("unet")
class UNet(SiteNetwork):
    """A U-Net as a network of a diffusion model.

    It has no tractable density: its fields are proposals of the path kernel, which is exact with any network, or of
    :meth:`dmmc.model.diffusion_model.DiffusionModel.backward`, which is not exact.

    Args:
        reference: the Gaussian field; its largest noise is that of the process.
        channels: channels on the finest scale, a multiple of ``groups``.
        scales: number of scales; the extents of the lattice must be multiples of ``2^(scales - 1)``.
        features: features of the time, an even number.
        groups: groups of the group norms.
        predicts: ``score``, as in the paper: the output is the score in units of ``(sigma^2 + sigma_0^2)^(1/2)``, where
            sigma_0 is the scale of the reference below which noise is too small to matter. ``interaction``: the network
            learns only by how much the score differs from that of the Gaussian reference.

    Raises:
        DmmcError: on arguments that do not fit together or to the lattice.
    """

    def __init__(
        self,
        reference: GaussianReference,
        channels: int = 16,
        scales: int = 3,
        features: int = 32,
        groups: int = 4,
        predicts: Predicts = "score",
    ) -> None:
        lattice = reference.lattice
        for name, value in (("channels", channels), ("scales", scales), ("features", features), ("groups", groups)):
            check_count(value, f"{name} of a U-Net")
        if lattice.dim > len(CONVOLUTIONS):
            raise DmmcError(f"a U-Net is for at most {len(CONVOLUTIONS)} dimensions, got {lattice.dim}")
        if channels % groups or features % 2:
            raise DmmcError(
                f"channels of a U-Net must be a multiple of groups, and features even; got {channels}, {groups} and "
                f"{features}"
            )
        if any(extent % 2 ** (scales - 1) or extent < 2**scales for extent in lattice.shape):
            raise DmmcError(
                f"a U-Net with scales = {scales} is for extents that are multiples of {2 ** (scales - 1)}, and at "
                f"least {2**scales}; got {lattice.shape}: take fewer scales"
            )
        if predicts not in ("score", "interaction"):
            raise DmmcError(f"predicts must be score or interaction, got {predicts!r}")
        super().__init__(reference, UNetBody(lattice.dim, lattice.n_components, channels, scales, features, groups))
        self.settings = {
            "channels": channels, "scales": scales, "features": features, "groups": groups, "predicts": predicts
        }  # fmt: skip

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """``D N``, as :meth:`dmmc.model.network.Network.forward`."""
        refuse_context(self, context)
        if self.settings["predicts"] == "interaction":
            return super().forward(modes, v)
        reference, lattice, c = self.reference, self.lattice, self.reference.c(modes)
        variance = lattice.sum_modes(c) / lattice.volume  # <phi(x)^2>
        v = v.to(c)
        unit = v.view(-1, *(1,) * (modes.ndim - 1))
        y = lattice.to_sites(modes)
        seen = y / (variance + unit).sqrt()
        fields = seen.flatten(0, 1)
        fields = fields.unsqueeze(1) if lattice.components is None else fields
        time = reference.level(v).clamp(0, 1).to(fields).repeat_interleave(y.shape[1])
        score = (self.body(fields, time).view(y.shape) - seen) / (reference.v_offset + unit).sqrt()
        return -(lattice.to_modes(score) + modes / (c + unit))

    def config(self) -> dict[str, Any]:
        return dict(self.settings)


def _convolution(dim: int, inputs: int, outputs: int, size: int = 3) -> Any:
    made = CONVOLUTIONS[dim - 1]
    return made(inputs, outputs, size, padding=size // 2, padding_mode="circular")


def _coarser(x: Tensor) -> Tensor:
    """Means of blocks of ``2^dim`` sites."""
    for axis in range(2, x.ndim):
        x = x.unflatten(axis, (-1, 2)).mean(axis + 1)
    return x


def _finer(x: Tensor) -> Tensor:
    for axis in range(2, x.ndim):
        x = x.repeat_interleave(2, axis)
    return x

"""What a flow needs of a network, and the adapter for networks that work on the sites.

The interaction network of :mod:`dmmc.model.interaction` is one drift; any torch module can be another, with a divergence of
:mod:`dmmc.proposals.divergence` that does not need a formula for its trace.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.model.reference import GaussianReference, wiener


class DriftNetwork(nn.Module):
    """The interaction part ``D N`` of a diffusion model, for one Gaussian reference.

    A subclass defines ``forward(modes, v)``: from Fourier modes of ``phi_s - mean``, ``(G, n, *half)`` complex (n
    fields at each of G noise variances ``v``, ``(G,)``), to the modes of ``D N``, the same shape. Fields must not
    see each other (no batch statistics), or the density of one would depend on its neighbours. A subclass may also
    have ``with_trace(modes, v)``, which returns the trace of the Jacobian beside it, ``(G, n)`` float64; with it the
    flow needs no other divergence.

    Args:
        reference: the Gaussian field; the network is for its lattice and its noise levels.

    Attributes:
        odd: whether ``N(-phi) = -N(phi)`` exactly.
        fused: run through torch.compile, for networks that can.
    """

    odd = False
    fused = False
    _c: Tensor

    def __init__(self, reference: GaussianReference) -> None:
        super().__init__()
        self.reference = reference
        self.lattice = reference.lattice
        self.register_buffer("_c", self.lattice.spread(reference.propagator).float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._c.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which it computes."""
        return self._c.dtype

    def describe(self) -> dict[str, Any]:
        """JSON-ready: what, beside the weights, tells this network from others."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", "layers": repr(self)}


class SiteNetwork(DriftNetwork):
    """``D N = (D / rms) body(u, level)`` with ``u = D phi_s / rms``: an ordinary network on the sites.

    Args:
        reference: the Gaussian field.
        body: a module, called with fields ``u`` ``(m, 1, *lattice)`` of unit Gaussian standard deviation and their
            noise level ``(m,)`` in [0, 1]; returns ``(m, 1, *lattice)``. A convolution needs
            ``padding_mode="circular"`` to respect the periodic lattice.
    """

    def __init__(self, reference: GaussianReference, body: nn.Module) -> None:
        super().__init__(reference)
        self.body = body

    def forward(self, modes: Tensor, v: Tensor) -> Tensor:
        """As :class:`DriftNetwork`.

        Raises:
            DmmcError: if ``body`` returns another shape than it was given.
        """
        c = self.reference.c(modes)
        d = wiener(c, v)
        rms = (self.lattice.sum_modes(d * c) / self.lattice.volume).sqrt()  # <|D phi_s|^2> = D^2 (C + v) = D C
        scale = (d / rms.view(-1, *(1,) * c.ndim)).unsqueeze(1)
        u = self.lattice.to_sites(scale * modes)
        level = self.reference.level(v).to(u).repeat_interleave(u.shape[1])
        fields = u.flatten(0, 1).unsqueeze(1)
        out = self.body(fields, level)
        if out.shape != fields.shape:
            raise DmmcError(
                f"the body of a SiteNetwork must keep the shape {tuple(fields.shape)}; got {tuple(out.shape)}"
            )
        return scale * self.lattice.to_modes(out.view(u.shape))

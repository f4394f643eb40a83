"""The adapter that makes a network of an ordinary torch module on the sites."""

from __future__ import annotations

from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.model.network import Network, refuse_context
from dmmc.model.reference import GaussianReference, wiener


class SiteNetwork(Network):
    """``D N = (D / rms) body(u, level)`` with ``u = D phi_s / rms``: an ordinary network on the sites.

    To save one, register a subclass whose arguments are JSON values and make the body of these::

        @register_network("my-cnn")
        class MyCNN(SiteNetwork):
            def __init__(self, reference, channels=16):
                super().__init__(reference, make_body(channels))
                self.channels = channels

            def config(self):
                return {"channels": self.channels}

    Args:
        reference: the Gaussian field.
        body: a module, called with fields ``u`` ``(m, 1, *lattice)`` of unit Gaussian standard deviation and their
            noise level ``(m,)`` in [0, 1]; returns ``(m, 1, *lattice)``. A field with N components has as many channels
            in place of the one. A convolution needs ``padding_mode="circular"`` to respect the periodic lattice.
    """

    def __init__(self, reference: GaussianReference, body: nn.Module) -> None:
        super().__init__(reference)
        self.body = body

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """``D N``, as :meth:`dmmc.model.network.Network.forward`.

        Raises:
            DmmcError: if ``body`` returns another shape than it was given, or there is a context.
        """
        refuse_context(self, context)
        c = self.reference.c(modes)
        d = wiener(c, v)
        rms = (self.lattice.sum_modes(d * c) / self.lattice.volume).sqrt()  # <|D phi_s|^2> = D^2 (C + v) = D C
        scale = d / rms.view(-1, *(1,) * c.ndim)
        scale = scale.view(len(v), *(1,) * (modes.ndim - 1 - c.ndim), *c.shape)
        u = self.lattice.to_sites(scale * modes)
        level = self.reference.level(v).clamp(0, 1).to(u).repeat_interleave(u.shape[1])
        fields = u.flatten(0, 1)
        if self.lattice.components is None:
            fields = fields.unsqueeze(1)
        out = self.body(fields, level)
        if out.shape != fields.shape:
            raise DmmcError(
                f"the body of a SiteNetwork must keep the shape {tuple(fields.shape)}; got {tuple(out.shape)}"
            )
        return scale * self.lattice.to_modes(out.view(u.shape))

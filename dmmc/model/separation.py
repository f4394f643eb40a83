"""Do the fields of a batch see each other in a network?

The density of a proposal must be that of its own field. In a network with batch statistics it would depend on the
neighbours in the batch, and a Metropolis step with it would be wrong.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.core.precision import without_autocast
from dmmc.core.rng import normal, stream
from dmmc.model.initialisation import drawing_from
from dmmc.model.network import Network

LEVELS = (0.3, 0.7)
"""Noise levels at which a network is tried."""

FIELDS = 3
"""Fields at each of them."""

ROUNDING = 1e3
"""Relative changes of an output that rounding may cause, in units of the machine's."""


@torch.no_grad()
@without_autocast()
def check_separate(network: Network) -> None:
    """Refuse a network in which a field of a batch sees the others, as it is and with other weights.

    All fields of a batch but one are changed, and the output for this one has to stay. The weights are changed too,
    since a network often begins with an output that is zero whatever its input is. A copy is tried, in the mode (for
    training or for evaluation) in which the network is.

    Raises:
        DmmcError: if it is one; the message names a layer with batch statistics if there is one.
    """
    trial = copy.deepcopy(network)
    trial.fused = False
    generator = stream(0, "separation")
    reference = network.reference
    level = torch.tensor(LEVELS, dtype=torch.float64, device="cpu")
    v = reference.variance(level)
    white = normal((len(LEVELS), FIELDS, *network.lattice.field_shape), generator)
    spread = reference.c(white) + v.view(-1, *(1,) * (white.ndim - 1))
    modes = (spread.sqrt() * network.lattice.to_modes(white)).to(network.dtype.to_complex()).to(network.device)
    others = modes.clone()
    others[:, 1:] *= -3
    for _ in range(2):
        first, second = (_output(trial, x, v.to(modes.real)) for x in (modes, others))
        scale = max(float(first.abs().max()), float(second.abs().max()))
        change = float((first[:, 0] - second[:, 0]).abs().max())
        if change > ROUNDING * torch.finfo(network.dtype).eps * scale:
            raise DmmcError(
                f"in the {type(network).__name__} the fields of a batch see each other{_likely(trial)}: the density of "
                "a field would depend on the others, and the chain would not be exact. Use layers that treat each "
                "field by itself, such as GroupNorm in place of BatchNorm"
            )
        for parameter in trial.parameters():
            noise = normal(parameter.shape, generator).to(parameter)
            parameter.add_(0.1 * noise * (parameter.square().mean().sqrt() + 0.1))


def _output(network: Network, modes: Tensor, v: Tensor) -> Tensor:
    with drawing_from(stream(0, "separation", "masks")):  # the same masks of dropout each time
        return network(modes, v)


def _likely(network: Network) -> str:
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            mode = "in training mode" if module.training else "without running statistics"
            return f" (the layer {name} is a {type(module).__name__} {mode})"
    return ""

"""The state of a training: weights, their average, the optimiser, the number of steps and the time spent."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.model.history import TrainingRecord
from dmmc.model.loss import Loss, path_loss
from dmmc.model.network import Network
from dmmc.model.options import TrainingOptions


def schedule(peak: float, spent: float) -> float:
    """The learning rate after a share of the budget: a linear warm-up over 5 %, then a cosine to zero."""
    return peak * min(1.0, (spent + 1e-3) / 0.05) * 0.5 * (1 + math.cos(math.pi * spent))


class Trainer:
    """Minimises the loss of a network, which it changes in place.

    Args:
        network: the network that is trained.
        options: budget, learning rate and averaging.
        loss: what is minimised.

    Raises:
        DmmcError: if the network has no parameters.
    """

    def __init__(self, network: Network, options: TrainingOptions, loss: Loss = path_loss) -> None:
        self.options, self.loss = options, loss
        self.network = network.requires_grad_(True).train()
        self.names = [name for name, _ in network.named_parameters()]
        self.parameters = list(network.parameters())
        if not self.parameters:
            raise DmmcError(f"a {type(network).__name__} has no parameters, so there is nothing to train")
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=options.learning_rate, betas=(0.9, 0.99), foreach=True)
        self.step = 0
        self.seconds = 0.0
        self.angles: tuple[float, ...] = ()
        self.curve: list[TrainingRecord] = []

    @property
    def spent(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def update(self, noisy: Tensor, target: Tensor, level: Tensor) -> float:
        """One optimiser step on a batch; returns its loss."""
        rate = schedule(self.options.learning_rate, self.spent)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self.loss(self.network, self.network.reference, noisy, target, level)
        self.optimiser.zero_grad()
        loss.backward()
        with torch.device("cpu"):  # Adam counts its steps on torch's default device, which need not have the weights
            self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def average_in(self, share: float) -> None:
        """Move the averaged weights towards the present ones; ``share`` is the part of the budget of this step."""
        rate = max(share / self.options.average, 1 / (self.step + 1))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], min(1.0, rate))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes with the steps, by name."""
        state: dict[str, Tensor] = {f"buffer.{name}": value for name, value in self._buffers().items()}
        for name, p, mean in zip(self.names, self.parameters, self.average, strict=True):
            state |= {f"weight.{name}": p.detach(), f"average.{name}": mean}
            # A parameter that no loss has depended on yet has no state of the optimiser.
            adam = self.optimiser.state.get(p, {})
            state |= {f"adam.{key}.{name}": value for key, value in adam.items()}
        return {name: value.cpu().contiguous().clone() for name, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the state that :meth:`tensors` gave.

        Raises:
            DmmcError: if a tensor is missing, or has another shape or type; the training is then as it was.
        """

        def stored(name: str, shape: torch.Size, *types: torch.dtype) -> Tensor:
            value = tensors.get(name)
            if value is None:
                raise DmmcError(f"there is no tensor {name!r}")
            if value.shape != shape or value.dtype not in types:
                raise DmmcError(
                    f"the tensor {name!r} has shape {tuple(value.shape)} and type {value.dtype}, and should have "
                    f"{tuple(shape)} and {types[0]}"
                )
            return value

        # Everything is looked at before anything is changed.
        changes = [(x, stored(f"buffer.{name}", x.shape, x.dtype)) for name, x in self._buffers().items()]
        states: dict[Tensor, dict[str, Tensor]] = {}
        for name, p, mean in zip(self.names, self.parameters, self.average, strict=True):
            changes.append((p, stored(f"weight.{name}", p.shape, p.dtype)))
            changes.append((mean, stored(f"average.{name}", p.shape, p.dtype)))
            if f"adam.step.{name}" in tensors:
                states[p] = {"step": stored(f"adam.step.{name}", torch.Size(), torch.float32, torch.float64)}
                for key in ("exp_avg", "exp_avg_sq"):
                    states[p][key] = stored(f"adam.{key}.{name}", p.shape, p.dtype).to(p.device)
        with torch.no_grad():
            for tensor, value in changes:
                tensor.copy_(value)
        self.optimiser.state.update(states)

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to the state of the network."""
        return {name: value for name, value in self.network.state_dict().items() if name not in set(self.names)}

    def averaged_network(self) -> Network:
        """A copy of the network with the averaged weights, ready for use."""
        network = copy.deepcopy(self.network)
        network.fused = False
        with torch.no_grad():
            for p, mean in zip(network.parameters(), self.average, strict=True):
                p.copy_(mean)
        return network.requires_grad_(False).eval()


def trainable_copy(network: Network) -> Network:
    """A copy of a network whose tensors autograd accepts, also if they were made in inference mode."""
    made = copy.deepcopy(network)
    for module in made.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.is_inference():
                setattr(module, name, nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())
    return made

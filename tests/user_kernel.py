"""A kernel as a user of dmmc would write it, with a state of its own.

The guided walk (Gustafson, Statistics and Computing 8 (1998) 357) proposes steps that keep to a direction until one of
them is rejected. The direction is part of the state: together with the fields it has the law ``exp(-S) / (2 Z)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Info, Kernel, State, choose, metropolis, start_state, uniform
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class GuidedState(State):
    """A state with a direction.

    Attributes:
        direction: +1 or -1, ``(n,)``, float64.
    """

    direction: Tensor


@dataclass(frozen=True)
class GuidedInfo(Info):
    """What a step reports, ``(n,)`` each.

    Attributes:
        forward: whether the chain was going up, bool.
    """

    forward: Tensor


@dataclass(frozen=True)
class GuidedWalk(Kernel[GuidedState]):
    """Metropolis steps that move all sites up, or all of them down, each by a random amount.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on.
        width: typical change of a site.
    """

    action: Action
    lattice: Lattice
    width: float = 0.5

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("guided_walk", model_free=True)

    def describe(self):
        return {"name": "guided_walk", "width": self.width}

    def initial(self, n: int, generator: torch.Generator) -> GuidedState:
        return self.start(torch.zeros(n, *self.lattice.shape, dtype=torch.float64), generator)

    def start(self, phi: Tensor, generator: torch.Generator) -> GuidedState:
        state = start_state(self.action, self.lattice, phi, generator.device)
        up = uniform(len(phi), generator, like=state.phi) < 0.5
        return GuidedState(state.phi, state.S, 2 * up.to(state.phi) - 1)

    def restore(self, tensors: Mapping[str, Tensor]) -> GuidedState:
        return GuidedState(**tensors)

    def step(self, state: GuidedState, generator: torch.Generator) -> tuple[GuidedState, GuidedInfo]:
        size = self.width * torch.randn(state.phi.shape, generator=generator, dtype=torch.float64).abs()
        phi = state.phi + state.direction.view(-1, *(1,) * self.lattice.dim) * size
        proposed = GuidedState(phi, self.action(phi), state.direction)
        u = uniform(len(phi), generator, like=phi)
        moved, accepted, rate = metropolis(state, proposed, state.S - proposed.S, u)
        return self.turn(moved, accepted), GuidedInfo(accepted, rate, state.direction > 0)

    def turn(self, state: GuidedState, accepted: Tensor) -> GuidedState:
        """Chains whose proposal was rejected turn round."""
        return choose(accepted, state, GuidedState(state.phi, state.S, -state.direction))

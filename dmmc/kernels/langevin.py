"""Langevin dynamics: stochastic quantisation as a Markov kernel, with and without a Metropolis step.

The Langevin equation in the fictitious time t (Parisi, Wu, Sci. Sin. 24 (1981) 483),

    d phi / dt = -K dS/dphi + eta,    <eta(x, t) eta(y, t')> = 2 K(x - y) delta(t - t'),

has the stationary law ``exp(-S)`` for every positive kernel K. With steps of length h (Euler and Maruyama) it becomes

    phi' = phi - h K dS/dphi(phi) + sqrt(2 h K) eta,    eta standard normal,

whose stationary law is ``exp(-S)`` up to terms of order h. As a proposal that is accepted or rejected it is exact at
any h, and is known as MALA (Roberts, Tweedie, Bernoulli 2 (1996) 341).

With K = 1 the slow modes take ``1 / m^2`` units of time while h is limited by the fast ones. *Fourier acceleration*
(Batrouni et al., Phys. Rev. D 32 (1985) 2736) takes larger steps for slow modes,

    K(p) = (phat^2_max + mass^2) / (phat^2 + mass^2),    K = 1 for the fastest mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import normal
from dmmc.core.scalars import is_finite
from dmmc.kernels.base import Info, Kernel, State, choose, metropolis, start_state, uniform, valid_or_rejected
from dmmc.kernels.hmc import first_fields
from dmmc.theory.actions import Action, check_differentiable, declaration, lattice_of
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

TARGET = 0.574
"""Acceptance at which MALA in many dimensions moves fastest (Roberts, Rosenthal, J. R. Stat. Soc. B 60 (1998) 255)."""


@dataclass(frozen=True)
class LangevinState(State):
    """A state that carries the force of its own fields.

    Attributes:
        force: ``dS/dphi``, of the shape of ``phi``.
    """

    force: Tensor


@dataclass(frozen=True)
class Langevin(Kernel[LangevinState]):
    """One step is one step of the Langevin equation, accepted or rejected.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        step_size: h, positive, in units of the field squared; :meth:`tune` adapts it.
        adjusted: whether steps are accepted or rejected. Without that (Euler and Maruyama) the chain does not sample
            ``exp(-S)``, and is off by a multiple of h, which :func:`dmmc.diagnostics.to_zero_step` takes away.
        mass: of the kernel K of Fourier acceleration, positive; None for K = 1.
        allow_inexact: accept a chain without Metropolis steps, which is then marked inexact everywhere.

    Raises:
        DmmcError: if a number is out of its range, the action has no gradient, or the chain would be inexact and that
            was not allowed.
    """

    action: Action
    lattice: Lattice
    step_size: float
    adjusted: bool = True
    mass: float | None = None
    allow_inexact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        check_differentiable(self.action, "the Langevin equation")
        numbers = {"step_size": self.step_size} | ({} if self.mass is None else {"mass": self.mass})
        for name, value in numbers.items():
            if not (is_finite(value) and value > 0):
                raise DmmcError(f"the {name} of Langevin dynamics must be a positive number, got {value!r}")
        if not self.adjusted and not self.allow_inexact:
            raise DmmcError(
                f"this chain would not sample exp(-S): {self.facts.inexact}; use adjusted=True, or pass "
                "allow_inexact=True, and every output will be marked inexact"
            )

    @classmethod
    def default(cls, action: Action, lattice: Lattice, mass: float | None = None) -> Langevin:
        """Steps of 0.05 for the field in the hopping form; :meth:`tune` adapts them."""
        return cls(action, lattice, 0.05 * declaration(action).scale ** 2, mass=mass)

    @property
    def facts(self) -> KernelFacts:
        if self.adjusted:
            return KernelFacts("langevin", label="MALA", model_free=True)
        error = f"Langevin steps of length {self.step_size:g} without a Metropolis step, which is right up to O(h)"
        return KernelFacts("langevin", label="Langevin", model_free=True, inexact=error)

    @property
    def cost(self) -> dict[str, int]:
        return {"force": 1}

    @property
    def start_cost(self) -> dict[str, int]:
        return {"force": 1}

    def describe(self) -> dict[str, Any]:
        return {"name": "langevin", "step_size": self.step_size, "adjusted": self.adjusted, "mass": self.mass}

    def initial(self, n: int, generator: torch.Generator) -> LangevinState:
        return self.start(first_fields(self.action, self.lattice, n, generator), generator)

    def start(self, phi: Tensor, generator: torch.Generator) -> LangevinState:
        state = start_state(self.action, self.lattice, phi, generator.device)
        return LangevinState(state.phi, state.S, force(self.action, state.phi))

    def restore(self, tensors: Mapping[str, Tensor]) -> LangevinState:
        return LangevinState(**tensors)

    @torch.no_grad()
    def step(self, state: LangevinState, generator: torch.Generator) -> tuple[LangevinState, Info]:
        lattice, h = self.lattice, self.step_size
        root = self._root_kernel(state.phi)
        white = normal(state.phi.shape, generator, device=state.phi.device)
        there = self._drifted(state.phi, state.force, root)
        phi = there + math.sqrt(2 * h) * self._times(root, white)
        proposed = LangevinState(phi, evaluate(self.action, phi), force(self.action, phi))
        if not self.adjusted:
            # A step that ran away is not taken.
            sound = torch.isfinite(valid_or_rejected(-proposed.S, phi))
            return choose(sound, proposed, state), Info(sound, sound.double())
        # Densities of the step and of the step back, in units of the noise: both have the same normalisation.
        back = lattice.to_modes(state.phi - self._drifted(phi, proposed.force, root)) / root
        way_back = lattice.norm2(back) / (2 * h)
        log_ratio = state.S - proposed.S + 0.5 * (white.square().flatten(1).sum(1) - way_back)
        u = uniform(len(phi), generator, like=phi)
        new, accepted, rate = metropolis(state, proposed, valid_or_rejected(log_ratio, phi), u)
        return new, Info(accepted, rate)

    def tune(
        self, state: LangevinState, generator: torch.Generator, n_steps: int = 60
    ) -> tuple[Langevin, LangevinState]:
        """Adapt the step size to an acceptance of 0.574 (Robbins-Monro); without Metropolis steps it stays as it is.

        Args:
            state: where the chains are.
            generator: source of randomness.
            n_steps: steps to spend.
        """
        log_step, tail = math.log(self.step_size), list[float]()
        for t in range(n_steps):
            trial = replace(self, step_size=math.exp(log_step)) if self.adjusted else self
            state, info = trial.step(state, generator)
            if self.adjusted:
                log_step += 2 * (float(info.acceptance_rate.mean()) - TARGET) / math.sqrt(t + 1)
                if 2 * t >= n_steps:
                    tail.append(log_step)
        return (replace(self, step_size=math.exp(sum(tail) / len(tail))) if tail else self), state

    def _root_kernel(self, like: Tensor) -> Tensor:
        """``sqrt(K(p))`` on the stored modes, ``half``."""
        phat2 = self.lattice.phat2.to(like)
        if self.mass is None:
            return torch.ones_like(phat2)
        square = self.mass**2
        return ((phat2.max() + square) / (phat2 + square)).sqrt()

    def _times(self, factor: Tensor, phi: Tensor) -> Tensor:
        """Fields multiplied mode by mode."""
        return phi if self.mass is None else self.lattice.to_sites(factor * self.lattice.to_modes(phi))

    def _drifted(self, phi: Tensor, gradient: Tensor, root: Tensor) -> Tensor:
        """``phi - h K dS/dphi``."""
        return phi - self.step_size * self._times(root.square(), gradient)

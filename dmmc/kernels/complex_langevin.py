"""Complex Langevin dynamics: what is left of stochastic quantisation where the action is complex. It is not exact.

The Langevin equation with a complex drift leads into the complex plane (Parisi, Phys. Lett. B 131 (1983) 393; Klauder,
Acta Phys. Austr. Suppl. 25 (1983) 251), where with real noise

    dx = K_x dt + sqrt(2) dw,    dy = K_y dt,    K_x + i K_y = -dS/dz    at z = x + i y.

It samples a real distribution P(x, y) that nobody knows beforehand. If P falls off fast enough, averages of
holomorphic observables over it are those of the complex weight, ``<O(x + i y)>_P = int dx O exp(-S) / Z`` (Aarts,
Seiler, Stamatescu, Phys. Rev. D 81 (2010) 054508). With no P to put into it there is no Metropolis step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import normal
from dmmc.core.scalars import is_finite
from dmmc.kernels.base import Info, Kernel, State, choose
from dmmc.theory.actions import lattice_of
from dmmc.theory.complex_action import ComplexAction
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class ComplexLangevin(Kernel[State]):
    """One step is one step of Euler and Maruyama of the complex Langevin equation, with real noise.

    Args:
        action: the complex action.
        lattice: the lattice; fields are ``(n, 2, *lattice)``, real and imaginary parts.
        step_size: h, positive; the law that is sampled is off by a multiple of it, which
            :func:`dmmc.diagnostics.to_zero_step` takes away.
        allow_inexact: must be true: the chain does not sample ``exp(-S)``, and is marked inexact everywhere.

    Raises:
        DmmcError: if the step size is out of its range, or the inexact chain was not allowed.
    """

    action: ComplexAction
    lattice: Lattice
    step_size: float
    allow_inexact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        if not (is_finite(self.step_size) and self.step_size > 0):
            raise DmmcError(f"the step_size of Langevin dynamics must be a positive number, got {self.step_size!r}")
        if not self.allow_inexact:
            raise DmmcError(
                f"this chain would not sample exp(-S): {self.facts.inexact}; pass allow_inexact=True, and every output "
                "will be marked inexact"
            )

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts(
            "complex_langevin",
            label="complex Langevin",
            model_free=True,
            inexact=f"complex Langevin steps of length {self.step_size:g}, whose law is not known",
        )

    @property
    def cost(self) -> dict[str, int]:
        return {"force": 1}

    def describe(self) -> dict[str, Any]:
        return {"name": "complex_langevin", "step_size": self.step_size}

    def initial(self, n: int, generator: torch.Generator) -> State:
        """Standard normal real parts, and no imaginary ones."""
        phi = normal((n, *self.lattice.field_shape), generator)
        phi[:, 1] = 0
        return self.start(phi, generator)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        phi, h = state.phi, self.step_size
        noise = normal(phi[:, 0].shape, generator, device=phi.device)
        new = phi + h * self.action.drift(phi)
        new[:, 0] += math.sqrt(2 * h) * noise
        proposed = State(new, evaluate(self.action, new))
        # A step that ran away is not taken.
        sound = torch.isfinite(proposed.S) & torch.isfinite(new).flatten(1).all(1)
        return choose(sound, proposed, state), Info(sound, sound.double())

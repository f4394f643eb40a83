"""Hybrid (Hamiltonian) Monte Carlo: the baseline sampler, and the usual source of training ensembles.

Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216. One step draws Gaussian momenta pi, follows
``H = pi^2 / 2 + S(phi)`` with the leapfrog integrator, and accepts the end of the trajectory with probability
``min(1, exp(-dH))``, each chain by itself.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.graphs import Graphs
from dmmc.core.rng import normal, signs, uniform
from dmmc.diagnostics.energy import DIVERGED
from dmmc.kernels.base import Info, Kernel, State, metropolis, start_state
from dmmc.kernels.step_size import MAX_STEPS, tune_step_size
from dmmc.theory.actions import Action, check_differentiable, declaration, lattice_of
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

LENGTH = 4.0
"""Trajectory length for the hopping-form field.

In two dimensions at correlation lengths of 4 to 11 it takes 2 to 4.5 times fewer forces for an independent M^2 than the
customary length 1: each refreshment of the momenta within one oscillation of the slowest mode turns its motion into a
random walk.
"""

NEGLIGIBLE = 50.0
"""No chain begins at a uniform field whose S is larger than that of its mirror image by more than this."""


_RECORDED = Graphs()
"""The trajectories that have been recorded on GPUs."""


@dataclass(frozen=True)
class HMCInfo(Info):
    """What a trajectory reports, ``(n,)`` each.

    Attributes:
        energy_error: dH, float64; ``inf`` where the trajectory overflowed. In equilibrium ``<exp(-dH)> = 1`` (Creutz,
            Phys. Rev. D 38 (1988) 1228).
        energy: H at the start of the trajectory.
        diverging: whether dH is above :data:`~dmmc.diagnostics.energy.DIVERGED` or not finite.
        step_size: the leapfrog step of the trajectory.
        n_steps: leapfrog steps of the trajectory, int64.
    """

    energy_error: Tensor
    energy: Tensor
    diverging: Tensor
    step_size: Tensor
    n_steps: Tensor


@dataclass(frozen=True)
class HMC(Kernel[State]):
    """HMC for any action with a gradient. All chains advance together, in float64.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        step_size: leapfrog step, positive, in the units in which the momenta have unit variance.
        n_leapfrog: leapfrog steps per trajectory, which is also the number of gradient evaluations.
        jitter: each chain draws the step size of each trajectory uniformly from ``step_size (1 -+ jitter)``, with
            ``0 <= jitter < 1``. Modes whose period matches a fixed trajectory length would return to where they began,
            and a nearly free field would not thermalise (Mackenzie, Phys. Lett. B 226 (1989) 369).
        target_acceptance: the acceptance to which :meth:`tune` adapts the step size.

    Raises:
        DmmcError: if a number is out of its range, or the action has no gradient.
    """

    action: Action
    lattice: Lattice
    step_size: float
    n_leapfrog: int
    jitter: float = 0.2
    target_acceptance: float = 0.8

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise DmmcError(f"step_size must be a positive number, got {self.step_size}")
        if self.n_leapfrog < 1 or self.n_leapfrog != int(self.n_leapfrog):
            raise DmmcError(f"n_leapfrog must be a positive integer, got {self.n_leapfrog}")
        if not 0 <= self.jitter < 1:
            raise DmmcError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        if not 0 < self.target_acceptance < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        check_differentiable(self.action)
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))

    @classmethod
    def default(cls, action: Action, lattice: Lattice, length: float = LENGTH) -> HMC:
        """Steps of 0.1 for a trajectory of ``length``, both for a field in the hopping form; :meth:`tune` adapts them.

        A field scaled by c oscillates c times slower under momenta of unit variance, so length and step are multiplied
        by the ``scale`` that the action declares.

        Raises:
            DmmcError: if ``length`` is not a positive number, or more than 100.
        """
        if not (math.isfinite(length) and length > 0):
            raise DmmcError(f"the trajectory length must be a positive number, got {length}")
        if 10 * length > MAX_STEPS:
            raise DmmcError(
                f"the trajectory length must be at most {MAX_STEPS / 10:g}, which takes {MAX_STEPS} leapfrog "
                f"steps; got {length}"
            )
        n_leapfrog = max(1, round(10 * length))
        step_size = declaration(action).scale * length / n_leapfrog
        return cls(action, lattice, step_size=step_size, n_leapfrog=n_leapfrog)

    @property
    def length(self) -> float:
        """Trajectory length ``n_leapfrog * step_size``."""
        return self.n_leapfrog * self.step_size

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("hmc", label="HMC", model_free=True)

    @property
    def cost(self) -> dict[str, int]:
        return {"force": self.n_leapfrog}

    def describe(self) -> dict[str, Any]:
        return {"name": "hmc", "step_size": self.step_size, "n_leapfrog": self.n_leapfrog, "jitter": self.jitter}

    def initial(self, n: int, generator: torch.Generator) -> State:
        phi = first_fields(self.action, self.lattice, n, generator)
        return start_state(self.action, self.lattice, phi, generator.device)

    @torch.no_grad()
    def trajectory(self, phi: Tensor, pi: Tensor, step: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Integrate the equations of motion from ``(phi, pi)``; reversible and volume-preserving.

        The leapfrog begins and ends with half a step of phi rather than of pi. That takes ``n_leapfrog`` gradients, one
        fewer than the other order, with an error of the same size.

        Args:
            phi: fields ``(n, *lattice)``.
            pi: their momenta, of the same shape.
            step: step size, a number or ``(n,)``; ``step_size`` by default.

        On a GPU, the trajectory of an action that declares itself ``recordable`` is launched as a CUDA graph.

        Returns:
            Fields and momenta at the end; the arguments are left alone.
        """
        step = torch.as_tensor(self.step_size if step is None else step, dtype=phi.dtype, device=phi.device)
        step = step.view(-1, *[1] * (phi.ndim - 1))
        work = functools.partial(leapfrog, self.action, self.n_leapfrog)
        if phi.device.type == "cpu" or not declaration(self.action).recordable:
            return work(phi, pi, step)
        key = (self.action, self.n_leapfrog, phi.shape, step.shape, phi.dtype, phi.device)
        phi, pi = _RECORDED.run(key, (), lambda: None, lambda _, *inputs: work(*inputs), phi, pi, step)
        return phi, pi

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, HMCInfo]:
        n, device = len(state.phi), state.phi.device
        pi = normal(state.phi.shape, generator, device=device)
        spread, u = uniform((2, n), generator, device=device)
        step = self.step_size * (1 + self.jitter * (2 * spread - 1))
        phi, end_pi = self.trajectory(state.phi, pi, step)
        proposed = State(phi, evaluate(self.action, phi))
        kinetic = kinetic_energy(pi)
        dH = proposed.S - state.S + kinetic_energy(end_pi) - kinetic
        # A trajectory that ran away is rejected, whatever the sign of its overflow.
        dH = torch.where(torch.isfinite(dH), dH, torch.inf)
        new, accepted, rate = metropolis(state, proposed, -dH, u)
        n_steps = torch.full((n,), self.n_leapfrog, device=device)
        return new, HMCInfo(accepted, rate, dH, state.S + kinetic, dH > DIVERGED, step, n_steps)

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[HMC, State]:
        """Tune the step size at constant trajectory length: :func:`dmmc.kernels.step_size.tune_step_size`.

        Begin at :func:`first_fields`. Where a quartic potential is steeper than the step size resolves, trajectories
        are rejected for very long, and a step tuned on other chains cannot know of one that begins there.

        Args:
            state: where the chains are.
            generator: source of randomness.
            n_steps: trajectories to spend, at least 10; 50 to 100 are plenty.

        Raises:
            DmmcError: if ``n_steps`` is too small, or a trajectory would take more than 1000 steps to be accepted.
        """
        return tune_step_size(self, state, generator, n_steps)


def leapfrog(action: Action, n_leapfrog: int, phi: Tensor, pi: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of motion with ``n_leapfrog`` gradients; see :meth:`HMC.trajectory`."""
    phi = torch.addcmul(phi, pi, step, value=0.5)
    pi = pi.clone()
    for k in range(n_leapfrog):
        pi.addcmul_(force(action, phi), step, value=-1.0)
        phi.addcmul_(pi, step, value=1.0 if k < n_leapfrog - 1 else 0.5)
    return phi, pi


def kinetic_energy(pi: Tensor) -> Tensor:
    """``pi^2 / 2`` summed over the sites, ``(n,)``."""
    return 0.5 * pi.square().flatten(1).sum(1)


def first_fields(action: Action, lattice: Lattice, n: int, generator: torch.Generator) -> Tensor:
    """Fields to begin with, ``(n, *lattice)`` float64: nearly uniform and where the action is small.

    Rough fields would fall into domains in a broken phase, whose walls live for long. Fields far above the minimum of
    the action would turn the difference into kinetic energy: a long trajectory swings through to the steep side, and a
    step tuned on the other chains may be too large for it there ever to move again.

    A field with components begins in a random direction.

    The sign of each field is drawn for an action that declares the symmetry ``S(-phi) = S(phi)``. It is also drawn for
    one that declares nothing, since its chains should not all begin in the same well, unless S shows that the uniform
    field of one sign has next to no weight beside that of the other.
    """
    declared, lattice = declaration(action), lattice_of(action, lattice)
    value = declared.minimum(lattice.dim)
    if declared.components is None and declared.symmetry == "none":
        return value + 0.1 * declared.scale * normal((n, *lattice.shape), generator)
    if declared.components is not None:
        direction = normal((n, declared.components, *(1,) * lattice.dim), generator)
        direction = direction / direction.square().sum(1, keepdim=True).sqrt()
        length = max(0.5 * declared.scale, abs(value))
        return length * direction + 0.1 * declared.scale * normal((n, *lattice.field_shape), generator)
    value = math.copysign(max(0.5 * declared.scale, abs(value)), value)
    sign = signs((n, *(1,) * lattice.dim), generator)
    if declared.symmetry is None:
        pair = torch.tensor([value, -value], dtype=torch.float64, device=generator.device)
        S, mirrored = evaluate(action, pair.view(2, *(1,) * lattice.dim).repeat(1, *lattice.shape)).tolist()
        if abs(mirrored - S) > NEGLIGIBLE:
            sign = torch.full_like(sign, 1.0 if S < mirrored else -1.0)
    return value * sign + 0.1 * declared.scale * normal((n, *lattice.shape), generator)

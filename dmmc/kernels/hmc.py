"""Hybrid (Hamiltonian) Monte Carlo: the baseline sampler and the usual source of training ensembles.

Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216. One step draws Gaussian momenta pi, follows
``H = pi^2 / 2 + S(phi)`` with the leapfrog, and accepts the end of the trajectory with ``min(1, exp(-dH))``,
each chain by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, start_state
from dmmc.theory.actions import Action, Phi4
from dmmc.theory.lattice import Lattice

LENGTH = 4.0
"""Trajectory length for the hopping-form field.

In two dimensions at correlation lengths of 4 to 11 it takes 2 to 4.5 times fewer forces for an independent M^2 than the
customary length 1: each momentum refreshment within an oscillation of the slowest mode makes a random walk of it.
"""

_MAX_LEAPFROG = 1000


@dataclass(frozen=True)
class HMC:
    """HMC for any action with a gradient; all chains advance together, in float64.

    Args:
        action: what is sampled.
        lattice: where.
        step_size: leapfrog step, > 0, in the units in which the momenta have unit variance.
        n_leapfrog: leapfrog steps a trajectory, and gradient evaluations a trajectory.
        jitter: each chain draws the step size of each trajectory uniformly from ``step_size (1 -+ jitter)``,
            0 <= jitter < 1. A fixed trajectory length would return modes of the matching frequency to where they
            began, and a nearly free field would not thermalise (Mackenzie, Phys. Lett. B 226 (1989) 369).

    Raises:
        DmmcError: if a number is out of its range.
    """

    action: Action
    lattice: Lattice
    step_size: float
    n_leapfrog: int
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise DmmcError(f"step_size must be a positive number, got {self.step_size}")
        if self.n_leapfrog < 1 or self.n_leapfrog != int(self.n_leapfrog):
            raise DmmcError(f"n_leapfrog must be a positive integer, got {self.n_leapfrog}")
        if not 0 <= self.jitter < 1:
            raise DmmcError(f"jitter must be at least 0 and below 1, got {self.jitter}")

    @classmethod
    def default(cls, action: Action, lattice: Lattice, length: float = LENGTH) -> HMC:
        """Steps of 0.1 for a trajectory of ``length``, of the hopping-form field; :func:`warm_up` tunes them.

        A field scaled by c oscillates c times slower under unit-variance momenta, so for phi^4 in another form length
        and steps are scaled as well.

        Raises:
            DmmcError: if ``length`` is not a positive number.
        """
        if not (math.isfinite(length) and length > 0):
            raise DmmcError(f"the trajectory length must be a positive number, got {length}")
        scale = action.scale if isinstance(action, Phi4) else 1.0
        n_leapfrog = max(1, round(10 * length))
        return cls(action, lattice, step_size=scale * length / n_leapfrog, n_leapfrog=n_leapfrog)

    @property
    def length(self) -> float:
        """Trajectory length ``n_leapfrog * step_size``."""
        return self.n_leapfrog * self.step_size

    @property
    def evaluations(self) -> dict[str, int]:
        """One force a leapfrog step."""
        return {"force": self.n_leapfrog}

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    @torch.no_grad()
    def trajectory(self, phi: Tensor, pi: Tensor, step: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Integrate the equations of motion from ``(phi, pi)``; reversible and volume-preserving.

        The leapfrog begins and ends with half a step of phi, not of pi: that takes ``n_leapfrog`` gradients,
        one fewer than the other order, with an error of the same size.

        Args:
            phi: fields ``(n, *lattice)``.
            pi: their momenta, same shape.
            step: step size, a number or ``(n,)``; default ``step_size``.

        Returns:
            Fields and momenta at the end; the arguments are left alone.
        """
        step = torch.as_tensor(self.step_size if step is None else step, dtype=phi.dtype, device=phi.device)
        step = step.view(-1, *[1] * self.lattice.dim)
        phi = torch.addcmul(phi, pi, step, value=0.5)
        pi = pi.clone()
        for k in range(self.n_leapfrog):
            pi.addcmul_(self.action.grad(phi), step, value=-1.0)
            phi.addcmul_(pi, step, value=1.0 if k < self.n_leapfrog - 1 else 0.5)
        return phi, pi

    @torch.no_grad()
    def _step(self, state: State, generator: torch.Generator) -> tuple[State, dict[str, Tensor]]:
        n, device, source = len(state.phi), state.phi.device, generator.device
        pi = torch.randn(state.phi.shape, generator=generator, dtype=torch.float64, device=source).to(device)
        spread, u = torch.rand(2, n, generator=generator, dtype=torch.float64, device=source).to(device)
        phi, end_pi = self.trajectory(state.phi, pi, self.step_size * (1 + self.jitter * (2 * spread - 1)))
        S = self.action(phi)
        dH = S - state.S + 0.5 * (end_pi.square() - pi.square()).flatten(1).sum(1)
        # A trajectory that ran away is a rejection, whatever the sign of its overflow.
        dH = torch.where(torch.isfinite(dH), dH, torch.inf)
        accepted = u < torch.exp(-dH)
        keep = accepted.view(-1, *[1] * self.lattice.dim)
        new = State(phi=torch.where(keep, phi, state.phi), S=torch.where(accepted, S, state.S))
        return new, {"accepted": accepted, "energy_error": dH}

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` trajectories; after each, the state and its statistics.

        Statistics, ``(n_chains,)``: ``accepted`` (bool) and ``energy_error`` (dH, float64; ``inf`` where the
        trajectory overflowed). In equilibrium ``<exp(-dH)> = 1`` (Creutz, Phys. Rev. D 38 (1988) 1228).
        """
        for _ in range(n):
            state, statistics = self._step(state, generator)
            yield state, statistics

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "hmc", "step_size": self.step_size, "n_leapfrog": self.n_leapfrog, "jitter": self.jitter}


def first_fields(action: Action, lattice: Lattice, n: int, generator: torch.Generator) -> Tensor:
    """Fields to begin with, ``(n, *lattice)`` float64: nearly uniform, of either sign, where the action is small.

    Rough ones would fall into domains in a broken phase, whose walls live for long. And what lies far above the minimum
    would turn the difference into kinetic energy: a long trajectory swings through to the steep side, and a step tuned
    on the other chains may be too large for it there ever to move again.
    """
    scale, value = (action.scale, action.minimum(lattice.dim)) if isinstance(action, Phi4) else (1.0, 0.0)
    sign = 2 * torch.randint(0, 2, (n, *(1,) * lattice.dim), generator=generator, device=generator.device) - 1
    rough = torch.randn((n, *lattice.shape), generator=generator, dtype=torch.float64, device=generator.device)
    return max(0.5 * scale, value) * sign + 0.1 * scale * rough


def warm_up(
    kernel: HMC, state: State, n_steps: int, generator: torch.Generator, target_acceptance: float = 0.8
) -> tuple[HMC, State]:
    """Tune the step size at constant trajectory length while the chains thermalise; discard these steps.

    Robbins-Monro on ``log(step_size)``, driven by ``min(1, exp(-dH))`` averaged over the chains, with the second
    half of the iterates averaged (Polyak, Juditsky, SIAM J. Control Optim. 30 (1992) 838). The kernel returned is
    frozen: its step divides the length of ``kernel`` exactly and is at most the tuned one, so the acceptance is
    ``target_acceptance`` or somewhat above.

    Begin with :func:`first_fields`: where a quartic potential is steeper than the step size resolves, trajectories are
    rejected for very long, and a tuned step cannot know of a chain that begins there.

    Args:
        kernel: gives the trajectory length and the first step size.
        state: where the chains are.
        n_steps: trajectories to spend, at least 10; 50 to 100 are plenty.
        generator: source of randomness.
        target_acceptance: between 0 and 1; 0.65 to 0.9 are sensible.

    Returns:
        The tuned kernel, and the chains after ``n_steps`` trajectories.

    Raises:
        DmmcError: if ``n_steps`` or ``target_acceptance`` is out of its range, or no step size gets accepted.
    """
    if n_steps < 10:
        raise DmmcError(f"warm_up needs n_steps of at least 10, got {n_steps}")
    if not 0 < target_acceptance < 1:
        raise DmmcError(f"target_acceptance must lie between 0 and 1, got {target_acceptance}")
    log_step, tail = math.log(kernel.step_size), []
    for t in range(n_steps):
        step = math.exp(log_step)
        trial = replace(kernel, step_size=step, n_leapfrog=max(1, round(kernel.length / step)))
        if trial.n_leapfrog > _MAX_LEAPFROG:
            raise DmmcError(
                f"HMC rejects even with {trial.n_leapfrog} steps a trajectory; is grad() the gradient of the action?"
            )
        state, statistics = next(trial.steps(state, 1, generator))
        acceptance = float(torch.exp(-statistics["energy_error"]).clamp(max=1.0).mean())
        log_step += 2 * (acceptance - target_acceptance) / math.sqrt(t + 1)
        if 2 * t >= n_steps:
            tail.append(log_step)
    n_leapfrog = max(1, math.ceil(kernel.length / math.exp(sum(tail) / len(tail))))
    return replace(kernel, step_size=kernel.length / n_leapfrog, n_leapfrog=n_leapfrog), state

"""The step size of molecular dynamics, tuned to a target acceptance at constant trajectory length."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import torch

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State

MAX_STEPS = 1000
"""Most integrator steps of a trajectory."""

_BELOW_RUN_AWAYS = 0.9
"""Largest step, jitter included, in units of the smallest at which a trajectory ran away during tuning."""

K = TypeVar("K", bound="Any")


def tune_step_size(kernel: K, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[K, State]:
    """Tune the step size at constant trajectory length while the chains thermalise.

    Robbins-Monro on ``log(step_size)``, driven by the mean acceptance rate of the chains, with the second half of the
    iterates averaged (Polyak, Juditsky, SIAM J. Control Optim. 30 (1992) 838). The step of the kernel that is returned
    divides the trajectory length exactly and is at most the tuned one, so the acceptance is ``target_acceptance`` or
    somewhat above. Where trajectories ran away in the second half, it is smaller still, so that no trajectory takes a
    step at which one did: a chain that has come there may never move again.

    Args:
        kernel: a frozen dataclass with ``step_size``, ``n_leapfrog``, ``length``, ``jitter`` and
            ``target_acceptance``, as :class:`dmmc.kernels.hmc.HMC` has them.
        state: where the chains are.
        generator: source of randomness.
        n_steps: trajectories to spend, at least 10; 50 to 100 are plenty.

    Returns:
        the tuned kernel, and the state of the chains after ``n_steps`` trajectories.

    Raises:
        DmmcError: if ``n_steps`` is too small, or a trajectory would take more than 1000 steps to be accepted.
    """
    if n_steps < 10:
        raise DmmcError(f"tuning needs at least 10 steps, got {n_steps}")
    log_step, tail, safe = math.log(kernel.step_size), list[float](), math.inf
    for t in range(n_steps):
        step = math.exp(log_step)
        trial = replace(kernel, step_size=step, n_leapfrog=max(1, round(kernel.length / step)))
        if trial.n_leapfrog > MAX_STEPS:
            raise DmmcError(
                f"a trajectory of length {kernel.length:.4g} would take {trial.n_leapfrog} leapfrog steps to be "
                f"accepted, and {MAX_STEPS} are allowed; use shorter trajectories, check that grad() is the "
                "gradient of the action, and declare its minimum if it has one far from zero"
            )
        state, info = trial.step(state, generator)
        log_step += 2 * (float(info.acceptance_rate.mean()) - kernel.target_acceptance) / math.sqrt(t + 1)
        if 2 * t >= n_steps:
            tail.append(log_step)
            safe = min([safe, *info.step_size[info.diverging].tolist()])
    step = min(math.exp(sum(tail) / len(tail)), _BELOW_RUN_AWAYS * safe / (1 + kernel.jitter))
    n_leapfrog = max(1, math.ceil(kernel.length / step))
    return replace(kernel, step_size=kernel.length / n_leapfrog, n_leapfrog=n_leapfrog), state

"""A race of Markov kernels on the clock: in one process, one after another, again and again.

What is compared is the wall time of a step of one chain among many, without the measurement of observables. Times on
one machine differ by tens of percent from minute to minute, and other work on it can only slow a kernel down, so the
samplers take turns, and the least time of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmmc.core import rng
from dmmc.kernels.base import Kernel


@dataclass(frozen=True)
class Contestant:
    """A kernel that takes part.

    Attributes:
        kernel: the tuned kernel.
        chains: how many of its chains run side by side.
        steps: steps in one turn.
    """

    kernel: Kernel[Any]
    chains: int
    steps: int


def seconds_per_step(contestants: Mapping[str, Contestant], turns: int, seed: int) -> dict[str, float]:
    """Wall seconds of a step of one chain, by the name of the kernel.

    Args:
        contestants: the kernels by name.
        turns: how often each of them has its turn; the least time counts.
        seed: of their random numbers.
    """
    least = dict.fromkeys(contestants, float("inf"))
    states = {name: one.kernel.initial(one.chains, rng.stream(seed, "race", name)) for name, one in contestants.items()}
    for turn in range(turns):
        for name, one in contestants.items():
            generator = rng.stream(seed, "race", name, turn)
            began = time.perf_counter()
            for state, _ in one.kernel.steps(states[name], one.steps, generator):
                states[name] = state
            least[name] = min(least[name], (time.perf_counter() - began) / (one.steps * one.chains))
    return least

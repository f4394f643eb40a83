"""Partial refresh: noise the field up to a level, denoise it again, and weigh the two paths against each other.

In the notation of :mod:`dmmc.proposals.path`, a path from phi_0 up to phi_J is drawn from F, and another from there
down to phi_0' from R. Each has the weight ``log w = -S(phi_0) + sum_{k<J} (log F - log R)``. The reverse move goes up
the second path and down the first, through the same phi_J, so the new field is accepted with probability
``min(1, w'/w)``. The state is the field alone, since every step draws a new path upwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import (
    Info,
    Kernel,
    State,
    advance,
    metropolis,
    refuse_inexact,
    start_state,
    uniform,
    valid_or_rejected,
)
from dmmc.kernels.path import calibrated
from dmmc.proposals.base import Paths
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class RefreshInfo(Info):
    """What a partial refresh reports, ``(n,)`` each.

    Attributes:
        log_w_ratio: logarithm of the ratio r with which the step is accepted, with probability ``min(1, r)``; ``-inf``
            for a proposal that was not finite. In equilibrium ``<r> = 1``.
    """

    log_w_ratio: Tensor


@dataclass(frozen=True)
class PathRefresh(Kernel[State]):
    """The kernel of partial refreshes.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        proposal: the whole path; :meth:`tune` calibrates it.
        level: noise level in (0, 1]; small ones are accepted more often and change less.
        allow_inexact: accept paths whose weights are estimates; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if the level is not in the path, or the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: Paths
    level: float
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        refuse_inexact(self.proposal.inexact, self.allow_inexact)
        self.proposal.up_to(self.level)

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("path_refresh", label="partial path", inexact=self.proposal.inexact)

    @property
    def cost(self) -> dict[str, int]:
        """One path up and one path down."""
        return {"network": 2 * self._paths.evaluations}

    def describe(self) -> dict[str, Any]:
        return {"name": "path_refresh", "level": self.level, "proposal": self.proposal.describe()}

    def initial(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` rough fields of the model, which are nearer to the target than uncalibrated paths.

        Raises:
            DmmcError: if a field or its action is not finite.
        """
        return start_state(self.action, self.lattice, self.proposal.rough_fields(n, generator), generator.device)

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[PathRefresh, State]:
        """Calibrate the reverse kernels, at about the cost of ``n_steps`` steps, and let the chains thermalise."""
        tuned = replace(self, proposal=calibrated(self.proposal, n_steps * len(state.phi), generator))
        return tuned, advance(tuned, tuned.start(state.phi, generator), n_steps, generator)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, RefreshInfo]:
        phi, log_paths = self._paths.refresh(state.phi, generator)
        proposed = State(phi, evaluate(self.action, phi))
        log_ratio = valid_or_rejected(state.S - proposed.S + log_paths, phi)
        new, accepted, rate = metropolis(state, proposed, log_ratio, uniform(len(phi), generator, like=phi))
        return new, RefreshInfo(accepted, rate, log_ratio)

    @cached_property
    def _paths(self) -> Paths:
        return self.proposal.up_to(self.level)

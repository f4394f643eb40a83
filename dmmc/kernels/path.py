"""Path Metropolis: whole reverse-diffusion paths as proposals, exact with any network and any number of steps.

In the notation of :mod:`dmmc.proposals.path`, let the path be the state and ``exp(-S(phi_0)) prod F`` its target:
summed over phi_1 ... phi_K it is exp(-S). A path proposed from the prior ``Normal(0, C + v_K)`` and R is accepted with
probability ``min(1, w'/w)``,

    log w = -S(phi_0) + sum_k log F(phi_{k+1} | phi_k) - log prior(phi_K) - sum_k log R(phi_k | phi_{k+1}).

The state keeps the weight of the path that it came with. There is no divergence and no integrator error: whatever the
reverse kernels are, the chain is exact, to rounding (the ratio of the two measures: Sohl-Dickstein et al., 1503.03585).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Kernel, WeightedState, refuse_inexact, start_state
from dmmc.kernels.weighted import WeightedInfo, begun, independent_steps, weigh, weighted
from dmmc.proposals.base import Paths
from dmmc.proposals.checked import checked_log_q
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.lattice import Lattice

LEAST_FIELDS, MOST_FIELDS, CALIBRATION_SITES = 256, 4096, 1 << 18
"""Fewest and most fields on which reverse kernels are calibrated, and the most sites of all of them together."""


@dataclass(frozen=True)
class PathIndependence(Kernel[WeightedState]):
    """Independence Metropolis over paths.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        proposal: where paths come from; :meth:`tune` calibrates it.
        allow_inexact: accept paths whose weights are estimates; the chain is then marked inexact everywhere.

    Raises:
        DmmcError: if the proposal is not exact and that is not allowed.
    """

    action: Action
    lattice: Lattice
    proposal: Paths
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        refuse_inexact(self.proposal.inexact, self.allow_inexact)

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("path", independent_weights=True, inexact=self.proposal.inexact)

    @property
    def cost(self) -> dict[str, int]:
        return {"network": self.proposal.evaluations}

    @property
    def start_cost(self) -> dict[str, int]:
        """A path to the fields that are given."""
        return {"network": self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        return {"name": "path", "proposal": self.proposal.describe()}

    def initial(self, n: int, generator: torch.Generator) -> WeightedState:
        """Chains that begin at ``n`` paths from the proposal.

        Raises:
            DmmcError: if the weight of one of them is not finite.
        """
        return begun(self._proposed(n, generator))

    def start(self, phi: Tensor, generator: torch.Generator) -> WeightedState:
        """Chains that begin at given fields ``(n, *lattice)``; a path to each of them is drawn, which is exact.

        Raises:
            DmmcError: if a field, its action or its weight is not finite.
        """
        state = start_state(self.action, self.lattice, phi, generator.device)
        return weighted(state.phi, state.S, checked_log_q(self.proposal.draw_log_q(state.phi, generator), len(phi)))

    def restore(self, tensors: Mapping[str, Tensor]) -> WeightedState:
        return WeightedState(**tensors)

    def tune(
        self, state: WeightedState, generator: torch.Generator, n_steps: int = 60
    ) -> tuple[PathIndependence, WeightedState]:
        """Calibrate the reverse kernels, at about the cost of ``n_steps`` steps, and begin anew at calibrated paths.

        Fields of the wider paths from before could have large weights under the new ones, and keep a chain for long. No
        steps are taken, since proposals do not depend on the chains.
        """
        n = n_steps * len(state.phi) // 2  # a field of the calibration costs about as much as two paths
        tuned = replace(self, proposal=calibrated(self.proposal, n, generator))
        return tuned, tuned.initial(len(state.phi), generator)

    def step(self, state: WeightedState, generator: torch.Generator) -> tuple[WeightedState, WeightedInfo]:
        return next(self.steps(state, 1, generator))

    @torch.no_grad()
    def steps(
        self, state: WeightedState, n: int, generator: torch.Generator
    ) -> Iterator[tuple[WeightedState, WeightedInfo]]:
        """``n`` steps, with all their paths made at once. In the info, log q is that of a path.

        Raises:
            DmmcError: if the proposal returns fields or log_q of a wrong shape.
        """
        proposals = self._proposed(n * len(state.phi), generator)
        yield from independent_steps(state, proposals, n, generator)

    @torch.no_grad()
    def _proposed(self, n: int, generator: torch.Generator) -> WeightedState:
        phi, log_q = self.proposal.sample(n, generator)
        return weigh(self.action, self.lattice, phi, log_q, n)


def calibrated(proposal: Paths, n: int, generator: torch.Generator) -> Paths:
    """Paths with reverse kernels that fit rough fields of their own: ``n`` if that lies within the useful range."""
    n = max(LEAST_FIELDS, min(n, MOST_FIELDS, CALIBRATION_SITES // proposal.lattice.n_numbers))
    return proposal.calibrated(proposal.rough_fields(n, generator), generator)

"""Embedded cluster updates for phi^4: the baseline that does not slow down where HMC does.

At fixed ``|phi|`` the signs of phi form an Ising model with couplings ``hop |phi phi_mu|``; Swendsen-Wang clusters
update them (Brower, Tamayo, Phys. Rev. Lett. 62 (1989) 1087), HMC trajectories update the moduli.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels import hmc
from dmmc.kernels.base import State, start_state
from dmmc.kernels.hmc import HMC
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class Cluster:
    """One step: a Swendsen-Wang update of all signs, then ``n_local`` HMC trajectories.

    Args:
        local: the HMC kernel, of a :class:`dmmc.theory.actions.Phi4` action; it also names the action and the lattice.
        n_local: trajectories a step, at least 1 (clusters alone never change ``|phi|``).

    Raises:
        DmmcError: if the action is not Phi4, or ``n_local`` is not positive.
    """

    local: HMC
    n_local: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.local.action, Phi4):
            name = self.local.action.describe().get("name")
            raise DmmcError(f"cluster updates exist for the phi4 action only, got {name!r}; use HMC")
        if self.n_local < 1 or self.n_local != int(self.n_local):
            raise DmmcError(f"n_local must be a positive integer, got {self.n_local}")

    @classmethod
    def default(cls, action: Phi4, lattice: Lattice, length: float = hmc.LENGTH) -> Cluster:
        """One trajectory of :meth:`HMC.default` a step; :func:`warm_up` tunes it."""
        return cls(HMC.default(action, lattice, length))

    @property
    def action(self) -> Phi4:
        """The action that is sampled."""
        assert isinstance(self.local.action, Phi4)
        return self.local.action

    @property
    def lattice(self) -> Lattice:
        """The lattice of the chains."""
        return self.local.lattice

    @property
    def evaluations(self) -> dict[str, int]:
        """The forces of the HMC part; the cluster part, which has none, costs about as much as one of them."""
        return {"force": self.n_local * self.local.n_leapfrog + 1}

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    @torch.no_grad()
    def flip(self, phi: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One Swendsen-Wang update of the signs of ``phi``, ``(n, *lattice)``.

        A link is frozen with probability ``1 - exp(-2 hop phi phi_mu)`` if its ends have the same sign, S having
        ``-hop phi phi_mu``; each cluster of frozen links is reversed with probability 1/2.

        Returns:
            The new fields, and the number of clusters ``(n,)``, int64.
        """
        n, V, dim = len(phi), self.lattice.volume, self.lattice.dim
        hop, _, _ = self.action.coefficients
        site = torch.arange(V).view(self.lattice.shape)
        neighbour = torch.stack([site.roll(-1, axis) for axis in range(dim)], dim=-1).view(V, dim)
        u = torch.rand(n, V, dim, generator=generator, dtype=torch.float64, device=generator.device).to(phi.device)
        flat = phi.reshape(n, V)
        # Ends of opposite sign give a negative probability, hence no link. An extent of 2 has two links
        # between the same two sites, each with its own u; an extent of 1 links a site to itself, to no effect.
        frozen = u < -torch.expm1(-2 * hop * flat[:, :, None] * flat[:, neighbour.to(phi.device)])

        # One graph for all chains; counting the links of each site is what makes it a CSR matrix without sorting.
        links = frozen.view(n * V, dim).cpu()
        first = torch.arange(n)[:, None, None] * V
        columns = (neighbour + first).view(n * V, dim)[links].to(torch.int32).numpy()
        rows = np.concatenate([[0], links.sum(1).cumsum(0).numpy()]).astype(np.int32)
        graph = csr_array((np.ones(len(columns)), columns, rows), shape=(n * V, n * V))
        n_total, labels = connected_components(graph, directed=False)

        chain = np.empty(n_total, dtype=np.int64)
        chain[labels] = np.repeat(np.arange(n), V)
        n_clusters = torch.from_numpy(np.bincount(chain, minlength=n)).to(phi.device)
        reverse = torch.randint(2, (n_total,), generator=generator, device=generator.device).cpu().bool()
        reverse = reverse[torch.from_numpy(labels)].view(phi.shape).to(phi.device)
        return torch.where(reverse, -phi, phi), n_clusters

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps; after each, the state and its statistics.

        Statistics, ``(n_chains,)``: ``accepted`` (bool) and ``energy_error`` (dH) of the last HMC trajectory of
        the step, and ``n_clusters`` (int64).
        """
        for _ in range(n):
            phi, n_clusters = self.flip(state.phi, generator)
            *_, (state, statistics) = self.local.steps(State(phi, self.action(phi)), self.n_local, generator)
            yield state, {**statistics, "n_clusters": n_clusters}

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "cluster", "n_local": self.n_local, "local": self.local.describe()}


def warm_up(
    kernel: Cluster, state: State, n_steps: int, generator: torch.Generator, target_acceptance: float = 0.8
) -> tuple[Cluster, State]:
    """Tune the HMC part with :func:`dmmc.kernels.hmc.warm_up`; arguments, result and errors as there.

    The ``n_steps`` are HMC trajectories: near and beyond the transition, thermalise with the kernel returned.
    """
    local, state = hmc.warm_up(kernel.local, state, n_steps, generator, target_acceptance)
    return replace(kernel, local=local), state

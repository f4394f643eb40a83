"""Embedded cluster updates for phi^4: the baseline that does not slow down where HMC does.

At fixed ``|phi|`` the signs of phi form an Ising model with couplings ``hopping |phi phi_mu|``. Swendsen-Wang clusters
update them (Brower, Tamayo, Phys. Rev. Lett. 62 (1989) 1087), and HMC trajectories update the moduli. Of a field with
components it is the signs of ``r . phi`` that are updated, with a random unit vector r for each step and chain: a
cluster that is reversed is reflected by r (Wolff, Phys. Rev. Lett. 62 (1989) 361).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import integers, normal, uniform
from dmmc.kernels import hmc
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.hmc import HMC, HMCInfo
from dmmc.kernels.hopping import check_hopping, declared_hopping
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class ClusterInfo(HMCInfo):
    """What a step reports, ``(n,)`` each: the last HMC trajectory of the step, and the clusters.

    Attributes:
        n_clusters: number of clusters, int64.
    """

    n_clusters: Tensor


@dataclass(frozen=True)
class Cluster(Kernel[State]):
    """One step is a Swendsen-Wang update of all signs, followed by ``n_local`` HMC trajectories.

    Args:
        local: the HMC kernel, of an action that declares its ``hopping``; it also gives the action and the lattice.
        n_local: trajectories per step, at least 1, since clusters alone never change ``|phi|``.

    Raises:
        DmmcError: if the action does not declare a hopping term, or ``n_local`` is not positive.
        MismatchError: if it declares one that it does not have, so that clusters would sample something else.
    """

    local: HMC
    n_local: int = 1

    def __post_init__(self) -> None:
        check_hopping(self.local.action, self.local.lattice)
        if self.n_local < 1 or self.n_local != int(self.n_local):
            raise DmmcError(f"n_local must be a positive integer, got {self.n_local}")

    @classmethod
    def default(cls, action: Action, lattice: Lattice, length: float = hmc.LENGTH) -> Cluster:
        """One trajectory of :meth:`HMC.default` per step; :meth:`tune` adapts it."""
        return cls(HMC.default(action, lattice, length))

    @property
    def action(self) -> Action:
        return self.local.action

    @property
    def lattice(self) -> Lattice:
        return self.local.lattice

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts("cluster", label="cluster", model_free=True)

    @property
    def cost(self) -> dict[str, int]:
        """The forces of the HMC part; a cluster update has none, and takes about as long as one of them."""
        return {"force": self.n_local * self.local.n_leapfrog + 1}

    def describe(self) -> dict[str, Any]:
        return {"name": "cluster", "n_local": self.n_local, "local": self.local.describe()}

    def initial(self, n: int, generator: torch.Generator) -> State:
        return self.local.initial(n, generator)

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[Cluster, State]:
        """Tune the HMC part with :meth:`HMC.tune`; the steps spent are HMC trajectories without clusters."""
        local, state = self.local.tune(state, generator, n_steps)
        return replace(self, local=local), state

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, ClusterInfo]:
        phi, n_clusters = self.flip(state.phi, generator)
        state = State(phi, evaluate(self.action, phi))
        for _ in range(self.n_local):
            state, info = self.local.step(state, generator)
        return state, ClusterInfo(**info.tensors(), n_clusters=n_clusters)

    @torch.no_grad()
    def flip(self, phi: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One Swendsen-Wang update of the signs of ``phi``, ``(n, *lattice)``, or of those along a random direction.

        Links freeze with :func:`freezing_probability`, and each cluster of frozen links is then reversed with
        probability 1/2.

        Returns:
            The new fields, and the number of clusters ``(n,)``, int64.
        """
        n, V, dim = len(phi), self.lattice.volume, self.lattice.dim
        hop = declared_hopping(self.action)
        site = torch.arange(V, device="cpu").view(self.lattice.shape)
        neighbour = torch.stack([site.roll(-1, axis) for axis in range(dim)], dim=-1).view(V, dim)
        u = uniform((n, V, dim), generator, device=phi.device)
        spins, direction = phi, None
        if self.lattice.components is not None:
            direction = normal((n, self.lattice.components, *(1,) * dim), generator, device=phi.device)
            direction = direction / direction.square().sum(1, keepdim=True).sqrt()
            spins = (direction * phi).sum(1)
        flat = spins.reshape(n, V)
        # A lattice of extent 2 has two links between the same two sites, each with its own u; extent 1 links a site to
        # itself, which has no effect.
        frozen = u < freezing_probability(hop, flat[:, :, None], flat[:, neighbour.to(phi.device)])

        # One graph for all chains. Counting the links of each site gives a CSR matrix without sorting.
        links = frozen.view(n * V, dim).cpu()
        first = torch.arange(n, device="cpu")[:, None, None] * V
        columns = (neighbour + first).view(n * V, dim)[links].to(torch.int32).numpy()
        rows = np.concatenate([[0], links.sum(1).cumsum(0).numpy()]).astype(np.int32)
        graph = csr_array((np.ones(len(columns)), columns, rows), shape=(n * V, n * V))
        n_total, labels = connected_components(graph, directed=False)

        chain = np.empty(n_total, dtype=np.int64)
        chain[labels] = np.repeat(np.arange(n), V)
        n_clusters = torch.from_numpy(np.bincount(chain, minlength=n)).to(phi.device)
        reverse = integers(2, (n_total,), generator, "cpu").bool()
        reverse = reverse[torch.from_numpy(labels)].view(spins.shape).to(phi.device)
        if direction is None:
            return torch.where(reverse, -phi, phi), n_clusters
        reflected = phi - 2 * spins.unsqueeze(1) * direction
        return torch.where(reverse.unsqueeze(1), reflected, phi), n_clusters


def freezing_probability(hopping: float, phi: Tensor, neighbour: Tensor) -> Tensor:
    """``1 - exp(-2 hopping phi phi_mu)``: with ``-hopping phi phi_mu`` in S, how likely a link is to freeze.

    Where ``hopping phi phi_mu`` is negative, the number is so too, and the link never freezes: between opposite signs
    if ``hopping`` is positive, and between equal ones if it is negative.
    """
    return -torch.expm1(-2 * hopping * phi * neighbour)

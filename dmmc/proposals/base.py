"""The contracts of proposals: independent fields with a density.

Three kinds, each a little more than the one before:

* :class:`Proposal` draws fields together with their log density, and evaluates the density of given fields. This is
  all that independence Metropolis needs.
* :class:`LatentProposal` also says from which latent variables, standard normal ones, a field was made, so that a
  kernel can move in the space of those.
* :class:`PathProposal <dmmc.proposals.path.PathProposal>` draws fields with the density of a whole path. The density
  of given fields is then drawn rather than computed; chains are exact all the same.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.theory.lattice import Lattice


class Proposal(Protocol):
    """Independent fields with a density that is computed, not estimated.

    Attributes:
        inexact: why log q is only an estimate; empty where it is computed.
    """

    inexact: str = ""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)`` and their log density ``(n,)``."""
        ...

    def log_q(self, phi: Tensor) -> Tensor:
        """Log density ``(n,)`` of given fields ``(n, *lattice)``."""
        ...

    @property
    def evaluations(self) -> int:
        """Network evaluations (with trace) for one proposal."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity as JSON values; recorded with a chain, and compared when the chain is resumed."""
        ...


class LatentProposal(Proposal, Protocol):
    """A proposal that is an invertible map of standard normal latent variables.

    The shape of latents is the proposal's own business: ``(n, ...)``, float.
    """

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields."""
        ...

    @property
    def device(self) -> torch.device:
        """Where fields are made."""
        ...

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws of the latent variables, ``(n, ...)``, each standard normal."""
        ...

    def push(self, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Fields ``(n, *lattice)`` made of ``latents``, and their log density ``(n,)`` float64.

        ``generator`` gives the random numbers of a divergence that is estimated; one that is computed needs none.
        """
        ...

    def pull(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents of given fields and the log density of these, the inverse of :meth:`push`.

        Where several latents belong to one field, one of them is drawn from its conditional law with ``generator``.
        """
        ...

    def rotate(self, latents: Tensor, angle: float, generator: torch.Generator) -> Tensor:
        """A move in latent space that is reversible with respect to the law of :meth:`latents`.

        ``angle`` runs from 0, no change, to pi/2, new latents that do not depend on the old ones.
        """
        return math.cos(angle) * latents + math.sin(angle) * self.latents(len(latents), generator)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As :class:`Proposal`: new latents, pushed forward."""
        return self.push(self.latents(n, generator), generator)


class Measurable(LatentProposal, Protocol):
    """A proposal whose integrator error can be measured: what :mod:`dmmc.proposals.certificate` works with.

    ``delta`` is the reported log q less the log density of the discrete map at the same field.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the arithmetic."""
        ...

    def to_float64(self) -> Measurable:
        """The same proposal with float64 arithmetic."""
        ...

    def step_doubling(
        self, latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and an estimate of delta from an integration with twice the steps."""
        ...

    def by_determinant(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and delta from the determinant of the Jacobian of the discrete map."""
        ...

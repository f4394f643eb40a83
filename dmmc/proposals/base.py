"""The contracts of proposals: independent fields with a density.

Each kind is a little more than the one before:

* :class:`Proposal` draws fields together with their log density, and evaluates the density of given fields. This is
  all that independence Metropolis needs.
* :class:`LatentProposal` also says from which latent variables, standard normal ones, a field was made, so that a
  kernel can move in the space of those.
* :class:`Measurable` can measure the error of its integrator, and :class:`Steppable` can also be given other steps.

:class:`Paths` stands beside them: fields with the density of a whole path. The density of given fields is then drawn
rather than computed; chains are exact all the same.

A proposal of your own derives from one of these classes and inherits what has a default. All attributes may be
properties, or fields of a dataclass.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from dmmc.core.rng import normal
from dmmc.core.scalars import check_count
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals.blocks import random_blocks
from dmmc.theory.lattice import Lattice

# Read-only attributes are declared as properties to the type checker alone. At run time a property of a base class
# would get in the way of a dataclass that has a field of the same name.


class Proposal(Protocol):
    """Independent fields with a density that is computed, not estimated."""

    if TYPE_CHECKING:

        @property
        def inexact(self) -> str:
            """Why log q is only an estimate; empty where it is computed."""
            return ""

        @property
        def evaluations(self) -> int:
            """Network evaluations (with trace) for one proposal."""
            ...
    else:
        inexact = ""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)`` and their log density ``(n,)``."""
        ...

    def log_q(self, phi: Tensor) -> Tensor:
        """Log density ``(n,)`` of given fields ``(n, *lattice)``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity as JSON values; recorded with a chain, and compared when the chain is resumed."""
        ...


class LatentProposal(Proposal, Protocol):
    """A proposal that is an invertible map of standard normal latent variables.

    A subclass defines ``lattice``, ``device``, ``dtype``, ``push``, ``pull``, ``evaluations`` and ``describe``, and
    ``latent_shape`` where the latents are not a field on the sites.
    """

    if TYPE_CHECKING:

        @property
        def lattice(self) -> Lattice:
            """The lattice of the fields."""
            ...

        @property
        def device(self) -> torch.device:
            """The device on which fields are made."""
            ...

        @property
        def dtype(self) -> torch.dtype:
            """The floating-point type of the arithmetic."""
            ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latents of one field."""
        return self.lattice.field_shape

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws of the latent variables, ``(n, *latent_shape)``, each standard normal.

        Raises:
            DmmcError: if ``n`` is not a positive integer.
        """
        n = check_count(n, "the number of fields")
        return normal((n, *self.latent_shape), generator, self.dtype, self.device)

    def push(self, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Fields ``(n, *lattice)`` made of ``latents``, and their log density ``(n,)`` float64.

        ``generator`` gives the random numbers of a divergence that is estimated; one that is computed needs none.
        """
        ...

    def pull(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents of given fields and the log density of these, the inverse of :meth:`push`.

        Fields of any floating-point type, on any device. Where several latents belong to one field, one of them is
        drawn from its conditional law with ``generator``.
        """
        ...

    def rotate(self, latents: Tensor, angle: float, generator: torch.Generator, share: float = 1.0) -> Tensor:
        """A move in latent space that is reversible with respect to the law of :meth:`latents`.

        Args:
            latents: the old ones, ``(n, *latent_shape)``.
            angle: from 0, no change, to pi/2, new latents that do not depend on the old ones.
            generator: source of randomness.
            share: fraction of the sites that move, in a block at a random place
                (:func:`dmmc.proposals.blocks.random_blocks`). Latents that are not a field on the sites count as the
                sites of a lattice of their own.
        """
        n = len(latents)
        rotated = math.cos(angle) * latents + math.sin(angle) * self.latents(n, generator)
        if share == 1:
            return rotated
        on_sites = self.latent_shape == self.lattice.field_shape
        inside = random_blocks(self.lattice.shape if on_sites else self.latent_shape, share, n, generator)
        if on_sites and self.lattice.components is not None:
            inside = inside.unsqueeze(1)
        return torch.where(inside.to(latents.device), rotated, latents)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New latents, pushed forward: ``n`` fields ``(n, *lattice)`` and their log density ``(n,)``."""
        return self.push(self.latents(n, generator), generator)

    def log_q(self, phi: Tensor) -> Tensor:
        """Log density ``(n,)`` of given fields ``(n, *lattice)``, that of :meth:`pull`.

        Raises:
            DmmcError: if ``phi`` is not a finite field on the lattice.
        """
        self.lattice.check(phi)
        return self.pull(phi)[1]


class Measurable(LatentProposal, Protocol):
    """A proposal whose integrator error can be measured, as :mod:`dmmc.proposals.certify` does.

    ``delta`` is the reported log q less the log density of the discrete map at the same field.
    """

    def to_float64(self) -> Self:
        """The same proposal with float64 arithmetic."""
        ...

    def step_doubling(
        self, latents: Tensor, generator: torch.Generator, probes: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and an estimate of delta from an integration with twice the steps.

        ``generator`` gives the random vectors of the estimate, of which delta is the mean over ``probes``.
        """
        ...

    def by_determinant(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fields, reported log q and delta from the determinant of the Jacobian of the discrete map."""
        ...


class Steppable(Measurable, Protocol):
    """A proposal whose integration steps can be chosen, as :mod:`dmmc.proposals.steps` does."""

    if TYPE_CHECKING:

        @property
        def method(self) -> str:
            """The integrator, one of :data:`dmmc.proposals.runge_kutta.METHODS`."""
            ...

        @property
        def schedule(self) -> tuple[int, ...]:
            """Steps in each of as many equal intervals of the noise level, from the largest noise to the field."""
            ...

        @property
        def intervals(self) -> int:
            """Intervals of the noise level within which the velocity is smooth."""
            ...

        @property
        def machine_code(self) -> bool:
            """Whether the integration runs as machine code, which rounds differently."""
            return False

        @property
        def known_errors(self) -> FlowErrors | None:
            """What was measured before of the errors of this method; None where nothing was."""
            return None
    else:
        machine_code = False
        known_errors = None

    def with_schedule(self, schedule: tuple[int, ...]) -> Self:
        """The same proposal with other steps."""
        ...

    def interval_errors(self, latents: Tensor, generator: torch.Generator, probes: int = 1) -> Tensor:
        """What each interval of the schedule contributes to delta, ``(intervals, n)``."""
        ...


class Paths(Protocol):
    """Fields with the density of a whole path from noise to the field, as the path kernels use them.

    The "log q" of a path is that of the reverse over the forward measure; see :mod:`dmmc.proposals.path`.
    """

    if TYPE_CHECKING:

        @property
        def inexact(self) -> str:
            """Why the weight of a path is only an estimate; empty where it is computed."""
            return ""

        @property
        def lattice(self) -> Lattice:
            """The lattice of the fields."""
            ...

        @property
        def n_steps(self) -> int:
            """Steps of a path."""
            ...

        @property
        def evaluations(self) -> int:
            """Network evaluations (without trace) for one path."""
            ...
    else:
        inexact = ""

    def describe(self) -> dict[str, Any]:
        """Identity as JSON values; recorded with a chain, and compared when the chain is resumed."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)`` and the log densities of their paths ``(n,)``; float64."""
        ...

    def draw_log_q(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """The log density ``(n,)`` of a path to each of given fields, drawn from the forward kernel."""
        ...

    def refresh(self, phi: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise fields along a path and denoise them along another.

        Returns:
            new fields ``(n, *lattice)``, and the log of what the ratio of the two paths contributes to the acceptance
            of them, ``(n,)``: everything but ``S(phi) - S(phi_new)``.
        """
        ...

    def up_to(self, level: float) -> Paths:
        """The part of the paths up to noise ``level`` in (0, 1].

        Raises:
            DmmcError: if the level is not in the paths.
        """
        ...

    def rough_fields(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` fields ``(n, *lattice)`` near those of the target, without their density.

        They serve for a calibration, or to start chains from.
        """
        ...

    def calibrated(self, phi: Tensor, generator: torch.Generator) -> Self:
        """The same with reverse kernels that fit the fields ``phi`` ``(n, *lattice)``."""
        ...

    def log_odds(self, phi: Tensor) -> Tensor:
        """Log of the odds of ``phi`` against ``-phi``, ``(n,)``, as far as they are known without paths.

        They may be rough: :class:`dmmc.proposals.symmetrised.SymmetrisedPath` is exact with any function.
        """
        ...

"""What an exactness laboratory is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmmc.core.errors import DmmcError
from dmmc.core.rng import check_seed
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.studies.exactness.results import LaboratoryPlan
from dmmc.studies.exactness.variants import NAMES
from dmmc.studies.models import load_named_model
from dmmc.theory.actions import Action, check_differentiable, check_scalar, declaration
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

DRAWS, DRAWS_LARGE, LARGE = 98_304, 24_576, 256
"""Draws of each variant by default, and on :data:`LARGE` sites or more, where they cost more."""

MIN_CHAINS = 32
"""The scatter of fewer chains would not give the covariance of six observables."""

TRAINING_STEPS = 400


@dataclass(frozen=True)
class ExactnessOptions:
    """What the laboratory does.

    Attributes:
        action: the theory. On more than two sites the truth comes from cluster updates, for which it must declare its
            hopping term.
        shape: extents of the lattice; with 2 sites the truth is known by quadrature.
        variants: names of the variants to run, of :data:`NAMES`.
        draws: draws of each variant, all chains together; expensive variants make fewer, cheap ones more.
        chains: parallel chains of each variant.
        truth_draws: draws of the cluster sampler, all chains together.
        steps: training budget in optimiser steps.
        model: a model file, or the name of a pretrained model, to use in place of training one.
        flow_steps: integration steps of the probability flow; if not given, as many as the statistical errors ask for.
        seed: the seed of everything random.
        device: where to compute.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work; if there is no truth
            for the theory on this lattice.
        MismatchError: if the model belongs to another theory or lattice.
    """

    action: Action
    shape: tuple[int, ...] = (8, 8)
    variants: tuple[str, ...] = NAMES
    draws: int = DRAWS
    chains: int = 512
    truth_draws: int = 524_288
    steps: int = TRAINING_STEPS
    model: str | None = None
    flow_steps: int | None = None
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.variants) - set(NAMES))
        if not self.variants or unknown or len(set(self.variants)) < len(self.variants):
            raise DmmcError(f"variants must be different ones of {', '.join(NAMES)}; got {list(self.variants)}")
        check_scalar(self.action, "the laboratory of exactness")
        check_differentiable(self.action, "HMC, which is one of the variants,")
        if self.lattice.volume < 2:
            raise DmmcError("the laboratory needs two sites or more; with one there is no nonzero momentum")
        if self.lattice.volume > 2 and declaration(self.action).hopping is None:
            raise DmmcError(
                "on more than two sites the truth comes from cluster updates, and this action does not declare the "
                "hopping term that they need; declare it, or use two sites"
            )
        if self.chains < MIN_CHAINS:
            raise DmmcError(f"errors come from the scatter of the chains: at least {MIN_CHAINS}, got {self.chains}")
        least = MIN_DRAWS * self.chains
        if self.draws < least or self.truth_draws < least:
            raise DmmcError(
                f"{self.chains} chains of {MIN_DRAWS} draws are {least} draws at least; "
                f"got draws = {self.draws}, truth_draws = {self.truth_draws}"
            )
        if self.steps < 1 or (self.flow_steps is not None and self.flow_steps < 1):
            raise DmmcError(f"steps and flow_steps must be positive, got {self.steps} and {self.flow_steps}")
        check_seed(self.seed)
        self.load_model()

    @property
    def lattice(self) -> Lattice:
        """The lattice that the chains live on."""
        return Lattice(self.shape)

    def load_model(self) -> DiffusionModel | None:
        """The given model, checked; None if one is to be trained."""
        if self.model is None:
            return None
        model = load_named_model(self.model, device=self.device)
        model.check_fits(self.action, self.lattice)
        return model

    def plan(self) -> LaboratoryPlan:
        """The identity of the laboratory, which is compared when it is resumed."""
        model = self.load_model()
        return LaboratoryPlan(
            action=dict(self.action.describe()),
            shape=tuple(self.shape),
            variants=tuple(self.variants),
            draws=self.draws,
            chains=self.chains,
            truth_draws=self.truth_draws,
            steps=self.steps,
            model=None if model is None else model.fingerprint(),
            flow_steps=self.flow_steps,
            seed=self.seed,
            device=str(self.device),
        )


def default_draws(shape: tuple[int, ...]) -> int:
    """How many draws of each variant are made on a lattice unless another number is asked for."""
    return DRAWS if math.prod(shape) < LARGE else DRAWS_LARGE


SHAPES = {"8x8": (8, 8), "16x16": (16, 16), "two-sites": (2,)}
"""The lattices that are looked at, one after another, unless one is named; by the name of their folder."""


def default_action(shape: tuple[int, ...]) -> Phi4:
    """The theory that is looked at unless one is named: near criticality, and on two sites far from a Gaussian."""
    return Phi4(0.3, 0.3) if math.prod(shape) == 2 else Phi4(0.27, 0.022)

"""What a scan does at its points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.core.rng import check_seed
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.model.options import TrainingOptions
from dmmc.studies.scan.points import Along


@dataclass(frozen=True)
class ScanOptions(Record):
    """What a scan does.

    Attributes:
        along: what changes along a line of points: the size ``L`` of the lattice, or the coupling ``kappa``.
        samplers: the samplers that are compared.
        minutes: training budget of each model in minutes.
        steps: training budget of each model in optimiser steps instead, for a reproducible scan.
        chains: parallel chains of each sampler.
        draws: draws of each HMC and cluster chain at first; chains that are too short for their tau_int are extended.
        diffusion_draws: draws of each diffusion chain at first; these are extended too.
        max_draws: the most draws to which a chain is extended.
        flow_steps: integration steps of the probability flow; ``auto`` takes as many as exactness asks for.
        lengths: chains are extended until all those of a sampler together are this many tau_int long, and each of them
            is ten tau_int long; tau_int then has a relative error of about ``4 / sqrt(lengths)``.
        trajectory: length of the trajectories of the sampler hmc, for the field in the hopping form. For a power law it
            must be the same at all points and short against xi, such as the customary 1; about 4 is several times
            cheaper.
        thermalise: steps thrown away at the start of the HMC and cluster chains; if not given, 200, or for HMC ``L^2``
            where that is more.
        seed: seed of all random numbers.
        device: where to compute.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.
    """

    along: Along = "L"
    samplers: tuple[str, ...] = ("hmc", "diffusion", "cluster")
    minutes: float | None = 1.0
    steps: int | None = None
    chains: int = 64
    draws: int = 512
    diffusion_draws: int = 64
    max_draws: int = 16384
    flow_steps: int | Literal["auto"] = "auto"
    lengths: float = 2000.0
    trajectory: float = 1.0
    thermalise: int | None = None
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.along not in ("L", "kappa"):
            raise DmmcError(f"a scan goes along L or kappa, not {self.along!r}")
        steps = 1 if self.flow_steps == "auto" else self.flow_steps
        if min(self.chains, steps, 1 if self.thermalise is None else self.thermalise) < 1:
            raise DmmcError("chains, thermalise and flow_steps must be positive")
        if min(self.draws, self.diffusion_draws) < MIN_DRAWS:
            raise DmmcError(f"chains need at least {MIN_DRAWS} draws, for errors to be estimated")
        first = max(self.draws, self.diffusion_draws)
        if self.max_draws < first:
            raise DmmcError(f"max_draws must be at least {first}, with which chains begin; got {self.max_draws}")
        if not 0 < self.lengths < math.inf:
            raise DmmcError(f"lengths must be positive, got {self.lengths}")
        if not 0 < self.trajectory < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.trajectory}")
        check_seed(self.seed)
        _ = self.training(self.seed)

    def training(self, seed: int) -> TrainingOptions:
        """The training budget: ``steps`` if they are given, else ``minutes``."""
        return TrainingOptions(steps=self.steps, minutes=self.minutes if self.steps is None else None, seed=seed)

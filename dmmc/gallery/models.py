"""The models that exhibits share, trained on the shared ensembles.

The U-Net is that of the paper: denoising score matching on fields alone, without their action. The only thing that it
is told of the theory is the symmetry phi -> -phi, since it is shown every field with both signs. The tractable model is
the package's own, trained on the action as well.

On a GPU the same training takes a wider network and more fields a step::

    fields = dmmc.load_run("gallery/ensembles/broken-32x32-seed1-training.h5").cfgs()
    dmmc.train(np.concatenate([fields, -fields]), "unet.safetensors", network="unet", config={"channels": 64},
               steps=50_000, device="cuda")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmmc.gallery import ensembles
from dmmc.gallery.ensembles import KAPPAS, Phase
from dmmc.gallery.exhibit import Request
from dmmc.gallery.kept import kept_model
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.studies.training import train

FOLDER = "models"


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        network: its registered name.
        config: its configuration.
        steps: optimiser steps in each phase on 32 x 32.
        levels: fields in a step, each at its own noise level.
        learning_rate: peak of the schedule.
    """

    network: str
    config: Mapping[str, Any]
    steps: Mapping[Phase, int]
    levels: int
    learning_rate: float


UNET = Recipe("unet", {"channels": 16}, {"symmetric": 200, "critical": 500, "broken": 500}, 32, 1e-2)
TRACTABLE = Recipe(
    "interaction",
    {"filters": 4, "hidden1": 8, "hidden2": 8},
    {"symmetric": 300, "critical": 800, "broken": 300},
    64,
    5e-3,
)
QUICK_STEPS, QUICK_CHANNELS = 60, 8


def unet(phase: Phase, request: Request, extent: int | None = None) -> DiffusionModel:
    """The paper's model of a phase, of fields of both signs; it has no tractable density and no action.

    Args:
        phase: which kappa.
        request: of the exhibit that asks.
        extent: of a lattice that is not 32 x 32, as in :func:`dmmc.gallery.ensembles.ensemble`. A step costs as much as
            the lattice has sites, and there are more of them on a smaller lattice.
    """
    fields = torch.from_numpy(ensembles.ensemble(phase, "training", request, extent).cfgs())
    sites = ensembles.lattice(request, extent).volume
    steps = {name: n * ensembles.lattice(request).volume // sites for name, n in UNET.steps.items()}
    config = {"channels": QUICK_CHANNELS} if request.quick else UNET.config
    return _kept(replace(UNET, steps=steps, config=config), phase, request, torch.cat([fields, -fields]), extent)


def tractable(phase: Phase, request: Request, extent: int | None = None) -> DiffusionModel:
    """The package's model of a phase: in the broken phase of one sector, which is mirrored. As :func:`unet`."""
    return _kept(TRACTABLE, phase, request, ensembles.ensemble(phase, "training", request, extent), extent)


def _kept(recipe: Recipe, phase: Phase, request: Request, source: Any, extent: int | None) -> DiffusionModel:
    path = request.gallery / FOLDER / f"{ensembles.stem(phase, request, extent)}-{recipe.network}.safetensors"
    steps = QUICK_STEPS if request.quick else recipe.steps[phase]
    options = TrainingOptions(
        steps=steps,
        levels=recipe.levels,
        learning_rate=recipe.learning_rate,
        seed=ensembles.seed_of(request, extent, FOLDER, phase, recipe.network),
    )

    def make(resume: bool) -> None:
        request.say(f"the model {recipe.network!r} at kappa = {KAPPAS[phase]} ({phase}), {steps} steps of training")
        train(
            source,
            path,
            options,
            network=recipe.network,
            config=recipe.config,
            resume=resume,
            device=request.device,
            say=request.say,
        )

    return kept_model(path, make, request.device)

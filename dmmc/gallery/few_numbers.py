"""Models of one or two numbers: how they are trained and kept, and their flow."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dmmc.gallery.exhibit import Request
from dmmc.gallery.kept import kept_model
from dmmc.model.checkpoint import remove_checkpoint
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.model.training import fit
from dmmc.proposals.base import Steppable
from dmmc.proposals.divergence import BruteForce
from dmmc.proposals.of_model import flow_proposal
from dmmc.studies.resumption import checkpoint_of
from dmmc.theory.actions import Action

FLOW_STEPS = 42
"""Steps of the probability flow: the same number in each interval between the knots of either network."""


def fitted(
    path: Path, start: DiffusionModel, action: Action | None, phi: Tensor, options: TrainingOptions, request: Request
) -> DiffusionModel:
    """A model trained on fields, or read where that was done.

    Args:
        path: the model file.
        start: the model that training starts from.
        action: of the fields; None for data alone.
        phi: fields, in random order.
        options: of the training.
        request: of the exhibit.
    """

    def make(resume: bool) -> None:
        request.say(f"training {path.stem} for {options.steps} steps")
        checkpoint = checkpoint_of(path)
        fit(start, action, phi, options, checkpoint=checkpoint, resume=resume).save(path)
        remove_checkpoint(checkpoint)

    return kept_model(path, make, request.device)


def flow_of(model: DiffusionModel) -> Steppable:
    """The probability flow of a model of few numbers, in float64 and with the exact divergence."""
    return flow_proposal(model.to_float64(), FLOW_STEPS, divergence=BruteForce())

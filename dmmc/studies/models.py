"""Models that a user names: those that come with the package, and those in files."""

from __future__ import annotations

from pathlib import Path

import torch

from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.pretrained import load_pretrained, pretrained_names


def load_named_model(name: str | Path, device: str | torch.device = "cpu") -> DiffusionModel:
    """A model that comes with dmmc, or else the model in a file.

    Args:
        name: the name of a pretrained model, or a file.
        device: where to put it.

    Raises:
        FileError: if there is neither.
    """
    if str(name) in pretrained_names():
        return load_pretrained(str(name), device=device)
    return DiffusionModel.load(name, device=device)

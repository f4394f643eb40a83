"""The models that come with the package."""

from __future__ import annotations

from importlib import resources

import torch

from dmmc.core.errors import FileError
from dmmc.model.diffusion_model import DiffusionModel

SUFFIX = ".safetensors"


def pretrained_names() -> list[str]:
    """The names of the models that come with the package."""
    folder = resources.files("dmmc.model") / "weights"
    return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def load_pretrained(name: str, device: str | torch.device = "cpu") -> DiffusionModel:
    """A model that comes with the package.

    Args:
        name: one of :func:`pretrained_names`.
        device: where to put the weights.

    Raises:
        FileError: if there is none of this name.
    """
    if name not in pretrained_names():
        raise FileError(f"no pretrained model {name!r}; there are: {', '.join(pretrained_names()) or 'none'}")
    with resources.as_file(resources.files("dmmc.model") / "weights" / f"{name}{SUFFIX}") as path:
        return DiffusionModel.load(path, device=device)

"""The models that come with the package."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

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
    with resources.as_file(_file(name, SUFFIX)) as path:
        return DiffusionModel.load(path, device=device)


def pretrained_card(name: str) -> str:
    """What there is to know about a model that comes with the package: its theory, training and chain, in Markdown.

    Args:
        name: one of :func:`pretrained_names`.

    Raises:
        FileError: if there is none of this name.
    """
    return _file(name, ".md").read_text(encoding="utf-8")


def _file(name: str, suffix: str) -> Traversable:
    if name not in pretrained_names():
        raise FileError(f"no pretrained model {name!r}; there are: {', '.join(pretrained_names()) or 'none'}")
    return resources.files("dmmc.model") / "weights" / f"{name}{suffix}"

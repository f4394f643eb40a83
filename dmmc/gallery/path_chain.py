"""A chain of paths for any network, which begins at fields of the theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dmmc.core import rng
from dmmc.gallery.exhibit import Request
from dmmc.gallery.kept import kept_run
from dmmc.kernels.of_model import KernelOptions, make_kernel
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.theory.phi4 import Phi4


def path_chain(
    file: Path,
    model: DiffusionModel,
    action: Phi4,
    begin: StoredRun,
    steps: int,
    chains: int,
    draws: int,
    request: Request,
) -> StoredRun:
    """The chain of a model in the path kernel.

    It begins at fields of an HMC run, with random signs, and not at proposals, which a poor network may keep for long.

    Args:
        file: where it is kept, in the folder of the exhibit; its name gives the seed.
        model: the model, with any network.
        action: the action.
        begin: an HMC run with fields.
        steps: steps of a path.
        chains: parallel chains.
        draws: paths of each chain.
        request: of the exhibit.
    """
    seed = request.child_seed(file.stem)

    def make(resume: bool) -> None:
        request.say(f"path chain of the network {model.network.name!r}, {steps} steps: {file.name}")
        generator = rng.stream(seed, "start", device=request.device)
        fields = torch.from_numpy(begin.cfgs())
        fields = fields[:: len(fields) // chains][:chains]
        fields = fields * rng.signs((chains, *(1,) * (fields.ndim - 1)), generator, device=fields.device)
        kernel: Any = make_kernel(KernelOptions("path", path_steps=steps), action, model, None)
        kernel, _ = kernel.tune(kernel.start(fields, generator), generator, 1)
        options = ChainOptions(draws, seed=seed)
        chain.run(kernel, lambda: kernel.start(fields, generator), options, file, resume=resume, device=request.device)

    return kept_run(file, make)

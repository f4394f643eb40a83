"""Chains of any kernel, such as one of your own: tuned, run and stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dmmc.core import rng
from dmmc.core.scalars import check_count
from dmmc.kernels.base import Kernel, identity
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.remarks import Say, note
from dmmc.studies.resumption import resumes_run
from dmmc.theory.action_check import check_action
from dmmc.theory.observables import Observable

WARM_UP = 60
"""Steps that tune a kernel, which are not part of its chains; and as many are discarded if nothing is known of it."""


def warm_up_stream(kernel: Kernel[Any], seed: int, device: str | torch.device) -> torch.Generator:
    """The random numbers with which a kernel is made ready.

    They differ between kernels, actions and lattices even if the seed is the same.
    """
    return rng.stream(seed, "warm-up", identity(kernel), device=device)


def run_chain(
    kernel: Kernel[Any],
    path: str | Path,
    options: ChainOptions,
    *,
    chains: int = 64,
    discard: int = WARM_UP,
    tune: bool = True,
    observables: Mapping[str, Observable] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    say: Say = note,
) -> StoredRun:
    """Run chains of a kernel, and store them.

    Args:
        kernel: the Markov kernel; its chains begin where ``kernel.initial`` says.
        path: the HDF5 file.
        options: length of the chains, and what is kept of them.
        chains: parallel chains.
        discard: steps discarded before the first draw.
        tune: whether to call ``kernel.tune`` before the chains begin.
        observables: what is measured beside the standard observables, by name.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh.
        overwrite: replace a finished file.
        device: where the random numbers are made.
        say: is told whether a run goes on.

    Raises:
        DmmcError: if a number is out of its range, a file is in the way, or a resumed run had other options.
    """
    chains = check_count(chains, "the number of chains")
    chain.check_memory(chains, kernel.lattice, options)
    resume = resumes_run(Path(path), resume, overwrite, say)
    generator = warm_up_stream(kernel, options.seed, device)
    state = kernel.initial(chains, generator)
    check_action(kernel.action, state.phi)
    if tune:
        kernel, state = kernel.tune(state, generator, WARM_UP)
    chain.run(
        kernel,
        lambda: state,
        options,
        path,
        resume=resume,
        overwrite=overwrite,
        discard=discard,
        observables=observables,
        provenance={"chains": chains},
        device=device,
    )
    return load_run(path)

"""Running chains: many in parallel, measured on the fly, streamed to disk in blocks, resumable.

The random numbers of a block depend on the seed and the number of the block alone, and the state after it is on
disk: a run that is killed and resumed is the run that was not killed, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dmmc.core.errors import DmmcError
from dmmc.core.rng import stream
from dmmc.kernels.base import Kernel, State
from dmmc.runs.storage import RunWriter
from dmmc.theory.observables import measure

Array = NDArray[Any]


@dataclass(frozen=True)
class ChainOptions:
    """How long a run is and what it keeps.

    Attributes:
        draws: recorded states of each chain.
        steps_per_draw: kernel steps between two of them.
        keep_every: keep the fields of every k-th draw; 0 keeps none.
        block: draws between two writes to disk: what a kill can lose. Part of the run's identity.
        seed: of everything random.
    """

    draws: int
    steps_per_draw: int = 1
    keep_every: int = 0
    block: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.draws, self.steps_per_draw, self.block) < 1 or self.keep_every < 0:
            raise DmmcError(f"draws, steps_per_draw and block must be positive, keep_every not negative: {self}")
        if not 0 <= self.seed < 2**63:
            raise DmmcError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")


def run(
    kernel: Kernel,
    start: Callable[[], State],
    options: ChainOptions,
    path: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    provenance: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    evaluate: Callable[[], Mapping[str, Array]] | None = None,
) -> Path:
    """Run chains and store them.

    Args:
        kernel: the Markov kernel.
        start: makes the initial state; called for a new run only.
        options: length, and what to keep.
        path: the HDF5 file; while the run is going its blocks are in ``<path>.partial``.
        resume: go on with an interrupted run, or extend a finished one to ``options.draws``.
        overwrite: replace a finished file.
        provenance: recorded in the header; compared on resumption like everything else in it.
        device: where the random numbers are made.
        progress: show a bar with the acceptance (on a terminal).
        evaluate: called after the last draw; the arrays that it returns are stored beside the chains.

    Returns:
        ``path``.

    Raises:
        FileError: if ``path`` is in the way, or unreadable.
        MismatchError: if a resumed run had other options.
    """
    header = {
        "kernel": kernel.describe(),
        "evaluations": kernel.evaluations,
        "action": kernel.action.describe(),
        "lattice": list(kernel.lattice.shape),
        "seed": options.seed,
        "steps_per_draw": options.steps_per_draw,
        "keep_every": options.keep_every,
        "block": options.block,
        "n_draws": options.draws,
        "provenance": provenance or {},
    }
    # Chains of other kernels, actions or lattices with the same seed share no numbers with this one.
    identity = json.dumps({key: header[key] for key in ("kernel", "action", "lattice")}, sort_keys=True)
    begun = None if resume else start()  # before anything is written
    writer = RunWriter.resume(path, header) if resume else RunWriter.create(path, header, overwrite=overwrite)
    with writer:
        stored = writer.last_state()
        if stored is not None:
            state = State(**{name: torch.as_tensor(x, device=device) for name, x in stored.items()})
        else:
            state = begun or start()
        accepted, first = 0.0, writer.n_draws
        done, began = first, time.monotonic()
        with tqdm(
            total=options.draws, initial=first, desc="chain", unit="draw", disable=None if progress else True
        ) as bar:
            while done < options.draws:
                length = min(options.block, options.draws - done)
                generator = stream(options.seed, "chain", identity, writer.n_blocks, device=device)
                state, block = _block(kernel, state, length, options, done, generator)
                writer.append(**block, state={name: _array(x) for name, x in state.tensors().items()})
                accepted += float(block["stats"]["accepted"].mean()) * length
                done += length
                bar.update(length)
                bar.set_postfix_str(f"acceptance {accepted / (done - first):.3f}", refresh=False)
        seconds = time.monotonic() - began
        # Of this process alone: a run that was interrupted has no record of the time before.
        summary = {"wall_seconds": {"chain": seconds}, "wall_draws": done - first}
        return writer.finish(summary, None if evaluate is None else evaluate())


def _array(x: Tensor) -> Array:
    return x.detach().cpu().numpy()


def _block(
    kernel: Kernel, state: State, length: int, options: ChainOptions, first: int, generator: torch.Generator
) -> tuple[State, dict[str, Any]]:
    observables: dict[str, list[Tensor]] = {}
    statistics: dict[str, list[Tensor]] = {}
    kept, index = [], []
    per_draw = options.steps_per_draw
    within: dict[str, list[Tensor]] = {}
    for step, (new, stats) in enumerate(kernel.steps(state, length * per_draw, generator)):
        state = new
        for name, value in stats.items():
            within.setdefault(name, []).append(value)
        if (step + 1) % per_draw:
            continue
        for name, value in measure(state.phi, state.S, kernel.lattice).items():
            observables.setdefault(name, []).append(value)
        for name, values in within.items():
            # Of the steps between two draws: the mean of what was accepted, the last value of all else.
            value = torch.stack(values).double().mean(0) if name == "accepted" else values[-1]
            statistics.setdefault(name, []).append(value)
        within = {}
        draw = step // per_draw
        if options.keep_every and (first + draw + 1) % options.keep_every == 0:
            kept.append(state.phi)
            index += [(chain, draw) for chain in range(len(state.phi))]
    return state, {
        "block": {name: _array(torch.stack(values, 1)) for name, values in observables.items()},
        "stats": {name: _array(torch.stack(values, 1)) for name, values in statistics.items()},
        "cfgs": _array(torch.cat(kept)) if kept else None,
        "cfg_index": np.array(index, dtype=np.int64) if kept else None,
    }

"""Running chains: many in parallel, measured on the fly, streamed to disk in blocks, resumable.

The random numbers of a block depend on nothing but the seed, the kernel with its action and lattice, and the number of
the block, and the state after each block is on disk. A run that is killed and resumed with the same number of threads
is therefore, bit for bit, the run that was not killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.memory import physical_memory
from dmmc.core.progress import progress
from dmmc.core.rng import check_seed, stream
from dmmc.core.scalars import check_count
from dmmc.kernels.base import Info, Kernel, State, advance, identity, in_pieces
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.journal import RunWriter
from dmmc.theory.action_check import check_action
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import STANDARD, Observable, check_names, measure

Array = NDArray[Any]

AVERAGED = ("accepted", "acceptance_rate")
"""Statistics that are averaged over the steps between two draws; of all others the last value is recorded."""

MAX_BLOCK = 1 << 16
"""Most draws between two writes to disk, and most steps between two draws: a kill may lose as many."""

MOST_DISCARDED = 10_000_000
"""Most steps before the first draw: nothing is written until they are done."""

FIELDS_PER_CHAIN = 4
"""Fields that a step holds for each chain: the present and the proposed one, a momentum or latent field, a force."""

STATISTICS_BYTES = 64
"""About what the statistics of a draw take: up to eight numbers."""


@dataclass(frozen=True)
class ChainOptions:
    """How long a run is and what it keeps.

    Attributes:
        draws: recorded draws of each chain.
        steps_per_draw: kernel steps between two draws; at most 65536.
        keep_every: keep the fields of every k-th draw; 0 keeps none.
        block: draws between two writes to disk, which is what a kill can lose; at most 65536. The first blocks are
            smaller: block k has ``min(block, 2^k)`` draws. A resumed run must have the same.
        seed: seed of all random numbers.

    Raises:
        DmmcError: if a number is out of its range.
    """

    draws: int
    steps_per_draw: int = 1
    keep_every: int = 0
    block: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "draws": (1, None),
            "steps_per_draw": (1, MAX_BLOCK),
            "keep_every": (0, None),
            "block": (1, MAX_BLOCK),
        }
        for name, (minimum, maximum) in limits.items():
            object.__setattr__(self, name, check_count(getattr(self, name), name, minimum, maximum))
        check_seed(self.seed)

    def block_length(self, number: int) -> int:
        """Draws of block ``number``, unless the run ends within it."""
        return min(self.block, 1 << min(number, 60))


def run(
    kernel: Kernel[Any],
    start: Callable[[], State],
    options: ChainOptions,
    path: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    discard: int = 0,
    observables: Mapping[str, Observable] | None = None,
    provenance: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    show_progress: bool = True,
    evaluate: Callable[[State], Mapping[str, Array]] | None = None,
    stages: Callable[[], Mapping[str, float]] | None = None,
    step_seconds: Callable[[], Mapping[str, float]] | None = None,
) -> Path:
    """Run chains and store them.

    Args:
        kernel: the Markov kernel, ready to run.
        start: makes the initial state; called for a new run only.
        options: length of the run, and what it keeps.
        path: the HDF5 file; while the run is going, its blocks are in ``<path>.partial``.
        resume: go on with an interrupted run, or extend a finished one to ``options.draws``; a finished run that has
            as many is left as it is.
        overwrite: replace a finished file.
        discard: steps between the initial state and the first recorded draw, which are thrown away.
        observables: what is measured beside the standard observables, by name; recorded like these.
        provenance: recorded in the header; compared on resumption like everything else in it.
        device: where the random numbers are made.
        show_progress: show a bar, or off a terminal a line now and then, with the acceptance and the time left.
        evaluate: called after the last draw, with the state of the chains; the arrays that it returns are stored beside
            them.
        stages: called at the very end; the wall seconds that it returns, by stage, are recorded beside those of the
            chain itself.
        step_seconds: called at the very end; the seconds of a step that it returns, by kernel, are recorded.

    Returns:
        ``path``.

    Raises:
        FileError: if ``path`` is in the way or unreadable.
        MismatchError: if a resumed run had other options, or has more draws already.
        DmmcError: if an observable returns something that cannot be recorded, the action does not keep its contract,
            or the run would need more memory than this machine has.
        OSError: if the disk is full, or fails otherwise. The run can be resumed when that is put right.
    """
    discard = check_count(discard, "discard", 0, MOST_DISCARDED)
    measured = dict(observables or {})
    check_names(measured)
    header = RunHeader(
        kernel=kernel.describe(),
        facts=kernel.facts,
        cost=dict(kernel.cost),
        action=kernel.action.describe(),
        lattice=kernel.lattice.shape,
        components=kernel.lattice.components,
        seed=options.seed,
        steps_per_draw=options.steps_per_draw,
        keep_every=options.keep_every,
        block=options.block,
        n_draws=options.draws,
        discard=discard,
        observables=tuple(measured),
        provenance=dict(provenance or {}),
        threads=torch.get_num_threads(),
    )
    # Chains of other kernels, actions or lattices with the same seed share no numbers with this one.
    name = identity(kernel)

    def first_state() -> State:
        state = start()
        check_memory(len(state.phi), kernel.lattice, options)
        check_action(kernel.action, state.phi)
        _check_restored(kernel, state)
        return advance(kernel, state, discard, stream(options.seed, "chain", name, "discard", device=device))

    begun = None
    if not resume:  # what cannot be started, measured or held in memory is refused before anything is written
        begun = first_state()
        measure(begun.phi, begun.S, kernel.lattice, measured)
    writer = RunWriter.resume(path, header) if resume else RunWriter.create(path, header, overwrite=overwrite)
    with writer:
        if not writer.is_unfinished:
            return writer.path
        stored = writer.last_state()
        if stored is not None:
            state = kernel.restore({key: torch.tensor(x, device=device) for key, x in stored.items()})
            check_memory(len(state.phi), kernel.lattice, options)
        else:
            state = begun if begun is not None else first_state()
        accepted, first = 0.0, writer.n_draws
        done, began = first, time.monotonic()
        with progress("chain", options.draws, done=first, unit="draws", show=show_progress) as bar:
            while done < options.draws:
                length = min(options.block_length(writer.n_blocks), options.draws - done)
                generator = stream(options.seed, "chain", name, writer.n_blocks, device=device)
                state, block = _block(kernel, state, length, options, measured, done, generator)
                writer.append(
                    block.observables, block.statistics, block.cfgs, _arrays(state), cfg_index=block.cfg_index
                )
                accepted += float(block.statistics["accepted"].mean()) * length
                done += length
                bar.advance(length, f"acceptance {accepted / (done - first):.3f}")
        seconds = time.monotonic() - began
        evaluation = None if evaluate is None else evaluate(state)
        # The time of this process alone; what an earlier, interrupted one took was not recorded.
        others = {} if stages is None else dict(stages())
        record = RunRecord(
            wall_seconds={**others, "chain": seconds},
            wall_draws=done - first,
            step_seconds={} if step_seconds is None else dict(step_seconds()),
        )
        return writer.finish(record, evaluation)


def _check_restored(kernel: Kernel[Any], state: State) -> None:
    """Refuse a kernel of one's own that could not go on from its stored state, before anything is computed.

    Raises:
        DmmcError: if ``restore`` does not return a state of the same type.
    """
    name = kernel.facts.name
    try:
        restored = kernel.restore(state.tensors())
    except Exception as error:  # whatever the code of a user raises
        raise DmmcError(
            f"the kernel {name!r} cannot restore its own state, so that a run could not be resumed "
            f"[{type(error).__name__}: {error}]; define restore(tensors) for states with more than phi and S"
        ) from None
    if type(restored) is not type(state):
        raise DmmcError(
            f"the kernel {name!r} starts with a {type(state).__name__} and restores a {type(restored).__name__}; "
            "define start and restore so that both return the kernel's own state"
        )


def check_memory(chains: int, lattice: Lattice, options: ChainOptions) -> None:
    """Refuse a run that needs more memory than the machine has: for its chains, for a block, or for all draws together.

    What is counted is the least that is needed; a model takes more, and so do observables of one's own.

    Args:
        chains: number of chains.
        lattice: where they live.
        options: length of the run, and what it keeps.

    Raises:
        DmmcError: if it does; the message gives the largest number that is possible.
    """
    memory = physical_memory()

    def check(option: str, number: int, n_bytes: float) -> None:
        if number * n_bytes > memory:
            raise DmmcError(
                f"{option} = {number} takes about {number * n_bytes / 2**30:.3g} GiB of memory with {chains} chains on "
                f"{' x '.join(map(str, lattice.shape))}, and this machine has {memory / 2**30:.3g} GiB: at most "
                f"{int(memory / n_bytes)} are possible; take fewer, fewer chains, or a smaller lattice"
            )

    field = 8 * lattice.n_numbers
    check("chains", chains, FIELDS_PER_CHAIN * field)
    # One number for each standard observable but the two-point function. Everything is there twice while it is stacked.
    recorded = 2 * chains * (8 * (len(STANDARD) - 1 + len(lattice.orbit_modes)) + STATISTICS_BYTES)
    check("draws", options.draws, recorded)
    kept = 2 * chains * field / options.keep_every if options.keep_every else 0.0
    check("block", min(options.block, options.draws), recorded + kept)


@dataclass
class _Block:
    """One block of draws on its way to disk."""

    observables: dict[str, Array] = field(default_factory=dict)
    statistics: dict[str, Array] = field(default_factory=dict)
    cfgs: Array | None = None
    cfg_index: Array | None = None


def _array(x: Tensor) -> Array:
    return x.detach().cpu().numpy()


def _arrays(state: State) -> dict[str, Array]:
    return {name: _array(x) for name, x in state.tensors().items()}


def _stacked(series: Mapping[str, list[Tensor]]) -> dict[str, Array]:
    return {name: _array(torch.stack(values, 1)) for name, values in series.items()}


def _block(
    kernel: Kernel[Any],
    state: State,
    length: int,
    options: ChainOptions,
    extra: Mapping[str, Observable],
    first: int,
    generator: torch.Generator,
) -> tuple[State, _Block]:
    observables: dict[str, list[Tensor]] = {}
    statistics: dict[str, list[Tensor]] = {}
    kept: list[Tensor] = []
    index: list[tuple[int, int]] = []
    between: list[Info] = []
    per_draw = options.steps_per_draw
    for step, (new, info) in enumerate(in_pieces(kernel, state, length * per_draw, generator)):
        state = new
        between.append(info)
        if (step + 1) % per_draw:
            continue
        for name, value in measure(state.phi, state.S, kernel.lattice, extra).items():
            observables.setdefault(name, []).append(value)
        for name, value in _over_steps(between).items():
            statistics.setdefault(name, []).append(value)
        between = []
        draw = step // per_draw
        if options.keep_every and (first + draw + 1) % options.keep_every == 0:
            kept.append(state.phi)
            index += [(chain, draw) for chain in range(len(state.phi))]
    block = _Block(_stacked(observables), _stacked(statistics))
    if kept:
        block.cfgs, block.cfg_index = _array(torch.cat(kept)), np.array(index, dtype=np.int64)
    return state, block


def _over_steps(infos: list[Info]) -> dict[str, Tensor]:
    """What is recorded of the steps between two draws."""
    last = infos[-1].tensors()
    means = {
        name: torch.stack([info.tensors()[name].double() for info in infos]).mean(0)
        for name in AVERAGED
        if name in last
    }
    return last | means

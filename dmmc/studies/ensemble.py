"""Baseline ensembles: HMC or embedded cluster updates, tuned, thermalised and stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.kernels import hmc
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.fermion_hmc import FermionHMC
from dmmc.kernels.hmc import HMC
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.chain import WARM_UP, warm_up_stream
from dmmc.studies.remarks import Say, announce, note
from dmmc.studies.resumption import resumes_run
from dmmc.studies.stages import Stages
from dmmc.theory.action_check import check_action
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import Observable

METHODS: dict[str, Callable[[Action, Lattice, float], Kernel[State]]] = {
    "hmc": HMC.default,
    "cluster": Cluster.default,
    "pseudofermions": partial(FermionHMC.default, pseudofermions=True),
    "determinants": partial(FermionHMC.default, pseudofermions=False),
}
"""Baseline kernels by name, each made of an action, a lattice and a trajectory length."""

STUCK_AFTER = 30
"""This many rejections in a row are no accident at the acceptance of 0.8 to which HMC is tuned (1e-21)."""


@dataclass(frozen=True)
class EnsembleOptions:
    """How a baseline ensemble is made.

    Attributes:
        method: ``hmc``, or ``cluster`` for an action with a declared hopping term, such as phi^4; of a theory with
            fermions also HMC with ``pseudofermions``, or with ``determinants`` that are computed less often than the
            force of the scalar field.
        chains: parallel chains.
        thermalise: steps discarded at the start.
        trajectory: length of HMC trajectories, also of those between cluster updates, for a field in the
            normalisation of the hopping form.
        run: length of the recorded part, and what is kept of it.

    Raises:
        DmmcError: if a number is out of its range, or the method is unknown.
    """

    method: str = "hmc"
    chains: int = 256
    thermalise: int = 200
    trajectory: float = hmc.LENGTH
    run: ChainOptions = field(default_factory=lambda: ChainOptions(draws=240, keep_every=12, seed=1))

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DmmcError(f"the method of an ensemble must be one of {', '.join(METHODS)}, not {self.method!r}")
        object.__setattr__(self, "chains", check_count(self.chains, "the number of chains"))
        object.__setattr__(
            self, "thermalise", check_count(self.thermalise, "the steps of thermalisation", 1, chain.MOST_DISCARDED)
        )
        if not 0 < self.trajectory < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.trajectory}")


def make_ensemble(
    action: Action,
    lattice: Lattice,
    path: str | Path,
    options: EnsembleOptions | None = None,
    *,
    observables: Mapping[str, Observable] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    stages: Stages | None = None,
    say: Say = note,
) -> StoredRun:
    """Run a baseline sampler and store its chains.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on.
        path: the HDF5 file.
        options: the sampler, and the length of its chains.
        observables: what is measured beside the standard observables, by name.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh.
        overwrite: replace a finished file.
        device: where to compute.
        stages: wall times are added here.
        say: is told how long the chains will take, if that is long, and whether a run goes on.

    Raises:
        FileError: if a file is in the way.
        MismatchError: if a resumed run had other options.
        DmmcError: if cluster updates are asked for and the action does not declare its hopping term, or some chains
            do not move.
    """
    options = EnsembleOptions() if options is None else options
    stages = Stages() if stages is None else stages
    lattice = lattice_of(action, lattice)
    chain.check_memory(options.chains, lattice, options.run)
    resume = resumes_run(Path(path), resume, overwrite, say)
    with stages("warm-up"):
        kernel = METHODS[options.method](action, lattice, options.trajectory)
        generator = warm_up_stream(kernel, options.run.seed, device)
        state = kernel.initial(options.chains, generator)
        check_action(action, state.phi)
        began = time.monotonic()
        kernel, state = kernel.tune(state, generator, WARM_UP)
        step_seconds = (time.monotonic() - began) / WARM_UP
    if not resume:
        steps = options.thermalise + options.run.draws * options.run.steps_per_draw
        announce("the chains", steps * step_seconds, say)

    def start() -> State:
        with stages("thermalise"):
            moved = torch.zeros(options.chains, dtype=torch.bool, device=device)
            thermal = state
            for later, info in kernel.steps(state, options.thermalise, generator):
                thermal, moved = later, moved | info.accepted
        stuck = int((~moved).sum())
        if stuck and options.thermalise >= STUCK_AFTER:
            raise DmmcError(
                f"{stuck} of {options.chains} chains did not move in {options.thermalise} steps of thermalisation; "
                "use shorter trajectories (--trajectory), or another seed"
            )
        return thermal

    with stages("chain"):
        chain.run(
            kernel,
            start,
            options.run,
            path,
            resume=resume,
            overwrite=overwrite,
            observables=observables,
            provenance={"chains": options.chains, "thermalise": options.thermalise},
            device=device,
            stages=lambda: stages.seconds,
        )
    return load_run(path)

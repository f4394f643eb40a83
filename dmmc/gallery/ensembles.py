"""The ensembles that exhibits share: phi^4 on 32 x 32 in three phases, as in Wang, Aarts, Zhou, JHEP 05 (2024) 060.

Each is made once in a gallery, by whichever exhibit asks first, and lies in the folder ``ensembles`` there. The name
of its file says the phase, the lattice and the seed. Training and test set are independent HMC runs of the same length,
and a cluster run is the truth where HMC is slow or frozen. ``--overwrite`` removes none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmmc.core.rng import child_seed
from dmmc.gallery.exhibit import Request
from dmmc.gallery.kept import kept_run
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

FOLDER = "ensembles"

LAM = 0.022

KAPPAS = {"symmetric": 0.21, "critical": 0.27, "broken": 0.5}
"""kappa of each phase; kappa_c = 0.27088 in infinite volume, so that the second is the critical region."""

Phase = Literal["symmetric", "critical", "broken"]

Part = Literal["training", "test", "cluster"]


@dataclass(frozen=True)
class Size:
    """How large the ensembles are; training and test set have ``chains * draws / keep_every`` fields each."""

    extent: int
    chains: int
    thermalise: int
    draws: int
    keep_every: int


FULL = Size(extent=32, chains=64, thermalise=400, draws=960, keep_every=12)
QUICK = Size(extent=8, chains=32, thermalise=60, draws=96, keep_every=6)


def size(request: Request) -> Size:
    """The size of all ensembles of a request."""
    return QUICK if request.quick else FULL


def lattice(request: Request, extent: int | None = None) -> Lattice:
    """The lattice: 32 x 32 or of another extent, and always 8 x 8 in the quick version."""
    how = size(request)
    return Lattice((how.extent if extent is None or request.quick else extent,) * 2)


def action(phase: Phase) -> Phi4:
    """The action, in hopping form."""
    return Phi4(KAPPAS[phase], LAM)


def ensemble(phase: Phase, part: Part, request: Request, extent: int | None = None) -> StoredRun:
    """A shared ensemble, made if it is not there.

    Args:
        phase: which kappa.
        part: ``training`` and ``test`` are of HMC and store fields; ``cluster`` stores observables only.
        request: of the exhibit that asks.
        extent: of a lattice that is not 32 x 32; the quick version has 8 x 8 all the same.
    """
    on, path, how = lattice(request, extent), path_of(phase, part, request, extent), size(request)
    clusters = part == "cluster"
    options = EnsembleOptions(
        "cluster" if clusters else "hmc",
        chains=how.chains,
        thermalise=how.thermalise,
        run=ChainOptions(
            how.draws,
            keep_every=0 if clusters else how.keep_every,
            block=how.draws // 8,
            seed=seed_of(request, extent, FOLDER, phase, part),
        ),
    )

    def make(resume: bool) -> StoredRun:
        request.say(f"the {part} ensemble at kappa = {KAPPAS[phase]} ({phase})")
        return make_ensemble(action(phase), on, path, options, resume=resume, device=request.device, say=request.say)

    return kept_run(path, make)


def seed_of(request: Request, extent: int | None, *name: str) -> int:
    """The seed of something that exhibits share, on a lattice of some extent."""
    on = lattice(request, extent)
    return child_seed(request.seed, "gallery", *name, *(() if on == lattice(request) else on.shape[:1]))


def path_of(phase: Phase, part: Part, request: Request, extent: int | None = None) -> Path:
    """Where a shared ensemble lies."""
    return request.gallery / FOLDER / f"{stem(phase, request, extent)}-{part}.h5"


def stem(phase: Phase, request: Request, extent: int | None = None) -> str:
    """How the names of files begin that belong to a phase, a lattice and a seed."""
    return f"{phase}-{'x'.join(map(str, lattice(request, extent).shape))}-seed{request.seed}"

"""The samplers that a scan compares: how the chains of each are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels import hmc
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.runs.chain import ChainOptions
from dmmc.runs.names import is_begun
from dmmc.runs.run import StoredRun
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.given import read_ensemble
from dmmc.studies.resumption import checkpoint_of
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Point
from dmmc.studies.training import train
from dmmc.theory.actions import Action, check_differentiable, declaration
from dmmc.theory.sectors import is_broken
from dmmc.theory.symmetry import find_symmetry

BLOCK, DIFFUSION_BLOCK = 64, 16
"""Draws between two writes to disk."""

TRAINING_CHAINS, TRAINING_DRAWS, TRAINING_KEEP_EVERY = 256, 96, 8
"""The ensemble that a model is trained on: 3072 fields."""


@dataclass(frozen=True)
class Task:
    """The chains of one sampler at one point, which are to be made.

    Attributes:
        point: the point.
        options: the options of the scan.
        folder: where the files of the point are.
        seed: seed of everything random in the task.
        models: the models that the scan has trained so far, by lattice size; a sampler that trains one adds it.
    """

    point: Point
    options: ScanOptions
    folder: Path
    seed: int
    models: dict[int, DiffusionModel] = field(default_factory=dict)


@dataclass(frozen=True)
class Chains:
    """Chains that can be begun, and made longer.

    Attributes:
        path: their run file.
        first: how long they are at first.
        go: runs them to the length of the given options; the second argument says whether there is something to go on
            with.
        training_seconds: time that the training took; None without a model.
    """

    path: Path
    first: ChainOptions
    go: Callable[[ChainOptions, bool], StoredRun]
    training_seconds: float | None = None

    def begin(self, draws: int | None = None) -> StoredRun:
        """Begin the chains or go on with them, up to so many draws; by default to their first length."""
        options = self.first if draws is None else replace(self.first, draws=draws)
        return self.go(options, is_begun(self.path))


def _any_action(action: Action) -> bool:
    return True


@dataclass(frozen=True)
class Sampler:
    """One sampler of a scan.

    Attributes:
        prepare: makes everything that the chains need.
        files: the files that it keeps in the folder of a point.
        xi_rank: of the samplers at a point, the one of lowest rank measures xi for all of them.
        can_sample: whether it can sample an action.
        needs: what an action needs for that, in words.
    """

    prepare: Callable[[Task], Chains]
    files: tuple[str, ...]
    xi_rank: int
    can_sample: Callable[[Action], bool] = _any_action
    needs: str = ""


@dataclass(frozen=True)
class _Baseline:
    """How a method of :func:`dmmc.studies.ensemble.make_ensemble` is used in a scan.

    Attributes:
        method: its name.
        trajectory: length of its trajectories.
        thermalise: steps thrown away by default.
    """

    method: str
    trajectory: Callable[[ScanOptions], float]
    thermalise: Callable[[Point], int]

    def ensemble(self, task: Task, path: Path, chains: int, run: ChainOptions, resume: bool) -> StoredRun:
        """Make an ensemble with it, or go on with one."""
        point, options = task.point, task.options
        asked = EnsembleOptions(
            method=self.method,
            chains=chains,
            thermalise=options.thermalise or self.thermalise(point),
            trajectory=self.trajectory(options),
            run=run,
        )
        return make_ensemble(point.action, point.lattice, path, asked, resume=resume, device=options.device)

    def prepare(self, task: Task) -> Chains:
        """The chains of this baseline that a scan compares with others."""
        path, options = task.folder / f"{self.method}.h5", task.options
        first = ChainOptions(options.draws, block=BLOCK, seed=task.seed)
        return Chains(path, first, partial(self.ensemble, task, path, options.chains))


# The slowest mode of HMC forgets its start in O(L^2) trajectories, if xi grows with L.
_HMC = _Baseline("hmc", lambda options: options.trajectory, lambda point: max(200, point.L**2))
_CLUSTER = _Baseline("cluster", lambda options: hmc.LENGTH, lambda point: 200)


def _has_clusters(action: Action) -> bool:
    return declaration(action).hopping is not None


def _model(task: Task, path: Path) -> DiffusionModel:
    """The model of a point: read, or trained on an ensemble of its own from the most similar model there is."""
    point, options = task.point, task.options
    if path.exists():
        model = DiffusionModel.load(path, device=options.device)
        model.check_fits(point.action, point.lattice)
        return model
    source = task.folder / "ensemble.h5"
    if not source.exists():
        # Clusters decorrelate best, where there are any.
        baseline = _CLUSTER if _has_clusters(point.action) else _HMC
        keep = ChainOptions(TRAINING_DRAWS, keep_every=TRAINING_KEEP_EVERY, block=BLOCK, seed=task.seed)
        baseline.ensemble(task, source, TRAINING_CHAINS, keep, is_begun(source))
    # A model of the same size with other couplings is the best start; at a new size it is the model made last.
    before = task.models.get(point.L, next(reversed(task.models.values()), None))
    ensemble = read_ensemble(source, point.action)
    return train(
        ensemble,
        path,
        options.training(task.seed),
        init=before if before is not None and _alike(before, ensemble.phi, point.action) else None,
        resume=checkpoint_of(path).exists(),
        device=options.device,
    )


def _alike(model: DiffusionModel, phi: Tensor, action: Action) -> bool:
    """Whether a model has the symmetry and the sectors of an ensemble, so that it can start a training on it."""
    symmetry = find_symmetry(action, phi).symmetry
    return model.symmetry == symmetry and model.two_sector == (symmetry == "z2" and is_broken(phi))


def _diffusion(task: Task) -> Chains:
    options, path = task.options, task.folder / "diffusion.h5"
    model = _model(task, task.folder / "model.safetensors")
    task.models[task.point.L] = model

    def go(run: ChainOptions, resume: bool) -> StoredRun:
        asked = SampleOptions(chains=options.chains, run=run, flow_steps=options.flow_steps)
        return sample(model, path, asked, action=task.point.action, resume=resume)

    first = ChainOptions(options.diffusion_draws, block=DIFFUSION_BLOCK, seed=task.seed)
    return Chains(path, first, go, None if model.history is None else model.history.seconds)


SAMPLERS: dict[str, Sampler] = {
    "hmc": Sampler(_HMC.prepare, ("hmc.h5",), xi_rank=1),
    "diffusion": Sampler(_diffusion, ("ensemble.h5", "model.safetensors", "diffusion.h5"), xi_rank=2),
    "cluster": Sampler(
        _CLUSTER.prepare, ("cluster.h5",), xi_rank=0, can_sample=_has_clusters, needs="actions with a hopping term"
    ),
}
"""The samplers by name."""


def check_samplers(names: Sequence[str], points: Sequence[Point]) -> None:
    """Refuse samplers that do not exist, or that cannot sample one of the points.

    All of them need HMC somewhere, the model for the ensemble that it is trained on.

    Raises:
        DmmcError: if there is one.
    """
    if not names or set(names) - SAMPLERS.keys() or len(set(names)) < len(names):
        raise DmmcError(f"the samplers must be different ones of {', '.join(SAMPLERS)}, got {list(names)}")
    for point in points:
        check_differentiable(point.action)
    for name in names:
        sampler = SAMPLERS[name]
        for point in points:
            if not sampler.can_sample(point.action):
                raise DmmcError(
                    f"the sampler {name} needs {sampler.needs}, and {point.action.describe().get('name')!r} at the "
                    f"point {point.name} is not one of them; leave out the sampler {name}"
                )

"""What the exhibit about fermions trains, runs and times; see :mod:`dmmc.gallery.fermions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmmc.core.records import Record
from dmmc.gallery.exhibit import Request
from dmmc.gallery.kept import kept_arrays, kept_model, kept_run
from dmmc.kernels.base import Kernel
from dmmc.kernels.fermion_hmc import FermionHMC
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.history import Rounds
from dmmc.model.options import TrainingOptions
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import bias_bound_sigma
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.race import Contestant, Entry, break_even, independence_of, seconds_per_step
from dmmc.studies.rounds import RoundOptions, train_rounds
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.yukawa import Yukawa

SCALAR = Phi4.from_mass(-4.0, 6.008, 2)
"""The theory of the scalar field, in the mass form."""

CHAIN = "diffusion"
PLAIN, NESTED, PSEUDOFERMIONS = "HMC", "HMC, determinants", "HMC, pseudofermions"
METHODS = {PLAIN: "hmc", NESTED: "determinants", PSEUDOFERMIONS: "pseudofermions"}
"""The samplers by the names that tables and figures give them, and the method of an ensemble that each is."""

OBSERVABLES = ("M2", "condensate")
NETWORK = {"filters": 4, "hidden1": 8, "hidden2": 8}

TURNS = 7
"""How often each sampler is timed."""


@dataclass(frozen=True)
class Size:
    """How much is done on one lattice.

    Attributes:
        rounds: rounds of the training that are planned.
        proposals: proposals of a round.
        steps: optimiser steps of all rounds.
        lengths: trajectory lengths that each HMC with its fermions apart is tried with; plain HMC has the best of them.
        chains: HMC chains of each kind.
        draws: trajectories of each of them that are recorded; of plain HMC a quarter of that.
        thermalise: trajectories that are not.
        proposed: draws of each of 64 chains of the model.
        timed: trajectories in one turn of the race.
    """

    rounds: int
    proposals: int
    steps: int
    lengths: tuple[float, ...]
    chains: int
    draws: int
    thermalise: int
    proposed: int
    timed: int


@dataclass(frozen=True)
class Point:
    """A lattice and a coupling."""

    extent: int
    g: float

    @property
    def action(self) -> Yukawa:
        """The theory."""
        return Yukawa(SCALAR, self.g)

    @property
    def label(self) -> str:
        """As in a table."""
        return f"{self.extent} x {self.extent}, g = {self.g:g}"

    @property
    def folder(self) -> str:
        """The folder of its files, within that of the exhibit."""
        return f"{self.extent}-{self.g:g}"


SIZES = {
    4: Size(2, 256, 40, (2.0,), 16, 48, 10, 32, 2),
    8: Size(6, 4096, 3000, (1.0, 2.0, 4.0), 64, 400, 60, 512, 4),
    16: Size(8, 2048, 3000, (1.5, 2.5), 32, 200, 30, 256, 1),
}
FULL = tuple(Point(extent, g) for extent in (8, 16) for g in (0.3, 0.5))
QUICK = (Point(4, 0.3),)

COMPARED = FULL[0]
"""Where trainings on an HMC ensemble, with and without its force, are set beside the one without any HMC."""

CHAINS = 64
"""Chains of a model."""


@dataclass(frozen=True)
class Race(Record):
    """The samplers at one point.

    Attributes:
        extent, g: of the point.
        entries: by sampler; HMC with its fermions apart at the best length of those that were tried.
        tried: milliseconds for an effective M^2 at each length that was tried, by sampler.
        training: wall seconds of the whole training.
        curve: effective sample size per proposal after each round, and the share of the way that was done.
        flow_steps: integration steps of the chain.
        bias_bound: bound on the bias of the chain in units of its statistical error.
    """

    extent: int
    g: float
    entries: dict[str, Entry]
    tried: dict[str, dict[str, float]]
    training: float
    curve: list[tuple[float, float]]
    flow_steps: int
    bias_bound: float | None

    def ratio(self, rival: str, observable: str = "M2") -> float:
        """How many times as much wall time a rival needs for an effective sample."""
        return self.entries[rival].cost[observable] / self.entries[CHAIN].cost[observable]

    def best(self, observable: str = "M2") -> str:
        """The cheapest of the rivals."""
        return min((x for x in self.entries if x != CHAIN), key=lambda x: self.entries[x].cost[observable])

    @property
    def break_even(self) -> float:
        """Effective samples of M^2 from which on the training has paid off, against the best rival; inf for never."""
        return break_even(self.training, self.entries[CHAIN].cost["M2"], self.entries[self.best()].cost["M2"])


def race_at(request: Request, point: Point) -> Race:
    """Train, run and time everything at one point."""
    size, folder = SIZES[point.extent], request.folder / point.folder
    model = annealed(request, point)
    chain = _chain(request, point, model)
    runs = {
        (name, length): _hmc_run(request, point, name, length)
        for name in (NESTED, PSEUDOFERMIONS)
        for length in size.lengths
    }
    request.say(f"the race on {point.label}")
    contestants = {(CHAIN, 0.0): Contestant(independence_of(chain, model, point.action), 1024, 1)}
    contestants |= {key: Contestant(_kernel(point, run), size.chains, size.timed) for key, run in runs.items()}
    seconds = _seconds(folder / "seconds.npz", contestants, request.child_seed("race", point.folder))
    entries = {key: Entry.of(run, seconds[key], OBSERVABLES, key[1]) for key, run in runs.items()}
    tried = {
        name: {f"{length:g}": 1e3 * entries[name, length].cost["M2"] for length in size.lengths}
        for name in (NESTED, PSEUDOFERMIONS)
    }
    best = {name: min(size.lengths, key=lambda x: entries[name, x].cost["M2"]) for name in tried}
    plain = _hmc_run(request, point, PLAIN, best[NESTED])
    alone = {(PLAIN, best[NESTED]): Contestant(_kernel(point, plain), size.chains, size.timed)}
    again = {key: contestants[key] for key in ((CHAIN, 0.0), *((name, best[name]) for name in best))} | alone
    seconds = _seconds(folder / "race.npz", again, request.child_seed("race", point.folder))
    rounds = _rounds(model)
    return Race(
        extent=point.extent,
        g=point.g,
        entries={
            CHAIN: Entry.of(chain, seconds[CHAIN, 0.0], OBSERVABLES),
            PLAIN: Entry.of(plain, seconds[PLAIN, best[NESTED]], OBSERVABLES, best[NESTED]),
            **{name: Entry.of(runs[name, x], seconds[name, x], OBSERVABLES, x) for name, x in best.items()},
        },
        tried=tried,
        training=sum(record.seconds for record in rounds.records),
        curve=[(record.share, record.ess) for record in rounds.records],
        flow_steps=sum(chain.header.provenance["flow"]["n_steps"]),
        bias_bound=bias_bound_sigma(chain),
    )


def annealed(request: Request, point: Point) -> DiffusionModel:
    """The model that was trained without any HMC, from a free field."""
    size, path = SIZES[point.extent], request.folder / point.folder / "model.safetensors"

    def train_it(resume: bool) -> None:
        request.say(f"a model for {point.label}, from a free field")
        train_rounds(
            point.action,
            path,
            TrainingOptions(steps=size.steps, fields_per_level=4, seed=request.child_seed("training", point.folder)),
            RoundOptions(size.rounds, size.proposals),
            lattice=Lattice((point.extent,) * 2),
            config=NETWORK,
            resume=resume,
            say=request.say,
        )

    return kept_model(path, train_it, request.device)


def _chain(request: Request, point: Point, model: DiffusionModel) -> StoredRun:
    """The exact chain of the model, with as many integration steps as its certificate asks for."""
    path = request.folder / point.folder / "chain.h5"

    def run_it(resume: bool) -> None:
        options = ChainOptions(
            SIZES[point.extent].proposed, keep_every=0, seed=request.child_seed("chain", point.folder)
        )
        sample(
            model,
            path,
            SampleOptions(chains=CHAINS, run=options),
            observables=point.action.observables(),
            resume=resume,
            say=request.say,
        )

    return kept_run(path, run_it)


def _hmc_run(request: Request, point: Point, name: str, length: float) -> StoredRun:
    """An HMC run of one kind and trajectory length."""
    size, method = SIZES[point.extent], METHODS[name]
    path = request.folder / point.folder / f"{method}-{length:g}.h5"

    def run_it(resume: bool) -> None:
        request.say(f"{name} with trajectories of length {length:g} on {point.label}")
        draws = max(16, size.draws // 4) if name == PLAIN else size.draws
        seed = request.child_seed(method, point.folder, f"{length:g}")
        make_ensemble(
            point.action,
            Lattice((point.extent,) * 2),
            path,
            EnsembleOptions(
                method,
                chains=size.chains,
                thermalise=size.thermalise,
                trajectory=length,
                run=ChainOptions(draws, keep_every=16, seed=seed),
            ),
            observables=point.action.observables(),
            resume=resume,
            device=request.device,
            say=request.say,
        )

    return kept_run(path, run_it)


def _kernel(point: Point, run: StoredRun) -> Kernel[Any]:
    """The tuned kernel of an HMC run."""
    described, lattice = dict(run.header.kernel), Lattice(run.lattice)
    kind: Any = {"hmc": HMC, "fermion_hmc": FermionHMC}[described.pop("name")]
    kernel: Kernel[Any] = kind(point.action, lattice, **described)
    return kernel


Key = tuple[str, float]


def _seconds(path: Path, contestants: Mapping[Key, Contestant], seed: int) -> dict[Key, float]:
    """Wall seconds of a step of one chain; kept in a file."""
    named = {f"{name} {length:g}": one for (name, length), one in contestants.items()}
    kept = kept_arrays(path, 1, lambda _: {name: [x] for name, x in seconds_per_step(named, TURNS, seed).items()})
    return {(name, length): float(kept[f"{name} {length:g}"][0]) for name, length in contestants}


def _rounds(model: DiffusionModel) -> Rounds:
    assert model.history is not None and model.history.rounds is not None
    return model.history.rounds


def taught(request: Request, point: Point) -> dict[str, float]:
    """The acceptance of models that were trained in as many steps, without HMC, and on an HMC ensemble."""
    size = SIZES[point.extent]
    run = _hmc_run(request, point, PSEUDOFERMIONS, 2.0)
    fields = torch.from_numpy(run.cfgs())
    sources: dict[str, tuple[str, Any, Yukawa | None]] = {
        "HMC fields with their force": ("forces", run, point.action),
        "HMC fields alone": ("fields", fields, None),
    }
    found = {"no HMC": _rounds(annealed(request, point)).records[-1].acceptance}
    for text, (name, source, action) in sources.items():
        path = request.folder / point.folder / f"{name}.safetensors"

        def train_it(resume: bool, path: Path = path, source: Any = source, action: Yukawa | None = action) -> None:
            request.say(f"a model from {len(fields)} HMC fields of {point.label}")
            seed = request.child_seed("taught", path.stem)
            options = TrainingOptions(steps=size.steps, trajectories=0, fields_per_level=4, seed=seed)
            train(source, path, options, action=action, config=NETWORK, symmetry="none", resume=resume, say=request.say)

        model = kept_model(path, train_it, request.device)
        kernel = Independence(point.action, model.lattice, flow_proposal(model, 8))
        found[text] = _acceptance(kernel, request.child_seed("acceptance", name))
    return found


def _acceptance(kernel: Independence, seed: int) -> float:
    """The acceptance of a chain of 64 x 32 proposals."""
    generator = torch.Generator().manual_seed(seed)
    steps = kernel.steps(kernel.initial(64, generator), 32, generator)
    return float(torch.stack([info.acceptance_rate.mean() for _, info in steps]).mean())

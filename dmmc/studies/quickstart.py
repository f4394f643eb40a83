"""The whole idea once, on a small lattice near criticality: ensemble, training, exact chain, comparison, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.files import replace_file
from dmmc.core.records import Record
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.diagnostics.two_point import propagator
from dmmc.model.options import TrainingOptions
from dmmc.pages import figures, table
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import estimates, summarise
from dmmc.runs.summary_records import RunSummary
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.folder import check_free, remove
from dmmc.studies.given import read_ensemble
from dmmc.studies.reporting import write_report
from dmmc.studies.sampling import FlowSteps, SampleOptions, sample
from dmmc.studies.stages import Stages
from dmmc.studies.training import train
from dmmc.theory import momenta
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

KEEP_EVERY = 12
"""Draws of HMC between two fields of the training ensemble."""

HELD_OUT = 1024
"""Fields of the HMC ensemble that are not trained on, so that they can be weighed as a reference."""

MODEL, TABLE, PAGE = "model.safetensors", "table.txt", "report.html"
FIGURES = ("denoising", "magnetisation", "autocorrelation", "log_weights", "two_point")
FILES = ("hmc.h5", "cluster.h5", "chain.h5", MODEL, TABLE, PAGE, *(f"{name}.png" for name in FIGURES))
"""Everything that the demonstration writes."""


@dataclass(frozen=True)
class QuickstartOptions:
    """Sizes of the demonstration; the defaults take about 2 minutes on 2 cores.

    Attributes:
        kappa: hopping parameter; kappa_c = 0.27088 in infinite volume at this lam.
        lam: quartic coupling.
        shape: the lattice.
        minutes: training budget in minutes.
        steps: training budget in optimiser steps instead, for a reproducible run.
        draws: draws of each of the 64 diffusion chains.
        chains: parallel diffusion chains.
        baseline_draws: draws of each of the 256 HMC and cluster chains.
        flow_steps: integration steps of the flow, as for :class:`~dmmc.studies.sampling.SampleOptions`.
        seed: seed of all random numbers.
        device: where to compute.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.
    """

    kappa: float = 0.27
    lam: float = 0.022
    shape: tuple[int, ...] = (16, 16)
    minutes: float | None = 1.5
    steps: int | None = None
    draws: int = 96
    chains: int = 64
    baseline_draws: int = 240
    flow_steps: FlowSteps = "auto"
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        _ = self.training
        if min(self.draws, self.baseline_draws) < MIN_DRAWS:
            raise DmmcError(f"--draws must be at least {MIN_DRAWS}, for errors to be estimated")
        if self.baseline_draws < 5 * KEEP_EVERY:
            raise DmmcError(
                f"--baseline-draws must be at least {5 * KEEP_EVERY}, to leave fields to train on; "
                f"got {self.baseline_draws}"
            )

    @property
    def training(self) -> TrainingOptions:
        """The training budget: ``steps`` if they are given, else ``minutes``."""
        minutes = self.minutes if self.steps is None else None
        return TrainingOptions(steps=self.steps, minutes=minutes, seed=self.seed)


@dataclass(frozen=True)
class QuickstartSummary(Record):
    """What the demonstration made.

    Attributes:
        chain: summary of the diffusion chain.
        baselines: summaries of the HMC and cluster chains, by label.
        table: the comparison as text.
        report: the page.
        figures: the PNG files.
        wall_seconds: wall time by stage.
    """

    chain: RunSummary
    baselines: dict[str, RunSummary]
    table: str
    report: str
    figures: tuple[str, ...]
    wall_seconds: dict[str, float]


def quickstart(options: QuickstartOptions, out: Path, overwrite: bool = False) -> QuickstartSummary:
    """Run the demonstration.

    Args:
        options: its sizes.
        out: the directory for the chains, the model, the table, the figures and the page; it is made if need be.
        overwrite: remove the files of an earlier demonstration, or others in the way, first.

    Raises:
        FileError: if ``out`` holds files that would be replaced and ``overwrite`` is not set, or cannot be written to.
    """
    check_free(out, "demonstration", FILES, overwrite)
    remove(out, FILES)
    out.mkdir(parents=True, exist_ok=True)
    action, lattice = Phi4(options.kappa, options.lam), Lattice(options.shape)
    stages = {name: Stages() for name in ("HMC", "cluster", "training", "diffusion")}

    def baseline(method: str, name: str, keep_every: int) -> StoredRun:
        length = ChainOptions(options.baseline_draws, keep_every=keep_every, block=40, seed=options.seed)
        return make_ensemble(
            action,
            lattice,
            out / f"{method}.h5",
            EnsembleOptions(method, run=length),
            device=options.device,
            stages=stages[name],
        )

    print("1/4  HMC ensemble", flush=True)
    hmc = baseline("hmc", "HMC", keep_every=KEEP_EVERY)
    print("2/4  cluster chain, the second source of truth", flush=True)
    cluster = baseline("cluster", "cluster", keep_every=0)
    print("3/4  training a diffusion model on the HMC ensemble", flush=True)
    phi = read_ensemble(hmc).phi
    order = rng.permutation(len(phi), rng.stream(options.seed, "quickstart", "held out"))
    # Kept in the order of the chains, so that autocorrelations can be seen.
    reference, trained = phi[order[:HELD_OUT].sort().values], phi[order[HELD_OUT:].sort().values]
    model = train(
        trained,
        out / MODEL,
        options.training,
        action=action,
        overwrite=True,  # what is left of an earlier demonstration, which was interrupted
        device=options.device,
        stages=stages["training"],
    )
    print("4/4  exact Metropolis chain with its proposals", flush=True)
    sampled = sample(
        model,
        out / "chain.h5",
        SampleOptions(
            options.chains,
            run=ChainOptions(options.draws, keep_every=8, seed=options.seed),
            flow_steps=options.flow_steps,
        ),
        reference=reference,
        stages=stages["diffusion"],
    )
    runs = {run.header.facts.label: run for run in (cluster, hmc, sampled)}
    text = table.comparison({label: estimates(run) for label, run in runs.items()}, cluster.header.facts.label)
    replace_file(out / TABLE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    report = out / PAGE
    write_report([cluster, hmc, sampled, out / MODEL], report)
    return QuickstartSummary(
        chain=summarise(sampled),
        baselines={run.header.facts.label: summarise(run) for run in (hmc, cluster)},
        table=text,
        report=str(report),
        figures=draw(runs, sampled, out),
        wall_seconds={
            f"{name}: {stage}": round(seconds, 3)
            for name, of_name in stages.items()
            for stage, seconds in of_name.seconds.items()
        },
    )


def draw(runs: Mapping[str, StoredRun], sampled: StoredRun, out: Path) -> tuple[str, ...]:
    """The figures of the demonstration, as PNG files in ``out``; returns their paths."""
    phat2 = momenta.orbit_phat2(sampled.header.lattice)
    observables = {label: run.observables for label, run in runs.items()}
    two_point = {label: (phat2, *propagator(of_run["two_point"])) for label, of_run in observables.items()}
    beside = sampled.evaluation
    drawn = {
        "denoising": figures.denoising(beside["denoising"], beside["denoising_noise"], 1 - beside["denoising_level"]),
        "magnetisation": figures.magnetisation({label: of_run["M"] for label, of_run in observables.items()}),
        "autocorrelation": figures.autocorrelation(observables, ("M", "M2")),
        "log_weights": figures.log_weights(sampled.stats["log_w_proposed"], beside["log_w_reference"]),
        "two_point": figures.two_point(two_point),
    }
    paths = {name: out / f"{name}.png" for name in FIGURES}
    for name, path in paths.items():
        figures.save(drawn[name], path)
    return tuple(map(str, paths.values()))

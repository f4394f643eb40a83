"""The whole idea once, on a small lattice near criticality: ensemble, training, exact chain, comparison, figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmmc.core import rng
from dmmc.core.errors import DmmcError, FileError
from dmmc.diagnostics.autocorrelation import MIN_DRAWS
from dmmc.model.training import TrainingOptions
from dmmc.report import figures, page, table
from dmmc.runs import chain, storage
from dmmc.studies import workflow
from dmmc.theory import momenta
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice

KEEP_EVERY = 12
"""Draws of HMC between two fields of the training ensemble."""

FILES = ("hmc.h5", "cluster.h5", "model.safetensors", "chain.h5")


@dataclass(frozen=True)
class QuickstartOptions:
    """Sizes of the run; the defaults take under 6 minutes on 2 cores.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.

    Attributes:
        kappa: hopping parameter; kappa_c = 0.27088 in infinite volume at this lam.
        lam: quartic coupling.
        shape: the lattice.
        minutes: training budget.
        steps: training budget in optimiser steps instead, for a reproducible run.
        draws: of each of the ``chains`` of the diffusion chain.
        chains: parallel diffusion chains.
        baseline_draws: of each of the 256 HMC and cluster chains.
        flow_steps: integration steps of the flow.
        seed: of everything.
        device: where the model is.
    """

    kappa: float = 0.27
    lam: float = 0.022
    shape: tuple[int, ...] = (16, 16)
    minutes: float | None = 2.5
    steps: int | None = None
    draws: int = 96
    chains: int = 64
    baseline_draws: int = 240
    flow_steps: int = 20
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


def quickstart(options: QuickstartOptions, out: Path) -> dict[str, Any]:
    """Run it all; files, figures, the table and the report are in ``out``.

    Returns:
        summaries of the three chains, the table, and the figures' paths, JSON-ready.

    Raises:
        FileError: if ``out`` holds an earlier run.
    """
    present = [name for name in FILES if (out / name).exists() or (out / f"{name}.partial").exists()]
    if present:
        raise FileError(f"{out} holds an earlier run ({', '.join(present)}); choose another --out or pass --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    action, lattice = Phi4(options.kappa, options.lam), Lattice(options.shape)
    stages = {name: workflow.Stages() for name in ("HMC", "cluster", "train", "diffusion")}

    def baseline(method: str, name: str, keep_every: int) -> storage.Run:
        run = chain.ChainOptions(options.baseline_draws, keep_every=keep_every, block=40, seed=options.seed)
        ensemble = workflow.EnsembleOptions(method, chains=256, thermalise=200, run=run)
        return workflow.make_ensemble(
            action, lattice, ensemble, out / f"{method}.h5", device=options.device, stages=stages[name]
        )

    print("1/4  HMC ensemble", flush=True)
    hmc = baseline("hmc", "HMC", keep_every=KEEP_EVERY)
    print("2/4  cluster chain, the second source of truth", flush=True)
    cluster = baseline("cluster", "cluster", keep_every=0)
    print("3/4  training a diffusion model on the HMC ensemble", flush=True)
    phi = torch.as_tensor(hmc.cfgs(), dtype=torch.float32)
    order = torch.randperm(len(phi), generator=rng.stream(options.seed, "quickstart", "order"))
    # The reference configurations that are weighed below must not have been trained on. They stay in the order of the
    # chains, so that their autocorrelation can be seen.
    reference, phi = phi[order[:1024].sort().values], phi[order[1024:]]
    model = workflow.train(
        action,
        lattice,
        phi,
        options.training,
        out / "model.safetensors",
        device=options.device,
        stages=stages["train"],
    )
    print("4/4  exact Metropolis chain with its proposals", flush=True)
    sampled = workflow.sample(
        model,
        action,
        options.chains,
        chain.ChainOptions(options.draws, keep_every=8, block=16, seed=options.seed),
        out / "chain.h5",
        n_steps=options.flow_steps,
        reference=reference,
        stages=stages["diffusion"],
    )
    runs = {"cluster": cluster, "HMC": hmc, "diffusion": sampled}
    found = {name: workflow.estimates(run) for name, run in runs.items()}
    text = table.comparison(found, reference="cluster")
    (out / "table.txt").write_text(text + "\n")
    summary = workflow.summarise(sampled, found["diffusion"], stages["diffusion"])
    summary["wall_seconds"] |= {f"{name} {part}": round(s, 3) for name in ("HMC", "cluster", "train")
                                for part, s in stages[name].seconds.items()}  # fmt: skip
    page.write_report([out / f"{name}.h5" for name in ("cluster", "hmc", "chain")], out / "report.html", overwrite=True)
    return {
        **summary,
        "baselines": {
            "HMC": workflow.summarise(hmc, found["HMC"], stages["HMC"]),
            "cluster": workflow.summarise(cluster, found["cluster"], stages["cluster"]),
        },
        "table": text,
        "report": str(out / "report.html"),
        "figures": draw(hmc, cluster, sampled, out),
    }


def draw(hmc: storage.Run, cluster: storage.Run, sampled: storage.Run, out: Path) -> list[str]:
    """The figures of the quickstart, as PNG files in ``out``; returns their paths."""
    runs = {"HMC": hmc, "cluster": cluster, "diffusion": sampled}
    phat2 = momenta.orbit_phat2(tuple(sampled.header["lattice"]))
    two_point = {name: (phat2, *figures.propagator(run.observables["two_point"])) for name, run in runs.items()}
    beside = sampled.evaluation
    made = {
        "denoising": figures.denoising(beside["denoising"], beside["denoising_noise"]),
        "magnetisation": figures.magnetisation({name: run.observables["M"] for name, run in runs.items()}),
        "autocorrelation": figures.autocorrelation({name: run.observables for name, run in runs.items()}),
        "log_weights": figures.log_weights(sampled.stats["log_w_proposed"], beside["log_w_reference"]),
        "two_point": figures.two_point(two_point),
    }
    paths = []
    for name, figure in made.items():
        figures.save(figure, out / f"{name}.png")
        paths.append(str(out / f"{name}.png"))
    return paths

"""Which options of the training give the best model in the same time: several of them, with several seeds.

    python examples/benchmarks/training.py OUT                        # 16 x 16, the small network, 40 s each
    python examples/benchmarks/training.py OUT --L 32 --size medium --seconds 80
    python examples/benchmarks/training.py OUT --quick                # shows that the program runs

The theory is two-dimensional phi^4 theory at m2 = -4 with a correlation length of L/4, and the ensemble one of cluster
updates. Trainings get as many steps as fit into the same CPU time of one thread, so that other work on the machine does
not enter. What counts is the effective sample size of the model's proposals. The results are printed and written to
``OUT/training.json``; what is there is read.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dmmc
from dmmc.core.rng import stream
from dmmc.diagnostics import ess_fraction
from dmmc.gallery.kept import kept_run
from dmmc.model.options import TrainingOptions
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.run import StoredRun
from dmmc.studies.scan.points import FLOW_BENCHMARK
from dmmc.studies.training import train

COUPLINGS = FLOW_BENCHMARK | {16: 5.0}

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{n} trajectories": {"trajectories": n} for n in (16, 8, 4, 2, 1, 0)},
    "learning rate 0.01": {"learning_rate": 0.01},
    "batch of 128": {"levels": 128},
    "batch of 32": {"levels": 32},
    "average over 1 %": {"average": 0.01},
    "average over 20 %": {"average": 0.2},
}
"""What is changed in the defaults, by name."""

PROPOSALS = 2048


@dataclass(frozen=True)
class Budget:
    """How much is done: CPU seconds and seeds of each training, steps that are timed, and draws of the ensemble."""

    seconds: float
    seeds: tuple[int, ...] = (1, 2, 3)
    timed: tuple[int, int] = (20, 80)
    draws: int = 160
    variants: tuple[str, ...] = tuple(VARIANTS)


def seconds_per_step(ensemble: StoredRun, size: str, options: TrainingOptions, path: Path, budget: Budget) -> float:
    """CPU time of a training step: the slope between a short and a longer training, of each the least of three."""
    least = dict.fromkeys(budget.timed, float("inf"))
    for _ in range(3):
        for steps in budget.timed:
            began = time.process_time()
            train(ensemble, path, replace(options, steps=steps), size=size, overwrite=True, say=lambda _: None)
            least[steps] = min(least[steps], time.process_time() - began)
    short, long = budget.timed
    return max((least[long] - least[short]) / (long - short), 1e-4)


def quality(model: dmmc.DiffusionModel, seed: int) -> float:
    """ESS/N of the proposals of a model."""
    action = model.known_action()
    assert action is not None
    flow = flow_proposal(model, 8)
    phi, log_q = flow.sample(PROPOSALS, stream(seed, "quality"))
    return ess_fraction((-action(phi.double()) - log_q).numpy())


def main() -> None:
    """Train with every variant and every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument(
        "--L", type=int, choices=list(COUPLINGS), default=16, help="extent of the lattice (default: 16)"
    )
    parser.add_argument("--size", default="small", help="of the network (default: small)")
    parser.add_argument("--seconds", type=float, default=40.0, metavar="X", help="CPU time of a training (default: 40)")
    parser.add_argument("--quick", action="store_true", help="little of everything, on a lattice of 6 x 6")
    args = parser.parse_args()
    L = 6 if args.quick else args.L
    quick = Budget(0.2, (1,), (2, 6), 20, ("1 trajectories", "0 trajectories"))
    budget = quick if args.quick else Budget(args.seconds)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"L{L}-{args.size}"
    action, lattice = dmmc.Phi4.from_mass(-4.0, COUPLINGS[L], 2), dmmc.Lattice((L, L))
    ensemble = kept_run(
        args.out / f"L{L}.h5",
        lambda resume: dmmc.make_ensemble(
            action, lattice, args.out / f"L{L}.h5", method="cluster", draws=budget.draws, keep_every=10,
            trajectory=2.0, resume=resume,
        ),
    )  # fmt: skip
    kept, path = args.out / "training.json", args.out / f"{name}.safetensors"
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for variant in budget.variants:
        options = TrainingOptions(steps=1, validation_every=10**6, **VARIANTS[variant])
        step: float | None = None
        for seed in budget.seeds:
            key = f"{name}, {variant}, seed {seed}, {budget.seconds:g} s"
            if key not in found:
                step = step or seconds_per_step(ensemble, args.size, options, path, budget)
                steps = max(1, round(budget.seconds / step))
                chosen = replace(options, steps=steps, seed=seed)
                model = train(ensemble, path, chosen, size=args.size, overwrite=True, say=lambda _: None)
                found[key] = {"steps": steps, "milliseconds": 1e3 * step, "ess": quality(model, seed)}
                kept.write_text(json.dumps(found, indent=2) + "\n")
        mine = [found[f"{name}, {variant}, seed {seed}, {budget.seconds:g} s"] for seed in budget.seeds]
        ess = np.array([one["ess"] for one in mine])
        error = ess.std(ddof=1) / len(ess) ** 0.5 if len(ess) > 1 else float("nan")
        print(f"{name}, {variant}: {mine[0]['steps']:.0f} steps, ESS/N {ess.mean():.3f} +- {error:.3f}", flush=True)
    print(f"The results are in {kept}.")


if __name__ == "__main__":
    main()

"""Which exact kernel of a model costs least on a large lattice: autocorrelation times from long records, and CPU times.

    python examples/benchmarks/volumes.py OUT                                            # 64 x 64, the shipped model
    python examples/benchmarks/volumes.py OUT --model phi4-flow-L32-medium --steps 60    # a model of little training
    python examples/benchmarks/volumes.py OUT --L 128 --kernels "hmc 8:1500" clusters    # more steps of one kernel
    python examples/benchmarks/volumes.py OUT --quick                                    # shows that the program runs

The theory is two-dimensional phi^4 theory at m2 = -4, with a correlation length of L/4 up to 64 x 64 and of 16 on
128 x 128. A cluster ensemble is made, and the model is trained on it for so many steps, or only moved to the lattice.
Chains begin at fields of the ensemble, which include those of large weight, so that a kernel which gets stuck there
shows it. A kernel is one of

    independence, latent ANGLE, block SHARE, hmc LENGTH, clusters

``A + B`` is a cycle of two of them, ``A | B`` a mixture with equal probabilities, ``hmc 8 x4`` four steps in a cycle,
and ``:400`` at the end means 400 steps of each chain. All kernels of a call then take turns in this process, and the
least CPU time of each counts. The results are printed and written to ``OUT/volumes.json``; records that are there go on
where they are too short.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dmmc
from dmmc.core.files import replace_file
from dmmc.core.rng import stream
from dmmc.diagnostics import Estimate, expected_acceptance
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.gallery.kept import kept_model, kept_run
from dmmc.kernels.base import Kernel, State, in_pieces
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.latent import Latent
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.proposals.base import LatentProposal
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.summary_text import aligned
from dmmc.studies.scan.points import FLOW_BENCHMARK
from dmmc.studies.training import train
from dmmc.theory.actions import Action

COUPLINGS = FLOW_BENCHMARK | {128: FLOW_BENCHMARK[64]}

KERNELS = (
    "independence:300",
    "latent 1:200",
    "block 0.25:250",
    "independence + hmc 8:150",
    "block 0.25 + hmc 8:100",
    "independence | hmc 8:250",
    "independence + clusters:50",
    "hmc 4:2400",
    "hmc 8:1600",
    "hmc 16:800",
    "clusters:400",
)

SCHEDULES = {128: (1, 1, 1, 2, 5)}
SCHEDULE, METHOD = (1, 1, 1, 1, 4), "dopri5"
"""48 and 60 evaluations, with which log q is the same on the way there and back up to 0.05. That is enough for
autocorrelation times; exact chains take more (``--flow-steps auto``). It is not the spread of log q alone that counts:
a cycle goes back to the latents in every step, and a constant difference would change its acceptance."""

PIECE = 50
"""Steps between two writes to disk."""


@dataclass(frozen=True)
class Budget:
    """How much is done: steps of each chain where a kernel is given without; chains side by side; draws of each of the
    64 chains of the ensemble, of which every fifth is kept; proposals and fields that are weighed; steps that tune a
    kernel; turns on the clock, and steps in each."""

    draws: int = 200
    chains: int = 16
    ensemble: int = 160
    weighed: int = 256
    warm_up: int = 30
    turns: int = 8
    timed: int = 2


QUICK = Budget(draws=60, chains=8, ensemble=20, weighed=32, warm_up=20, turns=2, timed=1)


def kernel_of(text: str, action: Action, flow: LatentProposal) -> Kernel[Any]:
    """The kernel that is written in this way, not tuned yet.

    Raises:
        ValueError: if there is none.
    """
    if " | " in text:
        return dmmc.mixture([(kernel_of(part, action, flow), 1) for part in text.split(" | ")])
    if " + " in text:
        parts = [part.partition(" x") for part in text.split(" + ")]
        return dmmc.cycle(*[(kernel_of(part, action, flow), int(times or 1)) for part, _, times in parts])
    match text.split():
        case ["independence"]:
            return dmmc.Independence(action, flow.lattice, flow)
        case ["latent", angle]:
            return Latent(action, flow.lattice, flow, float(angle), target_acceptance=None)
        case ["block", share]:
            return Latent(action, flow.lattice, flow, share=float(share), target_acceptance=None)
        case ["hmc", length]:
            return dmmc.HMC.default(action, flow.lattice, float(length))
        case ["clusters"]:
            return Cluster.default(action, flow.lattice)
    raise ValueError(f"{text!r} is not a kernel; see --help")


@dataclass(frozen=True)
class Recorded:
    """A tuned kernel, where its chains have ended, and ``M`` and ``rate`` of every step, ``(step, chain)`` each."""

    kernel: Kernel[Any]
    state: State
    record: dict[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """What a kernel did: mean probability of acceptance, tau_int in steps, and CPU time of a step of one chain."""

    acceptance: float
    M2: Estimate
    M: Estimate
    milliseconds: float

    @classmethod
    def of(cls, record: dict[str, np.ndarray], milliseconds: float) -> Found:
        """What follows from the ``M`` and ``rate`` of a record, ``(step, chain)`` each."""
        M = record["M"].T
        return cls(float(record["rate"].mean()), resolved_tau(M**2)[0], resolved_tau(M)[0], milliseconds)

    def row(self, name: str) -> tuple[str, ...]:
        """The row of a table; ``>`` marks a lower bound."""
        taus, costs = [], []
        for one in (self.M2, self.M):
            bound = "" if one.resolved else ">"
            price = 2 * max(one.tau_int, 0.5) * self.milliseconds
            taus.append(f"{bound}{one.tau_int:.2f}({one.tau_int_error:.2f})")
            costs.append(f"{bound}{price:.3g}({price * one.tau_int_error / one.tau_int:.2g})")
        mean = f"{self.M2.value:.5f}({self.M2.error:.5f})"
        return (name, f"{self.acceptance:.3f}", *taus, f"{self.milliseconds:.3f}", *costs, mean)


HEAD = ("kernel", "accepted", "tau M^2", "tau M", "ms a step", "ms for M^2", "ms for M", "<M^2>")


@dataclass(frozen=True)
class Point:
    """The proposals of a model for a theory, fields of the ensemble, ``(n, L, L)``, and where the records are."""

    folder: Path
    action: Action
    flow: LatentProposal
    fields: torch.Tensor
    budget: Budget

    def weights(self) -> dict[str, float]:
        """The standard deviations of log w on proposals and on fields of the theory, and the acceptance it means.

        ``way_back`` is the mean difference of log q between the way there and the way back, over the proposals.
        """
        generator = stream(1, "weights")
        phi, log_q = self.flow.sample(self.budget.weighed, generator)
        some = self.fields[torch.randperm(len(self.fields), generator=generator)[: self.budget.weighed]]
        log_w = (-self.action(phi.double()) - log_q).numpy()
        data = (-self.action(some) - self.flow.log_q(some)).numpy()
        back = float((self.flow.log_q(phi) - log_q).mean())
        found = {"std_log_w": float(log_w.std()), "std_of_data": float(data.std())}
        return found | {"acceptance": expected_acceptance(log_w), "way_back": back}

    def tuned(self, name: str) -> tuple[Kernel[Any], Any]:
        """A kernel of this name and the state of its chains, which begin at fields of the ensemble."""
        generator = stream(1, "start", name)
        kernel = kernel_of(name, self.action, self.flow)
        chosen = self.fields[torch.randperm(len(self.fields), generator=generator)[: self.budget.chains]]
        return kernel.tune(kernel.start(chosen, generator), generator, self.budget.warm_up)

    def record(self, name: str, draws: int) -> Recorded:
        """The record of a kernel; an earlier one goes on."""
        path = self.folder / f"{name.replace(' | ', ' or ')}.npz"
        kernel, state = self.tuned(name)
        kept = {"M": np.empty((0, len(state.phi))), "rate": np.empty((0, len(state.phi)))}
        if path.exists():
            with np.load(path) as file:
                last = {key[6:]: torch.as_tensor(file[key]) for key in file.files if key.startswith("state_")}
                kept, state = {key: file[key] for key in kept}, kernel.restore(last)
        while len(kept["M"]) < draws:
            generator, M, rates = stream(1, "record", name, len(kept["M"])), [], []
            for later, info in in_pieces(kernel, state, PIECE, generator):
                state = later
                M.append(later.phi.flatten(1).mean(1).numpy())
                rates.append(info.acceptance_rate.numpy())
            kept = {"M": np.concatenate([kept["M"], M]), "rate": np.concatenate([kept["rate"], rates])}
            whole = kept | {f"state_{key}": value.numpy() for key, value in state.tensors().items()}
            replace_file(path, lambda temporary, arrays=whole: _write(temporary, arrays))
        return Recorded(kernel, state, kept)

    def milliseconds(self, records: Mapping[str, Recorded]) -> dict[str, float]:
        """CPU time of a step of one chain of each kernel: the least of several turns."""
        racers = {name: (one.kernel, one.state, 1) for name, one in records.items()}
        for name in (name for name in racers if " | " in name):
            # A mixture takes as long as its parts on the average: a cycle has the same parts in every turn.
            parts = records[name].kernel.parts
            racers[name] = dmmc.cycle(*[part for part, _ in parts]), records[name].state, len(parts)
        least = dict.fromkeys(records, math.inf)
        for turn in range(self.budget.turns):
            for name, (kernel, state, parts) in racers.items():
                generator, began = stream(1, "turn", name, turn), time.process_time()
                for _ in kernel.steps(state, self.budget.timed, generator):
                    pass
                spent = (time.process_time() - began) / (self.budget.timed * self.budget.chains * parts)
                least[name] = min(least[name], 1e3 * spent)
        return least


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def main() -> None:
    """Record the kernels of one model on one lattice, and put them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument(
        "--L", type=int, choices=list(COUPLINGS), default=64, help="extent of the lattice (default: 64)"
    )
    parser.add_argument(
        "--model", default="phi4-flow-L64-medium", help="a shipped model or a file (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=0, help="of training on this lattice (default: 0)")
    parser.add_argument(
        "--kernels", nargs="+", default=KERNELS, metavar="K", help="default: those of the documentation"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything, on a lattice of 6 x 6")
    args = parser.parse_args()
    L, budget = (6, QUICK) if args.quick else (args.L, Budget())
    torch.set_num_threads(1)
    action, lattice = dmmc.Phi4.from_mass(-4.0, COUPLINGS[L], 2), dmmc.Lattice((L, L))
    stored = args.out / f"L{L}.h5"
    ensemble = kept_run(
        stored,
        lambda resume: dmmc.make_ensemble(
            action, lattice, stored, method="cluster", draws=budget.ensemble, keep_every=5, trajectory=2.0,
            resume=resume,
        ),
    )  # fmt: skip
    shipped = args.model in dmmc.pretrained_names()
    given = dmmc.load_pretrained(args.model) if shipped else dmmc.load_model(args.model)
    name = f"L{L}, {Path(args.model).stem}, {args.steps} steps"
    trained = args.out / f"{name}.safetensors"
    fields = torch.as_tensor(ensemble.cfgs())
    if args.steps:
        options = TrainingOptions(steps=args.steps, validation_every=10**6)
        model = kept_model(
            trained, lambda resume: train(ensemble, trained, options, init=given, resume=resume, say=lambda _: None)
        )
    elif given.lattice != lattice:
        model = given.moved_to(GaussianReference.measure(fields, lattice, False, action), action)
    else:
        model = given
    schedule = SCHEDULES.get(L, SCHEDULE)
    point = Point(args.out / name, action, flow_proposal(model, schedule, method=METHOD), fields, budget)
    weights = point.weights()
    print(f"{name}: " + ", ".join(f"{key} {x:.3g}" for key, x in weights.items()), flush=True)
    point.folder.mkdir(parents=True, exist_ok=True)
    records = {}
    for text in args.kernels:
        kernel, _, draws = text.partition(":")
        records[kernel] = point.record(kernel, budget.draws if args.quick or not draws else int(draws))
        print("  ".join(Found.of(records[kernel].record, math.nan).row(kernel)), flush=True)
    times = point.milliseconds(records)
    found = {kernel: Found.of(one.record, times[kernel]) for kernel, one in records.items()}
    print(aligned([HEAD, *(one.row(kernel) for kernel, one in found.items())]), flush=True)
    kept = args.out / "volumes.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    before = results.get(name, {}).get("kernels", {})
    results[name] = {"budget": asdict(budget), **weights}
    results[name]["kernels"] = before | {kernel: asdict(one) for kernel, one in found.items()}
    kept.write_text(json.dumps(results, indent=2) + "\n")
    print(f"The results are in {kept}.")


if __name__ == "__main__":
    main()

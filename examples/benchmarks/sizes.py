"""Which size of the network has the cheapest effective samples, after the same time of training.

    python examples/benchmarks/sizes.py OUT                        # 16 x 16, changes of the small network
    python examples/benchmarks/sizes.py OUT --L 32 --around tiny small medium --changes none --seconds 120
    python examples/benchmarks/sizes.py OUT --L 64 --around tiny small medium --changes none --start 32 120
    python examples/benchmarks/sizes.py OUT --quick                # shows that the program runs

The theory is two-dimensional phi^4 theory at m2 = -4 with a correlation length of L/4, and the ensemble one of cluster
updates, or that of ``--ensemble``. One option of the network is changed at a time: the filters, the channels, the
shells of neighbours, the knots in the noise level and in the momentum. Trainings get as many steps as fit into the same
CPU time of one thread. With ``--start L SECONDS`` they begin with the models of the same network and seed in OUT.

An effective sample of an observable costs 2 tau_int proposals. tau_int is that of the exact chain, which follows from
the weights of some thousands of proposals. The integration steps of a proposal are those that a chain of 16,384 draws
would choose for a bias of at most a tenth, or a hundredth, of its statistical error. All networks of a lattice take
turns on the clock, and the least time of each counts. The results are printed, relative to the first network, and
written to ``OUT/sizes.json``; what is there is read. torch uses one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training import COUPLINGS

import dmmc
from dmmc.core.rng import stream
from dmmc.diagnostics import ess_fraction, expected_acceptance, predicted_tau_int
from dmmc.gallery.kept import kept_run
from dmmc.model.interaction import SIZES, USUAL
from dmmc.model.options import TrainingOptions
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import with_known_steps
from dmmc.runs.run import StoredRun
from dmmc.studies.given import read_ensemble
from dmmc.studies.network_cost import USUAL_DRAWS
from dmmc.studies.training import train

CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    **{f"{n} filters": {"filters": n} for n in (2, 3, 6)},
    **{
        f"channels {n}, {m}": {"hidden1": n, "hidden2": m}
        for n, m in ((4, 4), (8, 8), (12, 8), (8, 16), (16, 12), (24, 16))
    },
    "no diagonals": {"shells": ((), (1,))},
    "two steps in place of diagonals": {"shells": ((), (1,), (2,))},
    "two steps as well": {"shells": ((), (1,), (1, 1), (2,))},
    **{f"{n} level knots": {"level_knots": n} for n in (5, 6, 12)},
    **{f"{n} radial knots": {"radial_knots": n} for n in (5, 12)},
}
"""What is changed in the network, by name."""

RATE = 0.005
"""The usual learning rate."""

SHARES = (0.1, 0.01)
"""Biases, in units of the statistical error, for which the integration steps are chosen."""


@dataclass(frozen=True)
class Budget:
    """How much is done: CPU seconds and seeds of each training, steps that are timed, draws of the ensemble, and turns.

    tau_int is found of as many proposals as have ``sites`` sites. Rounds are turns of the trainings, turns those of
    proposals, of as many fields.
    """

    seconds: float
    seeds: tuple[int, ...]
    timed: tuple[int, int] = (20, 80)
    draws: int = 160
    sites: int = 1 << 24
    rounds: int = 3
    turns: int = 25
    fields: int = 32


QUICK = Budget(0.1, (1,), (2, 6), 20, 64 * 36, 2, 2, 16)


@dataclass(frozen=True)
class Search:
    """The networks of one lattice, by name; their trainings, and what is known of them in the file.

    Attributes:
        folder: where everything is kept.
        L: extent of the lattice.
        networks: configurations by name.
        budget: how much is done.
        learning_rate: of the trainings.
        start: extent and seconds of the trainings whose models are started from; None for new ones.
    """

    folder: Path
    L: int
    networks: Mapping[str, Mapping[str, Any]]
    budget: Budget
    learning_rate: float
    start: tuple[int, float] | None

    def name(self, network: str, seed: int) -> str:
        """The name of a training, by which its file and its result are found."""
        start = "" if self.start is None else f" from L{self.start[0]}, {self.start[1]:g} s"
        rate = f", rate {self.learning_rate:g}" if self.learning_rate != RATE else ""
        return f"L{self.L}, {network}, seed {seed}, {self.budget.seconds:g} s{start}{rate}"

    def trained(self, network: str, ensemble: StoredRun, seed: int, steps: int, path: Path) -> dmmc.DiffusionModel:
        """A model after so many steps."""
        options = TrainingOptions(
            steps=steps, seed=seed, learning_rate=self.learning_rate, validation_every=10**6, checkpoint_seconds=1e9
        )
        init = None
        if self.start is not None:
            before = f"L{self.start[0]}, {network}, seed {seed}, {self.start[1]:g} s.safetensors"
            init = dmmc.DiffusionModel.load(self.folder / before)
        config = None if init is not None else self.networks[network]
        return train(ensemble, path, options, config=config, init=init, overwrite=True, say=lambda _: None)

    def step_times(self, ensemble: StoredRun) -> dict[str, float]:
        """CPU seconds of a training step, by network, all of them in turns: slopes between short and longer trainings.

        Of each training the least time counts, since other work on the machine can only slow it down.
        """
        given, path = read_ensemble(ensemble, None), self.folder / "timed.safetensors"
        few = replace(given, phi=given.phi[:: max(1, len(given.phi) // 1024)], chains=None)
        short, long = self.budget.timed
        least = {(name, steps): math.inf for name in self.networks for steps in (short, long)}
        for _ in range(self.budget.rounds):
            for name, steps in least:
                began = time.process_time()
                self.trained(name, few, self.budget.seeds[0], steps, path)
                least[name, steps] = min(least[name, steps], time.process_time() - began)
        path.unlink()
        return {name: max((least[name, long] - least[name, short]) / (long - short), 1e-3) for name in self.networks}

    def quality(self, model: dmmc.DiffusionModel, seed: int) -> dict[str, Any]:
        """ESS/N, acceptance, tau_int of M^2 and M of the chain of a model, and the evaluations of a proposal."""
        flow, action = flow_proposal(model, method="dopri5"), model.known_action()
        assert action is not None
        flows = {share: with_known_steps(flow, USUAL_DRAWS, share) or flow for share in SHARES}
        phi, log_q = flows[SHARES[0]].sample(self.budget.sites // flow.lattice.volume, stream(seed, "quality"))
        phi = phi.double()
        log_w, m = (-action(phi) - log_q).numpy(), phi.flatten(1).mean(1).numpy()
        return {
            "ess": ess_fraction(log_w),
            "acceptance": expected_acceptance(log_w),
            "tau_int": {"M2": predicted_tau_int(log_w, m**2), "M": predicted_tau_int(log_w, m)},
            "evaluations": {f"{share:g}": one.evaluations for share, one in flows.items()},
            "schedules": {f"{share:g}": one.schedule for share, one in flows.items()},
        }

    def evaluation_times(self, models: Mapping[str, dmmc.DiffusionModel]) -> dict[str, float]:
        """CPU seconds of an evaluation for one field, by network, all of them in turns."""
        flows = {name: flow_proposal(model, method="dopri5") for name, model in models.items()}
        # About as many steps for all of them, since a proposal also has costs that do not grow with the steps.
        flows = {name: flow.with_schedule((-(-6 // flow.intervals),) * flow.intervals) for name, flow in flows.items()}
        least = dict.fromkeys(flows, math.inf)
        for turn in range(self.budget.turns + 1):  # the first one compiles what is not compiled yet
            for name, flow in flows.items():
                latents = flow.latents(self.budget.fields, stream(turn, "times"))
                began = time.process_time()
                flow.push(latents)
                if turn:
                    least[name] = min(least[name], time.process_time() - began)
        return {name: x / self.budget.fields / flows[name].evaluations for name, x in least.items()}


def changed(size: str, changes: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the configuration of a changed network, unless it is the size itself.

    Raises:
        KeyError: if a change is unknown.
    """
    config: dict[str, Any] = dict(SIZES[size])
    for change in changes.split(" + "):
        config |= CHANGES[change]
    if changes == "none":
        yield size, config
    elif config != SIZES[size]:
        yield f"{size}, {changes}", config


def mean_and_error(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """The mean over the seeds. Its error is that of their scatter or of the values themselves, whichever is larger."""
    n = len(values)
    scatter = values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(max(scatter, np.linalg.norm(errors) / n))


def table(networks: Mapping[str, list[dict[str, Any]]], seconds: Mapping[str, float]) -> str:
    """What was found, as text; costs are relative to the first network."""
    rows = [["network", "steps", "ESS/N", "acceptance", "tau_int of M^2", "evaluations", "time of one"]]
    rows[0] += [f"cost of M^2, bias share {share:g}" for share in SHARES] + ["of M"]
    first, costs = next(iter(networks)), {}
    for name, found in networks.items():
        tau = {o: np.array([one["tau_int"][o] for one in found]).T for o in ("M2", "M")}
        n = {share: np.array([one["evaluations"][f"{share:g}"] for one in found]) for share in SHARES}
        costs[name] = [
            mean_and_error(*(2 * n[share] * seconds[name] * x for x in (np.maximum(tau[o][0], 0.5), tau[o][1])))
            for o, share in (("M2", SHARES[0]), ("M2", SHARES[1]), ("M", SHARES[0]))
        ]
        means = [np.mean([one[key] for one in found]) for key in ("steps", "ess", "acceptance")]
        row = [name, f"{means[0]:.0f}", f"{means[1]:.3f}", f"{means[2]:.3f}"]
        row.append("{:.3f} +- {:.3f}".format(*mean_and_error(*tau["M2"])))
        row += [", ".join(f"{x.mean():.0f}" for x in n.values()), f"{seconds[name] / seconds[first]:.2f}"]
        for (cost, error), (usual, its) in zip(costs[name], costs[first], strict=True):
            spread = 0.0 if name == first else math.hypot(error / cost, its / usual)
            row.append(f"{cost / usual:.2f} +- {cost / usual * spread:.2f}")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def searched(search: Search, ensemble: StoredRun) -> str:
    """Train and measure what is not yet in the file; returns the table."""
    kept, seeds = search.folder / "sizes.json", search.budget.seeds
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}

    def keep(key: str, value: dict[str, Any]) -> None:
        found[key] = value
        kept.write_text(json.dumps(found, indent=2) + "\n")

    def once(what: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        # Only what took turns with each other is compared.
        key = f"L{search.L}: seconds of {what}, {'; '.join(search.networks)}"
        if key not in found:
            keep(key, measure())
        return found[key]

    step = once("a training step", lambda: search.step_times(ensemble))
    files = {(x, k): search.folder / f"{search.name(x, k)}.safetensors" for k in seeds for x in search.networks}
    for (name, seed), path in files.items():
        key = search.name(name, seed)
        if key not in found:
            steps = max(1, round(search.budget.seconds / step[name]))
            began = time.process_time()
            model = search.trained(name, ensemble, seed, steps, path)
            spent = time.process_time() - began
            keep(key, {"steps": steps, "seconds": spent} | search.quality(model, seed))
            print(f"{key}: {steps} steps, ESS/N {found[key]['ess']:.3f}, {found[key]['schedules']}", flush=True)
    seconds = once(
        "an evaluation",
        lambda: search.evaluation_times({x: dmmc.DiffusionModel.load(files[x, seeds[0]]) for x in search.networks}),
    )
    return table({name: [found[search.name(name, x)] for x in seeds] for name in search.networks}, seconds)


def main() -> None:
    """Train every network with every seed, and print what their samples cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument(
        "--L", type=int, choices=list(COUPLINGS), default=16, help="extent of the lattice (default: 16)"
    )
    parser.add_argument(
        "--around", nargs="+", choices=list(SIZES), default=[USUAL], help=f"sizes that are changed (default: {USUAL})"
    )
    parser.add_argument(
        "--changes", nargs="+", default=list(CHANGES), metavar="NAME",
        help="some of the changes, or several at once, such as '2 filters + no diagonals', and 'none' for the size "
        "as it is (default: all, one at a time)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=40.0, metavar="X", help="CPU time of a training (default: 40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--learning-rate", type=float, default=RATE, metavar="X", help=f"(default: {RATE})")
    parser.add_argument(
        "--start", nargs=2, type=float, metavar=("L", "SECONDS"), help="trainings whose models are started from"
    )
    parser.add_argument("--ensemble", type=Path, metavar="RUN", help="a run of this theory (default: one is made)")
    parser.add_argument("--quick", action="store_true", help="little of everything, on a lattice of 6 x 6")
    args = parser.parse_args()
    L = 6 if args.quick else args.L
    budget = QUICK if args.quick else Budget(args.seconds, tuple(args.seeds))
    changes = ["none", "no diagonals"] if args.quick else args.changes
    try:
        networks = dict(network for size in args.around for change in changes for network in changed(size, change))
    except KeyError as error:
        parser.error(f"there is no change {error}; choose from {', '.join(CHANGES)}")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    action, lattice, path = dmmc.Phi4.from_mass(-4.0, COUPLINGS[L], 2), dmmc.Lattice((L, L)), args.out / f"L{L}.h5"
    ensemble = kept_run(
        args.ensemble or path,
        lambda resume: dmmc.make_ensemble(
            action, lattice, path, method="cluster", draws=budget.draws, keep_every=10, trajectory=2.0, resume=resume
        ),
    )
    start = None if args.start is None else (int(args.start[0]), args.start[1])
    print(searched(Search(args.out, L, networks, budget, args.learning_rate, start), ensemble))
    print(f"The results are in {args.out / 'sizes.json'}.")


if __name__ == "__main__":
    main()

"""What an effective sample costs on the clock: the diffusion chain, HMC at its best trajectory length, and clusters.

    python examples/benchmarks/cost.py OUT                           # L = 8, 16 and 32
    python examples/benchmarks/cost.py OUT --sizes 8 16 32 64        # one more; what is there is read
    python examples/benchmarks/cost.py OUT --networks small large    # several sizes of networks
    python examples/benchmarks/cost.py OUT --networks                # none but the models that come with the package
    python examples/benchmarks/cost.py OUT --kappa 0.27 --sizes 16   # another theory
    python examples/benchmarks/cost.py OUT --quick                   # shows that the program runs

The theories are two-dimensional phi^4 theory at m2 = -4, with the couplings at which the correlation length is L/4. On
each lattice a cluster ensemble is made, and a model of each size of network is trained on it, all for the same time;
where models come with the package, they take part, too. The exact chain of each model, HMC with trajectories of
several lengths, and cluster updates give the autocorrelation times, and the same kernels take turns on the clock in
this process. The costs of M, M^2 and S/V are printed, drawn in ``OUT/cost.png`` and written to ``OUT/cost.json``. So
are the operations of a proposal and the bytes that it moves at least through the main memory, as shares of the rates of
a matrix product and of a copy on this machine, and the memory that a thread works in.

An interrupted benchmark goes on where it was. Times are of one machine, and only their ratios may be compared with
those of another. torch uses as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dmmc
from dmmc.core.records import Record, plain
from dmmc.core.rng import child_seed
from dmmc.gallery.kept import kept_arrays, kept_model, kept_run
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.model.interaction import SIZES
from dmmc.model.options import TrainingOptions
from dmmc.pages.figures import make_panels, save
from dmmc.pages.styles import palette
from dmmc.proposals.integrator import Integrator
from dmmc.proposals.ode import footprint
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import summarise
from dmmc.studies.folder import Folder
from dmmc.studies.race import Contestant, Entry, break_even, independence_of, seconds_per_step
from dmmc.studies.sampling import SampleOptions
from dmmc.studies.scan.points import FLOW_BENCHMARK, Point, grid
from dmmc.studies.training import train
from dmmc.theory.descriptions import same_action

OBSERVABLES = {"M": "M", "M2": "M^2", "S_per_site": "S/V"}
COUPLINGS = FLOW_BENCHMARK | {16: 5.0}
"""L -> lam_m at m2 = -4, where the correlation length is L/4; on 16 x 16 it was measured with this package: 3.9."""

LOOSE = 0.1
"""A bias that is still far below the statistical error; models that come with the package also run with it."""

HMC_NAME, CLUSTER, CEILING, COPY = "HMC", "cluster", "matrix product", "copy"


@dataclass(frozen=True)
class Budget:
    """How much is done on each lattice. The same numbers of sites are updated on all of them.

    Attributes:
        minutes, steps: of the training of each model, one of them.
        sites: sites of all HMC chains together; there are at most 1,024 chains.
        draws: trajectories of each HMC chain, and updates of each cluster chain.
        thermalise: those of them that are made before.
        lengths: trajectory lengths among which HMC chooses, for a field in the normalisation of the hopping form.
        chains, proposed: chains of a model, and their draws. The automatic number of integration steps follows from
            their product.
        turns: how often each sampler is timed; the least time counts.
        seed: of everything.
    """

    minutes: float | None = 2.0
    steps: int | None = None
    sites: int = 1 << 16
    draws: int = 400
    thermalise: int = 150
    lengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    chains: int = 64
    proposed: int = 256
    turns: int = 20
    seed: int = 1

    def hmc_chains(self, point: Point) -> int:
        """HMC chains side by side."""
        return max(8, min(1024, self.sites // point.lattice.volume))


QUICK = Budget(None, 20, 1 << 9, 40, 20, (1.0, 2.0), 16, 40, 2)


@dataclass(frozen=True)
class ModelFacts(Record):
    """What there is to know about a model beside its entry.

    Attributes:
        training: wall seconds of its training, without its ensemble.
        steps: optimiser steps.
        evaluations: network evaluations of a proposal.
        operations: floating-point operations of a proposal.
        of_ceiling: their number a second as a share of that of a matrix product.
        bytes: what a proposal moves at least through the main memory; None where that is not known.
        of_bandwidth: that a second, as a share of the bytes that a copy reads and writes.
        workspace: bytes that a thread works in, for sixteen fields at once.
        ess: effective sample size per proposal.
        bias_bound_sigma: bound on the bias of any observable, in its standard deviations.
        break_even: effective samples of M^2 from which on the training has paid off against HMC; None for never.
    """

    training: float
    steps: int
    evaluations: float
    operations: float
    of_ceiling: float
    bytes: float | None
    of_bandwidth: float | None
    workspace: int | None
    ess: float | None
    bias_bound_sigma: float | None
    break_even: float | None


@dataclass(frozen=True)
class Costs(Record):
    """The samplers on one lattice.

    Attributes:
        L: extent of the lattice.
        action: description of the theory.
        entries: by sampler, HMC at the best of its lengths.
        lengths: seconds for an effective M^2 of HMC, by trajectory length.
        models: by sampler.
    """

    L: int
    action: dict[str, Any]
    entries: dict[str, Entry]
    lengths: dict[str, float]
    models: dict[str, ModelFacts]

    def ratio(self, name: str, observable: str) -> tuple[float, float]:
        """How many times as much wall time HMC needs for an effective sample, and the error of that."""
        pair = [self.entries[x] for x in (HMC_NAME, name)]
        ratio = pair[0].cost[observable] / pair[1].cost[observable]
        found = (x.estimates[observable] for x in pair)
        return ratio, ratio * math.hypot(*(x.tau_int_error / x.tau_int for x in found))


def costs(point: Point, folder: Path, networks: Sequence[str], budget: Budget) -> Costs:
    """Run, train and time everything on one lattice."""
    print(f"L = {point.L}", flush=True)

    def ensemble(method: str, length: float) -> StoredRun:
        return kept_run(
            folder / f"{method}-{length:g}.h5",
            lambda resume: dmmc.make_ensemble(
                point.action,
                point.lattice,
                folder / f"{method}-{length:g}.h5",
                method=method,
                chains=budget.hmc_chains(point),
                draws=budget.draws,
                keep_every=10 if method == "cluster" else 0,
                thermalise=budget.thermalise,
                trajectory=length,
                seed=child_seed(budget.seed, method, point.name),
                resume=resume,
            ),
        )

    cluster = ensemble("cluster", 2.0)
    hmc = {length: ensemble("hmc", length) for length in budget.lengths}
    models = {f"diffusion, {size}": trained(point, folder, size, cluster, budget) for size in networks}
    shipped = {name: dmmc.load_pretrained(name) for name in dmmc.pretrained_names()}
    described, shape = point.action.describe(), point.lattice.shape
    here = {
        name: model
        for name, model in shipped.items()
        if model.lattice.shape == shape and same_action(model.action, described)
    }
    loose = {f"{name}, bias share {LOOSE:g}": model for name, model in here.items()}
    models |= here | loose
    chains = {
        name: chain_of(model, folder / f"{name}.h5", budget, LOOSE if name in loose else SampleOptions().bias_share)
        for name, model in models.items()
    }
    # Turns are short, so that other work on the machine spares some of them.
    contestants = {
        name: Contestant(independence_of(chains[name], model, point.action), budget.chains, 1)
        for name, model in models.items()
    }
    side = budget.hmc_chains(point)
    contestants[CLUSTER] = Contestant(cluster_of(cluster, point), side, 1)
    contestants |= {f"HMC {x:g}": Contestant(hmc_of(run.header.kernel, point), side, 1) for x, run in hmc.items()}
    found = kept_arrays(
        folder / f"times of {', '.join(models)}.npz",
        1,
        lambda _: (
            {name: [x] for name, x in seconds_per_step(contestants, budget.turns, budget.seed).items()}
            | {CEILING: [matrix_product_rate(budget.turns)], COPY: [copy_rate(budget.turns)]}
        ),
    )
    seconds = {name: float(x[0]) for name, x in found.items()}
    ceilings = seconds.pop(CEILING), seconds.pop(COPY)
    tried = {x: Entry.of(run, seconds[f"HMC {x:g}"], tuple(OBSERVABLES), x) for x, run in hmc.items()}
    best = min(tried.values(), key=lambda entry: entry.cost["M2"])
    entries = {name: Entry.of(run, seconds[name], tuple(OBSERVABLES)) for name, run in chains.items()}
    facts = {name: facts_of(model, chains[name], entries[name], best, ceilings) for name, model in models.items()}
    entries |= {HMC_NAME: best, CLUSTER: Entry.of(cluster, seconds[CLUSTER], tuple(OBSERVABLES), 2.0)}
    lengths = {f"{x:g}": entry.cost["M2"] for x, entry in tried.items()}
    return Costs(point.L, point.action.describe(), entries, lengths, facts)


def trained(point: Point, folder: Path, size: str, ensemble: StoredRun, budget: Budget) -> dmmc.DiffusionModel:
    """A model with a network of the given size."""
    path = folder / f"{size}.safetensors"
    options = TrainingOptions(minutes=budget.minutes, steps=budget.steps, seed=budget.seed)
    return kept_model(path, lambda resume: train(ensemble, path, options, size=size, resume=resume))


def chain_of(model: dmmc.DiffusionModel, path: Path, budget: Budget, bias_share: float) -> StoredRun:
    """The exact chain of a model, with steps for the given bias in units of the statistical error."""
    return kept_run(
        path,
        lambda resume: dmmc.sample(
            model,
            path,
            chains=budget.chains,
            draws=budget.proposed,
            keep_every=0,
            bias_share=bias_share,
            seed=budget.seed,
            resume=resume,
        ),
    )


def hmc_of(described: Mapping[str, Any], point: Point) -> HMC:
    """The tuned HMC kernel of a run."""
    return HMC(point.action, point.lattice, **{name: x for name, x in described.items() if name != "name"})


def cluster_of(run: StoredRun, point: Point) -> Cluster:
    """The tuned cluster kernel of a run."""
    return Cluster(hmc_of(run.header.kernel["local"], point), run.header.kernel["n_local"])


def matrix_product_rate(turns: int, n: int = 1024) -> float:
    """Floating-point operations a second of the product of two n x n matrices in float32."""
    a = torch.ones(n, n)
    least = math.inf
    for _ in range(turns):
        began = time.perf_counter()
        a @ a
        least = min(least, time.perf_counter() - began)
    return 2 * n**3 / least


def copy_rate(turns: int, n: int = 1 << 26) -> float:
    """Bytes a second that a copy of n numbers in float32 reads and writes; they do not fit into any cache."""
    a, b, least = torch.ones(n), torch.empty(n), math.inf
    for _ in range(turns):
        began = time.perf_counter()
        b.copy_(a)
        least = min(least, time.perf_counter() - began)
    return 2 * 4 * n / least


def facts_of(
    model: dmmc.DiffusionModel, run: StoredRun, entry: Entry, hmc: Entry, ceilings: tuple[float, float]
) -> ModelFacts:
    """What there is to know about a model; ``ceilings`` are the rates of a matrix product and of a copy."""
    summary, history, flow = summarise(run), model.history, run.header.provenance["flow"]
    memory = footprint(model, Integrator(tuple(flow["n_steps"]), flow["method"]))
    seconds = 0.0 if history is None else history.seconds
    operations = (model.network.operations or math.nan) * model.lattice.volume * run.header.cost["network"]
    n = break_even(seconds, entry.cost["M2"], hmc.cost["M2"])
    return ModelFacts(
        training=seconds,
        steps=0 if history is None else history.steps,
        evaluations=run.header.cost["network"],
        operations=operations,
        of_ceiling=operations / entry.seconds / ceilings[0],
        bytes=None if memory is None else memory.traffic,
        of_bandwidth=None if memory is None else memory.traffic / entry.seconds / ceilings[1],
        workspace=None if memory is None else memory.workspace,
        ess=summary.ess_fraction,
        bias_bound_sigma=summary.bias_bound_sigma,
        break_even=n if math.isfinite(n) else None,
    )


def arithmetic(facts: ModelFacts) -> tuple[str, ...]:
    """The columns of the table about arithmetic and memory."""
    if facts.bytes is None or facts.workspace is None:
        return f"{facts.evaluations:g}", f"{facts.of_ceiling:.2f}", "", "", ""
    memory = f"{facts.bytes / 1e3:.3g}", f"{facts.of_bandwidth:.2g}", f"{facts.workspace / 1e3:.0f}"
    return f"{facts.evaluations:g}", f"{facts.of_ceiling:.2f}", *memory


def table(found: Sequence[Costs]) -> str:
    """All costs as text."""
    rows = [
        ["L", "sampler", "evaluations", "of product", "kB", "of copy", "kB at work", "accepted", "tau M^2", "us a step"]
    ]
    rows[0] += [f"us {text}" for text in OBSERVABLES.values()]
    rows[0] += [f"HMC / it, {text}" for text in OBSERVABLES.values()] + ["training (s)", "pays off after"]
    for on in found:
        for k, (name, entry) in enumerate(on.entries.items()):
            facts = on.models.get(name)
            label = name if entry.length is None else f"{name}, length {entry.length:g}"
            tau = entry.estimates["M2"]
            row = [
                str(on.L) if k == 0 else "",
                label,
                *(("",) * 5 if facts is None else arithmetic(facts)),
            ]
            row += [
                f"{entry.acceptance:.3f}",
                f"{tau.tau_int:.2f}({tau.tau_int_error:.2f})",
                f"{1e6 * entry.seconds:.4g}",
            ]
            row += [f"{1e6 * entry.cost[observable]:.4g}" for observable in OBSERVABLES]
            ratios = [on.ratio(name, observable) for observable in OBSERVABLES]
            row += ["1" if name == HMC_NAME else f"{ratio:.3g} +- {error:.1g}" for ratio, error in ratios]
            never = "never" if facts is not None else ""
            row += ["" if facts is None else f"{facts.training:.0f}"]
            row += [never if facts is None or facts.break_even is None else f"{facts.break_even:.2g} M^2"]
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def draw(found: Sequence[Costs], path: Path) -> None:
    """Costs against L, and the time for many samples on the largest lattice, training included."""
    figure, (cost, total) = make_panels(9.5, 4.2, columns=2)
    n = np.geomspace(1e2, 1e8, 200)
    # Models of several lattices that differ in the name of the lattice alone are one series.
    series: dict[str, dict[int, tuple[Costs, str]]] = {}
    for on in found:
        for name in on.entries:
            series.setdefault(name.replace(f"-L{on.L}", ""), {})[on.L] = (on, name)
    # What there is on one lattice alone shows nothing about L, and is in the table.
    series = {label: there for label, there in series.items() if len(there) > 1 or len(found) == 1}
    for (label, there), look in zip(series.items(), palette(list(series)).values(), strict=True):
        entries = [on.entries[name] for on, name in there.values()]
        y = np.array([1e3 * entry.cost["M2"] for entry in entries])
        error = y * [entry.estimates["M2"].tau_int_error / entry.estimates["M2"].tau_int for entry in entries]
        cost.errorbar(list(there), y, error, color=look.colour, marker=look.marker, linestyle=look.line, label=label)
        if found[-1].L in there:
            on, name = there[found[-1].L]
            facts = on.models.get(name)
            spent = n * on.entries[name].cost["M2"] + (0.0 if facts is None else facts.training)
            total.plot(n, spent / 3600, color=look.colour, linestyle=look.line)
    cost.set(xlabel="L", ylabel="wall time of an effective $M^2$ (ms)", xscale="log", yscale="log")
    sizes = [on.L for on in found]
    cost.set_xticks(sizes, list(map(str, sizes)))
    cost.minorticks_off()
    cost.legend(frameon=False, fontsize=8)
    total.set(
        xlabel=f"effective samples of $M^2$, L = {found[-1].L}", ylabel="wall time, training included (h)",
        xscale="log", yscale="log",
    )  # fmt: skip
    save(figure, path)


def main() -> None:
    """Measure on one lattice after another, and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="L", help="extents of the lattices (default: 8 16 32)")
    parser.add_argument(
        "--networks", nargs="*", choices=list(SIZES), default=["small"], help="sizes of networks (default: small)"
    )
    parser.add_argument("--kappa", type=float, metavar="X", help="the hopping form at lam = 0.022, at this kappa")
    parser.add_argument("--minutes", type=float, metavar="X", help="of training for each model (default: 2)")
    parser.add_argument("--quick", action="store_true", help="little of everything, on a lattice of 6 x 6")
    args = parser.parse_args()
    budget = QUICK if args.quick else Budget() if args.minutes is None else Budget(minutes=args.minutes)
    sizes = args.sizes or ((6,) if args.quick else (8, 16, 32))
    if args.kappa is not None:
        points = grid({f"kappa{args.kappa:g}": dmmc.Phi4(args.kappa, 0.022)}, sizes, 2, "L")
    elif unknown := set(sizes) - set(COUPLINGS):
        parser.error(f"no coupling is known for L = {unknown}; choose from {', '.join(map(str, sorted(COUPLINGS)))}")
    else:
        theories = {L: dmmc.Phi4.from_mass(-4.0, COUPLINGS[L], 2) for L in sizes}
        points = tuple(Point(f"L{L}", theory, dmmc.Lattice((L, L)), "") for L, theory in theories.items())
    Folder(args.out, "cost benchmark", plain(asdict(budget)), lambda _: ()).open(resume=True, overwrite=False)
    found: list[Costs] = []
    for point in points:
        found.append(costs(point, args.out / point.name, args.networks, budget))
        results = {"dmmc": dmmc.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        results |= {"budget": plain(budget), "lattices": plain(found)}
        (args.out / "cost.json").write_text(json.dumps(results, indent=2) + "\n")
        draw(found, args.out / "cost.png")
        print(table(found), flush=True)
    print(f"The results are in {args.out / 'cost.json'} and {args.out / 'cost.png'}.")


if __name__ == "__main__":
    main()

"""A thousand HMC configurations in, a hundred thousand exact ones out; and the same from none.

A model is trained on 1,000 configurations of an expensive run and then on its own chain, and another one on its own
chain alone, from the free field. Both are frozen, and the chain of the first one makes 100,000 configurations. The
exhibit shows how much smaller the errors have become, what each observable gains against HMC in the same CPU time, and
how the models became good.

A model that was trained on an ensemble holds no information that was not in it. The configurations of its chain are
exact all the same, and worth as many as they are, because every one of them is weighed with the action.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmmc import diagnostics
from dmmc.core import rng
from dmmc.diagnostics import DiagnosticsWarning, Estimate
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery.exhibit import Exhibit, Findings, Request
from dmmc.gallery.kept import kept_model, kept_run
from dmmc.gallery.statistics_figures import drawings
from dmmc.kernels.base import Kernel
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.history import RoundRecord
from dmmc.model.options import TrainingOptions
from dmmc.pages.table import format_z
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import estimates, summarise
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.rounds import RoundOptions, train_rounds
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.theory.lattice import Lattice
from dmmc.theory.momenta import orbit_phat2
from dmmc.theory.phi4 import Phi4

ACTION = Phi4(kappa=0.27, lam=0.022)  # in the critical region: xi is 11 on 16 x 16

NETWORK = {"hidden1": 8, "hidden2": 8, "filters": 4}
"""A twentieth of the operations of the default network, for nearly the same acceptance."""

TRAJECTORIES = 4
"""Of the posterior chains that average the targets; a quarter of the default, so that more steps fit into the time."""

FLOW_STEPS = 10
"""Of the production chain; by its certificate they make a bias of at most a ninth of a statistical error."""

OBSERVABLES = ("M", "abs_M", "M2", "M4", "chi2", "binder", "xi", "phi2", "S_per_site")

REPEATS = 5
"""How often each sampler is timed, in turn; the least CPU time counts."""


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        extent: of the square lattice.
        chains: HMC chains of the given ensemble, each with ``kept`` configurations, ``keep_every`` trajectories apart.
        kept, keep_every: see there.
        draws: draws of each of 100 chains of the model.
        rival: trajectories of each of 64 HMC chains that the errors of HMC are taken from.
        truth: draws of each of 64 chains of cluster updates.
        steps: optimiser steps of each of the two trainings, all rounds together.
        rounds: rounds of the training from none.
        proposals: proposals of a round.
        timed: steps of all chains in a timing.
    """

    extent: int
    chains: int
    kept: int
    keep_every: int
    draws: int
    rival: int
    truth: int
    steps: int
    rounds: int
    proposals: int
    timed: int


FULL = Size(16, 50, 20, 12, 1000, 2000, 2000, 2400, 6, 1024, 4)
QUICK = Size(4, 20, 10, 4, 40, 100, 100, 160, 3, 256, 2)

PARALLEL, RIVALS = 100, 64


@dataclass(frozen=True)
class Gain:
    """What one observable gains.

    Attributes:
        given: from the given configurations alone.
        exact: from the chain of the model.
        same_time: the error of HMC in the CPU time of that chain.
        gain: how many times as much CPU time HMC needs for the same error; training is not counted.
        gain_error: its standard error.
        z: how far the chain is from the cluster run, in standard errors.
    """

    given: Estimate
    exact: Estimate
    same_time: float
    gain: float
    gain_error: float
    z: float


def make(request: Request) -> Findings:
    """Make the exhibit."""
    size = QUICK if request.quick else FULL
    lattice = Lattice((size.extent,) * 2)
    given = _baseline(request, lattice, "hmc", "given", size.chains, size.kept * size.keep_every, size.keep_every)
    rival = _baseline(request, lattice, "hmc", "rival", RIVALS, size.rival)
    truth = _baseline(request, lattice, "cluster", "cluster", RIVALS, size.truth)
    n = size.chains * size.kept
    request.say(f"a model from {n:,} HMC configurations")
    model = _model(request, "given", RoundOptions(2, size.proposals), size, ensemble=given)
    request.say("a model from none")
    annealed = _model(request, "none", RoundOptions(size.rounds, size.proposals), size, lattice=lattice)
    request.say(f"a chain of {PARALLEL * size.draws:,} configurations")
    chain = kept_run(
        request.folder / "chain.h5",
        lambda resume: sample(
            model,
            request.folder / "chain.h5",
            SampleOptions(
                chains=PARALLEL,
                flow_steps=FLOW_STEPS,
                run=ChainOptions(size.draws, keep_every=max(1, size.draws // 50), seed=request.child_seed("chain")),
            ),
            resume=resume,
            say=request.say,
        ),
    )
    costs = _cpu_seconds({"HMC": _hmc(rival), "chain": _independence(chain, model)}, size.timed)
    gains = _gains(given, rival, truth, chain, costs)
    curves = {f"from {n:,} HMC configurations": _curve(model), "from none": _curve(annealed)}
    return Findings(
        drawings(gains, curves, n, PARALLEL * size.draws),
        _table(gains, n, PARALLEL * size.draws),
        _findings(gains, costs, chain, {"given": model, "none": annealed}, n, PARALLEL * size.draws),
        {
            "configurations in": n,
            "configurations out": PARALLEL * size.draws,
            "acceptance": summarise(chain).acceptance,
            "cpu seconds per step and chain": costs,
            "observables": gains,
            "learning curves": curves,
            "training wall seconds": {"given": _seconds(model), "none": _seconds(annealed)},
        },
    )


def _baseline(
    request: Request, lattice: Lattice, method: str, name: str, chains: int, draws: int, keep_every: int = 0
) -> StoredRun:
    run = ChainOptions(draws, keep_every=keep_every, block=256, seed=request.child_seed(name))
    path = request.folder / f"{name}.h5"
    options = EnsembleOptions(method, chains=chains, run=run)
    return kept_run(path, lambda resume: make_ensemble(ACTION, lattice, path, options, resume=resume, say=request.say))


def _model(request: Request, name: str, rounds: RoundOptions, size: Size, **beginning: Any) -> DiffusionModel:
    path = request.folder / f"{name}.safetensors"
    seed = request.child_seed("training", name)
    options = TrainingOptions(steps=size.steps, trajectories=TRAJECTORIES, seed=seed)
    return kept_model(
        path,
        lambda resume: train_rounds(
            ACTION, path, options, rounds, config=NETWORK, resume=resume, say=request.say, **beginning
        ),
    )


def _hmc(run: StoredRun) -> HMC:
    """The tuned kernel of an HMC run."""
    kernel = run.header.kernel
    return HMC(ACTION, Lattice(run.lattice), kernel["step_size"], kernel["n_leapfrog"], kernel["jitter"])


def _independence(run: StoredRun, model: DiffusionModel) -> Independence:
    """The kernel of the chain of a model."""
    flow = run.header.provenance["flow"]
    return Independence(ACTION, model.lattice, flow_proposal(model, tuple(flow["n_steps"]), method=flow["method"]))


def _cpu_seconds(kernels: Mapping[str, Kernel[Any]], steps: int) -> dict[str, float]:
    """CPU seconds of a step of one chain among many, by sampler: the least of several timings, made in turn."""
    least = dict.fromkeys(kernels, float("inf"))
    states = {name: kernel.initial(PARALLEL, rng.stream(0, "timing", name)) for name, kernel in kernels.items()}
    for repeat in range(REPEATS):
        for name, kernel in kernels.items():
            began = time.process_time()
            for _ in kernel.steps(states[name], steps, rng.stream(repeat, "timing", name)):
                pass
            least[name] = min(least[name], (time.process_time() - began) / (steps * PARALLEL))
    return least


def _given_alone(run: StoredRun) -> dict[str, Estimate]:
    """The observables of the stored configurations of a run, as if it had recorded nothing else."""
    kept = np.unique(run.cfg_index[:, 1])
    series = {name: values[:, kept] for name, values in run.observables.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # that they are few is what this is about
        return diagnostics.summary(series, run.volume, float(orbit_phat2(run.lattice)[1]))


def _gains(
    given: StoredRun, rival: StoredRun, truth: StoredRun, chain: StoredRun, costs: Mapping[str, float]
) -> dict[str, Gain]:
    alone, hmc, exact, cluster = _given_alone(given), estimates(rival), estimates(chain), estimates(truth)
    found = {}
    # The whole chains are timed alike, so that their lengths enter with the cost of one step.
    time_of = {
        "HMC": rival.n_chains * rival.n_draws * costs["HMC"],
        "chain": chain.n_chains * chain.n_draws * costs["chain"],
    }
    for name in (x for x in OBSERVABLES if x in exact and x in hmc):
        a, b = hmc[name], exact[name]
        same_time = a.error * (time_of["HMC"] / time_of["chain"]) ** 0.5
        gain = (same_time / b.error) ** 2
        spread = 2 * np.hypot(a.error_error / a.error, b.error_error / b.error)
        found[name] = Gain(alone[name], b, same_time, gain, float(gain * spread), diagnostics.z_score(b, cluster[name]))
    return found


def _curve(model: DiffusionModel) -> tuple[RoundRecord, ...]:
    assert model.history is not None and model.history.rounds is not None
    return model.history.rounds.records


def _seconds(model: DiffusionModel) -> float:
    """Wall time of all trainings of a model."""
    history, total = model.history, 0.0
    while history is not None:
        total, history = total + history.seconds, history.before
    return total


def _table(gains: Mapping[str, Gain], n_in: int, n_out: int) -> str:
    rows = [["observable", f"{n_in:,} of HMC", f"{n_out:,} exact", "z", "error smaller by", "CPU time gained"]]
    for name, x in gains.items():
        smaller = f"{x.given.error / x.exact.error:.1f}"
        gained = diagnostics.format_value(x.gain, x.gain_error)
        rows.append([symbol(name).text, str(x.given), str(x.exact), format_z(x.z), smaller, gained])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(
        [
            *lines,
            "z: difference of the exact chain from cluster updates, in standard errors",
            "CPU time gained: what HMC needs for the same error over what the chain needs, training not counted",
        ]
    )


def _findings(
    gains: Mapping[str, Gain],
    costs: Mapping[str, float],
    chain: StoredRun,
    models: Mapping[str, DiffusionModel],
    n_in: int,
    n_out: int,
) -> tuple[str, ...]:
    last = {name: _curve(model)[-1] for name, model in models.items()}
    rounds = {name: len([x for x in _curve(model) if x.steps]) for name, model in models.items()}
    smaller = {name: x.given.error / x.exact.error for name, x in gains.items()}
    better = [name for name, x in gains.items() if x.gain > 1]
    acceptance = summarise(chain).acceptance
    seconds = [_seconds(models[name]) for name in ("given", "none")]
    text = lambda names: ", ".join(symbol(name).text for name in names) or "none"  # noqa: E731
    return (
        f"From {n_in:,} HMC configurations and {rounds['given']} rounds on its own chain, the model proposes with an "
        f"acceptance of {last['given'].acceptance:.2f}; from none, in {rounds['none']} rounds from the free field, "
        f"with {last['none'].acceptance:.2f}. The chain of the first one, frozen, accepts {acceptance:.2f} of its "
        "proposals.",
        f"The {n_out:,} configurations of this chain make the errors smaller by factors of {min(smaller.values()):.0f} "
        f"to {max(smaller.values()):.0f} than the {n_in:,} that were given.",
        f"In the CPU time of the chain ({1e3 * costs['chain']:.2g} ms a step, {1e3 * costs['HMC']:.2g} ms an HMC "
        f"trajectory), HMC has larger errors of {text(better)}, and smaller ones of "
        f"{text(name for name in gains if name not in better)}. The force of phi^4 is nearly free, which makes it the "
        "worst case for a learned proposal.",
        f"The trainings took {seconds[0]:.0f} s and {seconds[1]:.0f} s of wall time, with all "
        "proposals of their rounds.",
        "The largest difference from the results of cluster updates is "
        f"{max(abs(x.z) for x in gains.values()):.1f} standard errors, of {len(gains)} observables.",
        *(f"{name}: {remark}" for name, model in models.items() for remark in model.remarks),
    )


EXHIBIT = Exhibit(
    "statistics",
    "1,000 HMC configurations in, 100,000 exact ones out",
    "enhanced statistics, after Wang, Aarts, Zhou, JHEP 05 (2024) 060",
    12,
    make,
    figures=("gain", "learning"),
    files=("given.h5", "rival.h5", "cluster.h5", "given.safetensors", "none.safetensors", "chain.h5"),
)

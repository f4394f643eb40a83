"""The figures of docs/*.md, from small runs of the package: two-dimensional phi^4, lam = 0.022.

    python docs/make_figures.py docs/figures [--runs DIR]

Two theories on 8 x 8: kappa = 0.27, near the transition, and kappa = 0.29, where M has two peaks and HMC does not
cross between them. At the latter there are three models: a good one, one that was hardly trained, and one that proposes
M > 0 only. This takes about four minutes on one core, and the figure of ``dmmc exactness`` as long as that command.
Runs go to a temporary folder, or are kept in DIR and found there again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import dmmc
from dmmc import DiffusionModel, Lattice, Phi4, Run, diagnostics
from dmmc.core import rng
from dmmc.diagnostics import format_value
from dmmc.diagnostics.symbols import symbol
from dmmc.kernels.hmc import LENGTH
from dmmc.model.options import TrainingOptions
from dmmc.pages import figures
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import COLOURS, styles
from dmmc.proposals.certify import measure_delta
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import bias_bound_sigma
from dmmc.studies import exactness, training
from dmmc.studies.exactness import ExactnessOptions, LaboratoryResult
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Point, flow_benchmark, grid
from dmmc.studies.scan.results import ScanResult
from dmmc.studies.scan.run import scan
from dmmc.theory.momenta import orbit_phat2
from dmmc.theory.sectors import align

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATTICE = Lattice((8, 8))
CRITICAL, BROKEN = Phi4(kappa=0.27, lam=0.022), Phi4(kappa=0.29, lam=0.022)
NETWORK = {"filters": 4, "hidden1": 16, "hidden2": 8}
FLOW_STEPS = 10
MODELS = ("good", "under-trained", "collapsed")
SEED = 1


class Runs:
    """Everything that the figures are drawn from, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ensemble(self, action: Phi4, method: str) -> Run:
        """64 chains of a baseline sampler; those of HMC are slow, to show what slow chains look like."""
        path = self.folder / f"{method}-{action.kappa}.h5"
        if path.exists():
            return dmmc.load_run(path)
        length = 1.0 if method == "hmc" else LENGTH
        return dmmc.make_ensemble(
            action, LATTICE, path, method=method, chains=64, draws=1000, keep_every=20, trajectory=length, seed=SEED
        )

    def fields(self, action: Phi4) -> tuple[torch.Tensor, torch.Tensor]:
        """Independent fields of the target: some to train on, and 512 more to weigh."""
        phi = torch.as_tensor(self.ensemble(action, "cluster").cfgs())
        phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(SEED))]
        return phi[512:], phi[:512]

    def model(self, action: Phi4, name: str) -> DiffusionModel:
        """One of :data:`MODELS`."""
        if name == "collapsed":  # the sector M > 0 without its mirror image
            return replace(self.model(action, "good"), two_sector=False)
        path = self.folder / f"{name}-{action.kappa}.safetensors"
        if path.exists():
            return dmmc.load_model(path)
        return training.train(
            self.fields(action)[0],
            path,
            TrainingOptions(steps=36 if name == "under-trained" else 400, levels=32, seed=SEED),
            action=action,
            config=NETWORK,
            sectors="two" if action is BROKEN and name == "good" else "one",
        )

    def diffusion(self, action: Phi4, name: str = "good") -> Run:
        """The exact chain of a model, with its transient, which is part of what is shown."""
        path = self.folder / f"{name}-{action.kappa}.h5"
        if path.exists():
            return dmmc.load_run(path)
        return dmmc.sample(
            self.model(action, name),
            path,
            chains=16,
            draws=400,
            keep_every=0,
            flow_steps=FLOW_STEPS,
            discard=0,
            reference=self.fields(action)[1],
            seed=SEED,
        )

    @cached_property
    def stuck(self) -> Run:
        """The collapsed model, where one chain of 16 begins in the well that it never proposes."""
        path = self.folder / "stuck.h5"
        if not path.exists():
            flow = dmmc.flow_proposal(self.model(BROKEN, "collapsed"), FLOW_STEPS)
            kernel = dmmc.Independence(BROKEN, LATTICE, flow)
            start = align(self.fields(BROKEN)[1][:16])
            start[5] *= -1
            generator = rng.stream(SEED, "stuck")
            chain.run(kernel, lambda: kernel.start(start, generator), ChainOptions(200, seed=SEED), path)
        return dmmc.load_run(path)

    def verdicts(self, name: str) -> tuple[diagnostics.Verdict, ...]:
        """On the chain of a model in the broken phase, with the cluster chain as the reference."""
        run = self.diffusion(BROKEN, name)
        return diagnostics.judge(
            run.stats["accepted"],
            run.stats["log_w"],
            run.stats["log_w_proposed"],
            run.observables,
            log_w_reference=run.evaluation["log_w_reference"],
            reference=self.ensemble(BROKEN, "cluster").observables,
            bias_bound=bias_bound_sigma(run),
            z2_symmetric=True,
        )

    def scan(self, name: str, points: tuple[Point, ...], **options: Any) -> ScanResult:
        """What a scan gives."""
        folder = self.folder / name
        return scan(points, folder, ScanOptions(seed=SEED, **options), resume=(folder / "plan.json").exists())

    @cached_property
    def sizes(self) -> ScanResult:
        """Along L at fixed xi = L/4."""
        return self.scan(
            "sizes", flow_benchmark((6, 8, 10, 12)), steps=150, diffusion_draws=48, lengths=1000, flow_steps=10
        )

    @cached_property
    def kappas(self) -> ScanResult:
        """Along kappa, across the transition, with clusters."""
        actions = {f"kappa{kappa}": Phi4(kappa, 0.022) for kappa in (0.262, 0.266, 0.27, 0.274, 0.278)}
        points = grid(actions, (6, 8, 12), 2, "kappa")
        return self.scan("kappas", points, along="kappa", samplers=("cluster",), draws=768, lengths=500, thermalise=100)

    @cached_property
    def laboratory(self) -> LaboratoryResult:
        """What ``dmmc exactness`` gives on 8 x 8."""
        folder = self.folder / "exactness"
        return exactness.run_laboratory(ExactnessOptions(CRITICAL), folder, resume=(folder / "plan.json").exists())


def tau_int(runs: Runs) -> Figure:
    """How the window of the Gamma method is chosen."""
    x = runs.ensemble(CRITICAL, "hmc").observables["M2"]
    rho, error = diagnostics.autocorrelation_function(x, 300)
    figure, (left, right) = make_panels(9.6, 3.6, columns=2)
    t = np.arange(len(rho))
    left.plot(t, rho, color=COLOURS[0], linewidth=1.5)
    left.fill_between(t, rho - error, rho + error, color=COLOURS[0], alpha=0.25, linewidth=0)
    left.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    left.set(xlabel="lag t in draws", ylabel=r"$\rho(t)$", xlim=(0, 300))
    left.set_title("Autocorrelation of $M^2$, HMC, with Madras-Sokal errors", fontsize=10)

    n, running = x.size, 0.5 + np.concatenate([[0.0], np.cumsum(rho[1:])])
    spread = 2 * running * np.sqrt(np.maximum(t + 0.5 - running, 0) / n)
    right.plot(t, running, color="0.35", linewidth=1.2)
    right.fill_between(t, running - spread, running + spread, color="0.6", alpha=0.3, linewidth=0)
    for S, look in zip((1.0, 1.5, 2.5), itertools.islice(styles(), 1, None), strict=False):
        tau = diagnostics.gamma_method(x, S)
        label = f"S = {S}: W = {tau.window}, {format_value(tau.tau_int, tau.tau_int_error)}"
        right.errorbar(tau.window, tau.tau_int, tau.tau_int_error, color=look.colour, marker=look.marker, label=label)
    right.set(
        xlabel="window W in draws", ylabel=r"$\frac{1}{2} + \sum_{t=1}^{W} \rho(t)$", xlim=(0, 300), ylim=(0, None)
    )
    right.set_title(r"$\tau_{\rm int}$ against the window", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def blocking(runs: Runs) -> Figure:
    """Errors from blocks against the Gamma method."""
    figure, axes = make_panels(9.6, 3.6, columns=2)
    long = runs.ensemble(CRITICAL, "hmc").observables["M2"]
    for ax, x, title in zip(
        axes, (long, long[:4, :60]), ("64 chains x 1000 draws", "4 chains x 60 draws"), strict=True
    ):
        curve, gamma = diagnostics.blocking(x), diagnostics.gamma_method(x)
        unit = 10.0 ** math.floor(math.log10(gamma.error))
        ax.errorbar(
            curve.size, curve.error / unit, curve.error_error / unit, color=COLOURS[0], marker="o", markersize=3.5,
            linewidth=1.2, elinewidth=1, label="blocks"
        )  # fmt: skip
        low, high = (gamma.error + sign * gamma.error_error for sign in (-1, 1))
        ax.axhspan(low / unit, high / unit, color=COLOURS[1], alpha=0.25, linewidth=0)
        ax.axhline(gamma.error / unit, color=COLOURS[1], linestyle="--", linewidth=1.2, label="Gamma method")
        ax.axhline(curve.error[0] / unit, color="0.6", linewidth=0.8, zorder=0, label="naive, one draw each")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set(xlabel="draws in a block", ylabel=rf"error of $\langle M^2 \rangle$ / {unit:g}", ylim=(0, None))
        ax.set_title(title, fontsize=10)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.17))
    return figure


def rejections(runs: Runs) -> Figure:
    """The rejection history: as an autocorrelation function, and its longest runs."""
    figure, (left, right) = make_panels(9.6, 3.6, columns=2)
    run = runs.diffusion(BROKEN, "under-trained")
    accepted, last = run.stats["accepted"], 60
    t = np.arange(last + 1)
    from_rejections = diagnostics.tau_rejections(accepted)
    left.plot(
        t, diagnostics.rejection_autocorrelation(accepted, last), color="0.2", linewidth=1.5,
        label=f"rejections: {from_rejections}"
    )  # fmt: skip
    for name, colour, line in zip(("M", "phi2", "S_per_site"), COLOURS, ("--", "-.", ":"), strict=False):
        x = run.observables[name]
        rho, error = diagnostics.autocorrelation_function(x, last)
        tau = diagnostics.gamma_method(x)
        label = f"{symbol(name).value.math}: {format_value(tau.tau_int, tau.tau_int_error)}"
        left.plot(t, rho, color=colour, linestyle=line, linewidth=1.2, label=label)
        left.fill_between(t, rho - error, rho + error, color=colour, alpha=0.2, linewidth=0)
    left.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    left.set(xlabel="lag t in draws", ylabel=r"$\rho(t)$", xlim=(0, last))
    left.set_title("Under-trained model", fontsize=10)
    left.legend(title=r"$\tau_{\rm int}$", frameon=False, fontsize=9)

    run = runs.stuck
    longest = diagnostics.rejection_runs(run.stats["accepted"], run.stats["log_w_proposed"])
    chains, expected = np.arange(len(longest.by_chain)), longest.expected
    right.vlines(chains, 0, longest.by_chain, color=COLOURS[0], linewidth=1.2)
    right.plot(chains, longest.by_chain, "o", color=COLOURS[0], markersize=4)
    right.axhline(expected, color=COLOURS[1], linestyle="--", linewidth=1.2)
    right.text(15.4, 1.1 * expected, f"expected for the longest: {expected:.0f}", ha="right", color=COLOURS[1])
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.set(xlabel="chain", ylabel="longest run of rejections, in draws", ylim=(0.8, 400))
    right.set_title("Collapsed model; chain 5 began in the missed mode", fontsize=10)
    return figure


def tail(runs: Runs) -> Figure:
    """How large the largest weights are, and the Pareto shape of that tail."""
    figure, (ax,) = make_panels(6.4, 3.6)
    for name, look in zip(("good", "under-trained"), styles(), strict=False):
        log_w = runs.diffusion(BROKEN, name).stats["log_w_proposed"].ravel()
        w = np.sort(np.exp(log_w - diagnostics.log_z(log_w)[0]))[::-1]
        k, share = diagnostics.pareto_k(log_w), diagnostics.largest_weight_share(log_w)
        label = f"{name}: k = {k:.2f}, largest share {share:.1%}"
        ax.plot(
            w, np.arange(1, w.size + 1) / w.size, color=look.colour, linestyle=look.line, linewidth=1.5, label=label
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(
        xlabel="weight $w$ / mean weight", ylabel="fraction of proposals above $w$", xlim=(0.01, 1000), ylim=(1e-4, 3)
    )
    ax.set_title("The tail of the weights", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def log_z(runs: Runs) -> Figure:
    """log Z in every way, for the three models of one theory."""
    figure, (ax,) = make_panels(7.2, 3.6)
    ways = ("proposals", "lower", "reference", "upper", "bennett")
    labels = ("from proposals", "lower bound", "from the reference", "upper bound", "Bennett")
    origin, edge = None, 3.5
    for row, name in enumerate(MODELS):
        run = runs.diffusion(BROKEN, name)
        estimates = diagnostics.log_z_estimates(run.stats["log_w_proposed"], run.evaluation["log_w_reference"])
        origin = estimates.best.value if origin is None else origin
        for k, (way, label) in enumerate(zip(ways, labels, strict=True)):
            estimate, height = getattr(estimates, way), row + 0.13 * (k - 2)
            x = estimate.value - origin
            style = {"color": COLOURS[k], "marker": "o<s>D"[k], "markersize": 5, "elinewidth": 1, "linestyle": "none"}
            ax.errorbar(x, height, xerr=estimate.error, label=label if row == 0 else None, **style)
            if abs(x) > edge:  # beyond the axis
                tip, text = math.copysign(edge, x), math.copysign(0.84 * edge, x)
                arrow = {"arrowstyle": "->", "color": COLOURS[k]}
                ax.annotate(
                    f"{x:.1f}", (tip, height), (text, height), va="center", ha="right" if x > 0 else "left",
                    color=COLOURS[k], arrowprops=arrow
                )  # fmt: skip
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(-math.log(2), color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.text(-math.log(2), -0.62, r"$-\log 2$ ", ha="right", color="0.4", fontsize=9)
    ax.set(yticks=range(3), yticklabels=MODELS, ylim=(2.5, -0.75), xlim=(-edge, edge))
    ax.set(xlabel=r"$\log Z$ less Bennett's of the good model")
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def integrator(runs: Runs) -> Figure:
    """std(delta) against the steps of the flow."""
    model, steps = runs.model(CRITICAL, "good").to_float64(), np.array([5, 10, 20, 30, 40])
    stds = [
        float(measure_delta(dmmc.flow_proposal(model, n), 64, rng.stream(SEED, "integrator")).std())
        for n in steps.tolist()
    ]
    figure, (ax,) = make_panels(6.4, 3.6)
    error = np.array(stds) / math.sqrt(2 * 63)
    ax.errorbar(steps, stds, error, color=COLOURS[0], marker="o", markersize=4, linewidth=1.2, label=r"std($\delta$)")
    slope = stds[1] * (steps / steps[1]) ** -4.0
    ax.plot(steps, slope, color="0.6", linestyle=":", linewidth=1.2, label="fourth order")
    x = runs.diffusion(CRITICAL).observables["M2"]
    limit = 0.3 * diagnostics.gamma_method(x).error / x.std()
    ax.axhline(
        limit, color=COLOURS[1], linestyle="--", linewidth=1.2, label=r"0.3 of the error of $\langle M^2\rangle$"
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(steps, steps)
    ax.minorticks_off()
    ax.set(xlabel="integration steps of the flow", ylabel="bias bound / std(O)")
    ax.set_title("The integrator's part in the bias", fontsize=10)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def samplers(runs: Runs, action: Phi4) -> dict[str, Mapping[str, NDArray[np.float64]]]:
    """Observables of the three samplers of a theory, by label."""
    three = (runs.ensemble(action, "hmc"), runs.ensemble(action, "cluster"), runs.diffusion(action))
    return {run.header.facts.label: run.observables for run in three}


def two_point(runs: Runs) -> Figure:
    """The propagator of the diffusion chain against that of clusters."""
    records, phat2 = samplers(runs, CRITICAL), orbit_phat2(LATTICE.shape)
    return figures.two_point(
        {name: (phat2, *diagnostics.propagator(records[name]["two_point"])) for name in ("cluster", "diffusion")}
    )


def magnetisation(runs: Runs) -> Figure:
    """M of the reference, of HMC that is frozen, and of two models."""
    return figures.magnetisation(
        {
            "cluster": runs.ensemble(BROKEN, "cluster").observables["M"],
            "good model": runs.diffusion(BROKEN).observables["M"],
            "collapsed model": runs.diffusion(BROKEN, "collapsed").observables["M"],
        }
    )


def log_weights(name: str) -> Callable[[Runs], Figure]:
    """Both histograms of log weights of a model."""

    def draw(runs: Runs) -> Figure:
        run = runs.diffusion(BROKEN, name)
        return figures.log_weights(run.stats["log_w_proposed"], run.evaluation["log_w_reference"])

    return draw


FIGURES: dict[str, Callable[[Runs], Figure]] = {
    "tau_int": tau_int,
    "autocorrelation": lambda runs: figures.autocorrelation(samplers(runs, CRITICAL), ("M", "M2")),
    "blocking": blocking,
    "frozen": lambda runs: figures.traces({k: v for k, v in samplers(runs, BROKEN).items() if k != "cluster"}, ("M",)),
    "acceptance": lambda runs: figures.acceptance(
        {name: runs.diffusion(BROKEN, name).stats["accepted"] for name in ("good", "under-trained")}
    ),
    "rejections": rejections,
    **{f"weights_{name.replace('-', '_')}": log_weights(name) for name in MODELS},
    "tail": tail,
    "magnetisation": magnetisation,
    "two_point": two_point,
    "log_z": log_z,
    "integrator": integrator,
    "scan_tau": lambda runs: scan_figures.tau_int(runs.sizes),
    "scan_cost": lambda runs: scan_figures.cost(runs.sizes),
    "binder": lambda runs: scan_figures.binder(runs.kappas),
    "exactness": lambda runs: exactness_figures.biases(runs.laboratory),
}


def make(out: Path, folder: Path) -> None:
    """Draw all figures and print the verdicts that the text quotes."""
    runs = Runs(folder)
    for name, draw in FIGURES.items():
        path = out / f"{name}.png"
        figures.save(draw(runs), path)
        with Image.open(path) as picture:  # few colours, so a palette: a third of the size
            small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        print(out / f"{name}.png", flush=True)
    for name in MODELS:
        for verdict in runs.verdicts(name):
            print(f"{name}: {verdict.level}: {verdict.title}. {verdict.text}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the figures of the documentation.")
    parser.add_argument("out", type=Path, help="folder of the figures")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Short chains are part of what is shown.
    warnings.simplefilter("ignore", diagnostics.DiagnosticsWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.runs:
        options.runs.mkdir(parents=True, exist_ok=True)
        make(options.out, options.runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(options.out, Path(folder))


if __name__ == "__main__":
    main()

"""Observables of the paper's table, from six samplers in three phases, and which of them survive more statistics.

Two of the samplers are a network alone, whose fields nobody corrects: a U-Net and the package's tractable network. Two
put the same networks into a Metropolis chain that is exact: the tractable one through the density of its flow, the
U-Net through the weights of whole paths. The chains of the former begin at its proposals, those of the latter at
fields of HMC with random signs, since a poor network may keep a proposal for long. HMC and the cluster algorithm need
no network, and the latter is the truth.

A network may agree with the truth only because its sample is small, so every sampler is compared twice: with a tenth of
its statistics, and with all of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core import rng
from dmmc.core.records import plain
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, Estimate
from dmmc.diagnostics.observables import summary
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery import ensembles, models
from dmmc.gallery.ensembles import KAPPAS, Phase
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.kept import kept_arrays, kept_run
from dmmc.gallery.path_chain import path_chain
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import palette
from dmmc.pages.table import aligned, format_z
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.exactness.analysis import Agreement, agreement, means
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.theory.observables import measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, NDArray[Any]]

PHASES: tuple[Phase, ...] = ("symmetric", "critical", "broken")
QUICK_PHASES: tuple[Phase, ...] = ("symmetric", "broken")

OBSERVABLES = ("M", "abs_M", "chi2", "binder")
"""The rows of the table: ``<M>``, ``<|M|>``, the susceptibility chi_2 and the Binder cumulant U_L."""

TRUTH = "cluster"
UNADJUSTED = ("U-Net, unadjusted", "tractable, unadjusted")
EXACT = ("tractable, exact", "U-Net, exact")
OTHERS = ("HMC", *UNADJUSTED, *EXACT)

LARGEST_Z, SMALLEST_P = 3.5, 1e-3
"""A sampler agrees with the truth if every difference is below the first, in standard errors; the exact ones together
are also tested by chi^2, whose p-value must be above the second."""

EXTENT = 16
"""Of the lattice: paths of a U-Net that was trained for minutes are hardly ever accepted on 32 x 32."""

BATCH = 32

FLOW_STEPS = 8


@dataclass(frozen=True)
class Size:
    """How much each sampler does.

    Attributes:
        batches: of :data:`BATCH` fields from a network alone.
        steps: of the backward process.
        chains, draws: of the exact chain of the tractable network.
        path_chains, path_draws: of the exact chain of the U-Net.
        path_steps: steps of its paths.
    """

    batches: int
    steps: int
    chains: int
    draws: int
    path_chains: int
    path_draws: int
    path_steps: int


FULL = Size(batches=10, steps=64, chains=64, draws=100, path_chains=96, path_draws=8, path_steps=32)
QUICK = Size(batches=2, steps=16, chains=32, draws=24, path_chains=64, path_draws=6, path_steps=8)


@dataclass(frozen=True)
class Comparison:
    """One sampler in one phase.

    Attributes:
        values: estimates of :data:`OBSERVABLES`.
        z: their differences from the truth in standard errors.
        z_tenth: the same with a tenth of the statistics of this sampler.
        acceptance: of a chain with a Metropolis step; None for the others.
    """

    values: dict[str, Estimate]
    z: dict[str, float]
    z_tenth: dict[str, float]
    acceptance: float | None

    @property
    def largest(self) -> float:
        """The largest difference."""
        return _largest(self.z)

    @property
    def largest_tenth(self) -> float:
        """The largest difference with a tenth of the statistics."""
        return _largest(self.z_tenth)


def make(request: Request) -> Findings:
    """Make the exhibit."""
    compared: dict[Phase, dict[str, Comparison]] = {}
    truths: dict[Phase, dict[str, Estimate]] = {}
    agreements: dict[str, dict[Phase, Agreement]] = {name: {} for name in EXACT}
    volume = ensembles.lattice(request, EXTENT).volume
    for phase in QUICK_PHASES if request.quick else PHASES:
        runs = exact_runs(phase, request)
        records: dict[str, Record] = {name: run.observables for name, run in runs.items()}
        records |= unadjusted(phase, request)
        truth = truths[phase] = estimates(records[TRUTH], volume)
        compared[phase] = {name: compare(records[name], truth, volume, _acceptance(runs.get(name))) for name in OTHERS}
        for name in EXACT:
            agreements[name][phase] = agreement([means(records[name])], means(records[TRUTH]))
    numbers: dict[str, Any] = {
        "cluster": {
            phase: {name: (x.value, x.error) for name, x in of_phase.items()} for phase, of_phase in truths.items()
        },
        "samplers": plain(compared),
        "agreement": plain(agreements),
    }
    text = findings(compared, agreements)
    return Findings((Drawing("observables", draw(compared), CAPTION),), table(truths, compared), text, numbers)


def exact_runs(phase: Phase, request: Request) -> dict[str, StoredRun]:
    """The runs of cluster, HMC and both exact chains, by label."""
    size, action = QUICK if request.quick else FULL, ensembles.action(phase)
    tractable, unet = models.tractable(phase, request, EXTENT), models.unet(phase, request, EXTENT)
    flow_file = request.folder / f"{phase}-flow.h5"
    test = ensembles.ensemble(phase, "test", request, EXTENT)

    def flow_chain(resume: bool) -> None:
        request.say(f"exact chain of the tractable model at kappa = {KAPPAS[phase]} ({phase})")
        length = ChainOptions(size.draws, seed=request.child_seed(phase, "flow"))
        sample(
            tractable,
            flow_file,
            SampleOptions(size.chains, run=length, flow_steps=FLOW_STEPS, determinants=0),
            resume=resume,
            say=request.say,
        )

    return {
        TRUTH: ensembles.ensemble(phase, "cluster", request, EXTENT),
        "HMC": test,
        EXACT[0]: kept_run(flow_file, flow_chain),
        EXACT[1]: path_chain(
            request.folder / f"{phase}-path.h5",
            unet,
            action,
            test,
            size.path_steps,
            size.path_chains,
            size.path_draws,
            request,
        ),
    }


def unadjusted(phase: Phase, request: Request) -> dict[str, Record]:
    """Observables of independent fields of both networks by the reverse stochastic equation, ``(fields, 1)``."""
    size = QUICK if request.quick else FULL

    def fields(name: str, model: DiffusionModel) -> Record:
        def piece(k: int) -> dict[str, Any]:
            generator = rng.stream(request.child_seed(phase, name), "unadjusted", k, device=request.device)
            phi = model.backward(BATCH, kind="sde", n_steps=size.steps, generator=generator)[0].double()
            values = measure(phi, ensembles.action(phase)(phi), model.lattice)
            return {key: x.cpu().numpy() for key, x in values.items()}

        arrays = kept_arrays(request.folder / f"{phase}-{name}.npz", size.batches, piece)
        # One chain without memory.
        return {key: x[None] for key, x in arrays.items()}

    return {
        UNADJUSTED[0]: fields("unet", models.unet(phase, request, EXTENT)),
        UNADJUSTED[1]: fields("interaction", models.tractable(phase, request, EXTENT)),
    }


def estimates(record: Record, volume: int) -> dict[str, Estimate]:
    """:data:`OBSERVABLES` of a record ``(chain, draw)``, with errors from the scatter of its chains.

    That needs no autocorrelation time, of which short chains know little; a single chain is one without memory.
    """
    chains = len(record["M"])
    names = ("M", "abs_M", "M2", "M4", "phi2", "S_per_site")
    means = {name: record[name] if chains == 1 else record[name].mean(1)[None] for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of a white series that is short
        found = summary(means, volume)
    return {name: found[name] for name in OBSERVABLES}


def compare(record: Record, truth: Mapping[str, Estimate], volume: int, acceptance: float | None = None) -> Comparison:
    """A sampler beside the truth, with all of its statistics and with a tenth of it."""
    values, few = estimates(record, volume), estimates(tenth(record), volume)
    larger = math.sqrt(record["M"].size / tenth(record)["M"].size)

    def z(found: Mapping[str, Estimate], times: float) -> dict[str, float]:
        # The error of a tenth is that of the whole, which is known better.
        errors = {name: math.hypot(times * values[name].error, truth[name].error) for name in OBSERVABLES}
        return {name: (found[name].value - truth[name].value) / errors[name] for name in OBSERVABLES}

    return Comparison(values, z(values, 1.0), z(few, larger), acceptance)


def tenth(record: Record) -> Record:
    """A tenth of the chains of a record, or of the draws if there is one chain."""
    chains, draws = record["M"].shape
    if chains == 1:
        return {name: x[:, : math.ceil(draws / 10)] for name, x in record.items()}
    return {name: x[: math.ceil(chains / 10)] for name, x in record.items()}


def draw(compared: Mapping[Phase, Mapping[str, Comparison]]) -> Figure:
    """Differences from the truth in standard errors, with a tenth of the statistics and with all of it."""
    figure, axes = make_panels(9.6, 3.9, columns=len(compared), sharey=True)
    looks = palette(["HMC", *OTHERS])
    largest = (max(x.largest, x.largest_tenth) for of_phase in compared.values() for x in of_phase.values())
    limit = 1.3 * max(2 * LARGEST_Z, *largest)
    for ax, (phase, of_phase) in zip(axes, compared.items(), strict=True):
        ax.axhspan(-LARGEST_Z, LARGEST_Z, color="#d9d9d9", linewidth=0, zorder=0)
        for k, (name, of_name) in enumerate(of_phase.items()):
            x = np.arange(len(OBSERVABLES)) + 0.14 * (k - (len(of_phase) - 1) / 2)
            look = looks[name]
            for z, inside in ((of_name.z_tenth, "#ffffff"), (of_name.z, look.colour)):
                shown = [z[observable] for observable in OBSERVABLES]
                ax.plot(
                    x, shown, look.marker, color=look.colour, markerfacecolor=inside, markersize=5,
                    label=name if inside == look.colour else None
                )  # fmt: skip
        ax.set_yscale("symlog", linthresh=5)
        ax.set_yticks([-100, -30, -10, -3, 0, 3, 10, 30, 100])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylim(-limit, limit)
        ax.set_xticks(range(len(OBSERVABLES)), [symbol(name).math for name in OBSERVABLES])
        ax.set_title(rf"{phase}, $\kappa = {KAPPAS[phase]:g}$", fontsize=10)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes[0].set_ylabel("difference from cluster / error")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def table(truths: Mapping[Phase, Mapping[str, Estimate]], compared: Mapping[Phase, Mapping[str, Comparison]]) -> str:
    """Every entry with its error and its difference from the truth."""
    rows = [["phase", "observable", TRUTH, *(cell for name in OTHERS for cell in (name, "z"))]]
    for phase, truth in truths.items():
        for name in OBSERVABLES:
            row = [phase, symbol(name).text, str(truth[name])]
            for of_sampler in compared[phase].values():
                row += [str(of_sampler.values[name]), format_z(of_sampler.z[name])]
            rows.append(row)
        acceptances = [of_sampler.acceptance for of_sampler in compared[phase].values()]
        cells = (cell for x in acceptances for cell in ("-" if x is None else f"{x:.2f}", ""))
        rows.append([phase, "acceptance", "-", *cells])
    return "\n".join([*aligned(rows), f"z: difference from {TRUTH} in standard errors"])


def findings(
    compared: Mapping[Phase, Mapping[str, Comparison]], agreements: Mapping[str, Mapping[Phase, Agreement]]
) -> tuple[str, ...]:
    """The table in words."""
    lines = []
    for name in OTHERS:
        few, all_of = (max(getattr(x[name], size) for x in compared.values()) for size in ("largest_tenth", "largest"))
        verdict = "survives" if all_of < LARGEST_Z else "does not survive"
        lines.append(
            f"{name}: the largest of {len(compared) * len(OBSERVABLES)} differences is {few:.1f} standard errors with "
            f"a tenth of the statistics and {all_of:.1f} with all of it: it {verdict}."
        )
    for name, of_name in agreements.items():
        p = ", ".join(f"{of_phase.p_value:.2g} ({phase})" for phase, of_phase in of_name.items())
        lines.append(f"{name}: chi^2 of six observables together against {TRUTH} has the p-values {p}.")
    return tuple(lines)


def _acceptance(run: StoredRun | None) -> float | None:
    return None if run is None or "accepted" not in run.stats else float(run.stats["accepted"].mean())


def _largest(z: Mapping[str, float]) -> float:
    return max(map(abs, z.values()))


CAPTION = (
    "Differences from the cluster algorithm in standard errors, which include those of the cluster algorithm. Open "
    "symbols: with a tenth of the statistics of each sampler; full symbols: with all of it. The axis is linear up to 5 "
    "and logarithmic beyond. A sampler without bias stays in the grey band."
)

EXHIBIT = Exhibit(
    "observables",
    "Observables from six samplers in three phases, and which of them survive ten times the statistics",
    "Wang, Aarts, Zhou, JHEP 05 (2024) 060, tables of observables",
    12,
    make,
    figures=("observables",),
    files=tuple(
        f"{phase}-{part}" for phase in PHASES for part in ("flow.h5", "path.h5", "unet.npz", "interaction.npz")
    ),
)

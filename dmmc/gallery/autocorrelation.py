"""Autocorrelation functions of HMC, of clusters, and of the exact chain of a diffusion model, in three phases.

The figure of Wang, Aarts, Zhou, JHEP 05 (2024) 060, with two differences: the chain of the model is exact, and the
broken phase is there, where HMC never carries M from one sign to the other. Whether the exact chains agree with the
cluster algorithm is tested in six observables of each phase, one by one and all together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from dmmc.core.records import plain
from dmmc.diagnostics import format_value
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery import ensembles, models
from dmmc.gallery.ensembles import KAPPAS, LAM, Phase
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.kept import kept_run
from dmmc.pages.figures import make_panels
from dmmc.pages.figures.autocorrelation import Curve, draw_panel
from dmmc.pages.table import aligned
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.exactness.analysis import Agreement, BiasResult, agreement, biases, means
from dmmc.studies.sampling import SampleOptions, sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

PHASES: tuple[Phase, ...] = ("symmetric", "critical", "broken")

OBSERVABLES = ("M", "abs_M", "M2", "S_per_site")
"""Of which the autocorrelation functions are drawn."""

TRUTH, EXACT = "cluster", "diffusion"

FLOW_STEPS = 8

REACH = 40
"""The last lag that is drawn, in draws."""

LARGEST_Z, SMALLEST_P = 3.5, 1e-3
"""Within these the exact chains count as in agreement with the clusters."""


@dataclass(frozen=True)
class Size:
    """How long the chains of the models are.

    Attributes:
        chains: chains of each model.
        draws: draws of each of them.
    """

    chains: int
    draws: int


FULL = Size(chains=64, draws=120)
QUICK = Size(chains=32, draws=48)


@dataclass(frozen=True)
class PhaseResult:
    """One phase.

    Attributes:
        kappa: its hopping parameter.
        acceptance: of the model's chain.
        tau: tau_int in draws and its error, by observable and sampler; a lower bound where the record is too short.
        flips: how often M changes its sign from one draw to the next, in all chains together, by sampler.
        biases: difference from the cluster algorithm, by sampler and observable.
        agreement: chi^2 of the model's chain against clusters, all observables together.
    """

    kappa: float
    acceptance: float
    tau: dict[str, dict[str, tuple[float, float]]]
    flips: dict[str, int]
    biases: dict[str, dict[str, BiasResult]]
    agreement: Agreement


def make(request: Request) -> Findings:
    """Make the exhibit."""
    runs = {phase: samplers(phase, request) for phase in PHASES}
    results = {phase: compare(KAPPAS[phase], of_phase) for phase, of_phase in runs.items()}
    all_z = [abs(bias.z) for result in results.values() for bias in result.biases[EXACT].values()]
    z = max(all_z)
    chi2, dof = (sum(getattr(result.agreement, name) for result in results.values()) for name in ("chi2", "dof"))
    p_value = float(scipy.stats.chi2.sf(chi2, dof))
    agree = z < LARGEST_Z and p_value > SMALLEST_P
    broken = results["broken"]
    text = (
        f"Exact chains against clusters: the largest of {len(all_z)} differences is {z:.1f} standard errors, and chi^2 "
        f"of all together is {chi2:.1f} at {dof} degrees of freedom, p = {p_value:.2g}.",
        "In the critical region tau_int of M is "
        + ", ".join(f"{format_value(*tau)} ({name})" for name, tau in results["critical"].tau["M"].items())
        + " draws.",
        "In the broken phase M changes its sign "
        + ", ".join(f"{flips:,} times ({name})" for name, flips in broken.flips.items())
        + f"; tau_int of M in the exact chain is {format_value(*broken.tau['M'][EXACT])}.",
    )
    numbers = {"phases": results, "largest_z": z, "chi2": chi2, "dof": dof, "p_value": p_value, "agree": agree}
    return Findings((Drawing("autocorrelation", draw(runs), CAPTION),), table(results), text, plain(numbers))


def samplers(phase: Phase, request: Request) -> dict[str, StoredRun]:
    """The runs of a phase: HMC, clusters, and the exact chain of a model that is trained on another HMC ensemble."""
    size, path = QUICK if request.quick else FULL, request.folder / f"{phase}.h5"
    model = models.tractable(phase, request)

    def make_chain(resume: bool) -> None:
        request.say(f"the exact chain of the model at kappa = {KAPPAS[phase]} ({phase})")
        length = ChainOptions(size.draws, keep_every=0, seed=request.child_seed(phase, "chain"))
        options = SampleOptions(size.chains, run=length, flow_steps=FLOW_STEPS)
        sample(model, path, options, resume=resume, say=request.say)

    chain = kept_run(path, make_chain)
    return {
        "HMC": ensembles.ensemble(phase, "test", request),
        TRUTH: ensembles.ensemble(phase, "cluster", request),
        EXACT: chain,
    }


def compare(kappa: float, runs: Mapping[str, StoredRun]) -> PhaseResult:
    """What the samplers of a phase give, and whether they agree with clusters."""
    estimates = {name: means(run.observables) for name, run in runs.items()}
    truth = estimates.pop(TRUTH)
    curves = {
        name: {key: Curve.of(run.observables[name]).estimate for key, run in runs.items()} for name in OBSERVABLES
    }
    return PhaseResult(
        kappa=kappa,
        acceptance=float(runs[EXACT].stats["accepted"].mean()),
        tau={
            name: {key: (x.tau_int, x.tau_int_error) for key, x in of_name.items()} for name, of_name in curves.items()
        },
        flips={name: sign_changes(run.observables["M"]) for name, run in runs.items()},
        biases={name: biases(found, truth) for name, found in estimates.items()},
        agreement=agreement([estimates[EXACT]], truth),
    )


def sign_changes(M: Array) -> int:
    """How often M changes its sign from one draw ``(chain, draw)`` to the next."""
    return int(np.count_nonzero(np.diff(np.sign(M), axis=1)))


def draw(runs: Mapping[Phase, Mapping[str, StoredRun]]) -> Figure:
    """The autocorrelation functions: a column for each phase, a row for each observable."""
    figure, axes = make_panels(12.0, 10.5, rows=len(OBSERVABLES), columns=len(runs))
    for k, (phase, of_phase) in enumerate(runs.items()):
        for row, name in enumerate(OBSERVABLES):
            ax = axes[row * len(runs) + k]
            curves = {key: Curve.of(run.observables[name]) for key, run in of_phase.items()}
            draw_panel(ax, curves, REACH, legend=True)
            title = rf"{phase}, $\kappa = {KAPPAS[phase]}$" + "\n" if row == 0 else ""
            ax.set_title(f"{title}{symbol(name).value.math}", fontsize=10)
            if k == 0:
                ax.set_ylabel(r"$\rho(t)$")
            if row == len(OBSERVABLES) - 1:
                ax.set_xlabel("lag t in draws")
    return figure


def table(results: Mapping[Phase, PhaseResult]) -> str:
    """Differences from clusters in standard errors, and acceptance, as aligned text."""
    names = list(results["critical"].biases[EXACT])
    lines = [["", *(symbol(name).text for name in names), "chi2", "dof", "p", "acceptance"]]
    for phase, result in results.items():
        for sampler, found in result.biases.items():
            z: list[Any] = [f"{found[name].z:+.1f}" for name in names]
            x = result.agreement
            rest = [f"{x.chi2:.1f}", f"{x.dof}", f"{x.p_value:.2g}", f"{result.acceptance:.2f}"]
            lines.append([f"{phase}, {sampler}", *z, *(rest if sampler == EXACT else [""] * len(rest))])
    return "\n".join((*aligned(lines), "difference from clusters in standard errors"))


CAPTION = (
    "Autocorrelation functions with their errors: a column for each phase, a row for each observable. A draw is a "
    "trajectory of HMC, a cluster update with a trajectory, or a proposal of the diffusion model. The legends give the "
    "integrated autocorrelation times (0.5 if there is no correlation). HMC carries M slowly from one sign to the "
    "other in the critical region, and never in the broken phase: its M stays what it was when the chain began. The "
    "chain of the model forgets as soon as a proposal is accepted, whatever the correlation length."
)

EXHIBIT = Exhibit(
    "autocorrelation",
    f"Autocorrelation of HMC, clusters and the exact diffusion chain; 32 x 32, lam = {LAM}, three phases",
    "after Wang, Aarts, Zhou, JHEP 05 (2024) 060",
    12,
    make,
    figures=("autocorrelation",),
    files=tuple(f"{phase}.h5" for phase in PHASES),
)

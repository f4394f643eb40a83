"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth.

Each variant is a chain of one theory with one model. Some are exact; others are recipes that look alike and are not,
and say so in every file. The truth comes from quadrature on two sites, and from cluster updates on more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import FileError
from dmmc.core.files import replace_file
from dmmc.core.version import VERSION
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, gamma_method
from dmmc.pages import figures
from dmmc.pages.page import render
from dmmc.runs.run import StoredRun
from dmmc.studies.exactness import chains
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.exactness.analysis import SEEN, Means, agreement, biases, means
from dmmc.studies.exactness.options import ExactnessOptions
from dmmc.studies.exactness.results import (
    RESULT,
    FlowResult,
    LaboratoryPlan,
    LaboratoryResult,
    SideBySide,
    TruthResult,
    VariantResult,
    values,
)
from dmmc.studies.exactness.section import section
from dmmc.studies.exactness.table import table
from dmmc.studies.exactness.variants import NAMES, VARIANTS, Bench, Variant
from dmmc.studies.folder import Folder, stored_plan
from dmmc.studies.stages import Stages

TABLE, FIGURE, PAGE = "table.txt", "bias.png", "report.html"


def run_laboratory(
    options: ExactnessOptions, out: str | Path, resume: bool = False, overwrite: bool = False
) -> LaboratoryResult:
    """Run a laboratory.

    Args:
        options: what to do.
        out: the folder of the results: ``exactness.json``, ``table.txt``, ``bias.png``, ``report.html``, the model, and
            one run file each for the ensemble, the truth and the variants.
        resume: go on with a laboratory that was interrupted, or analyse a finished one again; where nothing was saved,
            begin afresh.
        overwrite: remove the files of an earlier laboratory, or others in the way, first.

    Returns:
        what is in ``exactness.json``.

    Raises:
        FileError: if ``out`` holds a laboratory, or other files in the way, and neither ``resume`` nor ``overwrite`` is
            set.
        MismatchError: if the laboratory to be resumed has other options; the message names them.
    """
    out, plan = Path(out), options.plan()
    _folder(out, plan).open(resume, overwrite)
    stages = Stages()
    with stages("truth"):
        fields = chains.ensemble(options, out)
        truth = chains.truth(options, out, fields)
    with stages("model"):
        model = chains.trained_model(options, out)
        flow, certificate = chains.certified_flow(options, model)
    chosen = [variant for variant in VARIANTS if variant.name in options.variants]
    results, exact = [], []
    for number, variant in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}  {variant.label}", flush=True)
        with stages(variant.name):
            seed = chains.variant_seed(options, variant)
            bench = Bench(options.action, options.lattice, model, flow, fields, seed)
            run = chains.variant_run(variant, bench, options, out / f"{variant.name}.h5")
        estimates = means(run.observables)
        results.append(_variant_result(variant, run, estimates, truth.means))
        exact += [estimates] if variant.exact else []
    result = LaboratoryResult(
        dmmc=VERSION,
        plan=plan,
        truth=TruthResult(truth.method, truth.file, truth.symmetry, values(truth.means)),
        flow=FlowResult(sum(flow.schedule), flow.evaluations, certificate.summary()),
        variants=tuple(results),
        agreement=agreement(exact, truth.means) if exact else None,
        missed=tuple(variant.name for variant in results if not (variant.exact or variant.seen)),
        wall_seconds={name: round(seconds, 1) for name, seconds in stages.seconds.items()},
    )
    _write(out, result)
    return result


def run_side_by_side(
    laboratories: Mapping[str, ExactnessOptions], out: str | Path, resume: bool = False, overwrite: bool = False
) -> SideBySide:
    """Run several laboratories, each in a folder of its own, and put them on one page.

    Args:
        laboratories: what to do, by the name of the folder.
        out: the folder of these folders, and of ``report.html``.
        resume: go on where they were interrupted; where nothing was saved, begin afresh.
        overwrite: remove the files of earlier laboratories, or others in the way, first.

    Raises:
        FileError: if ``out`` holds one of them, or other files in the way, and neither ``resume`` nor ``overwrite`` is
            set.
        MismatchError: as :func:`run_laboratory`.
    """
    out = Path(out)
    for name, options in laboratories.items():
        _folder(out / name, options.plan()).check(resume, overwrite)
    begun = any(stored_plan(out / name) is not None for name in laboratories)
    if (out / PAGE).exists() and not (begun or overwrite):
        raise FileError(f"{out / PAGE} exists; choose another --out, or pass --overwrite")
    results = {}
    for name, options in laboratories.items():
        print(f"{name}:", flush=True)
        results[name] = run_laboratory(options, out / name, resume, overwrite)
    _write_page([out / name for name in laboratories], out / PAGE)
    return SideBySide(results, str(out / PAGE))


def files_of(plan: Mapping[str, Any]) -> list[str]:
    """The names of all files that a laboratory writes, whatever its plan, relative to its folder."""
    runs = (*(f"{name}.h5" for name in NAMES), chains.TRUTH, chains.ENSEMBLE)
    return [*runs, chains.MODEL, RESULT.file, TABLE, FIGURE, PAGE]


def _folder(out: Path, plan: LaboratoryPlan) -> Folder:
    return Folder(out, RESULT.what, plan.to_json(), files_of)


def _variant_result(variant: Variant, run: StoredRun, estimates: Means, truth: Means) -> VariantResult:
    observables = biases(estimates, truth)
    together = agreement([estimates], truth)
    return VariantResult(
        name=variant.name,
        label=variant.label,
        exact=variant.exact,
        why=variant.why,
        file=run.path.name,
        chains=run.n_chains,
        draws=run.n_draws,
        acceptance=float(run.stats["accepted"].mean()),
        tau_int_M2=_tau_int(run.observables["M2"]),
        cost=dict(run.header.cost),
        observables=observables,
        agreement=together,
        worst=max(observables, key=lambda name: abs(observables[name].z)),
        seen=together.sigma >= SEEN,
    )


def _tau_int(x: NDArray[np.float64]) -> float | None:
    """tau_int of a series ``(chain, draw)``, a lower bound where chains are short; None if it does not fluctuate."""
    with warnings.catch_warnings():
        # Errors here come from the scatter of the chains, so nothing depends on this number.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        tau = float(gamma_method(x).tau_int)
    return tau if math.isfinite(tau) else None


def _write(out: Path, result: LaboratoryResult) -> None:
    replace_file(out / TABLE, lambda path: path.write_text(table(result) + "\n", encoding="utf-8"))
    figures.save(exactness_figures.biases(result), out / FIGURE)
    RESULT.write(out, result)
    _write_page([out], out / PAGE)


def _write_page(folders: list[Path], path: Path) -> None:
    page = render([], sections=[section(folder, f"section-{k}") for k, folder in enumerate(folders, 1)])
    replace_file(path, lambda temporary: temporary.write_text(page.html, encoding="utf-8"))

"""One self-contained HTML page about runs, scans and exactness laboratories: verdicts, numbers, figures, provenance.

The page loads nothing: style and figures are in it, and its content security policy forbids the rest. Every figure
is there twice, for a light and for a dark page, with the same paths in other colours.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.files import replace_file
from dmmc.core.version import VERSION
from dmmc.diagnostics import Estimate, format_value
from dmmc.diagnostics.verdicts import Verdict, inexact, judge, judge_chain
from dmmc.report import figures, table
from dmmc.report.svg import FULL, HALF, Picture, page_style, picture
from dmmc.report.wording import SAMPLERS, SYMBOLS, deviation, listed, minus, theory
from dmmc.runs import storage
from dmmc.studies import workflow
from dmmc.studies.exactness import section as exactness_section
from dmmc.studies.exactness import table as exactness_table
from dmmc.studies.scan import section as scan_section
from dmmc.theory import momenta
from dmmc.theory.actions import action_from_description, same_action

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEVELS = ("bad", "doubtful", "good")
TAUS = ("M2", "abs_M", "S_per_site")


def write_report(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    reference: str | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the page; it appears complete or not at all.

    Args:
        inputs: run files, all of one lattice and action; also folders of scans (or their ``scan.json``) and of
            exactness laboratories (or their ``exactness.json``).
        out: the HTML file.
        reference: the run that the others are compared with: its sampler (``cluster``, ``HMC``, ``diffusion``) or its
            file; None takes the first cluster run, else the first HMC run.
        title: of the page.
        overwrite: replace an earlier page.

    Returns:
        A JSON-ready summary: the page, its runs, the reference, the verdicts, what is missing.

    Raises:
        FileError: if an input is missing, unfinished, foreign or damaged, or ``out`` is in the way or cannot be made.
        MismatchError: if the runs are of different lattices or actions.
        DmmcError: if there is no input, one twice, or no such reference.
    """
    out = Path(out)
    if out.is_dir():
        raise FileError(f"{out} is a directory; name a file in it")
    if out.exists() and not overwrite:
        raise FileError(f"{out} exists; choose another --out, or pass --overwrite")
    if not out.absolute().parent.is_dir():
        raise FileError(f"there is no directory {out.parent}; make it first")
    html, summary = render(inputs, reference=reference, title=title)
    replace_file(out, lambda path: path.write_text(html, encoding="utf-8"))
    return {"report": str(out), **summary}


def render(
    inputs: Sequence[str | Path], *, reference: str | None = None, title: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The page of :func:`write_report` as text, and its summary; raises the same."""
    paths = [Path(path) for path in inputs]
    if not paths:
        raise DmmcError("there is nothing to report on: name a run file or the folder of a scan")
    of_laboratories = [path for path in paths if exactness_table.RESULT.is_at(path)]
    of_scans = [path for path in paths if (path.is_dir() or path.suffix == ".json") and path not in of_laboratories]
    laboratories = [exactness_section.section(path, f"exactness-{k}") for k, path in enumerate(of_laboratories, 1)]
    scans = [scan_section.section(path, f"scan-{k}") for k, path in enumerate(of_scans, 1)]
    runs = _named([storage.load_run(path) for path in paths if path not in [*of_scans, *of_laboratories]])
    notes: list[str] = []
    if runs:
        about = _about(runs, reference, notes)
    elif reference is None:
        about = {
            "title": _title(scans, laboratories),
            "runs": [],
            "pictures": [],
            "verdicts": {},
        }
    else:
        raise DmmcError(f"--reference {reference} is none of the runs; name a run file to compare with")
    about |= {"title": title} if title is not None else {}
    html = _template().render(
        **about, scans=scans, laboratories=laboratories, notes=notes, version=VERSION, symbols=SYMBOLS
    )
    return html, {
        "title": about["title"],
        "runs": {run["name"]: run["facts"]["file"] for run in about["runs"]},
        "scans": [scan["name"] for scan in scans],
        "laboratories": [laboratory["name"] for laboratory in laboratories],
        "reference": about.get("reference"),
        "verdicts": {
            name: [{"level": verdict.level, "title": verdict.title, "text": verdict.text} for verdict in of_run]
            for name, of_run in about["verdicts"].items()
        },
        "figures": [drawn.name for part in (about, *scans, *laboratories) for drawn in part["pictures"]],
        "notes": notes,
    }


def _about(runs: dict[str, storage.Run], reference: str | None, notes: list[str]) -> dict[str, Any]:
    """What the page says about runs; what it cannot say is added to ``notes``."""
    _check_comparable(runs)
    chosen = _reference(runs, reference)
    base = chosen or next(iter(runs))
    runs = {base: runs[base], **runs}
    found = {name: workflow.estimates(run) for name, run in runs.items()}
    samplers, compared = table.rows(found, base)
    lattice = runs[base].header["lattice"]
    name, couplings = theory(runs[base].header["action"], len(lattice))
    shape = " × ".join(map(str, lattice))
    notes += _notes(runs, chosen)
    verdicts = _verdicts(runs, chosen, notes)
    return {
        "title": f"{name} on {shape}",
        "couplings": couplings,
        "lattice": shape,
        "reference": chosen,
        "verdicts": verdicts,
        "headline": _headline(verdicts),
        "samplers": samplers,
        "rows": [(row.name, _cells(row)) for row in compared],
        "efficiency": [_efficiency(name, run, found[name]) for name, run in runs.items()],
        "taus": TAUS,
        "pictures": list(_pictures(runs, notes)),
        "runs": [_provenance(name, run) for name, run in runs.items()],
    }


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("dmmc.report") / "page.html").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------
# The runs


def _sampler(run: storage.Run) -> str:
    kind = str(run.header["kernel"]["name"])
    return SAMPLERS.get(kind, kind)


def _named(runs: Sequence[storage.Run]) -> dict[str, storage.Run]:
    """Runs by sampler; by sampler and file where one sampler has several."""
    twice = [run_id for run_id, n in Counter(run.run_id for run in runs).items() if n > 1]
    if twice:
        same = [run.path.name for run in runs if run.run_id == twice[0]]
        raise DmmcError(f"{' and '.join(same)} are the same run; name it once")
    of_sampler = Counter(map(_sampler, runs))
    named: dict[str, storage.Run] = {}
    for run in runs:
        name = _sampler(run)
        if of_sampler[name] > 1:
            name = f"{name} {run.path.stem}"
        if name in named:
            name = f"{name} ({len(named) + 1})"
        named[name] = run
    return named


def _check_comparable(runs: Mapping[str, storage.Run]) -> None:
    first, *others = runs.values()
    for run in others:
        for key, equal in (("lattice", list.__eq__), ("action", same_action)):
            if not equal(first.header[key], run.header[key]):
                raise MismatchError(
                    f"{first.path} and {run.path} cannot stand on one page: their {key} is {first.header[key]} and "
                    f"{run.header[key]}; write a page for each"
                )


def _reference(runs: Mapping[str, storage.Run], wanted: str | None) -> str | None:
    """The run to compare with; None if none was asked for and all are diffusion chains."""
    if wanted is None:
        of_kind = {run.header["kernel"]["name"]: name for name, run in reversed(list(runs.items()))}
        return of_kind.get("cluster") or of_kind.get("hmc")
    found = [
        name
        for name, run in runs.items()
        if wanted.lower() in (name.lower(), _sampler(run).lower()) or wanted in (str(run.path), run.path.name)
    ]
    if len(found) == 1:
        return found[0]
    problem = f"fits {' and '.join(found)}" if found else "is none of the runs"
    raise DmmcError(f"--reference {wanted} {problem}; name one of: {', '.join(runs)}")


def _notes(runs: Mapping[str, storage.Run], reference: str | None) -> list[str]:
    """What the page cannot show, one sentence each."""
    notes = []
    if reference is None:
        notes.append(
            "No cluster or HMC run was given, so nothing here is an independent check of the averages"
            + (f"; z is the difference from {next(iter(runs))}." if len(runs) > 1 else ".")
        )
    for run in runs.values():
        if run.header["kernel"]["name"] != "independence":
            continue
        if not run.evaluation:
            notes.append(
                f"{run.path.name} is of an earlier version that stored no evaluation of the model: there is no bound "
                "on the bias of the integrator, no denoising sequence, and no weights of reference configurations."
            )
        elif "log_w_reference" not in run.evaluation:
            notes.append(
                f"{run.path.name} has no weights of reference configurations, without which a missed mode cannot be "
                "seen: dmmc sample --reference ENSEMBLE stores them."
            )
    return notes


def _verdicts(
    runs: Mapping[str, storage.Run], reference: str | None, notes: list[str]
) -> dict[str, tuple[Verdict, ...]]:
    """Of every run, the worst first; a run that cannot be judged becomes a note."""
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    for name, run in runs.items():
        shared: dict[str, Any] = {
            "reference": runs[reference].observables if reference not in (None, name) else None,
            # Of an action that only its author knows, no symmetry is claimed.
            "z2_symmetric": action_from_description(run.header["action"]) is not None,
        }
        stats = run.stats
        try:
            if workflow.proposals_are_independent(run):
                verdicts[name] = judge(
                    stats["accepted"],
                    stats["log_w"],
                    stats["log_w_proposed"],
                    run.observables,
                    log_w_reference=run.evaluation.get("log_w_reference"),
                    std_delta=workflow.bias_bound_sigma(run),
                    **shared,
                )
            else:
                verdicts[name] = judge_chain(
                    stats["accepted"], run.observables, energy_error=stats.get("energy_error"), **shared
                )
        except DmmcError as error:
            notes.append(f"No verdict on {name}: {error}.")
        kernel = run.header["kernel"]
        if kernel.get("inexact"):
            verdicts[name] = (inexact(kernel["inexact_reason"]), *verdicts.get(name, ()))
    return verdicts


def _headline(verdicts: Mapping[str, Sequence[Verdict]]) -> tuple[str, str]:
    """Level and sentence that sum the verdicts up."""
    of_level = {
        level: [name for name, of_run in verdicts.items() if any(x.level == level for x in of_run)] for level in LEVELS
    }
    if of_level["bad"]:
        return "bad", f"Do not use the results of {listed(of_level['bad'])} as they are."
    if of_level["doubtful"]:
        return "doubtful", f"Nothing is broken, but look at {listed(of_level['doubtful'])} first."
    return "good", "No check found anything wrong."


def _title(scans: Sequence[Mapping[str, Any]], laboratories: Sequence[Mapping[str, Any]]) -> str:
    """Of a page without runs."""
    if not scans and len(laboratories) == 1:
        return f"What is exact: {laboratories[0]['theory']}"
    kinds = (("Scan", scans), ("Exactness laboratory", laboratories))
    return "; ".join(f"{kind} {listed([one['name'] for one in some])}" for kind, some in kinds if some)


# ---------------------------------------------------------------------------------------------------------
# Numbers


def _cells(row: table.Row) -> list[dict[str, Any]]:
    """Per sampler the value, z, and how far off that is."""
    return [
        {
            "value": "–" if estimate is None else minus(str(estimate)),
            **deviation(z),
        }
        for estimate, z in zip(row.estimates, row.z, strict=True)
    ]


def _tau(x: NDArray[np.float64]) -> str:
    estimate, resolved = figures.resolved_tau(x)
    if math.isnan(estimate.tau_int):
        return "constant"
    return ("" if resolved else "≳ ") + format_value(estimate.tau_int, estimate.tau_int_error)


def _efficiency(name: str, run: storage.Run, found: Mapping[str, Estimate]) -> dict[str, Any]:
    """What a run cost, and per effective sample of M^2: 2 tau_int draws of one chain."""
    tau = found["M2"].tau_int
    draws = run.summary.get("wall_draws")
    seconds = run.summary.get("wall_seconds", {}).get("chain")
    steps = 2 * tau * run.header["steps_per_draw"]
    evaluations = run.header.get("evaluations")
    wall = 2 * tau * seconds / (draws * run.n_chains) if seconds is not None and draws else math.nan
    return {
        "name": name,
        "acceptance": f"{run.stats['accepted'].mean():.3f}",
        "taus": [_tau(run.observables[tau_name]) for tau_name in TAUS],
        "effective": f"{run.n_chains * run.n_draws / (2 * tau):,.0f}" if tau > 0 else "–",
        "seconds_each": _seconds(wall),
        "evaluations_each": ", ".join(f"{n * steps:,.0f} {kind}" for kind, n in evaluations.items())
        if evaluations and tau > 0
        else "–",
    }


def _seconds(x: float) -> str:
    if not math.isfinite(x):
        return "–"
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x / 1e-6:.3g} µs"


def _provenance(name: str, run: storage.Run) -> dict[str, Any]:
    header = run.header
    thermalise = header.get("provenance", {}).get("thermalise")
    kernel = {key: value for key, value in header["kernel"].items() if key != "name"}
    # A proposal or a part is a record of its own; of a fingerprint the beginning is enough to recognise it.
    flat = {**kernel}
    for part in [*kernel.get("parts", []), kernel]:
        flat |= part
        for inner in part.values():
            flat |= inner if isinstance(inner, dict) else {}
    settings = ", ".join(
        f"{key.replace('_', ' ')} {value[:12] if isinstance(value, str) else f'{value:.6g}'}"
        for key, value in flat.items()
        if isinstance(value, (str, int, float)) and key not in ("name", "chunk_sites")
    )
    facts = {
        "file": run.path.name,
        "chains × draws": f"{run.n_chains:,} × {run.n_draws:,}",
        "steps a draw": header["steps_per_draw"],
        "thermalisation": f"{thermalise:,} steps" if thermalise is not None else "–",
        "kernel": settings or "–",
        "seed": header["seed"],
        "wall time": _seconds(run.summary.get("wall_seconds", {}).get("chain", math.nan)),
        "versions": ", ".join(f"{package} {number}" for package, number in run.versions.items()),
    }
    record = {"run_id": run.run_id, "header": header, "summary": run.summary, "versions": run.versions}
    return {
        "name": name,
        "size": facts["chains × draws"],
        "facts": facts,
        "json": json.dumps(record, indent=2, ensure_ascii=False),
    }


# ---------------------------------------------------------------------------------------------------------
# Figures


def _pictures(runs: Mapping[str, storage.Run], notes: list[str]) -> Iterator[Picture]:
    """The figures that these runs have; one that cannot be drawn becomes a note."""
    records = {name: run.observables for name, run in runs.items()}
    everyone, first = listed(list(runs)), next(iter(runs))
    phat2 = momenta.orbit_phat2(tuple(runs[first].header["lattice"]))

    def attempt(
        name: str, make: Callable[[], Figure], alt: str, caption: str, width: float = HALF, height: float | None = None
    ) -> Iterator[Picture]:
        try:
            yield picture(name, make(), alt, caption, width, height)
        except DmmcError as error:
            notes.append(f"The figure “{name.replace('-', ' ')}” could not be drawn: {error}.")

    with page_style():
        yield from attempt(
            "magnetisation",
            lambda: figures.magnetisation({name: record["M"] for name, record in records.items()}),
            f"Histograms of the magnetisation M of {everyone}.",
            "How often each value of M occurs, with bands of one standard error. The histograms of exact samplers "
            "agree within their bands and are symmetric about 0; a chain that stays on one side never changed sign.",
            height=3.4,
        )
        yield from attempt(
            "two-point-function",
            lambda: figures.two_point(
                {name: (phat2, *figures.propagator(record["two_point"])) for name, record in records.items()}
            ),
            f"Two-point function G(p) of {everyone} against the lattice momentum squared, and its ratio to {first}.",
            f"Above: the propagator, p = 0 at the left edge. Below: its ratio to {first}, whose own error is the band. "
            "Points off 1 by more than their bars over a range of momenta show a scale that is sampled wrongly.",
            height=3.4,
        )
        yield from attempt(
            "traces",
            lambda: figures.traces(records),
            f"Time series of M and S/V of up to three chains each of {everyone}.",
            "The chains' history, a column for a sampler. Noise without memory is good; slow waves are "
            "autocorrelation, flat pieces are rejections, a drift at the beginning is missing thermalisation.",
            width=FULL,
        )
        yield from attempt(
            "autocorrelation",
            lambda: figures.autocorrelation(records, ("M2", "S_per_site")),
            f"Autocorrelation functions of M squared and S/V of {everyone}, with error bands.",
            "How long a chain remembers: ρ(t) falls from 1 to 0, and τ = ½ + Σρ(t), ½ without "
            "memory: 2τ draws are worth one independent one. Bands are one standard error (Madras and Sokal).",
            width=FULL,
            height=3.6,
        )
        yield from attempt(
            "acceptance",
            lambda: figures.acceptance({name: run.stats["accepted"] for name, run in runs.items()}),
            f"Acceptance rate over the length of the run of {everyone}.",
            "The fraction of accepted steps in one stretch of draws after another, over all chains. It should be "
            "level: a fall means that chains have wandered to where proposals are rejected.",
            height=3.4,
        )
        drawn: set[bytes] = set()
        for name, run in runs.items():
            suffix = "" if name == SAMPLERS["independence"] else f"-{run.path.stem}"
            if workflow.proposals_are_independent(run):
                yield from attempt(
                    f"log-weights{suffix}",
                    lambda run=run: figures.log_weights(  # type: ignore[misc]
                        run.stats["log_w_proposed"], run.evaluation.get("log_w_reference")
                    ),
                    f"Histograms of the log weights of {name}.",
                    (f"{name}: " if len(runs) > 1 else "") + "log w = −S − log q of proposals and, where they were "
                    "given, of reference configurations. Both are a spike at 0 for a perfect model; a reference tail "
                    "far to the right shows fields that the model misses.",
                    height=3.4,
                )
            # Kernels of one model begin their chains in different ways, but its flow is the same.
            if "denoising" in run.evaluation and (fields := run.evaluation["denoising"].tobytes()) not in drawn:
                drawn.add(fields)
                yield from attempt(
                    f"denoising{suffix}",
                    lambda run=run: figures.denoising(  # type: ignore[misc]
                        run.evaluation["denoising"], run.evaluation["denoising_noise"]
                    ),
                    f"A field of {name} at five noise levels, from pure noise to a proposal.",
                    "One proposal on its way through the probability flow, from noise (left) to a field of the theory "
                    "(right), each divided by its own root mean square.",
                    width=FULL,
                )

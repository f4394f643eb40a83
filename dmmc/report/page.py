"""One self-contained HTML page about runs, scans and exactness laboratories: verdicts, numbers, figures, provenance.

The page loads nothing: style and figures are in it, and its content security policy forbids the rest. Every figure
is there twice, for a light and for a dark page, with the same paths in other colours.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import dmmc
from dmmc import momenta, storage, workflow
from dmmc.actions import FreeField, Phi4, action_from_description, same_action
from dmmc.diagnostics import Estimate, format_value
from dmmc.diagnostics.verdicts import Verdict, inexact, judge, judge_chain
from dmmc.errors import DmmcError, FileError, MismatchError
from dmmc.report import figures, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLERS = {"cluster": "cluster", "hmc": "HMC", "independence": "diffusion"}
"""What a kernel's chain is called, in the order in which one serves as reference (a diffusion chain does not)."""

# Of the observables, in HTML.
SYMBOLS = {
    "M": "⟨M⟩",
    "abs_M": "⟨|M|⟩",
    "M2": "⟨M²⟩",
    "M4": "⟨M⁴⟩",
    "chi2": "χ",
    "chi2_signed": "χ, signed M",
    "binder": "U<sub>L</sub>",
    "xi": "ξ",
    "phi2": "⟨φ²⟩",
    "S_per_site": "⟨S⟩/V",
    "G_min": "G(p<sub>min</sub>)",
}
LEVELS = ("bad", "doubtful", "good")
TAUS = ("M2", "abs_M", "S_per_site")

INK = "#1c2230"
# Of the light page's figures -> of the dark page's: the Okabe-Ito colours in brighter shades, and the ink.
DARK = {
    INK: "#e3e7ee",
    "#0072b2": "#5cb8f0",
    "#d55e00": "#ff8f4a",
    "#009e73": "#35cc9f",
    "#cc79a7": "#f0a3cb",
    "#e69f00": "#ffcb5c",
    "#56b4e9": "#c3e6ff",
    "#000000": "#ffffff",
    # White is the inside of open symbols, the page's own colour; the light grey is that of bands.
    "#ffffff": "#191d24",
    "#d9d9d9": "#3a414d",
}
SCAN_CAPTIONS = {
    "tau_xi": "What a draw is worth as the correlation length grows: on these axes a power law τ = c ξᶻ is a straight "
    "line, and its slope is z. A flat line at ½ means independent draws at any ξ. Open symbols with an arrow are lower "
    "bounds, from chains too short to tell, and are not fitted.",
    "tau_L": "The same against the size of the lattice; at fixed L/ξ both have the same slope.",
    "cost": "What an effective sample costs, 2τ draws of M²: in wall time of the machine that ran the scan, and in "
    "evaluations of the force or of the network. Where curves cross, the better one changes. Training is not in it.",
    "acceptance": "HMC and cluster samplers hold their acceptance by tuning. That of a diffusion model falls with the "
    "volume, unless the model grows better with it.",
    "binder": "Curves of different sizes cross near the critical coupling; the grey band is the crossing of the two "
    "largest sizes with its error. The line at ⅔ is the value deep in the broken phase.",
}

HALF, FULL = 4.8, 9.6
"""Widths of figures in inches; two halves stand side by side."""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        name: identifies it in the page.
        light: data URI of the SVG for a light page.
        dark: the same for a dark one.
        width: natural width in pixels.
        height: natural height.
        full: whether it takes the width of the page, or stands beside another one.
        alt: what is to be seen, for those who do not see it.
        caption: how to read it.
    """

    name: str
    light: str
    dark: str
    width: int
    height: int
    full: bool
    alt: str
    caption: str


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
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return {"report": str(out), **summary}


def render(
    inputs: Sequence[str | Path], *, reference: str | None = None, title: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The page of :func:`write_report` as text, and its summary; raises the same."""
    paths = [Path(path) for path in inputs]
    if not paths:
        raise DmmcError("there is nothing to report on: name a run file or the folder of a scan")
    laboratories = [_laboratory(path, f"exactness-{k}") for k, path in enumerate(filter(_is_laboratory, paths), 1)]
    scans = [_scan(path, f"scan-{k}") for k, path in enumerate(filter(_is_scan, paths), 1)]
    runs = _named([storage.load_run(path) for path in paths if not (_is_scan(path) or _is_laboratory(path))])
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
        **about, scans=scans, laboratories=laboratories, notes=notes, version=dmmc.__version__, symbols=SYMBOLS
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
    theory, couplings = _action(runs[base].header["action"], len(lattice))
    shape = " × ".join(map(str, lattice))
    notes += _notes(runs, chosen)
    verdicts = _verdicts(runs, chosen, notes)
    return {
        "title": f"{theory} on {shape}",
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
        return "bad", f"Do not use the results of {_listed(of_level['bad'])} as they are."
    if of_level["doubtful"]:
        return "doubtful", f"Nothing is broken, but look at {_listed(of_level['doubtful'])} first."
    return "good", "No check found anything wrong."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# ---------------------------------------------------------------------------------------------------------
# Scans


def _is_scan(path: Path) -> bool:
    return (path.is_dir() or path.suffix == ".json") and not _is_laboratory(path)


def _scan(path: Path, id_: str) -> dict[str, Any]:
    """What the page shows of a scan; ``id_`` identifies it there."""
    from dmmc import scan
    from dmmc.report import scan_figures

    summary = scan.load_scan(path)
    name = (path if path.is_dir() else path.parent).resolve().name
    with _style():
        pictures = [
            picture(
                f"{id_}-{key.replace('_', '-')}",
                figure,
                f"{key.replace('_', ' ').capitalize()} of the scan {name}.",
                SCAN_CAPTIONS.get(key, ""),
                width=FULL if figure.get_size_inches()[0] > 1.4 * HALF else HALF,
            )
            for key, figure in scan_figures.draw(summary).items()
        ]
    return {
        "id": id_,
        "name": name,
        "along": summary["along"],
        "fits": [
            {
                **fit,
                "sampler": SAMPLERS.get(fit["sampler"], fit["sampler"]),
                "z": _minus(format_value(fit["z"], fit["z_error"])),
                "quality": f"{fit['chi2']:.1f} / {fit['dof']}",
            }
            for fit in summary["fits"]
        ],
        "crossings": [
            {
                "sampler": SAMPLERS.get(crossed["sampler"], crossed["sampler"]),
                "sizes": " and ".join(map(str, one["sizes"])),
                "kappa": format_value(one["kappa"], one["kappa_error"]),
                "binder": format_value(one["binder"], one["binder_error"]),
            }
            for crossed in summary["crossings"]
            for one in crossed["crossings"]
        ],
        "criticals": [
            {
                "sampler": SAMPLERS.get(crossed["sampler"], crossed["sampler"]),
                "kappa_c": format_value(crossed["kappa_c"], crossed["kappa_c_error"]),
                "extrapolated": crossed["drift"] is not None,
            }
            for crossed in summary["crossings"]
        ],
        "notes": summary["notes"],
        "table": scan.table(summary),
        "version": summary["dmmc"],
        "plan": json.dumps(summary["plan"], indent=2, ensure_ascii=False),
        "pictures": pictures,
    }


# ---------------------------------------------------------------------------------------------------------
# Exactness laboratories


def _is_laboratory(path: Path) -> bool:
    return path.name == "exactness.json" or (path / "exactness.json").exists()


def _title(scans: Sequence[Mapping[str, Any]], laboratories: Sequence[Mapping[str, Any]]) -> str:
    """Of a page without runs."""
    if not scans and len(laboratories) == 1:
        return f"What is exact: {laboratories[0]['theory']}"
    kinds = (("Scan", scans), ("Exactness laboratory", laboratories))
    return "; ".join(f"{kind} {_listed([one['name'] for one in some])}" for kind, some in kinds if some)


def _laboratory(path: Path, id_: str) -> dict[str, Any]:
    """What the page shows of an exactness laboratory; ``id_`` identifies it there."""
    from dmmc import exactness
    from dmmc.report import exactness_figures

    summary = exactness.load_exactness(path)
    lattice = summary["plan"]["shape"]
    theory, couplings = _action(summary["plan"]["action"], len(lattice))
    names = list(exactness.OBSERVABLES)
    with _style():
        drawn = picture(
            f"{id_}-bias",
            exactness_figures.biases(summary, exactness.SEEN),
            "Bias of each observable in standard errors, a row for each variant.",
            "The difference of every observable from the truth in standard errors, linear up to three and logarithmic "
            "beyond. Inside the grey band nothing was seen; the exact variants must all lie there.",
            width=FULL,
        )
    groups = []
    for exact, title in ((True, "exact"), (False, "not exact")):
        of_kind = [
            {
                "label": result["label"],
                "acceptance": f"{result['acceptance']:.2f}",
                "draws": f"{result['chains'] * result['draws']:,}",
                "cells": [_deviation(result["observables"][name]["z"]) for name in names],
                **_verdict(result),
                "why": result["why"],
            }
            for result in summary["variants"]
            if result["exact"] == exact
        ]
        if of_kind:
            groups.append((title, of_kind))
    truth = summary["truth"]["observables"]
    return {
        "id": id_,
        "name": (path if path.is_dir() else path.parent).resolve().name,
        "theory": f"{theory} on {' × '.join(map(str, lattice))}{' sites' if len(lattice) == 1 else ''}",
        "couplings": couplings,
        "method": summary["truth"]["method"],
        "observables": names,
        "truth": [_minus(exactness.shown_truth(**truth[name])) for name in names],
        "groups": groups,
        "headline": _agreement(summary),
        "flow": {"steps": summary["flow"]["steps"], "bound": f"{summary['flow']['limit_95']:.1e}"},
        "missed": [_minus(note) for note in summary["missed"]],
        "table": summary["table"],
        "plan": json.dumps(summary["plan"], indent=2, ensure_ascii=False),
        "version": summary["dmmc"],
        "pictures": [drawn],
    }


def _agreement(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Level and sentence: whether the exact kernels agree with the truth, and how many of the others were caught."""
    others = [result for result in summary["variants"] if not result["exact"]]
    caught = f"{sum(result['seen'] for result in others)} of {len(others)} inexact variants were seen to be wrong."
    found = summary["agreement"]
    if found is None:
        return "good", caught
    numbers = f"χ²/dof = {found['chi2']:.1f}/{found['dof']}, p = {found['p_value']:.2g}"
    # The probability of a false alarm is that of the verdicts on chains.
    if found["p_value"] < 1e-4:
        return "bad", f"The exact kernels disagree with the truth ({numbers})."
    return "good", f"The exact kernels agree with the truth ({numbers}); {caught}"


def _verdict(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of one variant: how sure it is, and for one that is not exact the largest bias."""
    found = result["agreement"]
    if result["exact"]:
        return {"verdict": f"p = {found['p_value']:.2g}", "largest": None}
    largest = result["observables"][result["worst"]]
    by = _minus(format_value(100 * largest["relative"], 100 * largest["relative_error"]))
    sure = f"{found['sigma']:.0f} σ" if result["seen"] else f"not seen, {found['sigma']:.1f} σ"
    sign = "+" if largest["relative"] > 0 else ""
    return {"verdict": sure, "largest": {"name": result["worst"], "by": f"{sign}{by} %"}}


def _deviation(z: float) -> dict[str, str]:
    """A difference in standard errors, and how far off that is."""
    return {"z": _minus(table.format_z(z)), "off": "far" if abs(z) > 4 else "odd" if abs(z) > 3 else ""}


# ---------------------------------------------------------------------------------------------------------
# Numbers


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _number(x: float) -> str:
    return _minus(f"{x:.10g}")


def _action(header: Mapping[str, Any], dim: int) -> tuple[str, str]:
    """Name and couplings, in the form in which the field is normalised."""
    action = action_from_description(dict(header))
    if isinstance(action, FreeField):
        return "Free field", f"m = {_number(action.mass)}"
    if not isinstance(action, Phi4):
        return str(header["name"]), ", ".join(f"{key} = {value}" for key, value in header.items() if key != "name")
    square = action.scale**2
    hopping = f"κ = {_number(action.kappa)}, λ = {_number(action.lam)}"
    for name, kappas, symbols in (("mass form", 1, ("m²", "λ")), ("textbook form", 2, ("μ₀²", "λ"))):
        if math.isclose(square, kappas * action.kappa, rel_tol=1e-9):
            m2, lam = (float(f"{x:.10g}") for x in (action.m2(dim), action.lam_m))
            return "φ⁴", f"{symbols[0]} = {_number(m2)}, {symbols[1]} = {_number(lam)} ({name}; {hopping})"
    scale = "" if action.scale == 1 else f", field × {_number(action.scale)}"
    return "φ⁴", f"{hopping} (hopping form{scale})"


def _cells(row: table.Row) -> list[dict[str, Any]]:
    """Per sampler the value, z, and how far off that is."""
    return [
        {
            "value": "–" if estimate is None else _minus(str(estimate)),
            **_deviation(z),
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
    # A proposal or a local part is a record of its own; of a fingerprint the beginning is enough to recognise it.
    flat = {**kernel}
    for part in kernel.values():
        flat |= part if isinstance(part, dict) else {}
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


ENOUGH_CHAINS = 64
"""The scatter of this many chain means gives an error that is itself good to a tenth."""


def propagator(two_point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``G(p)`` and its standard error, ``(n_orbits,)`` each, from ``two_point`` ``(chain, draw, orbit)``.

    The error is from the scatter of the chains, or from the Gamma method where these are few.
    """
    n = len(two_point)
    by_chain = two_point.mean(axis=1)
    if n >= ENOUGH_CHAINS:
        error = by_chain.std(axis=0, ddof=1) / math.sqrt(n)
    else:
        error = np.array([figures.resolved_tau(two_point[..., k])[0].error for k in range(two_point.shape[-1])])
    return by_chain.mean(axis=0), error


@contextmanager
def _style() -> Iterator[None]:
    """Figures made within are transparent, their text is paths in the page's ink, and they are reproducible."""
    import matplotlib

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    style |= {"figure.facecolor": "none", "axes.facecolor": "none", "svg.fonttype": "path", "svg.hashsalt": "dmmc"}
    with matplotlib.rc_context(style):
        yield


def picture(
    name: str, figure: Figure, alt: str, caption: str, width: float = HALF, height: float | None = None
) -> Picture:
    """Fit a figure to the page, and draw it for a light and a dark one."""
    old_width, old_height = figure.get_size_inches()
    height = old_height * width / old_width if height is None else height
    figure.set_size_inches(width, height)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    dark = re.sub("#[0-9a-f]{6}", lambda match: DARK.get(match[0], match[0]), svg)

    def uri(text: str) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()

    return Picture(name, uri(svg), uri(dark), round(96 * width), round(96 * height), width > HALF, alt, caption)


def _pictures(runs: Mapping[str, storage.Run], notes: list[str]) -> Iterator[Picture]:
    """The figures that these runs have; one that cannot be drawn becomes a note."""
    records = {name: run.observables for name, run in runs.items()}
    everyone, first = _listed(list(runs)), next(iter(runs))
    phat2 = momenta.orbit_phat2(tuple(runs[first].header["lattice"]))

    def attempt(
        name: str, make: Callable[[], Figure], alt: str, caption: str, width: float = HALF, height: float | None = None
    ) -> Iterator[Picture]:
        try:
            yield picture(name, make(), alt, caption, width, height)
        except DmmcError as error:
            notes.append(f"The figure “{name.replace('-', ' ')}” could not be drawn: {error}.")

    with _style():
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
                {name: (phat2, *propagator(record["two_point"])) for name, record in records.items()}
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
        for name, run in runs.items():
            suffix = "" if name == SAMPLERS["independence"] else f"-{run.path.stem}"
            if workflow.proposals_are_independent(run):
                yield from attempt(
                    f"log-weights{suffix}",
                    lambda run=run: figures.log_weights(  # type: ignore[misc]
                        run.stats["log_w_proposed"], run.evaluation.get("log_w_reference")
                    ),
                    f"Histograms of the log weights of {name}.",
                    "log w = −S − log q of proposals and, where they were given, of reference configurations. Both are "
                    "a spike at 0 for a perfect model; a reference tail far to the right shows fields that the model "
                    "misses.",
                    height=3.4,
                )
            if "denoising" in run.evaluation:
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

"""What the page shows of an exactness laboratory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.report.svg import FULL, page_style, picture
from dmmc.report.wording import deviation, minus, theory
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.exactness import table as exactness_table
from dmmc.studies.folder import load_result


def section(path: Path, id_: str) -> dict[str, Any]:
    """What the page shows of an exactness laboratory; ``id_`` identifies it there."""
    summary = load_result(path, exactness_table.RESULT)
    lattice = summary["plan"]["shape"]
    name, couplings = theory(summary["plan"]["action"], len(lattice))
    names = list(exactness_table.OBSERVABLES)
    with page_style():
        drawn = picture(
            f"{id_}-bias",
            exactness_figures.biases(summary, exactness_table.SEEN),
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
                "cells": [deviation(result["observables"][key]["z"]) for key in names],
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
        "theory": f"{name} on {' × '.join(map(str, lattice))}{' sites' if len(lattice) == 1 else ''}",
        "couplings": couplings,
        "method": summary["truth"]["method"],
        "observables": names,
        "truth": [minus(exactness_table.shown_truth(**truth[key])) for key in names],
        "groups": groups,
        "headline": _agreement(summary),
        "flow": {"steps": summary["flow"]["steps"], "bound": f"{summary['flow']['limit_95']:.1e}"},
        "missed": [minus(note) for note in summary["missed"]],
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
    by = minus(format_value(100 * largest["relative"], 100 * largest["relative_error"]))
    sure = f"{found['sigma']:.0f} σ" if result["seen"] else f"not seen, {found['sigma']:.1f} σ"
    sign = "+" if largest["relative"] > 0 else ""
    return {"verdict": sure, "largest": {"name": result["worst"], "by": f"{sign}{by} %"}}

"""What a page shows of an exactness laboratory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.report.judgement import Headline
from dmmc.report.numbers import Cell, deviation
from dmmc.report.section import Section, fill
from dmmc.report.svg import FULL, page_style, picture
from dmmc.report.wording import extent, minus
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.exactness import table as exactness_table
from dmmc.studies.folder import load_result
from dmmc.theory.actions import action_label

FALSE_ALARM = 1e-4
"""The exact kernels are said to disagree with the truth below this p-value, as in the verdicts on chains."""


@dataclass(frozen=True)
class VariantRow:
    """One variant, as the page shows it.

    Attributes:
        label: what it is called.
        acceptance: its mean acceptance.
        draws: of all chains together.
        cells: the difference of each observable from the truth.
        verdict: how sure the verdict is.
        largest: the observable that is farthest off; empty for an exact variant.
        by: by how much that is off, in per cent; likewise.
        why: why the variant is exact, or not.
    """

    label: str
    acceptance: str
    draws: str
    cells: tuple[Cell, ...]
    verdict: str
    largest: str
    by: str
    why: str


def section(path: Path, id_: str) -> Section:
    """The section of an exactness laboratory.

    Args:
        path: its folder, or the ``exactness.json`` in it.
        id_: identifies the section within the page.

    Raises:
        FileError: if there is no finished laboratory.
    """
    summary = load_result(path, exactness_table.RESULT)
    lattice = summary["plan"]["shape"]
    name, couplings = action_label(summary["plan"]["action"], len(lattice))
    names = exactness_table.OBSERVABLES
    with page_style():
        drawn = picture(
            f"{id_}-bias",
            exactness_figures.biases(summary, exactness_table.SEEN),
            "Bias of each observable in standard errors, one row for each variant.",
            "The difference of every observable from the truth in standard errors; the axis is linear up to three and "
            "logarithmic beyond. Inside the grey band nothing was seen; all exact variants must lie there.",
            width=FULL,
        )
    groups = [("exact", _rows(summary["variants"], True)), ("not exact", _rows(summary["variants"], False))]
    truth = summary["truth"]["observables"]
    body = fill(
        "dmmc.studies.exactness",
        "section.html",
        couplings=couplings,
        method=summary["truth"]["method"],
        observables=names,
        truth=[minus(exactness_table.shown_truth(**truth[key])) for key in names],
        groups=[(title, rows) for title, rows in groups if rows],
        headline=_agreement(summary),
        flow_steps=summary["flow"]["steps"],
        flow_bound=f"{summary['flow']['limit_95']:.1e}",
        missed=[minus(note) for note in summary["missed"]],
        table=summary["table"],
        plan=json.dumps(summary["plan"], indent=2, ensure_ascii=False),
        version=summary["dmmc"],
        pictures=[drawn],
    )
    where = f"{name} on {extent(lattice)}"
    return Section(id_, f"What is exact: {where}", f"Exactness, {where}", body, (drawn.name,))


def _rows(variants: Sequence[Mapping[str, Any]], exact: bool) -> list[VariantRow]:
    return [_row(result) for result in variants if result["exact"] == exact]


def _row(result: Mapping[str, Any]) -> VariantRow:
    together, largest, by = result["agreement"], "", ""
    if result["exact"]:
        verdict = f"p = {together['p_value']:.2g}"
    else:
        sigma = together["sigma"]
        verdict = f"{sigma:.0f} σ" if result["seen"] else f"not seen, {sigma:.1f} σ"
        largest = result["worst"]
        worst = result["observables"][largest]
        percent = minus(format_value(100 * worst["relative"], 100 * worst["relative_error"]))
        by = f"{'+' if worst['relative'] > 0 else ''}{percent} %"
    differences = (result["observables"][name]["z"] for name in exactness_table.OBSERVABLES)
    return VariantRow(
        label=result["label"],
        acceptance=f"{result['acceptance']:.2f}",
        draws=f"{result['chains'] * result['draws']:,}",
        cells=tuple(Cell("", *deviation(z)) for z in differences),
        verdict=verdict,
        largest=largest,
        by=by,
        why=result["why"],
    )


def _agreement(summary: Mapping[str, Any]) -> Headline:
    """Whether the exact kernels agree with the truth, and how many of the others were caught."""
    others = [result for result in summary["variants"] if not result["exact"]]
    seen = sum(result["seen"] for result in others)
    caught = f"{seen} of {len(others)} inexact variants were seen to be wrong."
    together = summary["agreement"]
    if together is None:
        return Headline("good", caught)
    numbers = f"χ²/dof = {together['chi2']:.1f}/{together['dof']}, p = {together['p_value']:.2g}"
    if together["p_value"] < FALSE_ALARM:
        return Headline("bad", f"The exact kernels disagree with the truth ({numbers}).")
    return Headline("good", f"The exact kernels agree with the truth ({numbers}); {caught}")

"""What a page shows of an exactness laboratory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmmc.pages.judgement import Headline
from dmmc.pages.page_tables import Cell, deviation
from dmmc.pages.section import Section, fill
from dmmc.pages.svg import FULL, page_style, picture
from dmmc.pages.wording import extent, minus
from dmmc.studies.exactness import figures as exactness_figures
from dmmc.studies.exactness.analysis import OBSERVABLES, SEEN
from dmmc.studies.exactness.results import RESULT, LaboratoryResult, VariantResult
from dmmc.studies.exactness.table import missed, shown_bias, shown_sigma, shown_value, table
from dmmc.theory.descriptions import action_label

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
        by: by how much that is off, in per cent; empty for an exact variant.
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
    result = RESULT.read(path)
    lattice = result.plan.shape
    name, couplings = action_label(result.plan.action, len(lattice))
    with page_style():
        drawn = picture(
            f"{id_}-bias",
            exactness_figures.biases(result),
            "Bias of each observable in standard errors, one row for each variant.",
            "The difference of every observable from the truth in standard errors; the axis is linear up to three and "
            f"logarithmic beyond. By chance alone, hardly any symbol would lie outside the grey band, which "
            f"ends at {SEEN:g}. "
            "A variant is judged by all of its observables together, so that it can be seen to be wrong although all "
            "of its symbols lie inside the band.",
            width=FULL,
        )
    groups = [("exact", _rows(result.of_kind(exact=True))), ("not exact", _rows(result.of_kind(exact=False)))]
    body = fill(
        "dmmc.studies.exactness",
        "section.html",
        couplings=couplings,
        method=result.truth.method,
        observables=OBSERVABLES,
        truth=[minus(shown_value(result.truth.observables[name])) for name in OBSERVABLES],
        groups=[(title, rows) for title, rows in groups if rows],
        headline=_agreement(result),
        flow_steps=result.flow.steps,
        flow_bound=f"{result.flow.certificate.limit_95:.1e}",
        missed=[minus(note) for note in missed(result)],
        table=table(result),
        plan=json.dumps(result.plan.to_json(), indent=2, ensure_ascii=False),
        version=result.dmmc,
        pictures=[drawn],
    )
    where = f"{name} on {extent(lattice)}"
    return Section(id_, f"What is exact: {where}", f"Exactness, {where}", body, (drawn.name,))


def _rows(variants: Sequence[VariantResult]) -> list[VariantRow]:
    return [_row(variant) for variant in variants]


def _row(variant: VariantResult) -> VariantRow:
    if variant.exact:
        verdict, largest, by = f"p = {variant.agreement.p_value:.2g}", "", ""
    else:
        verdict = f"{'' if variant.seen else 'not seen, '}{shown_sigma(variant)} σ"
        largest, by = variant.worst, minus(shown_bias(variant.observables[variant.worst]))
    return VariantRow(
        label=variant.label,
        acceptance=f"{variant.acceptance:.2f}",
        draws=f"{variant.all_draws:,}",
        cells=tuple(Cell("", *deviation(variant.observables[name].z)) for name in OBSERVABLES),
        verdict=verdict,
        largest=largest,
        by=by,
        why=variant.why,
    )


def _agreement(result: LaboratoryResult) -> Headline:
    """Whether the exact kernels agree with the truth, and how many of the others were caught."""
    others = result.of_kind(exact=False)
    seen = sum(variant.seen for variant in others)
    caught = f"{seen} of {len(others)} inexact variants were seen to be wrong."
    together = result.agreement
    if together is None:
        return Headline("good", caught)
    numbers = f"χ²/dof = {together.chi2:.1f}/{together.dof}, p = {together.p_value:.2g}"
    if together.p_value < FALSE_ALARM:
        return Headline("bad", f"The exact kernels disagree with the truth ({numbers}).")
    return Headline("good", f"The exact kernels agree with the truth ({numbers}); {caught}")

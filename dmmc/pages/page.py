"""One self-contained HTML page: verdicts, numbers, figures and provenance of runs, and the sections of studies.

The page loads nothing: style and figures are in it, and its content security policy forbids everything else. Every
figure is in it twice, for a light and for a dark page, with the same paths in other colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.core.version import VERSION
from dmmc.pages.comparable import check_comparable, choose_reference, named
from dmmc.pages.judgement import judge_runs
from dmmc.pages.page_tables import compared, efficiency, priced, taus
from dmmc.pages.pictures import run_pictures
from dmmc.pages.provenance import provenance
from dmmc.pages.section import Section, fill
from dmmc.pages.wording import extent
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import measurement, summarise
from dmmc.theory.descriptions import action_label


@dataclass(frozen=True)
class Finding:
    """A verdict in words.

    Attributes:
        level: ``good``, ``doubtful`` or ``bad``.
        title: what it is, in a few words.
        text: the number in context, what it means and what to do.
    """

    level: str
    title: str
    text: str


@dataclass(frozen=True, repr=False)
class ReportSummary(Record):
    """What a page holds; ``str`` of it are its verdicts and notes, and where it is.

    Attributes:
        title: its heading.
        runs: file of each run, by the name that the page gives it.
        reference: the run that the others are compared with; None if none of them is independent of a model.
        verdicts: the verdicts on each run, the worst first.
        sections: titles of the sections of studies.
        figures: names of the figures, in their order.
        notes: what is missing and why, one sentence each.
        path: the file; empty for a page that was not written to one.
    """

    title: str
    runs: dict[str, str] = field(default_factory=dict)
    reference: str | None = None
    verdicts: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    sections: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    path: str = ""

    def __str__(self) -> str:
        lines = [
            f"{name}: {of_run.level}: {of_run.title}" for name, all_of in self.verdicts.items() for of_run in all_of
        ]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"report: {self.path or self.title}"])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class Page:
    """A finished page.

    Attributes:
        html: its text.
        summary: what it holds.
    """

    html: str
    summary: ReportSummary


def render(
    runs: Sequence[StoredRun],
    *,
    sections: Sequence[Section] = (),
    reference: str | None = None,
    title: str | None = None,
) -> Page:
    """Make a page.

    Args:
        runs: the runs that it is about, all of one theory on one lattice.
        sections: what studies have to show; they follow the runs.
        reference: the run that the others are compared with: its label, its name on the page, or its file. None takes
            the first run whose kernel works without a trained model.
        title: its heading; None makes one.

    Raises:
        MismatchError: if the runs are of different lattices or actions.
        DmmcError: if there is neither run nor section, a run is given twice, two runs share their random numbers, or
            ``reference`` is none of the runs.
    """
    if not runs and not sections:
        raise DmmcError("there is nothing to report on: name a run file, or the folder of a scan or of a laboratory")
    if not runs and reference is not None:
        raise DmmcError(f"--reference {reference} is none of the runs; name a run file to compare with")
    content, summary = _of_runs(runs, reference) if runs else ({}, ReportSummary("; ".join(x.title for x in sections)))
    summary = ReportSummary(
        title=summary.title if title is None else title,
        runs=summary.runs,
        reference=summary.reference,
        verdicts=summary.verdicts,
        sections=tuple(section.title for section in sections),
        figures=(*summary.figures, *(name for section in sections for name in section.pictures)),
        notes=summary.notes,
    )
    html = fill("dmmc.pages", "page.html", summary=summary, sections=sections, version=VERSION, of_runs=content)
    return Page(str(html), summary)


def _of_runs(given: Sequence[StoredRun], reference: str | None) -> tuple[dict[str, Any], ReportSummary]:
    """What the template shows of runs, and the summary of that."""
    runs = named(given)
    check_comparable(runs)
    chosen = choose_reference(runs, reference)
    base = chosen or next(iter(runs))
    runs = {base: runs[base], **runs}
    header = runs[base].header
    name, couplings = action_label(header.action, len(header.lattice))
    judgement = judge_runs(runs, chosen)
    pictures, undrawn = run_pictures(runs)
    measured = {name: measurement(run) for name, run in runs.items()}
    estimates = {name: of_run.estimates for name, of_run in measured.items()}
    summaries = {name: summarise(run, measured=measured[name]) for name, run in runs.items()}
    observables = priced(runs)
    content = {
        "couplings": couplings,
        "lattice": extent(header.lattice),
        "reference": chosen,
        "verdicts": judgement.verdicts,
        "headline": judgement.headline,
        "comparison": compared(estimates, base),
        "biases": [(name, of_run.bias) for name, of_run in summaries.items() if of_run.bias],
        "remarks": [f"{name}: {remark}" for name, of_run in summaries.items() for remark in of_run.notes],
        "taus": taus(runs, estimates),
        "priced": observables,
        "efficiency": [efficiency(name, of_run, observables) for name, of_run in summaries.items()],
        "parts": [(name, part) for name, of_run in summaries.items() for part in of_run.parts],
        "pictures": pictures,
        "provenance": [provenance(name, run) for name, run in runs.items()],
    }
    summary = ReportSummary(
        title=f"{name} on {extent(header.lattice)}",
        runs={name: run.path.name for name, run in runs.items()},
        reference=chosen,
        verdicts={
            name: tuple(Finding(x.level, x.title, x.text) for x in of_run)
            for name, of_run in judgement.verdicts.items()
        },
        figures=tuple(picture.name for picture in pictures),
        notes=(*judgement.notes, *undrawn),
    )
    return content, summary

"""The results of an exactness laboratory as text: a summary as in ``exactness.json`` in, aligned lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.studies.folder import Result

RESULT = Result("exactness.json", "dmmc-exactness", "laboratory")

OBSERVABLES = ("M", "abs_M", "M2", "binder", "S_per_site", "G_min")
"""G_min is the two-point function at the smallest nonzero momentum."""

SYMBOLS = {"M": "<M>", "abs_M": "<|M|>", "M2": "<M^2>", "binder": "U_L", "S_per_site": "<S>/V", "G_min": "G(p_min)"}

SEEN = 5.0
"""Standard deviations of a normal number from which on a variant counts as seen to be wrong; p = 5.7e-7."""


def shown_truth(value: float, error: float) -> str:
    """A value with its error, or alone if the error is zero."""
    return format_value(value, error) if error else f"{value:.5g}"


def verdict(result: Mapping[str, Any]) -> str:
    """What became of a variant, in a few words."""
    if result["exact"]:
        return f"p = {result['agreement']['p_value']:.2g}"
    largest = result["observables"][result["worst"]]
    relative = format_value(100 * largest["relative"], 100 * largest["relative_error"])
    what = f"{SYMBOLS[result['worst']]} by {'+' if largest['relative'] > 0 else ''}{relative} %"
    sigma = result["agreement"]["sigma"]
    return f"seen, {sigma:.0f} sigma: {what}" if result["seen"] else f"not seen, {sigma:.1f} sigma: {what}"


def missed(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """One note for each inexact variant that was not seen to be wrong, with the biases that would have been seen.

    Args:
        results: the variants, as in ``exactness.json``.
    """
    notes = []
    for result in results:
        if result["exact"] or result["seen"]:
            continue
        limits = ", ".join(
            f"{SYMBOLS[name]} {100 * SEEN * value['relative_error']:.1f}"
            for name, value in result["observables"].items()
        )
        notes.append(f"{result['label']}: not seen; {SEEN:g} sigma of each observable is, in per cent: {limits}")
    return notes


def table(summary: Mapping[str, Any]) -> str:
    """The biases in units of their errors as aligned plain text, with notes.

    Args:
        summary: as in ``exactness.json``.
    """
    head = ["", "acceptance", "draws", *(SYMBOLS[name] for name in OBSERVABLES), "verdict"]
    truth = summary["truth"]["observables"]
    values = [shown_truth(**truth[name]) for name in OBSERVABLES]
    lines = [head, [f"truth: {summary['truth']['method']}", "", "", *values, ""]]
    for exact, title in ((True, "exact"), (False, "not exact")):
        of_kind = [result for result in summary["variants"] if result["exact"] == exact]
        lines += [[title, *[""] * (len(head) - 1)]] if of_kind else []
        for result in of_kind:
            z = [f"{result['observables'][name]['z']:+.1f}" for name in OBSERVABLES]
            draws = f"{result['chains'] * result['draws']:,}"
            lines.append([f"  {result['label']}", f"{result['acceptance']:.2f}", draws, *z, verdict(result)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    text = []
    for *line, last in lines:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)), last]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    text += [
        "numbers: difference from the truth in standard errors, which include the error of the truth",
        "verdict: p-value of all six observables together, or the standard deviations that correspond to it; "
        "then the largest difference (<M> in per cent of <|M|>)",
    ]
    together = summary["agreement"]
    if together is not None:
        text += [
            "",
            f"all observables of the exact variants together: chi2/dof = {together['chi2']:.1f}/{together['dof']}, "
            f"p = {together['p_value']:.2g}",
        ]
    flow = summary["flow"]
    bound = f"{flow['limit_95']:.1e}"
    text += [f"flow: {flow['steps']} steps; its bias of an observable is at most {bound} of its standard deviation"]
    if summary["missed"]:
        text += ["", *summary["missed"]]
    text += ["", *(f"{result['label']}: {result['why']}" for result in summary["variants"])]
    return "\n".join(text)

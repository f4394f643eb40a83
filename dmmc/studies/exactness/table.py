"""The results of an exactness laboratory as aligned plain text."""

from __future__ import annotations

from collections.abc import Sequence

from dmmc.diagnostics import format_value
from dmmc.diagnostics.symbols import symbol
from dmmc.studies.exactness.analysis import OBSERVABLES, SEEN, BiasResult
from dmmc.studies.exactness.results import LaboratoryResult, SideBySide, Value, VariantResult


def shown_value(truth: Value) -> str:
    """A value with its error, or alone if the error is zero."""
    return format_value(truth.value, truth.error) if truth.error else f"{truth.value:.5g}"


def shown_bias(bias: BiasResult) -> str:
    """A bias in per cent of the observable; in units of the field where the observable is zero."""
    if bias.relative is None or bias.relative_error is None:
        text, sign = format_value(bias.bias, bias.bias_error), bias.bias
    else:
        text, sign = f"{format_value(100 * bias.relative, 100 * bias.relative_error)} %", bias.relative
    return f"+{text}" if sign > 0 else text


def shown_sigma(variant: VariantResult) -> str:
    """How surely a variant was seen to be wrong, as a number of standard deviations without its unit."""
    return f"{variant.agreement.sigma:.0f}" if variant.seen else f"{variant.agreement.sigma:.1f}"


def verdict(variant: VariantResult) -> str:
    """What became of a variant, in a few words."""
    if variant.exact:
        return f"p = {variant.agreement.p_value:.2g}"
    largest = f"{symbol(variant.worst).text} by {shown_bias(variant.observables[variant.worst])}"
    return f"{'seen' if variant.seen else 'not seen'}, {shown_sigma(variant)} sigma: {largest}"


def missed(result: LaboratoryResult) -> list[str]:
    """One note for each inexact variant that was not seen to be wrong, with the biases that would have been seen."""
    return [_limits(result.variant(name)) for name in result.missed]


def _limits(variant: VariantResult) -> str:
    limits = ", ".join(
        f"{symbol(name).text} {100 * SEEN * bias.relative_error:.1f}"
        for name, bias in variant.observables.items()
        if bias.relative_error is not None
    )
    return f"{variant.label}: not seen; {SEEN:g} sigma of each observable is, in per cent: {limits}"


def table(result: LaboratoryResult) -> str:
    """The biases in units of their errors, with notes."""
    head = ["", "acceptance", "draws", *(symbol(name).text for name in OBSERVABLES), "verdict"]
    truth = [shown_value(result.truth.observables[name]) for name in OBSERVABLES]
    rows = [head, [f"truth: {result.truth.method}", "", "", *truth, ""]]
    for exact, title in ((True, "exact"), (False, "not exact")):
        variants = result.of_kind(exact)
        rows += [[title, *[""] * (len(head) - 1)]] if variants else []
        rows += [_row(variant) for variant in variants]
    text = _aligned(rows)
    text.insert(1, "-" * max(map(len, text)))
    text += [
        "numbers: difference from the truth in standard errors, which include the error of the truth",
        "verdict: p-value of all six observables together, or the standard deviations that correspond to it; "
        "then the largest difference (<M> in per cent of <|M|>)",
    ]
    together, flow = result.agreement, result.flow
    if together is not None:
        text += [
            "",
            f"all observables of the exact variants together: chi2/dof = {together.chi2:.1f}/{together.dof}, "
            f"p = {together.p_value:.2g}",
        ]
    text.append(
        f"flow: {flow.steps} steps; its bias of an observable is at most {flow.certificate.limit_95:.1e} of its "
        "standard deviation"
    )
    notes = missed(result)
    text += ["", *notes] if notes else []
    text += ["", *(f"{variant.label}: {variant.why}" for variant in result.variants)]
    return "\n".join(text)


def _row(variant: VariantResult) -> list[str]:
    z = [f"{variant.observables[name].z:+.1f}" for name in OBSERVABLES]
    return [f"  {variant.label}", f"{variant.acceptance:.2f}", f"{variant.all_draws:,}", *z, verdict(variant)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left, the last as it is, and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(middle, widths[1:], strict=True)), last]
        lines.append("  ".join(cells).rstrip())
    return lines


def tables(several: SideBySide) -> str:
    """The tables of several laboratories, one below the other."""
    return "\n\n\n".join(f"{name}\n\n{table(result)}" for name, result in several.laboratories.items())

"""The results of a scan as aligned text."""

from __future__ import annotations

from dmmc.diagnostics import format_value
from dmmc.diagnostics.symbols import symbol
from dmmc.studies.scan.results import COSTED, TAUS, UNKNOWN, Measured, PointResult, ScanCrossings, ScanFit, ScanResult


def table(scan: ScanResult) -> str:
    """The results as aligned plain text: one row per point and sampler, then the fits, crossings and notes."""
    kinds = list(dict.fromkeys(kind for result in scan.results for kind in result.cost[COSTED[0]]))
    rows = [
        [
            *("point", "sampler", "draws", "xi", "U_L", "acceptance"),
            *(f"tau {symbol(name).value.text}" for name in TAUS),
            *(f"{'ms' if kind == 'seconds' else kind}/{symbol(name).value.text}" for kind in kinds for name in COSTED),
        ],
        *(_row(result, kinds) for result in scan.results),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]).rstrip() for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += [
        "tau: tau_int in draws (0.5 without autocorrelation); > marks lower bounds from chains that are too short",
        "the last columns: what an effective sample costs, which is 2 tau draws of one chain",
    ]
    if "hmc" in scan.options.samplers:
        lines.append(
            f"HMC: trajectories of length {scan.options.trajectory:g} of the hopping-form field (short against xi for "
            "a power law; about 4 is cheaper)"
        )
    labels = scan.labels
    if scan.fits:
        lines += ["", "tau_int = c x^z, errors multiplied by sqrt(chi2/dof) where that exceeds 1"]
    lines += [_fit(fit, labels[fit.sampler]) for fit in scan.fits]
    for crossed in scan.crossings:
        lines += ["", *_crossings(crossed, labels[crossed.sampler])]
    if scan.notes:
        lines += ["", *(f"note: {note}" for note in scan.notes)]
    return "\n".join(lines)


def _row(result: PointResult, kinds: list[str]) -> list[str]:
    costs = []
    for kind in kinds:
        for name in COSTED:
            shown = _scaled(result.cost[name].get(kind, UNKNOWN), 1e3 if kind == "seconds" else 1.0)
            costs.append(shown if shown == "-" or result.tau_int[name].resolved else f">{shown}")
    taus = [result.tau_int[name] for name in TAUS]
    return [
        result.point,
        result.label,
        f"{result.chains} x {result.draws}",
        *map(str, (result.xi, result.binder, result.acceptance)),
        *(str(tau) if tau.resolved or tau.value is None else f">{tau}" for tau in taus),
        *costs,
    ]


def _scaled(pair: Measured, unit: float) -> str:
    value, error = pair.numbers
    return str(Measured.of(unit * value, unit * error))


def _fit(fit: ScanFit, label: str) -> str:
    p = "no test" if fit.p_value is None else f"p = {fit.p_value:.2g}"
    return (
        f"  {label:9} {fit.line}  {fit.observable:10} ~ {fit.against:2}^z  z = {format_value(fit.z, fit.z_error)}, "
        f"c = {format_value(fit.c, fit.c_error)}, chi2/dof = {fit.chi2:.1f}/{fit.dof}, {p}, "
        f"errors x {fit.inflation:.2f}, {len(fit.points)} points"
    )


def _crossings(crossed: ScanCrossings, label: str) -> list[str]:
    lines = [f"crossing of the Binder cumulants, {label}"]
    lines += [
        f"  L = {one.sizes[0]}, {one.sizes[1]}: kappa = {one.kappa}, U = {one.binder}" for one in crossed.crossings
    ]
    if not crossed.drift.known:
        return [
            *lines,
            f"  kappa_c = {crossed.kappa_c}; its finite-size correction is unknown, which takes a third size",
        ]
    return [
        *lines,
        f"  drift from the crossing before to the last one: {crossed.drift}; extrapolated: kappa_c = {crossed.kappa_c}",
    ]

"""The results of a scan as text: a summary as in ``scan.json`` in, aligned lines out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.studies.folder import Result

RESULT = Result("scan.json", "dmmc-scan", "scan")

TAUS = ("M2", "abs_M", "S_per_site")
"""Observables whose tau_int is measured."""


def _shown(pair: Mapping[str, Any] | None, unit: float = 1.0) -> str:
    value, error = (math.nan if pair is None or pair[key] is None else unit * pair[key] for key in ("value", "error"))
    return "-" if math.isnan(value) else format_value(value, error)


def table(summary: Mapping[str, Any]) -> str:
    """The results as aligned plain text: a row a point and sampler, then the fits, crossings and notes.

    Args:
        summary: as in ``scan.json``.
    """
    kinds = list(dict.fromkeys(kind for result in summary["results"] for kind in result["cost"]))
    head = ["point", "sampler", "draws", "xi", "U_L", "acceptance", "tau M^2", "tau |M|", "tau S/V"]
    rows = [[*head, *(f"{'ms' if kind == 'seconds' else kind}/sample" for kind in kinds)]]
    for result in summary["results"]:
        taus = [("" if tau["resolved"] else ">") + _shown(tau) for tau in map(result["tau_int"].get, TAUS)]
        costs = [_shown(result["cost"].get(kind), 1e3 if kind == "seconds" else 1.0) for kind in kinds]
        if not result["tau_int"]["M2"]["resolved"]:
            costs = [cost if cost == "-" else f">{cost}" for cost in costs]
        cells = [_shown(result.get(name)) for name in ("xi", "binder", "acceptance")]
        rows.append([
            result["point"], result["sampler"], f"{result['chains']} x {result['draws']}", *cells, *taus, *costs
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]).rstrip() for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += ["tau: tau_int in draws (uncorrelated: 0.5); > marks lower bounds, of chains that are too short; "
              "sample: an effective one of M^2, 2 tau draws of one chain"]  # fmt: skip
    if "hmc" in summary["plan"]["samplers"]:
        lines.append(f"hmc: trajectories of length {summary['plan']['trajectory']:g} of the hopping-form field "
                     "(short against xi for a power law; about 4 is cheaper)")  # fmt: skip
    if summary["fits"]:
        lines += ["", "tau_int = c x^z, errors times sqrt(chi2/dof) where that is above 1"]
    for fit in summary["fits"]:
        p = "no test" if fit["p_value"] is None else f"p = {fit['p_value']:.2g}"
        lines.append(
            f"  {fit['sampler']:9} {fit['line']}  {fit['observable']:10} ~ {fit['against']:2}^z  "
            f"z = {format_value(fit['z'], fit['z_error'])}, c = {format_value(fit['c'], fit['c_error'])}, "
            f"chi2/dof = {fit['chi2']:.1f}/{fit['dof']}, {p}, errors x {fit['inflation']:.2f}, "
            f"{len(fit['points'])} points"
        )
    for crossed in summary["crossings"]:
        lines += ["", f"crossing of the Binder cumulants, {crossed['sampler']}"]
        for one in crossed["crossings"]:
            kappa = format_value(one["kappa"], one["kappa_error"])
            U = format_value(one["binder"], one["binder_error"])
            lines.append(f"  L = {one['sizes'][0]}, {one['sizes'][1]}: kappa = {kappa}, U = {U}")
        kappa_c = format_value(crossed["kappa_c"], crossed["kappa_c_error"])
        if crossed["drift"] is None:
            lines.append(f"  kappa_c = {kappa_c}, finite-size corrections unknown: that takes a third size")
        else:
            drift = format_value(crossed["drift"], crossed["drift_error"])
            lines.append(f"  last crossing less the one before: {drift}; extrapolated: kappa_c = {kappa_c}")
    if summary["notes"]:
        lines += ["", *(f"note: {note}" for note in summary["notes"])]
    return "\n".join(lines)

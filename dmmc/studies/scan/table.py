"""The results of a scan as text: a summary as in ``scan.json`` in, aligned lines out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.studies.folder import Result

RESULT = Result("scan.json", "dmmc-scan", "scan")

TAUS = ("M", "M2", "abs_M", "S_per_site")
"""Observables whose tau_int is measured; M is usually the slowest."""

NAMES = {"hmc": "HMC", "diffusion": "diffusion", "cluster": "cluster"}
"""What the samplers of a scan are called in figures and tables."""

_SYMBOLS = {"M": "M", "M2": "M^2", "abs_M": "|M|", "S_per_site": "S/V"}


def _shown(pair: Mapping[str, Any] | None, unit: float = 1.0) -> str:
    value, error = (math.nan if pair is None or pair[key] is None else unit * pair[key] for key in ("value", "error"))
    return "-" if math.isnan(value) else format_value(value, error)


def table(summary: Mapping[str, Any]) -> str:
    """The results as aligned plain text: one row per point and sampler, then the fits, crossings and notes.

    Args:
        summary: as in ``scan.json``.
    """
    kinds = list(dict.fromkeys(kind for result in summary["results"] for kind in result["cost"]))
    taus = [name for name in TAUS if all(name in result["tau_int"] for result in summary["results"])]
    rows = [
        [
            *("point", "sampler", "draws", "xi", "U_L", "acceptance"),
            *(f"tau {_SYMBOLS[name]}" for name in taus),
            *(f"{'ms' if kind == 'seconds' else kind}/sample" for kind in kinds),
        ]
    ]
    for result in summary["results"]:
        measured = [result["tau_int"][name] for name in taus]
        costs = [_shown(result["cost"].get(kind), 1e3 if kind == "seconds" else 1.0) for kind in kinds]
        if not result["tau_int"]["M2"]["resolved"]:
            costs = [cost if cost == "-" else f">{cost}" for cost in costs]
        rows.append(
            [
                result["point"],
                NAMES.get(result["sampler"], result["sampler"]),
                f"{result['chains']} x {result['draws']}",
                *(_shown(result.get(name)) for name in ("xi", "binder", "acceptance")),
                *(("" if tau["resolved"] else ">") + _shown(tau) for tau in measured),
                *costs,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]).rstrip() for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += [
        "tau: tau_int in draws (0.5 without autocorrelation); > marks lower bounds from chains that are too short",
        "sample: an effective sample of M^2, which is 2 tau draws of one chain",
    ]
    if "hmc" in summary["plan"]["samplers"]:
        lines.append(f"HMC: trajectories of length {summary['plan']['trajectory']:g} of the hopping-form field "
                     "(short against xi for a power law; about 4 is cheaper)")  # fmt: skip
    if summary["fits"]:
        lines += ["", "tau_int = c x^z, errors multiplied by sqrt(chi2/dof) where that exceeds 1"]
    for fit in summary["fits"]:
        p = "no test" if fit["p_value"] is None else f"p = {fit['p_value']:.2g}"
        name = NAMES.get(fit["sampler"], fit["sampler"])
        lines.append(
            f"  {name:9} {fit['line']}  {fit['observable']:10} ~ {fit['against']:2}^z  "
            f"z = {format_value(fit['z'], fit['z_error'])}, c = {format_value(fit['c'], fit['c_error'])}, "
            f"chi2/dof = {fit['chi2']:.1f}/{fit['dof']}, {p}, errors x {fit['inflation']:.2f}, "
            f"{len(fit['points'])} points"
        )
    for crossed in summary["crossings"]:
        lines += ["", f"crossing of the Binder cumulants, {NAMES.get(crossed['sampler'], crossed['sampler'])}"]
        for one in crossed["crossings"]:
            kappa = format_value(one["kappa"], one["kappa_error"])
            U = format_value(one["binder"], one["binder_error"])
            lines.append(f"  L = {one['sizes'][0]}, {one['sizes'][1]}: kappa = {kappa}, U = {U}")
        kappa_c = format_value(crossed["kappa_c"], crossed["kappa_c_error"])
        if crossed["drift"] is None:
            lines.append(f"  kappa_c = {kappa_c}; its finite-size correction is unknown, which takes a third size")
        else:
            drift = format_value(crossed["drift"], crossed["drift_error"])
            lines.append(
                f"  drift from the crossing before to the last one: {drift}; extrapolated: kappa_c = {kappa_c}"
            )
    if summary["notes"]:
        lines += ["", *(f"note: {note}" for note in summary["notes"])]
    return "\n".join(lines)

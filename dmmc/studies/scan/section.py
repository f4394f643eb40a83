"""What a page shows of a scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dmmc.core.records import plain
from dmmc.diagnostics import format_value
from dmmc.pages.section import Section, fill
from dmmc.pages.svg import FULL, HALF, page_style, picture
from dmmc.pages.wording import minus
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.results import RESULT, ScanCrossings, ScanFit, SizeCrossing
from dmmc.studies.scan.table import table

CAPTIONS = {
    "tau_xi": "What a draw is worth as the correlation length grows: on these axes a power law τ = c ξᶻ is a straight "
    "line, and its slope is z. A flat line at ½ means independent draws at any ξ. Open symbols with an arrow are lower "
    "bounds from chains that are too short to tell; they are not fitted.",
    "tau_L": "The same against the size of the lattice; at fixed L/ξ both have the same slope.",
    "cost": "What an effective sample of M or of M² costs, which is 2τ draws: in wall time of the machine that ran the "
    "scan, and in evaluations of the force or of the network. Where two curves cross, the cheaper sampler changes. "
    "Open symbols with an arrow are lower bounds from chains that are too short to measure τ. Training is not "
    "included.",
    "acceptance": "HMC and cluster samplers hold their acceptance by tuning. That of a diffusion model falls with the "
    "volume, unless the model improves with it.",
    "binder": "Curves of different sizes cross near the critical coupling. The dark band is the crossing of the two "
    "largest sizes with its error, the light band κ_c with its own. The line at ⅔ is the value deep in the "
    "broken phase.",
}


@dataclass(frozen=True)
class Fit:
    """One fitted power law, as the page shows it."""

    sampler: str
    points: str
    observable: str
    against: str
    z: str
    quality: str


@dataclass(frozen=True)
class Crossing:
    """The crossing of two Binder cumulants, as the page shows it."""

    sampler: str
    sizes: str
    kappa: str
    binder: str


@dataclass(frozen=True)
class Critical:
    """The critical coupling of one sampler, as the page shows it."""

    sampler: str
    kappa_c: str
    extrapolated: bool


def section(path: Path, id_: str) -> Section:
    """The section of a scan.

    Args:
        path: its folder, or the ``scan.json`` in it.
        id_: identifies the section within the page.

    Raises:
        FileError: if there is no finished scan, or its result is damaged.
    """
    scan = RESULT.read(path)
    labels = scan.labels
    name = (path if path.is_dir() else path.parent).resolve().name
    with page_style():
        pictures = [
            picture(
                f"{id_}-{key.replace('_', '-')}",
                figure,
                f"{key.replace('_', ' ').capitalize()} of the scan {name}.",
                CAPTIONS[key],
                width=FULL if figure.get_size_inches()[0] > 1.4 * HALF else HALF,
            )
            for key, figure in scan_figures.draw(scan).items()
        ]
    body = fill(
        "dmmc.studies.scan",
        "section.html",
        along=scan.along,
        fits=[_fit(fit, labels[fit.sampler]) for fit in scan.fits],
        crossings=[_crossing(one, labels[crossed.sampler]) for crossed in scan.crossings for one in crossed.crossings],
        criticals=[_critical(crossed, labels[crossed.sampler]) for crossed in scan.crossings],
        notes=scan.notes,
        table=table(scan),
        version=scan.dmmc,
        plan=json.dumps({"points": plain(scan.points), "options": plain(scan.options)}, indent=2, ensure_ascii=False),
        pictures=pictures,
    )
    return Section(id_, f"Scan {name}", f"Scan {name}", body, tuple(one.name for one in pictures))


def _fit(fit: ScanFit, label: str) -> Fit:
    return Fit(
        sampler=label,
        points=f"{len(fit.points)} of {fit.line}",
        observable=fit.observable,
        against="ξ" if fit.against == "xi" else fit.against,
        z=minus(format_value(fit.z, fit.z_error)),
        quality=f"{fit.chi2:.1f} / {fit.dof}",
    )


def _crossing(one: SizeCrossing, label: str) -> Crossing:
    return Crossing(label, " and ".join(map(str, one.sizes)), str(one.kappa), str(one.binder))


def _critical(crossed: ScanCrossings, label: str) -> Critical:
    return Critical(label, str(crossed.kappa_c), crossed.drift.known)

"""What the page shows of a scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dmmc.diagnostics import format_value
from dmmc.report.svg import FULL, HALF, page_style, picture
from dmmc.report.wording import SAMPLERS, minus
from dmmc.studies.folder import load_result
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan import table as scan_table

CAPTIONS = {
    "tau_xi": "What a draw is worth as the correlation length grows: on these axes a power law τ = c ξᶻ is a straight "
    "line, and its slope is z. A flat line at ½ means independent draws at any ξ. Open symbols with an arrow are lower "
    "bounds, from chains too short to tell, and are not fitted.",
    "tau_L": "The same against the size of the lattice; at fixed L/ξ both have the same slope.",
    "cost": "What an effective sample costs, 2τ draws of M²: in wall time of the machine that ran the scan, and in "
    "evaluations of the force or of the network. Where curves cross, the better one changes. Training is not in it.",
    "acceptance": "HMC and cluster samplers hold their acceptance by tuning. That of a diffusion model falls with the "
    "volume, unless the model grows better with it.",
    "binder": "Curves of different sizes cross near the critical coupling; the grey band is the crossing of the two "
    "largest sizes with its error. The line at ⅔ is the value deep in the broken phase.",
}


def section(path: Path, id_: str) -> dict[str, Any]:
    """What the page shows of a scan; ``id_`` identifies it there."""
    summary = load_result(path, scan_table.RESULT)
    name = (path if path.is_dir() else path.parent).resolve().name
    with page_style():
        pictures = [
            picture(
                f"{id_}-{key.replace('_', '-')}",
                figure,
                f"{key.replace('_', ' ').capitalize()} of the scan {name}.",
                CAPTIONS.get(key, ""),
                width=FULL if figure.get_size_inches()[0] > 1.4 * HALF else HALF,
            )
            for key, figure in scan_figures.draw(summary).items()
        ]
    return {
        "id": id_,
        "name": name,
        "along": summary["along"],
        "fits": [
            {
                **fit,
                "sampler": SAMPLERS.get(fit["sampler"], fit["sampler"]),
                "z": minus(format_value(fit["z"], fit["z_error"])),
                "quality": f"{fit['chi2']:.1f} / {fit['dof']}",
            }
            for fit in summary["fits"]
        ],
        "crossings": [
            {
                "sampler": SAMPLERS.get(crossed["sampler"], crossed["sampler"]),
                "sizes": " and ".join(map(str, one["sizes"])),
                "kappa": format_value(one["kappa"], one["kappa_error"]),
                "binder": format_value(one["binder"], one["binder_error"]),
            }
            for crossed in summary["crossings"]
            for one in crossed["crossings"]
        ],
        "criticals": [
            {
                "sampler": SAMPLERS.get(crossed["sampler"], crossed["sampler"]),
                "kappa_c": format_value(crossed["kappa_c"], crossed["kappa_c_error"]),
                "extrapolated": crossed["drift"] is not None,
            }
            for crossed in summary["crossings"]
        ],
        "notes": summary["notes"],
        "table": scan_table.table(summary),
        "version": summary["dmmc"],
        "plan": json.dumps(summary["plan"], indent=2, ensure_ascii=False),
        "pictures": pictures,
    }

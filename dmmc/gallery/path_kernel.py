"""The U-Net made exact: acceptance of whole paths of its reverse process, against the number of their steps.

A U-Net has no tractable density, so its fields cannot be corrected one by one. The weights of whole paths can be
computed for any network (:mod:`dmmc.kernels.path`): the chain is exact at any number of steps, and the number decides
only how often a path is accepted. Beside the U-Net stands the package's own network in the same kernel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dmmc.core.records import plain
from dmmc.diagnostics import format_value
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, gamma_method
from dmmc.diagnostics.observables import z_score
from dmmc.gallery import ensembles, models
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.path_chain import path_chain
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import palette
from dmmc.pages.table import aligned, format_z
from dmmc.runs.run import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTENT = 16

UNET, TRACTABLE = "U-Net", "tractable network"

LARGEST_Z = 3.5


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        steps: numbers of steps of a path.
        chains: parallel chains.
        draws: paths of each chain.
    """

    steps: tuple[int, ...]
    chains: int
    draws: int


FULL = Size(steps=(8, 16, 32), chains=48, draws=10)
QUICK = Size(steps=(4, 8), chains=32, draws=8)


@dataclass(frozen=True)
class Accepted:
    """The chain of one network at one number of steps.

    Attributes:
        acceptance: its mean acceptance.
        error: from the scatter of the chains.
        z: difference of ``<|M|>`` from the cluster algorithm, in standard errors.
    """

    acceptance: float
    error: float
    z: float


def make(request: Request) -> Findings:
    """Make the exhibit."""
    size = QUICK if request.quick else FULL
    networks = {
        UNET: models.unet("critical", request, EXTENT),
        TRACTABLE: models.tractable("critical", request, EXTENT),
    }
    truth = ensembles.ensemble("critical", "cluster", request, EXTENT)
    found = {
        name: {
            steps: accepted(
                path_chain(
                    request.folder / f"{model.network.name}-{steps}.h5",
                    model,
                    ensembles.action("critical"),
                    ensembles.ensemble("critical", "test", request, EXTENT),
                    steps,
                    size.chains,
                    size.draws,
                    request,
                ),
                truth,
            )
            for steps in size.steps
        }
        for name, model in networks.items()
    }
    history = networks[UNET].history
    minutes = 0.0 if history is None else history.seconds / 60
    best = max(found[UNET], key=lambda steps: found[UNET][steps].acceptance)
    at_best = found[UNET][best]
    largest = max(abs(x.z) for of_network in found.values() for x in of_network.values())
    text = (
        f"Paths of the U-Net with {best} steps are accepted at {format_value(at_best.acceptance, at_best.error)}, "
        f"after {minutes:.1f} minutes of training.",
        f"The chains are exact at any number of steps: the largest difference of <|M|> from the cluster algorithm is "
        f"{largest:.1f} standard errors.",
    )
    numbers: dict[str, Any] = {
        "chains": plain(found),
        "training_minutes": minutes,
    }
    return Findings((Drawing("acceptance", draw(found), CAPTION),), table(found), text, numbers)


def accepted(run: StoredRun, truth: StoredRun) -> Accepted:
    """What is reported of a chain."""
    rate = run.stats["accepted"].astype(np.float64).mean(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of a white series that is short
        # Errors from the scatter of the chains, which are too short for autocorrelation times.
        z = z_score(*(gamma_method(of_run.observables["abs_M"].mean(1)[None]) for of_run in (run, truth)))
    return Accepted(float(rate.mean()), float(rate.std(ddof=1) / math.sqrt(len(rate))), z)


def draw(found: Mapping[str, Mapping[int, Accepted]]) -> Figure:
    """Acceptance against the number of steps."""
    figure, (ax,) = make_panels(5.6, 3.6)
    looks = palette(["HMC", *found])
    for name, of_network in found.items():
        look = looks[name]
        ax.errorbar(
            list(of_network), [x.acceptance for x in of_network.values()], [x.error for x in of_network.values()],
            color=look.colour, marker=look.marker, linestyle=look.line, linewidth=1, markersize=5, label=name
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(xlabel="steps of a path", ylabel="acceptance", ylim=(0, None))
    ax.legend(frameon=False, fontsize=9)
    return figure


def table(found: Mapping[str, Mapping[int, Accepted]]) -> str:
    """Acceptance and agreement by network and number of steps."""
    rows = [["network", "steps", "acceptance", "z of <|M|>"]]
    for name, of_network in found.items():
        rows += [
            [name, str(steps), format_value(x.acceptance, x.error), format_z(x.z)] for steps, x in of_network.items()
        ]
    return "\n".join(aligned(rows))


CAPTION = (
    "Acceptance of whole paths, 16 x 16, kappa = 0.27. The chain is exact at every point, and more steps are accepted "
    "more often until the error of the network itself remains."
)

EXHIBIT = Exhibit(
    "path-kernel",
    "A U-Net made exact: acceptance of the paths of its reverse process",
    "beyond Wang, Aarts, Zhou, JHEP 05 (2024) 060; weights of paths: Sohl-Dickstein et al., 1503.03585",
    10,
    make,
    figures=("acceptance",),
    files=tuple(
        f"{name}-{steps}.h5" for name in ("unet", "interaction") for steps in sorted({*FULL.steps, *QUICK.steps})
    ),
)

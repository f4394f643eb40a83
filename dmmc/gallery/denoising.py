"""From noise to a field: the denoising sequence of a U-Net, and observables on the way, in two phases.

The model is that of Wang, Aarts, Zhou, JHEP 05 (2024) 060, at their times tau = 0, 1/4, 1/2, 3/4, 1, on the raw scale
and with one colour bar. What it generates is not exact. Beside it stands the truth at every time: the fields of an HMC
ensemble with noise added, of which the backward process, if it were exact, would have the very distribution.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core import rng
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, Estimate, gamma_derived, gamma_method
from dmmc.diagnostics.observables import z_score
from dmmc.gallery import ensembles, models
from dmmc.gallery.ensembles import KAPPAS, Phase
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.kept import kept_arrays
from dmmc.model.backward import Kind
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.pages.figures import make_panels
from dmmc.pages.styles import palette
from dmmc.pages.table import aligned, format_z

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

PHASES: tuple[Phase, ...] = ("symmetric", "broken")
KINDS: tuple[Kind, ...] = ("sde", "ode")

SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Times at which a field is shown."""

TIMES = tuple(k / 8 for k in range(9))
"""Times at which observables are measured."""

BATCH = 16

TRUTH = "HMC with noise"

LABELS: dict[Kind, str] = {"sde": "U-Net, SDE", "ode": "U-Net, ODE"}


@dataclass(frozen=True)
class Size:
    """How many fields are generated, in how many steps each."""

    batches: int
    steps: int


FULL, QUICK = Size(batches=4, steps=64), Size(batches=2, steps=24)


@dataclass(frozen=True)
class Moment:
    """Observables of fields at one time.

    Attributes:
        abs_M: ``<|M|>``.
        phi2: ``<phi^2>``, the mean over the sites.
        order: ``<|mean of sign phi|>``: 1 where the field has one sign, ``sqrt(2 / (pi V))`` where signs are random.
        binder: the Binder cumulant.
    """

    abs_M: Estimate
    phi2: Estimate
    order: Estimate
    binder: Estimate


def make(request: Request) -> Findings:
    """Make the exhibit."""
    sequences: dict[Phase, dict[Kind, Array]] = {}
    expected: dict[Phase, Array] = {}
    moments: dict[Phase, dict[str, list[Moment]]] = {}
    noise: dict[Phase, Array] = {}
    for phase in PHASES:
        model = models.unet(phase, request)
        made = {kind: generated(model, phase, kind, request) for kind in KINDS}
        noise[phase] = noise_at(model, TIMES)
        sequences[phase] = {kind: fields["shown"][0] for kind, fields in made.items()}
        expected[phase] = expected_fields(model, sequences[phase]["sde"])
        moments[phase] = {LABELS[kind]: [moment(x) for x in _by_time(fields)] for kind, fields in made.items()}
        moments[phase][TRUTH] = [moment(x) for x in noised(model, phase, request)]
    drawings = (
        *(Drawing(f"denoising_{phase}", draw(sequences[phase], expected[phase], noise[phase]), caption(phase))
          for phase in PHASES),
        Drawing("observables", draw_observables(moments), OBSERVABLES_CAPTION),
    )  # fmt: skip
    numbers: dict[str, Any] = {
        phase: {
            "kappa": KAPPAS[phase],
            "noise": noise[phase].tolist(),
            "times": TIMES,
            "moments": {label: [_plain(x) for x in of_label] for label, of_label in moments[phase].items()},
        }
        for phase in PHASES
    }
    return Findings(drawings, table(moments), findings(moments), numbers)


def generated(model: DiffusionModel, phase: Phase, kind: Kind, request: Request) -> dict[str, Array]:
    """The fields of the backward process: observables of all at :data:`TIMES`, and the first at :data:`SHOWN`."""
    size = QUICK if request.quick else FULL

    def piece(k: int) -> dict[str, Any]:
        # Both kinds begin at the same noise, so that they can be compared by eye.
        generator = rng.stream(request.child_seed(phase), "backward", k, device=request.device)
        fields = model.backward(BATCH, TIMES, kind, n_steps=size.steps, generator=generator).double().cpu()
        places = [TIMES.index(time) for time in SHOWN]
        return {"shown": fields[places, :1].transpose(0, 1).numpy(), **measured(fields.transpose(0, 1))}

    return kept_arrays(request.folder / f"{phase}-{kind}.npz", size.batches, piece)


def noised(model: DiffusionModel, phase: Phase, request: Request) -> list[dict[str, Array]]:
    """Observables of the HMC test set with the noise of each time, which is the truth there."""
    run = ensembles.ensemble(phase, "test", request)
    fields = torch.from_numpy(run.cfgs())
    generator = rng.stream(request.child_seed(phase), "noise")
    # HMC never changes the sign of M in the broken phase; the theory has both.
    fields = fields * rng.signs((len(fields), *(1,) * (fields.ndim - 1)), generator)
    records = [measured(fields + s * rng.normal(fields.shape, generator)) for s in noise_at(model, TIMES)]
    return [{name: x.reshape(run.n_chains, -1) for name, x in record.items()} for record in records]


def measured(fields: Tensor) -> dict[str, Array]:
    """Observables of fields ``(..., x, y)``."""
    M = fields.mean((-2, -1))
    return {
        "M": M.numpy(),
        "phi2": fields.square().mean((-2, -1)).numpy(),
        "order": fields.sign().mean((-2, -1)).abs().numpy(),
    }


def moment(record: Mapping[str, Array]) -> Moment:
    """Estimates from a record ``(chain, draw)``; fields that were generated are one chain without memory."""
    M2 = record["M"] ** 2
    with warnings.catch_warnings():
        # Of a series that is too short for its autocorrelation time to be known; these fields have no memory.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        return Moment(
            gamma_method(np.abs(record["M"])),
            gamma_method(record["phi2"]),
            gamma_method(record["order"]),
            gamma_derived(lambda m4, m2: 1 - m4 / (3 * m2 * m2), [M2**2, M2], name="binder"),
        )


def noise_at(model: DiffusionModel, times: tuple[float, ...]) -> Array:
    """Standard deviation of the noise at times."""
    level = 1 - torch.tensor(times, dtype=torch.float64, device="cpu")
    found: Array = model.reference.variance(level).clamp(min=0).sqrt().numpy()
    return found


def expected_fields(model: DiffusionModel, fields: Array) -> Array:
    """``phi_s + s^2 score``: the field that the model expects behind each noisy one, by Tweedie's formula."""
    phi, s = torch.from_numpy(fields), torch.from_numpy(noise_at(model, SHOWN))
    found: Array = (phi + s.view(-1, 1, 1).square() * model.score(phi, s)).numpy()
    return found


def draw(sequence: Mapping[Kind, Array], expected: Array, noise: Array) -> Figure:
    """A field at :data:`SHOWN`, by both processes, and what the model expects of the first; one colour bar."""
    rows = {"SDE": sequence["sde"], "ODE": sequence["ode"], r"E$[\phi_0|\phi_s]$": expected}
    # Twice the size of the field without noise: noise beyond that is saturated.
    limit = float(f"{2 * np.sqrt(np.mean(sequence['sde'][-1] ** 2)):.2g}")
    figure, axes = make_panels(9.6, 5.9, rows=len(rows), columns=len(SHOWN))
    for row, (label, fields) in enumerate(rows.items()):
        for column, (time, field) in enumerate(zip(SHOWN, fields, strict=True)):
            ax = axes[row * len(SHOWN) + column]
            image = ax.imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                s = noise[TIMES.index(time)]
                ax.set_title(rf"$\tau = {time:g}$" + "\n" + rf"$s = {s:.3g}$", fontsize=10)
            if column == 0:
                ax.set_ylabel(label)
    figure.colorbar(image, ax=axes, label=r"$\phi(x)$", extend="both", fraction=0.03, ticks=[-limit, 0, limit])
    return figure


def draw_observables(moments: Mapping[Phase, Mapping[str, list[Moment]]]) -> Figure:
    """Observables against time, one row for each phase."""
    panels = {
        "abs_M": r"$\langle |M| \rangle$",
        "phi2": r"$\langle \phi^2 \rangle$",
        "order": r"$\langle |\overline{\mathrm{sign}\,\phi}| \rangle$",
    }
    figure, axes = make_panels(9.6, 5.4, rows=len(moments), columns=len(panels), sharex=True)
    looks = palette([TRUTH, *LABELS.values()])
    for row, (phase, of_phase) in enumerate(moments.items()):
        for column, (name, label) in enumerate(panels.items()):
            ax = axes[row * len(panels) + column]
            for shift, kind in enumerate(LABELS.values()):
                points = [getattr(x, name) for x in of_phase[kind]]
                look = looks[kind]
                ax.errorbar(
                    np.array(TIMES) + 0.012 * (2 * shift - 1), [x.value for x in points], [x.error for x in points],
                    color=look.colour, marker=look.marker, linestyle="none", markersize=4, label=kind
                )  # fmt: skip
            truth = [getattr(x, name).value for x in of_phase[TRUTH]]
            ax.plot(TIMES, truth, color=looks[TRUTH].colour, linewidth=1.2, label=TRUTH, zorder=0)
            if name != "order":
                ax.set_yscale("log")
            ax.set(ylabel=label)
            if row == len(moments) - 1:
                ax.set_xlabel(r"time $\tau$")
            if column == 1:
                ax.set_title(rf"{phase} phase, $\kappa = {KAPPAS[phase]:g}$", fontsize=10)
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def table(moments: Mapping[Phase, Mapping[str, list[Moment]]]) -> str:
    """Observables at the end of the backward process."""
    rows = [["phase", "observable", "HMC", *(cell for label in LABELS.values() for cell in (label, "z"))]]
    names = {"abs_M": "<|M|>", "phi2": "<phi^2>", "order": "<|mean sign|>", "binder": "U_L"}
    for phase, of_phase in moments.items():
        for name, text in names.items():
            truth = getattr(of_phase[TRUTH][-1], name)
            row = [phase, text, str(truth)]
            for label in LABELS.values():
                found = getattr(of_phase[label][-1], name)
                row += [str(found), format_z(z_score(found, truth))]
            rows.append(row)
    return "\n".join(aligned(rows))


def findings(moments: Mapping[Phase, Mapping[str, list[Moment]]]) -> tuple[str, ...]:
    """The figures in words."""
    order = {phase: [x.order.value for x in of_phase[LABELS["sde"]]] for phase, of_phase in moments.items()}
    worst = {
        label: max(
            abs(z_score(getattr(x, name), getattr(y, name)))
            for of_phase in moments.values()
            for x, y in zip(of_phase[label], of_phase[TRUTH], strict=True)
            for name in ("abs_M", "phi2", "order")
        )
        for label in LABELS.values()
    }
    return (
        f"In the broken phase domains of one sign grow: the mean sign rises from {order['broken'][0]:.2f} at tau = 0 "
        f"to {order['broken'][-1]:.2f} at tau = 1. In the symmetric phase it ends at {order['symmetric'][-1]:.2f}.",
        "Over all times and both phases the observables differ from the truth by at most "
        + " and ".join(f"{z:.1f} standard errors ({label})" for label, z in worst.items())
        + ": the U-Net and its steps are not exact, and no accept/reject step corrects them here.",
    )


def caption(phase: Phase) -> str:
    """How to read the sequence of a phase."""
    return (
        f"The backward process of the U-Net in the {phase} phase, kappa = {KAPPAS[phase]:g}. Upper rows: the field "
        "itself, by the stochastic equation and by the probability flow, which begin at the same noise. Lower row: the "
        "field that the model expects behind the noisy field of the first row. All panels share one colour bar on the "
        "raw scale, on which the early noise is saturated; s is its standard deviation."
    )


OBSERVABLES_CAPTION = (
    "Observables of the fields on their way. Lines: the truth, which is an HMC ensemble with the noise of each time. "
    "Points: the backward process of the U-Net, moved apart a little."
)


def _by_time(fields: Mapping[str, Array]) -> list[dict[str, Array]]:
    names = [name for name in fields if name != "shown"]
    return [{name: fields[name][:, k][None] for name in names} for k in range(len(TIMES))]


def _plain(x: Moment) -> dict[str, tuple[float, float]]:
    return {name: (getattr(x, name).value, getattr(x, name).error) for name in ("abs_M", "phi2", "order", "binder")}


EXHIBIT = Exhibit(
    "denoising",
    "From noise to a field: the denoising sequence of a U-Net in two phases",
    "Wang, Aarts, Zhou, JHEP 05 (2024) 060, figures of the denoising process; talk of G. Aarts, Lattice 2024",
    6,
    make,
    figures=("denoising_symmetric", "denoising_broken", "observables"),
    files=tuple(f"{phase}-{kind}.npz" for phase in PHASES for kind in KINDS),
)

"""Cumulants from the second to the eighth along the forward and the backward process, of one site and of a lattice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.rng import normal, stream, uniform
from dmmc.diagnostics import cumulant, cumulants_of_moments, format_value
from dmmc.gallery import cumulants_figures
from dmmc.gallery.cumulant_paths import EVEN, Point, System
from dmmc.gallery.exhibit import Exhibit, Findings, Request
from dmmc.gallery.kept import kept_model, kept_run
from dmmc.gallery.wells import WELLS, model_of, variance, well
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.proposals import ode
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

TIMES = tuple(k / 10 for k in range(11))
"""Times tau of the processes: 0 is the prior, 1 the target."""

CLOSE_TIMES = tuple(k / 40 for k in range(41))
"""Times at which cumulants are computed."""

STEPS_BETWEEN = 4
"""Steps of the flow between two of them."""

WELL, ON_LATTICE = "double well", "phi^4 on 8 x 8"

ACTION, LATTICE = Phi4(kappa=0.27, lam=0.022), Lattice((8, 8))

NETWORK = {"filters": 4, "hidden1": 16, "hidden2": 8}

CHAINS = 64
"""Chains, or pieces of as many independent fields."""


TRUTH, DATA, MODEL, CHAIN = "truth.h5", "data.h5", "model.safetensors", "chain.h5"

KEEP_EVERY = 4
"""Cluster updates from one field that is kept to the next."""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        site: fields of one site, in either direction.
        truth: draws of each of 64 cluster chains, whose cumulants are the truth on the lattice.
        data: draws of each of 64 others, whose fields are noised, and learned from; as many are generated.
        training: steps of training on the lattice.
        chain: draws of each of 64 exact chains.
    """

    site: int
    truth: int
    data: int
    training: int
    chain: int


FULL, QUICK = Size(640_000, 4000, 2000, 1000, 500), Size(6_400, 160, 80, 60, 32)


def _pieces(phi: Tensor) -> NDArray[np.float64]:
    """Independent fields ``(n, *lattice)`` as ``(chain, draw, *lattice)``."""
    return phi.double().numpy().reshape(CHAINS, -1, *phi.shape[1:])


def _points(process: str, fields: Sequence[NDArray[np.float64]], model: DiffusionModel) -> list[Point]:
    """The cumulants of fields ``(chain, draw, *lattice)`` at all times."""
    points = []
    for tau, phi in zip(TIMES, fields, strict=True):
        for order in EVEN:
            found = cumulant(phi, order, name=f"fields at tau = {tau}")
            points.append(Point(process, tau, variance(model, tau), order, found.value, found.error))
    return points


def _noised(phi: Tensor, model: DiffusionModel, generator: torch.Generator) -> list[NDArray[np.float64]]:
    """The forward process: fields with the noise of each time."""
    return [
        _pieces(phi + math.sqrt(variance(model, tau)) * normal(phi.shape, generator, device=phi.device))
        for tau in TIMES
    ]


def _one_site(request: Request, size: Size) -> System:
    theory, model = well(WELLS[WELL]), model_of(WELL, request)
    random = stream(request.child_seed("one site"), "fields")
    forward = _noised(theory.quantiles(uniform((size.site,), random)), model, random)
    request.say(f"{size.site} fields of one site along the backward process")
    backward = model.backward(size.site, TIMES, "sde", generator=stream(request.child_seed("one site"), "backward"))
    return System(
        name=WELL,
        exact=tuple(cumulants_of_moments(theory.moments(max(EVEN)))),
        errors=(0.0,) * max(EVEN),
        points=(
            *_points("forward", forward, model),
            *_points("backward", list(map(_pieces, backward)), model),
            *_of_flow(model),
        ),
        variances=_variances(model),
    )


def _variances(model: DiffusionModel) -> tuple[tuple[float, float], ...]:
    return tuple((tau, variance(model, tau)) for tau in CLOSE_TIMES)


def _of_flow(model: DiffusionModel) -> tuple[Point, ...]:
    """The cumulants of the probability flow of one site at all times, by quadrature in its latent number."""
    z = torch.linspace(-9, 9, 1801, dtype=torch.float64, device="cpu")
    weight = torch.softmax(-0.5 * z.square(), 0)
    points = []
    fields = ode.denoise(model.to_float64(), z.view(-1, 1), [1 - tau for tau in CLOSE_TIMES], n_steps=STEPS_BETWEEN)
    for tau, phi in zip(CLOSE_TIMES, fields, strict=True):
        moments = [float((weight * phi.flatten() ** power).sum()) for power in range(1, max(EVEN) + 1)]
        kappa = cumulants_of_moments(moments)
        points += [Point("flow", tau, variance(model, tau), order, kappa[order - 1], 0.0) for order in EVEN]
    return tuple(points)


def _lattice(request: Request, size: Size) -> System:
    truth, data = (_ensemble(part, draws, request) for part, draws in ((TRUTH, size.truth), (DATA, size.data)))
    path = request.folder / MODEL
    options = TrainingOptions(steps=size.training, seed=request.child_seed("training"))

    def make(resume: bool) -> None:
        request.say(f"training {ON_LATTICE} for {size.training} steps")
        train(data, path, options, config=NETWORK, sectors="one", resume=resume, device=request.device, say=request.say)

    model = kept_model(path, make, request.device)
    fields = torch.from_numpy(data.cfgs())
    request.say(f"{len(fields)} fields of the lattice along both processes")
    forward = _noised(fields, model, stream(request.child_seed("lattice"), "fields"))
    backward = model.backward(len(fields), TIMES, "sde", generator=stream(request.child_seed("lattice"), "backward"))
    known = [cumulant(truth.fields(), order, name="cluster chain") for order in range(1, max(EVEN) + 1)]
    return System(
        name=ON_LATTICE,
        exact=tuple(x.value for x in known),
        errors=tuple(x.error for x in known),
        points=(
            *_points("forward", forward, model),
            *_points("backward", list(map(_pieces, backward)), model),
            *_of_chain(model, request, size),
        ),
        variances=_variances(model),
    )


def _ensemble(file: str, draws: int, request: Request) -> StoredRun:
    path = request.folder / file
    length = ChainOptions(draws, keep_every=KEEP_EVERY, block=draws, seed=request.child_seed(file))
    options = EnsembleOptions("cluster", chains=CHAINS, run=length)
    return kept_run(path, lambda resume: make_ensemble(ACTION, LATTICE, path, options, resume=resume, say=request.say))


def _of_chain(model: DiffusionModel, request: Request, size: Size) -> list[Point]:
    """The cumulants of the exact chain of a model."""
    path = request.folder / CHAIN
    length = ChainOptions(size.chain, keep_every=1, block=size.chain, seed=request.child_seed(CHAIN))
    options = SampleOptions(chains=CHAINS, run=length)
    chain = kept_run(path, lambda resume: sample(model, path, options, resume=resume, say=request.say))
    found = [cumulant(chain.fields(), order, name="exact chain") for order in EVEN]
    return [Point("exact chain", 1.0, 0.0, order, x.value, x.error) for order, x in zip(EVEN, found, strict=True)]


def _text(value: float, error: float) -> str:
    return format_value(value, error) if error else f"{value:.6g}"


def _table(systems: Sequence[System]) -> str:
    """The cumulants at the end of the processes, without noise."""
    lines = [f"{'':16}  {'':8}  {'theory':>14}  {'process':12}  {'measured':>14}  {'z':>6}"]
    for system in systems:
        for order in EVEN:
            theory = format_value(system.exact[order - 1], system.errors[order - 1])
            for process in system.processes:
                last = system.of(process, order)[-1]
                z = f"{system.z(last):6.2f}" if last.error else ""
                value = format_value(last.value, last.error)
                lines.append(
                    f"{system.name:16}  kappa_{order:<2}  {theory:>14}  {process:12}  {value:>14}  {z}".rstrip()
                )
    return "\n".join(lines)


def make(request: Request) -> Findings:
    """Make the exhibit."""
    size = QUICK if request.quick else FULL
    site, lattice = _one_site(request, size), _lattice(request, size)
    off = {order: abs(site.of("flow", order)[-1].value / site.exact[order - 1] - 1) for order in EVEN}
    forward = [system.z(p) for system in (site, lattice) for p in system.points if p.process == "forward"]
    largest = max(map(abs, forward))
    text = (
        "Noise changes no cumulant but the second: those of the forward process deviate from that by at most "
        f"{largest:.1f} standard errors ({len(forward)} points), and the errors grow with the noise.",
        "The backward process begins without higher cumulants and ends with them: those of the flow of one site are "
        f"off by {', '.join(f'{value:.1e} (kappa_{order})' for order, value in off.items())} of their value there.",
    )
    numbers = {"systems": (site, lattice), "flow_relative_error": off, "largest_z_forward": largest}
    return Findings(cumulants_figures.drawings(site, lattice), _table([site, lattice]), text, numbers)


EXHIBIT = Exhibit(
    "cumulants",
    "Cumulants along the forward and the backward process",
    "Aarts, Habibi, Wang, Zhou, 2410.21212",
    5,
    make,
    figures=("one-site", "lattice"),
    files=(TRUTH, DATA, MODEL, CHAIN),
)

"""A real diffusion model of the distribution that complex Langevin dynamics samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.rng import stream
from dmmc.diagnostics import format_value, gamma_derived, gamma_method, to_zero_step
from dmmc.gallery import complex_langevin_figures
from dmmc.gallery.complex_laws import (
    HOLOMORPHIC,
    LAM,
    SIGMA0,
    balance,
    complex_action,
    edge,
    exact_holomorphic,
    gaussian_law,
    holomorphic,
)
from dmmc.gallery.complex_learned import Average, Learned, gaussian_density_error, gaussian_score_error
from dmmc.gallery.exhibit import Exhibit, Findings, Request
from dmmc.gallery.few_numbers import flow_of
from dmmc.gallery.kept import kept_run
from dmmc.gallery.two_numbers import LATTICE, trained
from dmmc.kernels.complex_langevin import ComplexLangevin
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.chain import run_chain

MODELS = {"gaussian": 0.0, "quartic": LAM}
"""lam of each model."""

STEPS = (0.02, 0.01, 0.005)
"""Step sizes of the runs that are extrapolated."""

DATA_STEP = 0.0025
"""Step size of the run whose fields are learned."""

SPACING = 0.5
"""Time between two draws."""

CHAIN = "gaussian-chain.h5"
"""The file of the exact chain within P."""

BLOCKS = 64
"""Independent pieces into which proposals are cut, in place of chains."""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        chains: of complex Langevin.
        draws: of each of them, at each of STEPS.
        data_draws: of each of them, of the run that is learned.
        training: steps of training.
        fields_per_level: in each batch of the training.
        proposals: of the model.
        chains_within: exact chains within P.
        draws_within: of each of them.
    """

    chains: int
    draws: int
    data_draws: int
    training: int
    fields_per_level: int
    proposals: int
    chains_within: int
    draws_within: int


FULL = Size(1024, 160, 400, 2000, 256, 32_000, 512, 40)
QUICK = Size(64, 32, 32, 150, 32, 3_200, 64, 32)


class _Measured(Protocol):
    @property
    def value(self) -> float: ...

    @property
    def error(self) -> float: ...


def langevin_run(name: str, step: float, draws: int, request: Request, size: Size) -> StoredRun:
    """A run of complex Langevin dynamics; fields are kept of the one that is learned."""
    path = request.folder / langevin_file(name, step)
    kernel = ComplexLangevin(complex_action(MODELS[name]), LATTICE, step, allow_inexact=True)
    apart = round(SPACING / step)
    options = ChainOptions(
        draws, apart, keep_every=int(step == DATA_STEP), block=8, seed=request.child_seed(name, "langevin", str(step))
    )

    def make(resume: bool) -> StoredRun:
        request.say(f"complex Langevin, {name} model, steps of {step}")
        return run_chain(
            kernel,
            path,
            options,
            chains=size.chains,
            discard=16 * apart,  # the slowest mode of the Gaussian forgets as exp(-t)
            observables={"z": holomorphic},
            resume=resume,
            say=request.say,
        )

    return kept_run(path, make)


def langevin_file(name: str, step: float) -> str:
    """The file of a run."""
    return f"{name}-langevin-{step}.h5"


def model_file(name: str) -> str:
    """The file of a model."""
    return f"{name}.safetensors"


def model_of(name: str, phi: Tensor, request: Request, size: Size) -> DiffusionModel:
    """The model of data of complex Langevin dynamics, trained or read."""
    options = TrainingOptions(
        steps=size.training,
        fields_per_level=size.fields_per_level,
        learning_rate=0.01,
        average=0.2,
        seed=request.child_seed(name, "training"),
    )
    config = {"width": 32 if MODELS[name] else 16, "knots": 9}
    return trained(phi, request.folder / model_file(name), options, request, config)


def _pieces(values: Tensor) -> NDArray[np.float64]:
    """Numbers of independent fields ``(n, k)`` as k records ``(block, n / blocks)``."""
    return np.asarray(values.numpy().reshape(BLOCKS, -1, values.shape[1]).transpose(2, 0, 1))


def _averages(lam: float, samplers: Mapping[str, Sequence[_Measured]]) -> list[Average]:
    """The holomorphic averages of all samplers, which give one estimate for each observable."""
    return [
        Average(label, sampler, exact, found[k].value, found[k].error)
        for k, (label, exact) in enumerate(zip(HOLOMORPHIC, exact_holomorphic(lam), strict=True))
        for sampler, found in samplers.items()
    ]


def _balances(lam: float, data: Tensor, proposed: Tensor) -> list[Average]:
    """How well the law of the data, and that of the model, are balanced under the Langevin equation.

    Args:
        lam: of the model.
        data: fields ``(chain, draw, 2, 1)``.
        proposed: fields ``(n, 2, 1)`` of the model.
    """
    found = []
    for sampler, chains, phi in (("CL, the data", len(data), data.flatten(0, 1)), ("model", BLOCKS, proposed)):
        for name, values in balance(lam, phi).items():
            estimate = gamma_method(values.view(chains, -1).numpy())
            found.append(Average(f"L {name}", sampler, 0.0, estimate.value, estimate.error))
    return found


def _made(name: str, request: Request, size: Size) -> Learned:
    lam = MODELS[name]
    runs = [langevin_run(name, step, size.draws, request, size) for step in STEPS]
    data = langevin_run(name, DATA_STEP, size.data_draws, request, size)
    fields = torch.from_numpy(data.fields())
    model = model_of(name, fields.flatten(0, 1), request, size)
    flow = flow_of(model)
    request.say(f"{name}: {size.proposals} fields of the model, with their density")
    phi, log_q = flow.sample(size.proposals, stream(request.child_seed(name, "proposals"), "proposals"))
    of_model = _pieces(holomorphic(phi, log_q))
    number = range(len(HOLOMORPHIC))
    columns = [[run.observables["z"][..., k] for run in runs] for k in number]
    samplers: dict[str, Sequence[_Measured]] = {
        "CL, h -> 0": [to_zero_step(STEPS, [gamma_method(x) for x in columns[k]]) for k in number],
        "CL, the data": [gamma_method(data.observables["z"][..., k]) for k in number],
        "model": [gamma_method(x) for x in of_model],
    }
    if not lam:  # P is known, so that the model can be put right
        law = gaussian_law()
        log_w = -law(phi) - log_q
        w = _pieces((log_w - log_w.max()).exp().unsqueeze(1))[0]
        samplers["model, weighted"] = [gamma_derived(lambda a, b: a / b, [w * x, w]) for x in of_model]
        path = request.folder / CHAIN
        length = ChainOptions(size.draws_within, block=size.draws_within, seed=request.child_seed(name, "chain"))
        kernel = Independence(law, LATTICE, flow)
        chain = kept_run(
            path,
            lambda resume: run_chain(
                kernel, path, length, chains=size.chains_within, observables={"z": holomorphic}, resume=resume
            ),
        )
        samplers["chain within P"] = [gamma_method(chain.observables["z"][..., k]) for k in number]
    averages = _averages(lam, samplers) + _balances(lam, fields, phi)
    return Learned(name, lam, model, fields.flatten(0, 1).squeeze(2), phi.squeeze(2), tuple(averages))


def _table(learned: Sequence[Learned]) -> str:
    lines = [f"{'':8}  {'':8}  {'exact':>8}  {'sampler':15}  {'measured':>12}  {'z':>7}"]
    for one in learned:
        lines += [
            f"{one.name:8}  {x.observable:8}  {x.exact:8.4f}  {x.sampler:15}  {format_value(x.value, x.error):>12}  "
            f"{x.z:7.2f}"
            for x in one.averages
        ]
    return "\n".join(lines)


def make(request: Request) -> Findings:
    """Make the exhibit."""
    size = QUICK if request.quick else FULL
    gaussian, quartic = (_made(name, request, size) for name in MODELS)
    scores = [gaussian_score_error(gaussian.model, k / 20) for k in range(21)]
    density = gaussian_density_error(gaussian.model)
    worst = max(one.error for one in scores)
    outside = float((quartic.proposed[:, 1].abs() > edge(LAM)).double().mean())
    text = (
        f"Gaussian model, where P(x, y) is known: the learned score is off by at most {worst:.1e} of its size at any "
        f"time, the density of the flow by {density.total_variation:.1e} in total variation, and the effective "
        f"fraction of weighted proposals is {density.ess:.4f}.",
        f"Quartic model, where P is not known and nothing can put the model right: {100 * outside:.2g} % of its fields "
        f"lie outside of the strip |y| < {edge(LAM):.4f} that complex Langevin dynamics never leaves.",
    )
    numbers = {
        "gaussian": {"scores": scores, "density": density, "averages": gaussian.averages},
        "quartic": {"averages": quartic.averages, "outside_strip": outside, "edge": edge(LAM)},
        "largest_score_error": worst,
        "parameters": {"A": SIGMA0.real, "B": SIGMA0.imag, "lam": LAM, "steps": STEPS, "data_step": DATA_STEP},
    }
    drawings = complex_langevin_figures.drawings(gaussian, quartic, scores)
    return Findings(drawings, _table([gaussian, quartic]), text, numbers)


EXHIBIT = Exhibit(
    "complex-langevin",
    "A diffusion model of what complex Langevin dynamics samples",
    "Habibi, Aarts, Wang, Zhou, 2412.01919",
    5,
    make,
    figures=("gaussian", "quartic", "moments"),
    files=(
        *map(model_file, MODELS),
        *(langevin_file(name, step) for name in MODELS for step in (*STEPS, DATA_STEP)),
        CHAIN,
    ),
)

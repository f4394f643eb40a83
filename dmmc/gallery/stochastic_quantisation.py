"""The Langevin equation and a diffusion model run backwards, side by side: drift, noise, thermalisation, memory, steps.

Two-dimensional phi^4 on 16 x 16 near its transition, where the slowest mode is some hundred times slower than the
fastest. The two equations are those of :mod:`dmmc.gallery.processes`. What the steps of both get wrong is shown, and
that a Metropolis step puts it right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core import rng
from dmmc.core.records import plain
from dmmc.diagnostics import Estimate, format_value, resolved_tau
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery import stochastic_quantisation_figures as figures
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.kept import kept_model, kept_run
from dmmc.gallery.processes import Course, backward, course, geometric, langevin
from dmmc.gallery.stochastic_quantisation_figures import Chain, Drift, Equations, StepError
from dmmc.kernels.langevin import Langevin
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.pages.table import aligned
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies.chain import WARM_UP, run_chain
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory import momenta
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4

ACTION = Phi4(kappa=0.27, lam=0.022)

NETWORK = {"filters": 4, "hidden1": 8, "hidden2": 8}
"""A small network: nearly as good as the default one, and twenty times cheaper."""

FLOW_STEPS = 8

MASS = 0.5
"""Mass of the kernel in Fourier space."""

HOT = 2.0
"""Standard deviation of the white noise in which the Langevin equation begins."""

Array = NDArray[np.float64]

OBSERVABLES = ("phi2", "S_per_site")
"""Of which the error of the step is shown."""

FIELDS = 8
"""Fields of the diffusion model for each number of steps, in units of those that follow the equations."""

GROUPS = 16
"""The Gamma method gets independent fields in so many series."""


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        extent: of the lattice along each axis.
        chains: of each sampler.
        draws: of each of them.
        training: optimiser steps.
        fields: that follow the two equations.
        longest: longest step of Langevin time.
        last: Langevin time at which the equation ends.
        looks: how often it is looked at until then.
        slow: Langevin steps of a draw without a kernel in Fourier space.
        fast: the same with such a kernel.
        denoising: steps of the diffusion model as a process.
        steps: sizes of Langevin steps that are extrapolated from.
        counts: numbers of steps of the diffusion model that are extrapolated from.
    """

    extent: int
    chains: int
    draws: int
    training: int
    fields: int
    longest: float
    last: float
    looks: int
    slow: int
    fast: int
    denoising: int
    steps: tuple[float, ...]
    counts: tuple[int, ...]


FULL = Size(
    extent=16, chains=128, draws=240, training=400, fields=512, longest=0.05, last=200.0, looks=30, slow=40, fast=4,
    denoising=96, steps=(0.0025, 0.005, 0.0075, 0.01, 0.0125), counts=(12, 16, 24, 32, 48)
)  # fmt: skip
QUICK = Size(
    extent=6, chains=32, draws=60, training=30, fields=64, longest=0.05, last=10.0, looks=12, slow=4, fast=1,
    denoising=24, steps=(0.005, 0.01, 0.015), counts=(8, 12, 16)
)  # fmt: skip


def make(request: Request) -> Findings:
    """Make the exhibit."""
    size = QUICK if request.quick else FULL
    runs = Runs(request, size)
    hmc, model = runs.hmc(), runs.model()
    phi = torch.as_tensor(hmc.cfgs())
    phi = phi[:: max(1, len(phi) // size.fields)][: size.fields].double()
    chains = {
        "Langevin": Chain.of(runs.adjusted(None)),
        "Langevin, Fourier": Chain.of(runs.adjusted(MASS)),
        "HMC": Chain.of(hmc),
        "diffusion": Chain.of(runs.diffusion()),
    }
    request.say("the two equations")
    equations = follow(model, phi, hmc, size, request)
    drift = Drift(model.score(phi, 0.0).numpy().ravel(), -force(ACTION, phi).numpy().ravel())
    request.say("both equations with steps of several sizes")
    errors = step_errors(model, runs, chains, size, request)
    truth = {name: estimate(hmc.observables[name]) for name in ("M2", *OBSERVABLES)}
    drawings = (
        Drawing("equations", figures.equations(equations, truth), figures.EQUATIONS),
        Drawing("drift", figures.drift(drift, equations.diffusion), figures.DRIFT),
        Drawing("memory", figures.memory(equations), figures.MEMORY),
        Drawing("chains", figures.chains(chains), figures.CHAINS),
        Drawing("step_size", figures.step_size(errors, truth), figures.STEP_SIZE),
    )
    numbers = {
        "drift_error": drift.error,
        "force": drift.strength,
        "truth": truth,
        "steps": {name: {"langevin": both[0], "diffusion": both[1]} for name, both in errors.items()},
        "evaluations": {name: {key: chain.cost(key) for key in ("M", "M2")} for name, chain in chains.items()},
        "langevin": numbers_of(equations.langevin),
        "diffusion": numbers_of(equations.diffusion),
    }
    return Findings(drawings, table(errors, truth), text(errors, chains, drift), plain(numbers))


@dataclass(frozen=True)
class Runs:
    """The runs and the model of the exhibit, each made once.

    Attributes:
        request: what is asked for.
        size: how large everything is.
    """

    request: Request
    size: Size

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return Lattice((self.size.extent,) * 2)

    def hmc(self) -> StoredRun:
        """The HMC ensemble: to train on, and the truth."""
        path, size = self.request.folder / "hmc.h5", self.size
        options = EnsembleOptions(
            chains=size.chains, run=ChainOptions(size.draws, keep_every=12, seed=self.request.child_seed("hmc"))
        )

        def make(resume: bool) -> None:
            device = self.request.device
            make_ensemble(ACTION, self.lattice, path, options, resume=resume, device=device, say=self.request.say)

        return kept_run(path, make)

    def model(self) -> DiffusionModel:
        """The diffusion model."""
        path = self.request.folder / "model.safetensors"
        options = TrainingOptions(steps=self.size.training, seed=self.request.child_seed("model"))

        def make(resume: bool) -> None:
            self.request.say("training a model")
            train(
                self.hmc(),
                path,
                options,
                config=NETWORK,
                sectors="one",
                resume=resume,
                device=self.request.device,
                say=self.request.say,
            )

        return kept_model(path, make, self.request.device)

    def diffusion(self) -> StoredRun:
        """The exact chain of the model."""
        path, size = self.request.folder / "diffusion.h5", self.size
        length = ChainOptions(size.draws // 2, keep_every=0, seed=self.request.child_seed("diffusion"))
        options = SampleOptions(size.chains // 2, run=length, flow_steps=FLOW_STEPS)
        return kept_run(path, lambda resume: sample(self.model(), path, options, resume=resume, say=self.request.say))

    def adjusted(self, mass: float | None) -> StoredRun:
        """The Langevin chain with a Metropolis step, without or with a kernel in Fourier space."""
        kernel = Langevin.default(ACTION, self.lattice, mass=mass)
        name, steps = ("mala", self.size.slow) if mass is None else ("mala-fourier", self.size.fast)
        return self._langevin(name, kernel, steps)

    def euler(self, h: float) -> StoredRun:
        """The Langevin chain without a Metropolis step, with a kernel in Fourier space."""
        kernel = Langevin(ACTION, self.lattice, h, adjusted=False, mass=MASS, allow_inexact=True)
        return self._langevin(f"euler-{h:g}", kernel, max(1, round(0.05 / h)))

    def _langevin(self, name: str, kernel: Langevin, steps_per_draw: int) -> StoredRun:
        path, size = self.request.folder / f"{name}.h5", self.size
        options = ChainOptions(size.draws, steps_per_draw, keep_every=0, seed=self.request.child_seed(name))

        def make(resume: bool) -> None:
            run_chain(
                kernel,
                path,
                options,
                chains=size.chains,
                discard=WARM_UP * steps_per_draw,
                resume=resume,
                device=self.request.device,
                say=self.request.say,
            )

        return kept_run(path, make)


def follow(model: DiffusionModel, phi: Tensor, hmc: StoredRun, size: Size, request: Request) -> Equations:
    """Follow both equations, the Langevin equation from white noise and from fields of the theory ``phi``."""
    lattice, n = model.lattice, len(phi)
    orbits = momenta.orbit_modes(lattice.shape)
    chosen = {"p = 0": 0, r"$p_{\min}$": 1, r"$p_{\max}$": len(orbits) - 1}
    modes = [orbits[k] for k in chosen.values()]
    propagator = hmc.observables["two_point"].mean((0, 1))
    times = geometric(size.longest / 10, size.last, size.looks)
    hot = HOT * rng.normal((n, *lattice.shape), rng.stream(request.child_seed("hot"), "start"))

    def equation(name: str, start: Tensor) -> Course:
        generator = rng.stream(request.child_seed(name), "noise")
        return course(langevin(ACTION, lattice, start, times, size.longest, generator), lattice, modes)

    return Equations(
        langevin=equation("hot", hot),
        equilibrium=equation("equilibrium", phi),
        diffusion=course(
            backward(model, n, size.denoising, rng.stream(request.child_seed("backward"), "noise")), lattice, modes
        ),
        names=tuple(chosen),
        c=tuple(float(propagator[k]) for k in chosen.values()),
    )


def step_errors(
    model: DiffusionModel, runs: Runs, chains: Mapping[str, Chain], size: Size, request: Request
) -> dict[str, tuple[StepError, StepError]]:
    """Of each observable, the error of the steps of the Langevin equation and of the diffusion model."""
    euler = [runs.euler(h).observables for h in size.steps]
    ends = [end(model, count, size, request) for count in size.counts]
    found = {}
    for name in OBSERVABLES:
        mala, diffusion = (estimate(chains[key].observables[name]) for key in ("Langevin, Fourier", "diffusion"))
        found[name] = (
            StepError.of(size.steps, [estimate(of_step[name]) for of_step in euler], mala),
            StepError.of([1 / count for count in size.counts], [of_count[name] for of_count in ends], diffusion),
        )
    return found


def end(model: DiffusionModel, steps: int, size: Size, request: Request) -> dict[str, Estimate]:
    """The observables of fields that a diffusion model makes in so many steps, with nothing accepted or rejected."""
    generator = rng.stream(request.child_seed("steps", steps), "noise")
    (phi,) = (
        model.backward(GROUPS * (FIELDS * size.fields // GROUPS), n_steps=steps, generator=generator).double().cpu()
    )
    measured = measure(phi, evaluate(ACTION, phi), model.lattice)
    return {name: estimate(measured[name].view(GROUPS, -1).numpy()) for name in OBSERVABLES}


def estimate(x: Array) -> Estimate:
    """The mean of a record ``(chain, draw)``, however short."""
    return resolved_tau(x)[0]


def numbers_of(found: Course) -> dict[str, Any]:
    """The course of an equation, as numbers."""
    return {name: getattr(found, name) for name in ("time", "variance", "drift", "noise", "M2", "phi2")}


def table(errors: Mapping[str, tuple[StepError, StepError]], truth: Mapping[str, Estimate]) -> str:
    """Each way to get an observable, and how far it is off HMC, as aligned text."""
    ways = ("Langevin, largest step", "Langevin, no step", "Langevin, Metropolis step")
    more = ("diffusion, fewest steps", "diffusion, no step", "diffusion, Metropolis step")
    lines = [
        ["", *(cell for name in errors for cell in (symbol(name).text, "z"))],
        ["HMC", *(cell for name in errors for cell in (str(truth[name]), ""))],
    ]
    for k, label in enumerate((*ways, *more)):
        cells = []
        for name, both in errors.items():
            x = both[k // 3].ways[k % 3]
            z = (x.value - truth[name].value) / math.hypot(x.error, truth[name].error)
            cells += [format_value(x.value, x.error), f"{z:+.1f}"]
        lines.append([label, *cells])
    return "\n".join((*aligned(lines), "z: difference from HMC in standard errors"))


def text(
    errors: Mapping[str, tuple[StepError, StepError]], chains: Mapping[str, Chain], drift: Drift
) -> tuple[str, ...]:
    """What is to be learned, in words."""
    langevin_fit, diffusion_fit = (both.limit for both in errors["phi2"])
    costs = ", ".join(f"{2 * chain.cost('M2'):.3g} ({name})" for name, chain in chains.items())
    return (
        f"Without noise the learned drift is the force of the action up to {100 * drift.error:.2g} % of its size.",
        "Steps of the Langevin equation change <phi^2> by "
        f"{langevin_fit.slope:.3g} h, and the straight line has p = {langevin_fit.p_value:.2g}; those of the diffusion "
        f"model by {diffusion_fit.slope:.3g} / (number of steps), p = {diffusion_fit.p_value:.2g}.",
        f"Forces, or evaluations of the network, for an independent M^2: {costs}.",
    )


EXHIBIT = Exhibit(
    "stochastic-quantisation",
    "The Langevin equation and a diffusion model backwards; 16 x 16, kappa = 0.27, lam = 0.022",
    "Wang, Aarts, Zhou, JHEP 05 (2024) 060; Parisi, Wu (1981)",
    5,
    make,
    figures=("equations", "drift", "memory", "chains", "step_size"),
    files=(
        "hmc.h5", "model.safetensors", "diffusion.h5", "mala.h5", "mala-fourier.h5",
        *(f"euler-{h:g}.h5" for h in sorted({*FULL.steps, *QUICK.steps}))
    ),
)  # fmt: skip

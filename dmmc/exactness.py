"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth.

Each variant is a chain of one theory with one model. Some are exact; some are recipes that look alike and are not, and
say so in every file. The truth is quadrature on one or two sites, else cluster updates.

Errors are from the scatter of the chains, which are independent of each other: no window is needed, and the covariance
of all observables of a kernel comes with them. Biases are differences from the truth, whose error all kernels share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

import dmmc
from dmmc import chain, rng, storage, workflow
from dmmc.actions import Action, Phi4
from dmmc.certificate import Certificate, certify, choose_steps
from dmmc.diagnostics import format_value
from dmmc.diagnostics.autocorrelation import MIN_DRAWS
from dmmc.divergence import Hutchinson
from dmmc.errors import DmmcError, FileError
from dmmc.flow import FlowProposal
from dmmc.folder import begun, open_folder, remove_run, replace_file
from dmmc.kernels import cluster, hmc
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.hybrid import Hybrid
from dmmc.kernels.independence import Independence, Proposal
from dmmc.kernels.inexact import Collapsed, Declared, Pool, SdeWithFlowDensity, Unadjusted
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import Path as PathKernel
from dmmc.kernels.path import PathProposal, PathRefresh
from dmmc.lattice import Lattice
from dmmc.model import DiffusionModel
from dmmc.network import NetworkSize
from dmmc.observables import measure
from dmmc.report import exactness_figures, figures
from dmmc.training import TrainingOptions

Array = NDArray[np.float64]

OBSERVABLES = ("M", "abs_M", "M2", "binder", "S_per_site", "G_min")
"""G_min is the two-point function at the smallest nonzero momentum."""

SYMBOLS = {"M": "<M>", "abs_M": "<|M|>", "M2": "<M^2>", "binder": "U_L", "S_per_site": "<S>/V", "G_min": "G(p_min)"}

SEEN = 5.0
"""Standard deviations of a normal number from which on a variant counts as seen to be wrong: p = 5.7e-7."""

INTEGRATOR_SHARE = 0.05
"""The flow has so many steps that the bound on its bias is below this part of a statistical error."""

HUTCHINSON_STEPS = 5
"""Steps of the flow where its density is estimated: the noise dwarfs the error of the integrator."""

NETWORK = NetworkSize(filters=3, hidden1=12, hidden2=6)
"""Small: its flaws are what there is to see, and exactness does not depend on it."""

TRAJECTORY = 8.0
"""HMC length for the hopping-form field, a quarter of the slowest oscillation of M where ``V <M^2>`` is about 25."""

ENSEMBLE_DRAWS, ENSEMBLE_EVERY = 16, 3
BURN_IN, BURN_IN_INEXACT = 8, 16
"""Steps thrown away: of chains that begin at fields of the target, and of chains that begin at proposals."""

BLOCK = 8
TRUTH_EVERY = 2
MIN_CHAINS = 32

RESULTS = ("exactness.json", "table.txt", "bias.png", "report.html")


# ---------------------------------------------------------------------------------------------------------
# The variants


@dataclass(frozen=True)
class Bench:
    """What the variants are made of.

    Attributes:
        action: the theory.
        lattice: where.
        flow: the model's probability flow, with as many steps as the statistical errors ask for.
        fields: fields of the theory, ``(n, *lattice)`` float64, independent of the chains.
        seed: of the variant.
    """

    action: Action
    lattice: Lattice
    flow: FlowProposal
    fields: Tensor
    seed: int

    @property
    def model(self) -> DiffusionModel:
        """The model."""
        return self.flow.model

    @property
    def generator(self) -> torch.Generator:
        """For tuning and calibration."""
        return rng.stream(self.seed, rng.START_STREAM + 2, self.model.device)

    def hmc(self) -> HMC:
        """HMC with long trajectories, tuned."""
        local = _long_hmc(self.action, self.lattice)
        return hmc.warm_up(local, local.start(self.fields[:256]), 20, self.generator)[0]

    def metropolis(self, proposal: Proposal, inexact: str = "") -> Independence:
        """Independence Metropolis; with a reason, marked inexact."""
        offered = Declared(proposal, inexact) if inexact else proposal
        return Independence(self.action, self.lattice, offered, allow_inexact=bool(inexact))


@dataclass(frozen=True)
class Variant:
    """A way to use a diffusion model.

    Attributes:
        name: on the command line and of its file.
        label: in tables and figures.
        exact: whether it samples the theory, in theory.
        why: one sentence.
        kernel: makes the chain's kernel.
        share: draws in units of those asked for; less where they are expensive, more where they are cheap.
    """

    name: str
    label: str
    exact: bool
    why: str
    kernel: Callable[[Bench], Kernel]
    share: float = 1.0


def _hutchinson(n_probes: int, share: float) -> Variant:
    def kernel(bench: Bench) -> Kernel:
        flow = FlowProposal(bench.model, HUTCHINSON_STEPS, divergence=Hutchinson(n_probes))
        return Independence(bench.action, bench.lattice, flow, allow_inexact=True)

    return Variant(
        f"hutchinson-{n_probes}",
        f"Hutchinson density, {n_probes} probe{'s' if n_probes > 1 else ''}",
        False,
        "The chain samples p(phi) E[exp(-noise) | phi], and the noise of log q depends on the field.",
        kernel,
        share,
    )


def _collapsed_tail(bench: Bench) -> Kernel:
    largest = float(bench.fields.flatten(1).mean(1).abs().quantile(0.9))
    reason = "the model never proposes |M| above the 90 % quantile, and the chain never gets there"
    return bench.metropolis(Collapsed(bench.flow, largest=largest), reason)


def _sde(n_steps: int) -> Callable[[Bench], Kernel]:
    return lambda bench: Unadjusted(bench.action, bench.lattice, PathProposal.of(bench.model, n_steps))


def _path(bench: Bench) -> PathProposal:
    return PathProposal.of(bench.model, 16).calibrated(bench.fields[:2048], bench.generator)


VARIANTS = (
    Variant(
        "flow", "flow", True,
        "Independence Metropolis with log q of the probability flow; exact up to the integrator, which is bounded.",
        lambda bench: bench.metropolis(bench.flow),
    ),
    Variant(
        "latent", "latent, theta = 1", True,
        "The latent field is rotated into fresh noise, reversibly; accepted with the ratio of the same weights.",
        lambda bench: Latent(bench.action, bench.lattice, bench.flow, theta=1.0),
    ),
    Variant(
        "path", "path, 16 steps", True,
        "Whole paths of the reverse SDE are accepted or rejected with the ratio of two Gaussian path measures.",
        lambda bench: PathKernel(bench.action, bench.lattice, _path(bench)),
    ),
    Variant(
        "refresh", "partial path, level 0.7", True,
        "The field is noised up to a level and denoised again, accepted with the ratio of the two paths.",
        lambda bench: PathRefresh(bench.action, bench.lattice, _path(bench), level=0.7),
    ),
    Variant(
        "hybrid", "hybrid, flow and HMC", True,
        "Steps that each leave exp(-S) invariant do so in turn; the flow weighs anew the field that HMC hands to it.",
        lambda bench: Hybrid(((bench.metropolis(bench.flow), 1), (bench.hmc(), 1))),
        0.5,
    ),
    Variant(
        "hmc", "HMC", True,
        "No model: another exact sampler, as a check of the laboratory itself.",
        lambda bench: bench.hmc(),
        2.0,
    ),
    Variant(
        "ode", "no accept/reject, ODE", False,
        "Fields of the probability flow are taken as they come: the law of the model.",
        lambda bench: Unadjusted(bench.action, bench.lattice, bench.flow),
    ),
    Variant(
        "sde-8", "no accept/reject, SDE, 8 steps", False,
        "Fields of the reverse SDE are taken as they come: the law of the model, and of a coarse discretisation.",
        _sde(8),
    ),
    Variant(
        "sde-64", "no accept/reject, SDE, 64 steps", False,
        "The same with a fine discretisation: what remains is the error of the network.",
        _sde(64),
        0.5,
    ),
    Variant(
        "sde-ode", "SDE fields, ODE density", False,
        "Fields of the SDE have the density of the ODE only for a perfect score; the chain samples p q_SDE / q_ODE.",
        lambda bench: bench.metropolis(
            SdeWithFlowDensity(PathProposal.of(bench.model, 32), bench.flow),
            "fields of the reverse SDE are weighted with the density of the probability flow, which is another law",
        ),
    ),
    _hutchinson(1, 1.0),
    _hutchinson(4, 0.5),
    _hutchinson(16, 0.125),
    Variant(
        "ode-2", "ODE with 2 steps", False,
        "The integral of the divergence is not the log-determinant of so coarse a map: it samples p exp(-delta).",
        lambda bench: bench.metropolis(
            FlowProposal(bench.model, 2), "two integration steps: log q is not the density of the discrete map"
        ),
        4.0,
    ),
    Variant(
        "pool", "pool of 256 proposals", False,
        "A finite pool holds its own fields only; the chain samples the pool, reweighted.",
        lambda bench: bench.metropolis(
            Pool(bench.flow, 256, bench.seed), "proposals are drawn with replacement from a pool of 256"
        ),
    ),
    Variant(
        "one-sector", "collapsed: M > 0 only", False,
        "What the model never proposes the chain never visits; observables that are even in the field do not show it.",
        lambda bench: bench.metropolis(
            Collapsed(bench.flow, one_sign=True), "the model never proposes M < 0, and the chain never gets there"
        ),
    ),
    Variant(
        "no-tail", "collapsed: no large |M|", False,
        "The same with a model that is too narrow: fields beyond the 90 % quantile of |M| are never proposed.",
        _collapsed_tail,
    ),
)  # fmt: skip

NAMES = tuple(variant.name for variant in VARIANTS)


# ---------------------------------------------------------------------------------------------------------
# Means with their covariance


@dataclass(frozen=True)
class Means:
    """Estimates of :data:`OBSERVABLES` with their covariance.

    Attributes:
        values: ``(6,)``.
        covariance: of the estimates, ``(6, 6)``; zero where they are known exactly.
        n: independent chains from which the covariance was estimated; 0 where it is known.
    """

    values: Array
    covariance: Array
    n: int


def means(record: Mapping[str, Array]) -> Means:
    """From the record of independent chains: the covariance is that of the chain means, U_L being linearised.

    Args:
        record: M, abs_M, M2, M4, S_per_site ``(chain, draw)`` and two_point ``(chain, draw, orbit)``.
    """
    plain = {name: record[name].mean(1) for name in ("M", "abs_M", "M2", "M4", "S_per_site")}
    columns = {**plain, "G_min": record["two_point"][:, :, 1].mean(1)}
    m2, m4 = columns["M2"].mean(), columns["M4"].mean()
    binder = 1 - m4 / (3 * m2**2)
    columns["binder"] = binder + 2 * m4 * (columns["M2"] - m2) / (3 * m2**3) - (columns["M4"] - m4) / (3 * m2**2)
    by_chain = np.stack([columns[name] for name in OBSERVABLES], 1)
    n = len(by_chain)
    return Means(by_chain.mean(0), np.cov(by_chain, rowvar=False) / n, n)


def quadrature(action: Action, lattice: Lattice) -> Means:
    """The exact values on two sites, by the trapezoidal rule (which converges faster than any power here).

    Raises:
        DmmcError: on more sites.
    """
    if lattice.volume != 2:
        raise DmmcError(f"quadrature is for two sites, not {lattice.volume}")
    half_width = 1.0
    while True:  # until exp(-S) is nothing on the edge of the square
        edge = torch.linspace(-half_width, half_width, 201, dtype=torch.float64)
        side = torch.full_like(edge, half_width)
        S = action(torch.stack([edge, side], 1).view(-1, *lattice.shape))
        inside = action(torch.cartesian_prod(edge, edge).view(-1, *lattice.shape))
        if float(S.min() - inside.min()) > 45:
            break
        half_width *= 1.25
    axis = torch.linspace(-half_width, half_width, 801, dtype=torch.float64)
    phi = torch.cartesian_prod(axis, axis).view(-1, *lattice.shape)
    S = action(phi)
    p = torch.softmax(-S, 0)
    found = {
        name: float((p @ x) if x.ndim == 1 else p @ x[:, 1])
        for name, x in measure(phi, S, lattice).items()
    }  # fmt: skip
    found |= {"G_min": found["two_point"], "binder": 1 - found["M4"] / (3 * found["M2"] ** 2)}
    return _odd_is_zero(Means(np.array([found[name] for name in OBSERVABLES]), np.zeros((6, 6)), 0))


def _odd_is_zero(truth: Means) -> Means:
    """``<M> = 0`` without an error, by the symmetry of the action."""
    values, covariance, odd = truth.values.copy(), truth.covariance.copy(), OBSERVABLES.index("M")
    values[odd] = covariance[odd] = covariance[:, odd] = 0
    return Means(values, covariance, truth.n)


@dataclass(frozen=True)
class Agreement:
    """Whether kernels agree with the truth in everything.

    Attributes:
        chi2: of all observables of all kernels, with all their covariances.
        dof: its degrees of freedom.
        p_value: probability of a larger one, if all agree.
        sigma: how far a normal number must be off, on either side, to be as improbable.
    """

    chi2: float
    dof: int
    p_value: float
    sigma: float


def agreement(kernels: Sequence[Means], truth: Means) -> Agreement:
    """Chi^2 of the differences from the truth.

    Differences of kernel i and j have the covariance ``delta_ij C_i + C_truth``: observables of one kernel are
    correlated through its chains, those of different kernels through the truth. The C are estimates, from n chains, and
    the inverse of one is too large by ``(n - 1) / (n - k - 2)`` for k observables (Hartlap et al., Astron. Astrophys.
    464 (2007) 399); divided by that, chi^2 has the right mean.

    Raises:
        DmmcError: without a kernel.
    """
    if not kernels:
        raise DmmcError("there is no exact kernel to compare")
    k = len(truth.values)
    difference = np.concatenate([kernel.values - truth.values for kernel in kernels])
    covariance = np.tile(truth.covariance, (len(kernels), len(kernels)))
    for i, kernel in enumerate(kernels):
        block = slice(i * k, (i + 1) * k)
        covariance[block, block] += kernel.covariance
    scale = np.sqrt(np.diag(covariance))
    # In these units eigenvalues compare; one that is nothing belongs to observables that depend on each other.
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    independent = eigenvalues > 1e-10 * eigenvalues[-1]
    z = (difference / scale) @ vectors[:, independent]
    n = min((kernel.n for kernel in kernels if kernel.n), default=0)
    hartlap = (n - k - 2) / (n - 1) if n else 1.0
    chi2, dof = hartlap * float((z**2 / eigenvalues[independent]).sum()), int(independent.sum())
    return Agreement(chi2, dof, float(scipy.stats.chi2.sf(chi2, dof)), _sigma(chi2, dof))


def _sigma(chi2: float, dof: int) -> float:
    log_p = float(scipy.stats.chi2.logsf(chi2, dof))
    if math.isinf(log_p):  # too small for a number: the first term of the asymptotic series
        log_p = -chi2 / 2 + (dof / 2 - 1) * math.log(chi2 / 2) - math.lgamma(dof / 2)
    return max(0.0, -float(scipy.special.ndtri_exp(log_p - math.log(2))))


# ---------------------------------------------------------------------------------------------------------
# The laboratory


@dataclass(frozen=True)
class ExactnessOptions:
    """What the laboratory does.

    Attributes:
        action: the theory.
        shape: the lattice.
        variants: of :data:`NAMES`.
        draws: of each variant, all chains together; fewer of the expensive ones, more of the cheap ones.
        chains: parallel chains of each variant.
        truth_draws: of the cluster sampler, all chains together.
        steps: optimiser steps of the training.
        model: a model file instead.
        flow_steps: integration steps of the flow; None takes what the draws need.
        seed: of everything.
        device: where.

    Raises:
        DmmcError: if a number is out of its range, so that nothing fails after minutes of work.
    """

    action: Action
    shape: tuple[int, ...] = (8, 8)
    variants: tuple[str, ...] = NAMES
    draws: int = 98_304
    chains: int = 512
    truth_draws: int = 524_288
    steps: int = 400
    model: str | None = None
    flow_steps: int | None = None
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.variants) - set(NAMES))
        if not self.variants or unknown or len(set(self.variants)) < len(self.variants):
            raise DmmcError(f"variants must be different ones of {', '.join(NAMES)}; got {list(self.variants)}")
        if Lattice(self.shape).volume < 2:
            raise DmmcError("the laboratory needs two sites or more; with one there is no nonzero momentum")
        if not isinstance(self.action, Phi4):
            raise DmmcError("the laboratory is for phi^4: its truth comes from cluster updates")
        if self.chains < MIN_CHAINS:
            raise DmmcError(f"errors are from the scatter of the chains: {MIN_CHAINS} at least, got {self.chains}")
        least = MIN_DRAWS * self.chains
        if self.draws < least or self.truth_draws < least:
            raise DmmcError(
                f"{self.chains} chains of {MIN_DRAWS} draws are {least} at least; "
                f"got draws = {self.draws}, truth_draws = {self.truth_draws}"
            )
        if self.steps < 1 or (self.flow_steps is not None and self.flow_steps < 1):
            raise DmmcError("steps and flow_steps must be positive")
        if not 0 <= self.seed < 2**63:
            raise DmmcError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        self.load_model()

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return Lattice(self.shape)

    def load_model(self) -> DiffusionModel | None:
        """The given model, checked; None if one is to be trained."""
        if self.model is None:
            return None
        model = DiffusionModel.load(self.model, device=self.device)
        model.check_fits(self.action, self.lattice)
        return model

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity of the laboratory, compared on resumption."""
        model = self.load_model()
        return {
            **{name: value for name, value in asdict(self).items() if name != "action"},
            "action": self.action.describe(),
            "model": None if model is None else model.fingerprint(),
        }


def exactness(
    options: ExactnessOptions, out: str | Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run the laboratory.

    Args:
        options: what to do.
        out: the folder of the results: ``exactness.json``, ``table.txt``, ``bias.png``, ``report.html``, and the
            model, the truth and the chains, one run file each.
        resume: go on with one that was interrupted, variant by variant, or analyse a finished one again.
        overwrite: remove an earlier one's files first.

    Returns:
        The content of ``exactness.json``: ``plan``, ``truth``, ``flow`` (its steps and its
        :meth:`dmmc.certificate.Certificate.summary`), ``variants``, ``agreement`` of the exact ones, ``missed`` (what
        is not exact and was not seen) and the table.

    Raises:
        FileError: if ``out`` holds a laboratory, without ``resume`` or ``overwrite``, or there is none to resume.
        MismatchError: if the one to be resumed has other options; the message names them.
    """
    out = Path(out)
    open_folder(out, options.describe(), "laboratory", resume, overwrite, lambda _: _clear(out))
    lattice, stages = options.lattice, workflow.Stages()
    with stages("truth"):
        truth, about = _truth(options, out)
    with stages("model"):
        model, fields = _model(options, out)
        flow, certificate = _flow(options, model)
    chosen = [variant for variant in VARIANTS if variant.name in options.variants]
    results, found = [], {}
    for number, variant in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}  {variant.label}", flush=True)
        seed = _seed(options.seed, variant.name)
        with stages(variant.name):
            bench = Bench(options.action, lattice, flow, fields, seed)
            run = _run(variant, bench, options, out / f"{variant.name}.h5")
        found[variant.name] = means(run.observables)
        results.append(_result(variant, run, found[variant.name], truth))
    exact = [found[variant.name] for variant in chosen if variant.exact]
    summary: dict[str, Any] = {
        "format": "dmmc-exactness",
        "dmmc": dmmc.__version__,
        "plan": options.describe(),
        "truth": {**about, "observables": _values(truth)},
        "flow": {"steps": flow.total_steps, "evaluations": flow.evaluations, **certificate.summary()},
        "variants": results,
        "agreement": asdict(agreement(exact, truth)) if exact else None,
        "missed": missed(results),
        "wall_seconds": {name: round(seconds, 1) for name, seconds in stages.seconds.items()},
    }
    return _write(out, workflow.plain(summary))


def _clear(out: Path) -> None:
    for name in (*NAMES, "truth", "ensemble"):
        remove_run(out / f"{name}.h5")
    remove_run(out / "model.safetensors")
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)


def _seed(seed: int, name: str) -> int:
    """Of its own for each chain; new variants leave those of the old ones as they are."""
    words = np.random.SeedSequence((seed, *name.encode())).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def _long_hmc(action: Action, lattice: Lattice) -> HMC:
    scale = action.scale if isinstance(action, Phi4) else 1.0
    return HMC.default(action, lattice, length=TRAJECTORY * scale)


def _truth(options: ExactnessOptions, out: Path) -> tuple[Means, dict[str, Any]]:
    if options.lattice.volume == 2:
        return quadrature(options.action, options.lattice), {"method": "quadrature", "file": None}
    path, draws = out / "truth.h5", options.truth_draws // options.chains
    print(f"truth: clusters, {draws * options.chains:,} draws", flush=True)
    length = chain.ChainOptions(
        draws, steps_per_draw=TRUTH_EVERY, block=min(64, draws), seed=_seed(options.seed, "truth")
    )
    run = _cluster_run(options, path, length)
    return _odd_is_zero(means(run.observables)), {"method": "cluster", "file": path.name}


def _cluster_run(options: ExactnessOptions, path: Path, run: chain.ChainOptions) -> storage.Run:
    if path.exists():
        return storage.load_run(path)
    action, lattice, device = options.action, options.lattice, options.device
    assert isinstance(action, Phi4)
    generator = rng.stream(run.seed, rng.START_STREAM)
    kernel = Cluster(_long_hmc(action, lattice), n_local=1)
    rough = torch.randn((options.chains, *lattice.shape), generator=generator, dtype=torch.float64)
    sign = torch.sign(torch.randn((options.chains, *(1,) * lattice.dim), generator=generator, dtype=torch.float64))
    phi = (action.scale * (0.5 * sign + 0.1 * rough)).to(device)
    tuned, state = cluster.warm_up(kernel, kernel.start(phi), 40, generator)
    chain.run(
        tuned, lambda: _after(tuned, state, 100, generator), run, path, resume=begun(path), device=device
    )  # fmt: skip
    return storage.load_run(path)


def _after(kernel: Kernel, state: State, n: int, generator: torch.Generator) -> State:
    """The state ``n`` steps later."""
    for later, _ in kernel.steps(state, n, generator):
        state = later
    return state


def _model(options: ExactnessOptions, out: Path) -> tuple[DiffusionModel, Tensor]:
    """The model, and fields of the theory: it is trained on them, exact chains begin at them."""
    seed = _seed(options.seed, "ensemble")
    keep = chain.ChainOptions(
        ENSEMBLE_DRAWS, steps_per_draw=ENSEMBLE_EVERY, keep_every=1, block=ENSEMBLE_DRAWS, seed=seed
    )
    run = _cluster_run(options, out / "ensemble.h5", keep)
    # Chains lie one after another in the file; validation must not be on one of them alone.
    phi = torch.as_tensor(run.cfgs())
    phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(seed))].to(options.device)
    given, path = options.load_model(), out / "model.safetensors"
    if given is not None:
        return given, phi
    if path.exists():
        return DiffusionModel.load(path, device=options.device), phi
    print(f"training, {options.steps} steps", flush=True)
    training = TrainingOptions(steps=options.steps, levels=32, seed=seed)
    model = workflow.train(
        options.action, options.lattice, phi.float(), training, path, size=NETWORK, resume=True, device=options.device
    )
    return model, phi


def _flow(options: ExactnessOptions, model: DiffusionModel) -> tuple[FlowProposal, Certificate]:
    """The flow, with as many steps as the draws need or as were asked for, and its certificate."""
    generator = rng.stream(options.seed, rng.START_STREAM + 3, model.device)
    if options.flow_steps is not None:
        flow = FlowProposal(model, options.flow_steps)
        return flow, certify(flow, generator=generator)
    choice = choose_steps(FlowProposal(model, method="dopri5"), options.draws, INTEGRATOR_SHARE, generator=generator)
    return choice.proposal, choice.certificate


def _run(variant: Variant, bench: Bench, options: ExactnessOptions, path: Path) -> storage.Run:
    if path.exists():
        return storage.load_run(path)
    kernel = variant.kernel(bench)
    draws = max(MIN_DRAWS, round(variant.share * options.draws / options.chains))
    generator = rng.stream(bench.seed, rng.START_STREAM, options.device)

    def start() -> State:
        if isinstance(kernel, Unadjusted):
            return kernel.start_from_proposals(options.chains, generator)
        if isinstance(kernel, Independence) and not variant.exact:
            return _after(kernel, kernel.start_from_proposals(options.chains, generator), BURN_IN_INEXACT, generator)
        return _after(kernel, kernel.start(bench.fields[: options.chains]), BURN_IN, generator)

    run = chain.ChainOptions(draws, block=BLOCK, seed=bench.seed)
    chain.run(kernel, start, run, path, resume=begun(path), device=options.device)
    return storage.load_run(path)


# ---------------------------------------------------------------------------------------------------------
# Results


def _values(found: Means) -> dict[str, dict[str, float]]:
    errors = np.sqrt(np.diag(found.covariance))
    return {
        name: {"value": float(value), "error": float(error)}
        for name, value, error in zip(OBSERVABLES, found.values, errors, strict=True)
    }


def _result(variant: Variant, run: storage.Run, found: Means, truth: Means) -> dict[str, Any]:
    """What is kept of one variant, JSON-ready."""
    bias = found.values - truth.values
    error = np.sqrt(np.diag(found.covariance + truth.covariance))
    z = bias / error
    # <M> is zero by symmetry, so it is measured by <|M|>.
    unit = np.abs(truth.values)
    unit[OBSERVABLES.index("M")] = unit[OBSERVABLES.index("abs_M")]
    worst = int(np.argmax(np.abs(z)))
    tau = workflow.estimates(run)["M2"].tau_int
    together = agreement([found], truth)
    observables = {
        name: {
            **value,
            "bias": float(bias[k]),
            "bias_error": float(error[k]),
            "z": float(z[k]),
            "relative": float(bias[k] / unit[k]),
            "relative_error": float(error[k] / unit[k]),
        }
        for k, (name, value) in enumerate(_values(found).items())
    }
    return {
        "name": variant.name,
        "label": variant.label,
        "exact": variant.exact,
        "why": variant.why,
        "file": run.path.name,
        "chains": run.n_chains,
        "draws": run.n_draws,
        "acceptance": float(run.stats["accepted"].mean()),
        "tau_int_M2": float(tau),
        "evaluations": run.header["evaluations"],
        "observables": observables,
        "agreement": asdict(together),
        "worst": OBSERVABLES[worst],
        "seen": together.sigma >= SEEN,
    }


def missed(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not exact and was not seen, in words, with the biases that would have been.

    Args:
        results: as in ``exactness.json``.
    """
    notes = []
    for result in results:
        if result["exact"] or result["seen"]:
            continue
        limits = ", ".join(
            f"{SYMBOLS[name]} {100 * SEEN * value['relative_error']:.1f}"
            for name, value in result["observables"].items()
        )
        notes.append(f"{result['label']}: not seen; {SEEN:g} sigma of each observable are, in per cent: {limits}")
    return notes


def _write(out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    from dmmc.report import page

    text = table(summary)
    summary |= {"table": text, "figures": [str(out / "bias.png")], "report": str(out / "report.html")}
    replace_file(out / "table.txt", lambda path: path.write_text(text + "\n"))
    figures.save(exactness_figures.biases(summary, SEEN), out / "bias.png")
    replace_file(
        out / "exactness.json", lambda path: path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    )
    page.write_report([out], out / "report.html", overwrite=True)
    return summary


def load_exactness(path: str | Path) -> dict[str, Any]:
    """The summary of a finished laboratory, from its folder or its ``exactness.json``.

    Raises:
        FileError: if there is none.
    """
    path = Path(path)
    path = path / "exactness.json" if path.is_dir() else path
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is not the result of a finished laboratory [{error}]") from None
    if not isinstance(summary, dict) or summary.get("format") != "dmmc-exactness":
        raise FileError(f"{path} is not the result of a laboratory")
    return summary


def shown_truth(value: float, error: float) -> str:
    """A value with its error; without, where that is zero."""
    return format_value(value, error) if error else f"{value:.5g}"


def verdict(result: Mapping[str, Any]) -> str:
    """In a few words, what became of a variant."""
    if result["exact"]:
        return f"p = {result['agreement']['p_value']:.2g}"
    largest = result["observables"][result["worst"]]
    relative = format_value(100 * largest["relative"], 100 * largest["relative_error"])
    what = f"{SYMBOLS[result['worst']]} by {'+' if largest['relative'] > 0 else ''}{relative} %"
    sigma = result["agreement"]["sigma"]
    return f"seen, {sigma:.0f} sigma: {what}" if result["seen"] else f"not seen, {sigma:.1f} sigma: {what}"


def table(summary: Mapping[str, Any]) -> str:
    """The biases in units of their errors as aligned plain text, and what is to be said of them.

    Args:
        summary: as in ``exactness.json``.
    """
    head = ["", "acceptance", "draws", *(SYMBOLS[name] for name in OBSERVABLES), "verdict"]
    truth = summary["truth"]["observables"]
    values = [shown_truth(**truth[name]) for name in OBSERVABLES]
    lines = [head, [f"truth: {summary['truth']['method']}", "", "", *values, ""]]
    for exact, title in ((True, "exact"), (False, "not exact")):
        of_kind = [result for result in summary["variants"] if result["exact"] == exact]
        lines += [[title, *[""] * (len(head) - 1)]] if of_kind else []
        for result in of_kind:
            z = [f"{result['observables'][name]['z']:+.1f}" for name in OBSERVABLES]
            draws = f"{result['chains'] * result['draws']:,}"
            lines.append([f"  {result['label']}", f"{result['acceptance']:.2f}", draws, *z, verdict(result)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    text = []
    for *line, last in lines:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)), last]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    text += [
        "numbers: difference from the truth in units of its error, the truth's included;",
        "verdict: of all six together, as p-value or the standard deviations that correspond to it; "
        "largest difference (<M> in per cent of <|M|>)",
    ]
    found = summary["agreement"]
    if found is not None:
        text += ["", f"the exact ones, all observables together: chi2/dof = {found['chi2']:.1f}/{found['dof']}, "
                 f"p = {found['p_value']:.2g}"]  # fmt: skip
    flow = summary["flow"]
    bound = f"{flow['limit_95']:.1e}"
    text += [f"flow: {flow['steps']} steps; the bias of an observable is at most {bound} of its standard deviation"]
    if summary["missed"]:
        text += ["", *summary["missed"]]
    text += ["", *(f"{result['label']}: {result['why']}" for result in summary["variants"])]
    return "\n".join(text)

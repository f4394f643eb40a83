"""The steps from an action to numbers with errors, each one call: ensemble, training, sampling, comparison.

Every step returns a JSON-ready summary besides its result; the command line prints and stores it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc import diagnostics
from dmmc.core import rng
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.diagnostics import DiagnosticsWarning, Estimate
from dmmc.kernels import cluster, hmc
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.of_model import WARM_UP, SamplerOptions, log_weights, prepare
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import NetworkSize
from dmmc.model.reference import GaussianReference
from dmmc.model.training import TrainingOptions, fit, remove_checkpoint
from dmmc.proposals.certificate import DETERMINANT_SITES, DETERMINANT_WORK, Certificate, certify, choose_steps
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain, storage
from dmmc.theory import symmetry as sectors
from dmmc.theory.actions import Action, Phi4
from dmmc.theory.lattice import Lattice

STUCK_AFTER = 30
"""Rejections in a row that are no accident at the acceptance of 0.8 which HMC is tuned to (1e-21)."""


class Stages:
    """Wall seconds of each stage of a command; what a stage within a stage takes does not count in the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began, before, self._inner = time.monotonic(), self._inner, 0.0
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inner
            self._inner = before + spent


@dataclass(frozen=True)
class EnsembleOptions:
    """How a baseline ensemble is made.

    Attributes:
        method: ``hmc`` or ``cluster``.
        chains: parallel chains.
        thermalise: steps thrown away at the start.
        run: length of the recorded part.
        length: of HMC trajectories, also of those between cluster updates; see :meth:`dmmc.kernels.hmc.HMC.default`.
    """

    method: str
    chains: int
    thermalise: int
    run: chain.ChainOptions
    length: float = hmc.LENGTH

    def __post_init__(self) -> None:
        if self.method not in ("hmc", "cluster"):
            raise DmmcError(f"the method of an ensemble is hmc or cluster, not {self.method!r}")
        if self.chains < 1 or self.thermalise < 1:
            raise DmmcError("an ensemble needs at least one chain and one step of thermalisation")
        if not 0 < self.length < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.length}")


def make_ensemble(
    action: Action,
    lattice: Lattice,
    options: EnsembleOptions,
    path: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    stages: Stages | None = None,
) -> storage.Run:
    """Run a baseline sampler and store its chains.

    Raises:
        DmmcError: cluster updates of an action other than :class:`dmmc.theory.actions.Phi4`; files in the way.
    """
    stages = Stages() if stages is None else stages
    if options.method == "cluster" and not isinstance(action, Phi4):
        raise DmmcError("cluster updates are for phi^4 only; use --method hmc")
    with stages("warm-up"):
        generator = rng.stream(options.run.seed, "warm-up", options.method)
        phi = hmc.first_fields(action, lattice, options.chains, generator).to(device)
        kernel: Kernel
        if options.method == "hmc":
            local = hmc.HMC.default(action, lattice, options.length)
            kernel, state = hmc.warm_up(local, local.start(phi), WARM_UP, generator)
        else:
            assert isinstance(action, Phi4)
            mixed = cluster.Cluster.default(action, lattice, options.length)
            kernel, state = cluster.warm_up(mixed, mixed.start(phi), WARM_UP, generator)

    def start() -> State:
        with stages("thermalise"):
            moved = torch.zeros(options.chains, dtype=torch.bool, device=device)
            for last, statistics in kernel.steps(state, options.thermalise, generator):
                thermal, moved = last, moved | statistics["accepted"]
        stuck = int((~moved).sum())
        if stuck and options.thermalise >= STUCK_AFTER:
            raise DmmcError(
                f"{stuck} of {options.chains} chains did not move in {options.thermalise} steps of thermalisation; "
                "take shorter trajectories (--trajectory), or another seed"
            )
        return thermal

    with stages("chain"):
        chain.run(
            kernel,
            start,
            options.run,
            path,
            resume=resume,
            overwrite=overwrite,
            provenance={"chains": options.chains, "thermalise": options.thermalise},
            device=device,
        )
    return storage.load_run(path)


def train(
    action: Action | None,
    lattice: Lattice,
    phi: Tensor,
    options: TrainingOptions,
    path: str | Path,
    *,
    size: NetworkSize | None = None,
    init: DiffusionModel | None = None,
    two_sector: bool | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    stages: Stages | None = None,
) -> DiffusionModel:
    """Train a model on an ensemble ``phi`` and save it.

    Args:
        action: of the ensemble.
        lattice: of the ensemble.
        phi: fields ``(n, *lattice)``.
        options: how to train.
        path: the model file; ``<path>.checkpoint`` while training goes on.
        size: of a new network.
        init: a model to start from, of any lattice size or coupling.
        two_sector: model the sector M > 0 and symmetrise; None decides by :func:`dmmc.theory.symmetry.is_broken`.
        resume: go on from the checkpoint.
        device: where.
        stages: timings are added here.

    Raises:
        DmmcError: on a bad ensemble.
        MismatchError: if ``init`` is of other sectors or dimensions, or the checkpoint of another run.
    """
    stages = Stages() if stages is None else stages
    lattice.check(phi, "training ensemble")
    if init is not None:
        if two_sector not in (None, init.two_sector):
            raise MismatchError("a model of one sector cannot start one of two, nor the other way round; train afresh")
        two_sector = init.two_sector
    if two_sector is None:
        two_sector = len(phi) > 1 and sectors.is_broken(phi)
    if two_sector:
        phi = sectors.align(phi)
    with stages("train"):
        reference = GaussianReference.measure(phi, lattice, two_sector, action)
        if init is not None:
            model = init.moved_to(reference, action)
        else:
            generator = rng.stream(options.seed, "network")
            config = None if size is None else size.describe()
            model = DiffusionModel.untrained(
                reference,
                action,
                config=config,
                symmetry="z2" if two_sector else None,
                two_sector=two_sector,
                generator=generator,
            )
        model.network.to(device)
        model = fit(model, action, phi, options, checkpoint=f"{path}.checkpoint", resume=resume)
        model.save(path)
        remove_checkpoint(f"{path}.checkpoint")
    return model


DENOISING_LEVELS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Noise levels of the sequence that is stored with a diffusion chain, for looking at."""


def sample(
    model: DiffusionModel,
    action: Action,
    chains: int,
    options: chain.ChainOptions,
    path: str | Path,
    *,
    sampler: SamplerOptions | None = None,
    n_steps: int | tuple[int, ...] | Literal["auto"] | None = None,
    reference: Tensor | None = None,
    n_delta: int = 16,
    determinants: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> storage.Run:
    """Run the exact diffusion chain.

    Stored beside the chain, in ``Run.evaluation``: the arrays of a :class:`dmmc.proposals.certificate.Certificate` on
    ``n_delta`` proposals, ``delta`` of the integrator among them, if the chain depends on it; ``log_w_reference`` of
    the reference configurations, if there are any; ``denoising``, a field at the noise levels ``denoising_level``, with
    noise of standard deviation ``denoising_noise``.

    Args:
        model: gives the proposals.
        action: the target.
        chains: parallel chains, which start at proposals.
        options: length and what to keep.
        path: the HDF5 file.
        sampler: the Metropolis kernel; independence Metropolis if there is none.
        n_steps: integration steps of the flow; None for the default; ``auto`` for as many, of the method ``dopri5``, as
            keep the bound on every bias below 1 % of the statistical error that ``options.draws`` independent draws of
            every chain would have (:func:`dmmc.proposals.certificate.choose_steps`). A resumed run keeps its steps. Not for
            kernels of paths, which have no integrator.
        reference: configurations of another sampler, ``(n, *lattice)``, to weigh: they show what the model misses.
        n_delta: proposals on which the certificate is measured.
        determinants: of how many of them by the determinant of the flow's map, up to 256 sites
            (:func:`dmmc.proposals.certificate.certify`); None for all of them where they are cheap, else for none.
        resume: go on with, or extend, a run.
        overwrite: replace a finished file.
        stages: timings are added here.

    Raises:
        MismatchError: if the model was trained for another action, or a resumed run had other options.
        DmmcError: if a number is out of its range.
    """
    stages = Stages() if stages is None else stages
    sampler = SamplerOptions() if sampler is None else sampler
    model.check_fits(action)
    if chains < 1:
        raise DmmcError(f"the number of chains must be positive, got {chains}")
    if n_steps is not None and not sampler.integrates:
        raise DmmcError(f"the kernel {sampler.kernel} has no integrator: leave the flow's steps out, give path_steps")
    volume = model.lattice.volume
    if determinants is None:
        determinants = n_delta if sampler.integrates and n_delta * volume**2 <= DETERMINANT_WORK else 0
    if not 0 <= determinants <= n_delta or (determinants and (volume > DETERMINANT_SITES or not sampler.integrates)):
        raise DmmcError(
            f"determinants are for at most {DETERMINANT_SITES} sites, for kernels with a flow, and of the {n_delta} "
            f"proposals of the certificate at most; got {determinants} on {volume} sites with {sampler.kernel}"
        )
    device = model.device
    begun = _stored_flow(model, path) if resume and n_steps == "auto" else None
    if begun is not None:
        proposal = begun
    elif n_steps == "auto":
        with stages("choice of steps"):
            generator = rng.stream(options.seed, "choice of steps", device=device)
            likely = FlowProposal(model, method="dopri5")
            proposal = choose_steps(likely, chains * options.draws, generator=generator).proposal
    else:
        proposal = FlowProposal(model) if n_steps is None else FlowProposal(model, n_steps)
    with stages("warm-up"):
        kernel, start = prepare(sampler, action, proposal, chains, options.seed)

    def certificate() -> Certificate:
        # A chain that is extended has the proposal and the seed that it had, and so the certificate.
        stored = Certificate.stored(storage.load_run(path).evaluation) if Path(path).exists() else None
        if stored is not None and len(stored.delta) == n_delta and len(stored.delta_determinant) >= determinants:
            return stored
        with stages("certificate"):
            # Cheap beside the chain: few probes, whose noise makes the bound larger. A bound that was asked for is not
            # to be lost in that noise.
            return certify(
                proposal,
                n_delta,
                rng.stream(options.seed, "certificate", device=device),
                probes=16 if n_steps == "auto" else 2,
                determinants=determinants,
            )

    def evaluate() -> dict[str, NDArray[np.float64]]:
        found = {}
        if reference is not None:
            with stages("reference weights"):
                phi = reference.to(device=device, dtype=torch.float64)
                generator = rng.stream(options.seed, "reference weights", device=device)
                found["log_w_reference"] = log_weights(kernel, proposal, phi, generator)
        latent = proposal.latents(1, rng.stream(options.seed, "denoising", device=device))
        level = torch.tensor(DENOISING_LEVELS, dtype=torch.float64)
        found["denoising"] = torch.cat(proposal.denoise(latent, DENOISING_LEVELS))
        found["denoising_level"] = level
        found["denoising_noise"] = model.reference.variance(level).sqrt()
        arrays = {name: x.double().cpu().numpy() for name, x in found.items()}
        return certificate().arrays() | arrays if sampler.integrates else arrays

    with stages("chain"):
        chain.run(
            kernel,
            start,
            options,
            path,
            resume=resume,
            overwrite=overwrite,
            provenance={"chains": chains},
            device=device,
            evaluate=evaluate,
        )
    return storage.load_run(path)


def _stored_flow(model: DiffusionModel, path: str | Path) -> FlowProposal | None:
    """The flow of the run that was begun at ``path``; None if there is no such run."""
    begun = storage.begun_header(path)
    if begun is None:
        return None
    kernel = begun["kernel"]
    flow = kernel.get("parts", [kernel])[0].get("proposal", {})  # of a hybrid it is the first part's
    steps = flow.get("n_steps", 1)
    return FlowProposal(model, steps if isinstance(steps, int) else tuple(steps), method=flow.get("method", "rk4"))


def estimates(run: storage.Run) -> dict[str, Estimate]:
    """Every observable of a run with its error; warnings about short or constant series are kept quiet."""
    lattice = Lattice(tuple(run.header["lattice"]))
    phat2 = float(lattice.orbit_phat2[1]) if lattice.volume > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        return diagnostics.summary(run.observables, lattice.volume, phat2)


def proposals_are_independent(run: storage.Run) -> bool:
    """Whether ``log_w_proposed`` are weights of independent proposals, as ESS, log Z and the laws of rejection need."""
    kernel = run.header["kernel"]
    independent = kernel["name"] in ("independence", "path") or kernel.get("theta") == math.pi / 2
    return independent and "log_w_proposed" in run.stats


def bias_bound_sigma(run: storage.Run) -> float | None:
    """std(delta) of the integrator, which bounds the bias of an observable in units of its standard deviation.

    As estimated by step doubling; :attr:`dmmc.proposals.certificate.Certificate.limit` is the bound with its confidence. None for
    a chain without an integrator in its proposal.
    """
    return float(np.std(run.evaluation["delta"], ddof=1)) if "delta" in run.evaluation else None


def summarise(run: storage.Run, found: Mapping[str, Estimate], stages: Stages | None = None) -> dict[str, Any]:
    """The machine-readable summary of a run; entries that do not apply are null."""
    tau = found["M2"]
    summary: dict[str, Any] = {
        "kernel": run.header["kernel"]["name"],
        "inexact": run.header["kernel"].get("inexact_reason"),
        "action": run.header["action"],
        "lattice": run.header["lattice"],
        "seed": run.header["seed"],
        "file": str(run.path),
        "chains": run.n_chains,
        "draws": run.n_draws,
        "acceptance": float(np.mean(run.stats["accepted"])),
        "ess_fraction": None,
        "std_log_w": None,
        "bias_bound_sigma": bias_bound_sigma(run),
        "bias_bound_sigma_95": None,
        "bias_bound_of_error": None,
        "certificate": None,
        "rejected_not_finite": 0,
        "kl": None,
        "tau_int": {"M2": {"value": tau.tau_int, "error": tau.tau_int_error, "unit": "draws, 1/2 for a white series"}},
        "observables": {name: {"value": x.value, "error": x.error, "tau_int": x.tau_int} for name, x in found.items()},
        "wall_seconds": {} if stages is None else {name: round(value, 3) for name, value in stages.seconds.items()},
    }
    if "energy_error" in run.stats:
        dH = run.stats["energy_error"]
        finite = dH[np.isfinite(dH)]
        # In equilibrium <exp(-dH)> = 1 (Creutz); a trajectory that ran away counts as exp(-inf).
        summary["energy_error"] = {
            "mean": float(finite.mean()),
            "std": float(finite.std()),
            "mean_exp_minus": float(np.exp(-dH).mean()),
        }
    if proposals_are_independent(run):
        log_w = run.stats["log_w_proposed"]
        summary["ess_fraction"] = diagnostics.ess_fraction(log_w)
        summary["std_log_w"] = diagnostics.std_log_w(log_w)
        summary["expected_acceptance"] = diagnostics.expected_acceptance(log_w)
        summary["rejected_not_finite"] = diagnostics.n_zero_weight(log_w)
    if summary["bias_bound_sigma"] is not None:
        for name in found:
            # Primary observables only: the bound is on the mean of something measured on single configurations.
            if name in run.observables:
                bound = float(np.std(run.observables[name])) * summary["bias_bound_sigma"]
                summary["observables"][name]["bias_bound"] = bound
    certificate = Certificate.stored(run.evaluation)
    if certificate is not None:
        summary["certificate"] = certificate.summary()
        summary["bias_bound_sigma_95"] = certificate.limit
        shares = [0.0]
        for name in found.keys() & run.observables.keys():
            bound = certificate.bias_bound(run.observables[name])
            summary["observables"][name]["bias_bound_95"] = bound
            if found[name].error > 0:
                shares.append(bound / found[name].error)
        summary["bias_bound_of_error"] = max(shares)
    if "log_w_reference" in run.evaluation and proposals_are_independent(run):
        gap = diagnostics.kl_gap(run.stats["log_w_proposed"], run.evaluation["log_w_reference"])
        summary["kl"] = {
            "KL(q||p) from proposals": gap.kl_q_p,
            "KL(p||q) from reference configurations": gap.kl_p_q,
            "std_log_w_reference": gap.std_p,
            "log_z": gap.log_z,
            "log_z_error": gap.log_z_error,
            "log_z_reference": gap.log_z_reference,
        }
    return dict(plain(summary))


def plain(value: Any) -> Any:
    """As JSON has it: lists, plain numbers, and null for what is not a finite number."""
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value

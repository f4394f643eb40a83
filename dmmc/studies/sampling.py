"""From a trained model to an exact chain: steps of the flow, kernel, transient, chain, certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.diagnostics.acceptance import rejection_time
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.of_model import KERNELS, KernelOptions, make_kernel
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.base import Steppable
from dmmc.proposals.certificate import Certificate
from dmmc.proposals.certify import DETERMINANT_SITES, certify
from dmmc.proposals.integrator import schedule_of
from dmmc.proposals.ode import denoise
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import choose_steps, with_known_steps
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun, begun_header, load_run
from dmmc.studies.chain import WARM_UP, warm_up_stream
from dmmc.studies.given import Source, read_ensemble
from dmmc.studies.pilot import MOST_SHIFT, pilot_lengths, run_pilots
from dmmc.studies.remarks import Say, announce, note
from dmmc.studies.resumption import resumes_run
from dmmc.studies.stages import Stages
from dmmc.theory.action_check import check_action
from dmmc.theory.actions import Action
from dmmc.theory.observables import Observable

FlowSteps = int | tuple[int, ...] | Literal["auto"]

DISCARD_TIMES = 5.0
"""Rejection times after which chains have forgotten that they began at proposals: exp(-5) is below 1 %."""

LEAST_WARM_UP = 20
"""Steps with which kernels are tuned at least."""

WEIGHED = 128
"""Fewest proposals from whose weights the rejection time is predicted."""

REFERENCE_FIELDS = 512
"""Reference configurations that are weighed."""

CHOICE_PROPOSALS, CHOICE_PROBES = 8, 8
"""Proposals and random vectors of the automatic choice of steps, which must be cheap beside the chain itself."""

REMARKED = 2.0
"""How many times more than was asked for the bias of a chain may be before that is said; less is the certificate's own
statistical error."""

DETERMINANT_SHARE = 0.1
"""Largest part of the work of the chain that determinants may cost if nobody asked for them."""

DENOISING_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Times tau of the denoising sequence that is stored with a chain: noise at 0, a field of the theory at 1.

The noise level is ``1 - tau`` on the logarithmic scale of :meth:`dmmc.model.reference.GaussianReference.level`, which
is the time of the variance-expanding process of Wang, Aarts, Zhou, JHEP 05 (2024) 060.
"""


@dataclass(frozen=True)
class SampleOptions:
    """How an exact chain is run.

    Attributes:
        chains: parallel chains, which start at proposals.
        kernel: the Metropolis kernel that uses the model.
        run: length of the recorded part, and what is kept of it.
        flow_steps: integration steps of the probability flow; ``auto`` takes about the fewest that keep the bias of
            every observable below ``bias_share`` of the statistical error of independent draws. The kernels path and
            refresh have no integrator.
        bias_share: the bias that the automatic steps may make, as a share of the statistical error. A larger one
            makes proposals cheaper: 0.1 in place of 0.01 saves about a third of the evaluations.
        discard: steps discarded before the first draw; by default five rejection times, as predicted from the weights.
        proposals: number of proposals on which the certificate of exactness is measured.
        determinants: number of the certificate's proposals (of 16 in all) whose density is also computed by the
            determinant of the flow's map; at least 8 are needed for a bound, on at most 256 sites. By default all of
            them if that is cheap beside the chain, else none.

    Raises:
        DmmcError: if a number is out of its range.
    """

    chains: int = 64
    kernel: KernelOptions = field(default_factory=KernelOptions)
    run: ChainOptions = field(default_factory=lambda: ChainOptions(draws=256, keep_every=8, seed=1))
    flow_steps: FlowSteps = "auto"
    bias_share: float = 0.01
    discard: int | None = None
    proposals: int = 16
    determinants: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "chains", check_count(self.chains, "the number of chains"))
        if self.discard is not None:
            object.__setattr__(self, "discard", check_count(self.discard, "discard", 0, chain.MOST_DISCARDED))
        if self.flow_steps != "auto":
            if isinstance(self.flow_steps, str):
                raise DmmcError(f"flow_steps must be numbers of steps or 'auto', got {self.flow_steps!r}")
            schedule_of(self.flow_steps)  # refuses what is out of range
        if self.flow_steps != "auto" and not self.kernel.uses_flow:
            raise DmmcError(
                f"the kernel {self.kernel.kernel} has no integrator; leave flow_steps out, and give path_steps instead"
            )
        if not 0 < self.bias_share < 1:
            raise DmmcError(f"bias_share must lie between 0 and 1, got {self.bias_share}")
        if self.proposals < 2:
            raise DmmcError(f"a certificate needs at least 2 proposals, got {self.proposals}")

    @property
    def warm_up(self) -> int:
        """Steps that tune a kernel: a quarter of those of the chain where this is short, which costs in proportion."""
        return min(WARM_UP, max(LEAST_WARM_UP, self.run.draws * self.run.steps_per_draw // 4))

    def determinants_on(self, volume: int) -> int:
        """Number of determinants on a lattice of ``volume`` sites.

        Raises:
            DmmcError: if more are asked for than is possible.
        """
        if self.determinants is None:
            # A determinant takes two integrations in float64 for each site.
            work = 4 * self.proposals * volume
            cheap = work <= DETERMINANT_SHARE * self.chains * self.run.draws * self.run.steps_per_draw
            return self.proposals if cheap and self.kernel.uses_flow else 0
        possible = volume <= DETERMINANT_SITES and self.kernel.uses_flow
        if not 0 <= self.determinants <= self.proposals or (self.determinants and not possible):
            raise DmmcError(
                f"determinants are for at most {DETERMINANT_SITES} sites, for kernels with a flow, and for no more "
                f"than the {self.proposals} proposals of the certificate; got {self.determinants} on {volume} sites "
                f"with the kernel {self.kernel.kernel}"
            )
        return self.determinants


def sample(
    model: DiffusionModel,
    path: str | Path,
    options: SampleOptions | None = None,
    *,
    action: Action | None = None,
    reference: Source | None = None,
    observables: Mapping[str, Observable] | None = None,
    unchecked: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    stages: Stages | None = None,
    say: Say = note,
) -> StoredRun:
    """Run the exact diffusion chain.

    Stored beside the chain, in ``Run.evaluation``: the arrays of a :class:`~dmmc.proposals.certificate.Certificate`, if
    the chain depends on an integrator; ``log_w_reference`` of the reference configurations, if there are any; and
    ``denoising``, a field at the noise levels ``denoising_level``, which are noise of standard deviation
    ``denoising_noise``; and where independent proposals are accepted seldom, the arrays of the
    :class:`~dmmc.runs.rival.Pilot` of other kernels.

    Args:
        model: gives the proposals.
        path: the HDF5 file.
        options: kernel, length of the chains, steps of the flow.
        action: the action that is sampled; needed only where the model does not say it.
        reference: an ensemble of another sampler; the weights of its fields show whether the model misses some.
        observables: what is measured beside the standard observables, by name.
        unchecked: take a reference that does not fit the action; the run says so.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh. A run
            that goes on keeps the number of its integration steps, and of the steps that tuned it and were discarded.
        overwrite: replace a finished file.
        stages: wall times are added here.
        say: is told how long the chain will take, if that is long, whether a run goes on, and what is unusual about
            the reference.

    Raises:
        MismatchError: if the model was trained for another action, the reference belongs to another one, or a resumed
            run had other options.
        DmmcError: if a number is out of its range, or the model does not say its action and none is given.
    """
    options = SampleOptions() if options is None else options
    stages = Stages() if stages is None else stages
    action = action or model.known_action()
    if action is None:
        raise DmmcError("the model does not say its action, so it must be given")
    model.check_fits(action)
    chain.check_memory(options.chains, model.lattice, options.run)
    _check_kernel(options.kernel, model)
    resume = resumes_run(Path(path), resume, overwrite, say)
    determinants = options.determinants_on(model.lattice.n_numbers)
    remarks, weighed = list(model.remarks), None
    if reference is not None:
        given = read_ensemble(reference, action, model.lattice.shape)
        remarks += given.remarks(model.symmetry, unchecked, say, "the reference")
        # A few hundred of the reference configurations, spread evenly over all of them.
        weighed = given.phi[:: max(1, len(given.phi) // REFERENCE_FIELDS)][:REFERENCE_FIELDS]
    begun = begun_header(path) if resume else None
    settings: dict[str, Any] = {} if begun is None else begun.provenance
    flow = _flow(model, options, settings, stages, say) if options.kernel.uses_flow else None
    seed, device = options.run.seed, model.device
    with stages("warm-up"):
        kernel = make_kernel(options.kernel, action, model, flow)
        generator = warm_up_stream(kernel, seed, device)
        warm_up = settings.get("warm_up", WARM_UP) if begun is not None else options.warm_up
        kernel, state, log_w, step_seconds = _ready(kernel, options.chains, warm_up, generator)
    discard = options.discard
    if discard is None:
        discard = begun.discard if begun is not None else predicted_discard(log_w)
    if begun is None:
        announce("the chain", (discard + options.run.draws * options.run.steps_per_draw) * step_seconds, say)

    by_kernel: dict[str, float] = {}

    def evaluate(state: State) -> dict[str, NDArray[np.float64]]:
        arrays: dict[str, Tensor] = {}
        if weighed is not None:
            with stages("reference weights"):
                weights = rng.stream(seed, "reference weights", device=device)
                carried = kernel.start(weighed.to(device), weights).tensors()
                arrays |= {"log_w_reference": carried["log_w"]} if "log_w" in carried else {}
        levels = [1.0 - time for time in DENOISING_TIMES]
        noise = rng.normal(
            (1, *model.lattice.field_shape),
            generator=rng.stream(seed, "denoising", device=device),
            dtype=model.dtype,
            device=device,
        )
        compiled = flow is not None and flow.machine_code
        arrays["denoising"] = torch.cat(denoise(model, noise, levels, compiled=compiled))
        arrays["denoising_level"] = torch.tensor(levels, dtype=torch.float64, device="cpu")
        arrays["denoising_noise"] = model.reference.variance(arrays["denoising_level"]).sqrt()
        measured = {name: x.double().cpu().numpy() for name, x in arrays.items()}
        if flow is None:
            return measured
        certificate = _certificate(flow, path, options, determinants, stages)
        steps = discard + options.run.draws * options.run.steps_per_draw
        exact = certificate.way_back < MOST_SHIFT
        if log_w is not None and (lengths := pilot_lengths(action, log_w, options.chains, steps, exact)):
            with stages("pilot"):
                pilots, seconds = run_pilots(kernel, flow, state, lengths, seed)
            by_kernel.update(seconds)
            for pilot in pilots:
                measured |= pilot.arrays()
        asked = options.bias_share / math.sqrt(options.chains * options.run.draws)
        trusted = options.flow_steps == "auto" and begun is None and flow.known_errors is not None
        if trusted and certificate.limit > REMARKED * asked:
            say(
                f"note: the bias is at most {certificate.limit:.1e} of a standard deviation, and {asked:.1e} was asked "
                "for; ask for less with bias_share, or give flow_steps"
            )
        return certificate.arrays() | measured

    with stages("chain"):
        chain.run(
            kernel,
            lambda: state,
            options.run,
            path,
            resume=resume,
            overwrite=overwrite,
            discard=discard,
            observables=observables,
            provenance={
                "chains": options.chains,
                "symmetry": {"symmetry": model.symmetry, "evidence": model.symmetry_evidence},
                **({"remarks": remarks} if remarks else {}),
                # Said only where it is not the usual number, so that runs from before it could differ are extended.
                **({} if warm_up == WARM_UP else {"warm_up": warm_up}),
                **({} if flow is None else {"flow": _settings(flow)}),
            },
            device=device,
            evaluate=evaluate,
            stages=lambda: stages.seconds,
            step_seconds=lambda: by_kernel,
        )
    return load_run(path)


def _check_kernel(options: KernelOptions, model: DiffusionModel) -> None:
    """Refuse a kernel that needs the density of the flow where the network cannot compute it.

    Raises:
        DmmcError: if it is one.
    """
    if options.uses_flow and not callable(getattr(model.network, "with_trace", None)):
        others = " or ".join(name for name, entry in KERNELS.items() if entry.from_flow is None)
        raise DmmcError(
            f"the kernel {options.kernel} needs the density of the probability flow, which a network without "
            f"with_trace does not compute; use the kernel {others}, or pass dmmc.flow_proposal(model, "
            "divergence=BruteForce()) to dmmc.Independence and run that with dmmc.run_chain"
        )


def _flow(
    model: DiffusionModel, options: SampleOptions, settings: Mapping[str, Any], stages: Stages, say: Say
) -> Steppable:
    """The probability flow with the steps that were asked for, or those of the run that goes on, or a new choice.

    A run that goes on also keeps its arithmetic, since machine code rounds differently.
    """
    made: Mapping[str, Any] = settings.get("flow", {})
    compiled = made.get("compiled", False) if settings else None
    if options.flow_steps != "auto":
        return flow_proposal(model, options.flow_steps, compiled=compiled)
    if made:
        return flow_proposal(model, tuple(made["n_steps"]), method=made["method"], compiled=compiled)
    with stages("choice of steps"):
        likely, draws = flow_proposal(model, method="dopri5"), options.chains * options.run.draws
        known = with_known_steps(likely, draws, options.bias_share, n=options.proposals)
        if known is not None:
            return known
        generator = rng.stream(options.run.seed, "choice of steps", device=model.device)
        choice = choose_steps(
            likely,
            draws,
            options.bias_share,
            n=CHOICE_PROPOSALS,
            probes=CHOICE_PROBES,
            determinants=0,
            generator=generator,
        )
        if not choice.reached:
            say(f"note: {choice.text}")
        return choice.proposal


def _settings(flow: Steppable) -> dict[str, Any]:
    """What a run that goes on must know of its flow."""
    chosen = {"n_steps": list(flow.schedule), "method": flow.method}
    return chosen | {"compiled": True} if flow.machine_code else chosen


def _ready(
    kernel: Kernel[Any], chains: int, warm_up: int, generator: torch.Generator
) -> tuple[Kernel[Any], State, NDArray[np.float64] | None, float]:
    """What the chains need to begin.

    Args:
        kernel: the kernel as it was made.
        chains: number of chains.
        warm_up: steps to tune it with.
        generator: random numbers.

    Returns:
        the tuned kernel, the state of its chains, log weights of independent proposals if it has such weights, and the
        seconds that a step of all chains takes, roughly: as long as to make initial fields.
    """
    # What is compiled at its first use, such as the flow in machine code, is not to be taken for the time of a step.
    kernel.initial(2, rng.stream(0, "first use", device=generator.device))
    began, n = time.monotonic(), max(chains, WEIGHED) if kernel.facts.independent_weights else chains
    state = kernel.initial(n, generator)
    check_action(kernel.action, state.phi)
    step_seconds = (time.monotonic() - began) * chains / n
    kernel, state = kernel.tune(state, generator, warm_up)
    tensors = state.tensors()
    log_w = tensors["log_w"].cpu().numpy() if kernel.facts.independent_weights else None
    return kernel, kernel.restore({name: x[:chains] for name, x in tensors.items()}), log_w, step_seconds


def predicted_discard(log_w: NDArray[np.float64] | None) -> int:
    """Steps after which chains that began at proposals have forgotten it.

    Args:
        log_w: log weights of proposals, ``(n,)``; None for a kernel without weights.
    """
    if log_w is None:
        return WARM_UP
    return math.ceil(DISCARD_TIMES * rejection_time(log_w))


def _certificate(
    flow: Steppable, path: str | Path, options: SampleOptions, determinants: int, stages: Stages
) -> Certificate:
    # A chain that is extended keeps its proposal and its seed, and so its certificate.
    stored = Certificate.stored(load_run(path).evaluation) if Path(path).exists() else None
    if stored is not None and len(stored.delta) == options.proposals and len(stored.delta_determinant) >= determinants:
        return stored
    with stages("certificate"):
        # Cheap beside the chain: few probes, whose noise makes the bound larger. A bound that was asked for is not to
        # be lost in that noise.
        return certify(
            flow,
            options.proposals,
            rng.stream(options.run.seed, "certificate", device=flow.device),
            probes=CHOICE_PROBES if options.flow_steps == "auto" else 2,
            determinants=determinants,
        )

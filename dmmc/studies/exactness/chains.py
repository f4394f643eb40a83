"""The runs of a laboratory: the ensemble, the truth, the model, its flow, and the chain of each variant.

Every one of them has a file, so that what is finished is read and not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.kernels.base import State, advance
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.proposals.base import Steppable
from dmmc.proposals.certificate import Certificate
from dmmc.proposals.certify import certify
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import choose_steps
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.names import is_begun
from dmmc.runs.run import StoredRun, load_run
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.exactness.analysis import Means, means
from dmmc.studies.exactness.options import ExactnessOptions
from dmmc.studies.exactness.truth import odd_is_zero, quadrature
from dmmc.studies.exactness.variants import TRAJECTORY, Bench, Variant
from dmmc.studies.resumption import checkpoint_of
from dmmc.studies.training import train
from dmmc.theory.actions import declaration
from dmmc.theory.symmetry import SymmetryFinding, find_symmetry

INTEGRATOR_SHARE = 0.05
"""The flow has so many steps that the bound on its bias is below this part of a statistical error."""

NETWORK = {"filters": 3, "hidden1": 12, "hidden2": 6}
"""The size of the network. It is small: its flaws are what there is to see, and exactness does not depend on it."""

ENSEMBLE = "ensemble.h5"
TRUTH = "truth.h5"
MODEL = "model.safetensors"

ENSEMBLE_DRAWS, ENSEMBLE_EVERY = 16, 3
"""Fields of each chain of the ensemble, and the steps between two of them."""

TRUTH_EVERY = 2
THERMALISE = 100

BURN_IN = {"fields": 8, "proposals": 16}
"""Steps thrown away, by where chains begin; see :class:`dmmc.studies.exactness.variants.Variant`."""

BLOCK = 8


@dataclass(frozen=True)
class Truth:
    """What is known of the theory.

    Attributes:
        means: the values that the variants are compared with.
        method: ``quadrature`` or ``cluster``.
        file: the run file of the cluster sampler; None without one.
        symmetry: which symmetry the theory has.
    """

    means: Means
    method: str
    file: str | None
    symmetry: SymmetryFinding


def ensemble(options: ExactnessOptions, out: Path) -> Tensor:
    """Fields of the theory ``(n, *lattice)`` float64: the model is trained on them, and exact chains begin at them."""
    run = ChainOptions(
        ENSEMBLE_DRAWS,
        steps_per_draw=ENSEMBLE_EVERY,
        keep_every=1,
        block=ENSEMBLE_DRAWS,
        seed=rng.child_seed(options.seed, "ensemble"),
    )
    fields = torch.from_numpy(_baseline(options, out / ENSEMBLE, run).cfgs())
    # Fields of one draw follow each other in the file, and those of one chain would not be independent.
    order = rng.permutation(len(fields), rng.stream(options.seed, "ensemble", "order"))
    return fields[order].to(options.device)


def truth(options: ExactnessOptions, out: Path, fields: Tensor) -> Truth:
    """The truth by quadrature on two sites, else by cluster updates.

    Args:
        options: the theory.
        out: the folder of the laboratory.
        fields: fields of the theory, on which its symmetry is tested.
    """
    symmetry = find_symmetry(options.action, fields)
    if options.lattice.volume == 2:
        known, method, file = quadrature(options.action, options.lattice), "quadrature", None
    else:
        draws = options.truth_draws // options.chains
        print(f"truth: clusters, {draws * options.chains:,} draws", flush=True)
        seed = rng.child_seed(options.seed, "truth")
        length = ChainOptions(draws, steps_per_draw=TRUTH_EVERY, block=min(64, draws), seed=seed)
        known, method, file = means(_baseline(options, out / TRUTH, length).observables), "cluster", TRUTH
    return Truth(odd_is_zero(known) if symmetry.symmetry == "z2" else known, method, file, symmetry)


def _baseline(options: ExactnessOptions, path: Path, run: ChainOptions) -> StoredRun:
    """Chains of the sampler that serves as truth: cluster updates, or HMC where the action does not allow them."""
    if path.exists():
        return load_run(path)
    method = "hmc" if declaration(options.action).hopping is None else "cluster"
    return make_ensemble(
        options.action,
        options.lattice,
        path,
        EnsembleOptions(method, options.chains, THERMALISE, TRAJECTORY, run),
        resume=is_begun(path),
        device=options.device,
    )


def trained_model(options: ExactnessOptions, out: Path) -> DiffusionModel:
    """The model that was given, or one that is trained on the ensemble."""
    given, path = options.load_model(), out / MODEL
    if given is not None:
        return given
    if path.exists():
        return DiffusionModel.load(path, device=options.device)
    print(f"training, {options.steps} steps", flush=True)
    return train(
        out / ENSEMBLE,
        path,
        TrainingOptions(steps=options.steps, levels=32, seed=rng.child_seed(options.seed, "model")),
        action=options.action,
        config=NETWORK,
        resume=checkpoint_of(path).exists(),
        device=options.device,
    )


def certified_flow(options: ExactnessOptions, model: DiffusionModel) -> tuple[Steppable, Certificate]:
    """The flow, with as many steps as the draws need or as were asked for, and its certificate."""
    generator = rng.stream(options.seed, "choice of steps", device=model.device)
    if options.flow_steps is not None:
        flow = flow_proposal(model, options.flow_steps)
        return flow, certify(flow, generator=generator)
    likely = flow_proposal(model, method="dopri5")
    choice = choose_steps(likely, options.draws, INTEGRATOR_SHARE, generator=generator)
    return choice.proposal, choice.certificate


def variant_seed(options: ExactnessOptions, variant: Variant) -> int:
    """The seed of a variant. Kernels of two variants may have the same description, and share no numbers even so."""
    return rng.child_seed(options.seed, "variant", variant.name)


def variant_run(variant: Variant, bench: Bench, options: ExactnessOptions, path: Path) -> StoredRun:
    """The chains of a variant."""
    if path.exists():
        return load_run(path)
    kernel = variant.kernel(bench)
    draws = max(MIN_DRAWS, round(variant.share * options.draws / options.chains))

    def start() -> State:
        generator = rng.stream(bench.seed, "start", device=options.device)
        state: Any
        if variant.begins == "fields":
            state = kernel.start(bench.fields[: options.chains], generator)
        else:
            state = kernel.initial(options.chains, generator)
        return advance(kernel, state, BURN_IN[variant.begins], generator)

    run = ChainOptions(draws, block=BLOCK, seed=bench.seed)
    chain.run(kernel, start, run, path, resume=is_begun(path), device=options.device)
    return load_run(path)

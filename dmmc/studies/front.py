"""The functions of the front door that take the usual options as keywords: one call for each step of the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dmmc.diagnostics.means import OfMeans, check_functions
from dmmc.kernels import hmc
from dmmc.kernels.base import Kernel
from dmmc.kernels.of_model import KernelOptions, usual_kernel
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.pages.page import ReportSummary
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import StoredRun
from dmmc.studies import chain, reporting, sampling
from dmmc.studies import ensemble as ensembles
from dmmc.studies import training as trainings
from dmmc.studies.chain import WARM_UP
from dmmc.studies.ensemble import EnsembleOptions
from dmmc.studies.given import Source
from dmmc.studies.results import Run
from dmmc.studies.sampling import FlowSteps, SampleOptions
from dmmc.studies.training import Sectors
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import STANDARD, Observable
from dmmc.theory.symmetry import Asked

Observables = Mapping[str, Observable]
Derived = Mapping[str, OfMeans]


def _check_derived(derived: Derived | None, observables: Observables | None) -> None:
    """Refuse what could not be derived from the observables, before anything is done."""
    check_functions(derived or {}, (*STANDARD, *(observables or {})))


def make_ensemble(
    action: Action,
    lattice: Lattice,
    path: str | Path,
    *,
    method: str = "hmc",
    chains: int = 256,
    draws: int = 240,
    keep_every: int = 12,
    steps_per_draw: int = 1,
    thermalise: int = 200,
    trajectory: float = hmc.LENGTH,
    observables: Observables | None = None,
    derived: Derived | None = None,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
) -> Run:
    """Make an ensemble with HMC or embedded cluster updates.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on.
        path: the HDF5 file.
        method: ``hmc``, or ``cluster`` for an action with a declared hopping term, such as phi^4; of a theory with
            fermions also HMC with ``pseudofermions``, or with ``determinants`` that are computed less often than the
            force of the scalar field.
        chains: parallel chains.
        draws: recorded draws of each chain.
        keep_every: the fields of every k-th draw are kept; 0 keeps none.
        steps_per_draw: kernel steps between two draws.
        thermalise: steps discarded at the start.
        trajectory: length of HMC trajectories, for a field in the normalisation of the hopping form.
        observables: what is measured beside the standard observables: functions of the fields ``(n, *lattice)`` and
            their actions ``(n,)`` that return ``(n, ...)``, by name.
        derived: functions of means that the summary and every table of the run show, by name, as in
            ``{"U4": lambda mean: 1 - mean["M4"] / (3 * mean["M2"] ** 2)}``. They are not stored in the file.
        seed: seed of all random numbers.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh.
        overwrite: replace a finished file.
        device: where to compute.

    Raises:
        DmmcError: as :func:`dmmc.studies.ensemble.make_ensemble`.
    """
    _check_derived(derived, observables)
    length = ChainOptions(draws, steps_per_draw, keep_every, seed=seed)
    made = ensembles.make_ensemble(
        action,
        lattice,
        path,
        EnsembleOptions(method, chains, thermalise, trajectory, length),
        observables=observables,
        resume=resume,
        overwrite=overwrite,
        device=device,
    )
    return Run.of(made).deriving(derived or {})


def train(
    ensemble: Source,
    path: str | Path,
    *,
    action: Action | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    network: str = "interaction",
    size: str | None = None,
    config: Mapping[str, Any] | None = None,
    init: DiffusionModel | None = None,
    symmetry: Asked = "auto",
    sectors: Sectors = "auto",
    unchecked: bool = False,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
) -> DiffusionModel:
    """Train a diffusion model on an ensemble, and save it.

    Args:
        ensemble: a finished run, the path of a run or of another file with fields, or fields ``(n, *lattice)``.
        path: the model file.
        action: the action of the ensemble, where the ensemble does not say it.
        minutes: training budget in minutes; 5 without ``steps``.
        steps: training budget in optimiser steps instead, which is reproducible.
        network: name of a registered network, for a new model.
        size: ``tiny``, ``small``, ``medium``, ``large`` or ``auto``, for the network of the package
            (:data:`dmmc.model.interaction.SIZES`).
        config: its configuration where it differs from that size, such as ``{"hidden1": 16, "hidden2": 8}``.
        init: a model to start from, of any lattice size or couplings.
        symmetry: ``auto`` uses that of the theory, ``S(-phi) = S(phi)`` or rotations of components; ``none`` uses none;
            ``z2`` and ``o_n`` insist on one of the two.
        sectors: ``two`` models the sector M > 0 and mirrors it, ``one`` models all fields at once; ``auto`` decides by
            the histogram of M.
        unchecked: take an ensemble that does not fit its action; the model says so, and so do its chains.
        seed: seed of all random numbers.
        resume: go on with an interrupted training; where nothing was saved, begin afresh.
        overwrite: replace an earlier model file.
        device: where to train.

    Raises:
        DmmcError: as :func:`dmmc.studies.training.train`.
    """
    budget = 5.0 if minutes is None and steps is None else minutes
    return trainings.train(
        ensemble,
        path,
        TrainingOptions(steps=steps, minutes=budget, seed=seed),
        action=action,
        network=network,
        size=size,
        config=config,
        init=init,
        symmetry=symmetry,
        sectors=sectors,
        unchecked=unchecked,
        resume=resume,
        overwrite=overwrite,
        device=device,
    )


def sample(
    model: DiffusionModel,
    path: str | Path,
    *,
    action: Action | None = None,
    kernel: str | KernelOptions | None = None,
    chains: int = 64,
    draws: int = 256,
    keep_every: int = 8,
    steps_per_draw: int = 1,
    flow_steps: FlowSteps = "auto",
    bias_share: float = 0.01,
    discard: int | None = None,
    reference: Source | None = None,
    observables: Observables | None = None,
    derived: Derived | None = None,
    unchecked: bool = False,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Run the exact Metropolis chain of a model.

    Args:
        model: gives the proposals.
        path: the HDF5 file.
        action: the action that is sampled; needed only where the model does not say it.
        kernel: ``independence``, ``latent``, ``block``, ``path``, ``refresh`` or ``cycle``, or a
            :class:`dmmc.kernels.of_model.KernelOptions` with the options of one of them. By default ``independence``
            for a network with the trace of its Jacobian, and ``path`` for any other.
        chains: parallel chains.
        draws: recorded draws of each chain.
        keep_every: the fields of every k-th draw are kept; 0 keeps none.
        steps_per_draw: kernel steps between two draws.
        flow_steps: integration steps of the probability flow; ``auto`` takes about the fewest that keep its bias below
            ``bias_share`` of the statistical error.
        bias_share: the bias that the automatic steps may make. 0.1 in place of 0.01 saves about a third of the time.
        discard: steps discarded before the first draw; by default five rejection times, as predicted from the weights.
        reference: an ensemble of another sampler; the weights of its fields show whether the model misses some.
        observables: what is measured beside the standard observables, by name.
        derived: functions of means that the summary and every table of the run show, by name; not stored in the file.
        unchecked: take a reference that does not fit the action; the run says so.
        seed: seed of all random numbers.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh.
        overwrite: replace a finished file.

    Raises:
        DmmcError: as :func:`dmmc.studies.sampling.sample`.
    """
    _check_derived(derived, observables)
    options = SampleOptions(
        chains=chains,
        kernel=kernel if isinstance(kernel, KernelOptions) else KernelOptions(kernel or usual_kernel(model)),
        run=ChainOptions(draws, steps_per_draw, keep_every, seed=seed),
        flow_steps=flow_steps,
        bias_share=bias_share,
        discard=discard,
    )
    made = sampling.sample(
        model,
        path,
        options,
        action=action,
        reference=reference,
        observables=observables,
        unchecked=unchecked,
        resume=resume,
        overwrite=overwrite,
    )
    return Run.of(made).deriving(derived or {})


def run_chain(
    kernel: Kernel[Any],
    path: str | Path,
    *,
    chains: int = 64,
    draws: int = 256,
    keep_every: int = 0,
    steps_per_draw: int = 1,
    discard: int = WARM_UP,
    tune: bool = True,
    observables: Observables | None = None,
    derived: Derived | None = None,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
) -> Run:
    """Run chains of any kernel, such as one of your own.

    Args:
        kernel: the Markov kernel; its chains begin where ``kernel.initial`` says.
        path: the HDF5 file.
        chains: parallel chains.
        draws: recorded draws of each chain.
        keep_every: the fields of every k-th draw are kept; 0 keeps none.
        steps_per_draw: kernel steps between two draws.
        discard: steps discarded before the first draw.
        tune: whether to call ``kernel.tune`` before the chains begin.
        observables: what is measured beside the standard observables, by name.
        derived: functions of means that the summary and every table of the run show, by name; not stored in the file.
        seed: seed of all random numbers.
        resume: go on with an interrupted run, or extend a finished one; where nothing was saved, begin afresh.
        overwrite: replace a finished file.
        device: where the random numbers are made.

    Raises:
        DmmcError: as :func:`dmmc.studies.chain.run_chain`.
    """
    _check_derived(derived, observables)
    made = chain.run_chain(
        kernel,
        path,
        ChainOptions(draws, steps_per_draw, keep_every, seed=seed),
        chains=chains,
        discard=discard,
        tune=tune,
        observables=observables,
        resume=resume,
        overwrite=overwrite,
        device=device,
    )
    return Run.of(made).deriving(derived or {})


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DiffusionModel:
    """Read a model file.

    Raises:
        FileError: if the file is missing, truncated, damaged or foreign, or was written by a newer version.
    """
    return DiffusionModel.load(path, device=device)


def report(
    *inputs: StoredRun | str | Path,
    out: str | Path = "report.html",
    reference: str | None = None,
    title: str | None = None,
    discard: int | None = None,
    derived: Derived | None = None,
    overwrite: bool = False,
) -> ReportSummary:
    """Write one self-contained HTML page about runs, models, scans and exactness laboratories.

    Args:
        inputs: runs or run files of one lattice and action; model files; folders of scans and laboratories.
        out: the HTML file.
        reference: the run that the others are compared with: its label, such as ``HMC``, or its file.
        title: heading of the page.
        discard: number of draws to leave out at the beginning of each chain.
        derived: functions of means that are shown of every run, by name.
        overwrite: replace an earlier page.

    Raises:
        DmmcError: as :func:`dmmc.studies.reporting.write_report`.
    """
    sources: Sequence[StoredRun | str | Path] = inputs
    return reporting.write_report(
        sources, out, reference=reference, title=title, discard=discard, derived=derived, overwrite=overwrite
    )

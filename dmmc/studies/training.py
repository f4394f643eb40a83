"""From an ensemble to a trained model: checks, symmetry, reference, training, file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from dmmc.core import rng
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.locks import locked
from dmmc.model.checkpoint import remove_checkpoint
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.fields import Fields
from dmmc.model.network import AUTO, sized
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.model.training import fit
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import measure_errors
from dmmc.studies.given import Source, read_ensemble
from dmmc.studies.remarks import Say, announce, note
from dmmc.studies.resumption import check_training, checkpoint_of, say_threads, say_whether, training_lock
from dmmc.studies.stages import Stages
from dmmc.theory.actions import Action, declaration, differentiable
from dmmc.theory.lattice import Lattice
from dmmc.theory.sectors import align, is_broken
from dmmc.theory.symmetry import Asked, find_symmetry

Sectors = Literal["auto", "one", "two"]

MEASURED_FROM = 300
"""Training steps from which on the errors of the flow are measured. Less is a trial, and the measurement would take
longer than it."""


def train(
    ensemble: Source,
    path: str | Path,
    options: TrainingOptions | None = None,
    *,
    action: Action | None = None,
    network: str = "interaction",
    size: str | None = None,
    config: Mapping[str, Any] | None = None,
    init: DiffusionModel | None = None,
    symmetry: Asked = "auto",
    sectors: Sectors = "auto",
    unchecked: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    stages: Stages | None = None,
    say: Say = note,
) -> DiffusionModel:
    """Train a model on an ensemble and save it.

    Before the training, the ensemble is checked against its action, and ``S(-phi) = S(phi)`` is tested on its fields.
    Only where this symmetry holds is the network odd, or a single sector of the broken phase modelled and mirrored. In
    other theories the model has a mean and biases.

    Args:
        ensemble: a finished run, the path of a run or of another file with fields, or fields ``(n, *lattice)``.
        path: the model file. While it is trained, ``<path>.lock`` keeps other processes away, and ``<path>.checkpoint``
            holds the state of the training.
        options: budget and details of the training; five minutes by default.
        action: the action of the ensemble; needed only where the ensemble does not say it. Data without any action
            are trained on by the denoising target alone, and so are those of an action without a gradient.
        network: name of a registered network, for a new model.
        size: the name of its size, for the network of the package one of :data:`dmmc.model.interaction.SIZES`. The
            default is that of ``auto``: the size with which an effective sample most likely costs least on this device.
        config: its configuration where it differs from that size; for the network of the package the fields of
            :class:`dmmc.model.interaction.NetworkSize`.
        init: a model to start from, of any lattice size or couplings.
        symmetry: which symmetry to use. ``auto`` uses the one that the theory has: ``S(-phi) = S(phi)`` or, of a field
            with components, rotations of these. ``none`` uses none. ``z2`` and ``o_n`` insist on one of the two and
            are refused if the action does not have it.
        sectors: ``two`` models the sector M > 0 and mirrors it, ``one`` models all fields at once; ``auto`` decides by
            the histogram of M.
        unchecked: take an ensemble that does not fit its action; the model says so, and so do its chains.
        resume: go on from the checkpoint; without one, begin afresh.
        overwrite: replace an earlier model file, or an unfinished training.
        device: where to train.
        stages: wall times are added here.
        say: is told what the checks of the ensemble have shown, and what the training goes on from.

    Returns:
        the trained model.

    Raises:
        FileError: if a file is in the way, another process is training this model, a training that is to be resumed is
            finished, or a file cannot be written. The state of the training is then still in ``<path>.checkpoint``.
        MismatchError: if the ensemble does not fit its action, the action does not have the symmetry that was asked
            for, ``init`` has other sectors or dimensions, or the checkpoint belongs to another training.
        DmmcError: if the ensemble is too small or not finite, or the network has no such size.
    """
    path, stages = Path(path), Stages() if stages is None else stages
    options = TrainingOptions(minutes=5.0, seed=1) if options is None else options
    checkpoint = checkpoint_of(path)
    check_training(path, resume, overwrite)
    given = read_ensemble(ensemble, action)
    action, lattice = given.action, given.lattice
    # A larger network hardly takes longer on a GPU, which does not notice so small ones.
    precise = torch.device(device).type != "cpu" or (action is not None and declaration(action).costly)
    config = config_of(network, size, config, init, lattice, precise)
    options = options.for_action(action)
    with stages("checks"):
        finding = find_symmetry(action, given.phi, symmetry)
        remarks = given.remarks(finding.symmetry, unchecked, say, "the ensemble")
    if action is None:
        say(f"note: the action of {given.name} is not known, so the model learns from the fields alone")
    elif differentiable(action) is None:
        say("note: the action has no gradient, so the model learns from the fields alone")
    say(finding.evidence)
    mirrored = finding.symmetry == "z2" and lattice.components is None
    two_sector = _two_sectors(sectors, mirrored and is_broken(given.phi), mirrored, init)
    if init is not None and init.symmetry != finding.symmetry:
        raise MismatchError(
            f"the model to start from has the symmetry {init.symmetry!r} and this theory {finding.symmetry!r}; train "
            "afresh"
        )
    # Fields of one chain follow each other; the held-out part must not be a single stretch of one of them.
    order = rng.permutation(len(given.phi), rng.stream(options.seed, "training", "order"))
    phi = given.phi[order].float()
    if two_sector:
        phi = align(phi)
    with stages("train"):
        fields = Fields(phi).known_to(action, options.trajectories == 0)
        if init is not None:
            model = moved_to_fields(init, fields, lattice, action)
        else:
            # Under the symmetry, and with both signs in the model, the mean is zero and need not be measured.
            connected = two_sector or finding.symmetry == "none"
            model = DiffusionModel.untrained(
                GaussianReference.measure(phi, lattice, connected, action, fields.forces),
                action,
                network,
                config,
                symmetry=finding.symmetry,
                two_sector=two_sector,
                generator=rng.stream(options.seed, "network"),
            )
        model.network.to(device)
        model = replace(model, symmetry_evidence=finding.evidence, remarks=(*model.remarks, *remarks))
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(training_lock(path), str(path)):
            # Another training may have ended, or been killed, while this one read its ensemble.
            check_training(path, resume, overwrite)
            goes_on = resume and say_whether(checkpoint.exists(), path, say)
            if goes_on:
                say_threads(path, say)
            else:
                # What is left of a training that is replaced is not to be taken for this one later.
                remove_checkpoint(checkpoint)
            if options.minutes is not None and not goes_on:
                announce("the training", 60 * options.minutes, say)
            model = fit(model, action, phi, options, checkpoint=checkpoint, resume=goes_on, forces=fields.forces)
            if model.history is not None and model.history.steps >= MEASURED_FROM:
                model = with_flow_errors(model)
            model.save(path)
            remove_checkpoint(checkpoint)
    return model


def with_flow_errors(model: DiffusionModel) -> DiffusionModel:
    """The model with the errors of the integrator of its flow, so that chains need not measure them.

    A model whose flow has no machine code is returned as it is: there the measurement would take as long as a chain.
    """
    if not callable(getattr(model.network, "with_trace", None)):
        return model
    flow = flow_proposal(model, method="dopri5")
    return replace(model, flow_errors=measure_errors(flow)) if flow.machine_code else model


def config_of(
    network: str,
    size: str | None,
    config: Mapping[str, Any] | None,
    init: DiffusionModel | None,
    lattice: Lattice,
    precise: bool,
) -> Mapping[str, Any] | None:
    """The configuration of a new network, which a model that starts from another one does not have.

    Args:
        network, size, config, init: as for :func:`train`.
        lattice, precise: as for :meth:`dmmc.model.network.Network.usual_size`.

    Raises:
        DmmcError: if a size is given beside ``init``, or the network has no such size.
    """
    if init is None:
        return sized(network, size or AUTO, config, lattice, precise)
    if size is not None:
        raise DmmcError("a model that starts from another one has the size of that; leave size out, or init")
    return config


def moved_to_fields(model: DiffusionModel, fields: Fields, lattice: Lattice, action: Action | None) -> DiffusionModel:
    """A model where its training on other fields starts: with the reference of these, and with its history and remarks.

    A model that has been moved was not trained as it is; its history is that of where the training starts.

    Args:
        model: the model, of any lattice size or couplings.
        fields: the fields, sign-aligned for a two-sector model.
        lattice: their lattice.
        action: their action.

    Raises:
        MismatchError, DmmcError: as :meth:`dmmc.model.diffusion_model.DiffusionModel.moved_to`.
    """
    connected = model.two_sector or model.symmetry == "none"
    reference = GaussianReference.measure(fields.phi, lattice, connected, action, fields.forces)
    return replace(model.moved_to(reference, action), history=model.history, remarks=model.remarks)


def _two_sectors(asked: Sectors, broken: bool, mirrored: bool, init: DiffusionModel | None) -> bool:
    if asked == "two" and not mirrored:
        raise MismatchError(
            "one sector can be mirrored only in a theory of a scalar field with the symmetry S(-phi) = S(phi), and "
            "this one is not; leave the sectors to be chosen automatically"
        )
    if init is None:
        return broken if asked == "auto" else asked == "two"
    if asked != "auto" and (asked == "two") != init.two_sector:
        raise MismatchError("a model of one sector cannot start one of two, nor the other way round; train afresh")
    return init.two_sector

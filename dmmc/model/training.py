"""Training: the minimisation of the path-space KL, with interruption and resumption.

Loss, with the noise level uniform and stratified over the levels of a batch::

    1/2 int dv E | D_v (N_theta - y) |^2

See :mod:`dmmc.model.loss` for its meaning and for its weight where there is no action, and
:mod:`dmmc.model.posterior` for the target ``y``.
"""

from __future__ import annotations

import copy
import hashlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.memory import physical_memory
from dmmc.core.precision import without_autocast
from dmmc.core.progress import progress as report_progress
from dmmc.core.records import json_text
from dmmc.core.rng import integers, stream, uniform
from dmmc.core.threads import threads_for
from dmmc.model.checkpoint import read_checkpoint, write_checkpoint
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.fields import Fields
from dmmc.model.history import TrainingHistory, TrainingRecord
from dmmc.model.initialisation import drawing_from
from dmmc.model.loss import Loss, denoising_loss, path_loss
from dmmc.model.network import Network, check_config
from dmmc.model.options import TrainingOptions
from dmmc.model.posterior import PosteriorSampler, tune
from dmmc.model.reference import GaussianReference
from dmmc.model.separation import check_separate
from dmmc.model.trainer import Trainer, trainable_copy
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice

MIN_ENSEMBLE = 24
"""Fewest configurations that can be trained on."""

FIELDS_PER_SAMPLE = 8
"""Fields that training holds for each of a batch: noisy field, target, and those of the posterior chain."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Modes of noisy fields, modes of their targets, and noise levels."""


def fit(
    model: DiffusionModel,
    action: Action | None,
    phi: Tensor,
    options: TrainingOptions,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    forces: Tensor | None = None,
) -> DiffusionModel:
    """Train a model on an ensemble.

    Without posterior chains (``trajectories=0``) the targets need the force of the stored fields alone. It is evaluated
    once for each of them, or not at all where ``forces`` are given, so that expensive actions can be trained for.

    Args:
        model: the model that training starts from; a copy of it is trained, and it is not changed itself.
        action: the action of the ensemble; None to train on data alone.
        phi: the ensemble, ``(n, *lattice)``; sign-aligned for a two-sector model. A twentieth of it (at most 512
            fields) is held out for validation.
        options: budget, batches and learning rate of the training.
        checkpoint: the file in which the state of the training is kept, also after an interrupt (Ctrl-C) and at the
            end. It is the only copy of the work until the caller has saved the model; then the caller removes it with
            :func:`dmmc.model.checkpoint.remove_checkpoint`. None keeps no state.
        resume: whether to go on from ``checkpoint`` if there is one.
        progress: whether to report progress.
        forces: dS/dphi of the ensemble, ``(n, *lattice)``, where they are known.

    Returns:
        the model with averaged weights. Its history has the losses of N = 0 and of the model on fixed validation noise.

    Raises:
        DmmcError: on a bad ensemble, batches that do not fit into memory, a network without parameters or one that
            couples the fields of a batch, a network or an action whose description could not be written to a file, or a
            loss that is not finite.
        MismatchError: if ``checkpoint`` belongs to another run.
    """
    # The caller may be in inference mode or without gradients, and nothing can be trained there.
    numbers = options.levels * options.fields_per_level * model.lattice.n_numbers
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(), threads_for(numbers):
        return _fit(model, action, phi, options, checkpoint, resume, progress, forces)


def _fit(
    model: DiffusionModel,
    action: Action | None,
    phi: Tensor,
    options: TrainingOptions,
    checkpoint: str | Path | None,
    resume: bool,
    progress: bool,
    forces: Tensor | None,
) -> DiffusionModel:
    lattice, device = model.lattice, model.device
    model.check_fits(action, lattice)
    check_config(model.network)
    description = {} if action is None else action.describe()
    json_text(description, "what the action's describe() returns")
    lattice.check(phi, "training ensemble")
    if len(phi) < MIN_ENSEMBLE:
        raise DmmcError(f"training needs an ensemble of at least {MIN_ENSEMBLE} configurations, got {len(phi)}")
    check_memory(options, lattice)
    options = options.for_action(action)
    phi = phi.detach().to(device=device, dtype=model.dtype, copy=phi.is_inference())
    n_held = max(2, min(512, len(phi) // 20))
    ensemble = Fields(phi, forces).known_to(action, options.trajectories == 0)
    held, trained = ensemble[:n_held], ensemble[n_held:]
    phi = trained.phi

    sampler = PosteriorSampler.measure(
        model.reference, action, phi, options.trajectories or 0, options.posterior_steps, trained.forces
    )
    loss = denoising_loss if sampler.action is None else path_loss
    trainer = Trainer(trainable_copy(model.network), options, loss)
    check_separate(trainer.network)
    identity = {
        "options": {
            key: value for key, value in asdict(options).items() if key not in ("compile", "checkpoint_seconds")
        },
        "action": description,
        "lattice": list(lattice.field_shape),
        "network": model.network.describe(),
        "reference": model.reference.describe(),
        "ensemble": hashlib.sha256(phi.cpu().contiguous().numpy().tobytes()).hexdigest(),
    }
    if checkpoint is not None and resume and Path(checkpoint).exists():
        read_checkpoint(checkpoint, trainer, identity)
        sampler = replace(sampler, angles=trainer.angles)
    else:
        sampler = tune(sampler, phi, stream(options.seed, "training", "tuning", device=device))
        trainer.angles = sampler.angles
    validation = _validation_batches(sampler, held, options, device)
    gaussian = sum(_gaussian_loss(loss, model.reference, batch) for batch in validation) / len(validation)
    trainer.network.fused = options.compile and _can_fuse(trainer.network, loss, validation[0])
    _minimise(trainer, sampler, trained, validation, gaussian, identity, checkpoint, progress)
    history = TrainingHistory(
        options=options,
        steps=trainer.step,
        seconds=trainer.seconds,
        ensemble=len(phi) + n_held,
        curve=tuple(trainer.curve),
        before=model.history,
    )
    # What was measured of the flow of other weights is not true of these.
    return replace(model, network=trainer.averaged_network(), action=description, history=history, flow_errors=None)


def check_memory(options: TrainingOptions, lattice: Lattice) -> None:
    """Refuse batches that this machine cannot hold. What is counted is the least that they need.

    Raises:
        DmmcError: if they are too large; the message gives the largest number of levels.
    """
    level = 4 * FIELDS_PER_SAMPLE * options.fields_per_level * lattice.n_numbers
    if options.levels * level > physical_memory():
        raise DmmcError(
            f"batches of levels = {options.levels} with fields_per_level = {options.fields_per_level} take at least "
            f"{options.levels * level / 2**30:.3g} GiB of memory on {' x '.join(map(str, lattice.shape))}, and this "
            f"machine has {physical_memory() / 2**30:.3g}: at most {physical_memory() // level} levels are possible"
        )


def _minimise(
    trainer: Trainer,
    sampler: PosteriorSampler,
    fields: Fields,
    validation: list[Batch],
    gaussian: float,
    identity: dict[str, Any],
    checkpoint: str | Path | None,
    progress: bool,
) -> None:
    """Step after step until the budget is spent or the user interrupts; then the state is in the checkpoint."""
    options, device, last_save = trainer.options, fields.phi.device, time.monotonic()
    bar_of = report_progress("train", 100, done=100 * trainer.spent, unit="%", show=progress)
    with _held_interrupt() as interrupted, bar_of as bar:
        while trainer.spent < 1:
            began, spent = time.monotonic(), trainer.spent
            batch = _batch(sampler, fields, options, stream(options.seed, "training", trainer.step, device=device))
            with drawing_from(stream(options.seed, "training", trainer.step, "network")):
                loss = trainer.update(*batch)
            if not math.isfinite(loss):
                raise DmmcError(f"the loss is {loss} after {trainer.step} steps; lower the learning rate")
            if trainer.step % options.validation_every == 0:
                network = trainer.averaged_network()
                with torch.no_grad():
                    value = sum(float(trainer.loss(network, network.reference, *batch)) for batch in validation)
                if not math.isfinite(value):
                    raise DmmcError(
                        f"the validation loss is {value} after {trainer.step} steps; lower the learning rate"
                    )
                trainer.curve.append(TrainingRecord(trainer.step, loss, value / len(validation), gaussian))
            trainer.seconds += time.monotonic() - began
            trainer.average_in(trainer.spent - spent)
            if checkpoint is not None and (interrupted or time.monotonic() - last_save > options.checkpoint_seconds):
                write_checkpoint(checkpoint, trainer, identity)
                last_save = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
            removed = f", KL removed {trainer.curve[-1].kl_removed:.2f}" if trainer.curve else ""
            bar.advance(100 * (trainer.spent - spent), f"step {trainer.step}{removed}")
    if checkpoint is not None:
        write_checkpoint(checkpoint, trainer, identity)


def _batch(sampler: PosteriorSampler, fields: Fields, options: TrainingOptions, generator: torch.Generator) -> Batch:
    g, n, device = options.levels, options.fields_per_level, fields.phi.device
    index = integers(len(fields.phi), (g, n), generator, device)
    offsets = uniform((g,), generator, device=device)
    level = ((torch.arange(g, device=device) + offsets) / g).clamp(min=1e-6)
    chosen = fields[index]
    noisy, target, _ = sampler.targets(chosen.phi, level, generator, chosen.forces)
    return noisy, target, level


@contextmanager
def _held_interrupt() -> Iterator[list[int]]:
    """Note Ctrl-C in a list instead of raising, so that a checkpoint is of a whole number of steps.

    A second one does not wait. Outside the main thread, which alone receives signals, this does nothing.
    """
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)


def _validation_batches(
    sampler: PosteriorSampler, held: Fields, options: TrainingOptions, device: torch.device
) -> list[Batch]:
    return [
        _batch(sampler, held, options, stream(options.seed, "training", "validation", i, device=device))
        for i in range(4)
    ]


def _can_fuse(network: Network, loss: Loss, batch: Batch) -> bool:
    """Whether torch.compile works here: it needs a C++ compiler, which not every machine has."""
    trial = copy.deepcopy(network)
    trial.fused = True
    try:
        loss(trial, trial.reference, *batch).backward()
    except Exception as error:  # whatever a missing or broken tool chain raises
        warnings.warn(f"training without torch.compile, which fails here: {error}", stacklevel=4)
        return False
    return True


def _gaussian_loss(loss: Loss, reference: GaussianReference, batch: Batch) -> float:
    return float(loss(lambda modes, v: torch.zeros_like(modes), reference, *batch))

"""Training: the path-space KL, its minimisation, interruption and resumption.

Loss, with the noise level uniform and stratified over the levels of a batch:

    1/2 int dv E | D_v (N_theta - y) |^2

which up to a constant is KL(p || q) along the path; the value for N = 0 minus the value for N_theta is the KL that the
network has removed from its Gaussian reference. ``y`` is the target of :mod:`dmmc.model.posterior`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.rng import stream
from dmmc.model.diffusion_model import DiffusionModel, read_tensors, write_tensors
from dmmc.model.network import DriftNetwork
from dmmc.model.posterior import PosteriorSampler, tune
from dmmc.theory.actions import Action

CHECKPOINT_FORMAT = "dmmc-training"
CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        steps: optimiser steps; exactly one of ``steps`` and ``minutes`` is given. Only a budget in steps is
            reproducible, since the learning rate follows the share of the budget that is spent.
        minutes: wall time.
        levels: noise levels in a batch, one stratum each.
        fields_per_level: fields at each of them.
        learning_rate: peak of the schedule (linear warm-up over 5 % of the budget, then a cosine to zero).
        average: share of the budget over which the weights are averaged (exponentially).
        trajectories: length of the posterior chain that averages the targets.
        posterior_steps: integrator steps in one of its trajectories.
        validation_every: steps between validation losses.
        checkpoint_seconds: least time between two checkpoints.
        seed: of everything random in training.
        compile: fuse the site-wise layers with torch.compile where that works; same numbers up to rounding.
    """

    steps: int | None = None
    minutes: float | None = None
    levels: int = 64
    fields_per_level: int = 1
    learning_rate: float = 5e-3
    average: float = 0.05
    trajectories: int = 16
    posterior_steps: int = 3
    validation_every: int = 100
    checkpoint_seconds: float = 30.0
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise DmmcError("give the training budget either in steps or in minutes")
        if (self.steps is not None and self.steps < 1) or (
            self.minutes is not None and not 0 < self.minutes < math.inf
        ):
            raise DmmcError(f"the training budget must be positive, got steps={self.steps}, minutes={self.minutes}")
        if min(self.levels, self.fields_per_level, self.posterior_steps, self.validation_every) < 1:
            raise DmmcError("levels, fields_per_level, posterior_steps and validation_every must be positive")
        if self.trajectories < 0 or not self.learning_rate > 0 or not 0 < self.average < 1:
            raise DmmcError("trajectories must be >= 0, learning_rate > 0, average between 0 and 1")


class _Trainer:
    """The state of a training run: weights, their average, optimiser, step and spent time."""

    def __init__(self, model: DiffusionModel, options: TrainingOptions) -> None:
        self.options = options
        self.network = model.network.requires_grad_(True)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=options.learning_rate, betas=(0.9, 0.99), foreach=True)
        self.step = 0
        self.seconds = 0.0
        self.angles: tuple[float, ...] = ()
        self.records: list[dict[str, float]] = []

    @property
    def spent(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def update(self, noisy: Tensor, target: Tensor, level: Tensor) -> float:
        """One optimiser step on a batch; returns its loss."""
        spent = self.spent
        rate = self.options.learning_rate * min(1.0, (spent + 1e-3) / 0.05) * 0.5 * (1 + math.cos(math.pi * spent))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = path_loss(self.network, noisy, target, level)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def average_in(self, share: float) -> None:
        """Move the averaged weights towards the present ones; ``share`` is the part of the budget of this step."""
        rate = max(share / self.options.average, 1 / (self.step + 1))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], min(1.0, rate))

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, p, mean in zip(self.names, self.parameters, self.average, strict=True):
            state = self.optimiser.state[p]
            found |= {f"weight.{name}": p.detach(), f"average.{name}": mean}
            found |= {f"adam.{key}.{name}": torch.as_tensor(value) for key, value in state.items()}
        return {name: value.cpu().contiguous().clone() for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, p, mean in zip(self.names, self.parameters, self.average, strict=True):
                p.copy_(tensors[f"weight.{name}"])
                mean.copy_(tensors[f"average.{name}"])
                state = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                self.optimiser.state[p] = {
                    key: value if key == "step" else value.to(p.device) for key, value in state.items()
                }
        self.step, self.seconds = header["step"], header["seconds"]
        self.angles, self.records = tuple(header["angles"]), header["records"]

    def averaged_network(self) -> DriftNetwork:
        """A copy of the network with the averaged weights."""
        network = copy.deepcopy(self.network)
        network.fused = False
        with torch.no_grad():
            for p, mean in zip(network.parameters(), self.average, strict=True):
                p.copy_(mean)
        return network.requires_grad_(False)


def path_loss(network: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, target: Tensor, level: Tensor) -> Tensor:
    """``1/2 int dv E |D (N - y)|^2`` by its mean over a stratified batch.

    Args:
        network: a :class:`dmmc.model.network.DriftNetwork`.
        noisy: modes of the noisy fields ``(G, n, *half)``.
        target: modes of D y, same shape.
        level: noise levels ``(G,)``.
    """
    reference = network.reference  # type: ignore[attr-defined]
    v = reference.variance(level)
    residual = network(noisy, v.to(noisy.real)) - target
    square = reference.lattice.sum_modes(residual.real.square() + residual.imag.square()).mean(1)
    weight = 0.5 * (v + reference.v_offset) * reference.log_range
    return (square * weight.to(square)).mean()


def _batch(
    sampler: PosteriorSampler, phi: Tensor, options: TrainingOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    g, n = options.levels, options.fields_per_level
    index = torch.randint(0, len(phi), (g, n), generator=generator, device=phi.device)
    offsets = torch.rand(g, generator=generator, dtype=torch.float64, device=phi.device)
    level = ((torch.arange(g, device=phi.device) + offsets) / g).clamp(min=1e-6)
    noisy, target, _ = sampler.targets(phi[index], level, generator)
    return noisy, target, level


def fit(
    model: DiffusionModel,
    action: Action | None,
    phi: Tensor,
    options: TrainingOptions,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> DiffusionModel:
    """Train a model on an ensemble.

    Args:
        model: where to start; it is not changed.
        action: the action of the ensemble; None to train on data alone.
        phi: the ensemble, ``(n, *lattice)``; sign-aligned for a two-sector model. A twentieth of it (at most 512
            fields) is held out for validation.
        options: how.
        checkpoint: file to keep the state of training in; removed at the end. On an interrupt (Ctrl-C) the state is
            written there too.
        resume: go on from ``checkpoint`` if it exists.
        progress: show a bar (on a terminal).

    Returns:
        the model with averaged weights, and its history: loss of N = 0 and of the model on fixed validation noise.

    Raises:
        DmmcError: on a bad ensemble or a loss that is not finite.
        MismatchError: if ``checkpoint`` belongs to another run.
    """
    lattice, device = model.lattice, model.device
    model.check_fits(action, lattice)
    lattice.check(phi, "training ensemble")
    if len(phi) < 24:
        raise DmmcError(f"training needs an ensemble of at least 24 configurations, got {len(phi)}")
    phi = phi.to(device=device, dtype=model.dtype)
    n_held = max(2, min(512, len(phi) // 20))
    held, phi = phi[:n_held], phi[n_held:]

    trainer = _Trainer(replace(model, network=copy.deepcopy(model.network)), options)
    sampler = PosteriorSampler.measure(model.reference, action, phi, options.trajectories, options.posterior_steps)
    description = {} if action is None else action.describe()
    identity = {
        "options": {
            key: value for key, value in asdict(options).items() if key not in ("compile", "checkpoint_seconds")
        },
        "action": description,
        "lattice": list(lattice.shape),
        "network": model.network.describe(),
        "reference": model.reference.describe(),
        "ensemble": hashlib.sha256(phi.cpu().contiguous().numpy().tobytes()).hexdigest(),
    }
    if checkpoint is not None and resume and Path(checkpoint).exists():
        _restore(trainer, checkpoint, identity)
        sampler = replace(sampler, angles=trainer.angles)
    else:
        sampler = tune(sampler, phi, stream(options.seed, "training", "tuning", device=device))
        trainer.angles = sampler.angles
    validation = _validation_batches(sampler, held, options, device)
    gaussian_loss = sum(_zero_loss(model, batch) for batch in validation) / len(validation)
    trainer.network.fused = options.compile and _can_fuse(trainer.network, validation[0])

    def save() -> None:
        if checkpoint is not None:
            header = {
                "identity": identity,
                "step": trainer.step,
                "seconds": trainer.seconds,
                "angles": list(trainer.angles),
                "records": trainer.records,
            }
            write_tensors(checkpoint, trainer.tensors(), CHECKPOINT_FORMAT, CHECKPOINT_VERSION, header)

    last_save = time.monotonic()
    with _held_interrupt() as interrupted:
        for _ in _progress(trainer, progress):
            began, spent = time.monotonic(), trainer.spent
            batch = _batch(sampler, phi, options, stream(options.seed, "training", trainer.step, device=device))
            loss = trainer.update(*batch)
            if not math.isfinite(loss):
                raise DmmcError(f"the loss is {loss} after {trainer.step} steps; lower the learning rate")
            if trainer.step % options.validation_every == 0:
                network = trainer.averaged_network()
                with torch.no_grad():
                    value = sum(float(path_loss(network, *batch)) for batch in validation) / len(validation)
                trainer.records.append({"step": trainer.step, "loss": loss, "validation": value, "N=0": gaussian_loss})
            trainer.seconds += time.monotonic() - began
            trainer.average_in(trainer.spent - spent)
            if interrupted or time.monotonic() - last_save > options.checkpoint_seconds:
                save()
                last_save = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
    history = {
        "options": asdict(options),
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "ensemble": len(phi) + n_held,
        "validation": trainer.records,
        "before": dict(model.history),
    }
    trained = replace(model, network=trainer.averaged_network(), action=description, history=history)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return trained


@contextmanager
def _held_interrupt() -> Iterator[list[int]]:
    """Note Ctrl-C in a list in place of raising, so that a checkpoint is of a whole number of steps.

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


def _restore(trainer: _Trainer, checkpoint: str | Path, identity: dict[str, Any]) -> None:
    tensors, header = read_tensors(checkpoint, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    same = json.loads(json.dumps(identity))
    differing = [key for key in same if header.get("identity", {}).get(key) != same[key]]
    if differing:
        raise MismatchError(
            f"{checkpoint} belongs to another training run (different {', '.join(differing)}); resume with the options "
            "it was started with, or remove it to start afresh"
        )
    trainer.restore(tensors, header)


def _validation_batches(
    sampler: PosteriorSampler, held: Tensor, options: TrainingOptions, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [
        _batch(sampler, held, options, stream(options.seed, "training", "validation", i, device=device))
        for i in range(4)
    ]


def _can_fuse(network: DriftNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether torch.compile works here: it needs a C++ compiler, which not every machine has."""
    trial = copy.deepcopy(network)
    trial.fused = True
    try:
        path_loss(trial, *batch).backward()
    except Exception as error:  # whatever a missing or broken tool chain raises
        warnings.warn(f"training without torch.compile, which fails here: {error}", stacklevel=3)
        return False
    return True


def _zero_loss(model: DiffusionModel, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    class Nothing:
        reference = model.reference

        def __call__(self, modes: Tensor, v: Tensor) -> Tensor:
            return torch.zeros_like(modes)

    return float(path_loss(Nothing(), *batch))


def _progress(trainer: _Trainer, show: bool) -> Iterator[None]:
    """Yield until the budget is spent, with a bar in percent of it."""
    with tqdm(
        total=100,
        desc="train",
        unit="%",
        disable=None if show else True,
        initial=int(100 * trainer.spent),
        bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
    ) as bar:
        while trainer.spent < 1:
            yield
            bar.update(100 * trainer.spent - bar.n)
            if trainer.records:
                last = trainer.records[-1]
                bar.set_postfix_str(f"step {trainer.step}, KL removed {last['N=0'] - last['validation']:.2f}", False)

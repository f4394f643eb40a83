"""Posteriors of a few parameters: proposals trained on samples alone.

::

    # (n, D) samples, such as sampler.get_chain(flat=True) of an emcee run
    proposal = dmmc.proposals.dense.train_on_samples(samples)

Samples are whitened, ``y = L^-1 (x - mean)`` with the Cholesky factor of their covariance ``L L^T``, and the flow of a
:class:`dmmc.model.dense.DenseNetwork` proposes y.

The regression target is that of denoising (P. Vincent, Neural Comput. 23 (2011) 1661; ``y_D`` of
:mod:`dmmc.model.posterior`), so that training needs neither the log probability nor its gradient. Everything else is
what a field theory uses, on a lattice of D sites without couplings: :func:`dmmc.model.training.fit`,
:class:`dmmc.proposals.flow.FlowProposal`.

A model knows what its samples show: it will not propose a mode that they miss. Metropolis makes a chain exact in the
long run, but it stays blind to that mode for as long as it lasts, so start from samples that have seen everything.

Parameters are real numbers without bounds. Where yours are bounded, sample in transformed ones (``log sigma``,
``logit p``), with the Jacobian of the transformation in the log probability; the model knows nothing of bounds.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.rng import permutation, stream
from dmmc.core.version import VERSION
from dmmc.model.dense import DenseNetwork, DenseSize, unit_gaussian
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory
from dmmc.model.network import is_registered, make_network
from dmmc.model.training import TrainingOptions, fit
from dmmc.proposals.base import Proposal
from dmmc.proposals.flow import FlowProposal

FORMAT = "dmmc-dense"
FORMAT_VERSION = 2

DEFAULT_TRAINING = TrainingOptions(steps=2000, levels=64, fields_per_level=8, learning_rate=1e-2)
"""Under ten seconds on one core for ten parameters."""

DEFAULT_STEPS = 20
"""Integration steps of the flow: four for each interval between the knots of the default network."""

OVERFIT = 0.1
"""Rise of the loss on held-out samples (a Kullback-Leibler divergence) that is worth a warning."""


@dataclass(frozen=True)
class DenseProposal(Proposal):
    """Independent parameters ``x = mean + L y`` with their density, where y comes from the probability flow of a model.

    As fields, parameters live on a lattice ``(D,)``.

    Attributes:
        flow: the flow of y.
        mean: ``(D,)`` float64.
        cholesky: L, ``(D, D)`` float64, lower triangular.
    """

    flow: FlowProposal
    mean: Tensor
    cholesky: Tensor

    @property
    def n_parameters(self) -> int:
        """The number of parameters D."""
        return self.flow.model.lattice.volume

    @property
    def inexact(self) -> str:
        return self.flow.inexact

    @property
    def evaluations(self) -> int:
        return self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        """The flow and a fingerprint of the whitening: all that enters the bits of a proposal."""
        digest = hashlib.sha256(self.mean.cpu().numpy().tobytes() + self.cholesky.cpu().numpy().tobytes())
        return {"name": "dense", "flow": self.flow.describe(), "whitening": digest.hexdigest()}

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``n`` parameter vectors.

        Args:
            n: how many vectors.
            generator: random numbers.

        Returns:
            ``x (n, D)`` and log q ``(n,)``, float64.

        Raises:
            DmmcError: if ``n`` is not positive.
        """
        y, log_q = self.flow.sample(n, generator)
        return self.mean + y.double() @ self.cholesky.mT, log_q - self._log_volume

    def log_q(self, x: Tensor) -> Tensor:
        """Log density ``(n,)`` float64 of given parameters ``x (n, D)``.

        Raises:
            DmmcError: if ``x`` has another shape, or values that are not finite.
        """
        self.flow.model.lattice.check(x, "x")
        return self.flow.log_q(_whiten(x.to(self.mean), self.mean, self.cholesky)) - self._log_volume

    @property
    def _log_volume(self) -> Tensor:
        return self.cholesky.diagonal().log().sum()

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file.

        Raises:
            FileError: if the file cannot be written.
            DmmcError: if the class of its network is not registered, so that the file could not be read again.
        """
        model = self.flow.model
        if not is_registered(model.network):
            raise DmmcError(f"{type(model.network).__name__} cannot be saved, since no name is registered for it")
        tensors = {f"network.{name}": value.cpu().contiguous() for name, value in model.network.state_dict().items()}
        header = {
            "network": model.network.describe(),
            "reference": model.reference.describe(),
            "n_steps": self.flow.n_steps,
            "history": None if model.history is None else model.history.to_json(),
            "versions": {"dmmc": VERSION, "torch": torch.__version__},
        }
        tensors |= {"mean": self.mean.cpu(), "cholesky": self.cholesky.cpu().contiguous()}
        return write_tensors(path, tensors, FORMAT, FORMAT_VERSION, header)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> DenseProposal:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: missing, truncated or foreign file, or one of a newer version.
        """
        file = read_tensors(path, FORMAT, FORMAT_VERSION)
        tensors, header = file.tensors, file.header
        try:
            mean, cholesky = (tensors.pop(name) for name in ("mean", "cholesky"))
            reference = replace(unit_gaussian(len(mean)), **header["reference"])
            # Files of format 1 have the sizes of the network of the package, and no other network.
            config = dict(header["network"]) if file.version > 1 else {"name": "dense", **header["size"]}
            network = make_network(config.pop("name"), reference, config)
            weights = {name.removeprefix("network."): value for name, value in tensors.items()}
            network.to(next(iter(weights.values())).dtype).load_state_dict(weights)
            kept = header["history"]
            history = (
                TrainingHistory.from_json(kept)
                if kept and "curve" in kept
                else TrainingHistory.from_version_1(kept or {})
            )
            model = DiffusionModel(network.to(device).requires_grad_(False), {}, history=history)
            return cls(FlowProposal(model, header["n_steps"]), mean.to(device), cholesky.to(device))
        except (DmmcError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path} is not a complete model file: {error}; restore it or train again") from None


def _whiten(x: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(cholesky, (x - mean).mT, upper=False).mT


def untrained(
    samples: ArrayLike,
    *,
    size: DenseSize | None = None,
    finest: float = 0.1,
    n_steps: int = DEFAULT_STEPS,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
) -> DenseProposal:
    """The Gaussian with the mean and covariance of samples, from which training starts.

    Args:
        samples: ``(n, D)``, n > D.
        size: channels and knots of the network.
        finest: noise, in units of the parameters' standard deviations (after whitening), below which the distribution
            looks smooth. Steps in the noise level are spread over scales above it.
        n_steps: integration steps of the flow.
        generator: source of the random weights (CPU).
        device: the device on which to compute.

    Raises:
        DmmcError: if samples are not a finite ``(n, D)`` array with n > D, or their covariance is singular.
    """
    x = _checked(samples, device)
    mean, covariance = x.mean(0), torch.cov(x.mT).view(x.shape[1], x.shape[1])
    cholesky, failed = torch.linalg.cholesky_ex(covariance)
    # A parameter that the others determine up to rounding passes the factorisation, with a pivot of rounding size.
    if int(failed) or bool((cholesky.diagonal().square() < 1e-10 * covariance.diagonal()).any()):
        raise DmmcError(
            "the covariance of the samples is singular: a parameter is constant, or follows from the others; drop it"
        )
    if not 0 < finest < 1:
        raise DmmcError(f"finest must lie between 0 and 1, got {finest}")
    reference = replace(unit_gaussian(x.shape[1]), v_offset=finest**2)
    network = DenseNetwork(reference, size, generator).to(device).requires_grad_(False)
    return DenseProposal(FlowProposal(DiffusionModel(network, {}), n_steps), mean, cholesky)


def train_on_samples(
    samples: ArrayLike,
    options: TrainingOptions = DEFAULT_TRAINING,
    *,
    size: DenseSize | None = None,
    finest: float = 0.1,
    n_steps: int = DEFAULT_STEPS,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> DenseProposal:
    """Train a proposal on samples alone.

    Args:
        samples: ``(n, D)`` from the posterior, in any order; correlated ones count for less. A twentieth of them (at
            most 512) is held out; ``proposal.flow.model.history.curve`` has the losses on them.
        options: how to train; ``seed`` fixes everything that is random in it.
        size, finest, n_steps, device: as in :func:`untrained`.
        progress: whether to show progress.

    Raises:
        DmmcError: as :func:`untrained`; fewer than 24 samples; a loss that is not finite.

    Warns:
        UserWarning: if the loss on held-out samples has risen towards the end: too few samples for so much training.
    """
    generator = stream(options.seed, "dense")
    start = untrained(samples, size=size, finest=finest, n_steps=n_steps, generator=generator, device=device)
    x = _checked(samples, device)
    # Shuffled, so that the held-out part is not one stretch of time.
    shuffled = x[permutation(len(x), generator, x.device)]
    model = fit(start.flow.model, None, _whiten(shuffled, start.mean, start.cholesky), options, progress=progress)
    losses = [record.validation for record in model.history.curve] if model.history else []
    if losses and losses[-1] > min(losses) + OVERFIT:
        warnings.warn(
            f"the model has begun to learn its {len(x)} samples by heart: the loss on held-out ones has risen by "
            f"{losses[-1] - min(losses):.2f}; give more samples, or train fewer steps",
            stacklevel=2,
        )
    return replace(start, flow=replace(start.flow, model=model))


def _checked(samples: ArrayLike, device: str | torch.device) -> Tensor:
    x = torch.tensor(np.asarray(samples, dtype=np.float64), device=device)
    if x.ndim != 2 or x.shape[1] < 1 or len(x) <= x.shape[1]:
        raise DmmcError(f"samples must have shape (n, D) with n > D, got {tuple(x.shape)}; flatten chains first")
    if not bool(torch.isfinite(x).all()):
        raise DmmcError("samples have NaN or infinite values; remove them first")
    return x

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

import warnings
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.linalg import cholesky
from dmmc.core.rng import permutation, stream
from dmmc.model.dense import DenseNetwork, DenseSize, unit_gaussian
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.model.training import fit
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.whitened import DenseProposal, whiten

DEFAULT_TRAINING = TrainingOptions(steps=2000, levels=64, fields_per_level=8, learning_rate=1e-2)
"""Under ten seconds on one core for ten parameters."""

DEFAULT_STEPS = 20
"""Integration steps of the flow: four for each interval between the knots of the default network."""

OVERFIT = 0.1
"""Rise of the loss on held-out samples (a Kullback-Leibler divergence) that is worth a warning."""


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
    factor, found = cholesky(covariance)
    # A parameter that the others determine up to rounding passes the factorisation, with a pivot of rounding size.
    if not found or bool((factor.diagonal().square() < 1e-10 * covariance.diagonal()).any()):
        raise DmmcError(
            "the covariance of the samples is singular: a parameter is constant, or follows from the others; drop it"
        )
    if not 0 < finest < 1:
        raise DmmcError(f"finest must lie between 0 and 1, got {finest}")
    reference = replace(unit_gaussian(x.shape[1]), v_offset=finest**2)
    network = DenseNetwork(reference, size, generator).to(device).requires_grad_(False)
    return DenseProposal(FlowProposal(DiffusionModel(network, {}), n_steps), mean, factor)


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
    model = fit(start.flow.model, None, whiten(shuffled, start.mean, start.cholesky), options, progress=progress)
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

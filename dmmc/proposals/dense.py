"""Posteriors of a few parameters: proposals trained on samples alone.

::

    proposal = dmmc.proposals.dense.train_on_samples(samples)  # (n, D), such as sampler.get_chain(flat=True) of an emcee run

The mathematics of :mod:`dmmc.model.interaction` on a lattice of one site. Samples are whitened, ``y = L^-1 (x - mean)`` with
the Cholesky factor of their covariance ``L L^T``; the Gaussian reference of y is the unit Gaussian, and the network is
dense, since there is no symmetry to respect. With matrices A, A2, W, O, O2, Lin and biases b1, b2 that are smooth
functions of the noise variance v, and ``h(z) = z / sqrt(1 + z^2)``,

    u   = y_s / sqrt(1 + v)                             D parameters of unit variance
    h1  = h(A u + b1)                                   F1 channels
    h2  = h(W h1 + A2 u + b2)                           F2 channels
    D N = (O h1 + O2 h2 + Lin u) / sqrt(1 + v)

and the trace of the Jacobian of D N is exact at the cost of the network itself:

    (1 + v) tr = tr Lin + sum_f h1'_f (A O)_ff + sum_f h2'_f [(A2 O2)_ff + sum_g W_fg (A O2)_gf h1'_g]

The regression target is that of denoising (P. Vincent, Neural Comput. 23 (2011) 1661; ``y_D`` of
:mod:`dmmc.model.posterior`), so that training needs neither the log probability nor its gradient. Everything else is what a
field theory uses, on a lattice of D sites without couplings: :func:`dmmc.model.training.fit`,
:class:`dmmc.proposals.flow.FlowProposal`.

A model knows what its samples show: a mode that they miss is one that it will not propose. Metropolis makes a chain
exact in the long run, and blind to that mode for as long as it lasts; start from samples that have seen everything.

Parameters are real numbers without bounds. Where yours are bounded, sample in transformed ones (``log sigma``,
``logit p``), with the Jacobian of the transformation in the log probability: the model does not know about bounds.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

import dmmc
from dmmc.core.errors import DmmcError, FileError
from dmmc.core.rng import stream
from dmmc.model import splines
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory
from dmmc.model.interaction import activation
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.model.training import TrainingOptions, fit
from dmmc.proposals.flow import FlowProposal, IntegratorError
from dmmc.theory.lattice import Lattice

FORMAT = "dmmc-dense"
FORMAT_VERSION = 1

DEFAULT_TRAINING = TrainingOptions(steps=2000, levels=64, fields_per_level=8, learning_rate=1e-2)
"""Under ten seconds on one core for ten parameters."""

DEFAULT_STEPS = 20
"""Integration steps: four for each interval between the knots of the default network."""

OVERFIT = 0.1
"""Rise of the loss on held-out samples (a Kullback-Leibler divergence) that is worth a warning."""


@dataclass(frozen=True)
class DenseSize:
    """Numbers that fix the shape of every parameter.

    Attributes:
        hidden1: F1, channels of the first layer.
        hidden2: F2, channels of the second layer.
        level_knots: splines in the noise level.
    """

    hidden1: int = 48
    hidden2: int = 48
    level_knots: int = 8

    def __post_init__(self) -> None:
        if min(self.hidden1, self.hidden2) < 1 or self.level_knots < 4:
            raise DmmcError(f"a dense network needs at least 1 channel a layer and 4 knots: {self}")


def _unit_gaussian(n_parameters: int) -> GaussianReference:
    lattice = Lattice((n_parameters,))
    return GaussianReference(lattice, torch.ones(len(lattice.orbit_modes), dtype=torch.float64))


class DenseNetwork(Network):
    """The network of this module's formulas.

    Args:
        reference: a unit Gaussian on a lattice ``(D,)``: propagator 1 at every momentum, mean 0.
        size: numbers of channels and knots.
        generator: random initial weights (CPU). The maps out of the layers start at zero: an untrained network is the
            Gaussian reference exactly.

    Raises:
        DmmcError: if ``reference`` is another Gaussian.
    """

    def __init__(
        self, reference: GaussianReference, size: DenseSize | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(reference)
        if reference.lattice.dim != 1 or reference.mean != 0 or not bool((reference.propagator == 1).all()):
            raise DmmcError("a dense network needs a unit Gaussian reference: one axis, propagator 1, mean 0")
        self.size = DenseSize() if size is None else size
        self.level_intervals = self.size.level_knots - splines.DEGREE
        d, f1, f2, k = reference.lattice.volume, self.size.hidden1, self.size.hidden2, self.size.level_knots

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter((torch.randn(1, *shape, generator=generator) * std).expand(k, *shape).clone())

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(k, *shape))

        self.a1 = normal(f1, d, std=1.5 / math.sqrt(d))
        self.b1 = normal(f1, std=0.7)
        self.w = normal(f2, f1, std=1.0 / math.sqrt(f1))
        self.a2 = normal(f2, d, std=0.5 / math.sqrt(d))
        self.b2 = normal(f2, std=0.3)
        self.o1 = zeros(d, f1)
        self.o2 = zeros(d, f2)
        self.lin = zeros(d, d)

    def describe(self) -> dict[str, Any]:
        """Its size."""
        return {"class": "dense", **asdict(self.size)}

    def _matrices(self, v: Tensor) -> dict[str, Tensor]:
        """The matrices and biases at noise variances ``v`` ``(G,)``, each ``(G, ...)``: one product for all."""
        level = splines.basis(self.reference.level(v), self.size.level_knots)
        names, values = zip(*self.named_parameters(), strict=True)
        flat = level @ torch.cat([value.flatten(1) for value in values], 1)
        parts = flat.split([value[0].numel() for value in values], 1)
        return {name: part.view(-1, *p.shape[1:]) for name, part, p in zip(names, parts, values, strict=True)}

    def _layers(self, modes: Tensor, v: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        m = self._matrices(v)
        u = self.lattice.to_sites(modes) * (1 + v).rsqrt().view(-1, 1, 1)
        h1, r1 = activation(torch.baddbmm(m["b1"].unsqueeze(1), u, m["a1"].mT))
        h2, r2 = activation(torch.baddbmm(m["b2"].unsqueeze(1), u, m["a2"].mT).baddbmm(h1, m["w"].mT))
        out = (u @ m["lin"].mT).baddbmm(h1, m["o1"].mT).baddbmm(h2, m["o2"].mT)
        return m, r1, r2, self.lattice.to_modes(out * (1 + v).rsqrt().view(-1, 1, 1))

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """D N in momentum space, as :class:`dmmc.model.network.Network`."""
        return self._layers(modes, v)[3]

    def with_trace(self, modes: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """D N as in :meth:`forward`, and the trace of its Jacobian, ``(G, n)`` float64."""
        m, r1, r2, drift = self._layers(modes, v)
        slope1, slope2 = r1 * r1 * r1, r2 * r2 * r2
        first = (m["a1"] * m["o1"].mT).sum(-1, keepdim=True)
        second = (m["a2"] * m["o2"].mT).sum(-1).unsqueeze(1)
        coupling = m["w"] * (m["a1"] @ m["o2"]).mT
        trace = (slope1 @ first).squeeze(-1) + (slope2 * (second + slope1 @ coupling.mT)).sum(-1)
        constant = m["lin"].diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        return drift, (trace + constant).double() / (1 + v.double()).unsqueeze(1)


@dataclass(frozen=True)
class DenseProposal:
    """Independent parameters ``x = mean + L y`` with their density, y from the probability flow of a model.

    A :class:`dmmc.kernels.independence.Proposal`, on a lattice ``(D,)``.

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
        """D."""
        return self.flow.model.lattice.volume

    @property
    def exact(self) -> bool:
        """Whether log q is computed; see :class:`dmmc.proposals.flow.FlowProposal`."""
        return self.flow.exact

    @property
    def inexact(self) -> str:
        """Why it is not, if so."""
        return self.flow.inexact

    @property
    def evaluations(self) -> int:
        """Network evaluations of a proposal."""
        return self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        """The flow and a fingerprint of the whitening: all that enters the bits of a proposal."""
        digest = hashlib.sha256(self.mean.cpu().numpy().tobytes() + self.cholesky.cpu().numpy().tobytes())
        return {"name": "dense", "flow": self.flow.describe(), "whitening": digest.hexdigest()}

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``n`` parameter vectors.

        Args:
            n: how many.
            generator: random numbers, on the model's device.

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

    def integrator_error(self, n: int, generator: torch.Generator) -> IntegratorError:
        """How far log q is from the density of the discrete map; see :class:`dmmc.proposals.flow.IntegratorError`."""
        return self.flow.integrator_error(n, generator)

    @property
    def _log_volume(self) -> Tensor:
        return self.cholesky.diagonal().log().sum()

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file.

        Raises:
            FileError: if the file cannot be written.
            DmmcError: if its network is not a :class:`DenseNetwork`.
        """
        model = self.flow.model
        if not isinstance(model.network, DenseNetwork):
            raise DmmcError(f"only a DenseNetwork can be written to a file, not {type(model.network).__name__}")
        tensors = {f"network.{name}": value.cpu().contiguous() for name, value in model.network.state_dict().items()}
        header = {
            "size": asdict(model.network.size),
            "reference": model.reference.describe(),
            "n_steps": self.flow.n_steps,
            "history": None if model.history is None else model.history.to_json(),
            "versions": {"dmmc": dmmc.__version__, "torch": torch.__version__},
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
            reference = replace(_unit_gaussian(len(mean)), **header["reference"])
            network = DenseNetwork(reference, DenseSize(**header["size"]))
            weights = {name.removeprefix("network."): value for name, value in tensors.items()}
            network.to(weights["lin"].dtype).load_state_dict(weights)
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
    """The Gaussian with the mean and covariance of samples: where training starts.

    Args:
        samples: ``(n, D)``, n > D.
        size: of the network.
        finest: noise, in units of the parameters' standard deviations (after whitening), below which the distribution
            looks smooth. Steps in the noise level are spread over scales above it.
        n_steps: integration steps of a proposal.
        generator: random weights (CPU).
        device: where to compute.

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
    reference = replace(_unit_gaussian(x.shape[1]), v_offset=finest**2)
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
        options: how to train; ``seed`` fixes everything random in it.
        size, finest, n_steps, device: as in :func:`untrained`.
        progress: show a bar (on a terminal).

    Raises:
        DmmcError: as :func:`untrained`; fewer than 24 samples; a loss that is not finite.

    Warns:
        UserWarning: if the loss on held-out samples has risen towards the end: too few samples for so much training.
    """
    generator = stream(options.seed, "dense")
    start = untrained(samples, size=size, finest=finest, n_steps=n_steps, generator=generator, device=device)
    x = _checked(samples, device)
    shuffled = x[
        torch.randperm(len(x), generator=generator).to(x.device)
    ]  # the held-out part is not one stretch of time
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

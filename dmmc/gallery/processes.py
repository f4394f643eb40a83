"""Stochastic quantisation and the reverse of a diffusion process, side by side as stochastic processes.

Both are of the form ``d phi = drift dt + noise dw``. The Langevin equation (Parisi, Wu, Sci. Sin. 24 (1981) 483) has

    drift = -dS/dphi,    noise = sqrt(2),

at all times, and the reverse of the diffusion ``phi_v = phi_0 + sqrt(v) eps`` (Anderson, Stoch. Proc. Appl. 12 (1982)
313), whose noise variance v falls from v_max to 0 while its time tau rises from 0 to 1, has

    drift = g^2 grad log p_v(phi),    noise = g,    g^2 = -dv/dtau.

Here tau is ``1 - level`` of :class:`dmmc.model.reference.GaussianReference`, for which g falls almost exponentially, as
in Wang, Aarts, Zhou, JHEP 05 (2024) 060. The first is followed by the steps of Euler and Maruyama, the second by
:meth:`dmmc.model.diffusion_model.DiffusionModel.backward`; nothing is accepted or rejected. These are not samplers, but
processes to look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.kernels.langevin import Langevin
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import force
from dmmc.theory.lattice import Lattice

Array = NDArray[np.float64]

LEAST = 4
"""Fewest steps of the Langevin equation between two times at which one looks, so that short times are resolved."""


@dataclass(frozen=True)
class Snapshot:
    """A process at one time.

    Attributes:
        time: Langevin time t, or time of denoising tau from 0 to 1.
        variance: of the noise that is left in the fields; 0 for the Langevin equation.
        phi: fields, ``(n, *lattice)`` float64.
        drift: what they change by in a unit of time, the noise aside, ``(n, *lattice)``.
        noise: standard deviation of the noise of one site in a unit of time.
    """

    time: float
    variance: float
    phi: Tensor
    drift: Tensor
    noise: float


@torch.no_grad()
def langevin(
    action: Action, lattice: Lattice, phi: Tensor, times: Sequence[float], longest: float, generator: torch.Generator
) -> Iterator[Snapshot]:
    """Follow the Langevin equation.

    Args:
        action: an action with a gradient.
        lattice: the lattice.
        phi: the fields at time 0, ``(n, *lattice)``.
        times: rising times after 0 at which to look; there is a first snapshot at 0.
        longest: longest step.
        generator: random numbers.
    """
    phi, now = phi.double(), 0.0
    yield Snapshot(0.0, 0.0, phi, -force(action, phi), math.sqrt(2))
    for time in times:
        steps = max(LEAST, math.ceil((time - now) / longest))
        kernel = Langevin(action, lattice, (time - now) / steps, adjusted=False, allow_inexact=True)
        state = kernel.start(phi, generator)
        for _ in range(steps):
            state, _ = kernel.step(state, generator)
        phi, now = state.phi, time
        yield Snapshot(time, 0.0, phi, -state.force, math.sqrt(2))


def backward(model: DiffusionModel, n: int, steps: int, generator: torch.Generator) -> Iterator[Snapshot]:
    """Follow the reverse of the diffusion process of a model from pure noise to the end, step by step.

    Args:
        model: the model, of one sector.
        n: number of fields.
        steps: number of steps, equal in tau; there is a snapshot before each, and one at the end.
        generator: random numbers.
    """
    reference = model.reference
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    fields = model.backward(n, times.tolist(), "sde", n_steps=steps, generator=generator).cpu()
    for time, v, phi in zip(times.tolist(), reference.variance(1 - times).tolist(), fields, strict=True):
        square = (v + reference.v_offset) * reference.log_range  # -dv/dtau
        drift = square * model.score(phi, math.sqrt(v)).double()
        yield Snapshot(time, v, phi.double(), drift, math.sqrt(square))


@dataclass(frozen=True)
class Course:
    """A process in the course of time: one entry for each snapshot.

    Attributes:
        time: of the snapshots.
        variance: of the noise that is left in the fields.
        drift: root mean square of the drift of a site.
        noise: standard deviation of the noise of a site in a unit of time.
        M2: mean of M^2 and its standard error.
        phi2: mean of phi^2 and its standard error.
        modes: the modes that were asked for, ``(T, n, k)`` complex.
    """

    time: tuple[float, ...]
    variance: tuple[float, ...]
    drift: tuple[float, ...]
    noise: tuple[float, ...]
    M2: tuple[tuple[float, float], ...]
    phi2: tuple[tuple[float, float], ...]
    modes: Tensor

    def memory(self, origin: int) -> Memory:
        """The correlation of each mode with itself at the snapshot ``origin``."""
        return Memory.of(self.modes, origin)


@dataclass(frozen=True)
class Memory:
    """Correlation of modes with themselves at another time, ``Re <a* b> / sqrt(<|a|^2> <|b|^2>)``.

    Attributes:
        correlation: ``(T, k)``.
        error: its standard error, ``(T, k)``.
    """

    correlation: Array
    error: Array

    @classmethod
    def of(cls, modes: Tensor, origin: int) -> Memory:
        """Of modes ``(T, n, k)`` of n independent fields with themselves at the time ``origin``."""
        a, b = modes[origin], modes
        products = (a.conj() * b).real, a.abs().square().expand_as(b), b.abs().square()
        ab, aa, bb = (x.mean(1) for x in products)
        rho = ab / (aa * bb).sqrt()
        # Linearised in the three means.
        fluctuation = rho.unsqueeze(1) * (
            products[0] / ab.unsqueeze(1) - 0.5 * products[1] / aa.unsqueeze(1) - 0.5 * products[2] / bb.unsqueeze(1)
        )
        error = fluctuation.std(1) / math.sqrt(modes.shape[1])
        return cls(rho.numpy(), error.numpy())


def course(snapshots: Iterable[Snapshot], lattice: Lattice, modes: Sequence[tuple[int, ...]]) -> Course:
    """Measure a process.

    Args:
        snapshots: of the process.
        lattice: of its fields.
        modes: momenta of the modes to follow, ``p_mu = 2 pi n_mu / L_mu`` as integers n, stored ones.
    """
    taken, followed = [], []
    for x in snapshots:
        phi, all_modes = x.phi.flatten(1), lattice.to_modes(x.phi)
        taken.append((x, _mean(phi.mean(1).square()), _mean(phi.square().mean(1))))
        followed.append(torch.stack([all_modes.permute(*range(1, all_modes.ndim), 0)[mode] for mode in modes], 1))
    seen, M2, phi2 = zip(*taken, strict=True)
    return Course(
        time=tuple(x.time for x in seen),
        variance=tuple(x.variance for x in seen),
        drift=tuple(strength(x.drift) for x in seen),
        noise=tuple(x.noise for x in seen),
        M2=M2,
        phi2=phi2,
        modes=torch.stack(followed),
    )


def _mean(x: Tensor) -> tuple[float, float]:
    return float(x.mean()), float(x.std()) / math.sqrt(len(x))


def strength(x: Tensor) -> float:
    """Root mean square of one site of ``(n, *lattice)``."""
    return float(x.square().mean().sqrt())


def geometric(first: float, last: float, n: int) -> list[float]:
    """``n`` times from ``first`` to ``last``, each the same multiple of the one before it."""
    return [first * (last / first) ** (k / (n - 1)) for k in range(n)]

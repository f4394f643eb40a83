"""The score of a model, and its reverse process: fields on their way from noise to sample, without a density.

**What is generated here is not exact.** The network is not the true score and steps are of finite length, and nothing
corrects for either. These fields are for looking at a model and at what it has learned, and for comparison with exact
chains; no kernel uses them.

The time of the forward process is the noise variance: v grows by h when Gaussian noise of variance h is added. With the
score ``s = grad log p_v(phi)``, the densities p_v are also those of these processes, in which v falls by h in a step
(Anderson, Stoch. Proc. Appl. 12 (1982) 313; Song et al., 2011.13456):

* ``sde``: ``phi -> phi + h s + sqrt(h) xi``, the Langevin equation of a theory that changes with its time, by Euler and
  Maruyama;
* ``predictor-corrector``: after each of these steps, one of the Langevin equation at fixed v,
  ``phi -> phi + tau s + sqrt(2 tau) xi``, which is stochastic quantisation of ``-log p_v`` (Song et al., algorithm 2);
* ``ode``: ``phi -> phi + 1/2 h s``, the probability flow, by Heun.

In all of them the part of the Gaussian reference is solved exactly, and that of the network in steps. Nothing is
singular at v = 0, where all of them end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.precision import without_autocast
from dmmc.core.rng import normal
from dmmc.core.scalars import check_count
from dmmc.model.network import Network

Kind = Literal["sde", "predictor-corrector", "ode"]

DEFAULT_STEPS = 200

MOST_STEPS = 100_000

CORRECTION = 0.5
"""Langevin time tau of the corrector in units of the step h, so that its error vanishes with that of the predictor."""

SITES_AT_ONCE = 1 << 15
"""Sites of the fields that the network gets at once."""


@torch.no_grad()
def score(network: Network, phi: Tensor, sigma: float | Tensor) -> Tensor:
    """``grad log p`` of noisy fields; see :meth:`dmmc.model.diffusion_model.DiffusionModel.score`."""
    network.lattice.check(phi)
    reference, lattice = network.reference, network.lattice
    noise = torch.as_tensor(sigma, dtype=torch.float64, device=network.device)
    sigma_max = math.sqrt(reference.v_max)
    if noise.shape not in ((), (len(phi),)) or not bool(((noise >= 0) & (noise <= (1 + 1e-6) * sigma_max)).all()):
        raise DmmcError(
            f"sigma must be one number, or one for each of the {len(phi)} fields, between 0 and sigma_max = "
            f"{sigma_max:.6g} of the model; got {noise.amin():.6g} to {noise.amax():.6g} of shape {tuple(noise.shape)}"
        )
    modes = lattice.to_modes(phi.to(device=network.device, dtype=network.dtype) - reference.mean)
    v = noise.square().clamp(max=reference.v_max).expand(len(phi))
    c = reference.c(modes)
    each = v.to(c).view(-1, *(1,) * (modes.ndim - 1))
    return lattice.to_sites(-(modes / (c + each) + _drift(network, modes, v))).to(phi)


@torch.no_grad()
def backward(
    network: Network,
    n: int,
    times: Sequence[float],
    kind: Kind,
    n_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Fields at several times; see :meth:`dmmc.model.diffusion_model.DiffusionModel.backward`."""
    n, n_steps = check_count(n, "the number of fields"), check_count(n_steps, "n_steps", maximum=MOST_STEPS)
    times = tuple(map(float, times))
    if not times or not all(0 <= t <= 1 for t in times) or any(x >= y for x, y in itertools.pairwise(times)):
        raise DmmcError(f"times must rise from 0, where all is noise, to at most 1, where there is none; got {times}")
    if kind not in get_args(Kind):
        raise DmmcError(f"the kind of a backward process is one of {', '.join(get_args(Kind))}, not {kind!r}")
    lattice, reference = network.lattice, network.reference
    shape = (n, *lattice.field_shape)

    def white() -> Tensor:
        return lattice.to_modes(normal(shape, generator, network.dtype, network.device))

    step = {"sde": _denoised, "predictor-corrector": _denoised_and_corrected, "ode": _carried}[kind]
    modes = white()
    modes = (reference.c(modes) + reference.v_max).sqrt() * modes
    fields, now = [], 0.0
    for time in times:
        # Less a little, so that rounding does not make a step more of what is a whole number of them.
        levels = torch.linspace(
            1 - now, 1 - time, math.ceil(n_steps * (time - now) - 1e-9) + 1, dtype=torch.float64, device="cpu"
        )
        variances = reference.variance(levels).tolist()
        for above, below in itertools.pairwise(variances):
            modes = step(network, modes, above, below, white)
        now = time
        fields.append(lattice.to_sites(modes) + reference.mean)
    return torch.stack(fields)


def _denoised(network: Network, modes: Tensor, above: float, below: float, white: Callable[[], Tensor]) -> Tensor:
    """A step of the reverse stochastic equation, with the drift of the network at its beginning."""
    c, h = network.reference.c(modes), above - below
    shrink = (c + below) / (c + above)
    return shrink * modes - h * _drift(network, modes, above) + (h * shrink).sqrt() * white()


def _denoised_and_corrected(
    network: Network, modes: Tensor, above: float, below: float, white: Callable[[], Tensor]
) -> Tensor:
    """A step of :func:`_denoised`, and one of the Langevin equation at the noise that is reached."""
    modes = _denoised(network, modes, above, below, white)
    c, tau = network.reference.c(modes), CORRECTION * (above - below)
    shrink = (-tau / (c + below)).exp()
    # The Ornstein-Uhlenbeck process of the Gaussian part has the covariance C + v.
    noise = ((c + below) * (1 - shrink.square())).sqrt() * white()
    return shrink * modes - tau * _drift(network, modes, below) + noise


def _carried(network: Network, modes: Tensor, above: float, below: float, _: object) -> Tensor:
    """A step of the probability flow, in terms of ``psi = (C + v)^(-1/2) phi`` and ``ln(v + v_offset)``."""
    c, offset = network.reference.c(modes), network.reference.v_offset
    start, end = (c + above).sqrt(), (c + below).sqrt()

    def slope(psi: Tensor, v: float, root: Tensor) -> Tensor:
        return 0.5 * (v + offset) * _drift(network, root * psi, v) / root

    h = math.log((above + offset) / (below + offset))
    psi = modes / start
    first = slope(psi, above, start)
    second = slope(psi - h * first, below, end)
    return end * (psi - 0.5 * h * (first + second))


@without_autocast()
def _drift(network: Network, modes: Tensor, v: float | Tensor) -> Tensor:
    """``D N`` of ``(n, *half)`` at one noise variance, or at one of each field ``(n,)``."""
    chunk = max(1, SITES_AT_ONCE // network.lattice.n_numbers)
    if isinstance(v, Tensor):
        pairs = zip(modes.split(chunk), v.to(network.dtype).split(chunk), strict=True)
        return torch.cat([network(part.unsqueeze(1), of_part)[:, 0] for part, of_part in pairs])
    variance = torch.full((1,), v, dtype=network.dtype, device=network.device)
    return torch.cat([network(part.unsqueeze(0), variance)[0] for part in modes.split(chunk)])

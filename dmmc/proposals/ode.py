"""The probability-flow ODE in the interaction picture, and fields made with it where no density is needed.

In terms of ``psi = (C + v)^(-1/2) (phi_s - mean)`` the free part of the flow stands still:

    d psi / dv       = 1/2 (C + v)^(-1/2) D_v N(phi_s, v)
    d log q(psi)/dv  = -1/2 tr[D_v dN/dphi_s]

The time is the noise level in [0, 1], linear in ``ln(v + v_offset)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.precision import without_autocast
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.model.transport import Footprint, Stages
from dmmc.proposals.divergence import Trace
from dmmc.proposals.integrator import DEFAULT_STEPS, Integrator, Velocity, schedule_of

CPU_SITES, ACCELERATOR_SITES, COMPILED_SITES = 1 << 15, 1 << 20, 1 << 19
"""Sites of the fields that are integrated at once: few enough for the cache of a CPU, enough to keep a GPU busy, or so
many that each thread has some of the tiles of machine code, which stay in cache by themselves."""

NOT_COMPILED = (
    "there is no machine code for this flow: that is for the interaction network with its own divergence, on a CUDA "
    "device, or on a CPU for scalar fields, where it needs Numba (pip install numba); pass compiled=False"
)


def flow_velocity(model: DiffusionModel, like: Tensor, trace: Trace | None = None) -> Velocity:
    """The velocity of ``psi`` in the noise level.

    Args:
        model: the diffusion model.
        like: modes of ``psi``, ``(n, *half)``, whose type and device are those of the arithmetic.
        trace: gives the trace of the Jacobian; without it the change of log q is reported as 0.

    Returns:
        a function that maps modes and a level to their velocity and the rate of change of log q.
    """
    reference, network = model.reference, model.network
    c = reference.c(like)
    none = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    @without_autocast()
    def velocity(psi: Tensor, level: float) -> tuple[Tensor, Tensor]:
        v = variance(model, level)
        speed = _rate(reference, v)
        root = (c + v).sqrt()
        modes, level_v = (root * psi).unsqueeze(0), torch.full((1,), v, dtype=c.dtype, device=c.device)
        if trace is None:
            return speed * network(modes, level_v)[0] / root, none
        drift, divergence = trace(modes, level_v)
        return speed * drift[0] / root, -speed * divergence[0]

    return velocity


def variance(model: DiffusionModel, level: float) -> float:
    """The noise variance at a noise level in [0, 1], which a sum of steps may leave by rounding."""
    return _variance(model.reference, level)


def _variance(reference: GaussianReference, level: float) -> float:
    within = min(max(level, 0.0), 1.0)  # a network may take the square root of the variance
    return float(reference.variance(torch.tensor(within, dtype=torch.float64, device="cpu")))


def _rate(reference: GaussianReference, v: float) -> float:
    """``1/2 dv / d level`` at a noise variance: the factor in front of the velocity."""
    return 0.5 * (v + reference.v_offset) * reference.log_range


@lru_cache(64)  # for a small batch, this would take as long as a good part of the integration
def stages(reference: GaussianReference, integrator: Integrator, start: float, end: float) -> Stages:
    """All steps of :meth:`dmmc.proposals.integrator.Integrator.integrate`, for machine code."""
    table, steps = integrator.table, list(integrator.steps(start, end))
    variances = tuple(tuple(_variance(reference, level + c * h) for c in table.c) for level, h in steps)
    rates = tuple(tuple(_rate(reference, v) for v in row) for row in variances)
    return Stages(table.a, table.b, tuple(h for _, h in steps), variances, rates)


def footprint(model: DiffusionModel, integrator: Integrator) -> Footprint | None:
    """The memory in which fields are made; None where that is not known."""
    transport = model.network.transport()
    return None if transport is None else transport.footprint(stages(model.reference, integrator, 1.0, 0.0))


def sites_at_once(model: DiffusionModel) -> int:
    """The number of sites that suits the device of a model."""
    return CPU_SITES if model.device.type == "cpu" else ACCELERATOR_SITES


def chunk(model: DiffusionModel, chunk_sites: int | None = None, machine_code: bool = False) -> int:
    """How many fields make about ``chunk_sites`` sites, by default those that suit the device; at least 1.

    Machine code for a CPU makes its own tiles, so that for it the number does not matter as long as it is large.
    """
    if machine_code and model.device.type == "cpu":
        chunk_sites = COMPILED_SITES
    return max(1, (sites_at_once(model) if chunk_sites is None else chunk_sites) // model.lattice.n_numbers)


def step_by_step(
    model: DiffusionModel, integrator: Integrator, psi: Tensor, start: float, end: float, trace: Trace | None = None
) -> tuple[Tensor, Tensor]:
    """Modes of psi carried from one level to another, and the change of their log density, 0 without ``trace``."""
    return integrator.integrate(flow_velocity(model, psi, trace), psi, start, end)


def carried(
    model: DiffusionModel, integrator: Integrator, psi: Tensor, start: float, end: float, traced: bool = False
) -> tuple[Tensor, Tensor]:
    """The same in machine code, with the trace of the network's own formula if ``traced``.

    Raises:
        DmmcError: if the network has none.
    """
    transport = model.network.transport()
    if transport is None:
        raise DmmcError(NOT_COMPILED)
    fields, change = transport(model.lattice.to_sites(psi), stages(model.reference, integrator, start, end), traced)
    return model.lattice.to_modes(fields), change


@torch.no_grad()
def denoise(
    model: DiffusionModel,
    latents: Tensor,
    levels: Sequence[float],
    *,
    n_steps: int | tuple[int, ...] = DEFAULT_STEPS,
    method: str = "rk4",
    chunk_sites: int | None = None,
    compiled: bool | None = None,
) -> list[Tensor]:
    """The fields ``phi_s`` on their way from noise to sample. No density is computed, so any network will do.

    Args:
        model: the diffusion model.
        latents: standard normal fields ``(n, *lattice)`` in the type of the model.
        levels: falling noise levels in [0, 1].
        n_steps: integration steps between two levels that are asked for; see
            :class:`dmmc.proposals.integrator.Integrator`.
        method: one of :data:`dmmc.proposals.runge_kutta.METHODS`.
        chunk_sites: fields are integrated in chunks of about this many sites; by default of as many as suit the device.
        compiled: whether the integration runs as machine code; by default where the network has it.

    Returns:
        one tensor ``(n, *lattice)`` for each level.

    Raises:
        DmmcError: if a number of steps is not a positive integer, or the method is unknown.
    """
    reference, lattice = model.reference, model.lattice
    integrator = Integrator(schedule_of(n_steps), method)
    parts: list[list[Tensor]] = [[] for _ in levels]
    if compiled is None:
        compiled = model.network.transport() is not None
    for latent in latents.split(chunk(model, chunk_sites, compiled)):
        psi, at = lattice.to_modes(latent), 1.0
        for fields, level in zip(parts, levels, strict=True):
            if level != at:
                carry = carried if compiled else step_by_step
                psi, _ = carry(model, integrator, psi, at, level)
                at = level
            root = (reference.c(psi) + variance(model, level)).sqrt()
            fields.append(lattice.to_sites(root * psi) + reference.mean)
    return [torch.cat(fields) for fields in parts]

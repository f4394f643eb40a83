"""The measurement of a :class:`dmmc.proposals.certificate.Certificate` for any proposal that can be measured."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.proposals.base import Measurable
from dmmc.proposals.certificate import Certificate

DETERMINANT_SITES = 256
"""Largest volume for which determinants are offered."""

DETERMINANT_WORK = 1 << 17
"""``n V^2`` that :func:`certify` spends on determinants by default: all of 16 up to 90 sites, 2 at 256."""


@torch.no_grad()
def certify(
    proposal: Measurable,
    n: int = 16,
    generator: torch.Generator | None = None,
    *,
    probes: int = 16,
    determinants: int | None = None,
) -> Certificate:
    """Measure delta, the rounding error of log q and the reversibility of the map on ``n`` proposals.

    Args:
        proposal: the proposal, as a chain uses it.
        n: number of proposals; std(delta) is known to about ``1 / sqrt(2 n)``.
        generator: random numbers; None for a fixed seed.
        probes: random vectors of a step doubling; the patterns of 16 see no noise within cells of 4 x 4 sites.
        determinants: for how many of the proposals the determinant is found, up to ``n``; None for as many as
            :data:`DETERMINANT_WORK` pays for, and for none above :data:`DETERMINANT_SITES`.

    Raises:
        DmmcError: if a number is out of its range, determinants are asked for on too large a lattice, the density is
            inexact, or the proposal gives values that are not finite.
    """
    size = proposal.lattice.n_numbers
    n, probes = check_count(n, "the number of proposals of a certificate", 2), check_count(probes, "probes")
    if determinants is None:
        determinants = min(n, DETERMINANT_WORK // size**2) if size <= DETERMINANT_SITES else 0
    if check_count(determinants, "the number of determinants", 0) > n:
        raise DmmcError(f"the number of determinants must not exceed that of the {n} proposals, got {determinants}")
    if determinants and size > DETERMINANT_SITES:
        raise DmmcError(
            f"determinants are for fields of at most {DETERMINANT_SITES} numbers (sites times components), and these "
            f"have {size}; leave them out, step doubling works at any volume"
        )
    generator = torch.Generator(proposal.device).manual_seed(0) if generator is None else generator
    double = proposal.to_float64()
    # Drawn in the type of the model, so that it and its copy see the same.
    latents = proposal.latents(n, generator)
    z = latents.double()
    measured = {
        "delta": double.step_doubling(z, generator, probes)[2],
        "delta_determinant": double.by_determinant(z[:determinants])[2] if determinants else z.new_zeros(0),
    }
    phi, log_q = proposal.push(latents)
    back, log_q_back = proposal.pull(phi)
    again, _ = proposal.push(back)
    measured["reversal_phi"] = (again - phi).flatten(1).abs().amax(1)
    measured["reversal_log_q"] = log_q_back - log_q
    measured["rounding"] = rounding_error(proposal, latents)
    certificate = Certificate(**{name: x.double().cpu().numpy() for name, x in measured.items()})
    if not all(np.isfinite(x).all() for x in certificate.arrays().values()):
        raise DmmcError("the flow of this model gives values that are not finite; take more steps or train again")
    return certificate


@torch.no_grad()
def rounding_error(proposal: Measurable, latents: Tensor) -> Tensor:
    """Error ``(n,)`` of log q of the fields made of ``latents`` that is due to the arithmetic of the proposal's type.

    A field in float32 is not quite that of float64, and has another log q. That is no error and is subtracted.
    """
    double = proposal.to_float64()
    (phi, log_q), (phi64, log_q64) = proposal.push(latents), double.push(latents.double())
    moved = double.pull(phi.double())[1] - double.pull(phi64)[1]
    return log_q - log_q64 - moved


@torch.no_grad()
def measure_delta(proposal: Measurable, n: int, generator: torch.Generator, probes: int = 1) -> Tensor:
    """delta of ``n`` proposals by step doubling, ``(n,)`` float64: the quick look, without rounding and determinants.

    Raises:
        DmmcError: if ``n`` is not positive, or the density is inexact.
    """
    double = proposal.to_float64()
    return double.step_doubling(double.latents(n, generator), generator, probes)[2]

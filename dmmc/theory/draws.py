"""Exact independent draws of phi^4 on a few sites, against which kernels and estimators are tested."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import normal, uniform
from dmmc.theory.actions import lattice_of
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4


def phi4_draws(action: Phi4, lattice: Lattice, n: int, generator: torch.Generator, c: float | None = None) -> Tensor:
    """Independent fields from ``exp(-S) / Z``, exactly, by rejection: for a few sites, or weak coupling.

    With ``quart phi^4 = quart (phi^2 - c)^2 + 2 quart c phi^2 - const`` the last part joins the Gaussian part of S,
    from which fields are drawn; they are accepted with ``exp(-quart sum (phi^2 - c)^2)``.

    Args:
        action: the target.
        lattice: the lattice of the fields.
        n: number of fields.
        generator: source of randomness.
        c: any number that leaves the Gaussian part normalisable; by default the most efficient of several.

    Returns:
        ``(n, *lattice)`` float64, with the axis of components if the action has some.

    Raises:
        DmmcError: if ``c`` is too small, or fewer than one in 2,000 fields would be accepted.
    """
    hop, quad, quart = action.coefficients
    lattice = lattice_of(action, lattice)
    kinetic = hop * (2 * lattice.dim - lattice.phat2)

    def attempt(c: float, m: int) -> Tensor:
        inverse = 2 * (quad + 2 * quart * c) - kinetic
        if float(inverse.min()) <= 0:
            raise DmmcError(f"c = {c:.3g} leaves the Gaussian part not normalisable; take a larger one")
        white = normal((m, *lattice.field_shape), generator)
        phi = lattice.to_sites(inverse.rsqrt().to(white.device) * lattice.to_modes(white))
        u = uniform((m,), generator)
        return phi[u.log() < -quart * (lattice.length2(phi) - c).square().flatten(1).sum(1)]

    if c is None:
        least = max(0.0, (float(kinetic.max()) / 2 - quad) / (2 * quart)) if quart else 0.0
        offers = [least + t / math.sqrt(quart) for t in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)] if quart else [0.0]
        c = max(offers, key=lambda c: len(attempt(c, 2000)))
    accepted: list[Tensor] = []
    total = tried = 0
    while total < n:
        batch = max(2000, min(2 * n, 1 << 18))
        accepted.append(attempt(c, batch))
        total, tried = total + len(accepted[-1]), tried + batch
        if tried >= 20_000 and total * 2000 < tried:
            raise DmmcError(
                f"rejection accepts {total} of {tried} fields: too many sites, or too strong a coupling; "
                "take a smaller lattice, or well separated fields of a cluster chain"
            )
    return torch.cat(accepted)[:n]

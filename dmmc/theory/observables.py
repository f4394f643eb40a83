"""What is measured on fields: one number a configuration, recorded along the chain.

Derived quantities (susceptibility, Binder cumulant, correlation length) are functions of the means of
these numbers; they and their errors are in :mod:`dmmc.diagnostics`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import Lattice


def measure(phi: Tensor, S: Tensor, lattice: Lattice) -> dict[str, Tensor]:
    """The primary observables of each configuration, in the normalisation of the field that S takes.

    ==============  ===============  ==========================================================
    name            shape            meaning
    ==============  ===============  ==========================================================
    ``M``           (n,)             mean field, ``(1/V) sum_x phi(x)``
    ``abs_M``       (n,)             ``|M|``
    ``M2``          (n,)             ``M^2``
    ``M4``          (n,)             ``M^4``
    ``phi2``        (n,)             site average ``(1/V) sum_x phi(x)^2``
    ``S_per_site``  (n,)             ``S / V``
    ``two_point``   (n, n_orbits)    ``|phi(p)|^2`` averaged over each momentum orbit, orthonormal
                                     Fourier transform: orbit 0 is ``V M^2``, nothing subtracted
    ==============  ===============  ==========================================================

    Args:
        phi: fields, ``(n, *lattice)``, on any device; measured in float64.
        S: their actions, ``(n,)``.
        lattice: the lattice that ``phi`` lives on.

    Raises:
        DmmcError: if ``phi`` is not finite ``(n, *lattice)``, or ``S`` not ``(n,)``.
    """
    lattice.check(phi)
    if S.shape != phi.shape[:1]:
        raise DmmcError(f"S must have shape ({phi.shape[0]},), one action a field, got {tuple(S.shape)}")
    phi = phi.to(torch.float64)
    M = phi.mean(dim=lattice.axes)
    M2 = M.square()
    return {
        "M": M,
        "abs_M": M.abs(),
        "M2": M2,
        "M4": M2.square(),
        "phi2": phi.square().mean(dim=lattice.axes),
        "S_per_site": S.to(torch.float64) / lattice.volume,
        "two_point": lattice.two_point(phi),
    }

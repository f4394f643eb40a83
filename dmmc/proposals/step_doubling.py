"""An estimate of the integrator's error in log q from a second integration with twice the steps.

With T the exact flow, T_n the discrete map and E the displacement ``T_n T^-1 - 1``, to first order

    delta = log q - log q_n = (l_n - l)(z) + div E(T z),

where l_n is the reported log density of latent z and log q_n the density of the discrete map. T is replaced by the map
of twice the steps (with a factor ``2^p / (2^p - 1)`` at order p); the divergence comes from differences along random
vectors (Hutchinson), whose noise makes the spread of the estimates larger than that of delta. The error of l_n alone
would not do, since the two terms cancel in part.

All this is done for each step by itself, where the discrete map is: reported changes and Jacobians of steps one after
another are added up, and so delta is the sum of those of the steps. The trace of a displacement is the same wherever on
the way it is taken, but its noise is not, and it is least close to where the displacement arises.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmmc.core.rng import signs as random_signs
from dmmc.theory.lattice import Lattice

Integrate = Callable[[Tensor, float, float, bool], tuple[Tensor, Tensor]]
"""``(psi (n, *half), start, end, traced) -> psi at the level end, change of its log density (n,)``.

The change of the log density is wanted only if ``traced``."""

_STEP = 1e-4
"""Step of the differences, in units of the standard deviation of the fields."""


def doubling_error(
    lattice: Lattice,
    coarse: Integrate,
    fine: Integrate,
    order: int,
    psi: Tensor,
    span: tuple[float, float],
    generator: torch.Generator,
    *,
    probes: int,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrate over ``span`` and estimate the error of the change of the log density.

    Args:
        lattice: the lattice of the fields.
        coarse: the integration whose error is wanted.
        fine: the same with twice the steps.
        order: order of the method.
        psi: modes ``(n, *half)`` of fields that have unit variance but for the interaction.
        span: noise levels of the beginning and the end.
        generator: source of the random vectors.
        probes: random vectors per field; see :func:`hadamard_probes`.
        chunk: fields that are integrated at once.

    Returns:
        psi at the end, the change of its log density ``(n,)`` and the error of that ``(n,)``.
    """
    start, end = span
    made, reported = coarse(psi, start, end, True)
    _, better = fine(psi, start, end, True)

    def there_and_back(x: Tensor) -> Tensor:
        returned = []
        for part in x.split(chunk):
            up, _ = fine(lattice.to_modes(part), end, start, False)
            returned.append(lattice.to_sites(coarse(up, start, end, False)[0]))
        return torch.cat(returned)

    # E is small and smooth, so one-sided differences are good enough.
    x = lattice.to_sites(made)
    probe = hadamard_probes(lattice, x, probes, generator)
    moved = there_and_back((x + _STEP * probe).flatten(0, 1)).view_as(probe)
    slope = (moved - there_and_back(x)) / _STEP - probe
    divergence = (probe * slope).flatten(2).sum(2).mean(0)
    factor = 1 / (1 - 0.5**order)
    return made, reported, factor * (reported - better + divergence)


def hadamard_probes(lattice: Lattice, like: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Random signs on the sites of ``like``, times Walsh functions in turn: ``(n, *like.shape)``.

    Averaged over the first ``2^k`` of these, elements of a matrix between sites that differ in any of k parities drop
    out of the noise: first neighbours on the checkerboard, then all within cells of 2 sites in each direction (``2^d``
    probes), at last within cells of 4 (``4^d``). Hadamard probing: Stathopoulos, Laeuchli, Orginos, SIAM J. Sci.
    Comput. 35 (2013) S299.
    """
    shape, dim = lattice.shape, lattice.dim
    axes = (torch.arange(extent, device=like.device) for extent in shape)
    site = torch.cartesian_prod(*axes).view(*shape, dim)
    parities: list[Tensor] = []
    for bit in (site % 2, site // 2 % 2):
        parities += [bit.sum(-1), *bit.unbind(-1)[1:]]
    probes: list[Tensor] = []
    for k in range(n):
        if k % 4**dim == 0:
            signs = random_signs(like.shape, generator, like.dtype, like.device)
        odd = torch.stack([(k >> i & 1) * parity for i, parity in enumerate(parities)]).sum(0) % 2
        probes.append(signs * (1 - 2 * odd).to(like))
    return torch.stack(probes)

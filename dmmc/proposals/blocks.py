"""Random blocks of sites, in which a proposal draws its latents anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmmc.core.rng import integers, uniform


def random_blocks(shape: Sequence[int], share: float, n: int, generator: torch.Generator) -> Tensor:
    """Blocks of a periodic lattice, one for each of ``n`` fields, that know nothing of these.

    A block is a box at a random place, with the same part of every extent as nearly as whole numbers allow: where
    ``share`` asks for a fraction of a site, chance decides whether the edge is longer by one. So the mean number of
    sites grows smoothly with ``share``. No block is empty.

    Args:
        shape: extents of the lattice.
        share: fraction of the sites in a block, above 0 and at most 1.
        n: number of blocks.
        generator: source of randomness.

    Returns:
        which sites are in the block, ``(n, *shape)`` bool, on the device of the generator.
    """
    inside = torch.ones((n, *shape), dtype=torch.bool, device=generator.device)
    for axis, extent in enumerate(shape):
        wanted = extent * share ** (1 / len(shape))
        edge = (wanted + uniform((n, 1), generator)).floor().clamp(1, extent)
        begin = integers(extent, (n, 1), generator)
        sites = torch.arange(extent, device=generator.device)
        along = (sites - begin) % extent < edge
        inside &= along.view(n, *(extent if a == axis else 1 for a in range(len(shape))))
    return inside

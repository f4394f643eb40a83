"""Random blocks of sites: their size, their places, and that they are boxes on a periodic lattice."""

import math

import pytest
import torch

from dmmc.proposals.blocks import random_blocks
from dmmc.proposals.of_model import flow_proposal
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, free_reference, random_model, rng
from toys import ShiftedGaussian

N = 20_000


@pytest.mark.parametrize(("shape", "share"), [((8,), 0.3), ((4, 6), 0.4), ((3, 4, 5), 0.5), ((5,), 1.0)])
def test_the_mean_size_is_the_share(shape, share):
    inside = random_blocks(shape, share, N, rng())
    fractions = inside.double().flatten(1).mean(1)
    # The edges are independent, each with the mean that is asked for; all places are alike.
    assert abs(float(fractions.mean()) - share) <= SIGMA * float(fractions.std()) / math.sqrt(N)
    assert float((inside.double().mean(0) - share).abs().max()) <= 1.2 * SIGMA * math.sqrt(share * (1 - share) / N)


def test_blocks_are_boxes():
    inside = random_blocks((4, 6), 0.3, 200, rng())
    for block in inside:
        rows, columns = block.any(1), block.any(0)
        assert torch.equal(block, rows.view(-1, 1) & columns)
        for sites in (rows, columns):
            # One stretch on a ring: it begins once, or covers everything.
            assert int((sites & ~sites.roll(1)).sum()) == (0 if bool(sites.all()) else 1)
    assert {int(block.any(1).sum()) for block in inside} == {2, 3}


def test_no_block_is_empty():
    assert bool((random_blocks((2, 3), 1e-6, 100, rng()).flatten(1).sum(1) == 1).all())


def test_latents_outside_the_block_stay():
    flow = flow_proposal(random_model(free_reference(Lattice((4, 4))), strength=0.1), 2)
    latents = flow.latents(500, rng())
    moved = flow.rotate(latents, 0.7, rng(1), 0.25) != latents
    assert bool((moved.flatten(1).sum(1) == 4).all())
    toy = ShiftedGaussian.correlated(4)
    latents = toy.latents(500, rng())
    assert bool(((toy.rotate(latents, 0.7, rng(1), 0.5) != latents).sum(1) == 2).all())


def test_the_components_of_a_field_move_together():
    toy = ShiftedGaussian.correlated(4)

    class Components(ShiftedGaussian):
        lattice = Lattice((4,), 3)
        latent_shape = (3, 4)

    several = Components(Lattice((4,), 3), toy.mean, toy.root)
    latents = several.latents(500, rng())
    moved = several.rotate(latents, 0.7, rng(1), 0.5) != latents
    assert bool((moved.sum(2) == 2).all()) and bool((moved == moved[:, :1]).all())

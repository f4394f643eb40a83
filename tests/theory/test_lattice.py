"""Momenta, orbits and transforms against brute force over the whole Brillouin zone and the whole symmetry group."""

import itertools
import math

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import Lattice

SHAPES = [(1,), (2,), (5,), (8,), (4, 4), (5, 5), (6, 4), (3, 8), (8, 3), (1, 4), (4, 1), (3, 3, 4), (2, 3, 2, 3)]


def field(lattice: Lattice, n: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *lattice.shape, generator=generator, dtype=torch.float64)


def images(mode: tuple[int, ...], shape: tuple[int, ...]) -> set[tuple[int, ...]]:
    """All images of ``mode`` under reflections and exchanges of axes of equal extent."""
    found = set()
    for order in itertools.permutations(range(len(shape))):
        if any(shape[a] != shape[b] for a, b in enumerate(order)):
            continue
        for signs in itertools.product((1, -1), repeat=len(shape)):
            found.add(tuple(s * mode[a] % extent for s, a, extent in zip(signs, order, shape, strict=True)))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_orbits_are_those_of_the_group(shape):
    lattice = Lattice(shape)
    number = {}
    for mode in itertools.product(*(range(n) for n in lattice.half)):
        number.setdefault(int(lattice.orbit_index[mode]), set()).add(mode)
    assert sorted(number) == list(range(len(lattice.orbit_modes)))
    for k, representative in enumerate(lattice.orbit_modes):
        orbit = images(representative, shape)
        assert number[k] == {mode for mode in orbit if mode[-1] < lattice.half[-1]}
        members = {int(i) for i in lattice.orbit_members[k]} - {lattice.orbit_index.numel()}
        assert members == {int(np.ravel_multi_index(mode, lattice.half)) for mode in number[k]}
        assert lattice.orbit_size[k] == len(orbit)
        exact = sum(4 * math.sin(math.pi * n / extent) ** 2 for n, extent in zip(representative, shape, strict=True))
        assert float(lattice.orbit_phat2[k]) == pytest.approx(exact, abs=1e-13)
    assert lattice.orbit_modes[0] == (0,) * len(shape)
    assert lattice.orbit_size.sum() == lattice.volume
    assert bool((lattice.orbit_phat2.diff() > -1e-13).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_orthonormal(shape):
    lattice = Lattice(shape)
    phi = field(lattice)
    modes = lattice.to_modes(phi)
    assert modes.shape[1:] == lattice.half
    torch.testing.assert_close(lattice.to_sites(modes), phi)
    torch.testing.assert_close(lattice.sum_modes(modes.abs() ** 2), phi.square().flatten(1).sum(1))
    torch.testing.assert_close(modes.flatten(1)[:, 0].real, phi.flatten(1).sum(1) / lattice.volume**0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_over_the_stored_half_are_sums_over_the_zone(shape):
    lattice = Lattice(shape)
    full = torch.fft.fftn(field(lattice), dim=lattice.axes, norm="ortho").abs() ** 2
    half = full[..., : lattice.half[-1]]
    torch.testing.assert_close(lattice.sum_modes(half), full.flatten(1).sum(1))
    for k, representative in enumerate(lattice.orbit_modes):
        orbit = images(representative, shape)
        exact = sum(full[(slice(None), *mode)] for mode in orbit) / len(orbit)
        torch.testing.assert_close(lattice.orbit_mean(half)[:, k], exact)
    torch.testing.assert_close(lattice.two_point(field(lattice)), lattice.orbit_mean(half))


@pytest.mark.parametrize("shape", SHAPES)
def test_phat2_is_the_laplacian(shape):
    lattice = Lattice(shape)
    phi = field(lattice)
    laplacian = sum(torch.roll(phi, 1, a) + torch.roll(phi, -1, a) - 2 * phi for a in lattice.axes)
    torch.testing.assert_close(lattice.to_sites(lattice.phat2 * lattice.to_modes(phi)), -laplacian)


def test_spread_and_orbit_mean_are_inverse():
    lattice = Lattice((4, 6, 4))
    values = torch.randn(2, len(lattice.orbit_modes), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert lattice.spread(values).shape == (2, *lattice.half)
    torch.testing.assert_close(lattice.orbit_mean(lattice.spread(values)), values)


def test_orbits_of_four_by_four():
    lattice = Lattice((4, 4))
    assert set(lattice.orbit_modes) == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}
    assert sorted(lattice.orbit_size.tolist()) == [1, 1, 2, 4, 4, 4]
    assert Lattice((4, 6)).orbit_size.max() == 4  # no exchange of unequal axes


def test_sizes():
    lattice = Lattice((3, 4, 5))
    assert (lattice.dim, lattice.volume, lattice.half, lattice.axes) == (3, 60, (3, 4, 3), (-3, -2, -1))
    assert Lattice([4, 6]) == Lattice((4, 6))


@pytest.mark.parametrize("shape", [(), (4, 0), (4, -2), (2, 2, 2, 2, 2), 8, (4, 2.5), ("4", 4), (None,)])
def test_bad_shapes(shape):
    with pytest.raises(DmmcError, match="lattice"):
        Lattice(shape)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ([[1.0, 2.0]], "torch.Tensor"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), "real floating"),
        (torch.zeros(2, 4, 4, dtype=torch.complex128), "real floating"),
        (torch.zeros(4, 4), r"\(batch, 4, 4\)"),
        (torch.zeros(2, 4, 5), r"\(batch, 4, 4\)"),
        (torch.full((2, 4, 4), float("nan")), "NaN"),
        (torch.full((2, 4, 4), float("inf")), "NaN or infinite"),
    ],
)
def test_check_refuses(phi, message):
    with pytest.raises(DmmcError, match=message):
        Lattice((4, 4)).check(phi)


def test_check_accepts():
    Lattice((4, 4)).check(torch.zeros(2, 4, 4))

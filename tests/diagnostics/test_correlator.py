"""The wall correlator against direct sums over sites, and against the exact correlator and mass of the free field."""

import math

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.correlator import wall_correlator
from dmmc.theory import momenta

MASS = 0.6


def energy(mass):
    """Of the free field at zero spatial momentum: ``2 (cosh m - 1) = mass^2``."""
    return math.acosh(1 + mass**2 / 2)


def exact_correlator(L, mass):
    m = energy(mass)
    return np.cosh(m * (L / 2 - np.arange(L // 2 + 1))) / (2 * math.sinh(m) * math.sinh(m * L / 2))


def exact_propagator(shape, mass):
    return 1 / (momenta.orbit_phat2(shape) + mass**2)


def draws_of(shape, mass, chains, draws, seed):
    """``|phi(p)|^2`` of independent free fields: C(p) times the mean of |normal|^2 over the members of each orbit."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(chains * draws, *shape))
    axes = tuple(range(1, len(shape) + 1))
    power = abs(np.fft.fftn(fields, axes=axes, norm="ortho")) ** 2
    number = {mode: k for k, mode in enumerate(momenta.orbit_modes(shape))}
    total = np.zeros((len(fields), len(number)))
    for p in np.ndindex(shape):
        total[:, number[momenta.representative(p, shape)]] += power[(slice(None), *p)]
    white = total / momenta.orbit_size(shape)
    return (white * exact_propagator(shape, mass)).reshape(chains, draws, -1)


@pytest.mark.parametrize(
    ("shape", "axis"), [((8,), 0), ((7,), 0), ((4, 10), 1), ((4, 10), 0), ((6, 6), 1), ((3, 4, 5), 2)]
)
def test_exact_propagator_gives_the_exact_correlator_and_mass(shape, axis):
    two_point = np.broadcast_to(exact_propagator(shape, MASS), (8, 4, len(momenta.orbit_modes(shape))))
    result = wall_correlator(two_point, momenta.wall_modes(shape, axis))
    L = shape[axis]
    assert result.t.tolist() == list(range(L // 2 + 1)) and result.mass_t.tolist() == list(range(1, L // 2))
    np.testing.assert_allclose(result.value, exact_correlator(L, MASS), rtol=1e-12)
    np.testing.assert_allclose(result.mass, energy(MASS), rtol=1e-10)
    np.testing.assert_allclose(result.error, 0, atol=1e-12)


@pytest.mark.parametrize(("shape", "axis"), [((6,), 0), ((3, 8), 1), ((3, 8), 0), ((4, 4), 0)])
def test_correlator_is_that_of_wall_averages(shape, axis):
    phi = np.random.default_rng(3).normal(size=(32, *shape)) + 0.5
    power = abs(np.fft.fftn(phi, axes=range(1, len(shape) + 1), norm="ortho")) ** 2
    modes = momenta.orbit_modes(shape)
    two_point = np.zeros((32, len(modes)))
    for p in np.ndindex(shape):
        orbit = modes.index(momenta.representative(p, shape))
        two_point[:, orbit] += power[(slice(None), *p)] / momenta.orbit_size(shape)[orbit]
    result = wall_correlator(two_point.reshape(8, 4, -1), momenta.wall_modes(shape, axis))
    # Axes of equal extent share their orbits, so that the result is an average over them.
    direct = []
    for a in (b for b, extent in enumerate(shape) if extent == shape[axis]):
        walls = np.moveaxis(phi, 1 + a, -1).reshape(32, -1, shape[a]).mean(1)
        n_sites = math.prod(shape) / shape[a]
        direct.append([n_sites * np.mean(walls * np.roll(walls, -t, 1)) for t in result.t])
    np.testing.assert_allclose(result.value, np.mean(direct, axis=0), rtol=1e-12)


@pytest.mark.parametrize(("chains", "draws"), [(64, 40), (2, 1500)], ids=["chains", "blocks"])
def test_errors_cover_the_exact_values(chains, draws):
    shape, deviations, masses = (4, 12), [], []
    for seed in range(40):
        result = wall_correlator(draws_of(shape, MASS, chains, draws, seed), momenta.wall_modes(shape, 1))
        deviations.append((result.value - exact_correlator(12, MASS)) / result.error)
        masses.append((result.mass[:3] - energy(MASS)) / result.mass_error[:3])
    for z in (np.array(deviations), np.array(masses)):
        # 40 seeds: the mean of z has error 0.16; its variance is 1 up to 22 %, and some for the error's own error.
        assert np.all(abs(z.mean(0)) < 5 * 0.16)
        assert np.all((z.var(0) > 0.3) & (z.var(0) < 2.2))


def test_subtracted_mean():
    # A uniform shift of the field adds V shift^2 to G(0), which the subtraction takes away again.
    shape, shift = (4, 8), 1.7
    two_point = draws_of(shape, MASS, 8, 200, seed=1)
    shifted, M = two_point.copy(), np.full((8, 200), shift)
    shifted[:, :, 0] += 32 * shift**2
    orbits = momenta.wall_modes(shape, 1)
    plain, subtracted = wall_correlator(two_point, orbits), wall_correlator(shifted, orbits, mean=M, volume=32)
    np.testing.assert_allclose(subtracted.value, plain.value, rtol=1e-10)
    np.testing.assert_allclose(subtracted.error, plain.error, rtol=1e-8)
    assert wall_correlator(shifted, orbits).value[0] == pytest.approx(plain.value[0] + 4 * shift**2)


def test_no_mass_where_the_correlator_is_not_positive():
    shape = (8,)
    two_point = np.broadcast_to(np.array([0.1, 1.0, 1.0, 1.0, 1.0]), (8, 4, 5))
    result = wall_correlator(two_point, momenta.wall_modes(shape, 0))
    assert (result.value[1:] < 0).all() and np.isnan(result.mass).all()


def test_wall_modes():
    assert momenta.wall_modes((4, 4), 0).tolist() == momenta.wall_modes((4, 4), -1).tolist()
    modes = momenta.orbit_modes((4, 6))
    assert [modes[k] for k in momenta.wall_modes((4, 6), 1)] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 2), (0, 1)]
    assert [modes[k] for k in momenta.wall_modes((4, 6), 0)] == [(0, 0), (1, 0), (2, 0), (1, 0)]


def test_refused_records():
    two_point, orbits = draws_of((4,), MASS, 2, 50, seed=1), momenta.wall_modes((4,), 0)
    for bad, message in [
        (two_point[0], r"shape \(chain, draw, orbit\)"),
        (np.full_like(two_point, np.nan), "NaN"),
        (two_point[:, :, :2], "only 2 orbits"),
        (two_point[:, :2], "draws per chain"),
    ]:
        with pytest.raises(DmmcError, match=message):
            wall_correlator(bad, orbits)
    with pytest.raises(DmmcError, match="orbit numbers"):
        wall_correlator(two_point, [0.0, 1.0])
    with pytest.raises(DmmcError, match="pass volume"):
        wall_correlator(two_point, orbits, mean=two_point[:, :, 0])
    with pytest.raises(DmmcError, match="shape of two_point"):
        wall_correlator(two_point, orbits, mean=two_point[:, :20, 0], volume=4)

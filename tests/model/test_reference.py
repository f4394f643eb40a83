"""The noise process and its Gaussian reference: closed forms, and the measured propagator of free fields."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.reference import GaussianReference, posterior_covariance, wiener
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_draws, free_reference, hmc_ensemble, noise, z_scores

SHAPES = [(1,), (5,), (4, 4), (6, 3), (2, 3, 4), (2, 2, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wiener_filter_and_posterior_covariance(shape):
    reference = free_reference(Lattice(shape))
    c = reference.c(noise(reference.lattice, 1))
    v = torch.tensor([1e-3, 0.2, 7.0], dtype=torch.float64)
    d, p = wiener(c, v), posterior_covariance(c, v)
    assert d.shape == p.shape == (3, *reference.lattice.half)
    column = v.view(-1, *[1] * len(shape))
    torch.testing.assert_close(1 / p, 1 / c + 1 / column)  # precisions of prior and likelihood add up
    torch.testing.assert_close(d, p / column)
    zero = torch.zeros(1, dtype=torch.float64)
    assert bool((wiener(c, zero) == 1).all()) and not posterior_covariance(c, zero).any()


def test_wiener_filter_is_the_best_linear_denoiser():
    # Regress phi_0 on phi_s mode by mode: slope D, residual variance P. Every mode of every field is a sample.
    reference = free_reference(Lattice((4, 6)))
    lattice, v, n = reference.lattice, 0.8, 20_000
    x0 = free_draws(reference, n)
    xs = x0 + math.sqrt(v) * noise(lattice, n, seed=2)
    m0, ms = lattice.to_modes(x0), lattice.to_modes(xs)
    c = reference.c(x0)
    d, p = wiener(c, torch.tensor(v)), posterior_covariance(c, torch.tensor(v))
    residual = m0 - d * ms
    assert float(z_scores((residual * ms.conj()).real).abs().max()) < SIGMA
    assert float(z_scores(residual.abs().square(), p).abs().max()) < SIGMA


def test_levels_and_variances():
    reference = free_reference(Lattice((8, 8)), mass=0.3)
    assert reference.v_max == pytest.approx(10 / 0.3**2) and reference.v_offset == pytest.approx(1 / (8 + 0.3**2))
    level = torch.linspace(0, 1, 11, dtype=torch.float64)
    v = reference.variance(level)
    torch.testing.assert_close(reference.level(v), level)
    assert float(v[0]) == 0.0 and float(v[-1]) == pytest.approx(reference.v_max, rel=1e-12)
    # The time is ln(v + v_offset), linear in the level.
    t = torch.log(v + reference.v_offset)
    torch.testing.assert_close(t.diff(), torch.full((10,), reference.log_range / 10, dtype=torch.float64))
    given = free_reference(Lattice((8, 8)), v_max=3.0, v_offset=0.5)
    assert (given.v_max, given.v_offset, given.log_range) == (3.0, 0.5, pytest.approx(math.log(7)))


@pytest.mark.parametrize("shape", [(7,), (4, 4), (5, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_measured_propagator_is_that_of_the_free_field(shape, mean):
    exact = free_reference(Lattice(shape), mean=mean)
    n = 4000
    phi = free_draws(exact, n)
    found = GaussianReference.measure(phi, exact.lattice, connected=mean != 0)
    # Fields are independent; |phi(p)|^2 averages over an orbit, whose spread over fields is the error.
    error = exact.lattice.two_point(phi - mean).std(0) / math.sqrt(n)
    assert float(((found.propagator - exact.propagator) / error).abs().max()) < SIGMA
    if mean:
        of_mean = math.sqrt(float(exact.propagator[0]) / exact.lattice.volume / n)
        assert abs(found.mean - mean) < SIGMA * of_mean
    else:
        assert found.mean == 0.0


def test_disconnected_propagator_keeps_the_zero_mode():
    lattice = Lattice((4, 4))
    phi = free_draws(free_reference(lattice, mean=2.0), 500)
    kept, removed = (GaussianReference.measure(phi, lattice, connected) for connected in (False, True))
    square = float(kept.propagator[0] - removed.propagator[0])
    assert square == pytest.approx(16 * float(phi.mean()) ** 2, rel=1e-9) and kept.mean == 0
    torch.testing.assert_close(kept.propagator[1:], removed.propagator[1:])


def test_chunks_and_float32_do_not_matter():
    lattice = Lattice((4, 3))
    phi = free_draws(free_reference(lattice), 2500)  # more than two chunks
    whole = lattice.two_point(phi).mean(0)
    torch.testing.assert_close(GaussianReference.measure(phi, lattice).propagator, whole)
    torch.testing.assert_close(GaussianReference.measure(phi.float(), lattice).propagator, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normaliser_is_the_log_determinant(shape):
    reference = free_reference(Lattice(shape))
    lattice, volume = reference.lattice, reference.lattice.volume
    units = torch.eye(volume, dtype=torch.float64).view(volume, *shape)
    root = lattice.to_sites(reference.c(units).sqrt() * lattice.to_modes(units)).view(volume, volume)
    assert reference.log_normaliser() == pytest.approx(float(torch.linalg.slogdet(root).logabsdet), abs=1e-10)


def test_c_follows_the_dtype_it_is_asked_for():
    reference = free_reference(Lattice((4, 4)))
    modes = reference.lattice.to_modes(noise(reference.lattice, 1).float())
    assert modes.is_complex() and reference.c(modes).dtype == torch.float32
    assert reference.c(modes).shape == reference.lattice.half


def test_refused_references():
    lattice = Lattice((4, 4))
    n = len(lattice.orbit_modes)
    with pytest.raises(DmmcError, match=rf"shape \({n},\), one value for each momentum orbit"):
        GaussianReference(lattice, torch.ones(n + 1))
    for bad in (0.0, -1.0, math.nan, math.inf):
        c = torch.ones(n)
        c[1] = bad
        with pytest.raises(DmmcError, match="use more configurations"):
            GaussianReference(lattice, c)
    with pytest.raises(DmmcError, match=r"must be real floating point, got torch\.int64"):
        GaussianReference(lattice, torch.ones(n, dtype=torch.int64))
    for bad in ({"mean": "0"}, {"mean": math.nan}, {"v_max": -1.0}, {"v_max": None}, {"v_offset": True}):
        with pytest.raises(DmmcError, match=f"{next(iter(bad))} of a reference must be a finite number"):
            GaussianReference(lattice, torch.ones(n), **bad)
    with pytest.raises(DmmcError, match="at least 2 configurations"):
        GaussianReference.measure(noise(lattice, 1), lattice)
    with pytest.raises(DmmcError, match="ensemble must have shape"):
        GaussianReference.measure(noise(lattice, 5).transpose(0, 1), lattice)
    with pytest.raises(DmmcError, match="ensemble has NaN"):
        GaussianReference.measure(torch.full((3, 4, 4), math.nan), lattice)


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_the_action_makes_the_propagator_of_a_free_field_exact(mean):
    # <phi dS/dphi> = 1 as a control variate: for S = 1/2 phi C^-1 phi it is |phi|^2 / C itself.
    exact = free_reference(Lattice((4, 6)), 0.7, mean=mean)
    phi = free_draws(exact, 50)
    shifted = AutogradAction(lambda x: FreeField(0.7)(x - mean), "shifted")
    found = GaussianReference.measure(phi, exact.lattice, mean != 0, shifted)
    if mean:  # at p = 0 the measured mean enters as well
        torch.testing.assert_close(found.propagator[1:], exact.propagator[1:])
    else:
        torch.testing.assert_close(found.propagator, exact.propagator)


def test_the_action_makes_the_propagator_of_phi4_more_precise():
    action, lattice, groups = Phi4(0.2, 0.1), Lattice((4, 4)), 40
    phi = hmc_ensemble(action, (4, 4), n=8000)
    plain, better = (
        torch.stack([GaussianReference.measure(part, lattice, action=use).propagator for part in phi.split(200)])
        for use in (None, action)
    )
    assert bool((better.std(0) < 0.5 * plain.std(0)).all())
    difference = better - plain
    assert float((difference.mean(0) / difference.std(0) * math.sqrt(groups)).abs().max()) < SIGMA

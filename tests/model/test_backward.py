"""The score and the reverse process of a model whose exact score is known: a Gaussian field of another covariance."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import Network
from dmmc.model.reference import GaussianReference
from dmmc.proposals.ode import denoise
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, noise, rng

LATTICE = Lattice((4, 3))
EXACT = torch.linspace(2.0, 0.3, len(LATTICE.orbit_modes), dtype=torch.float64)
MEAN = -0.4
REFERENCE = GaussianReference(LATTICE, EXACT.flip(0) + 0.5, mean=0.2, v_max=200.0)
"""Another propagator and another mean than those of the field, so that the network has something to do."""

KINDS = ("sde", "predictor-corrector", "ode")


class ExactNetwork(Network):
    """``D N`` of the Gaussian field: its score and that of the reference are known."""

    odd = False

    def forward(self, modes, v, context=None):
        c, other = LATTICE.spread(EXACT).to(modes.real), self.reference.c(modes)
        v = v.view(-1, *(1,) * (modes.ndim - 1))
        shift = torch.zeros(LATTICE.half, dtype=modes.dtype)
        shift[0, 0] = (MEAN - self.reference.mean) * math.sqrt(LATTICE.volume)
        return (modes - shift) / (c + v) - modes / (other + v)


def model(two_sector=False):
    return DiffusionModel(
        ExactNetwork(REFERENCE).double(), {}, two_sector=two_sector, symmetry="z2" if two_sector else "none"
    )


def exact_score(phi, v):
    modes = LATTICE.to_modes(phi - MEAN)
    return LATTICE.to_sites(-modes / (LATTICE.spread(EXACT) + v.view(-1, 1, 1)))


def test_the_score_of_a_known_field():
    phi = 2 * noise(LATTICE, 5)
    sigma = torch.tensor([0.0, 0.1, 1.0, 5.0, 14.0], dtype=torch.float64)
    torch.testing.assert_close(model().score(phi, sigma), exact_score(phi, sigma**2), rtol=1e-10, atol=1e-12)
    one = model().score(phi, 1.0)
    torch.testing.assert_close(one, exact_score(phi, torch.ones(5, dtype=torch.float64)), rtol=1e-10, atol=1e-12)
    assert model().score(phi.float(), 1).dtype == torch.float32
    # The expected field given the noisy one, which is how the posterior mean of a Gaussian is defined.
    c, modes = LATTICE.spread(EXACT), LATTICE.to_modes(phi - MEAN)
    torch.testing.assert_close(phi + one, LATTICE.to_sites(c / (c + 1) * modes) + MEAN)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_have_the_covariance_of_every_noise_level(kind):
    n, times = 4000, (0.3, 0.7, 1.0)
    fields = model().backward(n, times, kind, n_steps=150, generator=rng(4))
    assert fields.shape == (3, n, 4, 3)
    for time, phi in zip(times, fields, strict=True):
        v = REFERENCE.variance(torch.tensor(1 - time, dtype=torch.float64))
        # The prior is that of the reference, whose covariance and mean are wrong by this part of the noise.
        total = EXACT + v
        wrong = (REFERENCE.propagator - EXACT) * (total / (EXACT + 200)) ** 2
        wrong = wrong if kind != "ode" else (REFERENCE.propagator - EXACT) * total / (EXACT + 200)
        square = LATTICE.two_point(phi - MEAN)
        # A step is at most 6 % of the variance of a mode; its error is of first order, and below half of that.
        allowed = SIGMA * square.std(0) / math.sqrt(n) + wrong.abs() + 0.03 * total
        assert bool(((square.mean(0) - total).abs() < allowed).all()), (time, square.mean(0) / total)


def test_the_flow_is_the_one_of_the_proposals():
    latents = noise(LATTICE, 6, seed=9)
    expected = denoise(model(), latents, [0.5, 0.0], n_steps=64)
    found = model().backward(6, (0.5, 1.0), "ode", n_steps=400, generator=rng(9))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_the_kinds_begin_alike_and_differ_later():
    start, end = (
        torch.stack([model().backward(3, (t,), kind, n_steps=20, generator=rng(2))[0] for kind in KINDS])
        for t in (0.0, 1.0)
    )
    assert torch.equal(start[0], start[1]) and torch.equal(start[0], start[2])
    assert min(float((end[i] - end[j]).abs().max()) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    assert torch.equal(model().backward(3, kind="sde"), model().backward(3, kind="sde"))


def test_a_mirrored_model_draws_both_signs():
    plain, mirrored = (model(two).backward(64, (0.2, 1.0), "ode", n_steps=8, generator=rng(3)) for two in (False, True))
    sign = mirrored / plain
    torch.testing.assert_close(sign.abs(), torch.ones_like(sign))
    flat = sign.transpose(0, 1).flatten(1)
    assert bool((flat == flat[:, :1]).all()), "one sign for a field at all of its times"
    assert 16 < int((flat[:, 0] > 0).sum()) < 48


def test_refusals():
    phi = noise(LATTICE, 3)
    for sigma in (-0.1, 15.0, math.nan, torch.ones(2), torch.ones(3, 1)):
        with pytest.raises(DmmcError, match="sigma must be"):
            model().score(phi, sigma)
    with pytest.raises(DmmcError):
        model().score(phi[:, :2], 1.0)
    for times in ((), (0.5, 0.5), (0.6, 0.4), (-0.1,), (1.1,), (math.nan,)):
        with pytest.raises(DmmcError, match="times must rise"):
            model().backward(2, times)
    with pytest.raises(DmmcError, match="the kind of a backward process is one of sde"):
        model().backward(2, kind="euler")
    for options in ({"n": 0}, {"n": 2, "n_steps": 0}, {"n": 2, "n_steps": 10**9}):
        with pytest.raises(DmmcError):
            model().backward(**options)

"""Complex Langevin dynamics: the law of its discrete steps in closed form, and moments against complex integrals."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import advance
from dmmc.kernels.complex_langevin import ComplexLangevin
from dmmc.theory.complex_action import ComplexAction, to_complex, to_real
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, rng, z_scores

SITE = Lattice((1,))
SIGMA0 = 1 + 1j


def action(lam=0.0):
    return ComplexAction(
        lambda z: (0.5 * SIGMA0 * z**2 + 0.25 * lam * z**4).sum(1), lambda z: SIGMA0 * z + lam * z**3, "quartic"
    )


def sampled(action, h, time, n, seed=1):
    kernel = ComplexLangevin(action, SITE, h, allow_inexact=True)
    state = kernel.initial(n, rng(seed))
    return advance(kernel, state, round(time / h), rng(seed + 1)).phi.squeeze(2)


@pytest.mark.parametrize("h", [0.3, 0.1])
def test_steps_of_a_gaussian_have_the_covariance_of_their_recursion(h):
    # phi' = M phi + noise in x alone: the stationary covariance solves Sigma = M Sigma M^T + noise. The start
    # is forgotten: exp(-20), with A = 1.
    a, b = SIGMA0.real, SIGMA0.imag
    m = np.eye(2) - h * np.array([[a, -b], [b, a]])
    wanted = torch.from_numpy(solve_discrete_lyapunov(m, np.diag([2 * h, 0.0])))
    phi = sampled(action(), h, 20, 40_000)
    products = phi.unsqueeze(2) * phi.unsqueeze(1)
    assert float(z_scores(products, wanted).abs().max()) < SIGMA
    # As h goes to 0 it is that of P in closed form, of which the recursion is off by more than the errors here.
    alpha, beta, gamma = a, a * (1 + 2 * a * a / (b * b)), a * a / b
    limit = torch.linalg.inv(2 * torch.tensor([[alpha, gamma], [gamma, beta]], dtype=torch.float64))
    assert float(z_scores(products, limit).abs().max()) > 2 * SIGMA
    tiny = 1e-6
    m = np.eye(2) - tiny * np.array([[a, -b], [b, a]])
    assert np.allclose(solve_discrete_lyapunov(m, np.diag([2 * tiny, 0.0])), limit, atol=1e-5)


def test_holomorphic_moments_are_those_of_the_complex_weight():
    # One step size: its bias, of order h, is below the errors, of which five are allowed.
    phi = sampled(action(lam=1.0), 0.005, 6, 6_000)
    x = np.linspace(-8, 8, 4001)
    weight = np.exp(-0.5 * SIGMA0 * x**2 - 0.25 * x**4)
    z = to_complex(phi)
    for n in (2, 4):
        exact = (x**n * weight).sum() / weight.sum()
        assert abs(float(z_scores((z**n).real, exact.real))) < SIGMA
        assert abs(float(z_scores((z**n).imag, exact.imag))) < SIGMA
    # The drift points inwards on the lines Im z = +-y_-, so that no chain leaves the strip between them, but by O(h).
    edge = math.sqrt(0.5 * (1 - math.sqrt(1 - 1 / 3)))
    assert float(phi[:, 1].abs().max()) < edge + 0.005


def test_fields_are_kept_as_their_two_parts():
    phi = torch.randn(5, 2, 3, generator=rng(), dtype=torch.float64)
    assert torch.equal(to_real(to_complex(phi)), phi)
    z = to_complex(phi)
    assert torch.allclose(action()(phi), (0.5 * SIGMA0 * z**2).sum(1).real)
    assert torch.allclose(to_complex(action().drift(phi)), -SIGMA0 * z)


def test_it_is_refused_unless_what_is_inexact_is_wanted():
    with pytest.raises(DmmcError, match="would not sample"):
        ComplexLangevin(action(), SITE, 0.1)
    with pytest.raises(DmmcError, match="positive number"):
        ComplexLangevin(action(), SITE, 0.0, allow_inexact=True)
    with pytest.raises(DmmcError, match="no gradient"):
        action().grad(torch.zeros(1, 2, 1))
    kernel = ComplexLangevin(action(), SITE, 0.1, allow_inexact=True)
    assert "law is not known" in kernel.facts.inexact and kernel.lattice.components == 2

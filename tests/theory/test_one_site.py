"""Quadrature of one degree of freedom against Gaussian integrals, and against itself where there is no closed form."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.cumulants import cumulants_of_moments, noised_cumulants
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.one_site import OneSite
from dmmc.theory.phi4 import Phi4

PHI = torch.linspace(-6, 6, 101, dtype=torch.float64)


def two_peaks(mu, variance):
    """Two Gaussians at +-mu, of which everything is known in closed form."""

    def action(phi):
        return -torch.logsumexp(-(phi + torch.tensor([-mu, mu]).double()).square() / (2 * variance), 1)

    return OneSite(AutogradAction(action, "two peaks"))


@pytest.mark.parametrize("v", [0.0, 1e-6, 1e-3, 0.3, 40.0])
def test_noise_on_two_gaussians_widens_them(v):
    # Quadrature is exact to rounding: the bound is that of float64 at the size of the exponents, about 100.
    mu, total = 1.5, 0.2 + v
    log_p, score = two_peaks(mu, 0.2).noised(PHI, v)
    exponents = torch.stack([-(PHI - m).square() / (2 * total) for m in (mu, -mu)])
    wanted = torch.logsumexp(exponents, 0) - math.log(2) - 0.5 * math.log(2 * math.pi * total)
    torch.testing.assert_close(log_p, wanted, atol=1e-10, rtol=1e-10)
    posterior = torch.softmax(exponents, 0)
    wanted = -(PHI - mu * (posterior[0] - posterior[1])) / total
    torch.testing.assert_close(score, wanted, atol=1e-9, rtol=1e-9)


def test_noised_densities_are_normalised_and_have_the_cumulants_that_noise_gives_them():
    theory, v = OneSite(Phi4(kappa=11 / 15, lam=1 / 60)), 2.0
    phi = torch.linspace(-25, 25, 2001, dtype=torch.float64)
    weight = theory.noised(phi, v)[0].exp() * (phi[1] - phi[0])
    moments = [float((weight * phi**k).sum()) for k in range(1, 9)]
    assert abs(float(weight.sum()) - 1) < 1e-12
    wanted = noised_cumulants(cumulants_of_moments(theory.moments(8)), 1.0, math.sqrt(v))
    # The eighth cumulant is what is left of terms 10^3 times as large.
    assert cumulants_of_moments(moments) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_quantiles_are_draws():
    theory = OneSite(FreeField(mass=0.5))  # on one site S = 1/2 mass^2 phi^2
    n = 10_001
    phi = theory.quantiles((torch.arange(n) + 0.5) / n)
    assert phi.shape == (n, 1)
    assert abs(float(phi.square().mean()) - 4) < 4 * 8 / n  # the largest field, 4 sigma, squared, has weight 1/n
    assert theory.log_z == pytest.approx(0.5 * math.log(2 * math.pi * 4), abs=1e-12)


def test_what_is_not_one_site_is_refused():
    with pytest.raises(DmmcError, match="components"):
        OneSite(Phi4(0.1, 0.1, components=2))
    with pytest.raises(DmmcError, match="grow towards infinity"):
        _ = OneSite(AutogradAction(lambda phi: 0 * phi.sum(1), "flat")).grid
    with pytest.raises(DmmcError, match="negative"):
        OneSite(FreeField(mass=0.5)).noised(PHI, -1.0)

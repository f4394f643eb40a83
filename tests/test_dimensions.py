"""One and three dimensions: HMC and the exact chain of a model against what is known.

In one dimension every theory is solved by its transfer matrix: ``Z = tr T^L`` with
``T(x, y) = exp[-U(x)/2 - K(x, y) - U(y)/2]``, where K is the action of a link and U that of a site. On a grid of values
of the field this is a matrix, and the trapezoidal rule converges faster than any power. The formulas are written down
here once more. In three dimensions there are exact draws on a few sites.
"""

import math

import pytest
import torch

import dmmc
from checks import invariance, mean_shift, phi4_draws, steep_model
from dmmc.kernels.independence import Independence
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.proposals.certify import measure_delta
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice
from helpers import rng

EXTENT, CHAINS = 8, 600


def phi4(x, y, kappa, lam, h=0.0):
    def site(phi):
        return (1 - 2 * lam) * phi**2 + lam * phi**4 - h * phi

    return site(x) / 2 + site(y) / 2 - 2 * kappa * x * y


def sine_gordon(x, y, m2, alpha, beta):
    def site(phi):
        return m2 / 2 * phi**2 + alpha * (1 - torch.cos(beta * phi))

    return site(x) / 2 + site(y) / 2 + (x - y) ** 2 / 2


THEORIES = {
    "phi^4": (dmmc.Phi4(0.35, 0.1), lambda x, y: phi4(x, y, 0.35, 0.1), 5),
    "in a field": (dmmc.ExternalField(dmmc.Phi4(0.35, 0.1), 0.1), lambda x, y: phi4(x, y, 0.35, 0.1, 0.1), 5),
    "sine-Gordon": (dmmc.SineGordon(0.4, 0.3, 2.5), lambda x, y: sine_gordon(x, y, 0.4, 0.3, 2.5), 8),
}


def measured(phi):
    """``phi``, ``phi^2``, ``phi^4`` and ``phi(x) phi(x + r)`` for r = 1..L/2, averaged over the sites, ``(n, 7)``."""
    products = [phi * phi.roll(-r, 1) for r in range(1, EXTENT // 2 + 1)]
    return torch.stack([x.mean(1) for x in (phi, phi**2, phi**4, *products)], 1)


def solved(link, half_width):
    """The exact means of :func:`measured`, ``(7,)``."""
    x = torch.linspace(-half_width, half_width, 161, dtype=torch.float64)
    T = torch.exp(-link(x[:, None], x))
    powers = [torch.matrix_power(T, k) for k in range(EXTENT + 1)]
    one_point = [(x**n * powers[EXTENT].diagonal()).sum() for n in (1, 2, 4)]
    two_point = [((powers[EXTENT - r].T * powers[r]) * torch.outer(x, x)).sum() for r in range(1, EXTENT // 2 + 1)]
    return torch.stack(one_point + two_point) / powers[EXTENT].trace()


def averages(kernel, state, steps, seed):
    """Time averages over the second half of the steps, ``(CHAINS, 7)``, whose scatter is their error; the acceptance;
    and the last fields.
    """
    taken = list(kernel.steps(state, steps, rng(seed)))
    accepted = torch.stack([info.accepted for _, info in taken]).double().mean()
    return torch.stack([measured(state.phi) for state, _ in taken[steps // 2 :]]).mean(0), accepted, taken[-1][0].phi


def test_the_transfer_matrix_of_a_free_field():
    mass = 0.6
    exact = solved(lambda x, y: (x - y) ** 2 / 2 + mass**2 * (x**2 + y**2) / 4, 12)
    lattice = Lattice((EXTENT,))
    propagator = dmmc.FreeField(mass).propagator(lattice.orbit_phat2)
    k = 2 * math.pi * torch.arange(EXTENT, dtype=torch.float64) / EXTENT
    C = 1 / ((2 - 2 * torch.cos(k)) + mass**2)
    G = [(C * torch.cos(k * r)).mean() for r in range(EXTENT // 2 + 1)]
    assert propagator.max() == C.max()
    torch.testing.assert_close(exact, torch.stack([0 * G[0], G[0], 3 * G[0] ** 2, *G[1:]]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", THEORIES)
def test_hmc_and_a_model_agree_with_the_transfer_matrix(name, tmp_path):
    action, link, half_width = THEORIES[name]
    lattice, exact = Lattice((EXTENT,)), solved(link, half_width)
    hmc = dmmc.HMC(action, lattice, step_size=0.4, n_leapfrog=4)
    means, _, phi = averages(hmc, hmc.initial(CHAINS, rng(1)), 100, seed=2)
    assert mean_shift(means - exact) < 1
    options = TrainingOptions(steps=30, levels=8, trajectories=8)
    size = {"filters": 3, "hidden1": 6, "hidden2": 4}
    model = train(phi.float(), tmp_path / "model.safetensors", options, action=action, config=size)
    assert model.symmetry == ("none" if name == "in a field" else "z2")
    proposal = dmmc.flow_proposal(model, n_steps=6)
    # The bound on the bias from the integrator, std(O) std(delta), is far below the error, std(O) / sqrt(9000) at best.
    assert float(measure_delta(proposal, 500, rng(3)).std()) < 1e-3
    kernel = Independence(action, lattice, proposal)
    means, accepted, _ = averages(kernel, kernel.start(phi, rng(4)), 30, seed=5)
    assert mean_shift(means - exact) < 1
    # A comparison that means something: there are rejections, and a deviation of a few per cent would be seen.
    assert 0.3 < accepted < 0.97
    assert mean_shift(means - 1.05 * exact) > 1


def test_in_three_dimensions_the_chain_keeps_exact_draws():
    """The flow has random weights; where every extent is 2, a site has each of its neighbours twice."""
    lattice, action = Lattice((2, 2, 2)), dmmc.Phi4(0.1, 0.1)
    draws = phi4_draws(action, lattice, 3000, c=None)
    propagator = 1.2 * lattice.two_point(draws).mean(0)
    proposal = dmmc.flow_proposal(steep_model(GaussianReference(lattice, propagator)), n_steps=6)
    assert invariance(Independence(action, lattice, proposal), draws, steps=2) < 1
    assert invariance(dmmc.HMC(action, lattice, step_size=0.4, n_leapfrog=4), draws, steps=2) < 1

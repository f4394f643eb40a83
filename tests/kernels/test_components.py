"""Kernels for fields with components: one step from exact draws, and one site against an integral over the radius.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 20 comparisons.
"""

import functools
import math

import numpy as np
import pytest
import torch

from checks import chain_averages, invariance, phi4_draws
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC, first_fields
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import PathIndependence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, SMALL, randomise, rng, z_scores

O2 = Phi4(0.22, 0.1, components=2)
RING = Lattice((3,), 2)


@functools.cache
def draws():
    return phi4_draws(O2, RING, 20_000, c=0.8)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws()


@functools.cache
def model():
    """A network of random weights around a propagator somewhat wider than the target's."""
    reference = GaussianReference(RING, 1.3 / 2 * RING.two_point(draws()[:2000]).mean(0))
    made = DiffusionModel.untrained(reference, O2, config=SMALL.describe(), generator=rng())
    randomise(made.network.double(), strength=0.1)
    return made


@functools.cache
def flow():
    return flow_proposal(model(), 10)


KERNELS = {
    "HMC": lambda: HMC(O2, RING, step_size=0.3, n_leapfrog=4),
    "cluster": lambda: Cluster(HMC(O2, RING, step_size=0.3, n_leapfrog=4)),
    "independence": lambda: Independence(O2, RING, flow()),
    "latent": lambda: Latent(O2, RING, flow(), 0.7),
    "path": lambda: PathIndependence(O2, RING, path_proposal(model(), 6).calibrated(draws()[:500], rng())),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_step_leaves_exact_draws_exact(kernel):
    exact = draws() if kernel in (KERNELS["HMC"], KERNELS["cluster"]) else draws()[:8000]
    assert invariance(kernel(), exact, steps=2) < 1


@pytest.mark.parametrize("components", [2, 4])
@pytest.mark.parametrize("kernel", [HMC, Cluster], ids=lambda kernel: kernel.__name__)
def test_one_site_against_an_integral_over_the_radius(kernel, components):
    """``S = (1 - 2 lam - 2 kappa d) r^2 + lam r^4`` with the measure ``r^(N - 1) dr``."""
    action, lattice = Phi4(0.2, 0.3, components=components), Lattice((1, 1))
    r = np.linspace(0, 8, 4001)[1:]
    weight = r ** (components - 1) * np.exp(-((1 - 0.6 - 0.8) * r**2 + 0.3 * r**4))
    mean = [float((weight * f).sum() / weight.sum()) for f in (r**2, r)]
    averages = chain_averages(kernel.default(action, lattice), n_chains=1000, n_thermal=30, n_steps=60)
    # The mean of phi^2 over components, from the observables of ``bulk``.
    assert abs(float(z_scores(components * averages[:, 0], mean[0]))) < SIGMA


def test_the_flow_has_the_density_of_its_map():
    fine = flow()
    fine = fine.with_schedule(tuple(4 * n for n in fine.schedule))
    _, _, delta = fine.by_determinant(fine.latents(6, rng()).double())
    assert float(delta.abs().max()) < 1e-5
    phi, log_q = fine.sample(50, rng())
    torch.testing.assert_close(fine.log_q(phi), log_q, rtol=0, atol=1e-5)


def test_fields_begin_in_all_directions():
    phi = first_fields(O2, Lattice((8,)), 4000, rng())
    M = phi.mean(-1)
    assert phi.shape == (4000, 2, 8) and float(z_scores(M).abs().max()) < SIGMA
    assert float(z_scores(M[:, 0] * M[:, 1]).abs()) < SIGMA


def test_the_lattice_of_a_kernel_has_the_components_of_its_action():
    assert HMC.default(O2, Lattice((4,))).lattice == Lattice((4,), 2)
    with pytest.raises(
        MismatchError, match=r"have 3 components, and those of the action have 2; use Lattice\(\(4,\)\)"
    ):
        HMC.default(O2, Lattice((4,), 3))
    with pytest.raises(
        DmmcError, match=r"initial phi must have shape \(batch, 2, 4\), where the field has 2 components"
    ):
        HMC.default(O2, Lattice((4,))).start(torch.zeros(5, 4, dtype=torch.float64), rng())


def test_a_hopping_term_of_components_is_tested():
    def wrong(phi):
        return O2(phi) + 0.1 * (phi[:, 0] * phi[:, 1]).flatten(1).sum(1)

    action = AutogradAction(wrong, "mixing", components=2, hopping=2 * O2.kappa)
    with pytest.raises(MismatchError, match=r"declares hopping = 0\.44, but S is not"):
        Cluster.default(action, Lattice((3,)))


@pytest.mark.parametrize("make", [lambda model: path_proposal(model, 5), lambda model: flow_proposal(model, 2)])
def test_the_weights_of_a_free_field_are_its_partition_function(make):
    """An untrained model of two components is the free field itself: ``log w = log Z`` for every proposal."""
    lattice = Lattice((4, 3), 2)
    reference = GaussianReference(lattice, 1 / (lattice.orbit_phat2 + 0.49))
    proposal = make(DiffusionModel.untrained(reference, None, symmetry="o_n").to_float64())
    phi, log_q = proposal.sample(20, rng())
    S = 0.5 * lattice.norm2(lattice.to_modes(phi) / reference.c(phi).sqrt())
    log_z = 2 * (0.5 * float((lattice.orbit_size * reference.propagator.log()).sum()) + 6 * math.log(2 * math.pi))
    torch.testing.assert_close(-S - log_q, torch.full_like(S, log_z), rtol=0, atol=1e-8)

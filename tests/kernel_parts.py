"""Kernels of phi^4 on two sites that tests of cycles and mixtures put together, and draws of their target."""

import functools
from dataclasses import dataclass, replace

import torch

from checks import Gaussian, phi4_draws
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import PathIndependence
from dmmc.kernels.refresh import PathRefresh
from dmmc.model.reference import GaussianReference
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import random_model
from user_kernel import GuidedWalk

TWO_SITES = Lattice((2,))
PHI4 = Phi4(0.22, 0.1)
LOCAL = HMC(PHI4, TWO_SITES, step_size=0.6, n_leapfrog=3)
WALK = GuidedWalk(PHI4, TWO_SITES)


@functools.cache
def draws():
    return phi4_draws(PHI4, TWO_SITES, 20_000, c=0.5)


@functools.cache
def model(two_sector=False):
    propagator = 1.3 * TWO_SITES.two_point(draws()[:2000]).mean(0)
    reference = GaussianReference(TWO_SITES, propagator, mean=0.5 if two_sector else 0.0)
    return random_model(reference, two_sector=two_sector, strength=0.2)


@dataclass(frozen=True)
class Costly(Gaussian):
    """A proposal that says that it takes four evaluations of a network."""

    evaluations = 4


def wide():
    return Independence(PHI4, TWO_SITES, Costly.of(TWO_SITES, torch.tensor([2.5, 1.2]).double(), mean=1.0))


def latent(two_sector=False):
    return Latent(PHI4, TWO_SITES, flow_proposal(model(two_sector), 8), 0.8)


def path(two_sector=False):
    return PathIndependence(PHI4, TWO_SITES, path_proposal(model(two_sector), 4))


def refresh():
    return PathRefresh(PHI4, TWO_SITES, path_proposal(model(), 4), 0.4)


# A bug in a part


def weigh_other_fields(start):
    def wrong(self, phi, generator):
        state = start(self, phi, generator)
        return replace(state, log_w=state.log_w.roll(1))

    return wrong

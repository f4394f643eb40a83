"""What several test files share: random numbers, random models, exact free fields, small ensembles, quadrature."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter

from dmmc.kernels.hmc import HMC
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import InteractionNetwork, NetworkSize
from dmmc.model.reference import GaussianReference
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

SIGMA = 5.0
"""Bound on z-scores: two-sided 5.7e-7, so a few hundred of them fail by chance for one seed in several thousand."""

SMALL = NetworkSize(filters=3, hidden1=5, hidden2=4, level_knots=7, radial_knots=5)


def rng(seed=1):
    return torch.Generator().manual_seed(seed)


def noise(lattice, n, seed=1):
    """White noise on the sites, ``(n, *lattice)`` float64."""
    return torch.randn(n, *lattice.field_shape, generator=rng(seed), dtype=torch.float64)


def z_scores(samples, exact=0.0):
    """Deviations of the means over the first axis from ``exact``, in standard errors; the samples are independent."""
    return (samples.mean(0) - exact) / (samples.std(0) / math.sqrt(len(samples)))


def free_reference(lattice, mass=0.7, **options):
    """The propagator of :class:`dmmc.theory.free_field.FreeField`."""
    return GaussianReference(lattice, 1 / (lattice.orbit_phat2 + mass**2), **options)


def free_draws(reference, n, seed=1):
    """Independent Gaussian fields with the propagator and mean of ``reference``, ``(n, *lattice)`` float64."""
    lattice, white = reference.lattice, noise(reference.lattice, n, seed)
    return lattice.to_sites(reference.c(white).sqrt() * lattice.to_modes(white)) + reference.mean


@torch.no_grad()
def randomise(network: InteractionNetwork, seed=1, strength=0.5) -> InteractionNetwork:
    """Add noise to every weight, different at every noise level, also where an untrained network has zeros."""
    generator = rng(seed)
    for p in network.parameters():
        scale = strength / math.sqrt(p.shape[-1])
        p.add_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
    return network.requires_grad_(False)


def random_network(reference, size=SMALL, seed=1, strength=0.5, dtype=torch.float64) -> InteractionNetwork:
    return randomise(InteractionNetwork(reference, size, rng(seed)).to(dtype), seed, strength)


def random_model(reference, action=None, size=SMALL, two_sector=False, seed=1, strength=0.5, dtype=torch.float64):
    """A model with random weights: no good, but all that is exact must be so for it as well."""
    config = size.describe() if not two_sector else size.describe() | {"odd": False}
    symmetry = "z2" if two_sector or size.odd else None
    if reference.lattice.components is not None:
        symmetry = "o_n"
    model = DiffusionModel.untrained(
        reference, action, config=config, symmetry=symmetry, two_sector=two_sector, generator=rng(seed)
    )
    randomise(model.network.to(dtype), seed, strength)
    return model


@functools.cache
def hmc_ensemble(action: Phi4, shape: tuple[int, ...], n=1000, seed=1):
    """Fields of n / 10 chains of HMC, ``(n, *shape)`` float64, in chain-major order."""
    lattice, chains = Lattice(shape), n // 10
    generator = rng(seed)
    kernel = HMC.default(action, lattice)
    state = kernel.start(0.1 * action.scale * noise(lattice, chains, seed), generator)
    kernel, state = kernel.tune(state, generator, 60)
    fields = [state.phi for k, (state, _) in enumerate(kernel.steps(state, 100, generator)) if k % 10 == 9]
    return torch.stack(fields, 1).flatten(0, 1)


@dataclass(frozen=True)
class Grid:
    """Every field of one or two sites on a fine grid: integrals over all fields are sums over it.

    The trapezoidal rule converges faster than any power for these smooth functions that vanish at the ends.

    Attributes:
        lattice: ``(1,)`` or ``(2,)``.
        phi: ``(n_points, *lattice)``.
        cell: volume of a cell.
    """

    lattice: Lattice
    phi: torch.Tensor
    cell: float

    @classmethod
    def make(cls, n_sites, half_width, n) -> "Grid":
        axis = torch.linspace(-half_width, half_width, n, dtype=torch.float64)
        points = torch.cartesian_prod(*[axis] * n_sites).view(-1, n_sites)
        return cls(Lattice((n_sites,)), points, float(axis[1] - axis[0]) ** n_sites)

    def probabilities(self, action):
        """``exp(-S) / Z`` times the cell, ``(n_points,)``; sums to 1."""
        return torch.softmax(-action(self.phi), 0)

    def draws(self, action, n, seed=1):
        """Independent fields from ``exp(-S) / Z``, ``(n, *lattice)``, by rejection from the box of the grid."""
        generator = rng(seed)
        half_width = float(self.phi.max())
        bound = float(action(self.phi).min()) - 0.05  # below the minimum between the points as well
        found, missing = [], n
        while missing > 0:
            u = torch.rand(10 * n, self.lattice.volume + 1, generator=generator, dtype=torch.float64)
            phi = half_width * (2 * u[:, 1:] - 1)
            density = torch.exp(bound - action(phi))
            assert float(density.max()) < 1
            found.append(phi[u[:, 0] < density])
            missing -= len(found[-1])
        return torch.cat(found)[:n]


def tilted(action):
    """The action with a term that is odd in the field, which prefers one sign."""
    return AutogradAction(lambda phi: action(phi) - 0.1 * phi.flatten(1).sum(1), "tilted")


def ar1(tau: float, chains: int, draws: int, rng: np.random.Generator, mean: float = 0.0) -> np.ndarray:
    """Stationary AR(1) series of unit variance: rho(t) = a^t, hence tau_int = (1 + a) / (2 (1 - a))."""
    a = (2 * tau - 1) / (2 * tau + 1)
    noise = rng.normal(size=(chains, draws)) * math.sqrt(1 - a * a)
    start = rng.normal(size=(chains, 1))
    return mean + lfilter([1], [1, -a], noise, axis=1, zi=a * start)[0]


def exact_log_q(flow, latents):
    """Log density of the discrete map ``latent -> phi`` by its Jacobian, from central differences."""
    shape, volume, h = flow.model.lattice.shape, flow.model.lattice.volume, 1e-4
    units = torch.eye(volume, dtype=torch.float64).view(1, volume, *shape)
    ends = [flow.push((latents.unsqueeze(1) + sign * h * units).flatten(0, 1))[0] for sign in (1, -1)]
    jacobian = ((ends[0] - ends[1]) / (2 * h)).view(-1, volume, volume)
    log_normal = -0.5 * latents.square().flatten(1).sum(1) - 0.5 * volume * math.log(2 * math.pi)
    return log_normal - torch.linalg.slogdet(jacobian).logabsdet


def assert_standard_normal(pulls):
    """Mean 0, variance 1 and 68 % within one sigma, each to 5 of its standard errors."""
    n = len(pulls)
    assert abs(np.mean(pulls)) < SIGMA / math.sqrt(n)
    assert abs(np.var(pulls) - 1) < SIGMA * math.sqrt(2 / n)
    inside = math.erf(1 / math.sqrt(2))
    assert abs(np.mean(np.abs(pulls) < 1) - inside) < SIGMA * math.sqrt(inside * (1 - inside) / n)

"""Proposals that share no code with flows and paths, to show that wrappers and kernels work with any."""

from dataclasses import dataclass

import torch

from dmmc.proposals.base import Measurable, Paths
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class ShiftedGaussian(Measurable):
    """``phi = mean + L z`` with z a vector of standard normal numbers, whatever the lattice.

    Its map is exact: delta is zero.

    Attributes:
        lattice: the lattice.
        mean: ``(V,)``.
        root: L, ``(V, V)`` lower triangular.
    """

    lattice: Lattice
    mean: torch.Tensor
    root: torch.Tensor
    evaluations = 3
    device = torch.device("cpu")
    dtype = torch.float64

    @classmethod
    def correlated(cls, n_sites=2, mean=0.6):
        covariance = 0.7 * torch.eye(n_sites, dtype=torch.float64) + 0.4
        mean = mean * torch.arange(1, n_sites + 1, dtype=torch.float64)
        return cls(Lattice((n_sites,)), mean, torch.linalg.cholesky(covariance))

    @property
    def latent_shape(self):
        return (self.lattice.volume,)

    def density(self, phi):
        return torch.distributions.MultivariateNormal(self.mean, scale_tril=self.root).log_prob(phi.flatten(1))

    def push(self, latents, generator=None):
        phi = (self.mean + latents @ self.root.mT).view(-1, *self.lattice.shape)
        return phi, self.density(phi)

    def pull(self, phi, generator=None):
        z = torch.linalg.solve_triangular(self.root, (phi.double().flatten(1) - self.mean).mT, upper=False).mT
        return z, self.density(phi.double())

    def describe(self):
        return {"name": "shifted gaussian"}

    def to_float64(self):
        return self

    def step_doubling(self, latents, generator, probes=1):
        phi, log_q = self.push(latents)
        return phi, log_q, torch.zeros_like(log_q)

    def by_determinant(self, latents):
        return self.step_doubling(latents, None)


@dataclass(frozen=True)
class OneNoise(Paths):
    """Paths of one step: ``phi_1 = phi_0 + s noise``, and back to ``Normal(mean + a (phi_1 - mean), b^2)``.

    Attributes:
        lattice: the lattice.
        mean, s, a, b, top: numbers; phi_1 is proposed from ``Normal(mean, top^2)``.
        slope: of the log odds in the sum of a field.
    """

    lattice: Lattice
    mean: float = 0.5
    s: float = 0.8
    a: float = 0.6
    b: float = 0.7
    top: float = 1.3
    slope: float = 0.9
    n_steps = 1
    evaluations = 2

    @staticmethod
    def _log_normal(x, mean, std):
        return torch.distributions.Normal(mean, std).log_prob(x).flatten(1).sum(1)

    def _ratio(self, below, above):
        backward = self._log_normal(below, self.mean + self.a * (above - self.mean), self.b)
        return backward - self._log_normal(above, below, self.s)

    def _white(self, n, generator):
        return torch.randn((n, *self.lattice.shape), generator=generator, dtype=torch.float64)

    def _down(self, above, generator):
        return self.mean + self.a * (above - self.mean) + self.b * self._white(len(above), generator)

    def sample(self, n, generator):
        above = self.mean + self.top * self._white(n, generator)
        phi = self._down(above, generator)
        return phi, self._log_normal(above, self.mean, self.top) + self._ratio(phi, above)

    def draw_log_q(self, phi, generator):
        above = phi + self.s * self._white(len(phi), generator)
        return self._log_normal(above, self.mean, self.top) + self._ratio(phi, above)

    def refresh(self, phi, generator):
        above = phi + self.s * self._white(len(phi), generator)
        new = self._down(above, generator)
        return new, self._ratio(phi, above) - self._ratio(new, above)

    def up_to(self, level):
        return self

    def rough_fields(self, n, generator):
        return self.sample(n, generator)[0]

    def calibrated(self, phi, generator):
        return OneNoise(self.lattice, float(phi.mean()), self.s, self.a, self.b, self.top, self.slope)

    def log_odds(self, phi):
        return self.slope * phi.flatten(1).sum(1)

    def describe(self):
        return {"name": "one noise"}

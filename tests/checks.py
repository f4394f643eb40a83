"""Measures of how wrong a sampler is, and what they need: proposals of known density, exact draws of phi^4.

A check returns its deviation in units of the largest that chance may cause: below 1 it passes. That bound is the
quantile of a 5 sigma event (two-sided 5.7e-7), so a few hundred checks fail by chance for one seed in several thousand.
"""

import functools
import inspect
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.stats
import torch

from dmmc.kernels import invariance as testing
from dmmc.kernels.base import advance
from dmmc.theory import draws as exact
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, Grid, noise, random_model, rng

CHANCE = 2 * scipy.stats.norm.sf(SIGMA)
"""Probability with which a check of a correct sampler may fail."""


def inject(monkeypatch, owner, name, bug):
    """Put a bug in: the function ``name`` of ``owner``, a class or a module, becomes ``bug(original)``.

    A function of a module is replaced wherever the package has imported it under this name, so that no caller keeps the
    right one. Of a property, ``bug`` gets and returns the function.

    Returns:
        a list that grows by one with every call, by which a test can tell that the bug was reached.
    """
    present = inspect.getattr_static(owner, name)
    kind = type(present) if isinstance(present, (property, staticmethod, classmethod)) else None
    original = present.fget if kind is property else present.__func__ if kind else present
    wrong, calls = bug(original), []

    @functools.wraps(original)
    def recorded(*arguments, **options):
        calls.append(name)
        return wrong(*arguments, **options)

    if inspect.isclass(owner):
        monkeypatch.setattr(owner, name, kind(recorded) if kind else recorded)
        return calls
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "dmmc" and vars(module).get(name) is original:
            monkeypatch.setattr(module, name, recorded)
    return calls


def mean_shift(differences):
    """Whether independent vectors ``(n, k)`` have mean zero: Hotelling's T^2 (chi^2 for n >> k) over its bound."""
    T2, rank = testing.hotelling(differences)
    return T2 / float(scipy.stats.chi2.isf(CHANCE, rank))


def bonferroni(n):
    """Bound on the largest of ``n`` z-scores, exceeded with probability CHANCE at most."""
    return float(scipy.stats.norm.isf(CHANCE / (2 * n)))


def observables(phi, lattice):
    """The values of :func:`dmmc.kernels.invariance.standard_observables`, side by side, ``(n, k)``.

    The means of M^2, phi^2 and S are linear combinations of these.
    """
    return torch.stack(list(testing.standard_observables(phi, lattice).values()), 1)


def invariance(kernel, phi, steps=1, seed=9):
    """Whether draws ``phi`` of the target are still draws of it after ``steps`` steps: paired, chain by chain."""
    generator = rng(seed)
    state = advance(kernel, kernel.start(phi, generator), steps, generator)
    return mean_shift(observables(state.phi, kernel.lattice) - observables(phi, kernel.lattice))


def bulk(phi, S):
    """``phi^2, phi^4, M^2, |M|, S / V`` of fields ``(n, *lattice)`` with their actions, side by side, ``(n, 5)``."""
    flat = phi.flatten(1)
    M = flat.mean(1)
    return torch.stack([flat.square().mean(1), flat.pow(4).mean(1), M.square(), M.abs(), S / flat.shape[1]], 1)


def chain_averages(kernel, n_chains, n_thermal, n_steps, seed=1):
    """Time averages of :func:`bulk`, ``(n_chains, 5)``, from a start narrow enough not to stick in the tail."""
    generator = rng(seed)
    state = kernel.start(0.3 * noise(kernel.lattice, n_chains, seed + 1000), generator)
    *_, (state, _) = kernel.steps(state, n_thermal, generator)
    return torch.stack([bulk(state.phi, state.S) for state, _ in kernel.steps(state, n_steps, generator)]).mean(0)


def quadrature(action, n_sites):
    """The exact means of :func:`bulk` on one or two sites, ``(5,)``."""
    grid = Grid.make(n_sites, half_width=8, n=401)
    return grid.probabilities(action) @ bulk(grid.phi, action(grid.phi))


def phi4_draws(action: Phi4, lattice: Lattice, n, c=0.0, seed=1):
    """Independent fields from ``exp(-S) / Z``: :func:`dmmc.theory.draws.phi4_draws`."""
    return exact.phi4_draws(action, lattice, n, rng(seed), c)


@torch.no_grad()
def steep_model(reference, two_sector=False, seed=1):
    """A model whose drift bends so much that its Jacobian differs from field to field: the trace must be right.

    Its maps out of a layer are the transposes of those into it, which makes all terms of the trace add up.
    """
    model = random_model(reference, two_sector=two_sector, strength=0.1, seed=seed)
    network = model.network
    for name, factor in (("a1", 1.8), ("a2", 1.8), ("w", 3.0)):
        getattr(network, name).mul_(factor)
    network.o1.copy_(0.1 * network.a1.mT)
    network.o2.copy_(0.15 * network.a2.mT)
    return model


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian proposal by dense linear algebra, which shares no code with the package.

    Attributes:
        mean: ``lattice``, any field.
        covariance: ``(V, V)``.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    evaluations = 0
    inexact = ""

    @classmethod
    def of(cls, lattice, propagator, mean=0.0):
        """The Gaussian of a propagator C(p) on the stored modes and a uniform mean."""
        rows = torch.eye(lattice.volume, dtype=torch.float64).view(-1, *lattice.shape)
        covariance = lattice.to_sites(propagator * lattice.to_modes(rows)).flatten(1)
        return cls(torch.full(lattice.shape, mean, dtype=torch.float64), covariance)

    @property
    def _law(self):
        return torch.distributions.MultivariateNormal(self.mean.flatten(), self.covariance)

    def sample(self, n, generator):
        white = torch.randn(n, self.mean.numel(), generator=generator, dtype=torch.float64)
        phi = (self.mean.flatten() + white @ torch.linalg.cholesky(self.covariance).T).view(n, *self.mean.shape)
        return phi, self.log_q(phi)

    def log_q(self, phi):
        return self._law.log_prob(phi.flatten(1))

    def describe(self):
        return {"name": "gaussian", "mean": self.mean.tolist(), "covariance": self.covariance.tolist()}


@dataclass(frozen=True)
class Mixture:
    """``sum_i weights_i Gaussian_i``: skewed and lopsided proposals."""

    weights: tuple[float, ...]
    parts: tuple[Gaussian, ...]
    evaluations = 0
    inexact = ""

    def sample(self, n, generator):
        which = torch.multinomial(torch.tensor(self.weights), n, replacement=True, generator=generator)
        draws = torch.stack([part.sample(n, generator)[0] for part in self.parts])
        phi = draws[which, torch.arange(n)]
        return phi, self.log_q(phi)

    def log_q(self, phi):
        return torch.logsumexp(
            torch.stack([math.log(w) + part.log_q(phi) for w, part in zip(self.weights, self.parts, strict=True)]), 0
        )

    def describe(self):
        return {"name": "mixture", "weights": self.weights, "parts": [part.describe() for part in self.parts]}


PEAK_MEMORY = """
import re
from pathlib import Path

def peak_memory():  # getrusage would give that of the process that started this one, if it is larger
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
"""
"""Code for a process of its own that tells the most memory it has had, in bytes."""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read off where Linux shows it"
)

"""A stand-in for normflow with the call signatures of its actions, priors, networks, models and Metropolis sampler.

normflow is not on PyPI. What has the same name here is called in the same way there (read in its sources at commit
19e6a33); how it is done has nothing to do with it.
"""

import math

import numpy as np
import torch


class ScalarPhi4Action:
    """``sum [kappa/2 sum (phi_mu - phi)^2 + m_sq/2 phi^2 + lambd phi^4]``."""

    def __init__(self, *, m_sq, lambd, kappa=1.0):
        self.m_sq, self.lambd, self.kappa = m_sq, lambd, kappa

    def __call__(self, var):
        return self.action(var)

    def action(self, var):
        kinetic = sum((torch.roll(var, -1, axis) - var) ** 2 for axis in range(1, var.ndim))
        density = self.kappa / 2 * kinetic + self.m_sq / 2 * var**2 + self.lambd * var**4
        return density.flatten(1).sum(1)

    def force(self, var):
        with torch.enable_grad():
            leaf = var.detach().clone().requires_grad_(True)
            return -torch.autograd.grad(self.action(leaf).sum(), leaf)[0]

    def log_prob(self, var, action_logz=0):
        return -self.action(var) - action_logz


class NormalPrior:
    def __init__(self, shape):
        self.shape = torch.Size(shape)

    def sample(self, batch_size=1):
        return torch.randn(batch_size, *self.shape)

    def sample_(self, batch_size=1):
        x = self.sample(batch_size)
        return x, self.log_prob(x)

    def log_prob(self, x):
        return -0.5 * (x**2 + math.log(2 * math.pi)).flatten(1).sum(1)


class Affine_(torch.nn.Module):  # an underscore for modules that return the Jacobian, as there
    """``y = mean + scale x``."""

    def __init__(self, mean, scale):
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x, log0=0):
        return self.mean + self.scale * x, log0 + math.log(self.scale) * x[0].numel() * torch.ones(len(x))

    def reverse(self, y, log0=0):
        return (y - self.mean) / self.scale, log0 - math.log(self.scale) * y[0].numel() * torch.ones(len(y))


class Posterior:
    def __init__(self, model):
        self._model = model

    def sample(self, batch_size=1, **kwargs):
        return self.sample_(batch_size=batch_size, **kwargs)[0]

    def sample_(self, batch_size=1, preprocess_func=None):
        drawn = self._model.prior.sample_(batch_size)
        x, logr = drawn if preprocess_func is None else preprocess_func(*drawn)
        y, logj = self._model.net_(x)
        return y, logr - logj

    def sample__(self, batch_size=1, **kwargs):
        y, logq = self.sample_(batch_size=batch_size, **kwargs)
        return y, logq, -self._model.action(y)

    def log_prob(self, y):
        x, minus_logj = self._model.net_.reverse(y)
        return self._model.prior.log_prob(x) + minus_logj


class MCMCSampler:
    """Independence Metropolis along the batch: a single chain."""

    def __init__(self, model):
        self._model, self._last = model, None

    @torch.no_grad()
    def sample(self, batch_size=1, **kwargs):
        return self.sample__(batch_size=batch_size, **kwargs)[0]

    @torch.no_grad()
    def sample__(self, batch_size=1, bookkeeping=False):
        chain = []
        for proposed in zip(*self._model.posterior.sample__(batch_size=batch_size), strict=True):
            _, logq, logp = proposed
            if self._last is not None and np.log(np.random.rand()) >= float(  # noqa: NPY002  # as there
                self._last[1] - self._last[2] - logq + logp
            ):
                proposed = self._last
            self._last = proposed
            chain.append(proposed)
        return tuple(torch.stack(part) for part in zip(*chain, strict=True))


class Model:
    def __init__(self, *, prior, net_, action):
        self.prior, self.net_, self.action = prior, net_, action
        self.posterior, self.mcmc = Posterior(self), MCMCSampler(self)

"""Wilson fermions written out site by site, and exact integrals of a theory of theirs on a few sites."""

import functools

import numpy as np
import torch

from dmmc.theory.phi4 import Phi4
from dmmc.theory.yukawa import Yukawa
from helpers import rng

GAMMA = (np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]))

PHI4 = Phi4.from_mass(-4.0, 6.0, 2)
YUKAWA = Yukawa(PHI4, g=1.0, m_f=0.1)


def by_hand(mass):
    """D of one field of masses ``(time, space)``, as a matrix ``(2 V, 2 V)``, spin after site."""
    time, space = mass.shape
    D = np.zeros((time, space, 2, time, space, 2))
    for t in range(time):
        for x in range(space):
            D[t, x, :, t, x, :] += (2 + mass[t, x]) * np.eye(2)
            for gamma, (dt, dx) in zip(GAMMA, ((1, 0), (0, 1)), strict=True):
                for sign in (1, -1):
                    wraps = not 0 <= t + sign * dt < time
                    to = (t + sign * dt) % time, (x + sign * dx) % space
                    D[t, x, :, to[0], to[1], :] -= (-1) ** wraps * 0.5 * (np.eye(2) - sign * gamma)
    return D.reshape(2 * mass.size, 2 * mass.size)


def action_by_hand(phi, action=YUKAWA):
    """S of fields ``(n, time, space)``, as an array."""
    matrices = np.stack([by_hand(action.m_f + action.g * field) for field in phi.numpy()])
    return action.action(phi).numpy() - 2 * np.linalg.slogdet(matrices)[1]


def matrices(phi):
    """D of many fields of few sites ``(n, time, space)``."""
    sites = phi[0].numel()
    found, index = np.tile(by_hand(np.zeros(phi.shape[1:])), (len(phi), 1, 1)), np.arange(2 * sites)
    found[:, index, index] += np.repeat(YUKAWA.m_f + YUKAWA.g * phi.flatten(1).numpy(), 2, axis=1)
    return found


def quickly(phi):
    """S of many fields of few sites, by NumPy alone."""
    return PHI4(phi) - 2 * torch.from_numpy(np.linalg.slogdet(matrices(phi))[1])


@functools.cache
def grid(shape, half_width=1.6, n=17):
    """All fields of a few sites on a grid, their probabilities, and their condensates; the trapezoidal rule."""
    axis, sites = torch.linspace(-half_width, half_width, n, dtype=torch.float64), shape[0] * shape[1]
    phi = torch.cartesian_prod(*[axis] * sites).view(-1, *shape)
    trace = np.trace(np.linalg.inv(matrices(phi)), axis1=1, axis2=2)
    return phi, torch.softmax(-quickly(phi), 0), torch.from_numpy(-2 * trace / sites)


@functools.cache
def draws(n=20_000):
    """Independent fields on two sites, ``(n, 2, 1)``, by rejection from a box."""
    generator, found, missing, half_width = rng(3), [], n, 2.0
    axis = torch.linspace(-half_width, half_width, 161, dtype=torch.float64)
    bound = float(quickly(torch.cartesian_prod(axis, axis).view(-1, 2, 1)).min()) - 0.05
    while missing > 0:
        u = torch.rand(5 * n, 3, generator=generator, dtype=torch.float64)
        phi = half_width * (2 * u[:, 1:] - 1).view(-1, 2, 1)
        density = torch.exp(bound - quickly(phi))
        assert float(density.max()) < 1
        found.append(phi[u[:, 0] < density])
        missing -= len(found[-1])
    return torch.cat(found)[:n]

"""Whether kernels agree with a known truth, in all observables at once and with all covariances.

Errors are from the scatter of the chains, which are independent of each other: no window is needed, and the covariance
of all observables of a kernel comes with them. Biases are differences from the truth, whose error all kernels share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.studies.exactness.table import OBSERVABLES
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Estimates of :data:`OBSERVABLES` with their covariance.

    Attributes:
        values: ``(6,)``.
        covariance: of the estimates, ``(6, 6)``; zero where they are known exactly.
        n: independent chains from which the covariance was estimated; 0 where it is known.
    """

    values: Array
    covariance: Array
    n: int


def means(record: Mapping[str, Array]) -> Means:
    """From the record of independent chains: the covariance is that of the chain means, U_L being linearised.

    Args:
        record: M, abs_M, M2, M4, S_per_site ``(chain, draw)`` and two_point ``(chain, draw, orbit)``.
    """
    plain = {name: record[name].mean(1) for name in ("M", "abs_M", "M2", "M4", "S_per_site")}
    columns = {**plain, "G_min": record["two_point"][:, :, 1].mean(1)}
    m2, m4 = columns["M2"].mean(), columns["M4"].mean()
    binder = 1 - m4 / (3 * m2**2)
    columns["binder"] = binder + 2 * m4 * (columns["M2"] - m2) / (3 * m2**3) - (columns["M4"] - m4) / (3 * m2**2)
    by_chain = np.stack([columns[name] for name in OBSERVABLES], 1)
    n = len(by_chain)
    return Means(by_chain.mean(0), np.cov(by_chain, rowvar=False) / n, n)


def quadrature(action: Action, lattice: Lattice) -> Means:
    """The exact values on two sites, by the trapezoidal rule (which converges faster than any power here).

    Raises:
        DmmcError: on more sites.
    """
    if lattice.volume != 2:
        raise DmmcError(f"quadrature is for two sites, not {lattice.volume}")
    half_width = 1.0
    while True:  # until exp(-S) is nothing on the edge of the square
        edge = torch.linspace(-half_width, half_width, 201, dtype=torch.float64)
        side = torch.full_like(edge, half_width)
        S = action(torch.stack([edge, side], 1).view(-1, *lattice.shape))
        inside = action(torch.cartesian_prod(edge, edge).view(-1, *lattice.shape))
        if float(S.min() - inside.min()) > 45:
            break
        half_width *= 1.25
    axis = torch.linspace(-half_width, half_width, 801, dtype=torch.float64)
    phi = torch.cartesian_prod(axis, axis).view(-1, *lattice.shape)
    S = action(phi)
    p = torch.softmax(-S, 0)
    found = {
        name: float((p @ x) if x.ndim == 1 else p @ x[:, 1])
        for name, x in measure(phi, S, lattice).items()
    }  # fmt: skip
    found |= {"G_min": found["two_point"], "binder": 1 - found["M4"] / (3 * found["M2"] ** 2)}
    return odd_is_zero(Means(np.array([found[name] for name in OBSERVABLES]), np.zeros((6, 6)), 0))


def odd_is_zero(truth: Means) -> Means:
    """``<M> = 0`` without an error, by the symmetry of the action."""
    values, covariance, odd = truth.values.copy(), truth.covariance.copy(), OBSERVABLES.index("M")
    values[odd] = covariance[odd] = covariance[:, odd] = 0
    return Means(values, covariance, truth.n)


@dataclass(frozen=True)
class Agreement:
    """Whether kernels agree with the truth in everything.

    Attributes:
        chi2: of all observables of all kernels, with all their covariances.
        dof: its degrees of freedom.
        p_value: probability of a larger one, if all agree.
        sigma: how far a normal number must be off, on either side, to be as improbable.
    """

    chi2: float
    dof: int
    p_value: float
    sigma: float


def agreement(kernels: Sequence[Means], truth: Means) -> Agreement:
    """Chi^2 of the differences from the truth.

    Differences of kernel i and j have the covariance ``delta_ij C_i + C_truth``: observables of one kernel are
    correlated through its chains, those of different kernels through the truth. The C are estimates, from n chains, and
    the inverse of one is too large by ``(n - 1) / (n - k - 2)`` for k observables (Hartlap et al., Astron. Astrophys.
    464 (2007) 399); divided by that, chi^2 has the right mean.

    Raises:
        DmmcError: without a kernel.
    """
    if not kernels:
        raise DmmcError("there is no exact kernel to compare")
    k = len(truth.values)
    difference = np.concatenate([kernel.values - truth.values for kernel in kernels])
    covariance = np.tile(truth.covariance, (len(kernels), len(kernels)))
    for i, kernel in enumerate(kernels):
        block = slice(i * k, (i + 1) * k)
        covariance[block, block] += kernel.covariance
    scale = np.sqrt(np.diag(covariance))
    # In these units eigenvalues compare; one that is nothing belongs to observables that depend on each other.
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    independent = eigenvalues > 1e-10 * eigenvalues[-1]
    z = (difference / scale) @ vectors[:, independent]
    n = min((kernel.n for kernel in kernels if kernel.n), default=0)
    hartlap = (n - k - 2) / (n - 1) if n else 1.0
    chi2, dof = hartlap * float((z**2 / eigenvalues[independent]).sum()), int(independent.sum())
    return Agreement(chi2, dof, float(scipy.stats.chi2.sf(chi2, dof)), _sigma(chi2, dof))


def _sigma(chi2: float, dof: int) -> float:
    log_p = float(scipy.stats.chi2.logsf(chi2, dof))
    if math.isinf(log_p):  # too small for a number: the first term of the asymptotic series
        log_p = -chi2 / 2 + (dof / 2 - 1) * math.log(chi2 / 2) - math.lgamma(dof / 2)
    return max(0.0, -float(scipy.special.ndtri_exp(log_p - math.log(2))))

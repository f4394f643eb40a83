"""Whether kernels agree with a known truth, in all observables at once and with all covariances.

Errors come from the scatter of the chains, which are independent of each other: no window is needed, and the covariance
of all observables of a kernel is known as well. Biases are differences from the truth, whose error all kernels share.

Sums are taken by NumPy's own loops, whose order depends on the shape of an array alone, and not by a BLAS, which is
free to choose the order by the alignment of the memory and the number of threads. The values, errors and biases of a
run are therefore the same to the bit whenever it is analysed. Chi^2 takes the eigenvalues of a matrix from LAPACK, and
is reproduced to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record

Array = NDArray[np.float64]

OBSERVABLES = ("M", "abs_M", "M2", "binder", "S_per_site", "G_min")
"""What is compared with the truth. ``G_min`` is the two-point function at the smallest nonzero momentum."""

SEEN = 5.0
"""A variant counts as seen to be wrong from so many standard deviations of a normal number on; p = 5.7e-7."""

_DEPENDENT = 1e-10
"""Eigenvalues of a correlation matrix below this part of the largest belong to observables that depend on others."""


@dataclass(frozen=True)
class Means:
    """Estimates of :data:`OBSERVABLES` with their covariance.

    Attributes:
        values: ``(6,)``.
        covariance: covariance of the estimates, ``(6, 6)``; zero where they are known exactly.
        n: independent chains from which the covariance was estimated; 0 where it is known.
    """

    values: Array
    covariance: Array
    n: int

    @property
    def errors(self) -> Array:
        """Standard errors, ``(6,)``."""
        return np.sqrt(np.diag(self.covariance))


def means(record: Mapping[str, Array]) -> Means:
    """Estimates from the record of independent chains.

    The covariance is that of the means of the chains; the Binder cumulant is linearised.

    Args:
        record: M, abs_M, M2, M4, S_per_site ``(chain, draw)`` and two_point ``(chain, draw, orbit)``.
    """
    columns = {name: _by_chain(record[name]) for name in ("M", "abs_M", "M2", "M4", "S_per_site")}
    columns["G_min"] = _by_chain(record["two_point"][:, :, 1])
    m2, m4 = columns["M2"].mean(), columns["M4"].mean()
    binder = 1 - m4 / (3 * m2**2)
    columns["binder"] = binder + 2 * m4 * (columns["M2"] - m2) / (3 * m2**3) - (columns["M4"] - m4) / (3 * m2**2)
    x = np.stack([columns[name] for name in OBSERVABLES], 1)
    n = len(x)
    deviation = x - x.mean(0)
    products = deviation[:, :, None] * deviation[:, None, :]
    return Means(x.mean(0), products.sum(0) / ((n - 1) * n), n)


def _by_chain(x: Array) -> Array:
    """The mean of each chain, ``(chain, draw) -> (chain,)``."""
    return np.ascontiguousarray(x).mean(1)


@dataclass(frozen=True)
class Agreement(Record):
    """Whether kernels agree with the truth in everything.

    Attributes:
        chi2: chi^2 of all observables of all kernels, with all their covariances.
        dof: its degrees of freedom.
        p_value: probability of a larger chi^2 if all agree.
        sigma: how many standard deviations a normal number must be off, on either side, to be as improbable.
    """

    chi2: float
    dof: int
    p_value: float
    sigma: float


def agreement(kernels: Sequence[Means], truth: Means) -> Agreement:
    """Chi^2 of the differences from the truth.

    Differences of kernel i and j have the covariance ``delta_ij C_i + C_truth``: observables of one kernel are
    correlated through its chains, those of different kernels through the truth. The C are estimates from n chains, and
    the inverse of one is too large by ``(n - 1) / (n - k - 2)`` for k observables (Hartlap et al., Astron. Astrophys.
    464 (2007) 399); divided by that, chi^2 has the right mean.

    Raises:
        DmmcError: if there is no kernel.
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
    # In units of the errors eigenvalues can be compared.
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    independent = eigenvalues > _DEPENDENT * eigenvalues[-1]
    z = ((difference / scale)[:, None] * vectors[:, independent]).sum(0)
    n = min((kernel.n for kernel in kernels if kernel.n), default=0)
    hartlap = (n - k - 2) / (n - 1) if n else 1.0
    chi2, dof = hartlap * float((z**2 / eigenvalues[independent]).sum()), int(independent.sum())
    return Agreement(chi2, dof, float(scipy.stats.chi2.sf(chi2, dof)), _sigma(chi2, dof))


def _sigma(chi2: float, dof: int) -> float:
    log_p = float(scipy.stats.chi2.logsf(chi2, dof))
    if math.isinf(log_p):  # p is too small for a number: the first term of the asymptotic series
        log_p = -chi2 / 2 + (dof / 2 - 1) * math.log(chi2 / 2) - math.lgamma(dof / 2)
    return max(0.0, -float(scipy.special.ndtri_exp(log_p - math.log(2))))


@dataclass(frozen=True)
class BiasResult(Record):
    """One observable of one variant, compared with the truth.

    Attributes:
        value: what the variant finds.
        error: standard error of that.
        bias: the difference from the truth.
        bias_error: standard error of the difference, which includes that of the truth.
        z: the difference in standard errors.
        relative: the difference divided by the size of the observable, which is the true value, or for ``M`` that of
            ``abs_M``, since ``<M>`` is often zero; None where this size is zero.
        relative_error: standard error of that.
    """

    value: float
    error: float
    bias: float
    bias_error: float
    z: float
    relative: float | None
    relative_error: float | None


def biases(estimates: Means, truth: Means) -> dict[str, BiasResult]:
    """The comparison of every observable with the truth, by name.

    Raises:
        DmmcError: if an observable does not fluctuate at all, so that it has no error.
    """
    size = np.abs(truth.values)
    size[OBSERVABLES.index("M")] = size[OBSERVABLES.index("abs_M")]
    errors, bias_errors = estimates.errors, np.sqrt(np.diag(estimates.covariance + truth.covariance))
    compared = {}
    for k, name in enumerate(OBSERVABLES):
        bias, error, unit = float(estimates.values[k] - truth.values[k]), float(bias_errors[k]), float(size[k])
        if not error > 0:
            raise DmmcError(f"{name} is the same in all chains, so it has no error; the chains do not move")
        compared[name] = BiasResult(
            value=float(estimates.values[k]),
            error=float(errors[k]),
            bias=bias,
            bias_error=error,
            z=bias / error,
            relative=bias / unit if unit else None,
            relative_error=error / unit if unit else None,
        )
    return compared

"""Cumulants (connected n-point functions at one point) of a record, by k-statistics with jackknife errors.

The cumulants are the derivatives of ``W(J) = ln <exp(J x)>`` at J = 0. With ``x = a x_0 + s eps`` and standard normal
noise eps, independent of x_0, ``W(J) = W_0(a J) + s^2 J^2 / 2``, so that

    kappa_2 = a^2 kappa_2(0) + s^2,    kappa_n = a^n kappa_n(0)    for n > 2.

That is what the forward process of a diffusion model does to them (Aarts, Habibi, Wang, Zhou, 2410.21212): with a = 1
(variance-expanding) they are conserved, and with ``a^2 = 1 - s^2`` (variance-preserving) they decay.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count
from dmmc.diagnostics.resampling import Jackknife, jackknife

HIGHEST = 8
"""Highest order of a cumulant that is estimated from a record."""

Partition = tuple[int, ...]


def cumulants_of_moments(moments: Sequence[float]) -> list[float]:
    """The cumulants ``kappa_1, ..., kappa_n`` that belong to the moments ``<x>, ..., <x^n>``.

    ``kappa_n = m_n - sum_k binomial(n - 1, k - 1) kappa_k m_(n-k)``, k from 1 to n - 1.
    """
    kappa: list[float] = []
    for n in range(1, len(moments) + 1):
        known = sum(math.comb(n - 1, k - 1) * kappa[k - 1] * moments[n - k - 1] for k in range(1, n))
        kappa.append(moments[n - 1] - known)
    return kappa


def noised_cumulants(kappa: Sequence[float], a: float, s: float) -> list[float]:
    """The cumulants of ``a x + s eps`` with standard normal eps, from ``kappa_1, kappa_2, ...`` of x."""
    return [a**n * value + (s * s if n == 2 else 0.0) for n, value in enumerate(kappa, 1)]


def k_statistic(order: int, means: Sequence[float], n: int) -> float:
    """The unbiased estimate of a cumulant from n independent draws (Fisher, Proc. London Math. Soc. 30 (1929) 199).

    Args:
        order: of the cumulant, 1 to :data:`HIGHEST`.
        means: the sample means of ``x, x^2, ..., x^order``.
        n: number of draws, at least ``order``.

    Raises:
        DmmcError: if ``order`` is out of its range, or there are too few draws or means.
    """
    if len(means) < check_count(order, "the order of a cumulant", maximum=HIGHEST):
        raise DmmcError(f"a k-statistic of order {order} needs the means of {order} powers, got {len(means)}")
    return _estimator(order, n)(*means[:order])


def cumulant(x: ArrayLike, order: int, block_size: int | None = None, name: str = "series") -> Jackknife:
    """A cumulant of a record with its jackknife error.

    The k-statistic is taken of all values together. Without autocorrelation it is unbiased; with it the bias is of
    order tau_int / n, which ``bias`` of the result estimates.

    Args:
        x: the record, ``(chain, draw)``, or ``(chain, draw, ...)`` with several values of one variable in each draw,
            such as the field at all sites of a lattice.
        order: of the cumulant, 1 to :data:`HIGHEST`.
        block_size: draws in a block of the jackknife, by default as in :func:`~dmmc.diagnostics.jackknife`.
        name: what messages call the quantity.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.jackknife` and :func:`k_statistic`.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim < 2 or not np.isfinite(values).all():
        raise DmmcError(f"the {name} must be finite numbers (chain, draw) or (chain, draw, ...), got {values.shape}")
    # Cumulants do not see a shift, and scale with the unit: near zero, and of unit size, their terms cancel least.
    shift, unit = float(values.mean()), float(values.std()) or 1.0
    values = ((values - shift) / unit).reshape(*values.shape[:2], -1)
    columns = [(values**power).mean(2) for power in range(1, check_count(order, "order", maximum=HIGHEST) + 1)]
    # Without one block there are fewer draws; that the estimator is told the same n matters to order 1 / n^2.
    found = jackknife(_estimator(order, values.size), columns, block_size, f"cumulant {order} of the {name}")
    size = unit**order
    value = found.value * size + (shift if order == 1 else 0.0)
    return replace(found, value=value, error=found.error * size, bias=found.bias * size)


def _estimator(order: int, n: int) -> Callable[..., float]:
    """The k-statistic as a function of the means of the powers."""
    if n < order:
        raise DmmcError(f"a k-statistic of order {order} needs at least {order} draws, got {n}")
    weights: defaultdict[Partition, float] = defaultdict(float)
    for powers, parts, coefficient in _terms(order):
        weights[powers] += coefficient * n ** len(powers) / math.perm(n, parts)

    def estimate(*means: float) -> float:
        return math.fsum(weight * math.prod(means[power - 1] for power in powers) for powers, weight in weights.items())

    return estimate


@functools.cache
def _terms(order: int) -> tuple[tuple[Partition, int, int], ...]:
    """The k-statistic as a sum of ``coefficient prod_i p(power_i) / n (n-1) ... (n - parts + 1)``, p the power sums.

    The cumulant is a sum over the partitions of its order of products of moments. Each product is estimated without
    bias by the mean over different draws, and the sum over different draws is one over all draws, less those where
    some coincide.
    """
    terms = []
    for parts in _partitions(order, order):
        repeated = math.prod(math.factorial(m) for m in Counter(parts).values())
        orders = math.prod(math.factorial(part) for part in parts)
        sign = (-1) ** (len(parts) - 1)
        coefficient = sign * math.factorial(len(parts) - 1) * math.factorial(order) // (orders * repeated)
        terms += [(powers, len(parts), coefficient * m) for powers, m in _coinciding(parts).items()]
    return tuple(terms)


def _partitions(n: int, largest: int) -> Iterator[Partition]:
    if n == 0:
        yield ()
    for first in range(min(n, largest), 0, -1):
        for rest in _partitions(n - first, first):
            yield (first, *rest)


def _coinciding(parts: Partition) -> Counter[Partition]:
    """``sum over different i, j, ... of x_i^a x_j^b ...`` as products of power sums, with integer coefficients."""
    blocks: Counter[tuple[tuple[int, int], ...]] = Counter({(): 1})  # power and size of each block of equal indices
    for part in parts:
        longer: Counter[tuple[tuple[int, int], ...]] = Counter()
        for known, m in blocks.items():
            longer[tuple(sorted((*known, (part, 1))))] += m
            for k, (power, size) in enumerate(known):
                joined = (*known[:k], (power + part, size + 1), *known[k + 1 :])
                longer[tuple(sorted(joined))] -= m * size
        blocks = longer
    sums: Counter[Partition] = Counter()
    for known, m in blocks.items():
        sums[tuple(power for power, _ in known)] += m
    return sums

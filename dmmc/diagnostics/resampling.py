"""Errors from blocks of draws: blocking of a mean, and the jackknife for functions of means.

A block is a stretch of successive draws of one chain; blocks much longer than tau_int are independent. Both methods
are checks of the Gamma method, which makes better use of a record: with blocks of b draws the squared error is too
small by a fraction of about ``tau_int / b``, and it fluctuates by a fraction of ``sqrt(2 b / n)``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, evaluate, format_value, gamma_derived, gamma_method
from dmmc.diagnostics.series import as_series, scaled

Array = NDArray[np.float64]

# With fewer blocks the error is known to no better than a quarter.
FEW_BLOCKS = 10


def block_starts(chains: int, draws: int, size: int) -> NDArray[np.int64]:
    """First index of each block in the flattened record; lengths differ by one draw if ``size`` does not fit."""
    if not 1 <= size <= draws:
        raise DmmcError(f"block size must be from 1 to {draws} (draws per chain), got {size}")
    starts = np.linspace(0, draws, draws // size + 1)[:-1].astype(np.int64)
    return np.asarray((draws * np.arange(chains)[:, None] + starts).ravel())


@dataclass(frozen=True)
class Blocking:
    """Error of a mean as a function of the block size; see :func:`blocking`.

    Attributes:
        size: block sizes b in draws, ``(n_sizes,)``.
        error: standard error of the mean from blocks of that size, ``(n_sizes,)``.
        error_error: its own standard error, ``error / sqrt(2 (n_blocks - 1))``.
        n_blocks: number of blocks in all chains together, ``(n_sizes,)``.
    """

    size: NDArray[np.int64]
    error: Array
    error_error: Array
    n_blocks: NDArray[np.int64]

    @property
    def tau_int(self) -> Array:
        """``error^2 / (2 error(b=1)^2)`` in draws: it rises to tau_int in the lattice convention (1/2 if white)."""
        ratio = self.error / self.error[0] if self.size[0] == 1 else np.full(len(self.size), math.nan)
        return np.asarray(ratio**2 / 2)


def blocking(x: ArrayLike, sizes: Sequence[int] | None = None, name: str = "series") -> Blocking:
    """Standard error of a mean from block averages, for a range of block sizes.

    It rises with the size and reaches a plateau where blocks are independent: Flyvbjerg and Petersen, J. Chem. Phys.
    91 (1989) 461. A curve without a plateau means that the chain is too short. Fluctuations are taken about the mean of
    all chains, so that the curve of chains which disagree rises to its end.

    Args:
        x: the record, ``(chain, draw)``.
        sizes: block sizes in draws; by default powers of two, as long as there are at least 10 blocks.
        name: what messages call the series.

    Returns:
        The curve; the errors of a constant series are nan, with a warning. Warnings are those of
        :func:`~dmmc.diagnostics.gamma_method`.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.gamma_method`; also if a size is not from 1 to the number of draws, or
            leaves a single block.
    """
    series, unit = scaled(as_series(x, name))
    chains, draws = series.shape
    constant = math.isnan(gamma_method(series, name=name).error)
    if sizes is None:
        powers = [1 << k for k in range(draws.bit_length())]
        sizes = [size for size in powers if size == 1 or chains * (draws // size) >= FEW_BLOCKS]
    delta = (series - series.mean()).ravel()
    error, n_blocks = np.full(len(sizes), math.nan), np.zeros(len(sizes), dtype=np.int64)
    for k, size in enumerate(sizes):
        starts = block_starts(chains, draws, size)
        n_blocks[k] = len(starts)
        if len(starts) < 2:
            raise DmmcError(f"blocks of {size} draws leave a single one; use smaller blocks")
        if not constant:
            sums = np.add.reduceat(delta, starts)
            error[k] = unit * math.sqrt(float(np.square(sums).sum()) * len(starts) / (len(starts) - 1)) / series.size
    return Blocking(np.array(sizes, dtype=np.int64), error, error / np.sqrt(2 * (n_blocks - 1)), n_blocks)


@dataclass(frozen=True)
class Jackknife:
    """A function of means with its jackknife error; see :func:`jackknife`.

    Attributes:
        value: the function at the means of the whole record.
        error: its standard error; nan if it is not known.
        bias: estimate of the bias of ``value``, of order 1/n.
        block_size: draws per block.
        n_blocks: number of blocks in all chains together.
    """

    value: float
    error: float
    bias: float
    block_size: int
    n_blocks: int

    @property
    def corrected(self) -> float:
        """``value - bias``, without the bias of order 1/n. Useful only if the bias is not far below the error."""
        return self.value - self.bias

    @property
    def error_error(self) -> float:
        """Standard error of ``error``, from the number of blocks: ``error / sqrt(2 (n_blocks - 1))``."""
        return self.error / math.sqrt(2 * (self.n_blocks - 1)) if self.n_blocks > 1 else math.nan

    def __str__(self) -> str:
        return format_value(self.value, self.error)


def jackknife(
    function: Callable[..., float],
    columns: Sequence[ArrayLike],
    block_size: int | None = None,
    name: str = "derived quantity",
) -> Jackknife:
    """A function of several means, ``F(<a_1>, <a_2>, ...)``, with its error and bias from leaving out one block each.

    Args:
        function: takes one float for each column.
        columns: the records, ``(chain, draw)`` each, all of the same shape and from the same draws.
        block_size: draws per block. By default ``(tau_int^2 n)^(1/3)``, which keeps both the bias of the error,
            ``tau_int / 2b``, and its fluctuation, ``sqrt(b / 2n)``, small; tau_int is that of F by the Gamma method.
        name: what messages call the quantity.

    Returns:
        Value, error and bias (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982). All are nan, with
        a warning, if F is not defined at the means or without one of the blocks; the error of a constant is nan. Other
        warnings are those of :func:`~dmmc.diagnostics.gamma_derived`, and one for fewer than 10 blocks or blocks
        shorter than 2 tau_int.

    Raises:
        DmmcError: as :func:`~dmmc.diagnostics.gamma_derived`; also if ``block_size`` is not from 1 to the number of
            draws.
    """
    estimate = gamma_derived(function, columns, name=name)
    series = [as_series(column) for column in columns]
    chains, draws = series[0].shape
    n = chains * draws
    if block_size is None:
        tau = 0.5 if math.isnan(estimate.tau_int) else max(estimate.tau_int, 0.5)
        block_size = min(math.ceil((tau * tau * n) ** (1 / 3)), draws)
    starts = block_starts(chains, draws, block_size)
    n_blocks = len(starts)
    if math.isnan(estimate.error) or n_blocks < 2:
        if n_blocks < 2:
            warnings.warn(
                f"{name}: a single block has no jackknife error; run longer", DiagnosticsWarning, stacklevel=2
            )
        return Jackknife(estimate.value, math.nan, math.nan, block_size, n_blocks)
    if n_blocks < FEW_BLOCKS or block_size < 2 * estimate.tau_int:
        warnings.warn(
            f"{name}: {n_blocks} blocks of {block_size} draws, tau_int {estimate.tau_int:.3g}; the error is unreliable "
            f"with fewer than {FEW_BLOCKS} blocks or blocks below 2 tau_int",
            DiagnosticsWarning,
            stacklevel=2,
        )
    left = n - np.diff(starts, append=n)
    means = [(column.sum() - np.add.reduceat(column.ravel(), starts)) / left for column in series]
    values = np.array([evaluate(function, *row) for row in np.stack(means, axis=1).tolist()])
    if not np.isfinite(values).all():
        warnings.warn(
            f"{name} is not defined without one of the {n_blocks} blocks; more statistics or a larger signal is needed",
            DiagnosticsWarning,
            stacklevel=2,
        )
        return Jackknife(math.nan, math.nan, math.nan, block_size, n_blocks)
    error = math.sqrt((n_blocks - 1) * float(values.var()))
    bias = (n_blocks - 1) * (float(values.mean()) - estimate.value)
    return Jackknife(estimate.value, error, bias, block_size, n_blocks)

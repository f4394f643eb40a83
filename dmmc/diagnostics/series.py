"""The one door through which records come in: arrays of any library become checked NumPy arrays ``(chain, draw)``.

NumPy's own loops add numbers in an order that depends on the shape of an array and on its layout in memory. Arrays
therefore leave this door in C order, and :mod:`dmmc.diagnostics` sums them in these loops: a BLAS would choose the
order by the number of threads. What a series says is then the same to the bit, wherever it came from and whenever it is
analysed. (Fits of power laws and polynomials use LAPACK, and are reproduced to rounding.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError

Array = NDArray[np.float64]

MIN_DRAWS = 4

FEW_DRAWS = 10
"""Chains shorter than this, and more of them than draws, are more often a transposed array than meant."""

CORRELATED = 4.0
"""Standard deviations of the correlation of independent neighbours: more comes up by chance in 1 of 30,000 series."""


def as_array(x: ArrayLike, name: str = "array") -> NDArray[Any]:
    """``x`` as a NumPy array of real numbers in C order, whatever library it comes from.

    Takes NumPy arrays, lists, xarray's arrays, and torch's tensors on any device, also those that require gradients.

    Args:
        x: numbers of any shape.
        name: what messages call them.

    Raises:
        DmmcError: if they are not real numbers, a mask hides some of them, or lists in a list differ in length; if the
            array names its dimensions (as xarray does), and the draws come before the chains.
    """
    dims = tuple(getattr(x, "dims", ()))
    if {"chain", "draw"} <= set(dims) and dims.index("draw") < dims.index("chain"):
        raise DmmcError(
            f'{name} has dimensions {dims}; transpose it to (chain, draw): x.transpose("chain", "draw", ...)'
        )
    try:
        values: Any = [_unwrapped(part) for part in x] if isinstance(x, (list, tuple)) else _unwrapped(x)
        masked = np.ma.is_masked(values) or (isinstance(values, list) and any(map(np.ma.is_masked, values)))
        array = np.asarray(values, order="C")
    except (ValueError, TypeError, RuntimeError) as error:
        raise DmmcError(
            f"{name} is not a rectangular array of numbers [{str(error).splitlines()[0]}]; cut all chains to the same "
            "number of draws"
        ) from None
    if masked:
        raise DmmcError(f"{name} has masked values; fill them, or remove the chains that have them")
    if array.dtype.kind not in "fiub":
        raise DmmcError(f"{name} must be real numbers, got {array.dtype}")
    return array


def _unwrapped(x: Any) -> Any:
    """A tensor of torch, which is not imported here, as a NumPy array; anything else as it is."""
    if not hasattr(x, "detach"):
        return x
    x = x.detach().cpu()
    # NumPy has no bfloat16.
    return (x.double() if x.is_floating_point() else x).numpy()


def as_series(x: ArrayLike, name: str = "series") -> Array:
    """Check the record of one observable and return it as float64 ``(chain, draw)`` in C order.

    Args:
        x: as for :func:`as_array`.
        name: what messages call the series.

    Raises:
        DmmcError: as :func:`as_array`; also if it is not a finite, two-dimensional array of at least four draws per
            chain.
    """
    array = as_array(x, name)
    if array.ndim != 2:
        raise DmmcError(f"{name} must have shape (chain, draw), got {array.shape}; a single chain is x[None, :]")
    chains, draws = array.shape
    if chains < 1 or draws < MIN_DRAWS:
        advice = "if its axes are (draw, chain), transpose it" if chains > MIN_DRAWS > draws else "run longer"
        raise DmmcError(f"{name} has shape {array.shape}; at least {MIN_DRAWS} draws per chain are needed, {advice}")
    # Requirement A: numbers that do not lie at multiples of their size are summed in another order.
    array = np.require(array, np.float64, ("C", "A"))
    if not np.isfinite(array).all():
        raise DmmcError(f"{name} has NaN or infinite values; find the draws that made them and remove the chain")
    return array


def transposed(series: Array) -> str:
    """Says why the axes of a series look like (draw, chain); empty if they do not.

    Successive draws of a chain resemble each other, and neighbouring chains do not. The correlation of neighbours among
    n independent chains has a standard deviation of at most ``1 / sqrt(n)``, whatever they are. Nothing is said of a
    series with at least as many draws as chains.
    """
    chains, draws = series.shape
    if chains <= draws:
        return ""
    text = f"it was read as {chains} chains of {draws} draws"
    delta = series - series.mean(axis=0)  # less what all chains have in common, such as a drift from one start
    power = float(np.square(delta).sum())
    correlation = float((delta[1:] * delta[:-1]).sum()) / power if power > 0 else 0.0
    if correlation > CORRELATED / math.sqrt(chains):
        text += f", and neighbouring chains are as alike as successive draws (correlation {correlation:.2f})"
    elif draws >= FEW_DRAWS:
        return ""
    return f"{text}; if its axes are (draw, chain), transpose it"


def largest(series: Array) -> float:
    """The largest absolute value."""
    return max(float(series.max()), -float(series.min()))


def scaled(series: Array) -> tuple[Array, float]:
    """The series in units of a power of two near its largest value, and this unit.

    The units change no digit, and squares of the scaled series neither overflow nor vanish.
    """
    unit = math.ldexp(1.0, max(min(math.frexp(largest(series))[1], 1000), -1000))
    # The ordinary case is spared a copy.
    return (series, 1.0) if 1e-60 < unit < 1e60 or unit == 0 else (series / unit, unit)

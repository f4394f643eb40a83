"""The one door through which records come in: arrays of any library become checked NumPy arrays ``(chain, draw)``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError

Array = NDArray[np.float64]

MIN_DRAWS = 4


def as_array(x: ArrayLike, name: str = "array") -> NDArray[Any]:
    """``x`` as a NumPy array of real numbers, whatever library it comes from.

    Takes NumPy arrays, lists, xarray's arrays, and torch's tensors on any device, also those that require gradients.

    Args:
        x: numbers of any shape.
        name: what messages call them.

    Raises:
        DmmcError: if they are not real numbers, a mask hides some of them, or lists in a list differ in length.
    """
    values: Any = x
    if hasattr(values, "detach"):  # a tensor of torch, which is not imported here
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.double()  # NumPy has no bfloat16
    if np.ma.is_masked(values):
        raise DmmcError(f"{name} has masked values; fill them, or remove the chains that have them")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DmmcError(
            f"{name} is not a rectangular array of numbers [{error}]; cut all chains to the same number of draws"
        ) from None
    if array.dtype.kind not in "fiub":
        raise DmmcError(f"{name} must be real numbers, got {array.dtype}")
    return array


def as_series(x: ArrayLike, name: str = "series") -> Array:
    """Check the record of one observable and return it as float64 ``(chain, draw)``.

    Args:
        x: as for :func:`as_array`.
        name: what messages call the series.

    Raises:
        DmmcError: if it is not a real, finite, two-dimensional array of at least four draws per chain, or if it names
            its dimensions (as xarray does) and they are not in the order chain, draw.
    """
    dims = tuple(getattr(x, "dims", ()))
    if {"chain", "draw"} <= set(dims) and dims.index("draw") < dims.index("chain"):
        raise DmmcError(f'{name} has dimensions {dims}; transpose it to (chain, draw): x.transpose("chain", "draw")')
    array = as_array(x, name)
    if array.ndim != 2:
        raise DmmcError(f"{name} must have shape (chain, draw), got {array.shape}; a single chain is x[None, :]")
    chains, draws = array.shape
    if chains < 1 or draws < MIN_DRAWS:
        advice = "if its axes are (draw, chain), transpose it" if chains > MIN_DRAWS > draws else "run longer"
        raise DmmcError(f"{name} has shape {array.shape}; at least {MIN_DRAWS} draws per chain are needed, {advice}")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise DmmcError(f"{name} has NaN or infinite values; find the draws that made them and remove the chain")
    return array


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

"""Arrays that a user brings: of NumPy, lists, and whatever else says how it becomes an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError


def array_of(source: Any, what: str) -> NDArray[Any]:
    """The ordinary array of numbers that something stands for.

    Args:
        source: an array of any kind, nested lists, or an object that NumPy makes an array of.
        what: what messages call it.

    Raises:
        DmmcError: if it is no array of numbers, or some of its values are masked.
    """
    if np.ma.is_masked(source):
        raise DmmcError(f"{what} has masked values; leave out the configurations that have any")
    try:
        array = np.asarray(source)
    except Exception as error:  # whatever an object of another library raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DmmcError(
            f"{what} must be an array of numbers with as many in each row, and NumPy makes none of it [{reason}]"
        ) from None
    if array.dtype.kind not in "biufc":
        raise DmmcError(f"{what} must be an array of numbers with as many in each row, got {array.dtype}")
    return array


def float64_of(array: NDArray[Any]) -> NDArray[np.float64]:
    """Real numbers as float64 of this machine, in C order and writable; a copy only where it must be one.

    What is too large becomes infinite.
    """
    with np.errstate(over="ignore"):
        return np.require(array, np.float64, ["C", "W"])

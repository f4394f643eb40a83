"""The propagator in momentum space, with errors, from the recorded two-point function."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.diagnostics.series import as_array

Array = NDArray[np.float64]

ENOUGH_CHAINS = 64
"""The scatter of this many chain means gives an error that is itself good to a tenth."""


def propagator(two_point: ArrayLike) -> tuple[Array, Array]:
    """``G(p) = <|phi(p)|^2>`` and its standard error, ``(n_orbits,)`` each.

    The error is from the scatter of the chains, or from the Gamma method where there are few of them.

    Args:
        two_point: the record of ``|phi(p)|^2``, ``(chain, draw, orbit)``.

    Raises:
        DmmcError: if it has another shape.
    """
    record = as_array(two_point, "two_point")
    if record.ndim != 3:
        raise DmmcError(f"two_point must have shape (chain, draw, orbit), got {record.shape}")
    by_chain = record.mean(axis=1)
    if len(record) >= ENOUGH_CHAINS:
        error = by_chain.std(axis=0, ddof=1) / math.sqrt(len(record))
    else:
        error = np.array([resolved_tau(record[..., k])[0].error for k in range(record.shape[-1])])
    return by_chain.mean(axis=0), error

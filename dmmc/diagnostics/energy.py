"""Energy errors dH of HMC trajectories."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.diagnostics.series import as_array

DIVERGED = 1000.0
"""``|dH|`` above which a trajectory ran away, as in Stan and PyMC; its square says nothing about the others."""


def ran_away(dH: ArrayLike) -> NDArray[np.bool_]:
    """Whether each trajectory ran away: dH is not finite, or beyond :data:`DIVERGED`; the shape of ``dH``."""
    return np.asarray(np.abs(np.nan_to_num(_as_float(dH), nan=np.inf)) > DIVERGED)


def mean_exp_minus(dH: ArrayLike) -> float:
    """``<exp(-dH)>``, which is 1 in equilibrium (M. Creutz, Phys. Rev. D 38 (1988) 1228).

    A trajectory that ran away counts as zero. The mean is inf where it exceeds the range of a float.
    """
    dH = _as_float(dH)
    stayed = dH[~ran_away(dH)]
    if not stayed.size:
        return 0.0
    # In units of the largest term: exp(1000) is not a number that a float can hold.
    top = -float(stayed.min())
    log_mean = top + math.log(float(np.exp(-stayed - top).sum()) / dH.size)
    return math.exp(log_mean) if log_mean < 700 else math.inf


def _as_float(dH: ArrayLike) -> NDArray[np.float64]:
    return as_array(dH, "dH").astype(np.float64, copy=False)

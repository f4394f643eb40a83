"""How far a mean is from what it should be, and how far it may be: the statistics of the test of an ensemble.

Errors are estimated from as many independent fields as an ensemble is worth, with autocorrelations, so that a deviation
in standard errors follows Student's distribution.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from dmmc.diagnostics import DiagnosticsWarning, Estimate, gamma_method
from dmmc.diagnostics.autocorrelation import MANY_CHAINS

FALSE_ALARM = 2 * float(scipy.stats.norm.sf(5.0))
"""Probability with which one of the tests refuses a right ensemble, 6e-7."""


def bound(independent: float, tests: int = 1) -> float:
    """The z-score that the largest of several right means exceeds with the probability :data:`FALSE_ALARM`.

    Args:
        independent: the number of independent configurations from which their errors were estimated.
        tests: how many means were looked at.
    """
    return float(scipy.stats.t.isf(FALSE_ALARM / 2 / tests, max(independent - 1, 1)))


def in_errors(deviation: float, error: float) -> float:
    """A deviation in standard errors; a series that does not fluctuate has no error, but for rounding."""
    if error > 0:
        return deviation / error
    return 0.0 if abs(deviation) < 1e-9 else math.copysign(math.inf, deviation)


def estimate(series: NDArray[np.float64]) -> Estimate:
    """The mean of a series ``(chain, draw)``; chains that are too short for the Gamma method count as one."""
    with warnings.catch_warnings():
        # Short chains give an uncertain error, which the bounds allow for.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        found = gamma_method(series if series.shape[1] >= 4 else series.reshape(1, -1))
    # In a short series, noise looks like negative correlations, which Markov chains hardly ever have.
    if found.tau_int < 0.5:
        return replace(found, tau_int=0.5, error=max(found.error, float(series.std()) / math.sqrt(series.size - 1)))
    return found


def independent_fields(estimate: Estimate, chains: int) -> float:
    """How many independent configurations an error was estimated from."""
    worth = estimate.n / (2 * estimate.tau_int)
    # If the error comes from the scatter of the means of the chains, each of them counts once.
    return min(worth, chains) if not estimate.resolved and chains >= MANY_CHAINS else worth


def is_reliable(estimate: Estimate, chains: int) -> bool:
    """Whether an error may be relied on: chains that are many, or long enough for the autocorrelations."""
    return estimate.resolved or chains >= MANY_CHAINS

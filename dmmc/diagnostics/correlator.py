"""The correlator of wall averages, and the effective mass that it shows.

The wall average Phi(t) is the mean of the field over all sites at the same position t along one axis, of extent L. Its
correlator, multiplied by the number of sites of a wall, follows from the recorded propagator of the momenta along this
axis alone (orthonormal Fourier transform, ``G(p) = <|phi(p)|^2>``):

    C(t) = V/L <Phi(0) Phi(t)> = 1/L sum_n cos(2 pi n t / L) G(p_n)

On a periodic lattice a single state of energy m gives ``C(t) ~ cosh(m (L/2 - t))``, of which the effective mass
``m(t) = acosh[(C(t-1) + C(t+1)) / 2 C(t)]`` is exactly m. For the free field of mass mu this holds at every t, with
``2 (cosh m - 1) = mu^2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import MANY_CHAINS, gamma_method
from dmmc.diagnostics.resampling import block_starts
from dmmc.diagnostics.series import as_array, as_series

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WallCorrelator:
    """The correlator of wall averages with jackknife errors; see the head of this module.

    Attributes:
        t: distances 0, ..., L // 2, ``(L // 2 + 1,)``.
        value: C(t), ``(L // 2 + 1,)``.
        error: its standard errors; those of different t are strongly correlated.
        mass_t: distances with an effective mass: 1, 2, ... as long as t + 1 <= L / 2.
        mass: effective mass at ``mass_t``; nan where noise leaves none.
        mass_error: its standard errors; nan where the mass does not exist without one of the blocks.
        n_blocks: number of chains or blocks of draws that were left out in turn.
    """

    t: NDArray[np.int64]
    value: Array
    error: Array
    mass_t: NDArray[np.int64]
    mass: Array
    mass_error: Array
    n_blocks: int


def wall_correlator(
    two_point: ArrayLike,
    orbits: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    volume: int | None = None,
) -> WallCorrelator:
    """The correlator of wall averages along one axis, from the recorded propagator.

    Errors are from the jackknife over chains if there are at least 8 of them, and else over blocks of draws much longer
    than the autocorrelation time of G(0).

    Args:
        two_point: ``|phi(p)|^2`` of each momentum orbit, ``(chain, draw, orbit)``.
        orbits: orbit numbers of the momenta along the axis, ``(L,)``: :func:`dmmc.theory.momenta.wall_modes`.
        mean: M or ``|M|`` of each draw, ``(chain, draw)``, whose squared average is subtracted from the correlator, as
            is wanted in a broken phase. None subtracts nothing.
        volume: number of sites; needed with ``mean``.

    Raises:
        DmmcError: on arrays of a wrong shape, with values that are not finite, or with too few draws.
    """
    G = as_array(two_point, "two_point").astype(np.float64, copy=False)
    modes = as_array(orbits, "orbits")
    if G.ndim != 3:
        raise DmmcError(f"two_point must have shape (chain, draw, orbit), got {G.shape}")
    if modes.ndim != 1 or len(modes) < 1 or modes.dtype.kind not in "iu":
        raise DmmcError(f"orbits must be a sequence of orbit numbers, got shape {modes.shape} of {modes.dtype}")
    if modes.min() < 0 or modes.max() >= G.shape[2]:
        raise DmmcError(f"orbits has numbers up to {modes.max()}, but two_point has only {G.shape[2]} orbits")
    zero = as_series(G[:, :, 0], "two_point of orbit 0")
    columns = G[:, :, modes]
    if not np.isfinite(columns).all():
        raise DmmcError("two_point has NaN or infinite values; find the draws that made them and remove the chain")
    if mean is not None:
        if volume is None or volume < 1:
            raise DmmcError("subtracting the mean field needs the number of sites; pass volume")
        M = as_series(mean, "mean")
        if M.shape != zero.shape:
            raise DmmcError(f"mean must have the shape of two_point without its orbits, {zero.shape}, got {M.shape}")
        columns = np.concatenate([columns, M[:, :, None]], 2)

    chains, draws = zero.shape
    if chains >= MANY_CHAINS:
        starts = draws * np.arange(chains)
    else:
        tau = gamma_method(zero, name="two_point of orbit 0").tau_int
        tau = 0.5 if math.isnan(tau) else max(tau, 0.5)
        starts = block_starts(chains, draws, min(math.ceil((tau * tau * zero.size) ** (1 / 3)), draws))
    if len(starts) < 2:
        raise DmmcError("a single block of draws has no jackknife error; run longer")
    flat = columns.reshape(zero.size, -1)
    sums, lengths = np.add.reduceat(flat, starts, axis=0), np.diff(starts, append=zero.size)
    total = flat.sum(0)
    # The first row is the mean of everything, the others are the means without one of the blocks.
    means = np.concatenate([(total / zero.size)[None], (total - sums) / (zero.size - lengths)[:, None]])

    L = len(modes)
    if mean is not None:
        assert volume is not None
        propagator = means[:, :L].copy()
        propagator[:, 0] -= volume * means[:, L] ** 2
    else:
        propagator = means
    t = np.arange(L // 2 + 1)
    waves = np.cos(2 * np.pi * np.outer(np.arange(L), t) / L) / L
    C = (propagator[:, :, None] * waves).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (C[:, :-2] + C[:, 2:]) / (2 * C[:, 1:-1])
        mass = np.arccosh(np.where(C[:, 1:-1] > 0, ratio, math.nan))
    return WallCorrelator(t, C[0], _spread(C), t[1:-1], mass[0], _spread(mass), len(starts))


def _spread(values: Array) -> Array:
    """Jackknife error from rows 1, 2, ..., the values without one of the blocks."""
    n = len(values) - 1
    return np.asarray(np.sqrt((n - 1) * values[1:].var(axis=0)))

"""log Z and differences of free energies, ``F = -log Z``, from weights.

With ``log w = -S - log q`` on proposals (density q) and on configurations of the target ``p = exp(-S) / Z``, from HMC
or any other exact chain::

    Z = mean_q(w)                                      from proposals
    1 / Z = mean_p(1 / w)                              from the target's side
    mean_q(log w)  <=  log Z  <=  mean_p(log w)        bounds, a KL divergence away each

The proposals see only what the model covers: if it misses a part of the target with probability m, their log Z is too
small by ``-log(1 - m)``, whatever its error says. The target's side does not have this fault, but the fields of
smallest weight dominate it. Bennett's estimator combines both sides with the smallest error.

References: Nicoli et al., Phys. Rev. Lett. 126 (2021) 032001, 2007.07115 (log Z from the proposals of a flow); Nicoli
et al., 2302.14082 (both directions, and what missed modes do to them); Bennett, J. Comput. Phys. 22 (1976) 245.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.diagnostics.autocorrelation import Estimate, format_value, gamma_derived, gamma_method
from dmmc.diagnostics.series import as_array, as_series
from dmmc.diagnostics.weights import flat_log_w, log_z

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LogZ:
    """log Z, or a difference of two log Z.

    Attributes:
        value: the estimate.
        error: its standard error; nan if the data say nothing about it.
    """

    value: float
    error: float

    def __sub__(self, other: LogZ) -> LogZ:
        """Difference of two independent estimates, of two models or in two ways."""
        return LogZ(self.value - other.value, math.hypot(self.error, other.error))

    @property
    def z_from_zero(self) -> float:
        """The value in standard errors, for differences; nan if the error is unknown."""
        return self.value / self.error if self.error > 0 else math.nan

    def __str__(self) -> str:
        return format_value(self.value, self.error)


@dataclass(frozen=True)
class LogZEstimates:
    """All estimates of log Z that the weights allow; see :func:`log_z_estimates`.

    Attributes:
        proposals: ``log mean_q(w)``.
        lower: ``mean_q(log w)``, below log Z by ``KL(q||p)``; -inf if a proposal has weight zero.
        reference: ``-log mean_p(1/w)``; this and the following are None without a reference.
        upper: ``mean_p(log w)``, above log Z by ``KL(p||q)``.
        bennett: the optimal combination of both sides.
    """

    proposals: LogZ
    lower: LogZ
    reference: LogZ | None = None
    upper: LogZ | None = None
    bennett: LogZ | None = None

    @property
    def best(self) -> LogZ:
        """Bennett's estimate if there is a reference, otherwise that of the proposals."""
        return self.proposals if self.bennett is None else self.bennett

    @property
    def gap(self) -> LogZ | None:
        """Estimate of the proposals minus that of the reference: negative if the model misses a part of the target."""
        return None if self.reference is None else self.proposals - self.reference


def log_z_estimates(
    log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None = None, S: float = 1.5
) -> LogZEstimates:
    """log Z from proposals and, if given, from configurations of the target.

    Args:
        log_w_proposed: log weights of independent proposals, of any shape; weights of zero (-inf, NaN) count.
        log_w_reference: log weights of configurations of the target, ``(chain, draw)``, or ``(n,)`` for one series.
            Autocorrelations are taken into account along the last axis, so keep the order of the chain.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if either is empty or has +inf, or the reference is not finite, or shorter than four draws.
    """
    proposals = log_z_proposals(log_w_proposed)
    lower = lower_bound(log_w_proposed)
    if log_w_reference is None:
        return LogZEstimates(proposals, lower)
    return LogZEstimates(
        proposals,
        lower,
        log_z_reference(log_w_reference, S),
        upper_bound(log_w_reference, S),
        bennett(log_w_proposed, log_w_reference, S),
    )


def log_z_proposals(log_w: ArrayLike) -> LogZ:
    """``log mean_q(w)`` of independent proposals; :func:`dmmc.diagnostics.log_z` as a :class:`LogZ`."""
    return LogZ(*log_z(log_w))


def lower_bound(log_w: ArrayLike) -> LogZ:
    """``mean_q(log w) <= log Z`` of independent proposals; -inf if one has weight zero.

    Raises:
        DmmcError: if there are no weights, or one is +inf.
    """
    flat = flat_log_w(log_w)
    if not np.isfinite(flat).all():
        return LogZ(-math.inf, math.nan)
    return LogZ(float(flat.mean()), float(flat.std(ddof=1)) / math.sqrt(flat.size) if flat.size > 1 else math.nan)


def log_z_reference(log_w: ArrayLike, S: float = 1.5) -> LogZ:
    """``-log mean_p(1/w)`` of configurations of the target, autocorrelations included.

    The model must nowhere be wider than the target: proposals in places where the target has no draws are missing from
    the mean. ``pareto_k(-log_w)`` above 0.7 shows this; Bennett's estimator does not suffer from it.

    Args:
        log_w: ``(chain, draw)``, or ``(n,)`` for one series.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: if a log weight is not finite, or there are fewer than four draws.
    """
    inverse = _log_mean_exp(-_series(log_w, "log_w_reference"), S, "1/w on the reference")
    return LogZ(-inverse.value, inverse.error)


def upper_bound(log_w: ArrayLike, S: float = 1.5) -> LogZ:
    """``mean_p(log w) >= log Z`` of configurations of the target; arguments as :func:`log_z_reference`."""
    mean = gamma_method(_series(log_w, "log_w_reference"), S, "log w on the reference")
    return LogZ(mean.value, mean.error)


def log_z_change(delta_S: ArrayLike, S: float = 1.5) -> LogZ:
    """``log(Z_2 / Z_1) = log mean_1 exp(-(S_2 - S_1))``, by reweighting one chain from S_1 to S_2.

    This works while the two ensembles overlap, that is, while ``ess_fraction(-delta_S)`` is far above one over the
    number of independent draws. Otherwise take intermediate couplings, or chains on both sides and :func:`bennett`.

    Args:
        delta_S: ``S_2 - S_1`` on a chain of ``exp(-S_1)``, ``(chain, draw)``, or ``(n,)`` for one series.
        S: window parameter of the Gamma method.

    Raises:
        DmmcError: as :func:`log_z_reference`.
    """
    mean = _log_mean_exp(-_series(delta_S, "delta_S"), S, "exp(-delta_S)")
    return LogZ(mean.value, mean.error)


def bennett(log_w_1: ArrayLike, log_w_2: ArrayLike, S: float = 1.5) -> LogZ:
    """``log(Z_2 / Z_1)`` from samples of both, with the smallest error that any combination of them has.

    The weights are ``log w = log(weight of 2 / weight of 1)``, neither normalised. With proposals as 1, for which
    ``Z_1 = 1``, and configurations of the target as 2, the result is log Z; for two chains, ``log w = S_1 - S_2``. It
    is the solution of
    ``n_1 mean_1 f(log w - C) = n_2 mean_2 f(C - log w)``, ``f(x) = 1 / (1 + exp(-x))``, ``log Z = C + log(n_2 / n_1)``,
    Bennett, J. Comput. Phys. 22 (1976) 245, Eq. (12); n are numbers of independent samples, ``draws / (2 tau_int)``
    (Meng and Wong, Statist. Sinica 6 (1996) 831). The error is that of the two means at the
    solution, by the Gamma method: to leading order log Z does not depend on C.

    Args:
        log_w_1: on samples of 1, ``(chain, draw)`` or ``(n,)``; -inf and NaN are weights of zero.
        log_w_2: on samples of 2, ``(chain, draw)`` or ``(n,)``; all of them finite.
        S: window parameter of the Gamma method.

    Returns:
        ``(-inf, nan)`` if no sample of 1 has a finite weight.

    Raises:
        DmmcError: if a log weight is +inf, or on the second side not finite, or there are fewer than four draws.
    """
    one = flat_log_w(log_w_1, "log_w_1").reshape(np.atleast_2d(as_array(log_w_1, "log_w_1")).shape)
    two = _series(log_w_2, "log_w_2")
    if not np.isfinite(one).any():
        return LogZ(-math.inf, math.nan)
    log_ratio = math.log(two.size / one.size)
    c = _crossing(one, two, log_ratio)
    # A second time, with the numbers of independent samples that the terms of the solution turn out to have.
    taus = [max(x.tau_int, 0.5) if x.error > 0 else 0.5 for x in _bennett_means(one, two, c, S)]
    log_ratio -= math.log(taus[1] / taus[0])
    c = _crossing(one, two, log_ratio)
    first, second = _bennett_means(one, two, c, S)
    return LogZ(c + log_ratio, math.hypot(first.error, second.error))


def _series(x: ArrayLike, name: str) -> Array:
    return as_series(np.atleast_2d(as_array(x, name)), name)


def _log_f(x: Array) -> Array:
    return np.asarray(-np.logaddexp(0.0, -x))


def _log_mean_exp(x: Array, S: float, name: str) -> Estimate:
    """``log mean exp(x)`` with its error; -inf stands for terms of zero."""
    top = float(x.max())
    mean = gamma_derived(math.log, [np.exp(x - top)], S, name)
    return replace(mean, value=top + mean.value)


def _bennett_means(one: Array, two: Array, c: float, S: float) -> tuple[Estimate, Estimate]:
    return (
        _log_mean_exp(_log_f(one - c), S, "Bennett's mean over samples of 1"),
        _log_mean_exp(_log_f(c - two), S, "Bennett's mean over samples of 2"),
    )


def _crossing(one: Array, two: Array, log_ratio: float) -> float:
    """C at which ``log mean_1 f(log w - C) = log_ratio + log mean_2 f(C - log w)``, by bisection."""

    def log_mean(x: Array) -> float:
        top = float(x.max())
        return top + math.log(float(np.exp(x - top).mean()))

    # Far beyond all weights, f is 1 on one side and exponentially small on the other.
    ends = np.concatenate([one[np.isfinite(one)], two.ravel()])
    margin = 50 + abs(log_ratio) + math.log(one.size)
    low, high = float(ends.min()) - margin, float(ends.max()) + margin
    while high - low > 1e-10 + 1e-14 * abs(low):
        c = (low + high) / 2
        if log_mean(_log_f(one - c)) > log_ratio + log_mean(_log_f(c - two)):
            low = c
        else:
            high = c
    return (low + high) / 2

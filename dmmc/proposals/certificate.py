"""How exact a chain of flow proposals is, measured.

Two approximations stand between the flow and exactness: the integrator, whose discrete map T_n has a density that is
not quite the log q it reports, and floating-point arithmetic. With

    delta(phi) = reported log q(phi) - log of the density of the discrete map at phi

(of the group average, if there are two sectors) a chain samples ``p exp(-delta)`` up to normalisation, so an observable
is off by ``|Cov(O, delta)| <= std(O) std(delta)`` to first order. std(delta) is measured on proposals, in float64:

* by the **determinant**: log q of the discrete map is ``log Normal(z; 0, 1) - ln |det dphi/dz|``, with the whole
  Jacobian from central differences. No approximation beside their error of 1e-8, but 2V integrations a field;
* by **step doubling** (:meth:`dmmc.proposals.flow.FlowProposal.step_doubling`), at any volume. Its random probes add noise, so
  its spread is the larger one: against the determinant 1.0 to 2.7 times as large on 8^2, 1.7 and 6 times on 16^2
  (trained models of one and two sectors, std(delta) from 1e-7 to 4e-4, both methods, the 16 probes of
  :func:`certify`; with 2 probes 1.3 to 17 times). Where delta is large, terms of second order count; random networks
  on 6 to 36 sites gave 0.8 to 1.1.

Arithmetic is measured apart (``rounding``): it is noise, with no correlation with any observable that we know of, yet
it is counted as if it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.proposals.flow import FlowProposal, spline_intervals
from dmmc.proposals.runge_kutta import METHODS

CONFIDENCE = 0.95
"""Of every limit and interval here."""

DETERMINANT_SITES = 256
"""Largest volume for which determinants are offered."""

DETERMINANT_WORK = 1 << 17
"""``n V^2`` that :func:`certify` spends on determinants by default: all of 16 up to 90 sites, 2 at 256."""

MIN_DETERMINANTS = 8
"""Fewer of them are a check on step doubling only; more take its place."""

Array = NDArray[np.float64]


def spread_limits(x: Array) -> tuple[float, float]:
    """95 % confidence interval of the standard deviation that ``x``, at least two normal numbers, was drawn with.

    From ``(n - 1) s^2 / sigma^2`` being chi^2 with n - 1 degrees of freedom.
    """
    n, tail = len(x), (1 - CONFIDENCE) / 2
    low, high = (math.sqrt((n - 1) / stats.chi2.ppf(p, n - 1)) for p in (1 - tail, tail))
    return low * float(np.std(x, ddof=1)), high * float(np.std(x, ddof=1))


def spread_upper_limit(x: Array) -> float:
    """The standard deviation that is exceeded with 5 % probability; see :func:`spread_limits`."""
    return float(np.std(x, ddof=1)) * _limit_factor(len(x))


def _limit_factor(n: int) -> float:
    return math.sqrt((n - 1) / stats.chi2.ppf(1 - CONFIDENCE, n - 1))


@dataclass(frozen=True)
class Certificate:
    """What :func:`certify` found on n proposals; all arrays float64.

    Attributes:
        delta: by step doubling, ``(n,)``.
        delta_determinant: by the determinant, of the first of the same proposals, ``(m,)`` with ``m <= n``.
        rounding: error of log q that is due to arithmetic in the model's own type, ``(n,)``.
        reversal_phi: largest ``|phi - phi'|`` of a field, phi' being what becomes of phi in the model's own arithmetic
            on the way to the latent space and back, ``(n,)``.
        reversal_log_q: difference of log q between the way there and the way back, ``(n,)``.
    """

    delta: Array
    delta_determinant: Array
    rounding: Array
    reversal_phi: Array
    reversal_log_q: Array

    def arrays(self) -> dict[str, Array]:
        """What a run file stores."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def stored(cls, arrays: Mapping[str, Array]) -> Certificate | None:
        """From the arrays of a run file; None if it has no certificate."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: arrays[name] for name in names}) if all(name in arrays for name in names) else None

    @property
    def method(self) -> str:
        """Which delta counts: ``determinant`` or ``step doubling``."""
        return "determinant" if len(self.delta_determinant) >= MIN_DETERMINANTS else "step doubling"

    @property
    def _delta(self) -> Array:
        return self.delta_determinant if self.method == "determinant" else self.delta

    @property
    def std(self) -> float:
        """std(delta) of the integrator."""
        return float(np.std(self._delta, ddof=1))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of std(delta)."""
        return spread_limits(self._delta)

    @property
    def std_rounding(self) -> float:
        """Standard deviation of the rounding error of log q."""
        return float(np.std(self.rounding, ddof=1))

    @property
    def limit_delta(self) -> float:
        """Upper limit on std(delta) of 95 % confidence."""
        return spread_upper_limit(self._delta)

    @property
    def limit_rounding(self) -> float:
        """The same of the rounding error."""
        return spread_upper_limit(self.rounding)

    @property
    def limit(self) -> float:
        """Bound on the bias of an observable in units of its standard deviation: both limits, added in quadrature."""
        return math.hypot(self.limit_delta, self.limit_rounding)

    def bias_bound(self, observable: Array) -> float:
        """Bound on the bias of the mean of an observable, from its measurements in a chain, of any shape."""
        return float(np.std(observable)) * self.limit

    def summary(self) -> dict[str, Any]:
        """Its numbers, JSON-ready."""
        low, high = self.interval
        m = len(self.delta_determinant)
        return {
            "method": self.method,
            "proposals": len(self._delta),
            "std_delta": self.std,
            "std_delta_95": [low, high],
            "std_rounding": self.std_rounding,
            "limit_95": self.limit,
            "doubling_over_determinant": (
                float(np.std(self.delta[:m]) / np.std(self.delta_determinant)) if m > 1 else None
            ),
            "reversal_phi": float(self.reversal_phi.max()),
            "reversal_log_q": float(np.abs(self.reversal_log_q).max()),
        }


@torch.no_grad()
def certify(
    proposal: FlowProposal,
    n: int = 16,
    generator: torch.Generator | None = None,
    *,
    probes: int = 16,
    determinants: int | None = None,
) -> Certificate:
    """Measure delta, its rounding part and the reversibility of the flow on ``n`` proposals.

    Args:
        proposal: the flow, as a chain uses it.
        n: proposals; std(delta) is known to about ``1 / sqrt(2 n)``.
        generator: random numbers on the model's device; None for a fixed seed.
        probes: random vectors of a step doubling; 16 are patterned to see no noise within cells of 4 x 4 sites.
        determinants: of how many of the proposals the determinant is found, up to ``n``; None for as many as
            :data:`DETERMINANT_WORK` pays for, 0 above :data:`DETERMINANT_SITES`.

    Returns:
        the certificate.

    Raises:
        DmmcError: on numbers out of range, determinants on too large a lattice, an inexact divergence, or a flow that
            is not finite.
    """
    volume = proposal.model.lattice.volume
    if n < 2 or probes < 1:
        raise DmmcError(f"a certificate needs at least 2 proposals and 1 probe, got {n} and {probes}")
    if determinants is None:
        determinants = min(n, DETERMINANT_WORK // volume**2) if volume <= DETERMINANT_SITES else 0
    if not 0 <= determinants <= n:
        raise DmmcError(f"the number of determinants must be between 0 and the {n} proposals, got {determinants}")
    if determinants and volume > DETERMINANT_SITES:
        raise DmmcError(
            f"determinants are for at most {DETERMINANT_SITES} sites, and here are {volume}; "
            "leave them out, step doubling works at any volume"
        )
    generator = torch.Generator(proposal.model.device).manual_seed(0) if generator is None else generator
    flow = proposal.to_float64()
    # Drawn in the type of the model, so that it and its copy see the same.
    latents = proposal.latents(n, generator)
    z = latents.double()
    found = {
        "delta": group_delta(flow, z, lambda z: flow.step_doubling(z, generator, probes)),
        "delta_determinant": (
            group_delta(flow, z[:determinants], lambda z: determinant_delta(flow, z))
            if determinants
            else z.new_zeros(0)
        ),
    }
    phi, log_q = proposal.push(latents)
    back, log_q_back = proposal.pull(phi)
    again, _ = proposal.push(back)
    found["reversal_phi"] = (again - phi).flatten(1).abs().amax(1)
    found["reversal_log_q"] = log_q_back - log_q
    found["rounding"] = rounding_error(proposal, latents)
    certificate = Certificate(**{name: x.double().cpu().numpy() for name, x in found.items()})
    if not all(np.isfinite(x).all() for x in certificate.arrays().values()):
        raise DmmcError("the flow of this model gives values that are not finite; take more steps or train again")
    return certificate


@torch.no_grad()
def rounding_error(proposal: FlowProposal, latents: Tensor) -> Tensor:
    """Error ``(n,)`` of log q of the fields made of ``latents`` that is due to the arithmetic of the model's own type.

    A field in float32 is not quite that of float64, and has another log q: that is no error and is taken out.
    """
    flow = proposal.to_float64()
    (phi, log_q), (phi64, log_q64) = proposal.push(latents), flow.push(latents.double())
    moved = flow.pull(phi.double())[1] - flow.pull(phi64)[1]
    return log_q - log_q64 - moved


Measure = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Latents ``(n, *lattice)`` -> phi, reported log q ``(n,)`` and delta ``(n,)`` of one sector."""


def group_delta(flow: FlowProposal, z: Tensor, measure: Measure) -> Tensor:
    """delta of the density that a chain uses: that of the sector, or of the average over both.

    In the second sector a chain has the log q of the way back from -phi. Its delta needs the density of the discrete
    map there, and so the latent that this map takes to -phi.
    """
    phi, plus, delta_plus = measure(z)
    if not flow.model.two_sector:
        return delta_plus
    minus = flow.pull(-phi)[1]
    counts = minus - plus > NEGLIGIBLE
    delta_minus = torch.zeros_like(minus)
    if bool(counts.any()):
        _, forth, error = measure(_preimage(flow, -phi[counts]))
        delta_minus[counts] = minus[counts] - forth + error
    true = torch.logaddexp(plus - delta_plus, minus - delta_minus)
    return torch.logaddexp(plus, minus) - true


NEGLIGIBLE = -30.0
"""Log of the share in the group average below which a sector does not count: 1e-13."""


def _preimage(flow: FlowProposal, phi: Tensor) -> Tensor:
    """The latents that the discrete map takes to ``phi``: the way back is a little beside them, each turn much less."""
    start = flow.pull(phi)[0]
    z = start
    for _ in range(3):
        z = z + start - flow.pull(flow.push(z)[0])[0]
    return z


def determinant_delta(flow: FlowProposal, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """phi, reported log q and delta of one sector, by the Jacobian of the discrete map.

    Args:
        flow: in float64.
        z: latents ``(n, *lattice)``.

    Returns:
        ``(n, *lattice)``, ``(n,)`` and ``(n,)``.
    """
    phi, log_q = flow.push(z)
    volume, step = flow.model.lattice.volume, 1e-5  # errors of 1e-10 an element, from truncation and from rounding
    directions = step * torch.eye(volume, dtype=z.dtype, device=z.device).view(volume, *z.shape[1:])
    ends = [
        torch.cat([flow.denoise(part, [0.0])[0] for part in (z.unsqueeze(1) + way).flatten(0, 1).split(flow.chunk)])
        for way in (directions, -directions)
    ]
    jacobian = (ends[0] - ends[1]).view(-1, volume, volume) / (2 * step)
    log_normal = -0.5 * z.square().flatten(1).sum(1) - 0.5 * volume * math.log(2 * math.pi)
    true = log_normal - torch.linalg.slogdet(jacobian).logabsdet
    return phi, log_q, log_q - true


@dataclass(frozen=True)
class StepChoice:
    """Steps for a bias far below the statistical error, and their certificate.

    Attributes:
        proposal: with the chosen steps.
        certificate: of this proposal.
        target: what the limit of the certificate was to be.
    """

    proposal: FlowProposal
    certificate: Certificate
    target: float

    @property
    def reached(self) -> bool:
        """Whether the limit is below the target."""
        return self.certificate.limit <= self.target

    @property
    def text(self) -> str:
        """One sentence for people."""
        steps = f"{self.proposal.total_steps} steps of {self.proposal.method} ({self.proposal.evaluations} evaluations)"
        bound = f"{steps}: bias at most {self.certificate.limit:.1e} of a standard deviation"
        if self.reached:
            return f"{bound}, asked for {self.target:.1e}"
        if self.certificate.limit_rounding > 0.9 * self.target:
            return (
                f"{bound}; {self.target:.1e} was asked for, but {self.proposal.model.dtype} arithmetic alone may make "
                f"{self.certificate.limit_rounding:.1e}: no number of steps helps, a float64 model does"
            )
        return f"{bound}, although {self.target:.1e} was asked for; train a smoother model, or ask for less"


@torch.no_grad()
def choose_steps(
    proposal: FlowProposal,
    n_effective: float,
    relative: float = 0.01,
    *,
    n: int = 16,
    generator: torch.Generator | None = None,
) -> StepChoice:
    """About the fewest steps with which the integrator cannot be noticed.

    The statistical error of an observable will be ``std(O) / sqrt(n_effective)``; the bound on its bias is
    ``std(O)`` times :attr:`Certificate.limit`. So the limit has to be below ``relative / sqrt(n_effective)``.

    Every interval between two knots of the network's splines gets its own number of steps: the error of each is
    measured and falls with the order of the method, and the total number is made least. What comes out is verified,
    and refined until it holds.

    Args:
        proposal: model, method, divergence; its own steps do not matter.
        n_effective: independent draws that the chain will be worth.
        relative: bias that is tolerated, in units of the statistical error.
        n: proposals that verify.
        generator: random numbers on the model's device; None for a fixed seed.

    Returns:
        the choice; ``reached`` is False if rounding, or a velocity too rough for these orders, is in the way.

    Raises:
        DmmcError: on numbers out of range, or an inexact divergence.
    """
    if not n_effective >= 1 or not relative > 0:
        raise DmmcError(f"n_effective must be at least 1 and relative positive, got {n_effective} and {relative}")
    target = relative / math.sqrt(n_effective)
    generator = torch.Generator(proposal.model.device).manual_seed(0) if generator is None else generator
    order = METHODS[proposal.method].order
    flow = replace(proposal.to_float64(), n_steps=(2,) * spline_intervals(proposal.model))
    latents = flow.latents(max(2, n // 2), generator)
    rounding = rounding_error(replace(proposal, n_steps=flow.n_steps), latents.to(proposal.model.dtype))
    goal = _room(target, spread_upper_limit(rounding.cpu().numpy())) / (1.2 * _limit_factor(n))  # 1.2: a margin
    for _ in range(4):
        wanted = _distribute(flow.interval_errors(latents, generator, probes=2), flow.schedule, order, goal)
        if wanted == flow.schedule:
            break
        flow = replace(flow, n_steps=wanted)
    # Determinants are spent where they decide, not as a check.
    determinants = None if n * proposal.model.lattice.volume**2 <= DETERMINANT_WORK else 0
    # Every try is on the same proposals: the best of several tries with their own would be one that was lucky.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    found: StepChoice | None = None
    for _ in range(5):
        again = torch.Generator(generator.device).manual_seed(seed)
        tried = replace(proposal, n_steps=flow.n_steps)
        choice = StepChoice(tried, certify(tried, n, again, determinants=determinants), target)
        if found is not None and found.reached and not choice.reached:
            break
        found = choice
        # The law of the order says what would just do: tried as long as it is an improvement.
        room = _room(target, choice.certificate.limit_rounding)
        factor = min(2.0, max(0.5, (1.2 * choice.certificate.limit_delta / room) ** (1 / order)))
        flow = replace(flow, n_steps=tuple(math.ceil(factor * k) for k in flow.schedule))
        if choice.certificate.limit_delta <= room and flow.total_steps >= tried.total_steps:
            break
    assert found is not None
    return found


def _room(target: float, rounding: float) -> float:
    """What is left to the integrator of the limit; where rounding takes it all, there is no point in less than that."""
    return math.sqrt(max(target**2 - rounding**2, 0.1 * target**2)) if rounding < target else rounding


def _distribute(errors: Tensor, steps: tuple[int, ...], order: int, goal: float) -> tuple[int, ...]:
    """Fewest steps for which the errors ``(intervals, n)`` add up to a spread of ``goal``.

    The error of n_k steps falls like ``(n_k / m_k)^order``; at most thrice or half of what was measured is trusted.
    """
    taken = torch.tensor(steps, dtype=errors.dtype, device=errors.device)
    # The sum of sigma_k (n_k / m_k)^order is least, at a given total, where sigma_k n_k^order / m_k^(order + 1) is the
    # same everywhere.
    share = (errors.std(1) * taken**order).clamp(min=1e-300) ** (1 / (order + 1))
    spread = float((errors * ((taken / share) ** order).unsqueeze(1)).sum(0).std())
    wanted = (share * (spread / goal) ** (1 / order)).tolist()
    return tuple(min(3 * n, max(math.ceil(m), -(-n // 2))) for n, m in zip(steps, wanted, strict=True))

"""The choice of integration steps: about the fewest with which the integrator cannot be noticed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import integers
from dmmc.proposals.base import Steppable
from dmmc.proposals.certificate import Certificate, limit_factor, spread_upper_limit
from dmmc.proposals.certify import DETERMINANT_WORK, certify, rounding_error
from dmmc.proposals.runge_kutta import METHODS

P = TypeVar("P", bound=Steppable)

_MARGIN = 1.2
"""Errors are aimed at values that are smaller than the allowed ones by this factor."""


@dataclass(frozen=True)
class StepChoice(Generic[P]):
    """Steps for a bias far below the statistical error, and their certificate.

    Attributes:
        proposal: the proposal with the chosen steps.
        certificate: of this proposal.
        target: what the limit of the certificate was to be.
    """

    proposal: P
    certificate: Certificate
    target: float

    @property
    def reached(self) -> bool:
        """Whether the limit is below the target."""
        return self.certificate.limit <= self.target

    @property
    def text(self) -> str:
        """One sentence for people."""
        total = sum(self.proposal.schedule)
        steps = f"{total} steps of {self.proposal.method} ({self.proposal.evaluations} evaluations)"
        bound = f"{steps}: bias at most {self.certificate.limit:.1e} of a standard deviation"
        if self.reached:
            return f"{bound}, asked for {self.target:.1e}"
        if self.certificate.limit_rounding > 0.9 * self.target:
            return (
                f"{bound}; {self.target:.1e} was asked for, but {self.proposal.dtype} arithmetic alone may make "
                f"{self.certificate.limit_rounding:.1e}: no number of steps helps, a float64 model does"
            )
        return f"{bound}, although {self.target:.1e} was asked for; train a smoother model, or ask for less"


@torch.no_grad()
def choose_steps(
    proposal: P,
    n_effective: float,
    relative: float = 0.01,
    *,
    n: int = 16,
    probes: int = 16,
    determinants: int | None = None,
    generator: torch.Generator | None = None,
) -> StepChoice[P]:
    """About the fewest steps with which the integrator cannot be noticed.

    The statistical error of an observable will be ``std(O) / sqrt(n_effective)``; the bound on its bias is ``std(O)``
    times :attr:`dmmc.proposals.certificate.Certificate.limit`. So the limit has to be below
    ``relative / sqrt(n_effective)``.

    Every interval in which the velocity is smooth gets its own number of steps: the error of each is measured and falls
    with the order of the method, and the total number is made least. The result is verified, and refined until it
    holds.

    Args:
        proposal: model, method and divergence; its own steps do not matter.
        n_effective: number of independent draws that the chain will be worth.
        relative: bias that is tolerated, in units of the statistical error.
        n: number of proposals on which the choice is verified.
        probes: random vectors of each step doubling. Fewer are cheaper, and their noise makes the choice take more
            steps than it needs.
        determinants: for how many of the proposals the determinant decides; None for all of them where that is cheap.
        generator: random numbers; None for a fixed seed.

    Returns:
        the choice; ``reached`` is False if rounding, or a velocity too rough for these orders, is in the way.

    Raises:
        DmmcError: if a number is out of its range, or the density is inexact.
    """
    if not n_effective >= 1 or not relative > 0:
        raise DmmcError(f"n_effective must be at least 1 and relative positive, got {n_effective} and {relative}")
    target = relative / math.sqrt(n_effective)
    generator = torch.Generator(proposal.device).manual_seed(0) if generator is None else generator
    order = METHODS[proposal.method].order
    schedule = (2,) * proposal.intervals
    double = proposal.to_float64().with_schedule(schedule)
    latents = double.latents(max(2, n // 2), generator)
    rounding = rounding_error(proposal.with_schedule(schedule), latents.to(proposal.dtype))
    goal = _room(target, spread_upper_limit(rounding.cpu().numpy())) / (_MARGIN * limit_factor(n))
    for _ in range(4):
        errors = double.with_schedule(schedule).interval_errors(latents, generator, probes=2)
        wanted = _distribute(errors, schedule, order, goal)
        if wanted == schedule:
            break
        schedule = wanted
    if determinants is None:
        # They are paid for only where they decide, not where they would merely check.
        determinants = n if n * proposal.lattice.n_numbers**2 <= DETERMINANT_WORK else 0
    # Every try is on the same proposals: the best of several tries on proposals of their own would be a lucky one.
    seed = int(integers(2**62, (), generator))

    def tried(schedule: tuple[int, ...]) -> StepChoice[P]:
        candidate = proposal.with_schedule(schedule)
        again = torch.Generator(proposal.device).manual_seed(seed)
        return StepChoice(candidate, certify(candidate, n, again, probes=probes, determinants=determinants), target)

    choice = tried(schedule)
    for _ in range(4):
        # The law of the order says what would just do; it is tried as long as it is an improvement.
        room = _room(target, choice.certificate.limit_rounding)
        factor = min(2.0, max(0.5, (_MARGIN * choice.certificate.limit_delta / room) ** (1 / order)))
        schedule = tuple(math.ceil(factor * k) for k in choice.proposal.schedule)
        if choice.certificate.limit_delta <= room and sum(schedule) >= sum(choice.proposal.schedule):
            break
        candidate = tried(schedule)
        if choice.reached and not candidate.reached:
            break
        choice = candidate
    return choice


def _room(target: float, rounding: float) -> float:
    """The part of the limit that rounding leaves to the integrator.

    Where rounding takes all of it, there is no use in an integrator with less error than rounding.
    """
    return math.sqrt(max(target**2 - rounding**2, 0.1 * target**2)) if rounding < target else rounding


def _distribute(errors: Tensor, steps: tuple[int, ...], order: int, goal: float) -> tuple[int, ...]:
    """Fewest steps for which the errors ``(intervals, n)`` add up to a spread of ``goal``.

    The error of n_k steps falls like ``(n_k / m_k)^order``; no more than thrice and no less than half of the steps that
    were measured are trusted.
    """
    taken = torch.tensor(steps, dtype=errors.dtype, device=errors.device)
    # The sum of sigma_k (n_k / m_k)^order is least, at a given total, where sigma_k n_k^order / m_k^(order + 1) is the
    # same everywhere.
    share = (errors.std(1) * taken**order).clamp(min=1e-300) ** (1 / (order + 1))
    spread = float((errors * ((taken / share) ** order).unsqueeze(1)).sum(0).std())
    wanted = (share * (spread / goal) ** (1 / order)).tolist()
    return tuple(min(3 * n, max(math.ceil(m), -(-n // 2))) for n, m in zip(steps, wanted, strict=True))

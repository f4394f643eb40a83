"""The choice of integration steps: about the fewest with which the integrator cannot be noticed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import integers
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals.base import Steppable
from dmmc.proposals.certificate import Certificate, limit_factor, spread_upper_limit
from dmmc.proposals.certify import DETERMINANT_WORK, certify, rounding_error
from dmmc.proposals.runge_kutta import METHODS

P = TypeVar("P", bound=Steppable)

_MARGIN = 1.2
"""Errors are aimed at values that are smaller than the allowed ones by this factor."""

_WORTH_A_TRY = 4.0
"""Fewer steps are tried where the limit is smaller than the allowed one by more than this factor."""

_RUN_AWAY = 1e6
"""What stands for the error of steps so long that fields run away."""

_ROUNDS, _TRIES = 4, 4
"""Most measurements of the errors of all intervals, and most certificates after the first."""


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
    target = _target(n_effective, relative)
    generator = torch.Generator(proposal.device).manual_seed(0) if generator is None else generator
    latents = proposal.latents(max(2, n), generator)
    start = proposal.with_schedule((2,) * proposal.intervals)
    rounding = spread_upper_limit(rounding_error(start, latents[: max(2, n // 2)]).cpu().numpy())
    goal = _room(target, rounding) / (_MARGIN * limit_factor(n))
    errors = _measured(proposal, None, latents, generator, goal, probes=2)
    if determinants is None:
        # They are paid for only where they decide, not where they would merely check.
        determinants = n if n * proposal.lattice.n_numbers**2 <= DETERMINANT_WORK else 0
    # Every try is on the same proposals: the best of several tries on proposals of their own would be a lucky one.
    seed = int(integers(2**62, (), generator))

    def tried(schedule: tuple[int, ...]) -> StepChoice[P]:
        candidate = proposal.with_schedule(schedule)
        again = torch.Generator(proposal.device).manual_seed(seed)
        return StepChoice(candidate, certify(candidate, n, again, probes=probes, determinants=determinants), target)

    choice = tried(errors.fewest(goal))
    for _ in range(_TRIES):
        certificate, steps = choice.certificate, choice.proposal.schedule
        room = _room(target, certificate.limit_rounding)
        if certificate.limit_delta <= room and certificate.limit_delta > room / _WORTH_A_TRY:
            break
        # What the certificate says of the whole way corrects what the intervals promised.
        promised = min(10.0, max(0.1, room / (_MARGIN * max(certificate.limit_delta, 0.01 * room))))
        goal = promised * errors.spread(steps)
        schedule = errors.fewest(goal)
        if certificate.limit_delta <= room:
            if sum(schedule) >= sum(steps):
                break
        elif sum(schedule) <= sum(steps):
            schedule = tuple(k + 1 for k in steps)
        candidate = tried(schedule)
        if choice.reached and not candidate.reached:
            break
        choice = candidate
    return choice


def _target(n_effective: float, relative: float) -> float:
    """What the limit of the certificate is to be, in standard deviations of an observable.

    Raises:
        DmmcError: if a number is out of its range.
    """
    if not n_effective >= 1 or not relative > 0:
        raise DmmcError(f"n_effective must be at least 1 and relative positive, got {n_effective} and {relative}")
    return relative / math.sqrt(n_effective)


def _room(target: float, rounding: float) -> float:
    """The part of the limit that rounding leaves to the integrator.

    Where rounding takes all of it, there is no use in an integrator with less error than rounding.
    """
    return math.sqrt(max(target**2 - rounding**2, 0.1 * target**2)) if rounding < target else rounding


def with_known_steps(proposal: P, n_effective: float, relative: float = 0.01, *, n: int = 16) -> P | None:
    """The steps of :func:`choose_steps` from errors that were measured before, which costs nothing.

    Nothing is verified here: the certificate of the chain says whether the limit is kept.

    Args:
        proposal: a proposal, perhaps with known errors; its own steps do not matter.
        n_effective, relative: as for :func:`choose_steps`.
        n: number of proposals of the certificate that is to keep the limit.

    Returns:
        the proposal with its steps; None where no errors are known.

    Raises:
        DmmcError: if a number is out of its range.
    """
    goal = _target(n_effective, relative) / (_MARGIN * limit_factor(n))
    errors = proposal.known_errors
    return None if errors is None else proposal.with_schedule(errors.fewest(goal))


@torch.no_grad()
def measure_errors(
    proposal: Steppable,
    spreads: Sequence[float] = (1e-3, 3e-5),
    *,
    n: int = 16,
    probes: int = 8,
    generator: torch.Generator | None = None,
) -> FlowErrors:
    """The errors of each interval at the numbers of steps that chains will need.

    Args:
        proposal: model, method and divergence; its own steps do not matter.
        spreads: standard deviations of the error in log q between which chains will choose.
        n: number of proposals.
        probes: random vectors of each step doubling.
        generator: random numbers; None for a fixed seed.

    Raises:
        DmmcError: if the density is inexact.
    """
    generator = torch.Generator(proposal.device).manual_seed(0) if generator is None else generator
    latents = proposal.latents(n, generator)
    errors = None
    for goal in spreads:
        errors = _measured(proposal, errors, latents, generator, goal, probes)
    if errors is None:
        raise DmmcError("errors are measured for at least one spread, and none was given")
    return errors


@torch.no_grad()
def _measured(
    proposal: Steppable,
    errors: FlowErrors | None,
    latents: Tensor,
    generator: torch.Generator,
    goal: float,
    probes: int,
) -> FlowErrors:
    """The errors, measured at the steps with which they add up to ``goal``; nothing is measured again."""
    double = proposal.to_float64()
    order = METHODS[proposal.method].order
    schedule = (2,) * proposal.intervals if errors is None else errors.fewest(goal)
    for _ in range(_ROUNDS):
        if errors is not None and errors.knows(schedule):
            break
        measured = double.with_schedule(schedule).interval_errors(latents.double(), generator, probes)
        found = [x if math.isfinite(x) else _RUN_AWAY for x in measured.std(1).tolist()]
        nothing = FlowErrors(proposal.method, order, tuple(((n, x),) for n, x in zip(schedule, found, strict=True)))
        errors = nothing if errors is None else errors.with_measured(schedule, tuple(found))
        schedule = errors.fewest(goal)
    assert errors is not None  # there is at least one round
    return errors

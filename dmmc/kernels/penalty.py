"""The penalty method: Metropolis with a noisy difference of log weights, approximately corrected.

Ceperley, Dewing, J. Chem. Phys. 110 (1999) 9812 (cond-mat/9812055). Let ``d`` estimate ``log w - log w'`` with Gaussian
noise of variance ``s2``, drawn anew at every step for both fields. Accepting with probability

    min(1, exp(-d - s2 / 2))

satisfies detailed balance on average over the noise, exactly: the penalty ``s2 / 2`` makes up for ``E[exp(noise)]``.
The price is acceptance, ``erfc((s2 / 8)^(1/2))`` at equal weights. With k estimates of d, let d now be their mean and
``x = s^2 / k`` the measured variance of that mean. The penalty is then

    u = x/2 + x^2 / (4 (k + 1)) + x^3 / (3 (k + 1) (k + 3)),

the first terms of the function with ``E[exp(-u)] = exp(-s2 / 2)``. Detailed balance is violated by ``O(s2^2/k^2)`` (by
``O(s2^2/k)`` with ``x/2`` alone) if the noise is Gaussian, and by its third cumulant if it is not. The method is
therefore an approximate correction. Keep ``x < k / 4``, where the series makes sense; the statistic
``noise_variance`` of the chain shows x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.kernels.base import Info, Kernel, State, metropolis, start_state, uniform, valid_or_rejected
from dmmc.theory.actions import Action, lattice_of
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice


class NoisyProposal(Protocol):
    """Independent fields whose log density is an unbiased estimate, such as a flow with Hutchinson's divergence."""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)``; the density that comes with them is not used."""
        ...

    def log_q(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """An independent estimate of the log density of each of ``phi``, ``(n,)``, new at every call."""
        ...

    @property
    def evaluations(self) -> int:
        """Network evaluations for one proposal."""
        ...

    def describe(self) -> dict[str, Any]:
        """Identity as JSON values."""
        ...


@dataclass(frozen=True)
class PenaltyInfo(Info):
    """What a step reports, ``(n,)`` each.

    Attributes:
        noise_variance: variance of the mean difference of log weights, measured or known.
    """

    noise_variance: Tensor


def penalty(variance: Tensor, n_estimates: int | None) -> Tensor:
    """The penalty u that makes up for the noise in the acceptance.

    Args:
        variance: variance of the mean difference of log weights.
        n_estimates: k, the number of estimates from which ``variance`` was measured, at least 2; None if it is known.

    Returns:
        u, of the shape of ``variance``.
    """
    x = variance
    if n_estimates is None:
        return x / 2
    k = n_estimates
    return x / 2 + x**2 / (4 * (k + 1)) + x**3 / (3 * (k + 1) * (k + 3))


@dataclass(frozen=True)
class Penalty(Kernel[State]):
    """Independence Metropolis with an estimated log q and the penalty of Ceperley and Dewing: approximate.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on, with fields of as many components as the action declares.
        proposal: independent fields, and estimates of their log density.
        n_estimates: k, the number of estimates of each difference of log weights, at least 2 unless the variance is
            known.
        variance: the variance of one estimate of log q at given fields, ``(n, *lattice) -> (n,)``, where it is known;
            None to measure it. If it is known, and the noise is Gaussian, the chain is exact.
        allow_inexact: must be True, since the method is an approximation; all its output is marked as such.

    Raises:
        DmmcError: if ``allow_inexact`` is not True, or ``n_estimates`` is out of its range.
    """

    action: Action
    lattice: Lattice
    proposal: NoisyProposal
    n_estimates: int = 8
    variance: Callable[[Tensor], Tensor] | None = None
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", lattice_of(self.action, self.lattice))
        if not self.allow_inexact:
            raise DmmcError(
                "the penalty method is an approximation: use Independence with an exact divergence, "
                "or pass allow_inexact=True, and every output will be marked inexact"
            )
        least = 2 if self.variance is None else 1
        if self.n_estimates < least or self.n_estimates != int(self.n_estimates):
            raise DmmcError(f"n_estimates must be an integer of at least {least}, got {self.n_estimates}")

    @property
    def facts(self) -> KernelFacts:
        variance = "measured" if self.variance is None else "known"
        reason = f"penalty method, variance {variance}: exact only for Gaussian noise of known variance"
        return KernelFacts("penalty", inexact=reason)

    @property
    def cost(self) -> dict[str, int]:
        """One proposal, and k estimates of log q both for it and for the present field."""
        return {"network": (1 + 2 * self.n_estimates) * self.proposal.evaluations}

    def describe(self) -> dict[str, Any]:
        return {
            "name": "penalty",
            "proposal": self.proposal.describe(),
            "n_estimates": self.n_estimates,
            "variance": "measured" if self.variance is None else "known",
        }

    @torch.no_grad()
    def initial(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` proposals."""
        return start_state(self.action, self.lattice, self.proposal.sample(n, generator)[0], generator.device)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, PenaltyInfo]:
        """One step.

        Raises:
            DmmcError: if the proposal returns log_q of a wrong shape.
        """
        n, k = len(state.phi), self.n_estimates
        phi = self.proposal.sample(n, generator)[0].to(torch.float64)
        proposed = State(phi, evaluate(self.action, phi))
        both = torch.cat([state.phi, phi])
        log_q = self.proposal.log_q(both.repeat(k, *(1,) * self.lattice.dim), generator)
        if log_q.shape != (2 * k * n,):
            raise DmmcError(f"the proposal must report log_q of shape ({2 * k * n},); got {tuple(log_q.shape)}")
        here, there = log_q.to(torch.float64).view(k, 2, n).unbind(1)
        difference = there - here  # of log q; each estimate has its own noise
        if self.variance is None:
            variance = difference.var(0) / k
            u = penalty(variance, k)
        else:
            variance = self.variance(both).to(torch.float64).view(2, n).sum(0) / k
            u = penalty(variance, None)
        log_ratio = valid_or_rejected(state.S - proposed.S - difference.mean(0) - u, phi)
        new, accepted, rate = metropolis(state, proposed, log_ratio, uniform(n, generator, like=phi))
        return new, PenaltyInfo(accepted, rate, variance)

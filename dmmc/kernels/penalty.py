"""The penalty method: Metropolis with a noisy difference of log weights, approximately corrected.

Ceperley, Dewing, J. Chem. Phys. 110 (1999) 9812 (cond-mat/9812055). Let ``d`` estimate ``log w - log w'`` with Gaussian
noise of variance ``s2``, drawn anew at every step for both fields. Accepting with

    min(1, exp(-d - s2 / 2))

satisfies detailed balance on average over the noise, exactly: the penalty ``s2 / 2`` makes up for ``E[exp(noise)]``.
The price is acceptance, ``erfc((s2 / 8)^(1/2))`` at equal weights. With k estimates of d, mean d and variance of the
mean ``x = s^2 / k`` measured, the penalty is their

    u = x/2 + x^2 / (4 (k + 1)) + x^3 / (3 (k + 1) (k + 3)),

the first terms of the function with ``E[exp(-u)] = exp(-s2 / 2)``. Detailed balance is then violated by ``O(s2^2/k^2)``
(by ``O(s2^2/k)`` with ``x/2`` alone) if the noise is Gaussian, and by its third cumulant if it is not. Hence this is an
approximate correction. Keep ``x < k / 4``, where the series makes sense; ``noise_variance`` of the chain shows x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, start_state
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


class NoisyProposal(Protocol):
    """Independent fields whose log density is an unbiased estimate, such as a flow with Hutchinson's divergence."""

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` fields ``(n, *lattice)``; what comes with them is not used."""
        ...

    def log_q(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """An independent estimate of the log density of each of ``phi``, ``(n,)``, new at every call."""
        ...

    @property
    def evaluations(self) -> int:
        """Network evaluations of one proposal."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity."""
        ...


def penalty(variance: Tensor, n_estimates: int | None) -> Tensor:
    """What the acceptance pays for noise.

    Args:
        variance: that of the mean difference.
        n_estimates: k, estimates from which ``variance`` was measured, at least 2; None if it is known.

    Returns:
        u, the shape of ``variance``.
    """
    x = variance
    if n_estimates is None:
        return x / 2
    k = n_estimates
    return x / 2 + x**2 / (4 * (k + 1)) + x**3 / (3 * (k + 1) * (k + 3))


@dataclass(frozen=True)
class Penalty:
    """Independence Metropolis with estimated log q and the penalty of Ceperley and Dewing: approximate.

    Args:
        action: the target.
        lattice: where.
        proposal: fields, and estimates of their log q.
        n_estimates: k, estimates of each difference of log weights, at least 2 unless the variance is known.
        variance: variance of one estimate of log q at given fields, ``(n, *lattice) -> (n,)``, where it is known;
            None to measure it. If it is known, and the noise Gaussian, the chain is exact.
        allow_inexact: must be True: the method is an approximation, and all its output is marked so.

    Raises:
        DmmcError: if ``allow_inexact`` is not True, or ``n_estimates`` out of its range.
    """

    action: Action
    lattice: Lattice
    proposal: NoisyProposal
    n_estimates: int = 8
    variance: Callable[[Tensor], Tensor] | None = None
    allow_inexact: bool = False

    def __post_init__(self) -> None:
        if not self.allow_inexact:
            raise DmmcError(
                "the penalty method is an approximation: use Independence with an exact divergence, "
                "or pass allow_inexact=True, and every output will be marked inexact"
            )
        least = 2 if self.variance is None else 1
        if self.n_estimates < least or self.n_estimates != int(self.n_estimates):
            raise DmmcError(f"n_estimates must be an integer of at least {least}, got {self.n_estimates}")

    @property
    def evaluations(self) -> dict[str, int]:
        """Those of a proposal, and of k estimates of log q for it and for the present field."""
        return {"network": (1 + 2 * self.n_estimates) * self.proposal.evaluations}

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``; no weight is carried along.

        Raises:
            DmmcError: as :func:`dmmc.kernels.base.start_state`.
        """
        return start_state(self.action, self.lattice, phi)

    def start_from_proposals(self, n: int, generator: torch.Generator) -> State:
        """Chains that begin at ``n`` fields from the proposal."""
        return self.start(self.proposal.sample(n, generator)[0])

    @torch.no_grad()
    def _step(self, state: State, generator: torch.Generator) -> tuple[State, dict[str, Tensor]]:
        n, k = len(state.phi), self.n_estimates
        phi = self.proposal.sample(n, generator)[0].to(torch.float64)
        S = self.action(phi)
        both = torch.cat([state.phi, phi])
        found = self.proposal.log_q(both.repeat(k, *(1,) * self.lattice.dim), generator)
        if found.shape != (2 * k * n,):
            raise DmmcError(f"the proposal must report log_q of shape ({2 * k * n},); got {tuple(found.shape)}")
        here, there = found.to(torch.float64).view(k, 2, n).unbind(1)
        difference = there - here  # of log q; each estimate has its own noise
        if self.variance is None:
            variance = difference.var(0) / k
            u = penalty(variance, k)
        else:
            variance = self.variance(both).to(torch.float64).view(2, n).sum(0) / k
            u = penalty(variance, None)
        log_ratio = state.S - S - difference.mean(0) - u
        uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=phi.device)
        # A comparison with NaN is False: what is not finite is rejected.
        accepted = (uniform.log() < log_ratio) & torch.isfinite(phi).flatten(1).all(1) & torch.isfinite(S)
        keep = accepted.view(-1, *(1,) * self.lattice.dim)
        new = State(phi=torch.where(keep, phi, state.phi), S=torch.where(accepted, S, state.S))
        return new, {"accepted": accepted, "noise_variance": variance}

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """``n`` steps; after each, the state and its statistics.

        Statistics, ``(n_chains,)``: ``accepted``, and ``noise_variance`` of the mean difference of log weights.

        Raises:
            DmmcError: if the proposal returns log_q of a wrong shape.
        """
        for _ in range(n):
            state, statistics = self._step(state, generator)
            yield state, statistics

    def describe(self) -> dict[str, Any]:
        """Name, numbers, proposal, and that the chain is inexact."""
        variance = "measured" if self.variance is None else "known"
        return {
            "name": "penalty",
            "proposal": self.proposal.describe(),
            "n_estimates": self.n_estimates,
            "variance": variance,
            "inexact": True,
            "inexact_reason": f"penalty method, variance {variance}: exact only for Gaussian noise of known variance",
        }

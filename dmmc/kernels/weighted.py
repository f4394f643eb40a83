"""Metropolis with weights: what the kernels share whose state carries ``log w = -S(phi) - log q(phi)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.kernels.base import Info, WeightedState, log_weight, metropolis, uniform, valid_or_rejected
from dmmc.proposals.checked import checked_sample
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice

WeightedT = TypeVar("WeightedT", bound=WeightedState)


@dataclass(frozen=True)
class WeightedInfo(Info):
    """What a step with weights reports, ``(n,)`` each.

    Attributes:
        log_q: log density of the proposal at the state after the step.
        log_w: log weight of the state after the step.
        log_w_proposed: log weight of the proposal; ``-inf`` for one that was not finite and hence rejected.
    """

    log_q: Tensor
    log_w: Tensor
    log_w_proposed: Tensor


def weigh(action: Action, lattice: Lattice, phi: Tensor, log_q: Tensor, n: int) -> WeightedState:
    """Proposed fields with their weights, all float64; log_w is ``-inf`` where anything is not finite.

    Args:
        action: the action that is sampled.
        lattice: the lattice of the fields.
        phi: what the proposal returned as ``n`` fields.
        log_q: what it returned as their log density.
        n: how many there should be.

    Raises:
        DmmcError: if fields or log_q have a wrong shape.
    """
    phi, log_q = checked_sample(phi, log_q, n, lattice)
    S = evaluate(action, phi)
    return WeightedState(phi, S, log_q, valid_or_rejected(log_weight(S, log_q), phi))


def weighted(phi: Tensor, S: Tensor, log_q: Tensor) -> WeightedState:
    """The state of chains at given fields, actions and densities.

    Raises:
        DmmcError: if a weight is not finite.
    """
    log_q = log_q.to(S)
    log_w = log_weight(S, log_q)
    if not bool(torch.isfinite(log_w).all()):
        raise DmmcError("the weight of an initial configuration is not finite; start from other fields")
    return WeightedState(phi, S, log_q, log_w)


def weighted_step(state: WeightedT, proposed: WeightedT, u: Tensor) -> tuple[WeightedT, WeightedInfo]:
    """Metropolis with the ratio of the weights; ``u`` are random numbers from [0, 1), ``(n,)``."""
    new, accepted, rate = metropolis(state, proposed, proposed.log_w - state.log_w, u)
    return new, WeightedInfo(accepted, rate, new.log_q, new.log_w, proposed.log_w)


def independent_steps(
    state: WeightedT, proposals: WeightedT, n: int, generator: torch.Generator
) -> Iterator[tuple[WeightedT, WeightedInfo]]:
    """``n`` Metropolis steps with proposals that do not depend on the chains.

    Args:
        state: the present state.
        proposals: the proposals of all steps, those of the first step first: n times as many as there are chains.
        n: number of steps.
        generator: source of randomness.
    """
    chains = len(state.phi)
    u = uniform(n * chains, generator, like=proposals.phi)
    for i in range(n):
        here = slice(i * chains, (i + 1) * chains)
        proposed = type(state)(**{name: value[here] for name, value in proposals.tensors().items()})
        state, info = weighted_step(state, proposed, u[here])
        yield state, info


def begun(proposals: WeightedT) -> WeightedT:
    """Proposals at which chains begin.

    Raises:
        DmmcError: if the weight of one of them is not finite.
    """
    if not bool(torch.isfinite(proposals.log_w).all()):
        raise DmmcError("the weight of an initial proposal is not finite; check the model, or start from fields")
    return proposals

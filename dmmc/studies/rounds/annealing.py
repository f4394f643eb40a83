"""Annealing: a path of actions, and how far the proposals of a model reach along it.

A model that proposes well for one action proposes less well for the next. As long as the effective sample size of its
proposals is not too small, a chain of them is a sample of the next action, and the model can be trained on that. Where
it is too small, the step is bisected: between any two actions there are mixtures of them
(:class:`dmmc.theory.mixture.Mixture`), and both actions of the proposals are known already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc import diagnostics
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.base import WeightedState, log_weight, valid_or_rejected
from dmmc.kernels.weighted import begun, independent_steps
from dmmc.studies.sampling import predicted_discard
from dmmc.theory.actions import Action, components_of, declaration
from dmmc.theory.evaluation import stored_actions
from dmmc.theory.free_field import FreeField
from dmmc.theory.mixture import Mixture

SMALLEST_STEP = 1 / 64
"""Part of the rest of the way between two actions to which the longest step is found; it is also the shortest."""

CHAINS = 4
"""Parallel chains that the fields of a round are taken from."""


def free_start(action: Action) -> FreeField:
    """A free field of mass 1 with the kinetic term of an action, from which annealing to this action can begin.

    The kinetic term is that of the hopping term, if the action declares one; otherwise that of phi^4 near its critical
    line, ``hopping = 1/2`` in the hopping form, for a field of the declared ``scale``.
    """
    said = declaration(action)
    hopping = 0.5 / said.scale**2 if said.hopping is None or said.hopping <= 0 else said.hopping
    return FreeField(1.0, hopping**-0.5, said.components)


@dataclass(frozen=True)
class Position:
    """A place on a path.

    Attributes:
        stage: number of the action towards which the last step went, from 0.
        share: the part of the way from the action before it that is done, 0 to 1.
    """

    stage: int
    share: float


@dataclass(frozen=True)
class ActionPath:
    """A path of actions.

    Args:
        start: the action that the model begins with; None if it is not known.
        actions: the actions that are passed, one after another.

    Raises:
        DmmcError: if there is none.
        MismatchError: if their fields have different numbers of components.
    """

    start: Action | None
    actions: tuple[Action, ...]

    def __post_init__(self) -> None:
        if not self.actions:
            raise DmmcError("a path of actions needs at least one")
        kinds = {components_of(action) for action in (self.start or self.actions[0], *self.actions)}
        if len(kinds) > 1:
            raise MismatchError(f"the fields of the actions of a path have different numbers of components: {kinds}")

    @property
    def end(self) -> Position:
        """The last action."""
        return Position(len(self.actions) - 1, 1.0)

    def before(self, stage: int) -> Action | None:
        """The action before that of a stage."""
        return self.start if stage == 0 else self.actions[stage - 1]

    def at(self, position: Position) -> Action:
        """The action at a place.

        Raises:
            DmmcError: if it lies between two actions of which the first is not known.
        """
        end, start = self.actions[position.stage], self.before(position.stage)
        if position.share == 1:
            return end
        if start is None:
            raise DmmcError("the action that the model was trained for is not known, so there is nothing in between")
        return Mixture(start, end, position.share)

    def after(self, position: Position) -> tuple[int, float]:
        """The stage that comes next, and the share of its way that is done; at the end, the end itself."""
        if position.share < 1:
            return position.stage, position.share
        return (position.stage + 1, 0.0) if position.stage < self.end.stage else (position.stage, 1.0)


@dataclass(frozen=True)
class Step:
    """A step along a path, with the proposals as they count there.

    Attributes:
        position: where it ends.
        action: the action there.
        proposals: the proposals weighed with it.
    """

    position: Position
    action: Action
    proposals: WeightedState

    @property
    def ess(self) -> float:
        """Effective sample size, per proposal."""
        return diagnostics.ess_fraction(self.proposals.log_w.cpu().numpy())


def next_step(path: ActionPath, position: Position, phi: Tensor, log_q: Tensor, least_ess: float) -> Step:
    """The longest step along a path that proposals support, to the next action or to a mixture on the way there.

    A step to the next action that they do not support is bisected, at no further cost than one evaluation of the action
    before it.

    Args:
        path: the path.
        position: where the model stands.
        phi: its proposals ``(n, *lattice)`` float64.
        log_q: their log density ``(n,)``.
        least_ess: effective sample size per proposal that a step needs; the shortest step is taken whatever it is, and
            so is one that starts from an action which is not known.

    Raises:
        DmmcError: if an action fails, or no proposal has a weight.
    """
    stage, done = path.after(position)
    start, end = path.before(stage), stored_actions(path.actions[stage], phi)
    step = _weighed(path, Position(stage, 1.0), phi, log_q, end)
    if done < 1 and start is not None and step.ess < least_ess:
        first = stored_actions(start, phi)
        step = _longest(
            lambda share: _weighed(path, Position(stage, share), phi, log_q, (1 - share) * first + share * end),
            done,
            least_ess,
        )
    if step.ess == 0:
        raise DmmcError(
            "no proposal of the model has a weight for the next action; train for more steps, or take actions that are "
            "closer to each other"
        )
    return step


def _longest(step_to: Callable[[float], Step], done: float, least_ess: float) -> Step:
    """By bisection, the longest of the steps beyond ``done`` and short of the whole way that have the ESS they need."""
    smallest = SMALLEST_STEP * (1 - done)
    supported, too_far = done, 1.0
    while too_far - supported > smallest:
        share = (supported + too_far) / 2
        supported, too_far = (share, too_far) if step_to(share).ess >= least_ess else (supported, share)
    return step_to(max(supported, done + smallest))


def _weighed(path: ActionPath, position: Position, phi: Tensor, log_q: Tensor, S: Tensor) -> Step:
    log_w = valid_or_rejected(log_weight(S, log_q), phi)
    return Step(position, path.at(position), WeightedState(phi, S, log_q, log_w))


def chain_of(step: Step, generator: torch.Generator) -> Tensor:
    """The exact chain of the proposals of a step: the number of the proposal at each of its draws, ``(m,)``.

    Several chains run side by side; what they have done before they have forgotten their first proposals is left out.
    All chains of one draw follow each other.

    Raises:
        DmmcError: if there are too few proposals for a chain.
    """
    proposals = step.proposals
    n = len(proposals.phi) // CHAINS
    if n < 2:
        raise DmmcError(f"a round needs at least {2 * CHAINS} proposals, got {len(proposals.phi)}")
    # Chains begin at proposals of a weight; others can only be left.
    order = torch.isneginf(proposals.log_w).to(torch.int8).argsort(stable=True)[: n * CHAINS]
    weighed = {name: value[order] for name, value in proposals.tensors().items()}
    first = begun(WeightedState(**{name: value[:CHAINS] for name, value in weighed.items()}))
    others = WeightedState(**{name: value[CHAINS:] for name, value in weighed.items()})
    place = torch.arange(CHAINS, device=order.device)
    draws, here = [place], place
    for k, (_, info) in enumerate(independent_steps(first, others, n - 1, generator), start=1):
        here = torch.where(info.accepted, k * CHAINS + place, here)
        draws.append(here)
    discard = min(predicted_discard(proposals.log_w.cpu().numpy()), n // 2)
    return order[torch.cat(draws[discard:])]

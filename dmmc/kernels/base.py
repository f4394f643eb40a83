"""The contract of a Markov kernel, and the Metropolis step that all kernels share.

A kernel advances many parallel chains at once. It is a small frozen object; what changes from step to step lives in
its *state*, what a step reports lives in its *info*, and what is random comes from the generator that it is handed.
Each kernel owns the types of its state and info. The code that runs chains, stores them and reports on them knows a
kernel only by the protocols of this module, and never asks for its name or type.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice


class Tensors:
    """Base of frozen dataclasses whose fields are tensors, or None where there is nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are not None, by name: what is stored."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class State(Tensors):
    """The configurations of ``n`` parallel chains. Kernels that carry more derive a state of their own.

    Attributes:
        phi: fields, ``(n, *lattice)``, float64.
        S: their actions, ``(n,)``, float64.
    """

    phi: Tensor
    S: Tensor


@dataclass(frozen=True)
class WeightedState(State):
    """A state that carries the weight of its own fields.

    Attributes:
        log_q: log density of the proposal at ``phi``, ``(n,)``, float64.
        log_w: ``-S - log_q`` of the same fields, ``(n,)``, float64.
    """

    log_q: Tensor
    log_w: Tensor


@dataclass(frozen=True)
class Info(Tensors):
    """What a step reports, ``(n,)`` each; recorded with every draw. Kernels that report more derive one of their own.

    Attributes:
        accepted: whether the proposal was accepted, bool.
        acceptance_rate: the probability with which it was to be accepted, float64.
    """

    accepted: Tensor
    acceptance_rate: Tensor


StateT = TypeVar("StateT", bound=State)
AnyState = TypeVar("AnyState", bound=State)
Result = tuple[AnyState, Info]


class Kernel(Protocol[StateT]):
    """A Markov kernel that leaves ``exp(-S)`` invariant.

    A kernel of your own derives from this class and defines ``action``, ``lattice``, ``facts``, ``describe``,
    ``initial`` and ``step``; without one of the last four Python refuses to make an instance. Where the state holds
    more than fields and actions, define ``start`` and ``restore`` as well. The rest has defaults.
    """

    if TYPE_CHECKING:  # a dataclass would take these properties for the defaults of its fields of the same name

        @property
        def action(self) -> Action:
            """The action that is sampled."""
            ...

        @property
        def lattice(self) -> Lattice:
            """The lattice that the chains live on."""
            ...

    @property
    @abstractmethod
    def facts(self) -> KernelFacts:
        """What others need to know about the kernel."""
        ...

    @property
    def cost(self) -> Mapping[str, float]:
        """What one step of one chain costs: evaluations of the ``force`` dS/dphi, or of the ``network``, by name.

        Where a step does one thing or another, this is the mean.
        """
        return {}

    @property
    def start_cost(self) -> Mapping[str, float]:
        """What :meth:`start` costs for each chain, in the same units; a cycle starts each of its parts again."""
        return {}

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name and parameters as JSON values; recorded with a chain, and compared when the chain is resumed."""
        ...

    @abstractmethod
    def initial(self, n: int, generator: torch.Generator) -> StateT:
        """The state of ``n`` chains at fields that the kernel chooses itself."""
        ...

    def start(self, phi: Tensor, generator: torch.Generator) -> StateT:
        """The state of chains that begin at given fields ``(n, *lattice)``, on the device of the generator.

        Raises:
            DmmcError: as :func:`start_state`.
        """
        return start_state(self.action, self.lattice, phi, generator.device)  # type: ignore[return-value]  # the default type of states

    def restore(self, tensors: Mapping[str, Tensor]) -> StateT:
        """The state that was stored as ``state.tensors()``."""
        return State(**tensors)  # type: ignore[return-value]  # the default type of states

    def tune(self, state: StateT, generator: torch.Generator, n_steps: int = 60) -> tuple[Self, StateT]:
        """Adapt the kernel's parameters while the chains thermalise.

        Args:
            state: the present state of the chains.
            generator: source of randomness.
            n_steps: steps to spend. They are not part of the chain.

        Returns:
            the tuned kernel, whose parameters are then fixed, and the state after ``n_steps`` steps. By default
            nothing is tuned, and the kernel and the state are returned as they are.
        """
        return self, state

    @abstractmethod
    def step(self, state: StateT, generator: torch.Generator) -> tuple[StateT, Info]:
        """One step of all chains: the new state, and what the step reports."""
        ...

    def steps(self, state: StateT, n: int, generator: torch.Generator) -> Iterator[tuple[StateT, Info]]:
        """``n`` steps, one after another. A kernel overrides this if it makes the proposals of many steps at once."""
        for _ in range(n):
            state, info = self.step(state, generator)
            yield state, info


AT_ONCE = 16
"""Steps that :func:`in_pieces` asks for at once: kernels may make the proposals of all of them together."""


def in_pieces(
    kernel: Kernel[StateT], state: StateT, n: int, generator: torch.Generator
) -> Iterator[tuple[StateT, Info]]:
    """``n`` steps, one after another, however many: as ``kernel.steps``, with the memory of a few steps at a time."""
    for done in range(0, n, AT_ONCE):
        for later, info in kernel.steps(state, min(AT_ONCE, n - done), generator):
            if not isinstance(info, Info):
                got = type(info).__name__
                raise DmmcError(f"a step of the kernel {kernel.facts.name!r} must report an Info of tensors; got {got}")
            state = later
            yield later, info


def advance(kernel: Kernel[StateT], state: StateT, n: int, generator: torch.Generator) -> StateT:
    """The state ``n`` steps later."""
    for later, _ in in_pieces(kernel, state, n, generator):
        state = later
    return state


def identity(kernel: Kernel[Any]) -> str:
    """What is sampled, and how, as text: the part of a stream's name by which chains share no random numbers.

    Raises:
        DmmcError: if the kernel or the action describes itself by anything but JSON values.
    """
    parts = [kernel.describe(), kernel.action.describe(), kernel.lattice.field_shape]
    try:
        return json.dumps(parts, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise DmmcError(f"describe() of a kernel and of its action must return JSON values: {error}") from None


@torch.no_grad()
def start_state(action: Action, lattice: Lattice, phi: Tensor, device: torch.device) -> State:
    """Check initial fields, and evaluate their action in float64.

    Args:
        action: the action that is sampled.
        lattice: the lattice that the chains live on.
        phi: fields, ``(n, *lattice)``; they are copied.
        device: where the chains run, which is where their random numbers are made.

    Raises:
        DmmcError: if ``phi`` is not finite ``(n, *lattice)``, the action returns something of another shape or type
            than it should, or the action of one of the fields is not finite.
    """
    lattice.check(phi, "initial phi")
    phi = phi.detach().to(device, torch.float64, copy=True)
    S = evaluate(action, phi)
    if not bool(torch.isfinite(S).all()):
        n, what = int((~torch.isfinite(S)).sum()), "NaN" if bool(torch.isnan(S).any()) else "infinite"
        raise DmmcError(
            f"the action of an initial configuration is not finite ({what}, for {n} of {len(S)} "
            "fields); put the action right, which dmmc check-action can test, or start from other fields"
        )
    return State(phi=phi, S=S)


def log_weight(S: Tensor, log_q: Tensor) -> Tensor:
    """``log w = -S - log q``, ``(n,)``."""
    return -S - log_q


def valid_or_rejected(log_ratio: Tensor, phi: Tensor) -> Tensor:
    """``log_ratio`` ``(n,)``, with ``-inf`` where it or a field of ``phi`` is not finite, so that it is rejected."""
    valid = torch.isfinite(log_ratio) & torch.isfinite(phi).flatten(1).all(1)
    return torch.where(valid, log_ratio, -torch.inf)


def choose(accepted: Tensor, proposed: StateT, state: StateT) -> StateT:
    """The state that takes its chains from ``proposed`` where ``accepted`` ``(n,)``, and from ``state`` elsewhere."""
    new, old = proposed.tensors(), state.tensors()
    chosen = {
        name: torch.where(accepted.view(-1, *(1,) * (value.ndim - 1)), new[name], value) for name, value in old.items()
    }
    return type(state)(**chosen)


def metropolis(state: StateT, proposed: StateT, log_ratio: Tensor, uniform: Tensor) -> tuple[StateT, Tensor, Tensor]:
    """The Metropolis step: each chain moves to ``proposed`` with probability ``min(1, exp(log_ratio))``.

    Args:
        state: the present state.
        proposed: the proposed state; everything that a state carries moves together.
        log_ratio: logarithm of the ratio that detailed balance asks for, ``(n,)``; ``-inf`` or NaN is a rejection.
        uniform: random numbers from [0, 1), ``(n,)``.

    Returns:
        the new state, which chains moved ``(n,)`` bool, and the probability with which they were to move ``(n,)``.
    """
    probability = torch.exp(log_ratio.clamp(max=0.0)).nan_to_num(nan=0.0)
    accepted = uniform < probability
    return choose(accepted, proposed, state), accepted, probability


def uniform(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """``n`` random numbers from [0, 1), float64, on the device of ``like``."""
    return rng.uniform((n,), generator, device=like.device)


def refuse_inexact(inexact: str, allow_inexact: bool) -> None:
    """Refuse a kernel that would not sample ``exp(-S)``, unless the user wants one.

    Args:
        inexact: why the chain is not exact; empty if it is.
        allow_inexact: whether the user accepts that.

    Raises:
        DmmcError: if the kernel is not exact and that was not allowed.
    """
    if inexact and not allow_inexact:
        raise DmmcError(
            f"this chain would not sample exp(-S): {inexact}; use an exact divergence, "
            "or pass allow_inexact=True, and every output will be marked inexact"
        )

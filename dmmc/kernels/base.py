"""What every Markov kernel shares: the state of a set of parallel chains, and the protocol.

A kernel advances many chains at once. It is a small frozen object; what changes lives in :class:`State`,
what is random comes from the generator that it is handed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


@dataclass(frozen=True)
class State:
    """The current configurations of ``n`` parallel chains.

    Attributes:
        phi: fields, ``(n, *lattice)``, float64.
        S: actions, ``(n,)``, float64.
        log_q: log density of the proposal at ``phi``, ``(n,)``, float64; None for kernels without one.
        log_w: ``-S - log_q``, carried along so that it is always that of the current ``phi``.
        latent: latent field of ``phi``, ``(n, *lattice)``, for the kernel that moves in latent space.
    """

    phi: Tensor
    S: Tensor
    log_q: Tensor | None = None
    log_w: Tensor | None = None
    latent: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are not None, by name: what a checkpoint stores."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


class Kernel(Protocol):
    """A Markov kernel that leaves ``exp(-S)`` invariant."""

    @property
    def action(self) -> Action:
        """What is sampled."""
        ...

    @property
    def lattice(self) -> Lattice:
        """Where."""
        ...

    @property
    def evaluations(self) -> dict[str, int]:
        """What a step of one chain costs: evaluations of the ``force`` dS/dphi, of the ``network`` with its trace."""
        ...

    def start(self, phi: Tensor) -> State:
        """The state of chains that begin at ``phi``, ``(n, *lattice)``."""
        ...

    def steps(self, state: State, n: int, generator: torch.Generator) -> Iterator[tuple[State, dict[str, Tensor]]]:
        """Advance by ``n`` steps; after each, yield the new state and its statistics, ``(n_chains,)`` each.

        Every kernel reports ``accepted`` (bool). Statistics are what ArviZ calls ``sample_stats``.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Name and parameters as JSON-ready values: what a chain file records and compares on resumption."""
        ...


def inexact_mark(proposal: object, allow_inexact: bool) -> dict[str, Any]:
    """What a kernel adds to its description: nothing, or that it is inexact and why.

    Args:
        proposal: one whose log q is an estimate has ``exact = False``, and says why in ``inexact``.
        allow_inexact: whether the user wants such a proposal.

    Raises:
        DmmcError: if the proposal is not exact and that is not allowed.
    """
    if getattr(proposal, "exact", True):
        return {}
    reason = str(getattr(proposal, "inexact", "") or "the proposal declares its log q an estimate")
    if not allow_inexact:
        raise DmmcError(
            f"this chain would not sample exp(-S): {reason}; use an exact divergence, "
            "or pass allow_inexact=True, and every output will be marked inexact"
        )
    return {"inexact": True, "inexact_reason": reason}


def start_state(action: Action, lattice: Lattice, phi: Tensor) -> State:
    """Check the initial fields and evaluate their action in float64.

    Raises:
        DmmcError: if ``phi`` is not finite ``(n, *lattice)``, or S of any of them is not finite.
    """
    lattice.check(phi, "initial phi")
    phi = phi.detach().to(torch.float64).clone()
    S = action(phi)
    if not bool(torch.isfinite(S).all()):
        raise DmmcError("the action of an initial configuration is not finite; start from other fields")
    return State(phi=phi, S=S)

"""Proposals of dmmc in the independence Metropolis kernel of blackjax, ``blackjax.irmh``.

::

    chain = Irmh(proposal, action, lattice)
    kernel = blackjax.irmh(*chain.functions)
    state = kernel.init(chain.start(key))
    state, info = jax.jit(kernel.step)(key, state)
    state.position.phi                      # the field

The position of a chain is a field with its log q (:class:`Position`), so that a step costs one proposal; the log q of
the present field is never evaluated again. ``jax.vmap`` over keys and states runs many chains, whose proposals are made
together.

blackjax is not imported here. Its signatures are those of version 1.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dmmc.interop.jax_callbacks import action_for, log_q_for, sample_for
from dmmc.proposals.base import Proposal
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice


class Position(NamedTuple):
    """Where a chain is.

    Attributes:
        phi: the field, ``lattice``.
        log_q: its log density in the law of the proposals.
    """

    phi: Any
    log_q: Any


class Irmh:
    """What ``blackjax.irmh`` takes, for chains of ``exp(-S)`` with proposals of dmmc.

    Args:
        proposal: where fields come from.
        action: the action; or a function of JAX that returns S of one field.
        lattice: the lattice of the fields.

    Raises:
        DmmcError: if log q of the proposal is only an estimate.
    """

    def __init__(self, proposal: Proposal, action: Action | Callable[[Any], Any], lattice: Lattice) -> None:
        self._S = action_for(action, lattice) if isinstance(action, Action) else action
        self._sample = sample_for(proposal, lattice)
        self._log_q = log_q_for(proposal, lattice)

    @property
    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        """``logdensity_fn``, ``proposal_distribution`` and ``proposal_logdensity_fn``, in this order."""
        return (
            lambda position: -self._S(position.phi),
            lambda key: Position(*self._sample(key)),
            lambda _, to: to.position.log_q,  # blackjax gives the states between which it moves
        )

    def start(self, key: Any) -> Position:
        """A proposal to begin with."""
        return Position(*self._sample(key))

    def at(self, phi: Any) -> Position:
        """The position of a given field, whose density is evaluated."""
        return Position(phi, self._log_q(phi))

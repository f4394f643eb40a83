"""Distributions and actions of bijx (M. Gerdes; on PyPI) in dmmc, and proposals and actions of dmmc there.

=========================  ===========================================================================================
:class:`JaxAction`         an action in dmmc, such as ``lambda phi: bijx.lattice.scalar.phi4_term(phi, m2, lam).sum()``
:func:`proposal_from`      a distribution of bijx, such as a flow, as a proposal in the chains of dmmc
:func:`action_for`         an action of dmmc as a function of JAX; its negative is ``target_log_prob`` of ``bijx.IMH``
:class:`DistributionFor`   a proposal of dmmc as a distribution of bijx
=========================  ===========================================================================================

``phi4_term(phi, m2, lam)`` is the mass form, ``dmmc.Phi4.from_mass(m2, lam, dim)``, and ``phi4_term_alt(phi, kappa,
lam)`` the hopping form, ``dmmc.Phi4(kappa, lam)``, both with the field as there.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import bijx
import jax

from dmmc.core.errors import DmmcError
from dmmc.interop.jax_callbacks import JaxAction, JaxProposal, action_for, log_q_for, sample_for
from dmmc.proposals.base import Proposal
from dmmc.theory.lattice import Lattice

__all__ = ["DistributionFor", "JaxAction", "action_for", "proposal_from"]


def proposal_from(distribution: Any, label: str) -> JaxProposal:
    """A distribution of bijx as a proposal, for :class:`dmmc.Independence` or :func:`dmmc.propose`.

    Args:
        distribution: has ``sample(batch_shape, rng=key) -> (x, log_density)`` and ``log_density(x)``, for events
            ``lattice``.
        label: what files call it. A chain is resumed only with a distribution of the same label.

    Raises:
        DmmcError: if it has no such methods.
    """
    missing = [name for name in ("sample", "log_density") if not callable(getattr(distribution, name, None))]
    if missing:
        raise DmmcError(f"{type(distribution).__name__} has no {' and no '.join(missing)}; give a distribution of bijx")

    @lru_cache  # a compiled function for each number of fields
    def compiled(n: int) -> Any:
        return jax.jit(lambda key: distribution.sample((n,), rng=key))

    return JaxProposal(lambda n, key: compiled(n)(key), jax.jit(distribution.log_density), label)


class DistributionFor(bijx.ArrayDistribution):  # type: ignore[misc]  # bijx has no annotations
    """A proposal of dmmc as a distribution of bijx: the ``sampler`` of ``bijx.IMH``, for one.

    ``sample(batch_shape, rng)`` gives ``(fields, log_density)``, and ``log_density(x)`` takes fields
    ``(..., *lattice)``. Both work under ``jit`` and ``vmap``; gradients do not flow through them.

    Args:
        proposal: where fields come from.
        lattice: their lattice.
        rngs: for ``sample`` without a key, as in bijx.

    Raises:
        DmmcError: if log q of the proposal is only an estimate.
    """

    def __init__(self, proposal: Proposal, lattice: Lattice, rngs: Any = None) -> None:
        super().__init__(lattice.field_shape, rngs)
        self._sample = lru_cache(lambda n: sample_for(proposal, lattice, n))
        self._log_q = log_q_for(proposal, lattice)
        self._sample(())

    def sample(self, batch_shape: tuple[int, ...] = (), rng: Any = None, **_: Any) -> tuple[Any, Any]:
        shape = (batch_shape,) if isinstance(batch_shape, int) else tuple(batch_shape)
        if math.prod(shape) < 1:
            raise DmmcError(f"batch_shape must be a shape of positive extents, got {batch_shape}")
        return self._sample(shape)(self._get_rng(rng))

    def log_density(self, x: Any, **_: Any) -> Any:
        return self._log_q(x)

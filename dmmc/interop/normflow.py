"""Actions and flows of normflow (github.com/jkomijani/normflow) in dmmc, and those of dmmc there.

========================  ==========================================================================================
:func:`action_from`       their action in dmmc
:func:`proposal_from`     their flow as a proposal in the chains of dmmc
:class:`ActionFor`        an action of dmmc with the methods of theirs
:func:`model_parts_for`   a proposal of dmmc as ``prior`` and ``net_`` of their ``Model``, for their Metropolis sampler
========================  ==========================================================================================

normflow is not on PyPI, and is not imported here. What is needed of it are call signatures, which were read in its
sources at commit 19e6a33; this module has been tested against a stand-in that has them.

For their phi^4, :meth:`dmmc.theory.phi4.Phi4.from_normflow` makes the action of the package, which is faster and
known by name when files are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import integers
from dmmc.proposals.base import LatentProposal, Proposal
from dmmc.theory.actions import Action, Symmetry
from dmmc.theory.function_action import AutogradAction


def action_from(theirs: Any, name: str | None = None, *, symmetry: Symmetry | None = None) -> AutogradAction:
    """An action of normflow, or any object that maps fields ``(n, *lattice)`` to actions ``(n,)`` in torch.

    The gradient comes from autograd. Files record the name of its class and those of its attributes that are numbers.

    Args:
        theirs: the action.
        name: the name that files record; by default that of the class.
        symmetry: ``"z2"`` if S(-phi) = S(phi).

    Raises:
        DmmcError: if it cannot be called; on evaluation, if it returns another shape.
    """
    if not callable(theirs):
        raise DmmcError(
            f"an action of normflow is called with fields (n, *lattice), and {type(theirs).__name__} cannot be called"
        )
    numbers = {key: value for key, value in vars(theirs).items() if type(value) in (int, float)}
    name = name or f"normflow {type(theirs).__name__}"
    return AutogradAction(theirs, name, tuple(sorted(numbers.items())), symmetry=symmetry)


@dataclass(frozen=True)
class ActionFor:
    """An action of dmmc with the methods of an action of normflow.

    ``action(var)`` and calling it give S ``(n,)``, ``force(var)`` and ``score(var)`` give ``-dS/dvar``, and
    ``log_prob(var, action_logz)`` gives ``-S - action_logz``. Gradients flow through S, as their training needs.

    Args:
        ours: the action.
    """

    ours: Action

    def __call__(self, var: Tensor) -> Tensor:
        return self.ours(var)

    def action(self, var: Tensor) -> Tensor:
        return self.ours(var)

    def force(self, var: Tensor) -> Tensor:
        return -self.ours.grad(var)

    score = force

    def log_prob(self, var: Tensor, action_logz: float = 0) -> Tensor:
        return -self.ours(var) - action_logz


@dataclass(frozen=True)
class NormflowProposal(Proposal):
    """What :func:`proposal_from` returns."""

    posterior: Any
    label: str
    dtype: torch.dtype
    evaluations = 1

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # normflow draws from torch's global generators, whose states are put back afterwards.
        seed = int(integers(2**63 - 1, (), generator))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            phi, log_q = self.posterior.sample_(n)
        return phi.detach(), log_q.detach()

    def log_q(self, phi: Tensor) -> Tensor:
        return self.posterior.log_prob(phi.to(self.dtype)).detach()

    def describe(self) -> dict[str, Any]:
        return {"name": "normflow", "flow": self.label}


def proposal_from(model: Any, label: str, *, dtype: torch.dtype = torch.float32) -> NormflowProposal:
    """The flow of a ``Model`` of normflow as a proposal, for :class:`dmmc.Independence` or :func:`dmmc.propose`.

    Args:
        model: their model, or its ``posterior``: what has ``sample_(batch_size) -> (y, logq)`` and ``log_prob(y)``.
        label: what files call this flow. A chain is resumed only with a flow of the same label.
        dtype: the type in which the flow works.

    Raises:
        DmmcError: if it has no such methods.
    """
    posterior = getattr(model, "posterior", model)
    missing = [name for name in ("sample_", "log_prob") if not callable(getattr(posterior, name, None))]
    if missing:
        raise DmmcError(
            f"{type(model).__name__} has no {' and no '.join(missing)}; give the Model of normflow, or its posterior"
        )
    return NormflowProposal(posterior, label, dtype)


class PriorFor:
    """The latents of a proposal of dmmc with the methods of a prior of normflow: independent standard normal numbers.

    As in normflow, numbers come from torch's global generator.
    """

    def __init__(self, proposal: LatentProposal) -> None:
        self._proposal = proposal
        self.shape = torch.Size(proposal.latent_shape)

    @property
    def nvar(self) -> int:
        return math.prod(self.shape)

    def sample(self, batch_size: int = 1) -> Tensor:
        return self._proposal.latents(batch_size, torch.default_generator)

    def sample_(self, batch_size: int = 1) -> tuple[Tensor, Tensor]:
        x = self.sample(batch_size)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        return _log_normal(x)


class NetFor(torch.nn.Module):
    """A proposal of dmmc with the methods of a ``Module_`` of normflow: the map from latents to fields.

    It has no parameters to train, and gradients do not flow through it.
    """

    def __init__(self, proposal: LatentProposal) -> None:
        super().__init__()
        self._proposal = proposal

    @torch.no_grad()
    def forward(self, x: Tensor, log0: Any = 0) -> tuple[Tensor, Tensor]:
        """Fields, and ``log0`` plus the logarithm of the Jacobian of the map."""
        y, log_q = self._proposal.push(x, torch.default_generator)
        return y.to(torch.float64), log0 + _log_normal(x) - log_q

    @torch.no_grad()
    def reverse(self, y: Tensor, log0: Any = 0) -> tuple[Tensor, Tensor]:
        """Latents, and ``log0`` plus the logarithm of the Jacobian of the inverse."""
        x, log_q = self._proposal.pull(y, torch.default_generator)
        return x, log0 + log_q - _log_normal(x)


def model_parts_for(proposal: LatentProposal) -> tuple[PriorFor, NetFor]:
    """A proposal of dmmc as ``prior`` and ``net_`` of a ``Model`` of normflow.

    ::

        prior, net_ = model_parts_for(dmmc.flow_proposal(model))
        theirs = normflow.Model(prior=prior, net_=net_, action=ActionFor(action))
        y = theirs.mcmc.sample(1024)

    Their ``posterior`` and their ``mcmc`` work, training and the blocked sampler do not.

    Args:
        proposal: a flow.

    Raises:
        DmmcError: if log q of the proposal is only an estimate, or it has no latents, as paths have none.
    """
    if reason := getattr(proposal, "inexact", ""):
        raise DmmcError(f"a chain with these proposals would not be exact: {reason}; use an exact divergence")
    if not hasattr(proposal, "push"):
        raise DmmcError(f"{type(proposal).__name__} is no map of latents; use dmmc.flow_proposal(model)")
    return PriorFor(proposal), NetFor(proposal)


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * (x.double() ** 2 + math.log(2 * math.pi)).flatten(1).sum(1)

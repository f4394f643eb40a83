"""The proposals of a model: averaged over both sectors if the model describes one of two."""

from __future__ import annotations

from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.separation import check_separate
from dmmc.proposals import path
from dmmc.proposals.base import Paths, Proposal, Steppable
from dmmc.proposals.divergence import TRACTABLE, Divergence
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.integrator import DEFAULT_STEPS
from dmmc.proposals.path import PathProposal
from dmmc.proposals.stream import Proposer
from dmmc.proposals.symmetrised import Symmetrised, SymmetrisedPath


def flow_proposal(
    model: DiffusionModel,
    n_steps: int | tuple[int, ...] = DEFAULT_STEPS,
    *,
    method: str = "rk4",
    divergence: Divergence = TRACTABLE,
    chunk_sites: int | None = None,
    compiled: bool | None = None,
) -> Steppable:
    """The probability flow of a model.

    Args:
        model: the model.
        n_steps, method, divergence, chunk_sites, compiled: as in :class:`dmmc.proposals.flow.FlowProposal`.

    Raises:
        DmmcError: as :class:`dmmc.proposals.flow.FlowProposal`, or if the network couples the fields of a batch.
    """
    check_separate(model.network)
    flow = FlowProposal(model, n_steps, chunk_sites, divergence, method, compiled)
    if not model.two_sector:
        return flow
    average: Symmetrised[FlowProposal] = Symmetrised(flow)
    return average


def path_proposal(model: DiffusionModel, n_steps: int = path.DEFAULT_STEPS) -> Paths:
    """The reverse-diffusion paths of a model, not calibrated.

    Args:
        model: the model, with any network.
        n_steps: steps of a path.

    Raises:
        DmmcError: if ``n_steps`` is not a positive integer, or the network couples the fields of a batch.
    """
    check_separate(model.network)
    paths = PathProposal.of(model, n_steps)
    return SymmetrisedPath(paths) if model.two_sector else paths


def propose(
    source: DiffusionModel | Proposal | Paths, n_steps: int | tuple[int, ...] = DEFAULT_STEPS, *, device: str = "cpu"
) -> Proposer:
    """Proposals for a Metropolis loop of your own: NumPy arrays with their log density.

    ::

        for phi, log_q in dmmc.propose(model).stream(seed=1, batch=64):
            ...

    Args:
        source: a model, whose probability flow is taken; or any proposal, such as :func:`flow_proposal` with other
            options, or :func:`path_proposal`.
        n_steps: integration steps of the flow of a model; a proposal has its own.
        device: where random numbers are drawn and fields are made.

    Raises:
        DmmcError: as :class:`dmmc.proposals.flow.FlowProposal`; or if log q of the proposal is only an estimate.
    """
    return Proposer(flow_proposal(source, n_steps) if isinstance(source, DiffusionModel) else source, device)

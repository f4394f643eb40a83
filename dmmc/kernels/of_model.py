"""Which Metropolis kernel uses a model: a table of the kernels that take their proposals from one.

The kernel that is made here is not tuned yet. Its chains start with ``kernel.initial``, and ``kernel.tune`` adapts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmmc.core.errors import DmmcError
from dmmc.kernels import hmc
from dmmc.kernels.base import Kernel
from dmmc.kernels.cycle import Cycle
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import FIRST_SHARE, TARGET, Latent
from dmmc.kernels.path import PathIndependence
from dmmc.kernels.refresh import PathRefresh
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.base import LatentProposal
from dmmc.proposals.of_model import path_proposal
from dmmc.proposals.path import DEFAULT_STEPS
from dmmc.theory.actions import Action


@dataclass(frozen=True)
class KernelOptions:
    """A kernel for a model; None stands for the default of an option.

    Attributes:
        kernel: the Metropolis kernel. ``independence`` proposes whole fields of the probability flow. Where these are
            rejected too often, ``latent`` rotates the noise that a field is made of, and ``block`` draws it anew in a
            block of sites at a random place. ``path`` proposes whole paths of the reverse diffusion, which has no
            integrator error and works with any network. ``refresh`` noises the field up to some level and denoises it
            again. ``cycle`` alternates a field of the flow with an HMC trajectory.
        target_acceptance: the acceptance to which the angle of ``latent`` and the share of ``block`` are tuned; 0.4 by
            default.
        angle: angle of ``latent`` in (0, pi/2], which is then not tuned.
        share: fraction of the sites in a block of ``block`` in (0, 1], which is then not tuned.
        path_steps: steps of a path, for ``path`` and ``refresh``; 32 by default.
        level: noise level in (0, 1] up to which ``refresh`` goes; 0.5 by default.
        trajectory: length of the HMC trajectories of ``cycle``, for a field in the normalisation of the hopping form;
            4 by default.

    Raises:
        DmmcError: for an unknown kernel, an option of another kernel, or a number out of its range.
    """

    kernel: str = "independence"
    target_acceptance: float | None = None
    angle: float | None = None
    share: float | None = None
    path_steps: int | None = None
    level: float | None = None
    trajectory: float | None = None

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise DmmcError(f"the kernel must be one of {', '.join(KERNELS)}, not {self.kernel!r}")
        for option in sorted({name for entry in KERNELS.values() for name in entry.options}):
            if getattr(self, option) is not None and option not in KERNELS[self.kernel].options:
                owners = " and ".join(name for name, entry in KERNELS.items() if option in entry.options)
                raise DmmcError(f"{option} is an option of the kernel {owners}, not of {self.kernel}; leave it out")
        if not 0 < (0.5 if self.target_acceptance is None else self.target_acceptance) < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        for fixed in ("angle", "share"):
            if getattr(self, fixed) is not None and self.target_acceptance is not None:
                raise DmmcError(f"target_acceptance tunes what {fixed} fixes; leave out one of the two")
        if not 0 < (1 if self.angle is None else self.angle) <= math.pi / 2:
            raise DmmcError(f"the angle must lie above 0 and not above pi/2, got {self.angle}")
        if not 0 < (1 if self.share is None else self.share) <= 1:
            raise DmmcError(f"the share of the sites must lie above 0 and not above 1, got {self.share}")
        if self.path_steps is not None and self.path_steps < 1:
            raise DmmcError(f"path_steps must be positive, got {self.path_steps}")
        if not 0 < (1 if self.level is None else self.level) <= 1:
            raise DmmcError(f"the noise level must lie above 0 and not above 1, got {self.level}")
        if not 0 < (1 if self.trajectory is None else self.trajectory) < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.trajectory}")

    @property
    def uses_flow(self) -> bool:
        """Whether the chain depends on the probability flow and hence on its integrator."""
        return KERNELS[self.kernel].from_flow is not None


FromFlow = Callable[[KernelOptions, Action, LatentProposal], Kernel[Any]]
FromModel = Callable[[KernelOptions, Action, DiffusionModel], Kernel[Any]]


@dataclass(frozen=True)
class KernelEntry:
    """How a kernel is made. Exactly one of ``from_flow`` and ``from_model`` is given.

    Attributes:
        options: the attributes of :class:`KernelOptions` that belong to it.
        from_flow: makes it from the probability flow of the model.
        from_model: makes it from the model, without the flow.
    """

    options: tuple[str, ...] = ()
    from_flow: FromFlow | None = None
    from_model: FromModel | None = None


def _independence(options: KernelOptions, action: Action, flow: LatentProposal) -> Kernel[Any]:
    return Independence(action, flow.lattice, flow)


def _target(options: KernelOptions, fixed: float | None) -> float | None:
    """The acceptance that the angle or the share is tuned to; None where that is given."""
    usual = TARGET if options.target_acceptance is None else options.target_acceptance
    return usual if fixed is None else None


def _latent(options: KernelOptions, action: Action, flow: LatentProposal) -> Kernel[Any]:
    theta = math.pi / 2 if options.angle is None else options.angle
    return Latent(action, flow.lattice, flow, theta, _target(options, options.angle))


def _block(options: KernelOptions, action: Action, flow: LatentProposal) -> Kernel[Any]:
    share = FIRST_SHARE if options.share is None else options.share
    return Latent(action, flow.lattice, flow, target_acceptance=_target(options, options.share), share=share)


def _cycle(options: KernelOptions, action: Action, flow: LatentProposal) -> Kernel[Any]:
    length = hmc.LENGTH if options.trajectory is None else options.trajectory
    local = hmc.HMC.default(action, flow.lattice, length)
    return Cycle(((Independence(action, flow.lattice, flow), 1), (local, 1)))


def _path(options: KernelOptions, action: Action, model: DiffusionModel) -> Kernel[Any]:
    proposal = path_proposal(model, DEFAULT_STEPS if options.path_steps is None else options.path_steps)
    return PathIndependence(action, model.lattice, proposal)


def _refresh(options: KernelOptions, action: Action, model: DiffusionModel) -> Kernel[Any]:
    proposal = path_proposal(model, DEFAULT_STEPS if options.path_steps is None else options.path_steps)
    return PathRefresh(action, model.lattice, proposal, 0.5 if options.level is None else options.level)


KERNELS: dict[str, KernelEntry] = {
    "independence": KernelEntry(from_flow=_independence),
    "latent": KernelEntry(("target_acceptance", "angle"), from_flow=_latent),
    "block": KernelEntry(("target_acceptance", "share"), from_flow=_block),
    "path": KernelEntry(("path_steps",), from_model=_path),
    "refresh": KernelEntry(("path_steps", "level"), from_model=_refresh),
    "cycle": KernelEntry(("trajectory",), from_flow=_cycle),
}
"""The kernels by name."""


def usual_kernel(model: DiffusionModel) -> str:
    """The kernel for a model where none is asked for: one that its network can serve."""
    return "independence" if callable(getattr(model.network, "with_trace", None)) else "path"


def make_kernel(
    options: KernelOptions, action: Action, model: DiffusionModel, flow: LatentProposal | None
) -> Kernel[Any]:
    """The kernel of these options, not tuned yet.

    Args:
        options: which kernel.
        action: the action that is sampled.
        model: the model whose proposals it uses.
        flow: the probability flow of the model; not needed by kernels that do not use it.

    Raises:
        DmmcError: if the kernel needs a flow and there is none.
    """
    entry = KERNELS[options.kernel]
    if entry.from_model is not None:
        return entry.from_model(options, action, model)
    if entry.from_flow is None or flow is None:
        raise DmmcError(f"the kernel {options.kernel} needs the probability flow of the model")
    return entry.from_flow(options, action, flow)

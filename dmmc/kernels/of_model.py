"""Which Metropolis kernel uses a model, made ready to run: tuned, calibrated, and where its chains begin.

All of it is a function of the options and the seed, so that a chain is resumed by making its kernel again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.kernels import hmc, latent
from dmmc.kernels.base import Kernel, State
from dmmc.kernels.compose import Hybrid
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import Path, PathRefresh
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import DEFAULT_STEPS, PathProposal
from dmmc.theory.actions import Action

KERNELS = {
    "independence": (),
    "latent": ("target_acceptance",),
    "path": ("path_steps",),
    "refresh": ("path_steps", "level"),
    "hybrid": ("trajectory",),
}
"""The kernels, each with the options that are its own."""

WARM_UP = 60
"""Steps that tune a kernel, and are thrown away."""

CALIBRATION_SITES = 1 << 18
"""Sites of all fields together on which reverse kernels are calibrated; of 256 to 4096 fields."""


@dataclass(frozen=True)
class SamplerOptions:
    """A kernel for a model; None stands for the default of an option.

    Attributes:
        kernel: of :data:`KERNELS`. ``independence``: whole fields of the flow. ``latent``: a rotation in latent space,
            for volumes where whole fields are rejected too often. ``path``: whole paths of the reverse diffusion, no
            integrator error. ``refresh``: the same from some noise level only. ``hybrid``: a field of the flow and an
            HMC trajectory in turn.
        target_acceptance: to which the angle of ``latent`` is tuned; 0.4.
        path_steps: of a path; 32.
        level: noise level in (0, 1] up to which ``refresh`` goes; 0.5.
        trajectory: length of the HMC trajectories of ``hybrid``, as in :meth:`dmmc.kernels.hmc.HMC.default`.

    Raises:
        DmmcError: for another kernel, an option of another kernel, or a number out of its range.
    """

    kernel: str = "independence"
    target_acceptance: float | None = None
    path_steps: int | None = None
    level: float | None = None
    trajectory: float | None = None

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise DmmcError(f"the kernel is one of {', '.join(KERNELS)}, not {self.kernel!r}")
        for option in sorted({name for names in KERNELS.values() for name in names}):
            if getattr(self, option) is not None and option not in KERNELS[self.kernel]:
                owners = " and ".join(name for name, names in KERNELS.items() if option in names)
                raise DmmcError(f"{option} is an option of the kernel {owners}, not of {self.kernel}; leave it out")
        if not 0 < (0.5 if self.target_acceptance is None else self.target_acceptance) < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        if self.path_steps is not None and self.path_steps < 1:
            raise DmmcError(f"path_steps must be positive, got {self.path_steps}")
        if not 0 < (1 if self.level is None else self.level) <= 1:
            raise DmmcError(f"the noise level must lie above 0 and not above 1, got {self.level}")
        if not 0 < (1 if self.trajectory is None else self.trajectory) < math.inf:
            raise DmmcError(f"the trajectory length must be a positive number, got {self.trajectory}")

    @property
    def integrates(self) -> bool:
        """Whether chains depend on the integrator of the flow."""
        return self.kernel not in ("path", "refresh")


def prepare(
    options: SamplerOptions, action: Action, flow: FlowProposal, chains: int, seed: int
) -> tuple[Kernel, Callable[[], State]]:
    """The kernel, and a function that makes the state of its chains at the start.

    Chains begin at proposals. Kernels that move fields only a little, or have to be tuned, get :data:`WARM_UP` steps
    from there.

    Args:
        options: which.
        action: the target.
        flow: the model's probability flow; for paths it only makes the fields to calibrate on and to begin at.
        chains: how many.
        seed: of all that is random here.
    """
    lattice, device = flow.model.lattice, flow.model.device
    generator = rng.stream(seed, "warm-up", options.kernel, device=device)
    if options.kernel == "independence":
        independence = Independence(action, lattice, flow)
        return independence, lambda: independence.start_from_proposals(chains, generator)
    if options.kernel == "latent":
        first = Latent(action, lattice, flow)
        target = 0.4 if options.target_acceptance is None else options.target_acceptance
        begun = first.start_from_proposals(chains, generator)
        tuned, state = latent.warm_up(first, begun, WARM_UP, generator, target)
        return tuned, lambda: state
    if options.kernel == "hybrid":
        local = hmc.HMC.default(action, lattice, hmc.LENGTH if options.trajectory is None else options.trajectory)
        begun = local.start(flow.sample(chains, generator)[0])
        adapted, state = hmc.warm_up(local, begun, WARM_UP, generator)
        return Hybrid(((Independence(action, lattice, flow), 1), (adapted, 1))), lambda: state
    proposal = PathProposal.of(flow.model, DEFAULT_STEPS if options.path_steps is None else options.path_steps)
    n_fields = min(4096, max(256, CALIBRATION_SITES // lattice.volume))
    proposal = proposal.calibrated(flow.sample(n_fields, generator)[0], generator)
    if options.kernel == "path":
        path = Path(action, lattice, proposal)
        return path, lambda: path.start_from_proposals(chains, generator)
    refresh = PathRefresh(action, lattice, proposal, 0.5 if options.level is None else options.level)

    def start() -> State:
        state = refresh.start(flow.sample(chains, generator)[0])
        for later, _ in refresh.steps(state, WARM_UP, generator):
            state = later
        return state

    return refresh, start


def log_weights(kernel: Kernel, flow: FlowProposal, phi: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """log w ``(n,)`` of given fields ``(n, *lattice)``, as the kernel proposes them; for paths, of one drawn."""
    if isinstance(kernel, Path):
        return -kernel.action(phi) - kernel.proposal.draw_log_q(phi, generator)
    return -kernel.action(phi) - flow.log_q(phi)

"""The variants of the laboratory: kernels that use one model in different ways, exact and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.kernels.base import Kernel
from dmmc.kernels.cycle import Cycle
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import PathIndependence
from dmmc.kernels.refresh import PathRefresh
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.base import Paths, Proposal, Steppable
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.studies.exactness.wrong import Collapsed, Declared, Pool, SdeWithFlowDensity, Unadjusted
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.sectors import magnetisation

HUTCHINSON_STEPS = 5
"""Steps of the flow where its density is estimated: the noise dwarfs the error of the integrator."""

PATH_STEPS = 16

TRAJECTORY = 8.0
"""HMC length for the hopping-form field, a quarter of the slowest oscillation of M where ``V <M^2>`` is about 25."""

TUNING_CHAINS, TUNING_STEPS = 256, 20
CALIBRATION_FIELDS = 2048


@dataclass(frozen=True)
class Bench:
    """What the variants are made of.

    Attributes:
        action: the theory.
        lattice: the lattice that the chains live on.
        model: the model.
        flow: the model's probability flow, with as many steps as the statistical errors ask for.
        fields: fields of the theory, ``(n, *lattice)`` float64, independent of the chains.
        seed: the seed of the variant.
    """

    action: Action
    lattice: Lattice
    model: DiffusionModel
    flow: Steppable
    fields: Tensor
    seed: int

    def generator(self) -> torch.Generator:
        """Random numbers for tuning and calibration, the same at every call."""
        return rng.stream(self.seed, "tuning", device=self.model.device)

    def hmc(self) -> HMC:
        """HMC with long trajectories, tuned."""
        generator = self.generator()
        local = HMC.default(self.action, self.lattice, TRAJECTORY)
        return local.tune(local.start(self.fields[:TUNING_CHAINS], generator), generator, TUNING_STEPS)[0]

    def paths(self) -> Paths:
        """Paths of the reverse diffusion, calibrated."""
        return path_proposal(self.model, PATH_STEPS).calibrated(self.fields[:CALIBRATION_FIELDS], self.generator())

    def metropolis(self, proposal: Proposal) -> Independence:
        """Independence Metropolis with an exact proposal."""
        return Independence(self.action, self.lattice, proposal)

    def inexact_metropolis(self, proposal: Proposal, reason: str) -> Independence:
        """Independence Metropolis with a proposal that is declared to be wrong, for a reason."""
        return Independence(self.action, self.lattice, Declared(proposal, reason), allow_inexact=True)


@dataclass(frozen=True)
class Variant:
    """A way to use a diffusion model.

    Attributes:
        name: its name on the command line, and that of its file.
        label: what tables and figures call it.
        exact: whether it should sample the theory.
        why: one sentence on why it does, or does not.
        kernel: makes the kernel of its chains.
        share: its draws in units of those asked for: less where they are expensive, more where they are cheap.
        begins: where chains begin. Exact ones begin at ``fields`` of the theory and have nothing to forget. Those that
            are not exact begin at their own ``proposals``, so that nothing but the kernel has a part in what they find.
    """

    name: str
    label: str
    exact: bool
    why: str
    kernel: Callable[[Bench], Kernel[Any]]
    share: float = 1.0
    begins: Literal["fields", "proposals"] = "fields"


def _exact(name: str, label: str, why: str, kernel: Callable[[Bench], Kernel[Any]], share: float = 1.0) -> Variant:
    return Variant(name, label, True, why, kernel, share, "fields")


def _inexact(name: str, label: str, why: str, kernel: Callable[[Bench], Kernel[Any]], share: float = 1.0) -> Variant:
    return Variant(name, label, False, why, kernel, share, "proposals")


def _hutchinson(n_probes: int, share: float) -> Variant:
    def kernel(bench: Bench) -> Kernel[Any]:
        flow = flow_proposal(bench.model, HUTCHINSON_STEPS, divergence=Hutchinson(n_probes))
        return Independence(bench.action, bench.lattice, flow, allow_inexact=True)

    return _inexact(
        f"hutchinson-{n_probes}",
        f"Hutchinson density, {n_probes} probe{'s' if n_probes > 1 else ''}",
        "The chain samples p(phi) E[exp(-noise) | phi], and the noise of log q depends on the field.",
        kernel,
        share,
    )


def _unadjusted_sde(n_steps: int) -> Callable[[Bench], Kernel[Any]]:
    return lambda bench: Unadjusted(bench.action, bench.lattice, path_proposal(bench.model, n_steps))


def _without_tail(bench: Bench) -> Kernel[Any]:
    largest = float(magnetisation(bench.fields).abs().quantile(0.9))
    reason = "the model never proposes |M| above the 90 % quantile, and the chain never gets there"
    return bench.inexact_metropolis(Collapsed(bench.flow, largest=largest), reason)


VARIANTS = (
    _exact(
        "flow",
        "flow",
        "Independence Metropolis with log q of the probability flow; exact up to the integrator, which is bounded.",
        lambda bench: bench.metropolis(bench.flow),
    ),
    _exact(
        "latent",
        "latent, theta = 1",
        "The latent field is rotated into fresh noise, reversibly, and accepted with the ratio of the same weights.",
        lambda bench: Latent(bench.action, bench.lattice, bench.flow, theta=1.0),
    ),
    _exact(
        "path",
        f"path, {PATH_STEPS} steps",
        "Whole paths of the reverse SDE are accepted or rejected with the ratio of two Gaussian path measures.",
        lambda bench: PathIndependence(bench.action, bench.lattice, bench.paths()),
    ),
    _exact(
        "refresh",
        "partial path, level 0.7",
        "The field is noised up to a level and denoised again, and accepted with the ratio of the two paths.",
        lambda bench: PathRefresh(bench.action, bench.lattice, bench.paths(), level=0.7),
    ),
    _exact(
        "cycle",
        "cycle of flow and HMC",
        "Two kernels that each leave exp(-S) invariant take turns; the flow weighs anew the field that HMC hands it.",
        lambda bench: Cycle(((bench.metropolis(bench.flow), 1), (bench.hmc(), 1))),
        0.5,
    ),
    _exact(
        "hmc",
        "HMC",
        "There is no model in it: another exact sampler, as a check of the laboratory itself.",
        lambda bench: bench.hmc(),
        2.0,
    ),
    _inexact(
        "ode",
        "no accept/reject, ODE",
        "Fields of the probability flow are taken as they come: the law of the model.",
        lambda bench: Unadjusted(bench.action, bench.lattice, bench.flow),
    ),
    _inexact(
        "sde-8",
        "no accept/reject, SDE, 8 steps",
        "Fields of the reverse SDE are taken as they come: the law of the model and of a coarse discretisation.",
        _unadjusted_sde(8),
    ),
    _inexact(
        "sde-64",
        "no accept/reject, SDE, 64 steps",
        "The same with a fine discretisation; what remains is the error of the network.",
        _unadjusted_sde(64),
        0.5,
    ),
    _inexact(
        "sde-ode",
        "SDE fields, ODE density",
        "Fields of the SDE have the density of the ODE only for a perfect score; the chain samples p q_SDE / q_ODE.",
        lambda bench: bench.inexact_metropolis(
            SdeWithFlowDensity(path_proposal(bench.model, 32), bench.flow),
            "fields of the reverse SDE are weighted with the density of the probability flow, which is another law",
        ),
    ),
    _hutchinson(1, 1.0),
    _hutchinson(4, 0.5),
    _hutchinson(16, 0.125),
    _inexact(
        "ode-2",
        "ODE with 2 steps",
        "The integral of the divergence is not the log-determinant of so coarse a map: it samples p exp(-delta).",
        lambda bench: bench.inexact_metropolis(
            flow_proposal(bench.model, 2), "two integration steps: log q is not the density of the discrete map"
        ),
        4.0,
    ),
    _inexact(
        "pool",
        "pool of 256 proposals",
        "A finite pool holds no fields but its own; the chain samples the pool, reweighted.",
        lambda bench: bench.inexact_metropolis(
            Pool(bench.flow, 256, bench.seed), "proposals are drawn with replacement from a pool of 256"
        ),
    ),
    _inexact(
        "one-sector",
        "collapsed: M > 0 only",
        "The chain never visits what the model never proposes; observables that are even in the field do not show it.",
        lambda bench: bench.inexact_metropolis(
            Collapsed(bench.flow, positive=True), "the model never proposes M < 0, and the chain never gets there"
        ),
    ),
    _inexact(
        "no-tail",
        "collapsed: no large |M|",
        "The same with a model that is too narrow: fields beyond the 90 % quantile of |M| are never proposed.",
        _without_tail,
    ),
)
"""The variants, in the order of tables and figures."""

NAMES = tuple(variant.name for variant in VARIANTS)

"""The variants of the laboratory: kernels that use one model in different ways, exact and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core import rng
from dmmc.kernels import hmc
from dmmc.kernels.base import Kernel
from dmmc.kernels.compose import Hybrid
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence, Proposal
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import Path as PathKernel
from dmmc.kernels.path import PathRefresh
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import PathProposal
from dmmc.studies.exactness.wrong import Collapsed, Declared, Pool, SdeWithFlowDensity, Unadjusted
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice

HUTCHINSON_STEPS = 5
"""Steps of the flow where its density is estimated: the noise dwarfs the error of the integrator."""

TRAJECTORY = 8.0
"""HMC length for the hopping-form field, a quarter of the slowest oscillation of M where ``V <M^2>`` is about 25."""


@dataclass(frozen=True)
class Bench:
    """What the variants are made of.

    Attributes:
        action: the theory.
        lattice: where.
        flow: the model's probability flow, with as many steps as the statistical errors ask for.
        fields: fields of the theory, ``(n, *lattice)`` float64, independent of the chains.
        seed: of the variant.
    """

    action: Action
    lattice: Lattice
    flow: FlowProposal
    fields: Tensor
    seed: int

    @property
    def model(self) -> DiffusionModel:
        """The model."""
        return self.flow.model

    @property
    def generator(self) -> torch.Generator:
        """For tuning and calibration."""
        return rng.stream(self.seed, "tuning", device=self.model.device)

    def hmc(self) -> HMC:
        """HMC with long trajectories, tuned."""
        local = HMC.default(self.action, self.lattice, TRAJECTORY)
        return hmc.warm_up(local, local.start(self.fields[:256]), 20, self.generator)[0]

    def metropolis(self, proposal: Proposal, inexact: str = "") -> Independence:
        """Independence Metropolis; with a reason, marked inexact."""
        offered = Declared(proposal, inexact) if inexact else proposal
        return Independence(self.action, self.lattice, offered, allow_inexact=bool(inexact))


@dataclass(frozen=True)
class Variant:
    """A way to use a diffusion model.

    Attributes:
        name: on the command line and of its file.
        label: in tables and figures.
        exact: whether it samples the theory, in theory.
        why: one sentence.
        kernel: makes the chain's kernel.
        share: draws in units of those asked for; less where they are expensive, more where they are cheap.
    """

    name: str
    label: str
    exact: bool
    why: str
    kernel: Callable[[Bench], Kernel]
    share: float = 1.0


def _hutchinson(n_probes: int, share: float) -> Variant:
    def kernel(bench: Bench) -> Kernel:
        flow = FlowProposal(bench.model, HUTCHINSON_STEPS, divergence=Hutchinson(n_probes))
        return Independence(bench.action, bench.lattice, flow, allow_inexact=True)

    return Variant(
        f"hutchinson-{n_probes}",
        f"Hutchinson density, {n_probes} probe{'s' if n_probes > 1 else ''}",
        False,
        "The chain samples p(phi) E[exp(-noise) | phi], and the noise of log q depends on the field.",
        kernel,
        share,
    )


def _collapsed_tail(bench: Bench) -> Kernel:
    largest = float(bench.fields.flatten(1).mean(1).abs().quantile(0.9))
    reason = "the model never proposes |M| above the 90 % quantile, and the chain never gets there"
    return bench.metropolis(Collapsed(bench.flow, largest=largest), reason)


def _sde(n_steps: int) -> Callable[[Bench], Kernel]:
    return lambda bench: Unadjusted(bench.action, bench.lattice, PathProposal.of(bench.model, n_steps))


def _path(bench: Bench) -> PathProposal:
    return PathProposal.of(bench.model, 16).calibrated(bench.fields[:2048], bench.generator)


VARIANTS = (
    Variant(
        "flow", "flow", True,
        "Independence Metropolis with log q of the probability flow; exact up to the integrator, which is bounded.",
        lambda bench: bench.metropolis(bench.flow),
    ),
    Variant(
        "latent", "latent, theta = 1", True,
        "The latent field is rotated into fresh noise, reversibly; accepted with the ratio of the same weights.",
        lambda bench: Latent(bench.action, bench.lattice, bench.flow, theta=1.0),
    ),
    Variant(
        "path", "path, 16 steps", True,
        "Whole paths of the reverse SDE are accepted or rejected with the ratio of two Gaussian path measures.",
        lambda bench: PathKernel(bench.action, bench.lattice, _path(bench)),
    ),
    Variant(
        "refresh", "partial path, level 0.7", True,
        "The field is noised up to a level and denoised again, accepted with the ratio of the two paths.",
        lambda bench: PathRefresh(bench.action, bench.lattice, _path(bench), level=0.7),
    ),
    Variant(
        "hybrid", "hybrid, flow and HMC", True,
        "Steps that each leave exp(-S) invariant do so in turn; the flow weighs anew the field that HMC hands to it.",
        lambda bench: Hybrid(((bench.metropolis(bench.flow), 1), (bench.hmc(), 1))),
        0.5,
    ),
    Variant(
        "hmc", "HMC", True,
        "No model: another exact sampler, as a check of the laboratory itself.",
        lambda bench: bench.hmc(),
        2.0,
    ),
    Variant(
        "ode", "no accept/reject, ODE", False,
        "Fields of the probability flow are taken as they come: the law of the model.",
        lambda bench: Unadjusted(bench.action, bench.lattice, bench.flow),
    ),
    Variant(
        "sde-8", "no accept/reject, SDE, 8 steps", False,
        "Fields of the reverse SDE are taken as they come: the law of the model, and of a coarse discretisation.",
        _sde(8),
    ),
    Variant(
        "sde-64", "no accept/reject, SDE, 64 steps", False,
        "The same with a fine discretisation: what remains is the error of the network.",
        _sde(64),
        0.5,
    ),
    Variant(
        "sde-ode", "SDE fields, ODE density", False,
        "Fields of the SDE have the density of the ODE only for a perfect score; the chain samples p q_SDE / q_ODE.",
        lambda bench: bench.metropolis(
            SdeWithFlowDensity(PathProposal.of(bench.model, 32), bench.flow),
            "fields of the reverse SDE are weighted with the density of the probability flow, which is another law",
        ),
    ),
    _hutchinson(1, 1.0),
    _hutchinson(4, 0.5),
    _hutchinson(16, 0.125),
    Variant(
        "ode-2", "ODE with 2 steps", False,
        "The integral of the divergence is not the log-determinant of so coarse a map: it samples p exp(-delta).",
        lambda bench: bench.metropolis(
            FlowProposal(bench.model, 2), "two integration steps: log q is not the density of the discrete map"
        ),
        4.0,
    ),
    Variant(
        "pool", "pool of 256 proposals", False,
        "A finite pool holds its own fields only; the chain samples the pool, reweighted.",
        lambda bench: bench.metropolis(
            Pool(bench.flow, 256, bench.seed), "proposals are drawn with replacement from a pool of 256"
        ),
    ),
    Variant(
        "one-sector", "collapsed: M > 0 only", False,
        "What the model never proposes the chain never visits; observables that are even in the field do not show it.",
        lambda bench: bench.metropolis(
            Collapsed(bench.flow, one_sign=True), "the model never proposes M < 0, and the chain never gets there"
        ),
    ),
    Variant(
        "no-tail", "collapsed: no large |M|", False,
        "The same with a model that is too narrow: fields beyond the 90 % quantile of |M| are never proposed.",
        _collapsed_tail,
    ),
)  # fmt: skip

NAMES = tuple(variant.name for variant in VARIANTS)

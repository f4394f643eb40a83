"""The checks can fail: plausible bugs, put into the package one at a time, are each found by a named check.

A mutant replaces a piece of source text (which must be there exactly as often as stated, so a mutant cannot go stale
unnoticed). A check returns its deviation in units of the largest that chance may cause (see ``checks``): the package as
it is stays below 1, a mutant must go above 2.
"""

import functools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from checks import Gaussian, bonferroni, invariance, mean_shift, mutate, phi4_draws, steep_model
from dmmc import diagnostics
from dmmc.diagnostics import autocorrelation, weights
from dmmc.diagnostics import observables as derived
from dmmc.kernels import cluster, hmc
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.model import interaction as network
from dmmc.model.reference import GaussianReference
from dmmc.proposals import flow
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain, storage
from dmmc.theory import actions, lattice
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, Grid, rng

TWO_SITES, RING = Lattice((2,)), Lattice((4,))
PHI4 = Phi4(0.22, 0.1)


# What the checks work on. Draws are made once, before any mutant can have touched them.


@functools.cache
def draws(n_sites):
    return phi4_draws(PHI4, Lattice((n_sites,)), 40_000, c=0.5)


@functools.cache
def truth(action):
    """log Z on two sites, and ``<M^2>``, by quadrature."""
    grid = Grid.make(2, half_width=7, n=301)
    hop, quad, quart = action.coefficients
    x, y = grid.phi.T
    # The action once more, by hand: two sites have two links.
    S = -2 * hop * x * y + quad * (x**2 + y**2) + quart * (x**4 + y**4)
    log_z = float(torch.logsumexp(-S, 0)) + math.log(grid.cell)
    return log_z, float(torch.exp(-S - log_z) @ ((x + y) / 2).square()) * grid.cell


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(2), draws(4), truth(PHI4)


def wide():
    return Independence(PHI4, TWO_SITES, Gaussian.of(TWO_SITES, torch.tensor([1.2, 0.5]).double(), mean=0.2))


def steep_flow(where=TWO_SITES, two_sector=False):
    # Half again as wide as the target, which the drift narrows.
    propagator = 1.5 * where.two_point(draws(where.volume)[:2000]).mean(0)
    reference = GaussianReference(where, propagator, mean=0.5 if two_sector else 0.0)
    return Independence(PHI4, where, FlowProposal(steep_model(reference, two_sector), n_steps=8))


# The checks


def independence_keeps_phi4():
    """Five steps with a shifted, too wide Gaussian from exact draws."""
    return invariance(wide(), draws(2), steps=5)


def flow_keeps_phi4():
    """Four steps with a flow of random weights from exact draws."""
    return invariance(steep_flow(), draws(2)[:20_000], steps=4)


def flow_keeps_phi4_on_a_ring():
    """The same on four sites, where neighbours matter and a mode counts twice."""
    return invariance(steep_flow(RING), draws(4)[:20_000], steps=4)


def two_sector_flow_keeps_phi4():
    return invariance(steep_flow(two_sector=True), draws(2)[:20_000], steps=3)


def density_is_that_of_the_map():
    """log q of samples against the Jacobian of the map from latent fields, by differences: to 1 per cent."""
    proposal, h = steep_flow(RING).proposal, 1e-4
    latent = proposal.latents(50, rng(3))
    moved = latent + h * torch.eye(4, dtype=torch.float64).view(4, 1, 4)
    moved = torch.cat([moved, 2 * latent - moved]).flatten(0, 1)
    up, down = proposal.push(moved)[0].view(2, 4, 50, 4)
    jacobian = ((up - down) / (2 * h)).transpose(0, 1)
    log_q = -0.5 * (latent.square() + math.log(2 * math.pi)).sum(1) - torch.linalg.slogdet(jacobian).logabsdet
    return float((proposal.push(latent)[1] - log_q).abs().max()) / 0.01


def density_is_the_same_in_both_directions():
    """log q of samples, from the way down and from the way up; rounding and integrator error are the bound."""
    worst = 0.0
    for two_sector in (False, True):
        proposal = steep_flow(two_sector=two_sector).proposal
        phi, log_q = proposal.sample(200, rng())
        worst = max(worst, float((log_q - proposal.log_q(phi)).abs().max()) / 0.01)
    return worst


def log_z_agrees_with_quadrature():
    """The estimate of log Z from the weights of proposals, both sectors and one."""
    deviations = []
    for two_sector in (False, True):
        log_w = steep_flow(two_sector=two_sector).propose(8000, rng())[3].numpy()
        value, error = diagnostics.log_z(log_w)
        deviations.append(abs(value - truth(PHI4)[0]) / error)
    return max(deviations) / bonferroni(2)


def weights_belong_to_the_fields():
    """What the state carries after ten steps with rejections is what its fields have."""
    kernel = wide()
    *_, (state, _) = kernel.steps(kernel.start(draws(2)[:100]), 10, rng())
    return float((state.log_w + PHI4(state.phi) + kernel.proposal.log_q(state.phi)).abs().max()) / 1e-10


def chains_are_independent():
    """The number of chains that accept fluctuates from step to step as that of independent ones, or less."""
    kernel, n, steps = wide(), 500, 200
    accepted = torch.stack([s["accepted"] for _, s in kernel.steps(kernel.start(draws(2)[:n]), steps, rng())])
    fraction = accepted.double().mean(1)
    binomial = float(fraction.mean() * (1 - fraction.mean())) / n
    return float(fraction.var()) / binomial / (1 + SIGMA * math.sqrt(2 / steps))


def hmc_keeps_phi4():
    """One coarse step from exact draws."""
    return invariance(HMC(PHI4, TWO_SITES, step_size=0.6, n_leapfrog=3), draws(2))


def cluster_keeps_phi4():
    """Three steps with hardly any HMC in them."""
    return invariance(Cluster(HMC(PHI4, TWO_SITES, step_size=0.02, n_leapfrog=1), 1), draws(2), steps=3)


def mass_form_agrees_with_its_definition():
    """``<phi^2>`` of a chain of the mass form, against quadrature of the formula in 1904.12072."""
    action = Phi4.from_mass(m2=0.3, lam_m=0.5, dim=1)
    grid = Grid.make(2, half_width=7, n=301)
    x, y = grid.phi.T
    S = 2 * (x - y) ** 2 + 0.3 * (x**2 + y**2) + 0.5 * (x**4 + y**4)
    exact = torch.softmax(-S, 0) @ (x**2 + y**2) / 2
    kernel = Independence(action, TWO_SITES, Gaussian.of(TWO_SITES, torch.tensor([0.8, 0.3]).double()))
    steps = list(kernel.steps(kernel.start_from_proposals(2000, rng()), 40, rng(2)))
    phi2 = torch.stack([state.phi.square().mean(1) for state, _ in steps[20:]]).mean(0)
    return mean_shift(phi2[:, None] - exact)


def acceptance_is_that_of_the_weights():
    """``expected_acceptance`` against the closed form for Gaussian log weights; 1 per cent is the bound."""
    log_w = torch.randn(20_000, generator=rng(), dtype=torch.float64).numpy()
    return abs(weights.expected_acceptance(log_w) - math.erfc(0.5)) / 0.01


def susceptibility_of_a_free_field():
    """chi2_signed is C(0) and chi2 is (1 - 2/pi) C(0) for a Gaussian."""
    M = torch.randn(100, 2000, generator=rng(), dtype=torch.float64).numpy() / math.sqrt(16 * 0.5)
    record = {"M": M, "abs_M": abs(M), "M2": M**2}
    found = derived.chi2_signed(record, 16), derived.chi2(record, 16)
    exact = 1 / 0.5, (1 - 2 / math.pi) / 0.5
    return max(abs(a.value - b) / a.error for a, b in zip(found, exact, strict=True)) / bonferroni(2)


def autoregression():
    """An AR(1) series of known tau_int, whose mean has a known error; tau_int to 5 of its errors, the error to 10 %."""
    a, n, draws_ = 0.8, 50, 4000
    noise = np.random.default_rng(1).standard_normal((draws_, n)) * math.sqrt(1 - a * a)
    x = np.zeros((n, draws_))
    last = np.random.default_rng(2).standard_normal(n)
    for t in range(draws_):
        last = x[:, t] = a * last + noise[t]
    estimate, tau = diagnostics.gamma_method(x), (1 + a) / (1 - a) / 2
    error = math.sqrt(2 * tau / (n * draws_))
    return max(abs(estimate.tau_int - tau) / (SIGMA * estimate.tau_int_error), abs(estimate.error / error - 1) / 0.1)


def blocks_are_fresh():
    """No proposal of a stored chain occurs twice."""
    kernel = wide()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.h5"
        options = chain.ChainOptions(draws=20, block=5)
        chain.run(kernel, lambda: kernel.start(draws(2)[:10]), options, path, progress=False)
        log_w = storage.load_run(path).stats["log_w_proposed"]
    return 1.0 * (log_w.size - len(np.unique(log_w)))


def stored_chain_agrees_with_quadrature():
    """``<M^2>`` of stored, chains in blocks, which begin far from equilibrium."""
    kernel = wide()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.h5"
        options = chain.ChainOptions(draws=60, steps_per_draw=1, block=2)
        chain.run(kernel, lambda: kernel.start(torch.full((500, 2), 2.0)), options, path, progress=False)
        M2 = storage.load_run(path).observables["M2"][:, 20:]
    return mean_shift(torch.as_tensor(M2.mean(1))[:, None] - truth(PHI4)[1])


CHECKS = [
    independence_keeps_phi4,
    flow_keeps_phi4,
    flow_keeps_phi4_on_a_ring,
    two_sector_flow_keeps_phi4,
    density_is_that_of_the_map,
    density_is_the_same_in_both_directions,
    log_z_agrees_with_quadrature,
    weights_belong_to_the_fields,
    chains_are_independent,
    hmc_keeps_phi4,
    cluster_keeps_phi4,
    mass_form_agrees_with_its_definition,
    acceptance_is_that_of_the_weights,
    susceptibility_of_a_free_field,
    autoregression,
    blocks_are_fresh,
    stored_chain_agrees_with_quadrature,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_passes(check):
    assert check() < 1


# The mutants


@dataclass(frozen=True)
class Mutant:
    """A bug: ``old`` becomes ``new`` as in :func:`checks.mutate`."""

    owner: object
    functions: str
    old: str
    new: str
    check: Callable[[], float]

    def install(self, monkeypatch):
        mutate(monkeypatch, self.owner, self.functions, self.old, self.new)


def mutant(owner, functions, old, new, check):
    return Mutant(owner, functions, old, new, check)


MUTANTS = {
    # Independence Metropolis
    "sign of log q": mutant(Independence, "propose start", "S - log_q", "S + log_q", independence_keeps_phi4),
    "log q forgotten": mutant(Independence, "propose start", "S - log_q", "S", independence_keeps_phi4),
    "S forgotten": mutant(Independence, "propose start", "S - log_q", "S * 0 - log_q", independence_keeps_phi4),
    "w / w' instead of w' / w": mutant(
        Independence, "steps", "log_w[here] - state.log_w", "state.log_w - log_w[here]", independence_keeps_phi4
    ),
    "everything accepted": mutant(
        Independence, "steps", "uniform[here].log() < ", "uniform[here] < torch.inf + 0 * ", independence_keeps_phi4
    ),
    "acceptance with w instead of its ratio": mutant(
        Independence, "steps", "log_w[here] - state.log_w", "log_w[here]", independence_keeps_phi4
    ),
    "stale log w after a rejection": mutant(
        Independence,
        "steps",
        "torch.where(accepted, log_w[here], state.log_w)",
        "log_w[here]",
        weights_belong_to_the_fields,
    ),
    "stale log w spoils the chain": mutant(
        Independence, "steps", "torch.where(accepted, log_w[here], state.log_w)", "log_w[here]", independence_keeps_phi4
    ),
    "rejected fields kept": mutant(
        Independence, "steps", "torch.where(keep, phi[here], state.phi)", "phi[here]", independence_keeps_phi4
    ),
    "one uniform for all chains": mutant(
        Independence,
        "steps",
        "torch.rand(n * chains, generator=generator, dtype=torch.float64, device=phi.device)",
        "torch.rand(n, generator=generator, dtype=torch.float64).repeat_interleave(chains)",
        chains_are_independent,
    ),
    # Density of the flow
    "Jacobian dropped": mutant(
        flow.FlowProposal, "_velocity", "-speed * trace[0]", "-speed * 0 * trace[0]", flow_keeps_phi4
    ),
    "Jacobian dropped, seen by log Z": mutant(
        flow.FlowProposal, "_velocity", "-speed * trace[0]", "-speed * 0 * trace[0]", log_z_agrees_with_quadrature
    ),
    "half the trace": mutant(flow.FlowProposal, "_velocity", "-speed * trace", "-0.5 * speed * trace", flow_keeps_phi4),
    "sign of the trace": mutant(flow.FlowProposal, "_velocity", "-speed * trace", "speed * trace", flow_keeps_phi4),
    "trace of the first layer only": mutant(
        network.InteractionNetwork, "with_trace", "(slope2 * coupled).sum(1) + ", "", density_is_that_of_the_map
    ),
    "trace without the coupling of neighbours": mutant(
        network.InteractionNetwork,
        "with_trace",
        "[..., shells.site_index(part, self.lattice)]",
        "[..., 0]",
        density_is_that_of_the_map,
    ),
    "constant part of the trace": mutant(
        network.InteractionNetwork,
        "with_trace",
        "trace + constant.double().unsqueeze(1)",
        "trace",
        density_is_that_of_the_map,
    ),
    "determinant of the reference": mutant(
        flow.FlowProposal, "push", " - reference.log_normaliser()", "", log_z_agrees_with_quadrature
    ),
    "determinant of the reference, one way": mutant(
        flow.FlowProposal, "push", " - reference.log_normaliser()", "", density_is_the_same_in_both_directions
    ),
    "fields and densities one apart": mutant(
        flow.FlowProposal, "push", "torch.cat(log_qs)", "torch.cat(log_qs).roll(1)", flow_keeps_phi4
    ),
    "direction of the change of log q": mutant(
        flow.FlowProposal, "pull", "- change", "+ change", density_is_the_same_in_both_directions
    ),
    "Runge-Kutta weights of log q": mutant(
        flow.FlowProposal, "_integrate", "h * weight * change", "h / 6 * change", density_is_that_of_the_map
    ),
    "half of the modes counted once": mutant(
        lattice.Lattice,
        "sum_modes",
        "(values * self.multiplicity.to(values))",
        "values",
        flow_keeps_phi4_on_a_ring,
    ),
    "other sector left out of q": mutant(
        flow.FlowProposal, "sample", "torch.logaddexp(log_q, other) - math.log(2)", "log_q", two_sector_flow_keeps_phi4
    ),
    "sign not drawn": mutant(
        flow.FlowProposal,
        "sample",
        "2 * torch.randint(0, 2, (n,), generator=generator, device=phi.device) - 1",
        "torch.ones(n, dtype=torch.int64)",
        two_sector_flow_keeps_phi4,
    ),
    "log 2 of the two sectors": mutant(flow.FlowProposal, "sample", " - math.log(2)", "", log_z_agrees_with_quadrature),
    # Baselines
    "HMC without the kinetic energy": mutant(
        hmc.HMC, "_step", " + 0.5 * (end_pi.square() - pi.square()).flatten(1).sum(1)", "", hmc_keeps_phi4
    ),
    "HMC with a whole first half step": mutant(
        hmc.HMC, "trajectory", "torch.addcmul(phi, pi, step, value=0.5)", "phi + pi * step", hmc_keeps_phi4
    ),
    "HMC accepts with exp(+dH)": mutant(hmc.HMC, "_step", "torch.exp(-dH)", "torch.exp(dH)", hmc_keeps_phi4),
    "HMC accepts everything": mutant(hmc.HMC, "_step", "u < torch.exp(-dH)", "u < torch.inf", hmc_keeps_phi4),
    "cluster bonds without the factor 2": mutant(cluster.Cluster, "flip", "-2 * hop", "-hop", cluster_keeps_phi4),
    "cluster bonds between opposite signs": mutant(
        cluster.Cluster,
        "flip",
        "-2 * hop * flat[:, :, None] *",
        "-2 * hop * flat[:, :, None].abs() *",
        cluster_keeps_phi4,
    ),
    "fields in another normalisation": mutant(
        actions.Phi4,
        "__call__",
        "hop, quad, quart = self.coefficients",
        "hop, quad, quart = 2 * self.kappa, 1 - 2 * self.lam, self.lam",
        mass_form_agrees_with_its_definition,
    ),
    # Chains and statistics
    "same random numbers in every block": mutant(
        chain,
        "run",
        'stream(options.seed, "chain", identity, writer.n_blocks, device=device)',
        'stream(options.seed, "chain", identity, 0, device=device)',
        blocks_are_fresh,
    ),
    "blocks all begin at the start": mutant(
        chain, "run", "state, block = _block(", "_, block = _block(", stored_chain_agrees_with_quadrature
    ),
    "weights sorted the wrong way": mutant(
        weights, "expected_acceptance", "[::-1]", "", acceptance_is_that_of_the_weights
    ),
    "chi2 without the volume": mutant(
        derived, "chi2", "volume * (m2 - m * m)", "m2 - m * m", susceptibility_of_a_free_field
    ),
    "chi2 of V - 1 sites": mutant(
        derived, "chi2_signed", "volume * (m2 - m * m)", "(volume - 1) * (m2 - m * m)", susceptibility_of_a_free_field
    ),
    "errors without autocorrelation": mutant(
        autocorrelation, "_estimate", "2 * float(gamma[1 : window + 1].sum())", "0", autoregression
    ),
    "autocorrelations counted once": mutant(
        autocorrelation,
        "_estimate",
        "2 * float(gamma[1 : window + 1].sum())",
        "float(gamma[1 : window + 1].sum())",
        autoregression,
    ),
    "tau_int of the other convention": mutant(
        autocorrelation,
        "_estimate",
        "tau = total / (2 * variance)\n    tau_error",
        "tau = total / variance\n    tau_error",
        autoregression,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    bug = MUTANTS[name]
    bug.install(monkeypatch)
    assert bug.check() > 2

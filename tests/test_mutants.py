"""The checks can fail: plausible bugs, put into the package one at a time, are each found by a named check.

A mutant replaces a function of the package by a wrong one, which is mostly the right one with something done to its
arguments or its result (see :func:`checks.inject`). A check returns its deviation in units of the largest that chance
may cause (see ``checks``): the package as it is stays below 1, a mutant must go above 2, and must have been reached.
"""

import functools
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

import fermions
from checks import Gaussian, bonferroni, chain_averages, inject, invariance, mean_shift, phi4_draws, steep_model
from dmmc import diagnostics
from dmmc.core import rng as streams
from dmmc.core.errors import MismatchError
from dmmc.diagnostics import autocorrelation, cumulants, cumulants_of_moments, weights
from dmmc.diagnostics import observables as derived
from dmmc.kernels import base, cluster, complex_langevin, hmc, independence, langevin, weighted
from dmmc.kernels.base import State, advance
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.complex_langevin import ComplexLangevin
from dmmc.kernels.cycle import Cycle
from dmmc.kernels.fermion_hmc import FermionHMC
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.langevin import Langevin
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import PathIndependence
from dmmc.kernels.refresh import PathRefresh
from dmmc.model import shells
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import InteractionNetwork
from dmmc.model.layers import VectorLayers
from dmmc.model.reference import GaussianReference
from dmmc.proposals import ode, symmetrised
from dmmc.proposals.base import LatentProposal
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.integrator import Integrator
from dmmc.proposals.of_model import flow_proposal, path_proposal
from dmmc.proposals.path import PathProposal
from dmmc.proposals.symmetrised import Symmetrised, SymmetrisedPath, column
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import load_run
from dmmc.studies.rounds import annealing, course
from dmmc.theory import ensemble, observables, symmetry, wilson
from dmmc.theory.complex_action import ComplexAction
from dmmc.theory.ensemble import check_ensemble
from dmmc.theory.external_field import ExternalField
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.mixture import Mixture
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sine_gordon import SineGordon
from dmmc.theory.symmetry import find_symmetry
from helpers import SIGMA, SMALL, Grid, free_draws, free_reference, random_model, randomise, rng, z_scores

TWO_SITES, RING, SQUARE = Lattice((2,)), Lattice((4,)), Lattice((4, 4))
PHI4 = Phi4(0.22, 0.1)
TILTED = AutogradAction(lambda phi: PHI4(phi) + 0.3 * phi.sum(1), "phi4 in a field")


# What the checks work on. Draws are made once, before any mutant can have touched them.


@functools.cache
def draws(n_sites):
    return phi4_draws(PHI4, Lattice((n_sites,)), 40_000, c=0.5)


@functools.cache
def tilted_draws():
    return Grid.make(2, half_width=7, n=301).draws(TILTED, 20_000)


@functools.cache
def sine_gordon_draws():
    def formula(phi):
        x, y = phi.T
        return (x - y) ** 2 + 0.25 * (x**2 + y**2) + 0.8 * (2 - torch.cos(2 * x) - torch.cos(2 * y))

    return Grid.make(2, half_width=7, n=301).draws(formula, 10_000)


@functools.cache
def free_fields():
    return free_draws(free_reference(SQUARE), 2000)


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


@functools.cache
def paths(two_sector=False):
    """Calibrated paths of four steps, around a propagator somewhat wider than that of the target."""
    propagator = 1.3 * TWO_SITES.two_point(draws(2)[:2000]).mean(0)
    reference = GaussianReference(TWO_SITES, propagator, mean=0.6 if two_sector else 0.0)
    coarse = path_proposal(random_model(reference, two_sector=two_sector, strength=0.1), 4)
    return coarse.calibrated(draws(2)[:500], rng())


@functools.cache
def steep_flow(n_sites=2, two_sector=False):
    lattice = Lattice((n_sites,))
    # Half again as wide as the target, which the drift narrows.
    propagator = 1.5 * lattice.two_point(draws(n_sites)[:2000]).mean(0)
    reference = GaussianReference(lattice, propagator, mean=0.5 if two_sector else 0.0)
    # Step by step: the machine code is tested against that.
    return flow_proposal(steep_model(reference, two_sector), n_steps=8, compiled=False)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(2), draws(4), tilted_draws(), sine_gordon_draws(), fermions.draws(), free_fields(), truth(PHI4)
    fermions.YUKAWA(fermions.draws()[:2])  # keeps the matrix of the hopping term
    paths(), paths(True), steep_flow(), steep_flow(4), steep_flow(two_sector=True)


def wide(action=PHI4, proposal=Gaussian):
    """Proposals of a shifted, too wide Gaussian."""
    return Independence(action, TWO_SITES, proposal.of(TWO_SITES, torch.tensor([1.2, 0.5]).double(), mean=0.2))


COARSE = HMC(PHI4, TWO_SITES, step_size=0.6, n_leapfrog=3)


# The checks: kernels from exact draws


def independence_keeps_phi4():
    return invariance(wide(), draws(2), steps=5)


def flow_keeps_phi4():
    """Four steps with a flow of random weights."""
    return invariance(Independence(PHI4, TWO_SITES, steep_flow()), draws(2)[:20_000], steps=4)


def flow_keeps_phi4_on_a_ring():
    """The same on four sites, where neighbours matter and a mode counts twice."""
    return invariance(Independence(PHI4, RING, steep_flow(4)), draws(4)[:6000], steps=4)


def two_sector_flow_keeps_phi4():
    return invariance(Independence(PHI4, TWO_SITES, steep_flow(two_sector=True)), draws(2)[:6000], steps=3)


def latent_keeps_phi4():
    return invariance(Latent(PHI4, TWO_SITES, steep_flow(), 0.5), draws(2)[:8000], steps=4)


def paths_keep_phi4():
    return invariance(PathIndependence(PHI4, TWO_SITES, paths()), draws(2)[:20_000])


def two_sector_paths_keep_a_tilted_phi4():
    return invariance(PathIndependence(TILTED, TWO_SITES, paths(True)), tilted_draws(), steps=2)


def refresh_keeps_phi4():
    return invariance(PathRefresh(PHI4, TWO_SITES, paths(), 0.5), draws(2)[:20_000], steps=2)


def two_sector_refresh_keeps_a_tilted_phi4():
    return invariance(PathRefresh(TILTED, TWO_SITES, paths(True), 0.5), tilted_draws(), steps=2)


def hmc_keeps_phi4():
    """One coarse step."""
    return invariance(COARSE, draws(2))


def cluster_keeps_phi4():
    """Three steps with hardly any HMC in them."""
    return invariance(Cluster(HMC(PHI4, TWO_SITES, step_size=0.02, n_leapfrog=1), 1), draws(2), steps=3)


def cycle_keeps_phi4():
    """Three cycles of HMC and of proposals that are rejected often."""
    poor = Gaussian.of(TWO_SITES, torch.tensor([2.5, 1.2]).double(), mean=1.0)
    return invariance(Cycle(((COARSE, 2), (Independence(PHI4, TWO_SITES, poor), 2))), draws(2), steps=3)


# The checks: densities


def density_is_that_of_the_map():
    """log q of samples against the Jacobian of the map from latent fields, by differences: to 1 per cent."""
    proposal, h = steep_flow(4), 1e-4
    latent = proposal.latents(50, rng(3))
    moved = latent + h * torch.eye(4, dtype=torch.float64).view(4, 1, 4)
    moved = torch.cat([moved, 2 * latent - moved]).flatten(0, 1)
    up, down = proposal.push(moved)[0].view(2, 4, 50, 4)
    jacobian = ((up - down) / (2 * h)).transpose(0, 1)
    log_q = -0.5 * (latent.square() + math.log(2 * math.pi)).sum(1) - torch.linalg.slogdet(jacobian).logabsdet
    return float((proposal.push(latent)[1] - log_q).abs().max()) / 0.01


@functools.cache
def vector_flow():
    """The flow of a steep model of two components on two sites."""
    lattice = Lattice((2,), 2)
    reference = GaussianReference(lattice, 1 / (lattice.orbit_phat2 + 0.5))
    model = DiffusionModel.untrained(reference, None, config=SMALL.describe(), symmetry="o_n", generator=rng())
    randomise(model.network.double(), strength=1.0)
    return FlowProposal(model, 40, compiled=False)


def vector_density_is_that_of_the_map():
    """As :func:`density_is_that_of_the_map`, of fields with components, and including the constant."""
    _, _, delta = vector_flow().by_determinant(vector_flow().latents(20, rng(3)).double())
    return float(delta.abs().max()) / 0.01


def hmc_keeps_the_o2_model():
    """HMC of two components on one site, by ``<phi^2>`` from an integral over the radius."""
    action, r = Phi4(0.2, 0.3, components=2), torch.linspace(0, 8, 4001, dtype=torch.float64)[1:]
    weight = r * torch.exp(-((1 - 0.6 - 0.8) * r**2 + 0.3 * r**4))
    exact = float((weight * r**2).sum() / weight.sum())
    kernel = HMC.default(action, Lattice((1, 1)))
    return abs(float(z_scores(2 * chain_averages(kernel, 400, 20, 30)[:, 0], exact))) / SIGMA


def density_is_the_same_in_both_directions():
    """log q of samples, from the way down and from the way up; rounding and integrator error are the bound."""
    worst = 0.0
    for two_sector in (False, True):
        proposal = steep_flow(two_sector=two_sector)
        phi, log_q = proposal.sample(200, rng())
        worst = max(worst, float((log_q - proposal.log_q(phi)).abs().max()) / 0.01)
    return worst


def log_z_agrees_with_quadrature():
    """The estimate of log Z from the weights of proposals: of a flow, of both sectors, of paths to one and to both."""
    deviations = []
    for proposal in (steep_flow(), steep_flow(two_sector=True), paths(), paths(True)):
        log_w = independence.propose(PHI4, TWO_SITES, proposal, 8000, rng()).log_w.numpy()
        value, error = diagnostics.log_z(log_w)
        deviations.append(abs(value - truth(PHI4)[0]) / error)
    return max(deviations) / bonferroni(4)


# The checks: states and chains


def weights_belong_to_the_fields():
    """What the state carries after ten steps with rejections is what its fields have."""
    kernel = wide()
    state = advance(kernel, kernel.start(draws(2)[:100], rng()), 10, rng())
    log_q, S = kernel.proposal.log_q(state.phi), PHI4(state.phi)
    deviations = (state.log_w + S + log_q, state.log_q - log_q, state.S - S)
    return max(float(x.abs().max()) for x in deviations) / 1e-10


def latents_belong_to_the_fields():
    """The same for latents, of which the fields can be made again."""
    kernel = Latent(PHI4, TWO_SITES, steep_flow(), 0.5)
    state = advance(kernel, kernel.initial(100, rng(2)), 6, rng())
    return float((kernel.proposal.push(state.latent)[0] - state.phi).abs().max()) / 1e-10


CHAINS, STEPS = 500, 200


def chains_are_independent():
    """The number of chains that accept fluctuates from step to step as that of independent ones, or less."""
    kernel = wide()
    steps = kernel.steps(kernel.start(draws(2)[:CHAINS], rng()), STEPS, rng())
    fraction = torch.stack([info.accepted for _, info in steps]).double().mean(1)
    binomial = float(fraction.mean() * (1 - fraction.mean())) / CHAINS
    return float(fraction.var()) / binomial / (1 + SIGMA * math.sqrt(2 / STEPS))


@dataclass(frozen=True)
class Remembering(Gaussian):
    """A Gaussian proposal that remembers log q of all that it has ever proposed."""

    proposed: list[torch.Tensor] = field(default_factory=list)

    def sample(self, n, generator):
        phi, log_q = super().sample(n, generator)
        self.proposed.append(log_q)
        return phi, log_q


def stored(kernel, phi, options, parts=(), **more):
    """Run a chain from given fields, interrupted after each of ``parts`` draws, and read what was stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.h5"
        for k, n in enumerate([*parts, options.draws]):
            chain.run(
                kernel,
                lambda: kernel.start(phi, rng()),
                replace(options, draws=n),
                path,
                resume=k > 0,
                show_progress=False,
                **more,
            )
        run = load_run(path)
        return run, run.cfgs() if options.keep_every else None


def proposals_are_fresh():
    """No proposal of two stored chains with one seed occurs twice, those of discarded steps included."""
    proposed = []
    for action in (PHI4, Phi4(0.22, 0.2)):
        kernel = wide(action, Remembering)
        stored(kernel, draws(2)[:10], ChainOptions(draws=20, block=5), discard=1)
        proposed += kernel.proposal.proposed
    log_q = torch.cat(proposed)
    return 1.0 * (len(log_q) - len(log_q.unique()))


def stored_chain_agrees_with_quadrature():
    """``<M^2>`` of stored chains in blocks, which begin far from equilibrium."""
    run, _ = stored(wide(), torch.full((500, 2), 2.0), ChainOptions(draws=60, steps_per_draw=1, block=2))
    M2 = run.observables["M2"][:, 20:]
    return mean_shift(torch.as_tensor(M2.mean(1))[:, None] - truth(PHI4)[1])


def observables_are_those_of_the_stored_fields():
    run, cfgs = stored(wide(), draws(2)[:20], ChainOptions(draws=30, block=4, keep_every=1))
    chain_of, draw_of = run.cfg_index.T
    M = cfgs.mean(1)
    deviations = [run.observables["M"][chain_of, draw_of] - M, run.observables["M2"][chain_of, draw_of] - M**2]
    S = PHI4(torch.from_numpy(cfgs)).numpy()
    deviations += [run.observables["S_per_site"][chain_of, draw_of] - S / 2]
    deviations += [run.stats["log_w"][chain_of, draw_of] + S + run.stats["log_q"][chain_of, draw_of]]
    return max(float(np.abs(x).max()) for x in deviations) / 1e-10


def a_resumed_chain_goes_on():
    """A chain that was interrupted twice is the one that was not, bit for bit."""
    options = ChainOptions(draws=24, block=4)
    whole, parts = (stored(wide(), draws(2)[:10], options, cuts)[0] for cuts in ((), (3, 11)))
    return 1.0 * sum(int((whole.stats[name] != parts.stats[name]).sum()) for name in whole.stats)


# The checks: theory


def mass_form_agrees_with_its_definition():
    """``<phi^2>`` of a chain of the mass form, against quadrature of the formula in 1904.12072."""
    action = Phi4.from_mass(m2=0.3, lam_m=0.5, dim=1)
    grid = Grid.make(2, half_width=7, n=301)
    x, y = grid.phi.T
    S = 2 * (x - y) ** 2 + 0.3 * (x**2 + y**2) + 0.5 * (x**4 + y**4)
    exact = torch.softmax(-S, 0) @ (x**2 + y**2) / 2
    kernel = Independence(action, TWO_SITES, Gaussian.of(TWO_SITES, torch.tensor([0.8, 0.3]).double()))
    steps = list(kernel.steps(kernel.initial(2000, rng()), 40, rng(2)))
    phi2 = torch.stack([state.phi.square().mean(1) for state, _ in steps[20:]]).mean(0)
    return mean_shift(phi2[:, None] - exact)


def external_field_keeps_tilted_phi4():
    return invariance(wide(ExternalField(PHI4, -0.3)), tilted_draws(), steps=5)


def sine_gordon_agrees_with_its_definition():
    """One chain of independent proposals, and HMC, from exact draws of the formula."""
    action, draws = SineGordon(0.5, 0.8, 2.0), sine_gordon_draws()
    return max(invariance(kernel, draws, 3) for kernel in (wide(action), HMC(action, TWO_SITES, 0.3, n_leapfrog=4)))


def fermions_agree_with_their_definition():
    """Independent proposals, and HMC with pseudofermions, from exact draws of the definition."""
    lattice, draws = Lattice((2, 1)), fermions.draws()
    proposal = Gaussian.of(lattice, torch.full((2, 1), 0.6, dtype=torch.float64))
    kernels = (
        Independence(fermions.YUKAWA, lattice, proposal),
        FermionHMC(fermions.YUKAWA, lattice, 0.5, 2),
    )
    return max(invariance(kernel, draws, 2) for kernel in kernels)


def an_external_field_has_no_symmetry():
    """The deviation is infinite if it is said to have one."""
    try:
        return 0.0 if find_symmetry(ExternalField(PHI4, -0.3), tilted_draws()).symmetry == "none" else math.inf
    except MismatchError:
        return math.inf


def fields_of_another_external_field_are_refused():
    """The deviation is infinite if they are not."""
    fields = free_fields()
    check_ensemble(fields, ExternalField(FreeField(0.7), 1e-4))
    try:
        check_ensemble(fields, ExternalField(FreeField(0.7), 0.2))
    except MismatchError:
        return 0.0
    return math.inf


def force_is_the_gradient():
    """``<phi dS/dphi> = V`` for exact draws. HMC with a wrong force would still be exact, and hardly move."""
    phi = draws(4)
    return float(z_scores((phi * PHI4.grad(phi)).mean(1), 1.0).abs()) / SIGMA


def two_point_function_of_a_free_field():
    z = z_scores(SQUARE.two_point(free_fields()), free_reference(SQUARE).propagator)
    return float(z.abs().max()) / bonferroni(len(z))


def fields_of_another_normalisation_are_refused():
    """The deviation is infinite if they are not."""
    check_ensemble(draws(4)[:2000], PHI4)
    try:
        check_ensemble(1.3 * draws(4)[:2000], PHI4)
    except MismatchError:
        return 0.0
    return math.inf


def a_symmetry_is_believed_only_where_it_holds():
    """The deviation is infinite if one is made up, or one is missed."""
    silent = AutogradAction(PHI4, "phi4 that declares nothing")
    findings = [find_symmetry(action, draws(2)).symmetry for action in (silent, TILTED)]
    return 0.0 if findings == ["z2", "none"] else math.inf


# The checks: statistics


def acceptance_is_that_of_the_weights():
    """``expected_acceptance`` against the closed form for Gaussian log weights; 1 per cent is the bound."""
    log_w = torch.randn(20_000, generator=rng(), dtype=torch.float64).numpy()
    return abs(weights.expected_acceptance(log_w) - math.erfc(0.5)) / 0.01


def a_round_trains_on_fields_and_forces_of_its_step():
    """``<phi dS/dphi> = V`` for the chain of a round and its action, with the forces that belong to the fields."""
    wide, narrow = FreeField(0.5), FreeField(1.5)
    reference = free_reference(SQUARE, 0.5)
    phi = free_draws(reference, 8000)
    log_q = -wide(phi) - 0.5 * SQUARE.volume * math.log(2 * math.pi) - reference.log_normaliser()
    step = annealing.next_step(annealing.ActionPath(wide, (narrow,)), annealing.Position(0, 0.0), phi, log_q, 0.7)
    fields, _ = course.chain_fields(step, annealing.chain_of(step, rng(2)), two_sector=False)
    virial = (fields.phi.double() * fields.forces).flatten(1).sum(1)
    # The draws of a chain at this ESS are worth half of as many independent ones at least.
    error = float(virial.std()) / math.sqrt(0.5 * len(virial))
    return abs(float(virial.mean()) - SQUARE.volume) / (SIGMA * error)


def susceptibility_of_a_free_field():
    """chi2_signed is C(0), chi2 is (1 - 2/pi) C(0), and the Binder cumulant is 0 for a Gaussian."""
    M = torch.randn(100, 2000, generator=rng(), dtype=torch.float64).numpy() / math.sqrt(16 * 0.5)
    record = {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4}
    estimates = derived.chi2_signed(record, 16), derived.chi2(record, 16), derived.binder(record)
    exact = 1 / 0.5, (1 - 2 / math.pi) / 0.5, 0.0
    return max(abs(a.value - b) / a.error for a, b in zip(estimates, exact, strict=True)) / bonferroni(3)


def autoregression():
    """An AR(1) series of known tau_int, whose mean has a known error; tau_int to 5 of its errors, the error to 10 %."""
    a, n, length = 0.8, 50, 4000
    noise = np.random.default_rng(1).standard_normal((length, n)) * math.sqrt(1 - a * a)
    x = np.zeros((n, length))
    last = np.random.default_rng(2).standard_normal(n)
    for t in range(length):
        last = x[:, t] = a * last + noise[t]
    estimate, tau = autocorrelation.gamma_method(x), (1 + a) / (1 - a) / 2
    error = math.sqrt(2 * tau / (n * length))
    return max(abs(estimate.tau_int - tau) / (SIGMA * estimate.tau_int_error), abs(estimate.error / error - 1) / 0.1)


CHECKS = [
    independence_keeps_phi4,
    flow_keeps_phi4,
    flow_keeps_phi4_on_a_ring,
    two_sector_flow_keeps_phi4,
    latent_keeps_phi4,
    paths_keep_phi4,
    two_sector_paths_keep_a_tilted_phi4,
    refresh_keeps_phi4,
    two_sector_refresh_keeps_a_tilted_phi4,
    hmc_keeps_phi4,
    cluster_keeps_phi4,
    cycle_keeps_phi4,
    density_is_that_of_the_map,
    density_is_the_same_in_both_directions,
    log_z_agrees_with_quadrature,
    weights_belong_to_the_fields,
    latents_belong_to_the_fields,
    chains_are_independent,
    proposals_are_fresh,
    stored_chain_agrees_with_quadrature,
    observables_are_those_of_the_stored_fields,
    a_resumed_chain_goes_on,
    mass_form_agrees_with_its_definition,
    external_field_keeps_tilted_phi4,
    sine_gordon_agrees_with_its_definition,
    fermions_agree_with_their_definition,
    an_external_field_has_no_symmetry,
    fields_of_another_external_field_are_refused,
    force_is_the_gradient,
    two_point_function_of_a_free_field,
    fields_of_another_normalisation_are_refused,
    a_symmetry_is_believed_only_where_it_holds,
    acceptance_is_that_of_the_weights,
    susceptibility_of_a_free_field,
    autoregression,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_passes(check):
    assert check() < 1


# Bugs: each takes the right function and returns a wrong one


def instead(wrong):
    """Another function altogether."""
    return lambda right: wrong


def times(factor):
    """The value of the function, times a factor."""
    return lambda right: lambda *arguments: factor * right(*arguments)


def second_value(change):
    """A function with two values, the second of which is changed."""

    def bug(right):
        def wrong(*arguments):
            first, second = right(*arguments)
            return first, change(second)

        return wrong

    return bug


def log_ratio(change):
    """A Metropolis step with another ratio, ``change(log_ratio, state, proposed)``."""

    def bug(metropolis):
        def wrong(state, proposed, ratio, uniform):
            return metropolis(state, proposed, change(ratio, state, proposed), uniform)

        return wrong

    return bug


accept_all = log_ratio(lambda ratio, *_: torch.full_like(ratio, math.inf))


def always_of(which, *names):
    """A choice that takes some of the tensors from the proposal, or from the state before, whatever was decided."""

    def bug(choose):
        def wrong(accepted, proposed, state):
            source = proposed if which == "proposal" else state
            return replace(choose(accepted, proposed, state), **{name: getattr(source, name) for name in names})

        return wrong

    return bug


def shared_by_all_chains(uniform):
    def wrong(n, generator, like):
        return uniform(n // CHAINS, generator, like).repeat_interleave(CHAINS)

    return wrong


def trace_times(factor):
    """A flow whose density changes by another multiple of the trace."""

    def bug(flow_velocity):
        def wrong(*arguments):
            return second_value(lambda change: factor * change)(flow_velocity(*arguments))

        return wrong

    return bug


def trace_without(name):
    """A trace that misses all terms of one map out of the network's layers."""

    def bug(with_trace):
        @torch.no_grad()
        def wrong(self, *arguments):
            drift, _ = with_trace(self, *arguments)
            parameter = getattr(self, name)
            kept = parameter.clone()
            parameter.zero_()
            _, trace = with_trace(self, *arguments)
            parameter.copy_(kept)
            return drift, trace

        return wrong

    return bug


def push_without_determinant(push):
    def wrong(self, *arguments):
        phi, log_q = push(self, *arguments)
        return phi, log_q + self.model.reference.log_normaliser()

    return wrong


def wrong_on_the_way_up(integrate):
    def wrong(self, velocity, psi, start, end):
        psi, change = integrate(self, velocity, psi, start, end)
        return psi, change if end < start else -change

    return wrong


def equal_weights_of_log_q(integrate):
    """The first of four Runge-Kutta weights, 1/6, for all stages of log q."""

    def wrong(self, velocity, psi, start, end):
        right_weights = itertools.cycle(self.table.b)

        def skewed(psi, level):
            slope, change = velocity(psi, level)
            return slope, change / 6 / next(right_weights)

        return integrate(self, skewed, psi, start, end)

    return wrong


def rotation(of_old, of_new):
    """Factors of the old latents and of the fresh ones."""

    def wrong(self, latents, angle, generator, share=1.0):
        return of_old(angle) * latents + of_new(angle) * self.latents(len(latents), generator)

    return instead(wrong)


def forward_without_variance(self, change, k):
    h = self._variances[k + 1] - self._variances[k]
    return -0.5 * self.lattice.sum_modes(change.abs().square()) - 0.5 * self.lattice.volume * math.log(h)


def too_much_noise(noised):
    def wrong(self, below, k, generator):
        return below + 1.5 * (noised(self, below, k, generator) - below)

    return wrong


def wide_reverse_kernel(log_reverse):
    return lambda self, white, *widths: log_reverse(self, 1.2 * white, *widths)


def no_weight(self, phi, generator):
    return torch.zeros(len(phi), dtype=torch.float64)


def always_plus(self, phi, generator):
    return torch.ones(len(phi), dtype=torch.float64)


def sample_without_log_sign(self, n, generator):
    phi, log_q = self.base.sample(n, generator)
    sign = 2.0 * torch.randint(0, 2, (n,), generator=generator) - 1
    return column(sign, phi) * phi, log_q - math.log(2)


def refresh_without_log_sign(self, phi, generator):
    sign = self.draw_sign(phi, generator)
    new, log_paths = self.base.refresh(column(sign, phi) * phi, generator)
    return column(sign, new) * new, log_paths


def stale_weights(self, state, generator):
    """A cycle whose second part goes on with the weights that it had before the first part moved the fields."""
    (first, n), (second, m) = self.parts
    moved = advance(first, State(state.phi, state.S), n, generator)
    if "log_w" in state.tensors():
        carried = replace(state, phi=moved.phi, S=moved.S)
    else:
        carried = second.start(moved.phi, generator)
    *_, last = second.steps(carried, m, generator)
    return last


def whole_first_half_step(trajectory):
    def wrong(self, phi, pi, step):
        return trajectory(self, phi + 0.5 * pi * step.view(-1, *(1,) * self.lattice.dim), pi, step)

    return wrong


def bonds_between_opposite_signs(freezing_probability):
    return lambda hopping, phi, neighbour: freezing_probability(hopping, phi.abs(), neighbour)


def half_the_hopping(freezing_probability):
    return lambda hopping, phi, neighbour: freezing_probability(0.5 * hopping, phi, neighbour)


def drops(part):
    """Streams whose names lack the parts for which ``part`` holds."""

    def bug(stream):
        return lambda seed, *name, **options: stream(seed, *(x for x in name if not part(x)), **options)

    return bug


def first_block_for_discarded_steps(stream):
    def wrong(seed, *name, **options):
        return stream(seed, *(0 if x == "discard" else x for x in name), **options)

    return wrong


def state_left_behind(block):
    return lambda kernel, state, *more: (state, block(kernel, state, *more)[1])


class Seen:
    """What a bug in one function lets a bug in another one see."""

    phi: torch.Tensor | None = None


def of_the_proposal(measure):
    # The initial state is measured before there is any proposal.
    return lambda phi, S, *more: measure(phi if Seen.phi is None else Seen.phi, S, *more)


def remember_the_proposal(weighted_step):
    def wrong(state, proposed, u):
        Seen.phi = proposed.phi
        return weighted_step(state, proposed, u)

    return wrong


def of_the_state_before(block):
    """A block whose observables are those before the step."""

    def wrong(kernel, state, *more):
        new, stored_block = block(kernel, state, *more)
        before = observables.measure(state.phi, state.S, kernel.lattice)
        for name, values in stored_block.observables.items():
            values[:, 1:] = values[:, :-1].copy()
            values[:, 0] = before[name].numpy()
        return new, stored_block

    return wrong


def swapped(a, b):
    def bug(restore):
        return lambda self, tensors: restore(self, {**tensors, a: tensors[b], b: tensors[a]})

    return bug


def hopping_form(coefficients):
    return lambda self: coefficients(replace(self, scale=1.0))


def half_of_the_modes(self, values):
    flat = values.flatten(-self.dim)
    out = flat.new_zeros(*flat.shape[:-1], len(self.orbit_modes))
    return out.index_add(-1, self.orbit_index.flatten(), flat) / self.orbit_size


def acceptance_sorted_the_wrong_way(log_w):
    w = np.sort(weights.relative_weights(log_w))
    return float((2 * np.arange(w.size) + 1) @ w / (w.size * w.sum()))


def acceptance_between_proposals(log_w):
    """Without the weight that the target gives to the present configuration."""
    w = weights.relative_weights(log_w)
    return float(np.minimum(1, w[1:] / w[:-1]).mean())


def of_another_volume(volume):
    return lambda chi2: lambda record, V, *more: chi2(record, volume(V), *more)


def correlations_times(factor):
    def bug(autocovariance):
        def wrong(delta, max_lag):
            gamma = autocovariance(delta, max_lag)
            return np.concatenate([gamma[:1], factor * gamma[1:]])

        return wrong

    return bug


def naive_error(gamma_method):
    def wrong(*arguments, **options):
        estimate = gamma_method(*arguments, **options)
        return replace(estimate, error=estimate.error / math.sqrt(2 * estimate.tau_int))

    return wrong


def twice_tau(gamma_method):
    def wrong(*arguments, **options):
        estimate = gamma_method(*arguments, **options)
        return replace(estimate, tau_int=2 * estimate.tau_int, tau_int_error=2 * estimate.tau_int_error)

    return wrong


# The mutants


@dataclass(frozen=True)
class Mutant:
    """A bug in ``function`` of ``owner``, and the check that finds it; some bugs need a second one at another place."""

    owner: object
    function: str
    bug: Callable
    check: Callable[[], float]
    second: tuple[object, str, Callable] | None = None

    def install(self, monkeypatch):
        places = [(self.owner, self.function, self.bug), *([self.second] if self.second else [])]
        return [inject(monkeypatch, *place) for place in places]


def without_off_diagonal(slopes):
    """The slopes of vectors as if their components were independent of each other."""

    def wrong(self, z):
        made = slopes(self, z)
        made[:, :, :, self.components :] = 0
        return made

    return wrong


def langevin_keeps_phi4():
    """Three Langevin steps of length 0.3, with a kernel in Fourier space, from exact draws on two sites."""
    return invariance(Langevin(PHI4, TWO_SITES, 0.3, mass=0.8), draws(2), steps=3)


def complex_langevin_has_the_covariance_of_its_recursion():
    """Steps of a Gaussian, M phi + noise in x alone: their stationary covariance, in standard errors."""
    h, action = 0.3, ComplexAction(lambda z: (0.5 * (1 + 1j) * z**2).sum(1), lambda z: (1 + 1j) * z, "gaussian")
    kernel = ComplexLangevin(action, Lattice((1,)), h, allow_inexact=True)
    phi = advance(kernel, kernel.initial(20_000, rng(1)), 60, rng(2)).phi.squeeze(2)
    m = np.eye(2) - h * np.array([[1, -1], [1, 1]])
    wanted = torch.from_numpy(solve_discrete_lyapunov(m, np.diag([2 * h, 0.0])))
    return float(z_scores(phi.unsqueeze(2) * phi.unsqueeze(1), wanted).abs().max()) / SIGMA


def k_statistics_are_unbiased():
    """The mean over all samples of 8 draws from two values, less the cumulant, in units of rounding (1e-9)."""
    p, n, worst = 0.3, 8, 0.0
    for order in range(1, 9):
        kappa = cumulants_of_moments([p] * order)[-1]  # x is 0 or 1, and so are its powers
        ways = [math.comb(n, m) * p**m * (1 - p) ** (n - m) for m in range(n + 1)]
        mean = sum(way * cumulants.k_statistic(order, [m / n] * order, n) for m, way in enumerate(ways))
        worst = max(worst, abs(mean - kappa) / 1e-9)
    return worst


MUTANTS = {
    # Complex Langevin dynamics, and cumulants
    "complex Langevin steps with too little noise": Mutant(
        complex_langevin,
        "normal",
        lambda normal: lambda *args, **options: normal(*args, **options) / math.sqrt(2),
        complex_langevin_has_the_covariance_of_its_recursion,
    ),
    "a drift with the sign of Im S' lost": Mutant(
        ComplexAction,
        "drift",
        lambda drift: lambda self, phi: drift(self, phi) * torch.tensor([1.0, -1.0], dtype=phi.dtype).view(2, 1),
        complex_langevin_has_the_covariance_of_its_recursion,
    ),
    "cumulants of the sample in place of k-statistics": Mutant(
        cumulants, "_estimator", lambda estimator: lambda order, n: estimator(order, 10**9), k_statistics_are_unbiased
    ),
    # Langevin dynamics
    "Langevin steps accepted whatever they are": Mutant(langevin, "metropolis", accept_all, langevin_keeps_phi4),
    "a Langevin step that its kernel does not shape": Mutant(
        Langevin, "_times", instead(lambda self, factor, phi: phi), langevin_keeps_phi4
    ),
    # Fields with components
    "components that do not see each other in the trace": Mutant(
        VectorLayers, "_slopes", without_off_diagonal, vector_density_is_that_of_the_map
    ),
    "the normaliser of one component for all": Mutant(
        GaussianReference,
        "log_normaliser",
        lambda log_normaliser: lambda self: log_normaliser(self) / (self.lattice.components or 1),
        vector_density_is_that_of_the_map,
    ),
    "components that do not see each other in the action": Mutant(
        Phi4,
        "__call__",
        lambda call: lambda self, phi: sum(call(replace(self, components=None), x) for x in phi.unbind(1)),
        hmc_keeps_the_o2_model,
    ),
    # Independence Metropolis
    "sign of log q": Mutant(base, "log_weight", instead(lambda S, log_q: -S + log_q), independence_keeps_phi4),
    "log q forgotten": Mutant(base, "log_weight", instead(lambda S, log_q: -S), independence_keeps_phi4),
    "S forgotten": Mutant(base, "log_weight", instead(lambda S, log_q: -log_q), independence_keeps_phi4),
    "w / w' instead of w' / w": Mutant(base, "metropolis", log_ratio(lambda r, *_: -r), independence_keeps_phi4),
    "everything accepted": Mutant(base, "metropolis", accept_all, independence_keeps_phi4),
    "acceptance with w instead of its ratio": Mutant(
        base, "metropolis", log_ratio(lambda r, state, proposed: proposed.log_w), independence_keeps_phi4
    ),
    "another temperature": Mutant(base, "metropolis", log_ratio(lambda r, *_: 0.8 * r), independence_keeps_phi4),
    "stale log w after a rejection": Mutant(
        base, "choose", always_of("proposal", "log_w"), weights_belong_to_the_fields
    ),
    "stale log w spoils the chain": Mutant(base, "choose", always_of("proposal", "log_w"), independence_keeps_phi4),
    "log w of the past after an acceptance": Mutant(
        base, "choose", always_of("state", "log_w"), independence_keeps_phi4
    ),
    "S of the rejected fields": Mutant(base, "choose", always_of("proposal", "S"), weights_belong_to_the_fields),
    "rejected fields kept": Mutant(base, "choose", always_of("proposal", "phi"), independence_keeps_phi4),
    "one uniform number for all chains": Mutant(base, "uniform", shared_by_all_chains, chains_are_independent),
    "uniform numbers of another law": Mutant(
        base, "uniform", lambda uniform: lambda *a, **b: uniform(*a, **b).sqrt(), independence_keeps_phi4
    ),
    "weights of given fields one apart": Mutant(
        weighted,
        "weighted",
        lambda weighted: lambda phi, S, log_q: weighted(phi, S, log_q.roll(1)),
        weights_belong_to_the_fields,
    ),
    # Density of the flow
    "Jacobian dropped": Mutant(ode, "flow_velocity", trace_times(0), flow_keeps_phi4),
    "Jacobian dropped, seen by log Z": Mutant(ode, "flow_velocity", trace_times(0), log_z_agrees_with_quadrature),
    "half the trace": Mutant(ode, "flow_velocity", trace_times(0.5), flow_keeps_phi4),
    "sign of the trace": Mutant(ode, "flow_velocity", trace_times(-1), flow_keeps_phi4),
    "trace of the first layer only": Mutant(
        InteractionNetwork, "with_trace", trace_without("o2"), density_is_that_of_the_map
    ),
    "trace without the coupling of neighbours": Mutant(
        shells, "site_index", instead(lambda shell, lattice: 0), density_is_that_of_the_map
    ),
    "constant part of the trace": Mutant(
        InteractionNetwork, "with_trace", trace_without("lin"), density_is_that_of_the_map
    ),
    "determinant of the reference": Mutant(GaussianReference, "log_normaliser", times(0), log_z_agrees_with_quadrature),
    "determinant of the reference, one way": Mutant(
        FlowProposal, "push", push_without_determinant, density_is_the_same_in_both_directions
    ),
    "fields and densities one apart": Mutant(
        FlowProposal, "push", second_value(lambda log_q: log_q.roll(1)), flow_keeps_phi4
    ),
    "direction of the change of log q": Mutant(
        Integrator, "integrate", wrong_on_the_way_up, density_is_the_same_in_both_directions
    ),
    "Runge-Kutta weights of log q": Mutant(Integrator, "integrate", equal_weights_of_log_q, density_is_that_of_the_map),
    "half of the modes counted once": Mutant(
        Lattice, "sum_modes", instead(lambda self, values: values.sum(self.axes)), flow_keeps_phi4_on_a_ring
    ),
    "density of latents without their square": Mutant(FlowProposal, "_log_normal", times(0), flow_keeps_phi4),
    # Two sectors
    "other sector left out of q": Mutant(
        symmetrised, "_average", instead(lambda plus, minus: plus), two_sector_flow_keeps_phi4
    ),
    "coin not tossed": Mutant(Symmetrised, "_coin", lambda coin: lambda *a: coin(*a).abs(), two_sector_flow_keeps_phi4),
    "log 2 of the two sectors": Mutant(symmetrised, "_average", instead(torch.logaddexp), log_z_agrees_with_quadrature),
    "log 2 of the two sectors of a path": Mutant(
        SymmetrisedPath, "sample", second_value(lambda log_q: log_q + math.log(2)), log_z_agrees_with_quadrature
    ),
    # Latents
    "rotation without a norm": Mutant(
        LatentProposal, "rotate", rotation(lambda angle: 1.0, math.sin), latent_keeps_phi4
    ),
    "wrong pair of sine and cosine": Mutant(LatentProposal, "rotate", rotation(math.sin, math.sin), latent_keeps_phi4),
    "old latents kept after an acceptance": Mutant(
        base, "choose", always_of("state", "latent"), latents_belong_to_the_fields
    ),
    "old latents spoil the chain": Mutant(base, "choose", always_of("state", "latent"), latent_keeps_phi4),
    "latents of rejected fields": Mutant(base, "choose", always_of("proposal", "latent"), latents_belong_to_the_fields),
    # Paths
    "prior of a path forgotten": Mutant(PathProposal, "_log_normal", times(0), log_z_agrees_with_quadrature),
    "forward and reverse exchanged": Mutant(
        PathProposal, "denoise", second_value(lambda log_paths: -log_paths), paths_keep_phi4
    ),
    "variance forgotten in the forward kernel": Mutant(
        PathProposal, "_log_forward", instead(forward_without_variance), paths_keep_phi4
    ),
    "more noise than its density says": Mutant(PathProposal, "_noised", too_much_noise, refresh_keeps_phi4),
    "width of the reverse kernel": Mutant(PathProposal, "_log_reverse", wide_reverse_kernel, paths_keep_phi4),
    "weight of a given field is that of no path": Mutant(
        PathProposal, "draw_log_q", instead(no_weight), paths_keep_phi4
    ),
    "probability of the sign forgotten": Mutant(
        SymmetrisedPath, "sample", instead(sample_without_log_sign), two_sector_paths_keep_a_tilted_phi4
    ),
    "sign of log_sign": Mutant(SymmetrisedPath, "log_sign", times(-1), two_sector_paths_keep_a_tilted_phi4),
    "sign of a given field not drawn": Mutant(
        SymmetrisedPath, "draw_sign", instead(always_plus), two_sector_refresh_keeps_a_tilted_phi4
    ),
    "refresh: up and down exchanged": Mutant(
        PathProposal, "refresh", second_value(lambda log_paths: -log_paths), refresh_keeps_phi4
    ),
    "refresh: paths left out": Mutant(PathProposal, "refresh", second_value(torch.zeros_like), refresh_keeps_phi4),
    "refresh: everything accepted": Mutant(base, "metropolis", accept_all, refresh_keeps_phi4),
    "refresh: probability of the sign": Mutant(
        SymmetrisedPath, "refresh", instead(refresh_without_log_sign), two_sector_refresh_keeps_a_tilted_phi4
    ),
    # HMC, clusters, cycles
    "HMC without the kinetic energy": Mutant(hmc, "kinetic_energy", times(0), hmc_keeps_phi4),
    "momenta of another width than in the energy": Mutant(hmc, "kinetic_energy", times(1.3**-2), hmc_keeps_phi4),
    "HMC with a whole first half step": Mutant(HMC, "trajectory", whole_first_half_step, hmc_keeps_phi4),
    "HMC accepts with exp(+dH)": Mutant(base, "metropolis", log_ratio(lambda r, *_: -r), hmc_keeps_phi4),
    "HMC accepts everything": Mutant(base, "metropolis", accept_all, hmc_keeps_phi4),
    "cluster bonds without the factor 2": Mutant(cluster, "freezing_probability", half_the_hopping, cluster_keeps_phi4),
    "cluster bonds between opposite signs": Mutant(
        cluster, "freezing_probability", bonds_between_opposite_signs, cluster_keeps_phi4
    ),
    "cluster bonds frozen too often": Mutant(
        cluster,
        "freezing_probability",
        lambda p: lambda *a: p(*a).clamp(min=0).sqrt(),
        cluster_keeps_phi4,
    ),
    "cycle with stale weights": Mutant(Cycle, "step", instead(stale_weights), cycle_keeps_phi4),
    # Theory
    "fields in another normalisation": Mutant(Phi4, "coefficients", hopping_form, mass_form_agrees_with_its_definition),
    "force of another action": Mutant(Phi4, "grad", times(0.9), force_is_the_gradient),
    "external field of the other sign": Mutant(
        ExternalField,
        "__call__",
        lambda call: lambda self, phi: 2 * self.action(phi) - call(self, phi),
        external_field_keeps_tilted_phi4,
    ),
    "external field that is said to be symmetric": Mutant(
        ExternalField, "symmetry", instead(lambda self: "z2"), an_external_field_has_no_symmetry
    ),
    "external field that no ensemble contradicts": Mutant(
        ensemble, "_check_force", instead(lambda *_: 0.0), fields_of_another_external_field_are_refused
    ),
    "alpha and beta exchanged": Mutant(
        SineGordon,
        "__call__",
        lambda call: lambda self, phi: call(replace(self, alpha=self.beta, beta=self.alpha), phi),
        sine_gordon_agrees_with_its_definition,
    ),
    "fermions of one flavour": Mutant(wilson, "log_det", times(0.5), fermions_agree_with_their_definition),
    "pseudofermions that keep their energy": Mutant(
        FermionHMC,
        "_pseudofermion_energy",
        instead(lambda self, phi, chi: 0.5 * chi.square().flatten(1).sum(1)),
        fermions_agree_with_their_definition,
    ),
    "orbits of half of the modes": Mutant(
        Lattice, "orbit_mean", instead(half_of_the_modes), two_point_function_of_a_free_field
    ),
    "every ensemble fits its action": Mutant(
        ensemble, "in_errors", instead(lambda *_: 0.0), fields_of_another_normalisation_are_refused
    ),
    "every symmetry is believed": Mutant(
        symmetry,
        "_deviation",
        instead(lambda action, phi, transform: (0.0, len(phi))),
        a_symmetry_is_believed_only_where_it_holds,
    ),
    "no symmetry is found": Mutant(
        symmetry,
        "_deviation",
        instead(lambda action, phi, transform: (1.0, len(phi))),
        a_symmetry_is_believed_only_where_it_holds,
    ),
    # Chains
    "same random numbers in every block": Mutant(
        streams, "stream", drops(lambda x: isinstance(x, int)), proposals_are_fresh
    ),
    "discarded steps with the numbers of the first block": Mutant(
        streams, "stream", first_block_for_discarded_steps, proposals_are_fresh
    ),
    "same random numbers for every action": Mutant(
        streams, "stream", drops(lambda x: "phi4" in str(x)), proposals_are_fresh
    ),
    "blocks all begin at the start": Mutant(chain, "_block", state_left_behind, stored_chain_agrees_with_quadrature),
    "observables of the proposal": Mutant(
        observables,
        "measure",
        of_the_proposal,
        observables_are_those_of_the_stored_fields,
        (weighted, "weighted_step", remember_the_proposal),
    ),
    "observables of the state before": Mutant(
        chain, "_block", of_the_state_before, observables_are_those_of_the_stored_fields
    ),
    "two tensors swapped when a chain is resumed": Mutant(
        Independence, "restore", swapped("S", "log_w"), a_resumed_chain_goes_on
    ),
    "log q and log w swapped when a chain is resumed": Mutant(
        Independence, "restore", swapped("log_q", "log_w"), a_resumed_chain_goes_on
    ),
    # Rounds
    "rounds train on proposals": Mutant(
        weighted, "metropolis", accept_all, a_round_trains_on_fields_and_forces_of_its_step
    ),
    "forces of a round at the other end of its step": Mutant(
        Mixture,
        "grad",
        lambda grad: lambda self, phi: grad(replace(self, share=1 - self.share), phi),
        a_round_trains_on_fields_and_forces_of_its_step,
    ),
    "forces of a round in another order than its fields": Mutant(
        course,
        "stored_forces",
        lambda forces: lambda action, phi: forces(action, phi).flip(0),
        a_round_trains_on_fields_and_forces_of_its_step,
    ),
    # Statistics
    "weights sorted the wrong way": Mutant(
        weights, "expected_acceptance", instead(acceptance_sorted_the_wrong_way), acceptance_is_that_of_the_weights
    ),
    "acceptance between proposals": Mutant(
        weights, "expected_acceptance", instead(acceptance_between_proposals), acceptance_is_that_of_the_weights
    ),
    "chi2 without the volume": Mutant(derived, "chi2", of_another_volume(lambda V: 1), susceptibility_of_a_free_field),
    "chi2 of V - 1 sites": Mutant(
        derived, "chi2_signed", of_another_volume(lambda V: V - 1), susceptibility_of_a_free_field
    ),
    "errors without autocorrelation": Mutant(autocorrelation, "gamma_method", naive_error, autoregression),
    "autocorrelations counted once": Mutant(autocorrelation, "autocovariance", correlations_times(0.5), autoregression),
    "tau_int of the other convention": Mutant(autocorrelation, "gamma_method", twice_tau, autoregression),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    calls = MUTANTS[name].install(monkeypatch)
    deviation = MUTANTS[name].check()
    assert all(calls), "the bug was not reached"
    assert deviation > 2

"""The invariance test: correct kernels pass at the stated rate, bugs are found, and harmless changes are let through.

A correct kernel fails with probability ``alpha``: 1e-6 here, for fifteen correct kernels; a bug must go beyond its
square. Other comparisons: 5 sigma of ``checks``.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import scipy.stats
import torch

from checks import CHANCE, Gaussian, Mixture, bonferroni, mutate, observables, steep_model
from dmmc.core.errors import DmmcError
from dmmc.kernels.base import State, start_state
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.invariance import (
    assert_invariant,
    check_invariance,
    compare,
    hotelling,
    phi4_draws,
    standard_observables,
)
from dmmc.model.reference import GaussianReference
from dmmc.proposals.flow import FlowProposal
from dmmc.theory import actions
from dmmc.theory.actions import AutogradAction, FreeField, Phi4
from dmmc.theory.lattice import Lattice
from helpers import Grid, free_draws, free_reference, rng, z_scores

ALPHA = 1e-6
TWO_SITES, SQUARE = Lattice((2,)), Lattice((4, 4))
PHI4 = Phi4(0.22, 0.1)


@functools.cache
def draws(lattice):
    return phi4_draws(PHI4, lattice, 40_000 if lattice.volume == 2 else 10_000, rng())


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(TWO_SITES), draws(SQUARE)


# A kernel that a user may write: Metropolis with steps that scale the whole field.


@dataclass(frozen=True)
class Scaling:
    """``phi' = exp(width xi) phi``, which has the Jacobian ``exp(V width xi)``: Hastings' ratio."""

    action: Phi4
    lattice: Lattice
    width: float = 0.5
    evaluations = {"force": 0}  # noqa: RUF012 - a kernel has them

    def start(self, phi):
        return start_state(self.action, self.lattice, phi)

    def propose(self, state, generator):
        n = len(state.phi)
        xi = self.width * torch.randn(n, generator=generator, dtype=torch.float64)
        return state.phi * xi.exp().view(-1, *(1,) * self.lattice.dim), self.lattice.volume * xi

    def steps(self, state, n, generator):
        for _ in range(n):
            phi, log_jacobian = self.propose(state, generator)
            S = self.action(phi)
            u = torch.rand(len(phi), generator=generator, dtype=torch.float64)
            accepted = u.log() < state.S - S + log_jacobian
            keep = accepted.view(-1, *(1,) * self.lattice.dim)
            state = State(torch.where(keep, phi, state.phi), torch.where(accepted, S, state.S))
            yield state, {"accepted": accepted}

    def describe(self):
        return {"name": "scaling"}


# The kernels that the bugs are put into


def independence():
    return Independence(PHI4, TWO_SITES, Gaussian.of(TWO_SITES, torch.tensor([1.2, 0.5]).double(), mean=0.2))


def mixture():
    left = Gaussian.of(TWO_SITES, torch.tensor([0.9, 0.5]).double(), mean=-0.4)
    right = Gaussian.of(TWO_SITES, torch.tensor([1.5, 0.4]).double(), mean=0.6)
    return Independence(PHI4, TWO_SITES, Mixture((0.3, 0.7), (left, right)))


def flow_kernel(two_sector=False):
    propagator = 1.5 * TWO_SITES.two_point(draws(TWO_SITES)[:2000]).mean(0)
    reference = GaussianReference(TWO_SITES, propagator, mean=0.5 if two_sector else 0.0)
    return Independence(PHI4, TWO_SITES, FlowProposal(steep_model(reference, two_sector), n_steps=8))


def two_sectors():
    return flow_kernel(two_sector=True)


def coarse_hmc():
    return HMC(PHI4, TWO_SITES, step_size=0.6, n_leapfrog=3)


def clusters():
    return Cluster(HMC(PHI4, TWO_SITES, step_size=0.02, n_leapfrog=1), 1)


def clusters_on_a_square():
    return Cluster(HMC(PHI4, SQUARE, step_size=0.02, n_leapfrog=1), 1)


def scaling():
    return Scaling(PHI4, TWO_SITES)


KERNELS = [independence, mixture, flow_kernel, two_sectors, coarse_hmc, clusters, clusters_on_a_square, scaling]


def check(make, reversible=False, seed=9):
    kernel = make()
    phi = draws(kernel.lattice)
    if make in (flow_kernel, two_sectors):  # cost more than the others
        phi = phi[: 15_000 if make is flow_kernel else 6000]
    return check_invariance(kernel, phi, rng(seed), alpha=ALPHA, reversible=reversible)


@pytest.mark.parametrize("make", KERNELS)
def test_correct_kernels_pass(make):
    reversible = make not in (clusters, clusters_on_a_square)  # compositions
    found = check(make, reversible)
    assert found.passed, found
    assert 0.02 < found.moved and all(0 < r < 0.2 for r in found.resolution.values())


# The bugs


@dataclass(frozen=True)
class Bug:
    """A change of source text in a kernel, see :func:`checks.mutate`."""

    make: Callable
    owner: object
    functions: str
    old: str
    new: str


BUGS = {
    "sign of log q": Bug(independence, Independence, "propose start", "S - log_q", "S + log_q"),
    "log q forgotten": Bug(independence, Independence, "propose start", "S - log_q", "S"),
    "w / w' instead of w' / w": Bug(
        independence, Independence, "steps", "log_w[here] - state.log_w", "state.log_w - log_w[here]"
    ),
    "wrong temperature": Bug(
        independence, Independence, "steps", "log_w[here] - state.log_w", "0.8 * (log_w[here] - state.log_w)"
    ),
    "everything accepted": Bug(independence, Independence, "steps", "uniform[here].log()", "-torch.inf"),
    "stale log w after a rejection": Bug(
        independence, Independence, "steps", "torch.where(accepted, log_w[here], state.log_w)", "log_w[here]"
    ),
    "rejected state with the S of the proposal": Bug(
        independence, Independence, "steps", "torch.where(accepted, S[here], state.S)", "S[here]"
    ),
    "S of the proposal in HMC": Bug(coarse_hmc, HMC, "_step", "torch.where(accepted, S, state.S)", "S"),
    "one uniform number for all chains": Bug(
        independence,
        Independence,
        "steps",
        "torch.rand(n * chains, generator=generator, dtype=torch.float64, device=phi.device)",
        "torch.rand(n, generator=generator, dtype=torch.float64).repeat_interleave(chains)",
    ),
    "one proposal for all chains": Bug(
        independence,
        Independence,
        "steps",
        "self.propose(n * chains, generator)",
        "(x.repeat_interleave(chains, 0) for x in self.propose(n, generator))",
    ),
    "S in float32": Bug(independence, Independence, "propose", "self.action(phi)", "self.action(phi).float().double()"),
    "log w in float32": Bug(independence, Independence, "propose", "-S - log_q", "(-S - log_q).float().double()"),
    "wrong weights of a mixture": Bug(mixture, Mixture, "log_q", "zip(self.weights,", "zip(self.weights[::-1],"),
    "mixture without its weights": Bug(mixture, Mixture, "log_q", "math.log(w) + ", ""),
    "Jacobian dropped": Bug(flow_kernel, FlowProposal, "_velocity", "-speed * trace[0]", "-speed * 0 * trace[0]"),
    "half the trace": Bug(flow_kernel, FlowProposal, "_velocity", "-speed * trace", "-0.5 * speed * trace"),
    "other sector left out of q": Bug(
        two_sectors, FlowProposal, "sample", "torch.logaddexp(log_q, other) - math.log(2)", "log_q"
    ),
    "sign not drawn": Bug(
        two_sectors,
        FlowProposal,
        "sample",
        "2 * torch.randint(0, 2, (n,), generator=generator, device=phi.device) - 1",
        "torch.ones(n, dtype=torch.int64)",
    ),
    "HMC without the kinetic energy": Bug(
        coarse_hmc, HMC, "_step", " + 0.5 * (end_pi.square() - pi.square()).flatten(1).sum(1)", ""
    ),
    "momenta of the wrong width": Bug(coarse_hmc, HMC, "_step", "pi = torch.randn(", "pi = 1.3 * torch.randn("),
    "leapfrog that cannot be reversed": Bug(
        coarse_hmc, HMC, "trajectory", "torch.addcmul(phi, pi, step, value=0.5)", "phi + pi * step"
    ),
    "HMC accepts everything": Bug(coarse_hmc, HMC, "_step", "u < torch.exp(-dH)", "u < torch.inf"),
    "cluster bonds without the factor 2": Bug(clusters, Cluster, "flip", "-2 * hop", "-hop"),
    "the same on a square": Bug(clusters_on_a_square, Cluster, "flip", "-2 * hop", "-hop"),
    "clusters reversed with another probability": Bug(clusters, Cluster, "flip", "frozen = u < ", "frozen = u**1.3 < "),
    "asymmetric proposal without Hastings' ratio": Bug(scaling, Scaling, "steps", " + log_jacobian", ""),
    "its inverse": Bug(scaling, Scaling, "steps", " + log_jacobian", " - log_jacobian"),
    "Jacobian of one site": Bug(scaling, Scaling, "propose", "self.lattice.volume * xi", "xi"),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_found(name, monkeypatch):
    bug = BUGS[name]
    mutate(monkeypatch, bug.owner, bug.functions, bug.old, bug.new)
    found = check(bug.make)
    assert not found.passed, found
    # Not by a hair: either a contradiction, or beyond the square of alpha.
    assert found.faults or found.p_value < ALPHA**2


HARMLESS = {
    "HMC with a wrong gradient": [
        Bug(coarse_hmc, HMC, "trajectory", "self.action.grad(phi)", "1.2 * self.action.grad(phi)")
    ],
    "momentum reversed at the end": [Bug(coarse_hmc, HMC, "trajectory", "return phi, pi", "return phi, -pi")],
    "acceptance of HMC in float32": [Bug(coarse_hmc, HMC, "_step", "torch.exp(-dH)", "torch.exp(-dH.float())")],
    "log 2 of two sectors": [
        Bug(two_sectors, FlowProposal, "sample", "other) - math.log(2)", "other)"),
        Bug(two_sectors, FlowProposal, "log_q", "minus) - math.log(2)", "minus)"),
    ],
    "determinant of the reference": [Bug(flow_kernel, FlowProposal, "push pull", " - reference.log_normaliser()", "")],
    "a constant in S": [Bug(independence, actions.Phi4, "__call__", "return ", "return 3.0 + ")],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_still_exact_passes(name, monkeypatch):
    for change in HARMLESS[name]:
        mutate(monkeypatch, change.owner, change.functions, change.old, change.new)
    found = check(change.make)
    assert found.passed, found


def test_an_invariant_kernel_that_is_not_reversible():
    # A rotation by 90 degrees keeps the symmetric target, but goes round in one direction.
    @dataclass(frozen=True)
    class Cycle(Scaling):
        def steps(self, state, n, generator):
            for _ in range(n):
                phi = torch.stack([state.phi[:, 1], -state.phi[:, 0]], 1)
                state = State(phi, self.action(phi))
                yield state, {"accepted": torch.ones(len(phi), dtype=torch.bool)}

    action = AutogradAction(lambda phi: 0.5 * phi.square().sum(1), "white")
    phi = torch.randn(20_000, 2, generator=rng(), dtype=torch.float64)
    names = {"a": lambda x: x[:, 0], "b": lambda x: x[:, 1]}
    options = {"steps": 1, "observables": lambda phi: {key: f(phi) for key, f in names.items()}}
    kernel = Cycle(action, TWO_SITES)
    assert assert_invariant(kernel, phi, rng(), **options).passed
    with pytest.raises(AssertionError, match=r"(?s)does not leave exp\(-S\) invariant\n.*detailed balance +p = 0\n"):
        assert_invariant(kernel, phi, rng(), reversible=True, **options)


# Rates


@functools.cache
def repetitions():
    """p-values of 600 tests of exact HMC, 400 draws each."""
    n, size = 600, 400
    phi = phi4_draws(PHI4, TWO_SITES, n * size, rng(2))
    kernel = coarse_hmc()
    *_, (state, _) = kernel.steps(kernel.start(phi), 2, rng(3))
    before, after = (standard_observables(x, TWO_SITES) for x in (phi, state.phi))
    slices = [slice(k * size, (k + 1) * size) for k in range(n)]
    return [
        compare({k: x[s] for k, x in before.items()}, {k: x[s] for k, x in after.items()}, reversible=True)
        for s in slices
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_rate_of_false_alarms_is_at_most_what_is_stated(alpha):
    found = repetitions()
    alarms = sum(len(p) * min(p.values()) < alpha for p in found)
    assert alarms <= scipy.stats.binom.isf(CHANCE, len(found), alpha)
    assert alarms >= scipy.stats.binom.isf(1 - CHANCE, len(found), alpha / 4)  # nor is it wasteful


@pytest.mark.parametrize("name", ["mean shift", "detailed balance"])
def test_p_values_are_uniform(name):
    # At 400 draws, with observables as skewed as M^4: to three per cent, and Kolmogorov's 5 sigma.
    p = [found[name] for found in repetitions()]
    bound = 0.03 + scipy.stats.kstwo.isf(CHANCE, len(p))
    assert scipy.stats.kstest(p, "uniform").statistic < bound


def test_sharing_the_law_but_not_the_mean_is_not_enough():
    # The same mean and variance, another law: only the Kolmogorov-Smirnov tests can tell.
    x = torch.randn(20_000, generator=rng(), dtype=torch.float64)
    y = math.sqrt(3) * (2 * torch.rand(20_000, generator=rng(2), dtype=torch.float64) - 1)
    found = compare({"x": x}, {"x": y})
    assert found["mean shift"] > ALPHA and found["law of x"] < ALPHA**2


# The parts


def test_hotelling_in_any_units_and_with_dependent_columns():
    x = torch.randn(500, 3, generator=rng(), dtype=torch.float64) + 0.1
    T2, rank = hotelling(x)
    mixed = torch.cat([1e6 * x, x @ torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64), 0 * x[:, :1]], 1)
    assert rank == 3 and hotelling(mixed) == (pytest.approx(T2), 3)
    mean = x.mean(0)
    assert T2 == pytest.approx(float(500 * mean @ torch.linalg.inv(torch.cov(x.T)) @ mean))
    assert hotelling(0 * x) == (0.0, 1)
    assert hotelling(0 * x + 1) == (math.inf, 1)


@pytest.mark.parametrize("action", [PHI4, Phi4(0.2, 0.3), Phi4.from_mass(-2.0, 1.0, 1)], ids=str)
def test_exact_draws_agree_with_quadrature(action):
    grid = Grid.make(2, half_width=7, n=301)
    exact = grid.probabilities(action) @ observables(grid.phi, TWO_SITES)
    phi = phi4_draws(action, TWO_SITES, 20_000, rng(5))
    assert phi.shape == (20_000, 2) and phi.dtype == torch.float64
    T2, rank = hotelling(observables(phi, TWO_SITES) - exact)
    assert T2 < scipy.stats.chi2.isf(CHANCE, rank)


def test_exact_draws_of_a_nearly_free_field():
    # The mass form has no factor 1/2, hence half the propagator; the coupling changes it by 1e-5.
    phi = phi4_draws(Phi4.from_mass(m2=0.81, lam_m=1e-6, dim=2), SQUARE, 5000, rng())
    z = z_scores(SQUARE.two_point(phi), free_reference(SQUARE, 0.9).propagator / 2)
    assert float(z.abs().max()) < bonferroni(len(z))


def test_what_is_reported():
    found = assert_invariant(independence(), draws(TWO_SITES)[:2000], rng(), steps=2)
    names = {"M", "abs_M", "M4", "phi4", "phi(0)", "two_point[0]", "two_point[1]", "S"}
    assert set(found.z) == set(found.resolution) == names
    assert set(found.p_values) == {"mean shift"} | {f"law of {name}" for name in names}
    assert (found.n, found.steps, found.alpha) == (2000, 2, 1e-4)
    assert found.p_value == min(1, 9 * min(found.p_values.values()))
    text = str(found)
    assert "2000 exact draws, 2 step(s) each" in text and all(name in text for name in names)
    # Four times as many draws resolve half the shift.
    finer = check_invariance(independence(), draws(TWO_SITES)[:8000], rng(), steps=2)
    assert finer.resolution["M"] == pytest.approx(found.resolution["M"] / 2, rel=0.1)


def test_large_lattices_have_a_few_observables():
    lattice = Lattice((16, 16))
    found = standard_observables(torch.randn(3, 16, 16, generator=rng()), lattice)
    assert len(found) == 13 and f"two_point[{len(lattice.orbit_modes) - 1}]" in found


def test_other_actions_and_fields_that_run_away():
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    phi = free_draws(free_reference(lattice, 0.7), 2000)
    assert assert_invariant(HMC(action, lattice, 0.4, 4), phi, rng(7), reversible=True).passed

    class Explodes(HMC):
        def steps(self, state, n, generator):
            for after, statistics in super().steps(state, n, generator):
                yield replace(after, phi=after.phi / 0), statistics

    with pytest.raises(AssertionError, match="fields that are not finite"):
        assert_invariant(Explodes(action, lattice, 0.4, 4), phi, rng())


def test_refusals():
    kernel, phi = independence(), draws(TWO_SITES)
    with pytest.raises(DmmcError, match="at least 100 exact draws, got 50"):
        check_invariance(kernel, phi[:50], rng())
    for bad in ({"steps": 0}, {"alpha": 0.0}, {"alpha": 1.0}):
        with pytest.raises(DmmcError, match="steps must be positive and alpha between 0 and 1"):
            check_invariance(kernel, phi[:200], rng(), **bad)
    with pytest.raises(DmmcError, match=r"must have shape \(batch, 2\)"):
        check_invariance(kernel, torch.zeros(200, 3), rng())
    stuck = HMC(PHI4, TWO_SITES, step_size=50.0, n_leapfrog=20)
    with pytest.raises(DmmcError, match="moved none of the chains"):
        check_invariance(stuck, phi[:200], rng(), steps=1)
    with pytest.raises(DmmcError, match="not normalisable"):
        phi4_draws(Phi4(0.5, 0.1), SQUARE, 10, rng(), c=0.0)
    with pytest.raises(DmmcError, match="rejection accepts"):
        phi4_draws(Phi4(0.3, 1.0), Lattice((8, 8)), 10, rng())

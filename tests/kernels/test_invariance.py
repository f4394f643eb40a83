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

from checks import CHANCE, Gaussian, Mixture, bonferroni, inject, observables, steep_model
from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.kernels import base, cluster, hmc, weighted
from dmmc.kernels import independence as module
from dmmc.kernels.base import Info, Kernel, State, WeightedState, start_state
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.invariance import (
    assert_invariant,
    check_invariance,
    compare,
    hotelling,
    standard_observables,
)
from dmmc.model.interaction import InteractionNetwork
from dmmc.model.reference import GaussianReference
from dmmc.proposals import symmetrised
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.symmetrised import Symmetrised
from dmmc.theory.actions import Action
from dmmc.theory.draws import phi4_draws
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import Grid, free_draws, free_reference, rng, z_scores

ALPHA = 1e-6
STEPS = 4
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
class Scaling(Kernel[State]):
    """``phi' = exp(width xi) phi``, which has the Jacobian ``exp(V width xi)``: Hastings' ratio."""

    action: Action
    lattice: Lattice
    width: float = 0.5

    @property
    def facts(self):
        return KernelFacts("scaling", model_free=True)

    def describe(self):
        return {"name": "scaling", "width": self.width}

    def initial(self, n, generator):
        return self.start(torch.ones(n, *self.lattice.shape), generator)

    def log_jacobian(self, xi):
        return self.lattice.volume * xi

    def step(self, state, generator):
        n = len(state.phi)
        xi = self.width * torch.randn(n, generator=generator, dtype=torch.float64)
        phi = state.phi * xi.exp().view(-1, *(1,) * self.lattice.dim)
        proposed = State(phi, self.action(phi))
        log_ratio = state.S - proposed.S + self.log_jacobian(xi)
        new, accepted, rate = base.metropolis(state, proposed, log_ratio, base.uniform(n, generator, like=phi))
        return new, Info(accepted, rate)


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
    return Independence(PHI4, TWO_SITES, flow_proposal(steep_model(reference, two_sector), n_steps=8, compiled=False))


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
    return check_invariance(kernel, phi, rng(seed), steps=STEPS, alpha=ALPHA, reversible=reversible)


@pytest.mark.parametrize("make", KERNELS)
def test_correct_kernels_pass(make):
    reversible = make not in (clusters, clusters_on_a_square)  # compositions
    outcome = check(make, reversible)
    assert outcome.passed, outcome
    assert 0.02 < outcome.moved and all(0 < r < 0.2 for r in outcome.resolution.values())


# The bugs


@dataclass(frozen=True)
class Bug:
    """A function of a kernel, or of what it uses, that is replaced; see :func:`checks.inject`.

    Attributes:
        make: makes the kernel that is tested.
        owner: the class or module whose function is replaced.
        function: its name.
        bug: maps the original function to the wrong one.
    """

    make: Callable
    owner: object
    function: str
    bug: Callable


def log_ratio(change):
    """A bug in the ratio that the Metropolis step is given."""
    return lambda metropolis: lambda state, proposed, log_ratio, u: metropolis(state, proposed, change(log_ratio), u)


def after_a_rejection(*names):
    """Things that are taken from the proposal whether it is accepted or not."""
    return lambda choose: (
        lambda accepted, new, old: replace(choose(accepted, new, old), **{name: getattr(new, name) for name in names})
    )


def same_for_all_chains(draw):
    """One random number, or one proposal, for all chains of a step; ``check`` takes four steps."""

    def shared_numbers(n, generator, like):
        return draw(STEPS, generator, like).repeat_interleave(n // STEPS)

    def shared_proposals(action, lattice, proposal, n, generator):
        few = draw(action, lattice, proposal, STEPS, generator).tensors()
        return WeightedState(**{name: value.repeat_interleave(n // STEPS, 0) for name, value in few.items()})

    return {"uniform": shared_numbers, "propose": shared_proposals}[draw.__name__]


def action_in_float32(weigh):
    def wrong(action, *arguments):
        return weigh(lambda phi: action(phi).float().double(), *arguments)

    return wrong


def other_weights(change):
    """A mixture whose density has other weights than its draws."""
    return lambda log_q: lambda self, phi: log_q(replace(self, weights=change(self.weights)), phi)


def trace_times(factor):
    def bug(with_trace):
        def wrong(self, *arguments):
            drift, trace = with_trace(self, *arguments)
            return drift, factor * trace

        return wrong

    return bug


def sign_not_drawn(coin):
    return lambda self, n, generator: coin(self, n, generator).abs()


def first_half_step_doubled(trajectory):
    def wrong(self, phi, pi, step):
        return trajectory(self, phi + 0.5 * pi * step.view(-1, *(1,) * self.lattice.dim), pi, step)

    return wrong


def times(factor):
    """A function whose value is ``factor`` times what it should be."""
    return lambda f: lambda *arguments: factor * f(*arguments)


def half_the_hopping(freezing_probability):
    return lambda hopping, phi, neighbour: freezing_probability(0.5 * hopping, phi, neighbour)


BUGS = {
    "sign of log q": Bug(independence, weighted, "log_weight", lambda _: lambda S, log_q: -S + log_q),
    "log q forgotten": Bug(independence, weighted, "log_weight", lambda _: lambda S, log_q: -S),
    "w / w' instead of w' / w": Bug(independence, weighted, "metropolis", log_ratio(lambda x: -x)),
    "wrong temperature": Bug(independence, weighted, "metropolis", log_ratio(lambda x: 0.8 * x)),
    "everything accepted": Bug(independence, weighted, "metropolis", log_ratio(torch.zeros_like)),
    "stale log w after a rejection": Bug(independence, base, "choose", after_a_rejection("log_w")),
    "rejected state with the S of the proposal": Bug(independence, base, "choose", after_a_rejection("S")),
    "log q and log w of the proposal, consistent with each other": Bug(
        independence, base, "choose", after_a_rejection("S", "log_q", "log_w")
    ),
    "S of the proposal in HMC": Bug(coarse_hmc, base, "choose", after_a_rejection("S")),
    "one uniform number for all chains": Bug(independence, weighted, "uniform", same_for_all_chains),
    "one proposal for all chains": Bug(independence, module, "propose", same_for_all_chains),
    "S in float32": Bug(independence, weighted, "weigh", action_in_float32),
    "log w in float32": Bug(independence, weighted, "log_weight", lambda f: lambda *x: f(*x).float().double()),
    "wrong weights of a mixture": Bug(mixture, Mixture, "log_q", other_weights(lambda w: w[::-1])),
    "mixture without its weights": Bug(mixture, Mixture, "log_q", other_weights(lambda w: (1.0,) * len(w))),
    "Jacobian dropped": Bug(flow_kernel, InteractionNetwork, "with_trace", trace_times(0)),
    "half the trace": Bug(flow_kernel, InteractionNetwork, "with_trace", trace_times(0.5)),
    "other sector left out of q": Bug(two_sectors, symmetrised, "_average", lambda _: lambda here, there: here),
    "sign not drawn": Bug(two_sectors, Symmetrised, "_coin", sign_not_drawn),
    "HMC without the kinetic energy": Bug(coarse_hmc, hmc, "kinetic_energy", times(0)),
    "momenta of another width than in the energy": Bug(coarse_hmc, hmc, "kinetic_energy", times(1.3**-2)),
    "leapfrog that cannot be reversed": Bug(coarse_hmc, HMC, "trajectory", first_half_step_doubled),
    "HMC accepts everything": Bug(coarse_hmc, hmc, "metropolis", log_ratio(torch.zeros_like)),
    "cluster bonds without the factor 2": Bug(clusters, cluster, "freezing_probability", half_the_hopping),
    "the same on a square": Bug(clusters_on_a_square, cluster, "freezing_probability", half_the_hopping),
    "links frozen with another probability": Bug(
        clusters, cluster, "freezing_probability", lambda f: lambda *x: f(*x).clamp(min=0) ** (1 / 1.3)
    ),
    "asymmetric proposal without Hastings' ratio": Bug(scaling, Scaling, "log_jacobian", times(0)),
    "its inverse": Bug(scaling, Scaling, "log_jacobian", times(-1)),
    "Jacobian of one site": Bug(scaling, Scaling, "log_jacobian", times(0.5)),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_found(name, monkeypatch):
    bug = BUGS[name]
    inject(monkeypatch, bug.owner, bug.function, bug.bug)
    outcome = check(bug.make)
    assert not outcome.passed, outcome
    # Not by a hair: either a contradiction, or beyond the square of alpha.
    assert outcome.faults or outcome.p_value < ALPHA**2


def plus(constant):
    """A function whose value is off by a constant."""
    return lambda f: lambda *arguments: constant + f(*arguments)


def momentum_reversed(trajectory):
    def changed(self, phi, pi, step):
        phi, pi = trajectory(self, phi, pi, step)
        return phi, -pi

    return changed


HARMLESS = {
    "HMC with a wrong gradient": [Bug(coarse_hmc, Phi4, "grad", times(1.2))],
    "momentum reversed at the end": [Bug(coarse_hmc, HMC, "trajectory", momentum_reversed)],
    "acceptance of HMC in float32": [Bug(coarse_hmc, hmc, "metropolis", log_ratio(lambda x: x.float().double()))],
    "log 2 of two sectors": [Bug(two_sectors, symmetrised, "_average", plus(math.log(2)))],
    "determinant of the reference": [Bug(flow_kernel, GaussianReference, "log_normaliser", times(0))],
    "a constant in S": [Bug(independence, Phi4, "__call__", plus(3.0))],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_still_exact_passes(name, monkeypatch):
    for change in HARMLESS[name]:
        inject(monkeypatch, change.owner, change.function, change.bug)
    outcome = check(change.make)
    assert outcome.passed, outcome


def test_an_invariant_kernel_that_is_not_reversible():
    # A rotation by 90 degrees keeps the symmetric target, but goes round in one direction.
    @dataclass(frozen=True)
    class Rotation(Scaling):
        def step(self, state, generator):
            phi = torch.stack([state.phi[:, 1], -state.phi[:, 0]], 1)
            everyone = torch.ones(len(phi), dtype=torch.float64)
            return State(phi, self.action(phi)), Info(everyone > 0, everyone)

    action = AutogradAction(lambda phi: 0.5 * phi.square().sum(1), "white")
    phi = torch.randn(20_000, 2, generator=rng(), dtype=torch.float64)
    names = {"a": lambda x: x[:, 0], "b": lambda x: x[:, 1]}
    options = {"steps": 1, "observables": lambda phi: {key: f(phi) for key, f in names.items()}}
    kernel = Rotation(action, TWO_SITES)
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
    *_, (state, _) = kernel.steps(kernel.start(phi, rng(3)), 2, rng(3))
    before, after = (standard_observables(x, TWO_SITES) for x in (phi, state.phi))
    slices = [slice(k * size, (k + 1) * size) for k in range(n)]
    return [
        compare({k: x[s] for k, x in before.items()}, {k: x[s] for k, x in after.items()}, reversible=True)
        for s in slices
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_rate_of_false_alarms_is_at_most_what_is_stated(alpha):
    tests = repetitions()
    alarms = sum(len(p) * min(p.values()) < alpha for p in tests)
    assert alarms <= scipy.stats.binom.isf(CHANCE, len(tests), alpha)
    assert alarms >= scipy.stats.binom.isf(1 - CHANCE, len(tests), alpha / 4)  # nor is it wasteful


@pytest.mark.parametrize("name", ["mean shift", "detailed balance"])
def test_p_values_are_uniform(name):
    # At 400 draws, with observables as skewed as M^4: to three per cent, and Kolmogorov's 5 sigma.
    p = [p_values[name] for p_values in repetitions()]
    bound = 0.03 + scipy.stats.kstwo.isf(CHANCE, len(p))
    assert scipy.stats.kstest(p, "uniform").statistic < bound


def test_sharing_the_law_but_not_the_mean_is_not_enough():
    # The same mean and variance, another law: only the Kolmogorov-Smirnov tests can tell.
    x = torch.randn(20_000, generator=rng(), dtype=torch.float64)
    y = math.sqrt(3) * (2 * torch.rand(20_000, generator=rng(2), dtype=torch.float64) - 1)
    p_values = compare({"x": x}, {"x": y})
    assert p_values["mean shift"] > ALPHA and p_values["law of x"] < ALPHA**2


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
    outcome = assert_invariant(independence(), draws(TWO_SITES)[:2000], rng(), steps=2)
    names = {"M", "abs_M", "M4", "phi4", "phi(0)", "two_point[0]", "two_point[1]", "S"}
    assert set(outcome.z) == set(outcome.resolution) == names
    assert set(outcome.p_values) == {"mean shift"} | {f"law of {name}" for name in names}
    assert (outcome.n, outcome.steps, outcome.alpha) == (2000, 2, 1e-4)
    assert outcome.p_value == min(1, 9 * min(outcome.p_values.values()))
    text = str(outcome)
    assert "2000 exact draws, 2 step(s) each" in text and all(name in text for name in names)
    # Four times as many draws resolve half the shift.
    finer = check_invariance(independence(), draws(TWO_SITES)[:8000], rng(), steps=2)
    assert finer.resolution["M"] == pytest.approx(outcome.resolution["M"] / 2, rel=0.1)


def test_large_lattices_have_a_few_observables():
    lattice = Lattice((16, 16))
    series = standard_observables(torch.randn(3, 16, 16, generator=rng()), lattice)
    assert len(series) == 13 and f"two_point[{len(lattice.orbit_modes) - 1}]" in series


def test_other_actions_and_fields_that_run_away():
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    phi = free_draws(free_reference(lattice, 0.7), 2000)
    assert assert_invariant(HMC(action, lattice, 0.4, 4), phi, rng(7), reversible=True).passed

    class Explodes(HMC):
        def step(self, state, generator):
            after, info = super().step(state, generator)
            return replace(after, phi=after.phi / 0), info

    with pytest.raises(AssertionError, match="fields that are not finite"):
        assert_invariant(Explodes(action, lattice, 0.4, 4), phi, rng())


@pytest.mark.parametrize("size", [1e50, 1e100, 1e150])
def test_fields_so_large_that_observables_overflow(size):
    # The squares of M^4 overflow first, then M^4 itself; the fields are finite.
    class Far(HMC):
        def step(self, state, generator):
            after, info = super().step(state, generator)
            return start_state(self.action, self.lattice, size * after.phi, generator.device), info

    action = AutogradAction(lambda phi: phi.abs().sum(1), "exponential")
    phi = torch.randn(500, 2, generator=rng(), dtype=torch.float64)
    with pytest.raises(AssertionError, match="does not leave"):
        assert_invariant(Far(action, TWO_SITES, 0.4, 4), phi, rng(2), steps=1)


def test_refusals():
    kernel, phi = independence(), draws(TWO_SITES)
    with pytest.raises(DmmcError, match="at least 100 exact draws, got 50"):
        check_invariance(kernel, phi[:50], rng())
    for bad in ({"steps": 0}, {"alpha": 0.0}, {"alpha": 1.0}):
        with pytest.raises(DmmcError, match="steps must be positive and alpha between 0 and 1"):
            check_invariance(kernel, phi[:200], rng(), **bad)
    with pytest.raises(DmmcError, match=r"must have shape \(batch, 2\)"):
        check_invariance(kernel, torch.zeros(200, 3), rng())
    with pytest.raises(DmmcError, match="observable of the exact draws is not finite"):
        check_invariance(kernel, phi[:200], rng(), observables=lambda phi: {"log M": phi.mean(1).log()})
    stuck = HMC(PHI4, TWO_SITES, step_size=50.0, n_leapfrog=20)
    with pytest.raises(DmmcError, match="moved none of the chains"):
        check_invariance(stuck, phi[:200], rng(), steps=1)
    with pytest.raises(DmmcError, match="not normalisable"):
        phi4_draws(Phi4(0.5, 0.1), SQUARE, 10, rng(), c=0.0)
    with pytest.raises(DmmcError, match="rejection accepts"):
        phi4_draws(Phi4(0.3, 1.0), Lattice((8, 8)), 10, rng())


def test_an_observable_may_be_constant():
    constant = {"one": lambda phi: torch.ones(len(phi), dtype=torch.float64), "M": lambda phi: phi.mean(1)}
    outcome = check_invariance(
        coarse_hmc(),
        draws(TWO_SITES)[:500],
        rng(3),
        observables=lambda phi: {name: of(phi) for name, of in constant.items()},
    )
    assert outcome.passed and outcome.z["one"] == 0 and math.isnan(outcome.resolution["one"])
    assert "one" in str(outcome)

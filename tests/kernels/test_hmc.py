"""HMC against exact answers.

Statistical errors come from the spread over independent chains, so autocorrelation does not enter. All z-scores,
about 80 in this file, must lie below 5 (two-sided 5.7e-7 each): chance alone fails one choice of seed in 20,000.
"""

import math
from dataclasses import dataclass, replace

import pytest
import scipy.stats
import torch

from checks import CHANCE, chain_averages, quadrature
from dmmc.core.errors import DmmcError
from dmmc.diagnostics.energy import DIVERGED
from dmmc.kernels.hmc import HMC, HMCInfo, first_fields, kinetic_energy
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_draws, free_reference, noise, rng, z_scores

# The integrator


@pytest.mark.parametrize("shape", [(7,), (4, 6), (3, 2, 4)])
def test_trajectory_is_reversible(shape):
    lattice = Lattice(shape)
    kernel = HMC(Phi4(0.25, 0.022), lattice, step_size=0.1, n_leapfrog=10)
    phi, pi, step = noise(lattice, 5, 1), noise(lattice, 5, 2), torch.linspace(0.02, 0.2, 5)
    end, end_pi = kernel.trajectory(phi, pi, step)
    assert (end - phi).abs().max() > 0.1
    back, back_pi = kernel.trajectory(end, -end_pi, step)
    torch.testing.assert_close(back, phi, rtol=0, atol=1e-12)
    torch.testing.assert_close(back_pi, -pi, rtol=0, atol=1e-12)


def test_trajectory_preserves_volume():
    lattice = Lattice((3,))
    kernel = HMC(Phi4(0.25, 0.1), lattice, step_size=0.3, n_leapfrog=3)

    def flow(x):
        return torch.cat(kernel.trajectory(x[:, :3], x[:, 3:]), dim=1)

    x, h = noise(Lattice((6,)), 1), 1e-4 * torch.eye(6, dtype=torch.float64)
    jacobian = (8 * (flow(x + h) - flow(x - h)) - (flow(x + 2 * h) - flow(x - 2 * h))) / 12e-4
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-8)


def test_energy_error_is_second_order():
    lattice, action = Lattice((4, 6)), Phi4(0.25, 0.1)
    phi, pi = noise(lattice, 50, 1), noise(lattice, 50, 2)

    def error(n):
        end, end_pi = HMC(action, lattice, step_size=1 / n, n_leapfrog=n).trajectory(phi, pi)
        return action(end) - action(phi) + (end_pi.square() - pi.square()).flatten(1).sum(1) / 2

    # dH = c step^2 + O(step^4): halving the step divides it by 4, up to 1/100 or so at these steps.
    assert float(error(40).norm() / error(80).norm()) == pytest.approx(4.0, rel=0.02)


def test_gradients_per_trajectory():
    calls = []

    class Counting(Phi4):
        def grad(self, phi):
            calls.append(len(phi))
            return super().grad(phi)

    kernel = HMC(Counting(0.25, 0.1), Lattice((4,)), step_size=0.1, n_leapfrog=7)
    list(kernel.steps(kernel.start(torch.zeros(3, 4), rng()), 2, rng()))
    assert calls == [3] * 14
    assert kernel.cost == {"force": 7}


# Exactness


@pytest.mark.parametrize(("shape", "step_size"), [((5,), 0.8), ((4, 6), 0.5), ((2, 3, 2), 0.45)])
def test_one_coarse_step_keeps_the_free_field(shape, step_size):
    # Exact draws, and one step that is often rejected: without the Metropolis test the leapfrog's own
    # Hamiltonian would show. Compares each orbit of each lattice: 3 + 12 + 6 propagators, <exp(-dH)>, <S>.
    lattice, action, n = Lattice(shape), FreeField(0.5), 40_000
    kernel = HMC(action, lattice, step_size, n_leapfrog=3)
    before = kernel.start(free_draws(free_reference(lattice, 0.5), n, seed=5), rng())
    after, info = kernel.step(before, rng(6))
    assert 0.3 < float(info.accepted.double().mean()) < 0.9
    exact = action.propagator(lattice.orbit_phat2)
    assert z_scores(lattice.two_point(after.phi), exact).abs().max() < SIGMA
    assert abs(float(z_scores(after.S, lattice.volume / 2))) < SIGMA
    assert abs(float(z_scores(torch.exp(-info.energy_error), 1.0))) < SIGMA
    torch.testing.assert_close(after.S, action(after.phi))
    rejected = ~info.accepted
    assert torch.equal(after.phi[rejected], before.phi[rejected])
    assert bool((after.phi[~rejected] != before.phi[~rejected]).flatten(1).all())


@pytest.mark.parametrize("shape", [(8,), (4, 6), (2, 3, 2)])
def test_hmc_reaches_the_free_propagator(shape):
    # 5 + 12 + 6 orbits.
    lattice, action, generator = Lattice(shape), FreeField(0.5), rng(7)
    kernel = HMC.default(action, lattice, length=2.0)
    kernel, state = kernel.tune(kernel.start(torch.zeros(500, *shape), generator), generator, 30)
    *_, (state, _) = kernel.steps(state, 40, generator)
    draws = torch.stack([lattice.two_point(s.phi) for s, _ in kernel.steps(state, 60, generator)]).mean(0)
    assert z_scores(draws, action.propagator(lattice.orbit_phat2)).abs().max() < SIGMA


def test_trajectories_are_as_long_in_every_form_of_the_action():
    # The same theory, its field scaled by c: trajectories scale by c, and accept the same.
    lattice, hopping = Lattice((4, 4)), Phi4(0.25, 0.1)
    mass = Phi4.from_mass((1 - 2 * 0.1) / 0.25 - 4, 0.1 / 0.25**2, 2)
    assert mass.scale == pytest.approx(math.sqrt(0.25))
    phi, ends = noise(lattice, 20), []
    for action in (hopping, mass):
        kernel = HMC.default(action, lattice, length=3.0)
        *_, (state, info) = kernel.steps(kernel.start(action.scale * phi, rng()), 3, rng())
        ends.append((state.phi / action.scale, info.energy_error))
    torch.testing.assert_close(ends[0], ends[1])


def test_jitter_thermalises_a_mode_on_resonance():
    # omega * length = pi maps phi to -phi: without the jitter phi^2 would never move.
    lattice, action = Lattice((1,)), FreeField(1.0)
    kernel = HMC(action, lattice, step_size=math.pi / 40, n_leapfrog=40)
    state = kernel.start(torch.full((4000, 1), 3.0), rng())
    *_, (frozen, _) = replace(kernel, jitter=0.0).steps(state, 40, rng())
    assert float(frozen.phi.square().mean()) > 8.0
    *_, (moved, _) = kernel.steps(state, 200, rng())
    assert abs(float(z_scores(moved.phi.square()[:, 0], 1.0))) < SIGMA


@pytest.mark.parametrize("action", [Phi4(0.25, 0.1), Phi4.from_mass(-2.0, 1.0, 1)])
@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_one_and_two_sites_against_quadrature(action, shape):
    # 4 cases of 5 observables. An extent of 1 couples a site to itself, one of 2 couples two sites twice.
    lattice = Lattice(shape)
    draws = chain_averages(HMC.default(action, lattice), n_chains=2000, n_thermal=20, n_steps=60)
    assert z_scores(draws, quadrature(action, lattice.volume)).abs().max() < SIGMA


# What a step reports


def test_acceptance_is_the_probability_that_is_reported():
    # A coarse step from exact draws: the probability is min(1, exp(-dH)), and chains are accepted as often as it says.
    lattice, action, n = Lattice((4, 6)), FreeField(0.5), 40_000
    kernel = HMC(action, lattice, step_size=0.5, n_leapfrog=3)
    _, info = kernel.step(kernel.start(free_draws(free_reference(lattice, 0.5), n, seed=5), rng()), rng(6))
    assert isinstance(info, HMCInfo)
    torch.testing.assert_close(info.acceptance_rate, torch.exp(-info.energy_error).clamp(max=1))
    assert 0.3 < float(info.acceptance_rate.mean()) < 0.9
    assert abs(float(z_scores(info.accepted.double() - info.acceptance_rate))) < SIGMA
    # Leapfrog steps that are as coarse as these lose energy in some trajectories and gain it in others.
    assert bool((info.energy_error < -0.1).any()) and bool((info.energy_error > 0.1).any())


def test_energy_is_that_of_the_start():
    # H - S is the kinetic energy of fresh momenta: chi^2 of V degrees of freedom over 2, whatever the fields are.
    lattice = Lattice((3, 4))
    kernel = HMC(Phi4(0.25, 0.1), lattice, step_size=0.3, n_leapfrog=4)
    state = kernel.start(noise(lattice, 20_000), rng())
    after, info = kernel.step(state, rng(2))
    kinetic = info.energy - state.S
    assert scipy.stats.kstest(kinetic.numpy(), scipy.stats.gamma(lattice.volume / 2).cdf).pvalue > CHANCE
    # H at the end is at least S there, since the kinetic energy is not negative.
    end = info.energy + info.energy_error
    assert bool((end >= after.S)[info.accepted].all())
    assert float(kinetic_energy(torch.tensor([[[3.0, -1.0], [0.0, 2.0]]]))) == 7.0


@pytest.mark.parametrize("jitter", [0.0, 0.2, 0.9])
def test_step_sizes_are_uniform_within_the_jitter(jitter):
    kernel = HMC(Phi4(0.25, 0.1), Lattice((2,)), step_size=0.3, n_leapfrog=4, jitter=jitter)
    _, info = kernel.step(kernel.start(torch.zeros(10_000, 2), rng()), rng(2))
    assert info.n_steps.dtype == torch.int64 and bool((info.n_steps == 4).all())
    if jitter == 0:
        assert bool((info.step_size == 0.3).all())
    else:
        law = scipy.stats.uniform(0.3 * (1 - jitter), 0.6 * jitter)
        assert float(info.step_size.min()) >= law.support()[0] and float(info.step_size.max()) <= law.support()[1]
        assert scipy.stats.kstest(info.step_size.numpy(), law.cdf).pvalue > CHANCE


def test_runaway_trajectories_are_rejected():
    kernel = HMC(Phi4(0.25, 0.1), Lattice((4, 4)), step_size=50.0, n_leapfrog=10)
    before = kernel.start(noise(kernel.lattice, 20), rng())
    after, info = kernel.step(before, rng())
    assert not info.accepted.any() and not info.acceptance_rate.any()
    assert bool((info.energy_error == math.inf).all()) and bool(info.diverging.all())
    assert bool(torch.isfinite(info.energy).all())
    assert torch.equal(after.phi, before.phi) and torch.equal(after.S, before.S)


def test_trajectories_that_only_go_astray_are_diverging_too():
    # Beyond the stability limit of the leapfrog errors grow step by step, here from less than 1 to many thousands.
    lattice = Lattice((1,))
    kernel = HMC(FreeField(1.0), lattice, step_size=2.3, n_leapfrog=5, jitter=0.5)
    _, info = kernel.step(kernel.start(noise(lattice, 2000), rng()), rng())
    assert bool(torch.isfinite(info.energy_error).all())
    assert torch.equal(info.diverging, info.energy_error > DIVERGED)
    assert 0.02 < float(info.diverging.double().mean()) < 0.98
    assert not bool((info.accepted & info.diverging).any())


# Tuning, reproducibility, refusals


@pytest.mark.parametrize("start_step", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("n", [1, 64])
def test_tuning_reaches_the_target(start_step, n):
    lattice, action = Lattice((8, 8)), Phi4(0.25, 0.022)
    first = HMC(action, lattice, step_size=start_step, n_leapfrog=round(2 / start_step))
    kernel, state = first.tune(first.start(noise(lattice, n), rng()), rng(), 100)
    assert kernel.length == pytest.approx(2.0)
    assert state.phi.shape == (n, 8, 8)
    state = kernel.start(state.phi[:1].expand(500, 8, 8), rng())
    *_, (_, info) = kernel.steps(state, 5, rng(2))
    # From below the target, by chance with a single chain, to a whole step of rounding above it.
    assert 0.65 < float(info.accepted.double().mean()) < 0.97


@pytest.mark.parametrize("target", [0.6, 0.95])
def test_tuning_reaches_other_targets(target):
    lattice = Lattice((8, 8))
    first = replace(HMC.default(Phi4(0.25, 0.022), lattice, length=2.0), target_acceptance=target)
    kernel, state = first.tune(first.initial(200, rng()), rng(2), 100)
    assert kernel == replace(first, step_size=kernel.step_size, n_leapfrog=kernel.n_leapfrog)
    rates = torch.stack([info.acceptance_rate for _, info in kernel.steps(state, 10, rng(3))])
    # A whole number of steps makes a trajectory, so that the acceptance is at the target or above it.
    assert target - 0.02 < float(rates.mean()) < target + 0.6 * (1 - target)


@pytest.mark.parametrize("action", [Phi4(0.5, 0.022), Phi4(0.7, 0.022), Phi4.from_mass(-7.0, 1.0, 2), Phi4(0.2, 0.1)])
def test_every_chain_moves_from_first_fields(action):
    # Far in the broken phase fields that begin near 0 fall deep, and some of 256 chains would never move again.
    lattice, generator = Lattice((8, 8)), rng(3)
    kernel = HMC.default(action, lattice)
    kernel, state = kernel.tune(kernel.initial(256, generator), generator, 60)
    moved = torch.stack([info.accepted for _, info in kernel.steps(state, 30, generator)]).any(0)
    assert bool(moved.all())


@dataclass(frozen=True)
class Bowl:
    """``sum (phi - centre)^2 / 2``, which says about itself what the test wants it to say."""

    centre: float
    symmetry: str | None = None
    scale: float = 1.0

    def minimum(self, dim):
        return self.centre

    def __call__(self, phi):
        return 0.5 * (phi - self.centre).square().flatten(1).sum(1)

    def grad(self, phi):
        return phi - self.centre

    def describe(self):
        return {"name": "bowl", "centre": self.centre}


def signs(phi):
    return (phi.flatten(1).mean(1) > 0).double()


@pytest.mark.parametrize(
    "action",
    [Phi4(0.5, 0.022), Phi4(0.2, 0.1), FreeField(0.5), Bowl(0.0), Bowl(1.0), Bowl(2.0, "z2"), Bowl(-2.0, "z2")],
    ids=["broken", "symmetric", "free", "undeclared", "undeclared minimum", "z2", "z2, negative minimum"],
)
def test_signs_of_first_fields_are_drawn(action):
    # Also for an action that does not say whether it is symmetric: its chains should not all begin in the same well.
    phi = first_fields(action, Lattice((4, 4)), 4000, rng())
    assert phi.shape == (4000, 4, 4) and phi.dtype == torch.float64
    assert abs(float(z_scores(signs(phi), 0.5))) < SIGMA


@pytest.mark.parametrize("centre", [2.0, -2.0, 0.0])
def test_signs_of_first_fields_are_not_drawn_without_the_symmetry(centre):
    lattice, n = Lattice((4, 4)), 4000
    phi = first_fields(Bowl(centre, "none", scale=3.0), lattice, n, rng())
    # Nearly uniform around the minimum: 0.1 of the scale is the width of the noise on every site.
    assert abs(float(z_scores(phi.flatten(1).mean(1), centre))) < SIGMA
    assert float(phi.std(0).mean()) == pytest.approx(0.3, rel=0.02)
    if centre:
        assert bool((signs(phi) == (centre > 0)).all())


@pytest.mark.parametrize("centre", [30.0, -30.0])
def test_no_chain_begins_where_the_other_sign_has_all_the_weight(centre):
    action, lattice = Bowl(centre), Lattice((4, 4))
    phi = first_fields(action, lattice, 100, rng())
    assert abs(float(z_scores(phi.flatten(1).mean(1), centre))) < SIGMA
    kernel = HMC.default(action, lattice)
    assert float(kernel.tune(kernel.initial(16, rng()), rng(), 20)[1].S.max()) < 50


def test_initial_states_are_first_fields():
    kernel = HMC.default(Phi4(0.5, 0.022), Lattice((4, 4)))
    state = kernel.initial(10, rng())
    assert torch.equal(state.phi, first_fields(kernel.action, kernel.lattice, 10, rng()))
    assert torch.equal(state.S, kernel.action(state.phi))


def test_default_trajectories_are_as_long_as_the_field_is_wide():
    assert HMC.default(Bowl(0.0, scale=3.0), Lattice((4,)), length=2.0).length == pytest.approx(6.0)

    class Silent:
        """Declares nothing."""

        grad = torch.zeros_like

        def __call__(self, phi):
            return torch.zeros(len(phi))

        def describe(self):
            return {"name": "silent"}

    assert HMC.default(Silent(), Lattice((4,)), length=2.0).length == pytest.approx(2.0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_uniform_field_of_least_action(dim):
    lattice = Lattice((3,) * dim)
    for action in (Phi4(0.5, 0.022), Phi4.from_mass(-3.0, 1.0, dim), Phi4(0.05, 0.1)):
        least = action.minimum(dim)
        values = torch.linspace(0, 3 * least + action.scale, 2001, dtype=torch.float64).view(-1, *(1,) * dim)
        S = action(values.expand(-1, *lattice.shape))
        assert float(values[S.argmin()].flatten()) == pytest.approx(least, abs=2 * float(values[1].flatten()))


def test_same_seed_same_chain():
    kernel = HMC.default(Phi4(0.25, 0.022), Lattice((4, 5)))
    state = kernel.start(noise(Lattice((5, 4)), 10).float().transpose(1, 2), rng())
    assert state.phi.dtype == state.S.dtype == torch.float64
    *_, (whole, info) = kernel.steps(state, 6, rng())
    generator = rng()
    *_, (half, _) = kernel.steps(state, 3, generator)
    *_, (again, _) = kernel.steps(kernel.restore(half.tensors()), 3, generator)
    assert torch.equal(whole.phi, again.phi) and torch.equal(whole.S, again.S)
    torch.testing.assert_close(whole.S, kernel.action(whole.phi))
    types = {name: value.dtype for name, value in info.tensors().items()}
    assert types == {
        **dict.fromkeys(["accepted", "diverging"], torch.bool),
        **dict.fromkeys(["acceptance_rate", "energy_error", "energy", "step_size"], torch.float64),
        "n_steps": torch.int64,
    }
    assert all(value.shape == (10,) for value in info.tensors().values())


def test_autograd_action_and_parameters_that_require_grad():
    g = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    action = AutogradAction(lambda phi: (phi**2 + g * phi**4).flatten(1).sum(1), "quartic")
    kernel = HMC(action, Lattice((3,)), step_size=0.1, n_leapfrog=3)
    *_, (state, _) = kernel.steps(kernel.start(torch.ones(4, 3), rng()), 3, rng())
    assert not state.phi.requires_grad and not state.S.requires_grad


def test_describe():
    kernel = HMC(Phi4(0.25, 0.1), Lattice((4,)), step_size=0.1, n_leapfrog=3)
    assert kernel.describe() == {"name": "hmc", "step_size": 0.1, "n_leapfrog": 3, "jitter": 0.2}
    # The target of the tuning is no property of the chain, so that another one does not prevent a chain from going on.
    assert replace(kernel, target_acceptance=0.9).describe() == kernel.describe()
    facts = kernel.facts
    assert facts.name == "hmc" and facts.model_free and not facts.independent_weights and facts.inexact == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": -0.1}, "step_size"),
        ({"step_size": math.nan}, "step_size"),
        ({"n_leapfrog": 0}, "n_leapfrog"),
        ({"n_leapfrog": 2.5}, "n_leapfrog"),
        ({"jitter": 1.0}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
        ({"target_acceptance": 0.0}, "target_acceptance"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
        ({"target_acceptance": 80}, "target_acceptance"),
    ],
)
def test_hmc_refuses(change, message):
    with pytest.raises(DmmcError, match=message):
        replace(HMC.default(Phi4(0.25, 0.1), Lattice((4,))), **change)


def test_other_refusals():
    lattice = Lattice((4,))
    kernel = HMC.default(Phi4(0.25, 0.1), lattice)
    state = kernel.start(torch.zeros(2, 4), rng())
    with pytest.raises(DmmcError, match="trajectory length"):
        HMC.default(kernel.action, lattice, length=0.0)
    with pytest.raises(DmmcError, match="at least 10 steps, got 5"):
        kernel.tune(state, rng(), 5)
    with pytest.raises(DmmcError, match="shape"):
        kernel.start(torch.zeros(2, 5), rng())
    with pytest.raises(DmmcError, match="finite"):
        kernel.start(torch.full((2, 4), 1e200, dtype=torch.float64), rng())


def test_tuning_gives_up_on_a_wrong_gradient():
    class Wrong(Phi4):
        def grad(self, phi):
            return torch.full_like(phi, math.nan)

    kernel = HMC.default(Wrong(0.25, 0.1), Lattice((4,)))
    with pytest.raises(DmmcError, match="gradient"):
        kernel.tune(kernel.start(torch.zeros(2, 4), rng()), rng(), 100)


def test_a_length_that_takes_too_many_steps_is_refused():
    assert HMC.default(Phi4(0.25, 0.1), Lattice((4,)), length=100.0).n_leapfrog == 1000
    with pytest.raises(DmmcError, match=r"length must be at most 100, .* got 100\.1"):
        HMC.default(Phi4(0.25, 0.1), Lattice((4,)), length=100.1)


def test_tuning_keeps_below_the_steps_at_which_trajectories_run_away():
    # At the acceptance of 0.8 that is aimed at, one trajectory in fifty of this small, steep system runs away.
    kernel, generator = HMC.default(Phi4(0.3, 0.3), Lattice((2,))), rng()
    kernel, state = kernel.tune(kernel.initial(64, generator), generator, 60)
    assert kernel.n_leapfrog * kernel.step_size == pytest.approx(4)
    infos = [info for _, info in kernel.steps(state, 60, generator)]
    assert not torch.stack([info.diverging for info in infos]).any()
    assert torch.stack([info.acceptance_rate for info in infos]).mean() < 0.99  # the step is not needlessly small

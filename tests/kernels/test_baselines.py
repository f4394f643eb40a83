"""HMC and cluster updates against exact answers and against each other.

Statistical errors come from the spread over independent chains, so autocorrelation does not enter. All z-scores,
about 100 in this file, must lie below 5 (two-sided 5.7e-7 each): chance alone fails one in 17,000 choices of seed.
"""

import math
from dataclasses import replace

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.kernels import cluster, hmc
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.theory.actions import AutogradAction, FreeField, Phi4
from dmmc.theory.lattice import Lattice

SIGMA = 5.0


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rng(seed=1):
    return torch.Generator().manual_seed(seed)


def noise(lattice, n, seed=1):
    return torch.randn(n, *lattice.shape, generator=rng(seed), dtype=torch.float64)


def z_scores(samples, exact):
    """Deviations of the means over the first axis from ``exact``, in standard errors."""
    return (samples.mean(0) - exact) / (samples.std(0) / math.sqrt(len(samples)))


def free_draws(action, lattice, n, seed):
    return lattice.to_sites(action.propagator(lattice.phat2).sqrt() * lattice.to_modes(noise(lattice, n, seed)))


def observables(phi, S):
    flat = phi.flatten(1)
    M = flat.mean(1)
    columns = [flat.square().mean(1), flat.pow(4).mean(1), M.square(), M.abs(), S / flat.shape[1]]
    return torch.stack(columns, dim=1)  # phi^2, phi^4, M^2, |M|, S / V


def chain_averages(kernel, n_chains, n_thermal, n_steps, seed=1):
    """Time averages of the observables, one row a chain, from a start narrow enough not to stick in the tail."""
    generator = rng(seed)
    state = kernel.start(0.3 * noise(kernel.lattice, n_chains, seed + 1000))
    *_, (state, _) = kernel.steps(state, n_thermal, generator)
    return torch.stack([observables(s.phi, s.S) for s, _ in kernel.steps(state, n_steps, generator)]).mean(0)


def quadrature(action, n_sites):
    """The observables of one or two sites by the trapezoidal rule, which is spectrally accurate here."""
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    phi = torch.cartesian_prod(*[axis] * n_sites).view(-1, n_sites)
    S = action(phi)
    weight = torch.exp(S.min() - S)
    return (weight[:, None] * observables(phi, S)).sum(0) / weight.sum()


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
    list(kernel.steps(kernel.start(torch.zeros(3, 4)), 2, rng()))
    assert calls == [3] * 14


# Exactness


@pytest.mark.parametrize(("shape", "step_size"), [((5,), 0.8), ((4, 6), 0.5), ((2, 3, 2), 0.45)])
def test_one_coarse_step_keeps_the_free_field(shape, step_size):
    # Exact draws, and one step that is often rejected: without the Metropolis test the leapfrog's own
    # Hamiltonian would show. Compares each orbit of each lattice: 3 + 12 + 6 propagators, <exp(-dH)>, <S>.
    lattice, action, n = Lattice(shape), FreeField(0.5), 40_000
    kernel = HMC(action, lattice, step_size, n_leapfrog=3)
    before = kernel.start(free_draws(action, lattice, n, seed=5))
    after, statistics = next(kernel.steps(before, 1, rng(6)))
    assert 0.3 < float(statistics["accepted"].double().mean()) < 0.9
    exact = action.propagator(lattice.orbit_phat2)
    assert z_scores(lattice.two_point(after.phi), exact).abs().max() < SIGMA
    assert abs(float(z_scores(after.S, lattice.volume / 2))) < SIGMA
    assert abs(float(z_scores(torch.exp(-statistics["energy_error"]), 1.0))) < SIGMA
    torch.testing.assert_close(after.S, action(after.phi))
    rejected = ~statistics["accepted"]
    assert torch.equal(after.phi[rejected], before.phi[rejected])
    assert bool((after.phi[~rejected] != before.phi[~rejected]).flatten(1).all())


@pytest.mark.parametrize("shape", [(8,), (4, 6), (2, 3, 2)])
def test_hmc_reaches_the_free_propagator(shape):
    # 5 + 12 + 6 orbits.
    lattice, action, generator = Lattice(shape), FreeField(0.5), rng(7)
    kernel = HMC.default(action, lattice, length=2.0)
    kernel, state = hmc.warm_up(kernel, kernel.start(torch.zeros(500, *shape)), 30, generator)
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
        *_, (state, statistics) = kernel.steps(kernel.start(action.scale * phi), 3, rng())
        ends.append((state.phi / action.scale, statistics["energy_error"]))
    torch.testing.assert_close(ends[0], ends[1])


def test_jitter_thermalises_a_mode_on_resonance():
    # omega * length = pi maps phi to -phi: without the jitter phi^2 would never move.
    lattice, action = Lattice((1,)), FreeField(1.0)
    kernel = HMC(action, lattice, step_size=math.pi / 40, n_leapfrog=40)
    state = kernel.start(torch.full((4000, 1), 3.0))
    *_, (frozen, _) = replace(kernel, jitter=0.0).steps(state, 40, rng())
    assert float(frozen.phi.square().mean()) > 8.0
    *_, (moved, _) = kernel.steps(state, 200, rng())
    assert abs(float(z_scores(moved.phi.square()[:, 0], 1.0))) < SIGMA


@pytest.mark.parametrize("make", [HMC.default, Cluster.default])
@pytest.mark.parametrize("action", [Phi4(0.25, 0.1), Phi4.from_mass(-2.0, 1.0, 1)])
@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_one_and_two_sites_against_quadrature(make, action, shape):
    # 8 cases of 5 observables. An extent of 1 couples a site to itself, one of 2 couples two sites twice.
    lattice = Lattice(shape)
    draws = chain_averages(make(action, lattice), n_chains=2000, n_thermal=20, n_steps=60)
    assert z_scores(draws, quadrature(action, lattice.volume)).abs().max() < SIGMA


def test_hmc_and_cluster_agree():
    # 5 observables, each from 512 independent chains.
    lattice, action = Lattice((8, 8)), Phi4(0.25, 0.022)
    kernel = HMC(action, lattice, step_size=0.2, n_leapfrog=5)
    a = chain_averages(kernel, n_chains=512, n_thermal=100, n_steps=600, seed=1)
    b = chain_averages(Cluster(kernel, n_local=2), n_chains=512, n_thermal=30, n_steps=150, seed=2)
    error = ((a.var(0) + b.var(0)) / 512).sqrt()
    assert ((a.mean(0) - b.mean(0)) / error).abs().max() < SIGMA
    assert (error / b.mean(0)).max() < 0.015  # or the comparison would not mean much


def test_flip_keeps_moduli_and_reverses_whole_clusters():
    lattice, action = Lattice((5, 4)), Phi4(0.25, 0.022)
    phi = noise(lattice, 64)
    flipped, n_clusters = Cluster.default(action, lattice).flip(phi, rng())
    assert torch.equal(flipped.abs(), phi.abs())
    assert n_clusters.dtype == torch.int64 and bool((n_clusters >= 1).all()) and bool((n_clusters <= 20).all())
    # At strong coupling all links between equal signs freeze: one cluster, reversed in half of the chains.
    strong = torch.full((4000, 5, 4), 20.0, dtype=torch.float64)
    flipped, n_clusters = Cluster.default(action, lattice).flip(strong, rng())
    assert bool((n_clusters == 1).all())
    assert bool((flipped == flipped[:, :1, :1]).all())
    assert abs(float(z_scores((flipped[:, 0, 0] > 0).double(), 0.5))) < SIGMA
    # Opposite signs never share a cluster: a checkerboard of them, on even extents, has one cluster a site.
    board = 20.0 * (-1.0) ** torch.arange(4, dtype=torch.float64)
    _, n_clusters = Cluster.default(action, Lattice((4,))).flip(board.expand(10, 4).contiguous(), rng())
    assert bool((n_clusters == 4).all())


def test_cluster_flips_the_sign_in_the_broken_phase_where_hmc_does_not():
    lattice, action = Lattice((8, 8)), Phi4(0.5, 0.022)
    kernel = HMC(action, lattice, step_size=0.1, n_leapfrog=10)
    state = kernel.start(torch.full((200, 8, 8), 4.8))
    *_, (stuck, _) = kernel.steps(state, 10, rng())
    assert bool((stuck.phi.mean(dim=(1, 2)) > 0).all())
    *_, (moved, _) = Cluster(kernel).steps(state, 10, rng())
    assert abs(float(z_scores((moved.phi.mean(dim=(1, 2)) > 0).double(), 0.5))) < SIGMA


# Tuning, reproducibility, refusals


@pytest.mark.parametrize("start_step", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("n", [1, 64])
def test_warm_up_reaches_the_target(start_step, n):
    lattice, action = Lattice((8, 8)), Phi4(0.25, 0.022)
    first = HMC(action, lattice, step_size=start_step, n_leapfrog=round(2 / start_step))
    kernel, state = hmc.warm_up(first, first.start(noise(lattice, n)), 100, rng())
    assert kernel.length == pytest.approx(2.0)
    assert state.phi.shape == (n, 8, 8)
    state = kernel.start(state.phi[:1].expand(500, 8, 8))
    *_, (_, statistics) = kernel.steps(state, 5, rng(2))
    # From below the target, by chance with a single chain, to a whole step of rounding above it.
    assert 0.65 < float(statistics["accepted"].double().mean()) < 0.97


@pytest.mark.parametrize("action", [Phi4(0.5, 0.022), Phi4(0.7, 0.022), Phi4.from_mass(-7.0, 1.0, 2), Phi4(0.2, 0.1)])
def test_every_chain_moves_from_first_fields(action):
    # Far in the broken phase fields that begin near 0 fall deep, and some of 256 chains would never move again.
    lattice, generator = Lattice((8, 8)), rng(3)
    kernel = HMC.default(action, lattice)
    kernel, state = hmc.warm_up(kernel, kernel.start(hmc.first_fields(action, lattice, 256, generator)), 60, generator)
    moved = torch.stack([statistics["accepted"] for _, statistics in kernel.steps(state, 30, generator)]).any(0)
    assert bool(moved.all())


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_uniform_field_of_least_action(dim):
    lattice = Lattice((3,) * dim)
    for action in (Phi4(0.5, 0.022), Phi4.from_mass(-3.0, 1.0, dim), Phi4(0.05, 0.1)):
        least = action.minimum(dim)
        values = torch.linspace(0, 3 * least + action.scale, 2001, dtype=torch.float64).view(-1, *(1,) * dim)
        S = action(values.expand(-1, *lattice.shape))
        assert float(values[S.argmin()].flatten()) == pytest.approx(least, abs=2 * float(values[1].flatten()))


def test_warm_up_of_the_cluster_kernel_tunes_its_hmc():
    lattice, action = Lattice((4, 4)), Phi4(0.25, 0.022)
    first = Cluster.default(action, lattice)
    state = first.start(noise(lattice, 20))
    tuned, after = cluster.warm_up(first, state, 20, rng())
    local, expected = hmc.warm_up(first.local, state, 20, rng())
    assert tuned == Cluster(local, n_local=1)
    assert torch.equal(after.phi, expected.phi)


@pytest.mark.parametrize("make", [HMC.default, Cluster.default])
def test_same_seed_same_chain(make):
    kernel = make(Phi4(0.25, 0.022), Lattice((4, 5)))
    state = kernel.start(noise(Lattice((5, 4)), 10).float().transpose(1, 2))
    assert state.phi.dtype == state.S.dtype == torch.float64
    *_, (whole, statistics) = kernel.steps(state, 6, rng())
    generator = rng()
    *_, (half, _) = kernel.steps(state, 3, generator)
    *_, (again, _) = kernel.steps(half, 3, generator)
    assert torch.equal(whole.phi, again.phi) and torch.equal(whole.S, again.S)
    torch.testing.assert_close(whole.S, kernel.action(whole.phi))
    assert statistics["accepted"].dtype == torch.bool and statistics["energy_error"].dtype == torch.float64
    assert all(value.shape == (10,) for value in statistics.values())


def test_runaway_trajectories_are_rejected():
    kernel = HMC(Phi4(0.25, 0.1), Lattice((4, 4)), step_size=50.0, n_leapfrog=10)
    before = kernel.start(noise(kernel.lattice, 20))
    after, statistics = next(kernel.steps(before, 1, rng()))
    assert not statistics["accepted"].any()
    assert bool((statistics["energy_error"] == math.inf).all())
    assert torch.equal(after.phi, before.phi) and torch.equal(after.S, before.S)


def test_autograd_action_and_parameters_that_require_grad():
    g = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    action = AutogradAction(lambda phi: (phi**2 + g * phi**4).flatten(1).sum(1), "quartic")
    kernel = HMC(action, Lattice((3,)), step_size=0.1, n_leapfrog=3)
    *_, (state, _) = kernel.steps(kernel.start(torch.ones(4, 3)), 3, rng())
    assert not state.phi.requires_grad and not state.S.requires_grad


def test_describe():
    kernel = Cluster(HMC(Phi4(0.25, 0.1), Lattice((4,)), step_size=0.1, n_leapfrog=3), n_local=1)
    local = {"name": "hmc", "step_size": 0.1, "n_leapfrog": 3, "jitter": 0.2}
    assert kernel.describe() == {"name": "cluster", "n_local": 1, "local": local}


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
    ],
)
def test_hmc_refuses(change, message):
    with pytest.raises(DmmcError, match=message):
        replace(HMC.default(Phi4(0.25, 0.1), Lattice((4,))), **change)


def test_other_refusals():
    lattice = Lattice((4,))
    kernel = HMC.default(Phi4(0.25, 0.1), lattice)
    state = kernel.start(torch.zeros(2, 4))
    with pytest.raises(DmmcError, match="phi4 action only, got 'free'"):
        Cluster.default(FreeField(1.0), lattice)
    with pytest.raises(DmmcError, match="n_local"):
        Cluster(kernel, n_local=0)
    with pytest.raises(DmmcError, match="trajectory length"):
        HMC.default(kernel.action, lattice, length=0.0)
    with pytest.raises(DmmcError, match="n_steps"):
        hmc.warm_up(kernel, state, 5, rng())
    for target in (0.0, 1.0, 80):
        with pytest.raises(DmmcError, match="target_acceptance"):
            hmc.warm_up(kernel, state, 20, rng(), target_acceptance=target)
    with pytest.raises(DmmcError, match="shape"):
        kernel.start(torch.zeros(2, 5))
    with pytest.raises(DmmcError, match="finite"):
        kernel.start(torch.full((2, 4), 1e200, dtype=torch.float64))


def test_warm_up_gives_up_on_a_wrong_gradient():
    class Wrong(Phi4):
        def grad(self, phi):
            return torch.full_like(phi, math.nan)

    kernel = HMC.default(Wrong(0.25, 0.1), Lattice((4,)))
    with pytest.raises(DmmcError, match="gradient"):
        hmc.warm_up(kernel, kernel.start(torch.zeros(2, 4)), 100, rng())

"""The interaction network: exact divergence, symmetries, normalisation, refitting; its splines and shells."""

import itertools
import math
import shutil

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model import shells, splines
from dmmc.model.interaction import InteractionNetwork, NetworkSize
from dmmc.model.layers import activation
from dmmc.model.reference import GaussianReference
from dmmc.theory.lattice import Lattice
from helpers import SMALL, free_draws, free_reference, noise, random_network, rng

SHAPES = [(1,), (2,), (5,), (8,), (4, 4), (5, 5), (2, 2), (6, 3), (4, 7), (1, 4), (4, 1)]
SHAPES += [(3, 3, 3), (2, 4, 3), (2, 2, 2, 2), (2, 3, 2, 3), (3, 1, 2, 2)]
PLAIN = ((), (1,), (1, 1))
EXTRA = ((), (1,), (2,), (1, 1), (1, 2), (1, 1, 1))


def size_with(kinds, odd):
    return NetworkSize(**{**SMALL.describe(), "shells": kinds, "odd": odd})


def reference_on(shape, seed=3):
    """A rough propagator, another value at every orbit: nothing may rest on its being smooth or free."""
    lattice = Lattice(shape)
    spread = torch.rand(len(lattice.orbit_modes), generator=rng(seed), dtype=torch.float64)
    return GaussianReference(lattice, 1 / (lattice.orbit_phat2 + 0.3) * (0.5 + spread))


def levels(reference, *at):
    return reference.variance(torch.tensor(at, dtype=torch.float64))


def apply(network, phi, v):
    """D N on the sites: ``(G, n, *lattice) -> (G, n, *lattice)``."""
    return network.lattice.to_sites(network(network.lattice.to_modes(phi), v))


def full_trace(network, phi, v):
    """Trace of the Jacobian of phi -> D N for one field at one noise level, by backpropagation from every site."""
    volume = network.lattice.volume
    copies = phi.expand(volume, *phi.shape).clone().requires_grad_(True)
    out = apply(network, copies.unsqueeze(0), v.view(1))[0]
    # Copy i is asked for output i only, so one backward pass holds the whole Jacobian.
    (jacobian,) = torch.autograd.grad(out.reshape(volume, volume).diagonal().sum(), copies)
    return float(jacobian.reshape(volume, volume).diagonal().sum())


@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("kinds", [PLAIN, EXTRA], ids=["plain", "extra"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_divergence_is_that_of_the_full_jacobian(shape, kinds, odd):
    reference = reference_on(shape)
    network = random_network(reference, size_with(kinds, odd), strength=1.0)
    v = levels(reference, 0.0, 0.4, 1.0)
    phi = noise(network.lattice, 6).view(3, 2, *shape) * (1 + v.sqrt().view(3, 1, *[1] * len(shape)))
    drift, trace = network.with_trace(network.lattice.to_modes(phi), v)
    assert trace.dtype == torch.float64
    exact = [[full_trace(network, phi[g, i], v[g]) for i in range(2)] for g in range(3)]
    torch.testing.assert_close(trace, torch.tensor(exact, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert torch.equal(drift, network(network.lattice.to_modes(phi), v))
    # The test is of something: the trace depends on the field and on the level.
    assert float(trace.std(0).min()) > 1e-3 and float(trace.std(1).max()) > 1e-3


@pytest.mark.parametrize("shape", [(7,), (4, 4), (4, 6), (3, 4, 3), (2, 3, 2, 3)], ids=str)
def test_commutes_with_the_symmetries_of_the_lattice(shape):
    reference = reference_on(shape)
    network = random_network(reference, size_with(EXTRA, odd=False))
    v = levels(reference, 0.3)
    phi = noise(network.lattice, 2).unsqueeze(0)
    out = apply(network, phi, v)
    axes = range(2, 2 + len(shape))
    moves = [lambda x, a=a: torch.roll(x, 1, a) for a in axes]
    moves += [lambda x, a=a: torch.flip(x, (a,)) for a in axes]
    exchanges = [(a, b) for a, b in itertools.combinations(axes, 2) if shape[a - 2] == shape[b - 2]]
    moves += [lambda x, a=a, b=b: x.transpose(a, b) for a, b in exchanges]
    for move in moves:
        torch.testing.assert_close(apply(network, move(phi), v), move(out), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_odd_means_odd_to_the_last_bit(dtype):
    reference = reference_on((4, 3))
    phi = noise(reference.lattice, 5).to(dtype).unsqueeze(0)
    modes, v = reference.lattice.to_modes(phi), levels(reference, 0.5).to(dtype)
    odd = random_network(reference, dtype=dtype)
    (plus, trace_plus), (minus, trace_minus) = odd.with_trace(modes, v), odd.with_trace(-modes, v)
    assert torch.equal(minus, -plus) and torch.equal(trace_minus, trace_plus)
    biased = random_network(reference, size_with(PLAIN, odd=False), dtype=dtype)
    deviation = biased(-modes, v) + biased(modes, v)
    assert float(deviation.abs().mean() / biased(modes, v).abs().mean()) > 0.1


@pytest.mark.parametrize("odd", [True, False])
def test_untrained_network_is_zero(odd):
    reference = reference_on((4, 4))
    network = InteractionNetwork(reference, size_with(PLAIN, odd), rng())
    modes = reference.lattice.to_modes(noise(reference.lattice, 3).float().unsqueeze(0))
    drift, trace = network.with_trace(modes, levels(reference, 0.5).float())
    assert not drift.any() and not trace.any()


@pytest.mark.parametrize("shape", [(6,), (4, 5), (2, 3, 4)], ids=str)
def test_filters_have_unit_gaussian_variance(shape):
    # With phi_s of covariance C + v the variance of u_i on a site is 1/V sum_p |R_i D / rms_i|^2 (C + v).
    reference = free_reference(Lattice(shape))
    network = random_network(reference)
    v = levels(reference, 0.0, 0.1, 0.6, 1.0)
    r, q = network.filters(v)
    c = reference.c(r)
    covariance = c + v.view(-1, 1, *[1] * len(shape))
    variance = reference.lattice.sum_modes(r.square() * covariance) / reference.lattice.volume
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-6, atol=1e-6)  # C is float32 in there
    # The same by sampling; 4 levels x 3 filters, relative error of a variance sqrt(2 / n_effective) < 0.01.
    for g in range(len(v)):
        noisy = free_draws(reference, 4000) + v[g].sqrt() * noise(reference.lattice, 4000, seed=2)
        u = reference.lattice.to_sites(r[g].unsqueeze(1) * reference.lattice.to_modes(noisy))
        per_field = u.square().flatten(2).mean(2)
        error = per_field.std(1) / math.sqrt(4000)
        assert bool(((per_field.mean(1) - 1).abs() < 5 * error).all())
    assert not torch.allclose(q, r)  # the output bank is its own


def test_two_banks_agree_before_training_only():
    network = InteractionNetwork(reference_on((4, 4)), SMALL, rng())
    r, q = network.filters(torch.tensor([0.5]))
    assert torch.equal(r, q)


def test_refitted_matrices_are_the_same_functions_of_v():
    old = free_reference(Lattice((4, 4)), mass=0.7)
    new = free_reference(Lattice((8, 8)), mass=0.4)
    assert new.v_max > 2 * old.v_max and new.v_offset < old.v_offset * 1.1
    network = random_network(old)
    with torch.no_grad():
        # A cubic in the level, which splines hold exactly; on the new domain it is smooth, but no spline.
        x = torch.linspace(-0.2, 1.2, SMALL.level_knots, dtype=torch.float64)
        for name in network._level_parameters:
            p = getattr(network, name)
            p.copy_((1 + 0.5 * x - x**2).view(-1, *[1] * (p.ndim - 1)) * p[:1])
    moved = InteractionNetwork(new, SMALL).double()
    moved.load_state_dict(network.coefficients_for(new))
    # The end of the old range is a kink, which four knots to either side feel a little.
    for v, tolerance in ((0.5, 0.02), (1.0, 0.05)):
        inside = torch.linspace(0, v * old.v_max, 50, dtype=torch.float64)
        found = moved.matrices(inside)
        for name, matrix in network.matrices(inside).items():
            torch.testing.assert_close(found[name], matrix, rtol=0, atol=tolerance * float(matrix.abs().max()))
    beyond = moved.matrices(torch.tensor([new.v_max], dtype=torch.float64))
    for name, matrix in network.matrices(torch.tensor([old.v_max], dtype=torch.float64)).items():
        torch.testing.assert_close(beyond[name], matrix, rtol=0, atol=0.05 * float(matrix.abs().max()))


def test_refitted_for_the_same_reference_is_the_same_function():
    reference = reference_on((4, 6))
    network = random_network(reference, size_with(EXTRA, odd=False))
    moved = InteractionNetwork(reference, network.size).double()
    moved.load_state_dict(network.coefficients_for(reference))
    modes, v = reference.lattice.to_modes(noise(reference.lattice, 4).view(2, 2, 4, 6)), levels(reference, 0.2, 0.9)
    for found, expected in zip(moved.with_trace(modes, v), network.with_trace(modes, v), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_filters_of_a_momentum_do_not_depend_on_the_lattice_size():
    # Momenta of 4x4 are among those of 8x8: the unnormalised banks agree there, p = 0 included.
    size = SMALL
    small, large = random_network(reference_on((4, 4)), size), random_network(reference_on((8, 8)), size)
    bank_small, bank_large = small._bank(small.radial_in), large._bank(large.radial_in)
    torch.testing.assert_close(bank_small, bank_large[:, ::2, ::2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")
def test_fused_layers_give_the_same_numbers(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    reference = reference_on((4, 3))
    network = random_network(reference, size_with(PLAIN, odd=False)).requires_grad_(True)
    modes, v = reference.lattice.to_modes(noise(reference.lattice, 4).view(2, 2, 4, 3)), levels(reference, 0.2, 0.9)
    results = []
    for fused in (False, True):
        network.fused = fused
        out = network(modes, v)
        gradients = torch.autograd.grad(out.abs().square().sum(), list(network.parameters()))
        results.append([out.detach(), *gradients])
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-9, atol=1e-12)


def test_activation_and_its_slope():
    z = (3 * torch.randn(20, generator=rng(), dtype=torch.float64)).requires_grad_(True)
    h, r = activation(z)
    torch.testing.assert_close(h, z / torch.sqrt(1 + z**2))
    torch.testing.assert_close(r, 1 / torch.sqrt(1 + z**2))
    (slope,) = torch.autograd.grad(h.sum(), z, retain_graph=True)
    torch.testing.assert_close(slope, r.detach() ** 3)
    assert torch.autograd.gradcheck(lambda z: activation(z)[0], z, check_undefined_grad=False)
    assert torch.autograd.gradcheck(lambda z: torch.cat(activation(z)).sin(), z, check_undefined_grad=False)


def test_gradient_of_the_loss_is_that_of_finite_differences():
    # The backward passes of activation and shells are by hand; this is them in their place.
    reference = reference_on((3, 4))
    network = random_network(reference, size_with(EXTRA, odd=False)).requires_grad_(True)
    modes, v = reference.lattice.to_modes(noise(reference.lattice, 2).view(1, 2, 3, 4)), levels(reference, 0.5)

    def loss():
        return network(modes, v).abs().square().sum()

    gradients = torch.autograd.grad(loss(), list(network.parameters()))
    generator = rng(7)
    for p, gradient in zip(network.parameters(), gradients, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p.add_(direction, alpha=step)
                values.append(float(loss()))
                p.sub_(direction, alpha=step)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    "bad",
    [
        {"filters": 0},
        {"hidden1": 0},
        {"hidden2": 4.0},
        {"level_knots": 3},
        {"radial_knots": 3},
        {"shells": ()},
        {"shells": ((1,), (1,))},
        {"shells": ((1, 2), (2, 1))},
        {"shells": ((0,),)},
        {"shells": ((-1,),)},
        {"shells": ((1.5,),)},
    ],
    ids=str,
)
def test_refused_sizes(bad):
    with pytest.raises(DmmcError, match=next(iter(bad))):
        NetworkSize(**bad)


@pytest.mark.parametrize("shape", [(5,), (4, 4), (2, 3, 4)])
@pytest.mark.parametrize("odd", [True, False])
def test_weights_are_counted_without_making_them(shape, odd):
    size = NetworkSize(3, 5, 4, ((), (1,), (1, 1), (1, 1, 1)), level_knots=7, radial_knots=5, odd=odd)
    network = InteractionNetwork(free_reference(Lattice(shape)), size)
    weights = sum(x.numel() for x in network.state_dict().values())
    assert InteractionNetwork.n_weights(network.lattice, network.config()) == weights


# Splines


@pytest.mark.parametrize("n", [4, 5, 10])
def test_splines_are_a_partition_of_unity(n):
    x = torch.linspace(0, 1, 301, dtype=torch.float64)
    values = splines.basis(x, n)
    torch.testing.assert_close(values.sum(-1), torch.ones_like(x))
    assert float(values.min()) >= 0 and int((values > 0).sum(-1).max()) <= 4
    assert torch.equal(splines.basis(torch.tensor([-3.0, 4.0]), n), splines.basis(torch.tensor([0.0, 1.0]), n))


def test_splines_have_two_continuous_derivatives():
    # Across a knot the third divided difference is bounded as h -> 0 only if the second derivative is continuous.
    n, knot = 8, 2 / 5
    for h in (1e-2, 1e-3):
        x = knot + h * torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)
        third = (splines.basis(x, n) * torch.tensor([-1.0, 3.0, -3.0, 1.0]).double().view(-1, 1)).sum(0) / h**3
        assert float(third.abs().max()) < 4 * 5**3  # derivatives of one piece are at most 3 in units of the knots


def test_splines_hold_every_cubic():
    x = torch.linspace(0, 1, 60, dtype=torch.float64)
    cubic = 1 - 2 * x + 3 * x**2 - 4 * x**3
    for n in (4, 9):
        fit = torch.linalg.lstsq(splines.basis(x, n), cubic.unsqueeze(1)).solution
        torch.testing.assert_close(splines.basis(x, n) @ fit, cubic.unsqueeze(1))


def test_refit_identity_and_part_of_the_domain():
    coefficients = torch.randn(9, 2, 3, generator=rng(), dtype=torch.float64)
    x = torch.linspace(0, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(splines.refit(coefficients, x, 9), coefficients)
    # Between two knots a spline is a cubic, which four splines hold.
    part = splines.refit(coefficients, (2 + x) / 6, 4)
    expected = (splines.basis((2 + x) / 6, 9) @ coefficients.flatten(1)).view(-1, 2, 3)
    torch.testing.assert_close((splines.basis(x, 4) @ part.flatten(1)).view(-1, 2, 3), expected)


# Shells

SHELL_SHAPES = [(1,), (2,), (3,), (8,), (4, 4), (2, 5), (1, 3), (3, 3, 4), (2, 3, 2, 4)]
KINDS = [(), (1,), (2,), (1, 1), (1, 2), (1, 1, 1), (1, 1, 2)]


def shells_on(shape):
    found = (shells.displacements(kind, len(shape)) for kind in KINDS)
    return tuple(shell for shell in found if shell)


def brute_force(x, shell, dim):
    """Sum over all signs of all displacements, each by a roll of the lattice axes, which are the last ``dim``."""
    total = torch.zeros_like(x)
    for displacement in shell:
        for signs in itertools.product((1, -1), repeat=len(displacement)):
            moved = x
            for (axis, distance), sign in zip(displacement, signs, strict=True):
                moved = torch.roll(moved, -sign * distance, axis - dim)  # f(y + d) is f rolled by -d
            total += moved
    return total


@pytest.mark.parametrize("shape", SHELL_SHAPES, ids=str)
def test_shell_sum_is_the_brute_force_sum(shape):
    which = shells_on(shape)
    x = torch.randn(2, len(which), 3, *shape, generator=rng(), dtype=torch.float64)
    expected = sum(brute_force(x[:, k], shell, len(shape)) for k, shell in enumerate(which))
    torch.testing.assert_close(shells.shell_sum(x, which, len(shape)), expected)
    for k, shell in enumerate(which):
        ones = torch.ones(1, 1, *shape, dtype=torch.float64)
        assert bool((shells.shell_sum(ones, (shell,), len(shape)) == shells.n_sites(shell)).all()), k


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 3, 2)], ids=str)
def test_shell_sum_backward(shape):
    which = shells_on(shape)
    x = torch.randn(1, len(which), 2, *shape, generator=rng(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shells.shell_sum(x, which, len(shape)), x)


def test_displacements_are_those_of_the_hypercubic_group():
    assert shells.displacements((), 3) == ((),)
    for kind, dim in itertools.product(KINDS, (1, 2, 3, 4)):
        if len(kind) > dim:
            assert shells.displacements(kind, dim) == ()
            continue
        vectors = {
            tuple(sign * m for sign, m in zip(signs, order, strict=True))
            for order in itertools.permutations([*kind, *[0] * (dim - len(kind))])
            for signs in itertools.product((1, -1), repeat=dim)
        }
        assert shells.n_sites(shells.displacements(kind, dim)) == len(vectors)


def test_site_index_is_the_site_at_the_displacement():
    for shape in SHELL_SHAPES:
        lattice = Lattice(shape)
        number = torch.arange(lattice.volume).view(shape)
        for shell in shells_on(shape):
            site = [0] * lattice.dim
            for axis, distance in shell[0]:
                site[axis] = distance % shape[axis]
            assert shells.site_index(shell, lattice) == int(number[tuple(site)])


def test_classes_are_the_orbits_of_axis_exchange():
    def sizes(kind, shape):
        shell = shells.displacements(kind, len(shape))
        parts = shells.classes(shell, Lattice(shape))
        assert sorted(d for part in parts for d in part) == sorted(shell)
        return sorted(len(part) for part in parts)

    assert sizes((1,), (4, 4)) == [2] and sizes((1,), (4, 6)) == [1, 1]
    assert sizes((1, 1), (4, 6)) == [1] and sizes((1, 2), (4, 4)) == [2] and sizes((1, 2), (4, 6)) == [1, 1]
    assert sizes((1,), (4, 4, 6)) == [1, 2] and sizes((1, 1), (4, 4, 6)) == [1, 2]
    assert sizes((1, 2), (4, 4, 6)) == [2, 2, 2] and sizes((), (4, 6)) == [1]

"""HMC with fermions: exact, by pseudofermions and by determinants, and in agreement with an integral.

Bounds are those of ``checks`` and ``helpers``: 5 sigma, or the same probability for several numbers at once.
"""

import math
from dataclasses import replace

import pytest
import torch

from checks import invariance
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import gamma_method
from dmmc.kernels import fermion_hmc
from dmmc.kernels.conjugate_gradients import conjugate_gradients
from dmmc.kernels.fermion_hmc import FermionHMC
from dmmc.kernels.hmc import HMC, kinetic_energy
from dmmc.theory.lattice import Lattice
from fermions import PHI4, YUKAWA, draws, grid
from helpers import SIGMA, rng

TWO, FOUR = Lattice((2, 1)), Lattice((2, 2))


@pytest.mark.parametrize("pseudofermions", [True, False])
def test_exact_draws_stay_exact(pseudofermions):
    kernel = FermionHMC(YUKAWA, TWO, 0.5, 2, pseudofermions=pseudofermions)
    assert invariance(kernel, draws(), steps=2) < 1


@pytest.mark.parametrize("error", [0.5, 2.0])
def test_that_this_could_fail(error, monkeypatch):
    """With a wrong factor 1/2 in the energy of the pseudofermions, exact draws do not stay exact."""
    right = FermionHMC._pseudofermion_energy
    monkeypatch.setattr(FermionHMC, "_pseudofermion_energy", lambda *given: error * right(*given))
    assert invariance(FermionHMC(YUKAWA, TWO, 0.5, 2), draws(), steps=2) > 1


@pytest.mark.parametrize(
    "kernel",
    [
        FermionHMC(YUKAWA, FOUR, 0.5, 2),
        FermionHMC(YUKAWA, FOUR, 0.5, 2, pseudofermions=False),
        HMC(YUKAWA, FOUR, 0.2, 6),
    ],
    ids=["pseudofermions", "nested", "plain"],
)
def test_chains_agree_with_the_integral(kernel):
    phi, p, condensate = grid((2, 2))
    exact = {"M": (p * phi.mean((1, 2))).sum(), "M2": (p * phi.mean((1, 2)) ** 2).sum(), "c": (p * condensate).sum()}
    generator = rng(2)
    kernel, state = kernel.tune(kernel.initial(100, generator), generator, 30)
    found = {name: [] for name in exact}
    for later, _ in kernel.steps(state, 100, generator):
        M = later.phi.mean((1, 2))
        for name, value in zip(found, (M, M**2, YUKAWA.condensate(later.phi)), strict=True):
            found[name].append(value)
    for name, series in found.items():
        estimate = gamma_method(torch.stack(series, 1).numpy())
        assert abs(estimate.value - float(exact[name])) < SIGMA * estimate.error
        assert estimate.error < 0.05 * abs(float(exact[name]))


@pytest.mark.parametrize("pseudofermions", [True, False])
def test_trajectories_are_reversible_and_keep_the_energy(pseudofermions):
    phi, generator = 0.5 + 0.3 * torch.randn(3, 4, 4, generator=rng(), dtype=torch.float64), rng(4)
    pi, chi = (torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((4, 4), (2, 2, 4, 4)))
    kernel = FermionHMC(YUKAWA, Lattice((4, 4)), 0.1, 8, pseudofermions=pseudofermions)

    def force(fields):
        return kernel._pseudofermion_force(fields, chi) if pseudofermions else kernel._determinant_force(fields)

    def energy(fields, momenta):
        fermions = kernel._pseudofermion_energy(fields, chi) if pseudofermions else YUKAWA(fields) - PHI4(fields)
        return kinetic_energy(momenta) + PHI4(fields) + fermions

    errors = []
    for factor in (1, 2):
        finer = replace(kernel, step_size=kernel.step_size / factor, n_leapfrog=factor * kernel.n_leapfrog)
        step = torch.full((3,), finer.step_size, dtype=torch.float64)
        end, end_pi = finer.trajectory(phi, pi, step, force)
        back, back_pi = finer.trajectory(end, -end_pi, step, force)
        torch.testing.assert_close(back, phi, rtol=0, atol=1e-6)
        torch.testing.assert_close(-back_pi, pi, rtol=0, atol=1e-6)
        errors.append((energy(end, end_pi) - energy(phi, pi)).abs())
    # Second order: half the step makes a quarter of the error.
    assert float((errors[0] / errors[1]).median()) == pytest.approx(4, abs=0.8)


def test_the_energy_of_pseudofermions_is_that_of_the_dense_inverse():
    from dmmc.theory import wilson

    phi = 0.5 * torch.randn(3, 4, 2, generator=rng(), dtype=torch.float64)
    chi = torch.randn(3, 2, 2, 4, 2, generator=rng(2), dtype=torch.float64)
    kernel = FermionHMC(YUKAWA, Lattice((4, 2)), 0.1, 8)
    inverse = torch.linalg.inv(wilson.dense(YUKAWA.diagonal(phi)))
    y = inverse.unsqueeze(1) @ chi.flatten(2).unsqueeze(-1)
    torch.testing.assert_close(kernel._pseudofermion_energy(phi, chi), 0.5 * y.square().flatten(1).sum(1))


def test_systems_of_a_batch_are_solved_by_themselves():
    matrices = torch.diag_embed(torch.rand(4, 6, generator=rng(), dtype=torch.float64) + 0.1)
    matrices[2] = torch.diag(torch.tensor([1e-8, 1, 2, 3, 4, 1e8], dtype=torch.float64))
    right = torch.randn(4, 6, generator=rng(2), dtype=torch.float64)
    right[3, 0] = math.nan
    x, iterations = conjugate_gradients(lambda v: (matrices @ v.unsqueeze(-1))[..., 0], right, 1e-10)
    torch.testing.assert_close(x[:2], right[:2] / matrices[:2].diagonal(dim1=1, dim2=2))
    assert iterations > 0 and bool(x[3].isnan().all())
    alone, _ = conjugate_gradients(lambda v: (matrices[:1] @ v.unsqueeze(-1))[..., 0], right[:1], 1e-10)
    torch.testing.assert_close(alone, x[:1], rtol=0, atol=0)


def test_what_is_not_solved_is_rejected(monkeypatch):
    monkeypatch.setattr(fermion_hmc, "conjugate_gradients", lambda f, right, *_, **__: (right * math.nan, 1))
    kernel = FermionHMC(YUKAWA, FOUR, 0.5, 2)
    state = kernel.initial(8, rng())
    new, info = kernel.step(state, rng())
    assert not bool(info.accepted.any()) and torch.equal(new.phi, state.phi)
    assert bool(info.diverging.all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be a positive number"),
        ({"n_leapfrog": 0}, "n_leapfrog must be a positive integer"),
        ({"inner": 1.5}, "inner must be a positive integer"),
        ({"jitter": 1.0}, "jitter must be at least 0 and below 1"),
        ({"target_acceptance": 0.0}, "target_acceptance must lie between 0 and 1"),
        ({"action": PHI4}, "is for theories with fermions"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(DmmcError, match=message):
        FermionHMC(**{"action": YUKAWA, "lattice": FOUR, "step_size": 0.1, "n_leapfrog": 3} | options)

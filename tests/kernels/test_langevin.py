"""Langevin dynamics: exact with a Metropolis step, off by a known amount without one, and accelerated by a kernel.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 15 comparisons.
"""

import math
from dataclasses import replace

import pytest
import torch

from checks import invariance, phi4_draws
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.diagnostics import gamma_method, to_zero_step
from dmmc.kernels.base import advance
from dmmc.kernels.langevin import Langevin
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies.chain import run_chain
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import FunctionAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, rng, z_scores

PHI4, O2 = Phi4(0.22, 0.1), Phi4(0.22, 0.1, components=2)
FREE = FreeField(0.7)


@pytest.mark.parametrize("mass", [None, 0.8])
@pytest.mark.parametrize("action", [PHI4, O2], ids=["scalar", "O(2)"])
def test_with_a_metropolis_step_exact_draws_stay_exact(action, mass):
    lattice = Lattice((4,))
    kernel = Langevin(action, lattice, 0.3, mass=mass)
    assert invariance(kernel, phi4_draws(action, lattice, 20_000, c=0.8), steps=3) < 1


def two_point(kernel, n=4000, steps=400):
    """``<|phi(p)|^2>`` of each orbit at the end of independent chains, ``(n, orbits)``."""
    generator = rng()
    state = advance(kernel, kernel.start(torch.zeros(n, *kernel.lattice.shape), generator), steps, generator)
    return kernel.lattice.two_point(state.phi)


@pytest.mark.parametrize("mass", [None, 0.9])
def test_without_it_a_free_field_is_off_by_what_the_step_says(mass):
    """``phi' = (1 - h K / C) phi + sqrt(2 h K) eta`` has the variance ``C / (1 - h K / (2 C))``."""
    lattice, h = Lattice((6,)), 0.2
    kernel = Langevin(FREE, lattice, h, adjusted=False, mass=mass, allow_inexact=True)
    inverse_c = lattice.orbit_phat2 + 0.49
    K = torch.ones_like(inverse_c) if mass is None else (4 + mass**2) / (lattice.orbit_phat2 + mass**2)
    found = two_point(kernel)
    assert float(z_scores(found, 1 / (inverse_c * (1 - h * K * inverse_c / 2))).abs().max()) < SIGMA
    # The error of the step can be seen at all.
    assert float(z_scores(found, 1 / inverse_c).abs().max()) > 10


def test_the_error_of_the_step_is_extrapolated_away():
    lattice, steps = Lattice((1,)), (0.05, 0.1, 0.2)
    estimates = []
    for h in steps:
        kernel = Langevin(FREE, lattice, h, adjusted=False, allow_inexact=True)
        values = two_point(kernel, 20_000, int(60 / h)) if h > 0.06 else two_point(kernel, 20_000, 600)
        estimates.append(gamma_method(values[:, 0].view(200, 100).numpy()))
    exact = 1 / 0.49
    fitted = to_zero_step(steps, estimates)
    assert abs(fitted.value - exact) < SIGMA * fitted.error and fitted.p_value > 1e-6
    # ``C / (1 - h / (2 C)) = C + h / 2 + ...``
    assert fitted.slope == pytest.approx(0.5, abs=0.4)


def test_an_extrapolation_of_exact_numbers():
    x = gamma_method(torch.randn(4, 50, generator=rng(), dtype=torch.float64).numpy())
    estimates = [replace(x, value=2 + 3 * h + h * h, error=0.1) for h in (0.1, 0.2, 0.4)]
    fitted = to_zero_step((0.1, 0.2, 0.4), estimates, order=2)
    assert fitted.value == pytest.approx(2) and fitted.slope == pytest.approx(3) and math.isnan(fitted.p_value)
    with pytest.raises(DmmcError, match="of order 3 needs 4 step sizes or more"):
        to_zero_step((0.1, 0.2, 0.4), estimates, order=3)
    with pytest.raises(DmmcError, match="step sizes must be positive and different"):
        to_zero_step((0.1, 0.1, 0.4), estimates)
    with pytest.raises(DmmcError, match="with known errors"):
        to_zero_step((0.1, 0.2), [replace(estimates[0], error=math.nan), estimates[1]])


def test_the_kernel_in_fourier_space_makes_slow_modes_fast():
    """At mass^2 = 0.01 on 16 sites the zero mode takes 100 units of time without it."""
    action, lattice = FreeField(0.1), Lattice((16,))
    after = {}
    for mass in (None, 0.1):
        kernel = Langevin(action, lattice, 0.1, mass=mass)
        generator = rng()
        state = kernel.start(torch.ones(500, 16, dtype=torch.float64), generator)
        after[mass] = float(advance(kernel, state, 30, generator).phi.mean())
    # exp(-0.01 * 3) with K = 1; exp(-4.01 * 3) with K(0) = 4.01 / 0.01, up to what is rejected.
    assert after[None] > 0.8 and after[0.1] < 0.3


def test_it_is_tuned_stored_and_resumed(tmp_path):
    kernel = Langevin.default(PHI4, Lattice((4, 4)), mass=1.0)
    runs = []
    for name, draws in (("whole", (30,)), ("parts", (10, 30))):
        for k, n in enumerate(draws):
            options = ChainOptions(draws=n, block=1, keep_every=0, seed=3)
            run = run_chain(kernel, tmp_path / f"{name}.h5", options, chains=16, resume=bool(k), say=lambda _: None)
        runs.append(run)
    whole, parts = runs
    assert (whole.observables["M2"] == parts.observables["M2"]).all()
    assert set(whole.state) == {"phi", "S", "force"}
    assert 0.4 < float(whole.stats["accepted"].mean()) < 0.75
    assert whole.header.facts.label == "MALA" and whole.header.cost == {"force": 1}
    inexact = Langevin(PHI4, Lattice((4, 4)), 0.05, adjusted=False, allow_inexact=True)
    run = run_chain(inexact, tmp_path / "euler.h5", ChainOptions(draws=8, seed=1), chains=4, say=lambda _: None)
    assert "right up to O(h)" in summarise(run).facts.inexact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "the step_size of Langevin dynamics must be a positive number, got 0.0"),
        ({"step_size": math.nan}, "the step_size .* got nan"),
        ({"mass": -1.0}, "the mass of Langevin dynamics must be a positive number"),
        ({"adjusted": False}, r"would not sample exp\(-S\): .* without a Metropolis step.*; use adjusted=True"),
        ({"lattice": Lattice((4,), 3)}, "fields of the lattice have 3 components"),
        (
            {"action": FunctionAction(lambda phi: phi.square().sum(1), "no gradient")},
            "the Langevin equation follows the gradient of the action",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_refused(arguments, message):
    with pytest.raises((DmmcError, MismatchError), match=message):
        Langevin(**{"action": PHI4, "lattice": Lattice((4,)), "step_size": 0.1, **arguments})

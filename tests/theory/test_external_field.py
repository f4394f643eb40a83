"""Scalar theories in an external field: the right sign, no symmetry that is not there, and files that know it again."""

import json
import math

import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.invariance import assert_invariant
from dmmc.theory.actions import Action, declaration
from dmmc.theory.descriptions import action_from_description, action_label, same_action
from dmmc.theory.ensemble import check_ensemble
from dmmc.theory.evaluation import evaluate
from dmmc.theory.external_field import ExternalField
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction, FunctionAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sine_gordon import SineGordon
from dmmc.theory.symmetry import find_symmetry
from helpers import Grid, free_draws, free_reference, random_model, rng

PHI4 = Phi4(0.3, 0.05)
TINY = {"filters": 2, "hidden1": 4, "hidden2": 3}


def field(shape, n=4):
    return torch.randn(n, *shape, generator=rng(), dtype=torch.float64)


def total(phi):
    return phi.flatten(1).sum(1)


def by_hand(phi, h=0.2):
    """phi^4 on two sites, where every link counts twice, pulled to the side of h."""
    x, y = phi.T
    return -4 * 0.3 * x * y + 0.9 * (x**2 + y**2) + 0.05 * (x**4 + y**4) - h * (x + y)


@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3), (3, 2, 4), (2, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("without", [PHI4, FreeField(0.6), SineGordon(0.2, 0.5, 2.0)], ids=lambda x: type(x).__name__)
def test_its_value_and_gradient(without, shape):
    phi, action = field(shape), ExternalField(without, 0.3)
    torch.testing.assert_close(action(phi), without(phi) - 0.3 * total(phi))
    torch.testing.assert_close(action.grad(phi), AutogradAction(action, "same").grad(phi))
    assert action.grad(phi.float()).dtype == action(phi.float()).dtype == torch.float32


def test_two_sites_by_hand():
    phi = field((2,), 100)
    torch.testing.assert_close(ExternalField(PHI4, 0.2)(phi), by_hand(phi))


def test_hmc_keeps_draws_of_the_formula():
    draws = Grid.make(2, half_width=6, n=201).draws(AutogradAction(by_hand, "by hand"), 4000)
    kernel = dmmc.HMC(ExternalField(PHI4, 0.2), Lattice((2,)), step_size=0.3, n_leapfrog=4)
    assert_invariant(kernel, draws, rng(7), steps=2)
    with pytest.raises(AssertionError, match="does not leave"):
        assert_invariant(
            dmmc.HMC(ExternalField(PHI4, -0.2), Lattice((2,)), step_size=0.3, n_leapfrog=4), draws, rng(7), steps=2
        )


def test_it_declares_no_symmetry():
    action = ExternalField(PHI4, 1e-9)
    declared = declaration(action)
    assert (declared.symmetry, declared.hopping, declared.has_grad) == ("none", None, True)
    assert isinstance(action, Action)
    assert find_symmetry(action, field((4, 4))).symmetry == "none"
    with pytest.raises(MismatchError, match="declares that it has none"):
        find_symmetry(action, field((4, 4)), "z2")
    with pytest.raises(DmmcError, match="cluster updates need an action that declares its hopping term"):
        dmmc.Cluster(dmmc.HMC.default(action, Lattice((4, 4))))


def test_without_strength_it_is_what_it_was():
    declared = declaration(ExternalField(PHI4, 0.0))
    assert (declared.symmetry, declared.hopping) == ("z2", PHI4.hopping)
    assert declared.minimum(2) == PHI4.minimum(2)
    silent = AutogradAction(PHI4, "silent")
    assert declaration(ExternalField(silent, 0.0)).symmetry is None


def test_what_the_theory_declares_is_kept():
    within = FunctionAction(lambda phi: total(phi**2), "mine", scale=2.5)
    action = ExternalField(within, 0.1)
    assert declaration(action).scale == 2.5 and not declaration(action).has_grad
    in_mass = Phi4.from_mass(-4, 6.0, 2)
    assert ExternalField(in_mass, 0.1).normalisations(2) == in_mass.normalisations(2)
    assert ExternalField(FreeField(0.5), 0.1).normalisations(2) == {}


@pytest.mark.parametrize(
    ("without", "h", "dim", "value"),
    [
        (FreeField(0.5), 0.3, 2, 0.3 / 0.25),
        (FreeField(0.01), -10.0, 1, -1e5),  # far from where the theory alone has its minimum
        (Phi4(0.001, 0.5), 2.0, 3, 1.0),  # 4 lam phi^3 = h, but for the small hopping term
    ],
)
def test_its_minimum_in_closed_form(without, h, dim, value):
    tolerance = 1e-6 if isinstance(without, FreeField) else 5e-3
    assert ExternalField(without, h).minimum(dim) == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("h", [-0.05, 0.05, 1e-4, 30.0])
def test_its_minimum_is_that_of_the_deeper_well(h, dim):
    action = ExternalField(Phi4(0.5, 0.05), h)
    value = action.minimum(dim)
    assert math.copysign(1, value) == math.copysign(1, h)
    around = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    S = evaluate(action, around.view(-1, *(1,) * dim).repeat(1, *(3,) * dim))
    uniform = torch.full((1, *(3,) * dim), value, dtype=torch.float64)
    assert float(action(uniform)) <= float(S.min()) + 1e-12 * float(S.abs().max())
    assert float(action.grad(uniform).abs().max()) < 1e-6 * (1 + abs(h))


def test_an_action_that_falls_without_end_is_refused():
    flat = AutogradAction(lambda phi: 0 * total(phi), "flat")
    with pytest.raises(DmmcError, match=r"falls without end in the external field h = 0\.5"):
        ExternalField(flat, 0.5).minimum(2)


def test_files_know_it_again():
    for action in (ExternalField(PHI4, -0.25), ExternalField(ExternalField(SineGordon(0.1, -1, 2), 0.5), 0.25)):
        described = json.loads(json.dumps(action.describe()))
        assert action_from_description(described) == action
    other = ExternalField(Phi4(0.31, 0.05), -0.25)
    assert not same_action(ExternalField(PHI4, -0.25).describe(), other.describe())
    rounded = ExternalField(Phi4(0.3 * (1 + 1e-12), 0.05), -0.25)
    assert same_action(ExternalField(PHI4, -0.25).describe(), rounded.describe())


def test_of_an_action_that_is_not_registered_nothing_is_made():
    action = ExternalField(AutogradAction(PHI4, "nobody's"), 0.1)
    assert action_from_description(action.describe()) is None
    assert action_label(action.describe(), 2)[0] == "external_field"


def test_labels():
    assert action_label(ExternalField(Phi4(0.27, 0.022), -0.1), 2) == (
        "φ⁴ in an external field",
        "κ = 0.27, λ = 0.022 (hopping form), h = −0.1",
    )
    assert action_label(ExternalField(AutogradAction(total, "mine"), 2), 2) == ("mine in an external field", "h = 2")


def test_an_ensemble_of_another_external_field_is_refused():
    # <dS/dphi> = 0 is the one equation that sees it: for a free field, <phi dS/dphi> / V is 1 - (h - h') h' / mass^2.
    phi, free = free_draws(free_reference(Lattice((4, 4)), 1.0, mean=0.02), 4000), FreeField(1.0)
    assert abs(check_ensemble(phi, ExternalField(free, 0.02)).force_z) < 5
    for h in (-0.1, 0.15):
        with pytest.raises(MismatchError, match=r"<dS/dphi> should be 0 and is .*another external field"):
            check_ensemble(phi, ExternalField(free, h))
    assert check_ensemble(phi, free).force_z is None  # of a symmetric theory, the balance of signs is only told


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExternalField(PHI4, math.nan), "h must be a finite number"),
        (lambda: ExternalField(PHI4, math.inf), "h must be a finite number"),
        (lambda: ExternalField(PHI4, "0.1"), "h must be a finite number"),
        (lambda: ExternalField(0.1, PHI4), "h must be a finite number"),
        (lambda: ExternalField(None, 0.1), "an action has action"),
        (lambda: ExternalField(Phi4, 0.1), "is a class"),
        (lambda: ExternalField(AutogradAction(total, "mine", components=2), 0.1), "a scalar field, and .* 2 comp"),
        (lambda: action_from_description({"name": "external_field", "h": 1.0}), "does not describe an action"),
        (lambda: action_from_description({"name": "external_field", "action": 3, "h": 1.0}), "is described by 3"),
        (
            lambda: action_from_description({"name": "external_field", "action": {"name": "phi4"}, "h": 1.0}),
            "does not describe an action",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(DmmcError, match=message):
        make()


def test_no_model_of_it_is_even_or_mirrored(tmp_path):
    lattice, action = Lattice((4, 4)), ExternalField(FreeField(1.0), 0.3)
    phi = free_draws(free_reference(lattice, 1.0, mean=0.3), 400).float()
    options = {"action": action, "steps": 2, "config": TINY}
    for wrong, message in (({"symmetry": "z2"}, "declares that it has none"), ({"sectors": "two"}, "mirrored only")):
        with pytest.raises(MismatchError, match=message):
            dmmc.train(phi, tmp_path / "model.safetensors", **options, **wrong)
    odd = random_model(free_reference(lattice, 1.0), FreeField(1.0), dtype=torch.float32)
    with pytest.raises(MismatchError, match="has the symmetry 'z2' and this theory 'none'; train afresh"):
        dmmc.train(phi, tmp_path / "model.safetensors", action=action, steps=2, init=odd)
    with pytest.raises(DmmcError, match="the model was trained for"):
        dmmc.sample(odd, tmp_path / "chain.h5", action=action)
    assert not list(tmp_path.iterdir())
    model = dmmc.train(phi, tmp_path / "model.safetensors", **options)
    assert model.symmetry == "none" and not model.two_sector and not model.network.size.odd
    assert model.reference.mean == pytest.approx(0.3, abs=0.1)
    assert dmmc.load_model(tmp_path / "model.safetensors").action == action.describe()

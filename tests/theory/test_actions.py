"""The three forms of phi^4, the free field, gradients."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.theory.actions import Action, check_scalar, components_of, declaration, lattice_of
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.registry import register_action

SHAPES = [(1,), (2,), (7,), (4, 4), (5, 3), (1, 4), (3, 2, 4), (2, 3, 2, 4)]


def field(shape: tuple[int, ...], n: int = 4) -> torch.Tensor:
    return 0.3 + torch.randn(n, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def links(phi: torch.Tensor) -> list[torch.Tensor]:
    """phi(x + mu) for each direction mu."""
    return [torch.roll(phi, -1, axis) for axis in range(1, phi.ndim)]


def total(density: torch.Tensor) -> torch.Tensor:
    return density.flatten(1).sum(1)


def hopping(phi, kappa, lam):
    return total(-2 * kappa * phi * sum(links(phi)) + (1 - 2 * lam) * phi**2 + lam * phi**4)


def mass(phi, m2, lam_m):
    return total(sum((up - phi) ** 2 for up in links(phi)) + m2 * phi**2 + lam_m * phi**4)


def textbook(phi, mu0sq, lam_t):
    return total(sum((up - phi) ** 2 for up in links(phi)) / 2 + mu0sq * phi**2 / 2 + lam_t * phi**4 / 4)


def quartic(phi, kinetic, quad, quart):
    """``kinetic`` times the squared differences, and a potential: the order in which most codes write S."""
    return total(kinetic * sum((up - phi) ** 2 for up in links(phi)) + quad * phi**2 + quart * phi**4)


def around_one(phi, hop, lam):
    """``-hop sum phi phi_mu + phi^2 + lam (phi^2 - 1)^2``, the form of GPT and of Hasenbusch."""
    return total(-hop * phi * sum(links(phi)) + phi**2 + lam * (phi**2 - 1) ** 2)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 2, 4)], ids=str)
def test_the_conventions_of_other_codes(shape):
    phi, dim, volume = field(shape), len(shape), math.prod(shape)
    close = torch.testing.assert_close
    close(Phi4.from_gpt(0.27, 0.022)(phi) + 0.022 * volume, around_one(phi, 2 * 0.27, 0.022))
    close(Phi4.from_hasenbusch(0.375, 1.1)(phi) + 1.1 * volume, around_one(phi, 0.375, 1.1))
    close(Phi4.from_normflow(-1.2, 0.3, dim)(phi), quartic(phi, 0.5, -0.6, 0.3))
    close(Phi4.from_normflow(-1.2, 0.3, dim, 0.6)(phi), quartic(phi, 0.3, -0.6, 0.3))
    close(Phi4.from_neumc(-1.2, 7.0, dim)(phi), quartic(phi, 0.5, -0.6, 7.0 / 24))
    close(Phi4.from_neumc(1.2, 7.0, dim, 2.0)(phi), quartic(phi, 1.0, 0.6, 7.0 / 24))
    if dim == 2:  # as anvil writes it: -1, (4 + m_sq) / 2 and g / 24
        S = total(-phi * sum(links(phi)) + (4 - 1.2) / 2 * phi**2 + 7.0 / 24 * phi**4)
        close(Phi4.from_anvil(-1.2, 7.0)(phi), S)


@pytest.mark.parametrize("shape", SHAPES)
def test_three_forms_are_one_theory(shape):
    phi, dim = field(shape), len(shape)
    action = Phi4(kappa=0.27, lam=0.022)
    in_mass, in_text = action.rescaled(math.sqrt(0.27)), action.rescaled(math.sqrt(2 * 0.27))
    S = hopping(phi, 0.27, 0.022)
    torch.testing.assert_close(action(phi), S)
    torch.testing.assert_close(in_mass(math.sqrt(0.27) * phi), S)
    torch.testing.assert_close(in_text(math.sqrt(0.54) * phi), S)
    torch.testing.assert_close(in_mass(phi), mass(phi, action.m2(dim), action.lam_m))
    torch.testing.assert_close(in_text(phi), textbook(phi, action.m2(dim), action.lam_m))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("m2", "lam"), [(-4.0, 6.975), (-20.0, 0.5), (-2.0, 1e-3), (0.3, 2.0), (0.0, 1.0)])
def test_mass_and_textbook_couplings(shape, m2, lam):
    phi, dim = field(shape), len(shape)
    in_mass, in_text = Phi4.from_mass(m2, lam, dim), Phi4.from_textbook(m2, lam, dim)
    torch.testing.assert_close(in_mass(phi), mass(phi, m2, lam))
    torch.testing.assert_close(in_text(phi), textbook(phi, m2, lam))
    torch.testing.assert_close(in_text(math.sqrt(2) * phi), in_mass(phi))
    assert in_mass.m2(dim) == pytest.approx(m2, abs=1e-9)
    assert in_mass.lam_m == pytest.approx(lam, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", [Phi4(0.27, 0.022), Phi4(0.2, 0.5, scale=0.7), FreeField(0.6)])
def test_gradient_is_the_derivative(shape, action):
    phi = field(shape)
    torch.testing.assert_close(action.grad(phi), AutogradAction(action, "same").grad(phi))


@pytest.mark.parametrize("action", [Phi4(0.27, 0.022), FreeField(0.6)])
def test_dtype_is_kept(action):
    phi = field((4, 4)).float()
    assert action(phi).dtype == action.grad(phi).dtype == torch.float32
    assert action(phi).shape == (4,)
    torch.testing.assert_close(action(phi).double(), action(phi.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_free_field_is_diagonal_in_momentum(shape):
    lattice, action, phi = Lattice(shape), FreeField(0.6), field(shape)
    propagator = action.propagator(lattice.phat2)
    S = 0.5 * lattice.sum_modes(lattice.to_modes(phi).abs() ** 2 / propagator)
    torch.testing.assert_close(action(phi), S)
    torch.testing.assert_close(action(phi), textbook(phi, 0.36, 0.0))
    torch.testing.assert_close(lattice.to_sites(lattice.to_modes(phi) / propagator), action.grad(phi))


def test_symmetries():
    phi, action = field((4, 4)), Phi4(0.27, 0.022)
    for same in (-phi, phi.roll((1, 2), (1, 2)), phi.flip(1), phi.transpose(1, 2)):
        torch.testing.assert_close(action(same), action(phi))


@pytest.mark.parametrize("action", [Phi4(0.27, 0.022), Phi4.from_mass(-4, 6.975, 2), FreeField(0.5)])
def test_description_round_trip(action):
    assert isinstance(action, Action)
    assert action_from_description(json.loads(json.dumps(action.describe()))) == action


def test_autograd_action():
    action = AutogradAction(lambda phi: total(torch.cosh(phi)), "cosh", (("g", 1.5),))
    phi = field((3, 3))
    with torch.no_grad():
        torch.testing.assert_close(action.grad(phi), torch.sinh(phi))
    assert not action.grad(phi).requires_grad
    assert action.describe() == {"name": "cosh", "g": 1.5}
    assert action_from_description(action.describe()) is None
    for wrong in (lambda phi: phi.sum(), lambda phi: phi, lambda phi: 1.0):
        with pytest.raises(DmmcError, match="must return shape"):
            AutogradAction(wrong, "wrong")(phi)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Phi4(0.0, 0.1),
        lambda: Phi4(-0.2, 0.1),
        lambda: Phi4(0.2, -0.1),
        lambda: Phi4(0.2, 0.1, scale=0.0),
        lambda: Phi4(math.nan, 0.1),
        lambda: Phi4(0.2, math.inf),
        lambda: Phi4("0.2", 0.1),
        lambda: Phi4.from_mass(-1.0, 0.0, 2),
        lambda: Phi4.from_mass(0.0, 0.0, 2),
        lambda: Phi4.from_mass(1.0, -0.1, 2),
        lambda: Phi4.from_textbook(-1.0, 0.0, 2),
        lambda: Phi4.from_gpt(0.2, -0.1),
        lambda: Phi4.from_hasenbusch(math.nan, 0.1),
        lambda: Phi4.from_normflow(1.0, 0.0, 2),
        lambda: Phi4.from_normflow(1.0, 0.1, 2, kappa=0.0),
        lambda: Phi4.from_neumc(1.0, -6.0, 2),
        lambda: Phi4.from_anvil(1.0, 0.0),
        lambda: FreeField(0.0),
        lambda: FreeField(-1.0),
        lambda: FreeField(math.nan),
    ],
)
def test_bad_couplings(make):
    with pytest.raises(DmmcError):
        make()


# Declarations


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 4)])
@pytest.mark.parametrize(
    "action", [Phi4(0.27, 0.022), Phi4(0.4, 0.3, scale=1.7), Phi4.from_mass(-4, 6.975, 2), FreeField(0.5)]
)
def test_declarations_of_the_actions_of_the_package_are_true(action, shape):
    declared, phi = declaration(action), field(shape)
    assert declared.components is None and declared.symmetry == "z2"
    torch.testing.assert_close(action(-phi), action(phi), rtol=0, atol=0)
    # Without its hopping term, S is a sum over sites: it does not change when each site is flipped by itself.
    rest = action(phi) + declared.hopping * total(phi * sum(links(phi)))
    signs = torch.where(field(shape) > 0.3, 1.0, -1.0)
    flipped = signs * phi
    torch.testing.assert_close(action(flipped) + declared.hopping * total(flipped * sum(links(flipped))), rest)
    # The uniform field at the minimum has no force, and lower action than those beside it.
    value, V = declared.minimum(len(shape)), math.prod(shape)
    uniform = torch.full((1, *shape), value, dtype=torch.float64)
    torch.testing.assert_close(action.grad(uniform), torch.zeros_like(uniform), rtol=0, atol=1e-12)
    assert float(action(uniform)) <= min(float(action(uniform + x)) for x in (-0.01, 0.01)) + 1e-12 * V


def test_nothing_is_declared_by_default():
    class Bare:
        def __call__(self, phi):
            return total(phi**2)

        def grad(self, phi):
            return 2 * phi

        def describe(self):
            return {"name": "bare"}

    for action in (Bare(), AutogradAction(lambda phi: total(phi**2), "square")):
        declared = declaration(action)
        assert (declared.components, declared.symmetry, declared.hopping) == (None, None, None)
        assert declared.scale == 1.0 and declared.minimum(3) == 0.0
        components_of(action)


def test_declarations_of_an_autograd_action():
    action = AutogradAction(lambda phi: total(phi**2), "mine", symmetry="none", scale=2, minimum=-0.5)
    declared = declaration(action)
    assert (declared.symmetry, declared.scale, declared.minimum(2), declared.hopping) == ("none", 2.0, -0.5, None)
    assert declaration(AutogradAction(total, "mine", hopping=0.5)).symmetry == "z2"  # which follows


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"symmetry": "foo"}, "symmetry = 'foo'"),
        ({"symmetry": True}, "symmetry = True"),
        ({"components": 0}, "components = 0"),
        ({"components": 1.5}, "components = 1.5"),
        ({"components": True}, "components = True"),
        ({"scale": 0.0}, "scale = 0.0"),
        ({"scale": math.nan}, "scale = nan"),
        ({"scale": "1"}, "scale = '1'"),
        ({"minimum": math.inf}, "minimum = inf"),
        ({"hopping": math.nan}, "hopping = nan"),
        ({"hopping": 0.5, "symmetry": "none"}, "hopping = 0.5"),
        ({"symmetry": "o_n"}, "symmetry = 'o_n'"),
    ],
    ids=str,
)
def test_impossible_declarations_are_refused(bad, message):
    with pytest.raises(DmmcError, match=f"'mine' declares {message}; it should be"):
        AutogradAction(total, "mine", **bad)


def test_components_belong_to_the_lattice_of_the_fields():
    action, lattice = AutogradAction(total, "vector", components=3), Lattice((4, 2))
    assert declaration(action).components == components_of(action) == 3
    assert lattice_of(action, lattice) == Lattice((4, 2), 3)
    with pytest.raises(MismatchError, match=r"have 2 components, and those of the action have 3"):
        lattice_of(action, Lattice((4, 2), 2))
    with pytest.raises(DmmcError, match=r"HMC of ours is for scalar fields, and .* 'vector' have 3 components"):
        check_scalar(action, "HMC of ours")


def test_a_registered_action_is_made_from_its_description():
    @register_action("test-quartic")
    def quartic(g):
        return AutogradAction(lambda phi: g * total(phi**4), "test-quartic", (("g", g),))

    action = action_from_description(json.loads(json.dumps(quartic(1.5).describe())))
    phi = field((3, 3))
    torch.testing.assert_close(action(phi), 1.5 * total(phi**4))
    with pytest.raises(DmmcError, match="there is an action 'phi4' already"):
        register_action("phi4")(quartic)
    with pytest.raises(DmmcError, match="does not describe an action"):
        action_from_description({"name": "test-quartic", "h": 1.0})

    @register_action("test-forgetful")
    def forgetful(g):
        return AutogradAction(total, "test-forgetful")

    with pytest.raises(DmmcError, match="the two should agree"):
        action_from_description({"name": "test-forgetful", "g": 1.0})


@pytest.mark.parametrize(
    "bad", [{"kappa": 0.2}, {"kappa": 0.2, "lam": "x"}, {"kappa": 0.2, "lam": 0.1, "g": 1.0}, {"kappa": -1, "lam": 0.1}]
)
def test_descriptions_with_wrong_parameters(bad):
    with pytest.raises(DmmcError):
        action_from_description({"name": "phi4", **bad})


def test_labels():
    assert action_label(Phi4(0.27, 0.022), 2) == ("φ⁴", "κ = 0.27, λ = 0.022 (hopping form)")
    mass = Phi4.from_mass(-4, 5.0, 2)
    for action in (mass, mass.describe()):
        name, couplings = action_label(action, 2)
        assert name == "φ⁴" and couplings.startswith("m² = −4, λ = 5 (mass form; κ = 0.3")
    # Where sqrt(2 kappa) = 1 the textbook form has the same field.
    assert action_label(Phi4(0.5, 0.022), 2)[1] == "κ = 0.5, λ = 0.022 (hopping form)"
    assert action_label(Phi4.from_textbook(-1.0, 2.0, 3), 3)[1].startswith("μ₀² = −1, λ = 2 (textbook form")
    assert action_label(Phi4(0.2, 0.1, scale=2.0), 2)[1] == "κ = 0.2, λ = 0.1 (hopping form, field × 2)"
    assert action_label(FreeField(0.5), 1) == ("Free field", "m = 0.5")
    assert action_label(AutogradAction(total, "mine", (("g", 1.5), ("h", 2))), 1) == ("mine", "g = 1.5, h = 2")
    assert action_label({"name": "theirs", "g": 1}, 1) == ("theirs", "g = 1")


def test_normalisations_are_those_of_the_other_forms():
    phi, dim = field((4, 4)), 2
    action = Phi4(0.27, 0.022, scale=1.3)
    sizes = action.normalisations(dim)
    S = action(phi)
    torch.testing.assert_close(hopping(sizes["hopping form"] * phi, 0.27, 0.022), S)
    torch.testing.assert_close(mass(sizes["mass form"] * phi, action.m2(dim), action.lam_m), S)
    torch.testing.assert_close(textbook(sizes["textbook form"] * phi, action.m2(dim), action.lam_m), S)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (None, "lacks __call__, describe"),
        ("phi4", "lacks __call__, describe"),
        (lambda phi: phi.flatten(1).sum(1), "lacks describe"),
        (Phi4, "is a class"),
        (SimpleNamespace(grad=abs, describe=dict), "lacks __call__"),
    ],
    ids=["None", "text", "function", "class", "no call"],
)
def test_what_is_no_action_is_refused(action, message):
    with pytest.raises(DmmcError, match=f"an action has .* {message}; AutogradAction makes an action"):
        declaration(action)


@pytest.mark.parametrize("described", [None, [], "phi4"])
def test_a_description_is_a_dictionary(described, monkeypatch):
    monkeypatch.setattr(Phi4, "describe", lambda self: described)
    with pytest.raises(DmmcError, match=r"describe\(\) of the action .* must return a dictionary"):
        declaration(Phi4(0.2, 0.1))

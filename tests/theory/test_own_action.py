"""Actions of one's own: functions of NumPy arrays, of tensors and of C libraries meet the contract, or are refused."""

import ctypes
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.model.posterior import PosteriorSampler
from dmmc.model.reference import GaussianReference
from dmmc.proposals.of_model import flow_proposal
from dmmc.theory.action_check import check_action
from dmmc.theory.actions import declaration, differentiable
from dmmc.theory.ensemble import check_ensemble
from dmmc.theory.evaluation import evaluate, force, size_of_terms
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.symmetry import find_symmetry
from helpers import SIGMA, hmc_ensemble, noise, random_model, rng
from own_actions import S_numpy, c_library, dS_numpy, needs_a_compiler, numpy_phi4, phi4_of

LATTICE = Lattice((4, 3))
PHI4 = Phi4(0.25, 0.1)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_functions_of_arrays_and_of_tensors(backend, dtype, shape):
    phi = noise(Lattice(shape), 6).to(dtype)
    if backend == "numpy":
        own = numpy_phi4(PHI4)
    else:
        own = dmmc.action(lambda phi, lam: Phi4(0.25, lam)(phi), PHI4.grad, backend="torch", name="own", lam=0.1)
    torch.testing.assert_close(evaluate(own, phi), PHI4(phi))
    torch.testing.assert_close(force(own, phi), PHI4.grad(phi))
    assert differentiable(own) is own
    check_action(own, phi.double())


def test_a_description_has_the_name_and_the_parameters():
    own = dmmc.action(S_numpy, dS_numpy, kappa=0.25, lam=0.1)
    assert own.describe() == {"name": "S_numpy", "kappa": 0.25, "lam": 0.1}
    named = dmmc.action(S_numpy, name="mine", kappa=0.25, lam=0.1, symmetry="z2", scale=2.0, minimum=0.5, hopping=0.5)
    found = declaration(named)
    assert (found.symmetry, found.scale, found.minimum(2), found.hopping, found.has_grad) == (
        "z2",
        2.0,
        0.5,
        0.5,
        False,
    )


def test_a_parameter_is_given_to_the_functions_that_have_an_argument_of_its_name():
    def S(phi, g=7.0, *, power):
        return g * (phi**power).sum(1)

    own = dmmc.action(S, lambda phi: 6 * phi, backend="numpy", name="own", g=3.0, power=2, volume=8)
    phi = noise(Lattice((8,)), 3)
    torch.testing.assert_close(own(phi), 3 * phi.square().sum(1))
    assert own.describe() == {"name": "own", "g": 3.0, "power": 2, "volume": 8}
    assert dmmc.action(S, name="own", power=2)(phi)[0] == pytest.approx(7 * float(phi[0].square().sum()))


def test_a_torch_function_without_a_gradient_gets_one_from_autograd():
    own = dmmc.action(PHI4, backend="torch", name="own", symmetry="z2")
    assert own == AutogradAction(PHI4, "own", symmetry="z2") and differentiable(own) is own
    torch.testing.assert_close(own.grad(noise(LATTICE, 3)), PHI4.grad(noise(LATTICE, 3)))


def test_float64_fields_are_handed_over_as_they_are():
    seen = []

    def S(phi):
        seen.append(phi)
        return phi.sum((1, 2))

    own, phi = dmmc.action(S), noise(LATTICE, 3)
    own(phi)
    assert seen[0].ctypes.data == phi.data_ptr() and not seen[0].flags.writeable
    own(phi.transpose(1, 2))
    assert seen[1].flags.c_contiguous and seen[1].dtype == np.float64
    own(phi.float())
    assert seen[2].dtype == np.float64


def test_a_gradient_that_is_the_field_itself_is_a_copy():
    phi = noise(LATTICE, 3)
    own = dmmc.action(lambda phi: 0.5 * (phi**2).sum((1, 2)), lambda phi: phi, name="white")
    gradient = force(own, phi)
    assert torch.equal(gradient, phi) and gradient.data_ptr() != phi.data_ptr()
    assert force(dmmc.action(S_of_sum, lambda phi: np.broadcast_to(1.0, phi.shape)), phi).is_contiguous()


def S_of_sum(phi):
    return phi.sum((1, 2))


BUFFER = np.zeros((4, 4, 3))

WRONG = [
    (lambda phi: float(phi.sum()), None, r"the action 'own' must return an array of shape \(4,\), float64; got float"),
    (lambda phi: phi.sum((1, 2)).tolist(), None, "got list"),
    (lambda phi: phi.sum((1, 2)).astype(np.float32), None, "float32"),
    (lambda phi: phi.sum((1, 2)) + 0j, None, "complex128"),
    (lambda phi: phi.sum((1, 2)).astype(">f8"), None, ">f8"),
    (lambda phi: phi.sum(1), None, r"got shape \(4, 3\)"),
    (lambda phi: phi.sum(), None, "got float64"),
    (
        lambda phi: np.sqrt(np.abs(phi).sum((1, 2)) * np.nan),
        None,
        "or minus infinity for 4 of 4 typical fields",
    ),
    (lambda phi: np.multiply(phi, 2, out=phi).sum((1, 2)), None, "changes the fields that it is given"),
    (lambda phi: phi.roll(1).sum((1, 2)), None, 'backend="torch"'),
    (lambda phi: phi.sum((1, 2)) / np.zeros(4, dtype=object), None, r"fails at .*test_own_action.py:\d+ \[ZeroDiv"),
    (lambda phi: phi.sum((1, 2)) * 0 + phi.sum(), None, "mixes the fields of a batch"),
    (S_of_sum, lambda phi: phi.sum((1, 2)), r"'own'.grad must return an array of shape \(4, 4, 3\)"),
    (S_of_sum, lambda phi: 2 * np.ones_like(phi), "is not the gradient of S.*; multiplied by 0.5 it would be"),
    (S_of_sum, lambda phi: -np.ones_like(phi), "multiplied by -1 it would be"),
    (S_of_sum, lambda phi: phi * np.nan, "returns NaN"),
    (lambda phi: np.sum(phi, (1, 2), out=BUFFER.reshape(-1)[: len(phi)]), None, "memory that a later call overwrites"),
    (
        lambda phi: phi.sum((1, 2)) ** 2,
        lambda phi: np.multiply(BUFFER[: len(phi)], 0, out=BUFFER[: len(phi)]),
        "gradient",
    ),
]


@pytest.mark.parametrize(("S", "grad", "message"), WRONG)
def test_a_wrong_action_is_refused_with_its_fault(S, grad, message):
    own = dmmc.action(S, grad, name="own")
    with pytest.raises(DmmcError, match=message):
        check_action(own, noise(LATTICE, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"S": 7, "name": "seven"}, "must be a function, got int"),
        ({"S": S_of_sum, "backend": "jax"}, "one of numpy, torch, ctypes, not 'jax'"),
        ({"S": lambda phi: phi}, "needs a name"),
        ({"S": S_of_sum, "name": ""}, "needs a name"),
        ({"S": S_numpy, "kappa": 0.2}, "nothing was given for: lam"),
        ({"S": S_of_sum, "g": np.ones(2)}, "must consist of JSON values"),
        ({"S": S_of_sum, "symmetry": "z3"}, "declares symmetry = 'z3'"),
        ({"S": S_of_sum, "backend": "ctypes"}, "a function of a library loaded with ctypes.CDLL"),
        ({"S": ctypes.CDLL(None), "backend": "ctypes", "name": "x"}, "must be a function of a library"),
        ({"S": ctypes.CDLL(None).abs, "backend": "ctypes", "name": "x", "g": "text"}, "gets its parameters as doubles"),
    ],
)
def test_what_cannot_be_an_action(arguments, message):
    with pytest.raises(DmmcError, match=message):
        dmmc.action(**arguments)


# Without a gradient


def test_without_a_gradient_there_is_no_hmc():
    plain = numpy_phi4(PHI4, gradient=False)
    assert differentiable(plain) is None and differentiable(None) is None
    for make in (HMC.default, lambda *of: Cluster.default(replace(of[0], hopping=0.5), of[1])):
        with pytest.raises(DmmcError, match=r"HMC follows the gradient .* 'own' has none; give it one \(grad=\)"):
            make(plain, LATTICE)
    with pytest.raises(DmmcError, match="has no gradient"):
        force(plain, noise(LATTICE, 2))

    class Bare:  # an object of one's own need not have the method at all
        def __call__(self, phi):
            return PHI4(phi)

        def describe(self):
            return {"name": "bare"}

    assert differentiable(Bare()) is None
    check_action(Bare(), noise(LATTICE, 4))
    Bare.has_grad = 1
    with pytest.raises(DmmcError, match="declares has_grad = 1"):
        declaration(Bare())


def test_without_a_gradient_models_learn_from_the_fields_alone():
    phi, plain = hmc_ensemble(PHI4, (4, 4)), numpy_phi4(PHI4, gradient=False)
    alone = GaussianReference.measure(phi, Lattice((4, 4)))
    assert torch.equal(GaussianReference.measure(phi, Lattice((4, 4)), action=plain).propagator, alone.propagator)
    sampler = PosteriorSampler.measure(alone, plain, phi)
    assert sampler.action is None and sampler.trajectories == 0


def test_without_a_gradient_the_symmetry_is_tested_all_the_same():
    phi = hmc_ensemble(PHI4, (4, 4))
    assert find_symmetry(numpy_phi4(PHI4, gradient=False), phi).symmetry == "z2"
    tilted = dmmc.action(lambda phi: S_numpy(phi, 0.25, 0.1) + 1e-6 * phi.sum((1, 2)), name="tilted")
    assert find_symmetry(tilted, phi).symmetry == "none"
    # Terms that cancel at one size of the field do not at another.
    ones = torch.ones(3, 4, 4, dtype=torch.float64)
    cancels = dmmc.action(lambda phi: 1e6 * (phi**4 - phi**2).sum((1, 2)), name="cancels")
    assert float(cancels(ones).abs().max()) == 0 and float(size_of_terms(cancels, ones, cancels(ones)).min()) > 1e6


@pytest.mark.parametrize("shape", [(4, 4), (8, 8)])
def test_without_a_gradient_an_ensemble_is_checked_all_the_same(shape):
    phi, plain = hmc_ensemble(PHI4, shape, 500), numpy_phi4(PHI4, gradient=False)
    assert abs(check_ensemble(phi, plain, chains=50).virial_z) < SIGMA
    for wrong in (math.sqrt(0.25) * phi, 1.1 * phi, 100 * phi):
        with pytest.raises(DmmcError, match="does not fit the action"):
            check_ensemble(wrong, plain, chains=50)
    with pytest.raises(DmmcError, match="does not fit the action"):
        check_ensemble(phi, numpy_phi4(Phi4(0.2, 0.1), gradient=False), chains=50)


# A compiled action


@needs_a_compiler
@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 2), (1, 4), (3, 2, 5)])
def test_a_compiled_action(shape, c_phi4):
    phi = noise(Lattice(shape), 5)
    torch.testing.assert_close(evaluate(c_phi4, phi), PHI4(phi), rtol=1e-13, atol=1e-13)
    assert torch.equal(force(c_phi4, phi), PHI4.grad(phi))
    assert force(c_phi4, phi.float()).dtype == torch.float32
    check_action(c_phi4, phi)


@needs_a_compiler
def test_a_compiled_action_makes_the_decisions_of_the_built_in_one(c_phi4):
    """Bit for bit, with HMC and with a model: the gradients are equal, and S differs by rounding only."""
    lattice, phi = Lattice((4, 4)), hmc_ensemble(PHI4, (4, 4))
    reference = GaussianReference.measure(phi, lattice)
    proposal = flow_proposal(random_model(reference, PHI4, strength=0.05), 4)
    for make in (lambda action: HMC(action, lattice, 0.3, 5), lambda action: Independence(action, lattice, proposal)):
        chains = []
        for action in (c_phi4, PHI4):
            kernel, generator = make(action), rng()
            state = kernel.start(phi[:64], generator)
            steps = list(kernel.steps(state, 20, generator))
            chains.append((torch.stack([info.accepted for _, info in steps]), steps[-1][0].phi))
        (accepted, last), (expected, expected_last) = chains
        assert torch.equal(accepted, expected) and torch.equal(last, expected_last)
        assert 0.05 < float(accepted.double().mean()) < 0.999


@needs_a_compiler
def test_an_error_of_a_compiled_action(tmp_path):
    library = c_library(tmp_path, "int fails() { return 3; }")
    own = dmmc.action(library.fails, backend="ctypes")
    with pytest.raises(DmmcError, match="the action 'fails' returned the error 3; if all is well it must return 0"):
        check_action(own, noise(LATTICE, 2))


@needs_a_compiler
def test_a_compiled_action_that_writes_to_the_fields(tmp_path):
    library = c_library(tmp_path, "int writes(double *phi, long n) { while (n) phi[--n] = 0; return 0; }")
    with pytest.raises(DmmcError, match="the action 'writes' changes the fields that it is given"):
        check_action(dmmc.action(library.writes, backend="ctypes"), noise(LATTICE, 2))


@pytest.fixture(scope="module")
def c_phi4(tmp_path_factory):
    return phi4_of(PHI4, c_library(tmp_path_factory.mktemp("c")))

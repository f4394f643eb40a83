"""Actions that do not keep their contract are refused, with one message that says how they break it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.theory.action_check import check_action
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import noise

LATTICE = Lattice((4, 3))
PHI4 = Phi4(0.25, 0.1)


@dataclass(frozen=True)
class Own:
    """phi^4 as a user would write it, with something wrong about it.

    Attributes:
        value: changes the action, given the right one and the fields.
        gradient: changes its gradient likewise.
    """

    value: Any = None
    gradient: Any = None

    def __call__(self, phi):
        return PHI4(phi) if self.value is None else self.value(PHI4(phi), phi)

    def grad(self, phi):
        return PHI4.grad(phi) if self.gradient is None else self.gradient(PHI4.grad(phi), phi)

    def describe(self):
        return {"name": "own"}


@pytest.mark.parametrize("phi", [noise(LATTICE, 9), 0 * noise(LATTICE, 2), 30 * noise(LATTICE, 1)])
@pytest.mark.parametrize(
    "action",
    [
        Own(),
        PHI4,
        Phi4.from_textbook(-0.7, 0.5, 2),
        FreeField(0.7),
        AutogradAction(lambda phi: (phi**6 + 5000 * phi.cos()).flatten(1).sum(1), "mine"),
        Own(value=lambda S, phi: S + 1e9),
    ],
)
def test_right_actions_pass(action, phi):
    before = phi.clone()
    check_action(action, phi)
    assert torch.equal(phi, before)
    assert torch.equal(evaluate(action, phi), action(phi)) and torch.equal(force(action, phi), action.grad(phi))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda S, phi: S.sum(), r"shape \(\)"),
        (lambda S, phi: S[:, None], r"must return .* shape \(4,\), .* got shape \(4, 1\)"),
        (lambda S, phi: S.float(), "float32"),
        (lambda S, phi: S.half(), "float16"),
        (lambda S, phi: S.round().long(), "int64"),
        (lambda S, phi: S.tolist(), "got list"),
        (lambda S, phi: S.numpy(), "got ndarray"),
        (lambda S, phi: 1.0, "got float"),
        (lambda S, phi: np.float64(1.0), "got float64"),
        (lambda S, phi: S.to("meta"), "on meta"),
        (lambda S, phi: S.to_sparse(), "sparse"),
        (lambda S, phi: torch.nan * S, "returns NaN"),
        (lambda S, phi: S - torch.inf, "or minus infinity"),
        (lambda S, phi: S + 0 * phi.mul_(2).flatten(1).sum(1), "changes the fields"),
        (lambda S, phi: S.mean().expand(len(phi)), "mixes the fields of a batch"),
    ],
)
def test_wrong_values_are_refused(value, message):
    with pytest.raises(DmmcError, match=f"the action 'own' .*{message}"):
        check_action(Own(value=value), noise(LATTICE, 6))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (lambda g, phi: g.sum(), r"shape \(\)"),
        (lambda g, phi: g[0], r"must return .* shape \(4, 4, 3\), .* got shape \(4, 3\)"),
        (lambda g, phi: g.float(), "float32"),
        (lambda g, phi: g.numpy(), "got ndarray"),
        (lambda g, phi: g + 0 * phi.mul_(2), "changes the fields"),
        (lambda g, phi: 2 * g, "is not the gradient of S"),
        (lambda g, phi: -g, "is not the gradient of S"),
        (lambda g, phi: g + 0.1 * phi, "is not the gradient of S"),
        (lambda g, phi: g.roll(1, 1), "is not the gradient of S"),
    ],
)
def test_wrong_gradients_are_refused(gradient, message):
    with pytest.raises(DmmcError, match=rf"the action 'own'\.grad .*{message}"):
        check_action(Own(gradient=gradient), noise(LATTICE, 6))


def test_every_evaluation_is_checked():
    with pytest.raises(DmmcError, match=r"must return a tensor of shape \(5,\), torch.float64 on cpu; got"):
        evaluate(Own(value=lambda S, phi: S[:, None]), noise(LATTICE, 5))
    with pytest.raises(DmmcError, match=r"shape \(5, 4, 3\)"):
        force(Own(gradient=lambda g, phi: g.flatten(1)), noise(LATTICE, 5))
    # In the dtype of the fields, whatever that is.
    assert evaluate(PHI4, noise(LATTICE, 5).float()).dtype == torch.float32


def test_values_are_no_part_of_a_graph():
    # An action with a trained parameter of its own would otherwise hand the graph of that on to everything.
    coupling = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    action = AutogradAction(lambda phi: (phi**2 + coupling * phi**4).flatten(1).sum(1), "trained")
    phi = noise(LATTICE, 3)
    assert action(phi).requires_grad and not evaluate(action, phi).requires_grad
    assert not force(action, phi).requires_grad
    check_action(action, phi)

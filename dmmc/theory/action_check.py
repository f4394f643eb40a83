"""Whether an action keeps its contract, as far as a few fields can show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmc.core.records import Record
from dmmc.theory.actions import Action, declaration, differentiable
from dmmc.theory.evaluation import evaluate, force, refusal

PROBED = 4
"""Fields on which :func:`check_action` tests an action."""


GRADIENT_TOLERANCE = 1e-3
"""Relative deviation of a gradient from differences of S: far above their errors, far below mistakes in a formula."""


@dataclass(frozen=True)
class Finding(Record):
    """What one test of an action has shown.

    Attributes:
        what: the name of the test.
        text: what was found, as the end of a sentence that begins with the name of the action.
        passed: whether the action keeps its contract here.
        method: what the sentence is about: empty for S itself, ``.grad`` for its gradient.
    """

    what: str
    text: str
    passed: bool
    method: str = ""


def check_action(action: Action, phi: Tensor) -> None:
    """Refuse an action that does not keep its contract, as far as a few fields can show; see :func:`examine`.

    Args:
        action: the action.
        phi: typical fields, ``(n, *lattice)`` float64; the first of them are used, somewhat changed.

    Raises:
        DmmcError: if it does not; the message says what is wrong.
    """
    for finding in examine(action, phi[:PROBED]):
        if not finding.passed:
            raise refusal(action, finding.method, finding.text)


@torch.no_grad()
def examine(action: Action, phi: Tensor, directions: int = 1) -> Iterator[Finding]:
    """Test whether an action keeps its contract on some fields.

    Beyond the shape and type of what it returns, it must leave its argument alone, return no NaN, treat the fields of a
    batch separately, and have the gradient of S for its ``grad``, which is compared with differences of S.

    Args:
        action: the action.
        phi: typical fields, ``(n, *lattice)`` float64; they are tested somewhat changed.
        directions: in how many directions the gradient is compared.

    Yields:
        What each test has shown; later tests need not make sense if an earlier one fails.

    Raises:
        DmmcError: if something of another shape or type is returned, or the action fails.
    """
    scale, has_grad = declaration(action).scale, differentiable(action) is not None
    angle = torch.arange(phi[0].numel(), dtype=phi.dtype, device=phi.device)
    direction = [torch.cos(1.0 + k + (1 + 0.1 * k) * angle).view(phi[0].shape) for k in range(directions)]
    # Fields may begin where the gradient vanishes, such as at zero.
    phi = phi + 0.1 * scale * direction[0].roll(1, -1)
    given = phi.clone()

    def untouched(method: str) -> Finding:
        if torch.equal(phi, given):
            return Finding("argument", "leaves the fields alone that it is given", True, method)
        return Finding("argument", "changes the fields that it is given; work on a copy", False, method)

    def numbers(method: str, value: Tensor) -> Finding:
        impossible = value.isnan() | (value.isneginf() if method == "" else False)
        n = int(impossible.reshape(len(phi), -1).any(1).sum())
        text = f"returns NaN or minus infinity for {n} of {len(phi)} typical fields" if n else "returns numbers"
        return Finding("values", text, not n, method)

    S = evaluate(action, phi)
    first = S.clone()
    yield untouched("")
    yield numbers("", S)
    if has_grad:
        gradient = force(action, phi)
        first_gradient = gradient.clone()
        yield untouched(".grad")
        yield numbers(".grad", gradient)
    alone = torch.cat([evaluate(action, field).clone() for field in phi.split(1)])
    rounding = 1e-12 * (1 + first.abs())
    mixed = bool(((alone - first).abs() > 1000 * rounding).any())
    how = "mixes the fields of a batch: S of a field depends on which others are there"
    yield Finding("batch", how if mixed else "treats the fields of a batch separately", not mixed)
    step = 1e-5 * scale
    ends = [[evaluate(action, phi + sign * step * d).clone() for sign in (1, -1)] for d in direction]
    if has_grad:
        force(action, phi + step * direction[0])
        kept = torch.equal(S, first) and torch.equal(gradient, first_gradient)
    else:
        kept = torch.equal(S, first)
    how = "returns memory that a later call overwrites; return a new array"
    yield Finding("memory", "returns memory of its own" if kept else how, kept)
    if has_grad:
        differences = torch.stack([(up - down) / (2 * step) for up, down in ends], 1)
        terms = torch.stack([(first_gradient * d).flatten(1) for d in direction], 1)
        yield _compared(terms, differences, (rounding / step).unsqueeze(1))


def _compared(terms: Tensor, differences: Tensor, rounding: Tensor) -> Finding:
    """Whether a gradient is that of S.

    Args:
        terms: the gradient times a direction at each site, ``(n, directions, V)``.
        differences: of S along these directions, ``(n, directions)``.
        rounding: error of the differences, ``(n, 1)``.
    """
    given, size = terms.sum(2), terms.abs().sum(2)
    deviation = (given - differences).abs()
    # Where something overflows, the difference says nothing about the gradient.
    known = torch.isfinite(given) & torch.isfinite(differences)
    excess = torch.where(known, deviation - GRADIENT_TOLERANCE * size - rounding, -torch.inf)
    relative = float((deviation / size.clamp(min=1e-300))[known].max()) if bool(known.any()) else 0.0
    if not bool((excess > 0).any()):
        return Finding(
            "gradient", f"differs from differences of S by at most {relative:.1e} of its size", True, ".grad"
        )
    k = int(excess.argmax())
    text = (
        f"is not the gradient of S: along some direction it gives {float(given.flatten()[k]):.6g}, and a difference "
        f"of S {float(differences.flatten()[k]):.6g}"
    )
    x, y = given[known], differences[known]
    factor = float((x @ y) / (x @ x).clamp(min=1e-300))
    if abs(factor) > 1e-3 and bool((y - factor * x).norm() < GRADIENT_TOLERANCE * y.norm()):
        text += f"; multiplied by {factor:.4g} it would be"
    return Finding("gradient", text, False, ".grad")

"""Actions at work: what they return is what the contract says, or there is one clear error.

An action may come from a user. A value of another shape would be broadcast, and a chain would sample something else
without a word, so everything that evaluates an action on fields does it here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.theory.actions import Action, declaration, differentiable

PROBED = 4
"""Fields on which :func:`check_action` tests an action."""

GRADIENT_TOLERANCE = 1e-3
"""Relative deviation of a gradient from differences of S: far above their errors, far below mistakes in a formula."""


def evaluate(action: Action, phi: Tensor) -> Tensor:
    """``S(phi)`` of fields ``(n, *lattice)``, ``(n,)``.

    Raises:
        DmmcError: if the action fails, or returns anything but a tensor ``(n,)`` of the dtype and on the device of
            ``phi``.
    """
    return _checked(action, "", lambda: action(phi), phi, phi.shape[:1])


def force(action: Action, phi: Tensor) -> Tensor:
    """``dS/dphi`` of fields ``(n, *lattice)``, of the same shape.

    Raises:
        DmmcError: if the action fails or has no gradient, or returns anything but a tensor of the shape and dtype, and
            on the device, of ``phi``.
    """
    return _checked(action, ".grad", lambda: action.grad(phi), phi, phi.shape)


def size_of_terms(action: Action, phi: Tensor, S: Tensor) -> Tensor:
    """The size of the terms of S, at least 1, which S itself may not have where they cancel: the scale of its rounding.

    Args:
        action: the action.
        phi: fields ``(n, *lattice)``.
        S: their actions, ``(n,)``.

    Returns:
        ``(n,)``: ``|phi dS/dphi|`` summed over the sites. Without a gradient it is ``|S(phi/2)|``, since terms of
        different degree do not cancel at both; in any case at least ``|S|``.
    """
    if differentiable(action) is None:
        size = evaluate(action, 0.5 * phi).abs()
    else:
        size = (phi * force(action, phi)).abs().flatten(1).sum(1)
    return torch.maximum(size, S.abs()).clamp(min=1.0)


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
            raise _refusal(action, finding.method, finding.text)


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
        n = int(value.flatten(1).isnan().any(1).sum()) if value.ndim > 1 else int(value.isnan().sum())
        text = f"returns NaN for {n} of {len(phi)} typical fields" if n else "returns numbers"
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


def _checked(action: Action, method: str, call: Callable[[], Any], phi: Tensor, shape: torch.Size) -> Tensor:
    try:
        value = call()
    except DmmcError:
        raise
    except Exception as error:  # whatever the action of a user raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _refusal(action, method, f"fails at {last.filename}:{last.lineno} [{reason}]; put that right") from error
    if isinstance(value, Tensor) and (value.shape, value.dtype, value.device) == (shape, phi.dtype, phi.device):
        return value
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"shape {tuple(value.shape)}, {value.dtype} on {value.device}"
    raise _refusal(
        action, method, f"must return a tensor of shape {tuple(shape)}, {phi.dtype} on {phi.device}; got {got}"
    )


def _refusal(action: Action, method: str, what: str) -> DmmcError:
    name = action.describe().get("name", type(action).__name__)
    return DmmcError(f"the action {name!r}{method} {what}")

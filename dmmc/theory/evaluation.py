"""Actions at work: what they return is what the contract says, or there is one clear error.

An action may come from a user. A value of another shape would be broadcast, and a chain would sample something else
without a word, so everything that evaluates an action on fields does it here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action, declaration

PROBED = 4
"""Fields on which :func:`check_action` tests an action."""

GRADIENT_TOLERANCE = 1e-3
"""Relative deviation of a gradient from differences of S: far above their errors, far below mistakes in a formula."""


def evaluate(action: Action, phi: Tensor) -> Tensor:
    """``S(phi)`` of fields ``(n, *lattice)``, ``(n,)``.

    Raises:
        DmmcError: if the action returns anything but a tensor ``(n,)`` of the dtype and on the device of ``phi``.
    """
    return _checked(action, "", action(phi), phi, phi.shape[:1])


def force(action: Action, phi: Tensor) -> Tensor:
    """``dS/dphi`` of fields ``(n, *lattice)``, of the same shape.

    Raises:
        DmmcError: if the action returns anything but a tensor of the shape and dtype, and on the device, of ``phi``.
    """
    return _checked(action, ".grad", action.grad(phi), phi, phi.shape)


@torch.no_grad()
def check_action(action: Action, phi: Tensor) -> None:
    """Refuse an action that does not keep its contract, as far as a few fields can show.

    Beyond the shape and type of what it returns, it must leave its argument alone, treat the fields of a batch
    separately, and have the gradient of S for its ``grad``, which is compared with a difference in some direction.

    Args:
        action: the action.
        phi: typical fields, ``(n, *lattice)`` float64; the first of them are used, somewhat changed.

    Raises:
        DmmcError: if it does not; the message says what is wrong.
    """
    scale = declaration(action).scale
    direction = torch.cos(1.0 + torch.arange(phi[0].numel(), dtype=phi.dtype, device=phi.device)).view(phi[0].shape)
    # Fields may begin where the gradient vanishes, such as at zero.
    phi = phi[:PROBED] + 0.1 * scale * direction.roll(1, -1)
    given = phi.clone()
    S = evaluate(action, phi)
    if bool((S.isnan() | S.isneginf()).any()):
        raise _refusal(action, "", f"is not a number, or minus infinity, on ordinary fields: {S.tolist()}")
    if not torch.equal(phi, given):
        raise _refusal(action, "", "changes the fields that it is given; work on a copy")
    gradient = force(action, phi)
    if not torch.equal(phi, given):
        raise _refusal(action, ".grad", "changes the fields that it is given; work on a copy")
    alone = torch.cat([evaluate(action, field) for field in phi.split(1)])
    rounding = 1e-12 * (1 + S.abs())
    if bool(((alone - S).abs() > 1000 * rounding).any()):
        raise _refusal(action, "", "mixes the fields of a batch: S of a field depends on which others are there")
    step = 1e-5 * scale
    difference = (evaluate(action, phi + step * direction) - evaluate(action, phi - step * direction)) / (2 * step)
    terms = (gradient * direction).flatten(1)
    tolerance = GRADIENT_TOLERANCE * terms.abs().sum(1) + rounding / step
    deviation = (terms.sum(1) - difference).abs()
    if bool((deviation > tolerance).any()):  # false where something overflows, which says nothing about the gradient
        k = int((deviation - tolerance).nan_to_num(nan=-torch.inf).argmax())
        raise _refusal(
            action,
            ".grad",
            f"is not the gradient of S: along some direction it gives {float(terms[k].sum()):.6g}, and a difference "
            f"of S {float(difference[k]):.6g}",
        )


def _checked(action: Action, method: str, value: Any, phi: Tensor, shape: torch.Size) -> Tensor:
    wanted = (shape, phi.dtype, phi.device, torch.strided)
    if isinstance(value, Tensor) and (value.shape, value.dtype, value.device, value.layout) == wanted:
        return value
    got = type(value).__name__
    if isinstance(value, Tensor):
        sparse = "" if value.layout == torch.strided else f", {value.layout}"
        got = f"shape {tuple(value.shape)}, {value.dtype} on {value.device}{sparse}"
    raise _refusal(
        action, method, f"must return a tensor of shape {tuple(shape)}, {phi.dtype} on {phi.device}; got {got}"
    )


def _refusal(action: Action, method: str, what: str) -> DmmcError:
    name = action.describe().get("name", type(action).__name__)
    return DmmcError(f"the action {name!r}{method} {what}")

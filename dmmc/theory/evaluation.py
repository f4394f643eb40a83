"""Actions at work: what they return is what the contract says, or there is one clear error.

An action may come from a user. A value of another shape would be broadcast, and a chain would sample something else
without a word, so everything that evaluates an action on fields does it here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action, differentiable

CHUNK = 1024
"""Fields of an ensemble whose actions or forces are evaluated at once."""


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


def stored_actions(action: Action, phi: Tensor) -> Tensor:
    """``S(phi)`` of an ensemble ``(n, *lattice)``, ``(n,)`` float64, in chunks of fields.

    Raises:
        DmmcError: as :func:`evaluate`.
    """
    return torch.cat([evaluate(action, chunk.double()) for chunk in phi.split(CHUNK)])


def stored_forces(action: Action, phi: Tensor) -> Tensor:
    """``dS/dphi`` of an ensemble ``(n, *lattice)``, float64 and of the same shape, in chunks of fields.

    Where forces are expensive, they are evaluated once here and handed to all that asks for them.

    Raises:
        DmmcError: as :func:`force`.
    """
    return torch.cat([force(action, chunk.double()) for chunk in phi.split(CHUNK)])


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


def _checked(action: Action, method: str, call: Callable[[], Any], phi: Tensor, shape: torch.Size) -> Tensor:
    try:
        value = call()
    except DmmcError:
        raise
    except Exception as error:  # whatever the action of a user raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise refusal(action, method, f"fails at {last.filename}:{last.lineno} [{reason}]; put that right") from error
    wanted = (shape, phi.dtype, phi.device, torch.strided)
    if isinstance(value, Tensor) and (value.shape, value.dtype, value.device, value.layout) == wanted:
        return value.detach()  # an action with parameters of its own may return a part of their graph
    got = type(value).__name__
    if isinstance(value, Tensor):
        sparse = "" if value.layout == torch.strided else f", {value.layout}"
        got = f"shape {tuple(value.shape)}, {value.dtype} on {value.device}{sparse}"
    raise refusal(
        action, method, f"must return a tensor of shape {tuple(shape)}, {phi.dtype} on {phi.device}; got {got}"
    )


def refusal(action: Action, method: str, what: str) -> DmmcError:
    """The error that an action, or its ``method``, does something that it should not."""
    name = action.describe().get("name", type(action).__name__)
    return DmmcError(f"the action {name!r}{method} {what}")

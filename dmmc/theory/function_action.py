"""Actions made of torch functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Symmetry, declaration


@dataclass(frozen=True)
class FunctionAction:
    """An :class:`Action` made of torch functions; :func:`dmmc.theory.own_action.action` makes one of other functions.

    Args:
        function: maps ``(batch, *lattice)`` to ``(batch,)``, and treats the members of the batch separately.
        name: recorded in model and ensemble files, which are refused for an action of another name or
            other parameters.
        parameters: names and values that JSON can hold, recorded and compared likewise.
        gradient: maps ``(batch, *lattice)`` to the gradient, of the same shape; None if there is none.
        components, symmetry, scale, minimum, hopping, costly: declarations, as at the head of
            :mod:`dmmc.theory.actions`; by default nothing is said.

    Raises:
        DmmcError: if a declaration is impossible; on evaluation, if ``function`` returns another shape.
    """

    function: Callable[[Tensor], Tensor]
    name: str
    parameters: tuple[tuple[str, Any], ...] = ()
    gradient: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    components: int | None = field(default=None, kw_only=True)
    symmetry: Symmetry | None = field(default=None, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    minimum: float | Callable[[int], float] = field(default=0.0, kw_only=True)
    hopping: float | None = field(default=None, kw_only=True)
    costly: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        declaration(self)

    @property
    def has_grad(self) -> bool:
        """Whether a gradient was given."""
        return self.gradient is not None

    def __call__(self, phi: Tensor) -> Tensor:
        value = self.function(phi)
        if not isinstance(value, Tensor) or value.shape != phi.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DmmcError(
                f"action {self.name!r} must return shape ({phi.shape[0]},), one value for each field; got {shape}"
            )
        return value

    def grad(self, phi: Tensor) -> Tensor:
        if self.gradient is None:
            raise DmmcError(f"the action {self.name!r} has no gradient; give it one (grad=)")
        return self.gradient(phi)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.parameters)}


@dataclass(frozen=True)
class AutogradAction(FunctionAction):
    """A :class:`FunctionAction` whose gradient comes from autograd, so that ``function`` must be differentiable.

    The gradient is taken of the sum over the batch.
    """

    gradient: None = field(default=None, init=False, repr=False)

    @property
    def has_grad(self) -> bool:
        """There always is one."""
        return True

    def grad(self, phi: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = phi.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

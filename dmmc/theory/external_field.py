"""Scalar theories in a uniform external field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_finite, number_text
from dmmc.theory.actions import Action, Symmetry, declaration
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.evaluation import evaluate
from dmmc.theory.registry import register_action
from dmmc.theory.uniform import least_uniform


@dataclass(frozen=True)
class ExternalField:
    """A scalar theory in a uniform external field h, which pulls phi towards its own sign: ``S - h sum_x phi(x)``.

    h multiplies the field that ``action`` takes. The theory with h has no symmetry ``phi -> -phi``, whatever that
    without it has, and no cluster updates. With h = 0 it declares what ``action`` declares.

    Args:
        action: the theory without the external field.
        h: strength of the external field, of either sign.

    Raises:
        DmmcError: if ``action`` is no action of a scalar field, or h is not a finite number.
    """

    action: Action
    h: float

    def __post_init__(self) -> None:
        check_finite(h=self.h)
        components = declaration(self.action).components
        if components is not None:
            raise DmmcError(
                f"an external field h is a number for a scalar field, and this action declares {components} components"
            )

    @property
    def symmetry(self) -> Symmetry | None:
        """``"none"``, unless h = 0."""
        return "none" if self.h else declaration(self.action).symmetry

    @property
    def hopping(self) -> float | None:
        """None, since ``h phi`` is odd, unless h = 0."""
        return None if self.h else declaration(self.action).hopping

    @property
    def scale(self) -> float:
        """That of the theory without the external field."""
        return declaration(self.action).scale

    @property
    def has_grad(self) -> bool:
        """Whether the theory without the external field has a gradient."""
        return declaration(self.action).has_grad

    @property
    def costly(self) -> bool:
        """Whether the theory without the external field is."""
        return declaration(self.action).costly

    @property
    def recordable(self) -> bool:
        """As that of ``action``."""
        return declaration(self.action).recordable

    def minimum(self, dim: int) -> float:
        """The value of the uniform field of least action in ``dim`` dimensions, to about 1e-8 of its size.

        It is found by evaluating S of uniform fields on a lattice of two sites in each direction.

        Raises:
            DmmcError: if there is none, since S falls without end.
        """
        without = declaration(self.action)
        centre = without.minimum(dim)
        if not self.h:
            return centre
        value = least_uniform(lambda phi: self._uniform(phi, dim), centre, 2 * (abs(centre) + without.scale))
        if value is None:
            raise DmmcError(
                f"the action of a uniform field falls without end in the external field h = {self.h}, so that exp(-S) "
                "cannot be normalised"
            )
        return value

    def _uniform(self, phi: Tensor, dim: int) -> Tensor:
        """The actions of uniform fields of the values ``phi`` ``(n,)``, on two sites in each direction."""
        return evaluate(self, phi.view(-1, *(1,) * dim).repeat(1, *(2,) * dim))

    def __call__(self, phi: Tensor) -> Tensor:
        return self.action(phi) - self.h * phi.flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        return self.action.grad(phi) - self.h

    def describe(self) -> dict[str, Any]:
        return {"name": "external_field", "action": self.action.describe(), "h": self.h}

    def label(self, dim: int) -> tuple[str, str]:
        """The label of the theory without the external field, with h."""
        name, couplings = action_label(self.action, dim)
        return f"{name} in an external field", ", ".join(filter(None, (couplings, f"h = {number_text(self.h)}")))

    def normalisations(self, dim: int) -> dict[str, float]:
        """Those of the theory without the external field."""
        return dict(getattr(self.action, "normalisations", lambda dim: {})(dim))


@register_action("external_field")
def _from_description(action: Mapping[str, Any], h: float) -> ExternalField | None:
    """The action of a description; None if that of the theory without the external field is not registered."""
    if not isinstance(action, Mapping):
        raise TypeError(f"the action in the external field is described by {action!r}")
    without = action_from_description(action)
    return None if without is None else ExternalField(without, h)

"""Between two actions: what annealing passes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import is_finite, number_text
from dmmc.theory.actions import Action, Symmetry, declaration
from dmmc.theory.descriptions import action_label


@dataclass(frozen=True)
class Mixture:
    """``S = (1 - share) S_start + share S_end``: a theory between two others, for any two actions of one field.

    Its density is the geometric mean of theirs (Neal, Statistics and Computing 11 (2001) 125). Where both are linear
    in their couplings it is a theory of the same kind with couplings in between.

    Args:
        start: the action at ``share = 0``.
        end: the action at ``share = 1``.
        share: between 0 and 1.

    Raises:
        DmmcError: if ``share`` lies elsewhere, or the two are actions of fields with other numbers of components.
    """

    start: Action
    end: Action
    share: float

    def __post_init__(self) -> None:
        if not is_finite(self.share) or not 0 <= self.share <= 1:
            raise DmmcError(f"the share of an action in a mixture lies between 0 and 1, got {self.share!r}")
        start, end = declaration(self.start).components, declaration(self.end).components
        if start != end:
            raise DmmcError(f"there is nothing between fields with {start} and with {end} components")

    @property
    def components(self) -> int | None:
        """That of both actions."""
        return declaration(self.end).components

    @property
    def symmetry(self) -> Symmetry | None:
        """What both actions declare; None where one of them does not say or they differ."""
        start, end = declaration(self.start).symmetry, declaration(self.end).symmetry
        return end if start == end else None

    @property
    def scale(self) -> float:
        """That of the action at the end."""
        return declaration(self.end).scale

    @property
    def has_grad(self) -> bool:
        """Whether both actions have a gradient."""
        return declaration(self.start).has_grad and declaration(self.end).has_grad

    @property
    def costly(self) -> bool:
        """Whether one of the actions is."""
        return declaration(self.start).costly or declaration(self.end).costly

    @property
    def recordable(self) -> bool:
        """As those of both actions."""
        return declaration(self.start).recordable and declaration(self.end).recordable

    def __call__(self, phi: Tensor) -> Tensor:
        return (1 - self.share) * self.start(phi) + self.share * self.end(phi)

    def grad(self, phi: Tensor) -> Tensor:
        return (1 - self.share) * self.start.grad(phi) + self.share * self.end.grad(phi)

    def describe(self) -> dict[str, Any]:
        return {
            "name": "mixture",
            "start": self.start.describe(),
            "end": self.end.describe(),
            "share": self.share,
        }

    def label(self, dim: int) -> tuple[str, str]:
        """``"between A and B"``, and the share of B."""
        (start, _), (end, couplings) = action_label(self.start, dim), action_label(self.end, dim)
        return f"Between {start} and {end}", ", ".join(
            filter(None, (f"share {number_text(self.share)} of {end}", couplings))
        )

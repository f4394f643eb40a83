"""Scalar theories in two dimensions with two flavours of fermions that are coupled to the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_finite, number_text
from dmmc.theory import wilson
from dmmc.theory.actions import Action, Symmetry, declaration
from dmmc.theory.descriptions import action_from_description, action_label
from dmmc.theory.evaluation import evaluate
from dmmc.theory.registry import register_action
from dmmc.theory.uniform import least_uniform

_MOMENTA = (16, 16)
"""The lattice on which the fermion determinant of uniform fields is computed, to know where chains should begin."""


@dataclass(frozen=True)
class Yukawa:
    """A scalar theory in two dimensions with two degenerate flavours of Wilson fermions: ``S - 2 ln |det D(phi)|``.

    ``D = D_W(m_f) + g phi`` is the real Wilson operator of :mod:`dmmc.theory.wilson`, with the Yukawa coupling as a
    mass that depends on the site; fermions are antiperiodic along the first axis. Integrated over, two flavours give
    the positive weight ``det(D)^2``. The Wilson term breaks ``phi -> -phi``, so that the theory has no symmetry of the
    field whatever ``action`` has.

    S and its gradient come from dense determinants and inverses, exactly: a force takes several times as long as S, and
    both grow with the third power of the volume. The trajectories of
    :class:`dmmc.kernels.fermion_hmc.FermionHMC` need S alone, once each.

    Args:
        action: the theory of the scalar field, such as :class:`dmmc.theory.phi4.Phi4`.
        g: the Yukawa coupling, to the field that ``action`` takes.
        m_f: bare mass of the fermions, to which the Wilson term adds nothing at zero momentum.

    Raises:
        DmmcError: if ``action`` is no action of a scalar field, or a parameter is not a finite number.
    """

    action: Action
    g: float
    m_f: float = 0.0

    def __post_init__(self) -> None:
        check_finite(g=self.g, m_f=self.m_f)
        components = declaration(self.action).components
        if components is not None:
            raise DmmcError(f"fermions are coupled to a scalar field, and this action declares {components} components")

    @property
    def symmetry(self) -> Symmetry | None:
        """``"none"``, unless g = 0."""
        return "none" if self.g else declaration(self.action).symmetry

    @property
    def scale(self) -> float:
        """That of the theory without fermions."""
        return declaration(self.action).scale

    @property
    def has_grad(self) -> bool:
        """Whether the theory without fermions has a gradient."""
        return declaration(self.action).has_grad

    @property
    def costly(self) -> bool:
        """True: an evaluation takes a determinant."""
        return True

    def minimum(self, dim: int) -> float:
        """The value of the uniform field of least action on a lattice of 16 x 16, to about 1e-8 of its size.

        Raises:
            DmmcError: if there is none, since S falls without end, or the lattice has not two dimensions.
        """
        _check_dim(dim)
        without = declaration(self.action)
        value = least_uniform(self._uniform, without.minimum(dim), 2 * (abs(without.minimum(dim)) + without.scale))
        if value is None:
            raise DmmcError(
                "the action of a uniform field falls without end with these fermions, so that exp(-S) cannot be "
                "normalised"
            )
        return value

    def _uniform(self, phi: Tensor) -> Tensor:
        """S per site of uniform fields of the values ``phi`` ``(n,)``."""
        fermions = 2 * wilson.uniform_log_det(self.m_f + self.g * phi, _MOMENTA) / (_MOMENTA[0] * _MOMENTA[1])
        return evaluate(self.action, phi.view(-1, 1, 1).repeat(1, 2, 2)) / 4 - fermions

    def diagonal(self, phi: Tensor) -> Tensor:
        """``2 + m_f + g phi(x)``, the diagonal of D, of fields ``(n, time, space)``.

        Raises:
            DmmcError: if the lattice has not two dimensions.
        """
        _check_dim(phi.ndim - 1)
        return 2 + self.m_f + self.g * phi

    def __call__(self, phi: Tensor) -> Tensor:
        return self.action(phi) - 2 * wilson.log_det(self.diagonal(phi))

    def grad(self, phi: Tensor) -> Tensor:
        return self.action.grad(phi) - 2 * self.g * wilson.trace_inverse(self.diagonal(phi))

    def observables(self) -> dict[str, Any]:
        """What can be measured beside the standard observables: :meth:`condensate`, by its name."""
        return {"condensate": self.condensate}

    def condensate(self, phi: Tensor, S: Tensor | None = None) -> Tensor:
        """The chiral condensate of both flavours on each field, ``(n,)``: ``<psi-bar psi> = -2 <tr D^-1> / V``.

        It is ``-d ln Z / dm_f / V`` for the weight ``exp(-psi-bar D psi)``. S is not used.
        """
        return -2 * wilson.trace_inverse(self.diagonal(phi)).flatten(1).mean(1)

    def describe(self) -> dict[str, Any]:
        return {"name": "yukawa", "action": self.action.describe(), "g": self.g, "m_f": self.m_f}

    def label(self, dim: int) -> tuple[str, str]:
        """The label of the theory without fermions, with g and m_f."""
        name, couplings = action_label(self.action, dim)
        fermions = f"g = {number_text(self.g)}, m_f = {number_text(self.m_f)}"
        return f"{name} with Wilson fermions", ", ".join(filter(None, (couplings, fermions)))

    def normalisations(self, dim: int) -> dict[str, float]:
        """Those of the theory without fermions."""
        return dict(getattr(self.action, "normalisations", lambda dim: {})(dim))


def _check_dim(dim: int) -> None:
    if dim != 2:
        raise DmmcError(f"the Wilson fermions of this theory live in two dimensions, and the lattice has {dim}")


@register_action("yukawa")
def _from_description(action: Mapping[str, Any], g: float, m_f: float = 0.0) -> Yukawa | None:
    """The action of a description; None if that of the theory without fermions is not registered."""
    if not isinstance(action, Mapping):
        raise TypeError(f"the action that fermions are added to is described by {action!r}")
    without = action_from_description(action)
    return None if without is None else Yukawa(without, g, m_f)

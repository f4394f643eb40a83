"""Lattice actions: what is to be sampled, ``p(phi) = exp(-S(phi)) / Z``, and what an action declares about itself.

An action needs three methods (:class:`Action`), of which the gradient may be missing. It may declare more by optional
attributes, which :func:`declaration` reads, and nothing is assumed of a theory that it has not declared:

==============  =================  ==================================================================================
attribute       type               meaning, and what holds without it
==============  =================  ==================================================================================
``components``  int                number of field components, an axis before the lattice; a scalar field without it
``symmetry``    text               ``"z2"`` where ``S(phi) = S(-phi)``, ``"o_n"`` where S is the same for all rotations
                                   of the components, ``"none"``; without it this is tested on fields of the ensemble
``scale``       float              typical size of the field in units of the hopping form below; 1.0
``minimum``     float or method    value of the uniform field of least action, ``minimum(dim)`` if a method; 0.0
``hopping``     float              S is ``-hopping sum_x,mu phi(x) phi(x+mu)`` plus even functions of single sites
                                   (of ``|phi(x)|``, with components), which is what cluster updates need
``has_grad``    bool               whether ``grad`` may be called; without it, whether there is such a method
``costly``      bool               whether S or its gradient takes far longer than those of a local theory, so that they
                                   are to be evaluated as seldom as possible; False
``recordable``  bool               whether S and its gradient are operations of torch on the device of the field, always
                                   the same ones, so that HMC on a GPU may record them as a CUDA graph (of an action
                                   that can be hashed); False
==============  =================  ==================================================================================

Optional methods serve people: ``label(dim)`` returns the name of the theory and its couplings as plain text;
``normalisations(dim)`` returns, for other conventions in use, the factor by which the field of that convention is
larger than the one that S takes; and ``observables()`` returns functions by name that may be measured beside the
standard observables (:func:`offered_observables`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import is_finite
from dmmc.theory.lattice import Lattice

Symmetry = Literal["z2", "o_n", "none"]
"""``"z2"``: S(phi) = S(-phi); ``"o_n"``: S(R phi) = S(phi) for all R in O(N), which act on the components; ``"none"``:
nothing that may be used."""

SYMMETRIES: tuple[Symmetry, ...] = get_args(Symmetry)


@runtime_checkable
class Action(Protocol):
    """A lattice action. ``phi`` has shape ``(batch, *lattice)``; the action has shape ``(batch,)``.

    The fields of an action that declares ``components`` have shape ``(batch, components, *lattice)``.

    What an action may declare beyond these methods is listed at the head of this module. One without a gradient is
    sampled by every kernel that does not follow its force, and models of it learn from the fields alone.
    """

    def __call__(self, phi: Tensor) -> Tensor:
        """S(phi), shape ``(batch,)``, in the dtype of ``phi``."""
        ...

    def grad(self, phi: Tensor) -> Tensor:
        """dS/dphi, the shape of ``phi``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and parameters as JSON-ready values: what a model or ensemble file records and compares."""
        ...


@dataclass(frozen=True)
class Declaration:
    """What an action says about itself; see the head of this module.

    Attributes:
        components: number of field components; None for a scalar field.
        symmetry: one of :data:`SYMMETRIES`; None where the action does not say.
        scale: typical size of the field in units of the hopping form.
        minimum: maps the number of dimensions to the value of the uniform field of least action.
        hopping: coefficient of ``-sum phi(x) phi(x+mu)``, where the rest of S is even functions of single sites; None
            where the action does not say.
        has_grad: whether there is a gradient.
        costly: whether evaluations are to be few.
        recordable: whether evaluations may be recorded as a CUDA graph.
    """

    components: int | None
    symmetry: Symmetry | None
    scale: float
    minimum: Callable[[int], float]
    hopping: float | None
    has_grad: bool
    costly: bool
    recordable: bool


def declaration(action: Action) -> Declaration:
    """What ``action`` declares, with the stated defaults where it says nothing.

    Raises:
        DmmcError: if it is no action at all, or a declaration is impossible.
    """
    lacking = [name for name in ("__call__", "describe") if not callable(getattr(action, name, None))]
    if lacking or isinstance(action, type):
        raise DmmcError(
            f"an action has action(phi) and action.describe(), and {action!r} "
            f"{'is a class' if not lacking else 'lacks ' + ', '.join(lacking)}; "
            "AutogradAction makes an action of a function of the fields"
        )
    described: object = action.describe()
    if not isinstance(described, dict):
        raise DmmcError(f"describe() of the action {action!r} must return a dictionary, got {described!r}")
    components = getattr(action, "components", None)
    symmetry = getattr(action, "symmetry", None)
    scale = getattr(action, "scale", 1.0)
    hopping = getattr(action, "hopping", None)
    minimum = getattr(action, "minimum", 0.0)
    has_grad = getattr(action, "has_grad", callable(getattr(action, "grad", None)))
    costly = getattr(action, "costly", False)
    recordable = getattr(action, "recordable", False)

    def refuse(what: str, value: object, should: str) -> DmmcError:
        name = described.get("name", type(action).__name__)
        return DmmcError(f"the action {name!r} declares {what} = {value!r}; it should be {should}")

    if components is not None and (isinstance(components, bool) or not isinstance(components, int) or components < 1):
        raise refuse("components", components, "a positive integer, or None for a scalar field")
    if symmetry not in (*SYMMETRIES, None):
        raise refuse(
            "symmetry",
            symmetry,
            '"z2" for S(phi) = S(-phi), "o_n" for rotations of the components, "none", or None where nothing is said',
        )
    if symmetry == "o_n" and components is None:
        raise refuse("symmetry", symmetry, '"z2" for a field without components')
    if not is_finite(scale) or scale <= 0:
        raise refuse("scale", scale, "a positive number")
    if hopping is not None and not is_finite(hopping):
        raise refuse("hopping", hopping, "a finite number, or None where nothing is said")
    for what, value in (("has_grad", has_grad), ("costly", costly), ("recordable", recordable)):
        if not isinstance(value, bool):
            raise refuse(what, value, "True or False")
    if hopping is not None and symmetry == "none":
        raise refuse("hopping", hopping, 'None for an action of symmetry "none", since it means that S is even')

    def checked_minimum(dim: int) -> float:
        value = minimum(dim) if callable(minimum) else minimum
        if not is_finite(value):
            raise refuse("minimum", value, "a finite number")
        return float(value)

    if not callable(minimum):
        checked_minimum(1)
    if hopping is not None:
        symmetry, hopping = "z2" if components is None else "o_n", float(hopping)
    symmetry = cast(Symmetry | None, symmetry)
    return Declaration(components, symmetry, float(scale), checked_minimum, hopping, has_grad, costly, recordable)


def offered_observables(action: Action) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The observables that an action offers, by name, each as :data:`dmmc.theory.observables.Observable`."""
    return dict(getattr(action, "observables", dict)())


def differentiable(action: Action | None) -> Action | None:
    """The action, if there is one and it has a gradient; None otherwise."""
    return action if action is not None and declaration(action).has_grad else None


def components_of(action: Action | None) -> int | None:
    """The number of components that an action declares; None for scalar fields, and where there is no action.

    Raises:
        DmmcError: if a declaration of the action is impossible.
    """
    return None if action is None else declaration(action).components


def lattice_of(action: Action, lattice: Lattice) -> Lattice:
    """The lattice with fields of as many components as the action declares.

    Raises:
        MismatchError: if it has fields with another number of components.
        DmmcError: if a declaration of the action is impossible.
    """
    return lattice.carrying(components_of(action))


def check_scalar(action: Action, what: str) -> None:
    """Refuse an action whose fields have components.

    Args:
        action: the action.
        what: what is for scalar fields only.

    Raises:
        DmmcError: if they have.
    """
    components = declaration(action).components
    if components is not None:
        raise DmmcError(
            f"{what} is for scalar fields, and the fields of the action {action.describe().get('name')!r} have "
            f"{components} components"
        )


def check_differentiable(action: Action, what: str = "HMC") -> None:
    """Refuse an action without a gradient.

    Args:
        action: the action.
        what: what needs the gradient.

    Raises:
        DmmcError: if there is none.
    """
    if differentiable(action) is None:
        raise DmmcError(
            f"{what} follows the gradient of the action, and {action.describe().get('name')!r} has none; give it one "
            "(grad=), or use a kernel that needs none, such as those of a model"
        )

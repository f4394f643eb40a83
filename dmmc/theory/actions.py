"""Lattice actions: what is to be sampled, ``p(phi) = exp(-S(phi)) / Z``, and what an action declares about itself.

An action needs three methods (:class:`Action`). It may declare more by optional attributes, which
:func:`declaration` reads, and nothing is assumed of a theory that it has not declared:

==============  =================  ==================================================================================
attribute       type               meaning, and what holds without it
==============  =================  ==================================================================================
``components``  int                number of field components, an axis before the lattice; a scalar field without it
``symmetry``    ``"z2"``/``"none"``  whether ``S(phi) = S(-phi)``; without it this is tested on fields of the ensemble
``scale``       float              typical size of the field in units of the hopping form below; 1.0
``minimum``     float or method    value of the uniform field of least action, ``minimum(dim)`` if a method; 0.0
``hopping``     float              S is ``-hopping sum_x,mu phi(x) phi(x+mu)`` plus even functions of single sites,
                                   which is what cluster updates need; without it there are none
==============  =================  ==================================================================================

Two optional methods serve reports and error messages: ``label(dim)`` returns the name of the theory and its couplings
as plain text, and ``normalisations(dim)`` returns, for other conventions in use, the factor by which the field of that
convention is larger than the one that S takes.

The three usual forms of phi^4, with periodic boundaries and sums over all sites x and directions mu:

* hopping   ``S = sum_x [-2 kappa sum_mu phi phi_mu + (1 - 2 lam) phi^2 + lam phi^4]``
  (Wang, Aarts, Zhou, JHEP 05 (2024) 060);
* mass      ``S = sum_x [sum_mu (phi_mu - phi)^2 + m2 phi^2 + lam_m phi^4]``
  (Albergo et al., 1904.12072; Gerdes et al., 2207.00283);
* textbook  ``S = sum_x [1/2 sum_mu (phi_mu - phi)^2 + 1/2 mu0sq phi^2 + lam_t/4 phi^4]``.

They differ by a rescaling of the field only: ``phi_mass = sqrt(kappa) phi_hop``,
``phi_text = sqrt(2 kappa) phi_hop``. :class:`Phi4` evaluates each in its own normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import both_neighbours

Symmetry = Literal["z2", "none"]
"""``"z2"``: S(phi) = S(-phi); ``"none"``: nothing that may be used."""


@runtime_checkable
class Action(Protocol):
    """A lattice action. ``phi`` has shape ``(batch, *lattice)``; the action has shape ``(batch,)``.

    What an action may declare beyond these methods is listed at the head of this module.
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
        symmetry: ``"z2"`` or ``"none"``; None where the action does not say.
        scale: typical size of the field in units of the hopping form.
        minimum: maps the number of dimensions to the value of the uniform field of least action.
        hopping: coefficient of ``-sum phi(x) phi(x+mu)``, where the rest of S is even functions of single sites; None
            where the action does not say.
    """

    components: int | None
    symmetry: Symmetry | None
    scale: float
    minimum: Callable[[int], float]
    hopping: float | None


def declaration(action: Action) -> Declaration:
    """What ``action`` declares, with the stated defaults where it says nothing.

    Raises:
        DmmcError: if it is no action at all, or a declaration is impossible.
    """
    lacking = [name for name in ("__call__", "grad", "describe") if not callable(getattr(action, name, None))]
    if lacking or isinstance(action, type):
        raise DmmcError(
            f"an action has action(phi), action.grad(phi) and action.describe(), and {action!r} "
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

    def refuse(what: str, value: object, should: str) -> DmmcError:
        name = described.get("name", type(action).__name__)
        return DmmcError(f"the action {name!r} declares {what} = {value!r}; it should be {should}")

    if components is not None and (isinstance(components, bool) or not isinstance(components, int) or components < 1):
        raise refuse("components", components, "a positive integer, or None for a scalar field")
    if symmetry not in ("z2", "none", None):
        raise refuse("symmetry", symmetry, '"z2" for S(phi) = S(-phi), "none", or None where nothing is said')
    if not _is_finite(scale) or scale <= 0:
        raise refuse("scale", scale, "a positive number")
    if hopping is not None and not _is_finite(hopping):
        raise refuse("hopping", hopping, "a finite number, or None where nothing is said")
    if hopping is not None and symmetry == "none":
        raise refuse("hopping", hopping, 'None for an action of symmetry "none", since it means that S is even')

    def checked_minimum(dim: int) -> float:
        value = minimum(dim) if callable(minimum) else minimum
        if not _is_finite(value):
            raise refuse("minimum", value, "a finite number")
        return float(value)

    if not callable(minimum):
        checked_minimum(1)
    if hopping is not None:
        symmetry, hopping = "z2", float(hopping)
    return Declaration(components, cast(Symmetry | None, symmetry), float(scale), checked_minimum, hopping)


def check_supported(action: Action) -> None:
    """Refuse an action whose fields this version cannot handle.

    Raises:
        DmmcError: if the field has components, or a declaration is impossible.
    """
    components = declaration(action).components
    if components is not None:
        raise DmmcError(
            f"the action declares a field of {components} components, and fields with components are not supported "
            "yet; dmmc trains and samples scalar fields"
        )


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _finite(**parameters: float) -> None:
    for name, value in parameters.items():
        if not _is_finite(value):
            raise DmmcError(f"{name} must be a finite number, got {value!r}")


Make = TypeVar("Make", bound=Callable[..., Any])
_REGISTRY: dict[str, Callable[..., Any]] = {}


def register_action(name: str) -> Callable[[Make], Make]:
    """Decorator of an action class, or of a function that makes an action, so that files of it can be read by name.

    What is decorated is called with the parameters that :meth:`Action.describe` gives beside the name, and must return
    the action of this description.

    Raises:
        DmmcError: if something else is registered under this name.
    """

    def register(make: Make) -> Make:
        known = _REGISTRY.get(name)
        if known is not None and known.__qualname__ != make.__qualname__:
            raise DmmcError(f"there is an action {name!r} already; choose another name")
        _REGISTRY[name] = make
        return make

    return register


def _neighbours(phi: Tensor) -> Tensor:
    """``sum_mu [phi(x + mu) + phi(x - mu)]``, the shape of ``phi``."""
    total = both_neighbours(phi, 1)
    for axis in range(2, phi.ndim):
        total = total + both_neighbours(phi, axis)
    return total


@register_action("phi4")
@dataclass(frozen=True)
class Phi4:
    """phi^4 theory, any dimension.

    ``S = sum_x [-hop sum_mu phi phi_mu + quad phi^2 + quart phi^4]`` with the three coefficients of the
    chosen normalisation. ``Phi4(kappa, lam)`` is the hopping form; :meth:`from_mass` and
    :meth:`from_textbook` take the couplings and the field of the other two.

    Args:
        kappa: hopping parameter, > 0.
        lam: quartic coupling of the hopping form, > 0 (for none, see :class:`FreeField`).
        scale: the field that S takes is ``scale`` times the hopping-form field (1: hopping form).

    Raises:
        DmmcError: if a coupling is not finite or out of its range.
    """

    symmetry: ClassVar[Symmetry] = "z2"

    kappa: float
    lam: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        _finite(kappa=self.kappa, lam=self.lam, scale=self.scale)
        if self.kappa <= 0:
            raise DmmcError(f"kappa must be positive, got {self.kappa}; the antiferromagnet is not supported")
        if self.lam <= 0:
            raise DmmcError(f"lam must be positive, got {self.lam}; for a theory without interaction use FreeField")
        if self.scale <= 0:
            raise DmmcError(f"scale must be positive, got {self.scale}")

    @classmethod
    def from_mass(cls, m2: float, lam_m: float, dim: int) -> Phi4:
        """Mass form (1904.12072), field normalised as there: ``m2 = (1-2 lam)/kappa - 2 dim, lam_m = lam/kappa^2``.

        Raises:
            DmmcError: as :class:`Phi4`.
        """
        _finite(m2=m2, lam_m=lam_m)
        if lam_m <= 0:
            raise DmmcError(f"lam_m must be positive, got {lam_m}; for a theory without interaction use FreeField")
        if dim not in (1, 2, 3, 4):
            raise DmmcError(f"dim must be 1, 2, 3 or 4, got {dim!r}")
        # 2 lam_m kappa^2 + (m2 + 2 dim) kappa - 1 = 0 has exactly one positive root; neither form of it cancels.
        b = m2 + 2 * dim
        root = math.sqrt(b * b + 8 * lam_m)
        kappa = 2 / (b + root) if b > 0 else (root - b) / (4 * lam_m)
        return cls(kappa=kappa, lam=lam_m * kappa**2, scale=math.sqrt(kappa))

    @classmethod
    def from_textbook(cls, mu0sq: float, lam_t: float, dim: int) -> Phi4:
        """Textbook form: ``mu0sq = m2`` and ``lam_t = lam / kappa^2``, field ``sqrt(2 kappa) phi_hop``."""
        mass = cls.from_mass(mu0sq, lam_t, dim)
        return cls(kappa=mass.kappa, lam=mass.lam, scale=math.sqrt(2 * mass.kappa))

    def m2(self, dim: int) -> float:
        """Bare mass squared of the mass (and textbook) form in ``dim`` dimensions."""
        return (1 - 2 * self.lam) / self.kappa - 2 * dim

    @property
    def lam_m(self) -> float:
        """Quartic coupling of the mass form; the textbook form's ``lam_t`` is the same number."""
        return self.lam / self.kappa**2

    def rescaled(self, scale: float) -> Phi4:
        """The same theory for a field in another normalisation: 1 hopping, sqrt(kappa) mass, sqrt(2 kappa) textbook."""
        return Phi4(self.kappa, self.lam, scale)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """``(hop, quad, quart)`` of the field that S takes."""
        z2 = self.scale**2
        return 2 * self.kappa / z2, (1 - 2 * self.lam) / z2, self.lam / z2**2

    @property
    def hopping(self) -> float:
        """Coefficient of ``-sum phi(x) phi(x+mu)``."""
        return self.coefficients[0]

    def minimum(self, dim: int) -> float:
        """The value of the uniform field of least action in ``dim`` dimensions, 0 or positive."""
        hop, quad, quart = self.coefficients
        return math.sqrt(max(0.0, hop * dim - quad) / (2 * quart))

    def __call__(self, phi: Tensor) -> Tensor:
        hop, quad, quart = self.coefficients
        phi2 = phi * phi
        density = phi2 * (quad + quart * phi2) - 0.5 * hop * phi * _neighbours(phi)
        return density.flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        hop, quad, quart = self.coefficients
        return phi * (2 * quad + 4 * quart * phi * phi) - hop * _neighbours(phi)

    def describe(self) -> dict[str, Any]:
        return {"name": "phi4", "kappa": self.kappa, "lam": self.lam, "scale": self.scale}

    def label(self, dim: int) -> tuple[str, str]:
        """``"φ⁴"`` and the couplings, in the form in which the field is normalised."""
        square = self.scale**2
        hopping = f"κ = {_number(self.kappa)}, λ = {_number(self.lam)}"
        for name, kappas, symbols in (("mass form", 1, ("m²", "λ")), ("textbook form", 2, ("μ₀²", "λ"))):
            if math.isclose(square, kappas * self.kappa, rel_tol=1e-9):
                m2, lam = (float(f"{x:.10g}") for x in (self.m2(dim), self.lam_m))
                return "φ⁴", f"{symbols[0]} = {_number(m2)}, {symbols[1]} = {_number(lam)} ({name}; {hopping})"
        scale = "" if self.scale == 1 else f", field × {_number(self.scale)}"
        return "φ⁴", f"{hopping} (hopping form{scale})"

    def normalisations(self, dim: int) -> dict[str, float]:
        """How much larger than the field of this action those of the three usual forms are."""
        fields = {"hopping": 1.0, "mass": math.sqrt(self.kappa), "textbook": math.sqrt(2 * self.kappa)}
        return {f"{form} form": size / self.scale for form, size in fields.items()}


@register_action("free")
@dataclass(frozen=True)
class FreeField:
    """Free massive field, ``S = 1/2 sum_x [sum_mu (phi_mu - phi)^2 + mass^2 phi^2]``.

    Its propagator is ``1 / (phat^2 + mass^2)`` and ``log Z = 1/2 sum_p log(2 pi C(p))``.

    Raises:
        DmmcError: if ``mass`` is not a positive finite number.
    """

    symmetry: ClassVar[Symmetry] = "z2"
    hopping: ClassVar[float] = 1.0

    mass: float

    def __post_init__(self) -> None:
        _finite(mass=self.mass)
        if self.mass <= 0:
            raise DmmcError(f"mass must be positive, got {self.mass}: the zero mode would not be normalisable")

    def __call__(self, phi: Tensor) -> Tensor:
        return 0.5 * (phi * self.grad(phi)).flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        return (2 * (phi.ndim - 1) + self.mass**2) * phi - _neighbours(phi)

    def propagator(self, phat2: Tensor) -> Tensor:
        """C(p) for lattice momenta squared ``phat2``, any shape."""
        return 1 / (phat2 + self.mass**2)

    def describe(self) -> dict[str, Any]:
        return {"name": "free", "mass": self.mass}

    def label(self, dim: int) -> tuple[str, str]:
        """``"Free field"`` and its mass."""
        return "Free field", f"m = {_number(self.mass)}"


@dataclass(frozen=True)
class AutogradAction:
    """An :class:`Action` made of any torch callable; its gradient comes from autograd.

    Args:
        function: maps ``(batch, *lattice)`` to ``(batch,)``; must be differentiable and treat the members
            of the batch separately (the gradient is taken of the sum).
        name: recorded in model and ensemble files, which are refused for an action of another name or
            other parameters.
        parameters: names and values that JSON can hold, recorded and compared likewise.
        components, symmetry, scale, minimum, hopping: declarations, as at the head of this module; by default nothing
            is said.

    Raises:
        DmmcError: if a declaration is impossible; on evaluation, if ``function`` returns another shape.
    """

    function: Callable[[Tensor], Tensor]
    name: str
    parameters: tuple[tuple[str, float], ...] = ()
    components: int | None = field(default=None, kw_only=True)
    symmetry: Symmetry | None = field(default=None, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    minimum: float = field(default=0.0, kw_only=True)
    hopping: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        declaration(self)

    def __call__(self, phi: Tensor) -> Tensor:
        value = self.function(phi)
        if not isinstance(value, Tensor) or value.shape != phi.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DmmcError(
                f"action {self.name!r} must return shape ({phi.shape[0]},), one value for each field; got {shape}"
            )
        return value

    def grad(self, phi: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = phi.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.parameters)}


def action_from_description(description: Mapping[str, Any]) -> Action | None:
    """The action that :meth:`Action.describe` described, or None if none is registered under its name.

    Raises:
        DmmcError: if the parameters are not those of the registered action.
    """
    make = _REGISTRY.get(str(description.get("name")))
    if make is None:
        return None
    try:
        action = cast(Action, make(**{key: value for key, value in description.items() if key != "name"}))
    except TypeError as error:
        raise DmmcError(
            f"this does not describe an action that this version knows: {dict(description)} ({error})"
        ) from None
    if not same_action(action.describe(), description):
        raise DmmcError(
            f"what is registered as {description['name']!r} makes the action {action.describe()} from the description "
            f"{dict(description)}; the two should agree"
        )
    return action


def same_action(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one action.

    Numbers are compared up to rounding, since couplings pass through conversions, and tuples count as the lists that
    they become in a file.
    """

    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
            return len(x) == len(y) and all(map(equal, x, y))
        if isinstance(x, (int, float)) and isinstance(y, (int, float)):
            return math.isclose(x, y, rel_tol=1e-9)
        return bool(x == y)

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


def action_label(action: Action | Mapping[str, Any], dim: int) -> tuple[str, str]:
    """The name of a theory and its couplings as plain text, for people to read.

    Args:
        action: an action, or the description of one.
        dim: number of dimensions.

    Returns:
        what the action's own ``label(dim)`` gives; else the name and parameters of its description.
    """
    description = action if isinstance(action, Mapping) else action.describe()
    known = action_from_description(action) if isinstance(action, Mapping) else action
    label = getattr(known, "label", None)
    if label is not None:
        name, couplings = label(dim)
        return str(name), str(couplings)
    parameters = ", ".join(f"{key} = {value}" for key, value in description.items() if key != "name")
    return str(description.get("name", "")), parameters


def _number(x: float) -> str:
    """A coupling without the noise of its last digits, with a minus sign in place of the hyphen."""
    return f"{x:.10g}".replace("-", "−")

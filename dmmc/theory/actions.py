"""Lattice actions: what is to be sampled, ``p(phi) = exp(-S(phi)) / Z``.

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
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import both_neighbours


@runtime_checkable
class Action(Protocol):
    """A lattice action. ``phi`` has shape ``(batch, *lattice)``; the action has shape ``(batch,)``."""

    def __call__(self, phi: Tensor) -> Tensor:
        """S(phi), shape ``(batch,)``, in the dtype of ``phi``."""
        ...

    def grad(self, phi: Tensor) -> Tensor:
        """dS/dphi, the shape of ``phi``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and parameters as JSON-ready values: what a model or ensemble file records and compares."""
        ...


def _neighbours(phi: Tensor) -> Tensor:
    """``sum_mu [phi(x + mu) + phi(x - mu)]``, the shape of ``phi``."""
    total = both_neighbours(phi, 1)
    for axis in range(2, phi.ndim):
        total = total + both_neighbours(phi, axis)
    return total


def _finite(**parameters: float) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DmmcError(f"{name} must be a finite number, got {value!r}")


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

    symmetry = "z2"

    @property
    def hopping(self) -> float:
        """hop"""
        return self.coefficients[0]

    def minimum(self, dim: int) -> float:
        """The value of the uniform field of least action in ``dim`` dimensions, 0 or positive."""
        hop, quad, quart = self.coefficients
        return math.sqrt(max(0.0, hop * dim - quad) / (2 * quart))

    def __call__(self, phi: Tensor) -> Tensor:
        """S, shape ``(batch,)``."""
        hop, quad, quart = self.coefficients
        phi2 = phi * phi
        density = phi2 * (quad + quart * phi2) - 0.5 * hop * phi * _neighbours(phi)
        return density.flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        """dS/dphi, the shape of ``phi``."""
        hop, quad, quart = self.coefficients
        return phi * (2 * quad + 4 * quart * phi * phi) - hop * _neighbours(phi)

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "phi4", "kappa": self.kappa, "lam": self.lam, "scale": self.scale}


@dataclass(frozen=True)
class FreeField:
    """Free massive field, ``S = 1/2 sum_x [sum_mu (phi_mu - phi)^2 + mass^2 phi^2]``.

    Its propagator is ``1 / (phat^2 + mass^2)`` and ``log Z = 1/2 sum_p log(2 pi C(p))``.

    Raises:
        DmmcError: if ``mass`` is not a positive finite number.
    """

    mass: float

    symmetry = "z2"
    hopping = 1.0

    def __post_init__(self) -> None:
        _finite(mass=self.mass)
        if self.mass <= 0:
            raise DmmcError(f"mass must be positive, got {self.mass}: the zero mode would not be normalisable")

    def __call__(self, phi: Tensor) -> Tensor:
        """S, shape ``(batch,)``."""
        return 0.5 * (phi * self.grad(phi)).flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        """dS/dphi, the shape of ``phi``."""
        return (2 * (phi.ndim - 1) + self.mass**2) * phi - _neighbours(phi)

    def propagator(self, phat2: Tensor) -> Tensor:
        """C(p) for lattice momenta squared ``phat2``, any shape."""
        return 1 / (phat2 + self.mass**2)

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "free", "mass": self.mass}


@dataclass(frozen=True)
class AutogradAction:
    """An :class:`Action` of any torch callable; its gradient comes from autograd.

    Args:
        function: maps ``(batch, *lattice)`` to ``(batch,)``; must be differentiable and treat the members
            of the batch separately (the gradient is taken of the sum).
        name: recorded in model and ensemble files, which are refused for an action of another name or
            other parameters.
        parameters: JSON-ready values, recorded and compared likewise.
    """

    function: Callable[[Tensor], Tensor]
    name: str
    parameters: tuple[tuple[str, float], ...] = ()

    def __call__(self, phi: Tensor) -> Tensor:
        """S, shape ``(batch,)``.

        Raises:
            DmmcError: if the function returns another shape.
        """
        value = self.function(phi)
        if not isinstance(value, Tensor) or value.shape != phi.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DmmcError(f"action {self.name!r} must return shape ({phi.shape[0]},), one S a field; got {shape}")
        return value

    def grad(self, phi: Tensor) -> Tensor:
        """dS/dphi, the shape of ``phi``."""
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    def describe(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": self.name, **dict(self.parameters)}


def action_from_description(description: dict[str, Any]) -> Action | None:
    """The action that :meth:`Action.describe` described, or None for one that only its author can make.

    Raises:
        DmmcError: if the parameters are not those of the named action.
    """
    parameters = {key: value for key, value in description.items() if key != "name"}
    known: dict[str, Callable[..., Action]] = {"phi4": Phi4, "free": FreeField}
    make = known.get(str(description.get("name")))
    if make is None:
        return None
    try:
        return make(**parameters)
    except TypeError:
        raise DmmcError(f"not the description of an action that this version knows: {description}") from None


def same_action(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one action, numbers up to rounding (couplings pass through conversions)."""

    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, (int, float)) and isinstance(y, (int, float)):
            return math.isclose(x, y, rel_tol=1e-9)
        return bool(x == y)

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


@dataclass(frozen=True)
class Declaration:
    """What an action says about itself."""

    components: int | None
    symmetry: str | None
    scale: float
    minimum: Callable[[int], float]
    hopping: float | None


def declaration(action: Action) -> Declaration:
    """What an action declares, with defaults."""
    return Declaration(
        getattr(action, "components", None),
        getattr(action, "symmetry", None),
        getattr(action, "scale", 1.0),
        getattr(action, "minimum", lambda dim: 0.0),
        getattr(action, "hopping", None),
    )

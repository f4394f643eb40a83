"""phi^4 theory, of a scalar field or of N components (the O(N) model), in the three forms in use.

Each has periodic boundaries and sums over all sites x and directions mu:

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
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count, check_finite, number_text
from dmmc.theory.actions import Symmetry
from dmmc.theory.lattice import neighbours
from dmmc.theory.registry import register_action


@register_action("phi4")
@dataclass(frozen=True)
class Phi4:
    """phi^4 theory, any dimension.

    ``S = sum_x [-hop sum_mu phi phi_mu + quad phi^2 + quart phi^4]`` with the three coefficients of the
    chosen normalisation. ``Phi4(kappa, lam)`` is the hopping form; :meth:`from_mass` and
    :meth:`from_textbook` take the couplings and the field of the other two, and ``from_gpt``, ``from_normflow``,
    ``from_neumc``, ``from_anvil`` and ``from_hasenbusch`` those of other codes.

    Args:
        kappa: hopping parameter, > 0.
        lam: quartic coupling of the hopping form, > 0 (for none, see :class:`FreeField`).
        scale: the field that S takes is ``scale`` times the hopping-form field (1: hopping form).
        components: number N of components of the O(N) model, where ``phi^2`` is ``phi . phi``, ``phi phi_mu`` is
            ``phi . phi_mu``, and ``phi^4`` is ``(phi . phi)^2``; None for the scalar field.

    Raises:
        DmmcError: if a coupling is not finite or out of its range.
    """

    kappa: float
    lam: float
    scale: float = 1.0
    components: int | None = None

    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_finite(kappa=self.kappa, lam=self.lam, scale=self.scale)
        if self.kappa <= 0:
            raise DmmcError(f"kappa must be positive, got {self.kappa}; the antiferromagnet is not supported")
        if self.lam <= 0:
            raise DmmcError(f"lam must be positive, got {self.lam}; for a theory without interaction use FreeField")
        if self.scale <= 0:
            raise DmmcError(f"scale must be positive, got {self.scale}")
        if self.components is not None:
            object.__setattr__(self, "components", check_count(self.components, "components"))

    @property
    def symmetry(self) -> Symmetry:
        """``"z2"``, or ``"o_n"`` of a field with components."""
        return "z2" if self.components is None else "o_n"

    @classmethod
    def from_mass(cls, m2: float, lam_m: float, dim: int) -> Phi4:
        """Mass form (1904.12072), field normalised as there: ``m2 = (1-2 lam)/kappa - 2 dim, lam_m = lam/kappa^2``.

        Raises:
            DmmcError: as :class:`Phi4`.
        """
        check_finite(m2=m2, lam_m=lam_m)
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

    @classmethod
    def from_gpt(cls, kappa: float, lam: float) -> Phi4:
        """``g.qcd.scalar.action.phi4(kappa, lam)`` of the Grid Python Toolkit (github.com/lehner/gpt), real field.

        ``S_GPT = sum_x [-2 kappa sum_mu phi phi_mu + phi^2 + lam (phi^2 - 1)^2]``: the hopping form and its field.
        S is smaller than ``S_GPT`` by the constant ``lam V``, so that log Z is larger by it; no weight changes.

        Raises:
            DmmcError: as :class:`Phi4`.
        """
        return cls(kappa, lam)

    @classmethod
    def from_hasenbusch(cls, beta: float, lam: float) -> Phi4:
        """Hasenbusch (hep-lat/9902026), and "bosetti2015" of anvil: ``beta = 2 kappa``, field of the hopping form.

        ``S = sum_x [-beta sum_mu phi phi_mu + phi^2 + lam (phi^2 - 1)^2]``, up to the constant ``lam V``.

        Raises:
            DmmcError: as :class:`Phi4`.
        """
        check_finite(beta=beta)
        return cls(beta / 2, lam)

    @classmethod
    def from_normflow(cls, m_sq: float, lambd: float, dim: int, kappa: float = 1.0) -> Phi4:
        """``ScalarPhi4Action(m_sq=, lambd=, kappa=)`` of normflow (github.com/jkomijani/normflow), field as there.

        ``S = sum_x [kappa/2 sum_mu (phi_mu - phi)^2 + m_sq/2 phi^2 + lambd phi^4]``. This kappa multiplies the kinetic
        term, and is not that of the hopping form.

        Raises:
            DmmcError: if a coupling is not finite, or ``lambd`` or ``kappa`` is not positive.
        """
        check_finite(m_sq=m_sq, lambd=lambd, kappa=kappa)
        if lambd <= 0:
            raise DmmcError(f"lambd must be positive, got {lambd}; for a theory without interaction use FreeField")
        if kappa <= 0:
            raise DmmcError(f"kappa must be positive, got {kappa}; it multiplies the kinetic term here")
        textbook = cls.from_textbook(m_sq / kappa, 4 * lambd / kappa**2, dim)
        return textbook.rescaled(textbook.scale / math.sqrt(kappa))

    @classmethod
    def from_neumc(cls, m2: float, lam: float, dim: int, kappa: float = 1.0) -> Phi4:
        """``ScalarPhi4Action(m2, lam, kappa)`` of neumc (github.com/nmcmc/neumc), field as there.

        ``S = sum_x [kappa/2 sum_mu (phi_mu - phi)^2 + m2/2 phi^2 + lam/4! phi^4]``; kappa as in :meth:`from_normflow`.

        Raises:
            DmmcError: if a coupling is not finite, or ``lam`` or ``kappa`` is not positive.
        """
        check_finite(lam=lam)
        if lam <= 0:
            raise DmmcError(f"lam must be positive, got {lam}; for a theory without interaction use FreeField")
        return cls.from_normflow(m2, lam / 24, dim, kappa)

    @classmethod
    def from_anvil(cls, m_sq: float, g: float) -> Phi4:
        """The "standard" parameterisation of anvil (github.com/marshrossney/anvil), which is two-dimensional.

        ``S = sum_x [1/2 sum_mu (phi_mu - phi)^2 + m_sq/2 phi^2 + g/4! phi^4]``, field as there. Of its others,
        "albergo2019" is :meth:`from_mass`, "nicoli2020" the hopping form, "bosetti2015" :meth:`from_hasenbusch`.

        Raises:
            DmmcError: if a coupling is not finite, or ``g`` is not positive.
        """
        check_finite(g=g)
        if g <= 0:
            raise DmmcError(f"g must be positive, got {g}; for a theory without interaction use FreeField")
        return cls.from_normflow(m_sq, g / 24, 2)

    def m2(self, dim: int) -> float:
        """Bare mass squared of the mass (and textbook) form in ``dim`` dimensions."""
        return (1 - 2 * self.lam) / self.kappa - 2 * dim

    @property
    def lam_m(self) -> float:
        """Quartic coupling of the mass form; the textbook form's ``lam_t`` is the same number."""
        return self.lam / self.kappa**2

    def rescaled(self, scale: float) -> Phi4:
        """The same theory for a field in another normalisation: 1 hopping, sqrt(kappa) mass, sqrt(2 kappa) textbook."""
        return replace(self, scale=scale)

    def with_components(self, components: int | None) -> Phi4:
        """The same couplings for a field of so many components; None for a scalar field."""
        return replace(self, components=components)

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
        """The length of the uniform field of least action in ``dim`` dimensions, 0 or positive."""
        hop, quad, quart = self.coefficients
        return math.sqrt(max(0.0, hop * dim - quad) / (2 * quart))

    def __call__(self, phi: Tensor) -> Tensor:
        hop, quad, quart = self.coefficients
        links, phi2 = 0.5 * hop * phi * neighbours(phi, self.components), phi * phi
        if self.components is not None:
            links, phi2 = links.sum(1), phi2.sum(1)
        density = phi2 * (quad + quart * phi2) - links
        return density.flatten(1).sum(1)

    def grad(self, phi: Tensor) -> Tensor:
        hop, quad, quart = self.coefficients
        quartic = 4 * quart * phi * phi
        if self.components is not None:
            quartic = quartic.sum(1, keepdim=True)
        return phi * (2 * quad + quartic) - hop * neighbours(phi, self.components)

    def describe(self) -> dict[str, Any]:
        couplings = {"name": "phi4", "kappa": self.kappa, "lam": self.lam, "scale": self.scale}
        return couplings if self.components is None else {**couplings, "components": self.components}

    def label(self, dim: int) -> tuple[str, str]:
        """``"φ⁴"``, or ``"O(N) φ⁴"``, and the couplings, in the form in which the field is normalised."""
        name = "φ⁴" if self.components is None else f"O({self.components}) φ⁴"
        square = self.scale**2
        hopping = f"κ = {number_text(self.kappa)}, λ = {number_text(self.lam)}"
        if self.scale == 1:  # at some couplings the field of another form is as large
            return name, f"{hopping} (hopping form)"
        for form, kappas, symbols in (("mass form", 1, ("m²", "λ")), ("textbook form", 2, ("μ₀²", "λ"))):
            if math.isclose(square, kappas * self.kappa, rel_tol=1e-9):
                m2, lam = (float(f"{x:.10g}") for x in (self.m2(dim), self.lam_m))
                return name, f"{symbols[0]} = {number_text(m2)}, {symbols[1]} = {number_text(lam)} ({form}; {hopping})"
        return name, f"{hopping} (hopping form, field × {number_text(self.scale)})"

    def normalisations(self, dim: int) -> dict[str, float]:
        """How much larger than the field of this action those of the three usual forms are."""
        fields = {"hopping": 1.0, "mass": math.sqrt(self.kappa), "textbook": math.sqrt(2 * self.kappa)}
        return {f"{form} form": size / self.scale for form, size in fields.items()}

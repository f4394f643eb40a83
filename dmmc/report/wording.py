"""Names and numbers as a page writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dmmc.report import table
from dmmc.theory.actions import FreeField, Phi4, action_from_description

SAMPLERS = {"cluster": "cluster", "hmc": "HMC", "independence": "diffusion", "path_refresh": "partial path"}
"""What a kernel's chain is called, where that is not the kernel's name."""

# Of the observables, in HTML.
SYMBOLS = {
    "M": "⟨M⟩",
    "abs_M": "⟨|M|⟩",
    "M2": "⟨M²⟩",
    "M4": "⟨M⁴⟩",
    "chi2": "χ",
    "chi2_signed": "χ, signed M",
    "binder": "U<sub>L</sub>",
    "xi": "ξ",
    "phi2": "⟨φ²⟩",
    "S_per_site": "⟨S⟩/V",
    "G_min": "G(p<sub>min</sub>)",
}


def minus(number: str) -> str:
    """With minus signs in place of hyphens."""
    return number.replace("-", "−")


def number(x: float) -> str:
    """A coupling, without the noise of the last digits."""
    return minus(f"{x:.10g}")


def theory(header: Mapping[str, Any], dim: int) -> tuple[str, str]:
    """Name and couplings, in the form in which the field is normalised."""
    action = action_from_description(dict(header))
    if isinstance(action, FreeField):
        return "Free field", f"m = {number(action.mass)}"
    if not isinstance(action, Phi4):
        return str(header["name"]), ", ".join(f"{key} = {value}" for key, value in header.items() if key != "name")
    square = action.scale**2
    hopping = f"κ = {number(action.kappa)}, λ = {number(action.lam)}"
    for name, kappas, symbols in (("mass form", 1, ("m²", "λ")), ("textbook form", 2, ("μ₀²", "λ"))):
        if math.isclose(square, kappas * action.kappa, rel_tol=1e-9):
            m2, lam = (float(f"{x:.10g}") for x in (action.m2(dim), action.lam_m))
            return "φ⁴", f"{symbols[0]} = {number(m2)}, {symbols[1]} = {number(lam)} ({name}; {hopping})"
    scale = "" if action.scale == 1 else f", field × {number(action.scale)}"
    return "φ⁴", f"{hopping} (hopping form{scale})"


def listed(names: Sequence[str]) -> str:
    """As in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def deviation(z: float) -> dict[str, str]:
    """A difference in standard errors, and how far off that is."""
    return {"z": minus(table.format_z(z)), "off": "far" if abs(z) > 4 else "odd" if abs(z) > 3 else ""}

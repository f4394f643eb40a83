"""Names and numbers as a page writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmmc.report import table
from dmmc.theory.actions import action_label

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


def theory(header: Mapping[str, Any], dim: int) -> tuple[str, str]:
    """Name and couplings of the theory that a description is of: :func:`dmmc.theory.actions.action_label`."""
    return action_label(header, dim)


def listed(names: Sequence[str]) -> str:
    """As in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def deviation(z: float) -> dict[str, str]:
    """A difference in standard errors, and how far off that is."""
    return {"z": minus(table.format_z(z)), "off": "far" if abs(z) > 4 else "odd" if abs(z) > 3 else ""}

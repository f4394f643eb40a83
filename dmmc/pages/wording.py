"""Names and numbers as a page writes them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

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
"""Observables in HTML; others are called by their names."""

_COMPONENT = re.compile(r"(.+)\[([\d, ]+)\]")


def symbol(name: str) -> str:
    """An observable in HTML; a component of a vector such as ``M[1]`` has its number as an index."""
    component = _COMPONENT.fullmatch(name)
    if component is not None:
        return f"{symbol(component[1])}<sub>{component[2]}</sub>"
    return SYMBOLS.get(name, html.escape(name))


def plain_symbol(name: str) -> str:
    """The same for a sentence about the values themselves: ``M²`` in place of ``⟨M²⟩``."""
    return symbol(name).replace("⟨", "").replace("⟩", "")


def minus(number: str) -> str:
    """The number with minus signs in place of hyphens."""
    return number.replace("-", "−")


def seconds(x: float) -> str:
    """A duration in a unit that suits it; a dash where it is not known."""
    if not math.isfinite(x):
        return "–"
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x / 1e-6:.3g} µs"


def extent(shape: Sequence[int]) -> str:
    """A lattice: ``"16 × 16"``, or ``"16 sites"`` in one dimension."""
    if len(shape) == 1:
        return f"{shape[0]} site{'s' if shape[0] != 1 else ''}"
    return " × ".join(map(str, shape))


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

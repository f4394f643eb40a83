"""Names and numbers as a page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence


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

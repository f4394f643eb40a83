"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth."""

from dmmc.exactness.laboratory import ExactnessOptions, exactness
from dmmc.exactness.truth import Agreement, Means, agreement, means, quadrature
from dmmc.exactness.variants import NAMES, VARIANTS, Bench, Variant

__all__ = [
    "NAMES",
    "VARIANTS",
    "Agreement",
    "Bench",
    "ExactnessOptions",
    "Means",
    "Variant",
    "agreement",
    "exactness",
    "means",
    "quadrature",
]

"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth."""

from dmmc.studies.exactness.laboratory import (
    DRAWS,
    DRAWS_LARGE,
    LARGE,
    ExactnessOptions,
    default_theories,
    exactness,
    side_by_side,
)
from dmmc.studies.exactness.truth import Agreement, Means, agreement, means, quadrature
from dmmc.studies.exactness.variants import NAMES, VARIANTS, Bench, Variant

__all__ = [
    "DRAWS",
    "DRAWS_LARGE",
    "LARGE",
    "NAMES",
    "VARIANTS",
    "Agreement",
    "Bench",
    "ExactnessOptions",
    "Means",
    "Variant",
    "agreement",
    "default_theories",
    "exactness",
    "means",
    "quadrature",
    "side_by_side",
]

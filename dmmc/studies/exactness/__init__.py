"""The exactness laboratory: ways to put a diffusion model into Metropolis, side by side, against a known truth."""

from dmmc.studies.exactness.analysis import OBSERVABLES, Agreement, BiasResult, Means, agreement, biases, means
from dmmc.studies.exactness.laboratory import run_laboratory, run_side_by_side
from dmmc.studies.exactness.options import SHAPES, ExactnessOptions, default_action, default_draws
from dmmc.studies.exactness.results import RESULT, LaboratoryResult, SideBySide, VariantResult
from dmmc.studies.exactness.truth import quadrature
from dmmc.studies.exactness.variants import NAMES, VARIANTS, Bench, Variant

__all__ = [
    "NAMES",
    "OBSERVABLES",
    "RESULT",
    "SHAPES",
    "VARIANTS",
    "Agreement",
    "Bench",
    "BiasResult",
    "ExactnessOptions",
    "LaboratoryResult",
    "Means",
    "SideBySide",
    "Variant",
    "VariantResult",
    "agreement",
    "biases",
    "default_action",
    "default_draws",
    "means",
    "quadrature",
    "run_laboratory",
    "run_side_by_side",
]

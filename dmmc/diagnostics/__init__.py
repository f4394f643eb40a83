"""Statistics of Markov chains and proposals, in plain NumPy: usable on the output of any sampler."""

from dmmc.diagnostics.autocorrelation import (
    DiagnosticsWarning,
    Estimate,
    autocorrelation_function,
    format_value,
    gamma_derived,
    gamma_method,
)
from dmmc.diagnostics.observables import binder, chi2, chi2_signed, derived, primary, summary, xi, z_score
from dmmc.diagnostics.weights import (
    KlGap,
    ess_fraction,
    expected_acceptance,
    kl_gap,
    log_z,
    n_zero_weight,
    std_log_w,
)

__all__ = [
    "DiagnosticsWarning",
    "Estimate",
    "KlGap",
    "autocorrelation_function",
    "binder",
    "chi2",
    "chi2_signed",
    "derived",
    "ess_fraction",
    "expected_acceptance",
    "format_value",
    "gamma_derived",
    "gamma_method",
    "kl_gap",
    "log_z",
    "n_zero_weight",
    "primary",
    "std_log_w",
    "summary",
    "xi",
    "z_score",
]

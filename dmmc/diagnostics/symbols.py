"""How observables are written in the text of tables and summaries."""

from __future__ import annotations

SYMBOLS = {
    "M": "<M>",
    "abs_M": "<|M|>",
    "M2": "<M^2>",
    "M4": "<M^4>",
    "chi2": "chi2",
    "chi2_signed": "chi2 (signed M)",
    "binder": "U_L",
    "xi": "xi",
    "phi2": "<phi^2>",
    "S_per_site": "<S>/V",
}
"""The estimates of :func:`dmmc.diagnostics.summary` in the order and notation of the table; others follow."""

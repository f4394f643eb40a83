"""What a comparison with another sampler says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from dmmc.diagnostics.autocorrelation import Estimate, gamma_method
from dmmc.diagnostics.balance import mode_balance
from dmmc.diagnostics.observables import z_score
from dmmc.diagnostics.symbols import symbol
from dmmc.diagnostics.verdicts.thresholds import Z_BAD, Z_DOUBTFUL
from dmmc.diagnostics.verdicts.verdict import Record, Verdict


def deviations(estimates: Mapping[str, Estimate], reference: Record) -> dict[str, float]:
    """z-scores of the means against those of the reference."""
    return {
        name: z_score(x, gamma_method(reference[name], name=name)) for name, x in estimates.items() if name in reference
    }


def against(
    estimates: Mapping[str, Estimate], record: Record, reference: Record | None, z2_symmetric: bool
) -> Verdict | None:
    """Whether means and the histogram of M agree with the reference."""
    if reference is None:
        return None
    # By symmetry <M> is zero; the balance of signs tests this better than a reference that may be frozen.
    deviating = deviations(estimates, reference)
    z = {symbol(name).text: z for name, z in deviating.items() if name != "M" or not z2_symmetric}
    if "M" in reference and "M" in record:
        balance = mode_balance(record["M"], reference["M"])
        if (k := balance.worst) >= 0:
            z[f"the fraction of draws with {balance.interval(k)}"] = float(balance.z[k])
    z = {name: value for name, value in z.items() if abs(value) > Z_DOUBTFUL}
    if not z:
        return None
    name = max(z, key=lambda key: abs(z[key]))
    bad = abs(z[name]) > Z_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "Disagrees with the reference",
        ", ".join(f"{key} by {value:+.1f}" for key, value in z.items())
        + " standard errors. One of the two is not in equilibrium, misses a part of the target, or samples another "
        "action. Check the couplings, then run the chain with the longer autocorrelation times for longer.",
        f"z of {name}",
        z[name],
        Z_BAD if bad else Z_DOUBTFUL,
    )


def agreement(estimates: Mapping[str, Estimate], reference: Record | None, log_w_reference: ArrayLike | None) -> str:
    """The end of a sentence, which says what was compared successfully."""
    text = ""
    if reference is not None:
        z = [abs(value) for value in deviations(estimates, reference).values() if not math.isnan(value)]
        text += f"; within {max(z):.1f} standard errors of the reference" if z else ""
    if log_w_reference is not None:
        text += f"; no part of {np.size(log_w_reference)} reference configurations is out of reach"
    return text + "."

"""The bias of a mean that an error of log q causes, against its statistical error."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from dmmc.diagnostics.autocorrelation import Estimate
from dmmc.diagnostics.series import as_array


def bias_over_error(
    estimates: Mapping[str, Estimate], record: Mapping[str, ArrayLike], bias_bound: float
) -> dict[str, float]:
    """Bound on the bias of each mean, in units of its statistical error.

    A chain whose proposals have a log q that is off by delta samples ``p exp(-delta)``, which shifts the mean of an
    observable O by ``|Cov(O, delta)| <= std(O) std(delta)``.

    Args:
        estimates: means by name.
        record: the series ``(chain, draw)`` that were averaged; estimates without one are left out.
        bias_bound: bound on the bias in units of the standard deviation of the observable.

    Returns:
        The ratios by name; estimates without an error are left out.
    """
    return {
        name: bias_bound * float(as_array(record[name], name).std()) / x.error
        for name, x in estimates.items()
        if name in record and x.error > 0
    }

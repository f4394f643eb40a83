"""Runs in pyerrors: observables with automatic error propagation.

::

    from dmmc.interop.pyerrors import to_pyerrors

    obs = to_pyerrors("chain.h5")
    binder = 1 - obs["M4"] / (3 * obs["M2"] ** 2)
    binder.gamma_method()
    print(binder)

pyerrors (F. Joswig et al., Comput. Phys. Commun. 288 (2023) 108750) takes fluctuations about the mean of each replicum,
:mod:`dmmc.diagnostics` about the mean over all chains. The errors differ by a relative window / draws, and chains that
disagree with each other enlarge only the latter: with many short chains, rely on those. tau_int is in draws, 1/2 for a
white series, in both. This module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmmc.core.errors import DmmcError
from dmmc.runs.storage import Run, load_run

MIN_DRAWS = 5


def to_pyerrors(run: Run | str | Path, ensemble: str | None = None) -> dict[str, Any]:
    """The observables of a run as ``pyerrors.Obs``, one replicum a chain, every draw.

    Args:
        run: a run, or the path of one.
        ensemble: pyerrors' name of the ensemble. Obs of one ensemble count as measured on the same configurations, so
            the default, ``"<kernel>-<first 8 of run_id>"``, is another one for each run.

    Returns:
        By the names of :func:`dmmc.theory.observables.measure`: one Obs each, and for ``two_point`` an array of Obs
        ``(n_orbits,)``, in the order of :mod:`dmmc.theory.momenta`. Replica are called ``"<ensemble>|r0001"``, ``r0002`` ...
        in the order of the chains, draws are configurations 1, 2 ...; ``tag`` is the observable's name. Derived
        quantities are written as formulas; ``gamma_method()`` of the result gives its error.

    Raises:
        FileError: as :func:`dmmc.runs.storage.load_run`.
        DmmcError: if pyerrors is not installed, a chain has fewer than 5 draws, or an observable is not finite; if
            ``ensemble`` is empty or has a ``|``.
    """
    try:
        import pyerrors as pe
    except ImportError:
        raise DmmcError('pyerrors is not installed; install it with: pip install "dmmc[pyerrors]"') from None
    if not isinstance(run, Run):
        run = load_run(run)
    if ensemble is None:
        ensemble = f"{run.header['kernel']['name']}-{run.run_id[:8]}"
    if not ensemble or "|" in ensemble:
        raise DmmcError(f"the name of an ensemble must not be empty nor contain '|', got {ensemble!r}")
    if run.n_draws < MIN_DRAWS:
        raise DmmcError(f"pyerrors needs {MIN_DRAWS} draws a chain or more, {run.path} has {run.n_draws}; run longer")
    replica = [f"{ensemble}|r{chain + 1:04d}" for chain in range(run.n_chains)]

    def obs(series: np.ndarray[Any, Any], tag: str) -> Any:
        if not np.isfinite(series).all():
            raise DmmcError(f"{tag} of {run.path} has NaN or infinite values; find the draws that made them")
        made = pe.Obs(list(series.astype(np.float64)), replica)
        made.tag = tag
        return made

    found: dict[str, Any] = {}
    for name, array in run.observables.items():
        if array.ndim == 2:
            found[name] = obs(array, name)
            continue
        parts = np.empty(array.shape[2:], dtype=object)
        for index in np.ndindex(parts.shape):
            parts[index] = obs(array[:, :, *index], f"{name}[{','.join(map(str, index))}]")
        found[name] = parts
    return found

"""Runs in pyerrors: observables with automatic error propagation.

::

    from dmmc.interop.pyerrors import to_pyerrors

    obs = to_pyerrors("chain.h5")
    binder = 1 - obs["M4"] / (3 * obs["M2"] ** 2)
    binder.gamma_method()
    print(binder)

pyerrors (F. Joswig et al., Comput. Phys. Commun. 288 (2023) 108750) takes fluctuations about the mean of each replicum,
:mod:`dmmc.diagnostics` about the mean over all chains. The errors differ by a fraction of about window / draws, and
only the latter grow if chains disagree with each other: with many short chains, rely on those. In both, tau_int is in
draws and 1/2 for a white series. This module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import gradient
from dmmc.diagnostics.means import of_columns
from dmmc.runs.run import StoredRun, load_run

MIN_DRAWS = 5


def to_pyerrors(run: StoredRun | str | Path, ensemble: str | None = None) -> dict[str, Any]:
    """The observables of a run as ``pyerrors.Obs``: one replicum for each chain, with every draw.

    Args:
        run: a run, or the path of one.
        ensemble: the name of the ensemble in pyerrors. Obs of one ensemble count as measured on the same
            configurations, so that the default, ``"<kernel>-<first 8 of run_id>"``, is different for every run.

    Returns:
        Obs by the name of the observable. One number per configuration gives one Obs; an observable with more, such as
        ``two_point`` ``(chain, draw, orbit)`` or one of the user's own, gives an array of Obs of its trailing shape.
        The order of momentum orbits is that of :mod:`dmmc.theory.momenta`. Replica are called
        ``"<ensemble>|r0001"``, ``r0002`` ... in the order of the chains, ``idl`` is ``run.configurations`` (1, 2, ...
        for chains of dmmc), and ``tag`` is the name of the observable. The functions of means in ``run.derived`` are
        there too, with the gradients of our own errors. Other derived quantities are written as formulas;
        ``gamma_method()`` of the result gives its error.

    Raises:
        FileError: as :func:`dmmc.runs.run.load_run`.
        DmmcError: if pyerrors is not installed, a chain has fewer than 5 draws, an observable is not finite, or
            ``ensemble`` is empty or contains a ``|``.
    """
    try:
        import pyerrors as pe
    except ImportError:
        raise DmmcError('pyerrors is not installed; install it with: pip install "dmmc[pyerrors]"') from None
    if not isinstance(run, StoredRun):
        run = load_run(run)
    if ensemble is None:
        ensemble = f"{run.header.facts.name}-{run.run_id[:8]}"
    if not ensemble or "|" in ensemble:
        raise DmmcError(f"the name of an ensemble must not be empty nor contain '|', got {ensemble!r}")
    if run.n_draws < MIN_DRAWS:
        raise DmmcError(f"pyerrors needs {MIN_DRAWS} draws per chain or more, {run.path} has {run.n_draws}; run longer")
    replica = [f"{ensemble}|r{chain + 1:04d}" for chain in range(run.n_chains)]

    primaries: dict[str, Any] = {}

    def obs(series: np.ndarray[Any, Any], tag: str) -> Any:
        if not np.isfinite(series).all():
            raise DmmcError(f"{tag} of {run.path} has NaN or infinite values; find the draws that made them")
        made = pe.Obs(list(series.astype(np.float64)), replica, idl=[run.configurations] * run.n_chains)
        made.tag = tag
        primaries[tag] = made
        return made

    observables: dict[str, Any] = {}
    for name, array in run.observables.items():
        if array.ndim == 2:
            observables[name] = obs(array, name)
            continue
        parts = np.empty(array.shape[2:], dtype=object)
        for index in np.ndindex(parts.shape):
            parts[index] = obs(array[:, :, *index], f"{name}[{','.join(map(str, index))}]")
        observables[name] = parts
    for name, function in run.derived.items():
        value, columns = of_columns(run.observables, name, function)
        slopes = gradient(value, [column.astype(np.float64) for column in columns.values()])
        means = [primaries[label] for label in columns]
        observables[name] = pe.derived_observable(lambda x, f=value, **_: np.float64(f(*x)), means, man_grad=slopes)
        observables[name].tag = name
    return observables

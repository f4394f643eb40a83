"""Runs in ArviZ: its diagnostics, summaries and plots, and its netCDF files, on chains of dmmc.

:func:`to_arviz` gives what the installed ArviZ works with, an ``InferenceData`` before version 1 and an xarray
``DataTree`` since, with the same groups, names and coordinates in both (schema:
https://python.arviz.org/en/stable/schema/schema.html)::

    import arviz as az
    from dmmc.interop.arviz import to_arviz

    data = to_arviz("chain.h5")
    az.summary(data, var_names=["M2", "abs_M", "S_per_site"])
    az.plot_trace(data, var_names="two_point", coords={"momentum": ["0,0", "1,0"]})
    data.to_netcdf("chain.nc")

ArviZ counts effective samples: its ``ess(method="mean")`` is ``N / (2 tau_int)`` with the tau_int of
:mod:`dmmc.diagnostics`. This module does not import torch.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.core.version import VERSION
from dmmc.runs.storage import Run, load_run
from dmmc.theory.momenta import orbit_modes, orbit_phat2, orbit_size

Array = NDArray[Any]

SAMPLE_DIMS = ("chain", "draw")


def to_arviz(run: Run | str | Path) -> Any:
    """A run as ArviZ's ``InferenceData`` (ArviZ before 1) or ``DataTree`` (since), every draw of it.

    Group ``posterior``, variables ``(chain, draw)``, in the conventions of :func:`dmmc.theory.observables.measure`: ``M``,
    ``abs_M``, ``M2``, ``M4``, ``phi2``, ``S_per_site``; and ``two_point`` ``(chain, draw, momentum)``. The coordinate
    ``momentum`` holds the mode numbers of a representative of each orbit, as text: ``"1,0"`` is
    ``p = 2 pi (1 / L_0, 0)``.

    Group ``constant_data``, what these momenta are, in numbers: ``mode`` ``(momentum, axis)``, the mode numbers;
    ``phat2`` ``(momentum)``, ``sum_mu 4 sin^2(p_mu / 2)``; ``orbit_size`` ``(momentum)``, momenta in the orbit. (As
    further coordinates of ``two_point`` they would keep ``summary`` of ArviZ 1 from working.)

    Group ``sample_stats``, ``(chain, draw)``; only what the sampler knows is there:

    ===================  =====================================================================================
    ``lp``               ``-S``, the log density of the target without its normalisation
    ``accepted``         whether the step that led to the draw was accepted, bool; with several steps a draw
                         the fraction of them that was, float
    ``acceptance_rate``  the probability with which it was to be accepted, ``min(1, exp(-energy_error))`` or
                         ``min(1, w' / w)``; with several steps a draw the fraction accepted. A chain whose
                         first step was accepted has nan there: what it was compared with is not recorded.
    ``energy_error``     dH of the last trajectory (HMC, cluster)
    ``log_q``            log density of the proposal at the draw (independence chains)
    ``log_w``            ``-S - log_q`` of the draw
    ``log_w_proposed``   that of the last proposal, accepted or not; -inf for one that was not finite
    ``n_clusters``       of the last sweep (cluster)
    ===================  =====================================================================================

    Attributes, the same on the whole and on each group: ArviZ's own (``created_at``, ``inference_library`` ...),
    ``run_id``, ``kernel``, ``seed``, ``steps_per_draw``, and as JSON ``action``, ``lattice`` and everything that the
    file says of its origin, ``header``, ``summary`` and ``versions``. They are text and integers: netCDF keeps them.

    Args:
        run: a run, or the path of one.

    Raises:
        FileError: as :func:`dmmc.runs.storage.load_run`.
        DmmcError: if the run's header lacks what every run of :func:`dmmc.runs.chain.run` has, or ``two_point`` does not
            fit the lattice.
    """
    if not isinstance(run, Run):
        run = load_run(run)
    attrs = _attributes(run)
    groups: dict[str, Any] = {
        "posterior": _samples(run, run.observables, attrs),
        "sample_stats": _samples(run, _statistics(run), attrs),
    }
    if "two_point" in run.observables:
        groups["constant_data"] = _momenta(run, attrs)
    if int(az.__version__.split(".")[0]) < 1:
        return az.InferenceData(attrs=attrs, **groups)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})


def _header(run: Run, key: str) -> Any:
    if key not in run.header:
        raise DmmcError(f"the header of {run.path} has no {key!r}; store the run with dmmc.runs.chain.run")
    return run.header[key]


def _attributes(run: Run) -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "dmmc",
        "creation_library_version": VERSION,
        "creation_library_language": "Python",
        "inference_library": "dmmc",
        "inference_library_version": run.versions["dmmc"],
        "run_id": run.run_id,
        "kernel": _header(run, "kernel")["name"],
        "seed": _header(run, "seed"),
        "steps_per_draw": _header(run, "steps_per_draw"),
        "action": json.dumps(_header(run, "action")),
        "lattice": json.dumps(_header(run, "lattice")),
        "header": json.dumps(run.header),
        "summary": json.dumps(run.summary),
        "versions": json.dumps(run.versions),
    }


def _samples(run: Run, arrays: dict[str, Array], attrs: dict[str, Any]) -> xr.Dataset:
    coords: dict[str, Any] = {"chain": np.arange(run.n_chains), "draw": np.arange(run.n_draws)}
    variables = {}
    for name, array in arrays.items():
        inner = [f"{name}_dim_{axis}" for axis in range(array.ndim - 2)]  # as ArviZ names them
        if name == "two_point":
            inner, coords["momentum"] = ["momentum"], _labels(run)
        variables[name] = ([*SAMPLE_DIMS, *inner], array)
    return xr.Dataset(variables, coords, {**attrs, "sample_dims": list(SAMPLE_DIMS)})


def _momenta(run: Run, attrs: dict[str, Any]) -> xr.Dataset:
    shape = tuple(_header(run, "lattice"))
    variables = {
        "mode": (["momentum", "axis"], np.array(orbit_modes(shape))),
        "phat2": ("momentum", orbit_phat2(shape)),
        "orbit_size": ("momentum", orbit_size(shape).astype(np.int64)),
    }
    return xr.Dataset(variables, {"momentum": _labels(run), "axis": np.arange(len(shape))}, attrs)


def _labels(run: Run) -> list[str]:
    shape = tuple(_header(run, "lattice"))
    modes = orbit_modes(shape)
    if run.observables["two_point"].shape[2:] != (len(modes),):
        raise DmmcError(
            f"two_point of {run.path} has shape {run.observables['two_point'].shape}, but the lattice {shape} has "
            f"{len(modes)} momentum orbits; store the run with dmmc.runs.chain.run"
        )
    return [",".join(map(str, mode)) for mode in modes]


def _statistics(run: Run) -> dict[str, Array]:
    found = dict(run.stats)
    if "S_per_site" in run.observables:
        found["lp"] = -run.observables["S_per_site"] * np.prod(_header(run, "lattice"))
    if "accepted" in found:
        one_step = _header(run, "steps_per_draw") == 1
        found["acceptance_rate"] = _acceptance_rate(found) if one_step else found["accepted"]
        if one_step:
            found["accepted"] = found["accepted"].astype(bool)
    return found


def _acceptance_rate(stats: dict[str, Array]) -> Array:
    """Acceptance probability of each step, where a draw is one step."""
    accepted = stats["accepted"].astype(bool)
    if "energy_error" in stats:
        log_ratio = -stats["energy_error"]
    elif "log_w_proposed" in stats:
        log_w = stats["log_w"]
        # A first step that was rejected has left the state's log w as it was.
        first = np.where(accepted[:, :1], np.nan, log_w[:, :1])
        log_ratio = stats["log_w_proposed"] - np.concatenate([first, log_w[:, :-1]], axis=1)
    else:
        return stats["accepted"]
    return np.exp(np.minimum(log_ratio, 0.0))

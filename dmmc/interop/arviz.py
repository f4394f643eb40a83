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
from dmmc.runs.run import StoredRun, load_run
from dmmc.theory.momenta import orbit_modes, orbit_phat2, orbit_size

Array = NDArray[Any]

SAMPLE_DIMS = ("chain", "draw")


def to_arviz(run: StoredRun | str | Path) -> Any:
    """A run as ArviZ's ``InferenceData`` (ArviZ before 1) or ``DataTree`` (since), with every draw.

    Group ``posterior``, variables ``(chain, draw, ...)``: the observables, in the conventions of
    :func:`dmmc.theory.observables.measure`. These are ``M``, ``abs_M``, ``M2``, ``M4``, ``phi2``, ``S_per_site``;
    ``two_point`` ``(chain, draw, momentum)``; and any observables of the user's own, whose further dimensions are
    called ``<name>_dim_0`` and so on. The coordinate ``momentum`` holds the mode numbers of a representative of each
    orbit, as text: ``"1,0"`` is ``p = 2 pi (1 / L_0, 0)``.

    Group ``constant_data``, these momenta in numbers: ``mode`` ``(momentum, axis)``, the mode numbers; ``phat2``
    ``(momentum)``, ``sum_mu 4 sin^2(p_mu / 2)``; ``orbit_size`` ``(momentum)``, the number of momenta in the orbit. (As
    further coordinates of ``two_point`` they would keep ``summary`` of ArviZ 1 from working.)

    Group ``sample_stats``, ``(chain, draw)``; only what the kernel reports is there:

    ===================  =====================================================================================
    ``lp``               ``-S``, the log density of the target without its normalisation
    ``accepted``         whether the step that led to the draw was accepted, bool; with several steps per draw
                         the fraction of them that were, float
    ``acceptance_rate``  the probability with which it was to be accepted, ``min(1, exp(-energy_error))`` or
                         ``min(1, w' / w)``; with several steps per draw as recorded by the chain
    ``energy_error``     dH of the last trajectory (HMC, cluster)
    ``energy``           H at the start of the last trajectory (HMC, cluster)
    ``diverging``        whether the last trajectory ran away (HMC, cluster)
    ``step_size``        step size of the last trajectory (HMC, cluster)
    ``n_steps``          leapfrog steps of the last trajectory (HMC, cluster)
    ``log_q``            log density of the proposal at the draw (flow, latent and path chains)
    ``log_w``            ``-S - log_q`` of the draw (the same chains)
    ``log_w_proposed``   ``-S - log_q`` of the last proposal, accepted or not; -inf if it was not finite
    ``log_w_ratio``      log of ``w' / w`` of the last proposal, which it was accepted by (partial paths)
    ``noise_variance``   variance of the estimated difference of log q (penalty method)
    ``n_clusters``       number of clusters in the last sweep (cluster)
    ``part``             number of the kernel that made the last step (mixture)
    ===================  =====================================================================================

    What the second and later kernels of a cycle report begins with the name of the kernel, as in ``hmc_energy_error``.
    So does what a mixture reports of its kernels, ``accepted`` and ``acceptance_rate``; it is NaN for a kernel that did
    not make the last step.

    Attributes, the same on the whole and on each group: ArviZ's own (``created_at``, ``inference_library`` ...),
    ``run_id``, ``kernel``, ``seed``, ``steps_per_draw``, and as JSON ``action``, ``lattice`` and everything that the
    file says about its origin: ``header``, ``record`` and ``versions``. They are text and integers, which netCDF keeps.

    Args:
        run: a run, or the path of one.

    Raises:
        FileError: as :func:`dmmc.runs.run.load_run`.
        DmmcError: if ``two_point`` does not fit the lattice.
    """
    if not isinstance(run, StoredRun):
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


def _attributes(run: StoredRun) -> dict[str, Any]:
    header = run.header
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "dmmc",
        "creation_library_version": VERSION,
        "creation_library_language": "Python",
        "inference_library": "dmmc",
        "inference_library_version": run.versions["dmmc"],
        "run_id": run.run_id,
        "kernel": header.facts.name,
        "seed": header.seed,
        "steps_per_draw": header.steps_per_draw,
        "action": json.dumps(header.action),
        "lattice": json.dumps(header.lattice),
        "header": json.dumps(header.to_json()),
        "record": json.dumps(run.record.to_json()),
        "versions": json.dumps(run.versions),
    }


def _samples(run: StoredRun, arrays: dict[str, Array], attrs: dict[str, Any]) -> xr.Dataset:
    coords: dict[str, Any] = {"chain": np.arange(run.n_chains), "draw": np.arange(run.n_draws)}
    variables = {}
    for name, array in arrays.items():
        inner = [f"{name}_dim_{axis}" for axis in range(array.ndim - 2)]  # as ArviZ names them
        if name == "two_point":
            inner, coords["momentum"] = ["momentum"], _labels(run)
        variables[name] = ([*SAMPLE_DIMS, *inner], array)
    return xr.Dataset(variables, coords, {**attrs, "sample_dims": list(SAMPLE_DIMS)})


def _momenta(run: StoredRun, attrs: dict[str, Any]) -> xr.Dataset:
    shape = run.lattice
    variables = {
        "mode": (["momentum", "axis"], np.array(orbit_modes(shape))),
        "phat2": ("momentum", orbit_phat2(shape)),
        "orbit_size": ("momentum", orbit_size(shape).astype(np.int64)),
    }
    return xr.Dataset(variables, {"momentum": _labels(run), "axis": np.arange(len(shape))}, attrs)


def _labels(run: StoredRun) -> list[str]:
    shape = run.lattice
    modes = orbit_modes(shape)
    if run.observables["two_point"].shape[2:] != (len(modes),):
        raise DmmcError(
            f"two_point of {run.path} has shape {run.observables['two_point'].shape}, but the lattice {shape} has "
            f"{len(modes)} momentum orbits; store the run with dmmc.runs.chain.run"
        )
    return [",".join(map(str, mode)) for mode in modes]


def _statistics(run: StoredRun) -> dict[str, Array]:
    stats = dict(run.stats)
    if "S_per_site" in run.observables:
        stats["lp"] = -run.observables["S_per_site"] * run.volume
    accepted = stats.get("accepted")
    # A kernel of several parts may report a fraction even for a single step.
    if accepted is not None and run.header.steps_per_draw == 1 and np.isin(accepted, (0, 1)).all():
        stats["accepted"] = accepted.astype(bool)
    return stats

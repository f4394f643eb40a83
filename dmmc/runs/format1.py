"""Run files of format version 1: what they do not say is derived from what they say.

They differ from version 2 in three ways. The header has no ``facts``, so that these follow from the name of the
kernel; it calls ``evaluations`` what is now ``cost``; and the probability with which a step was to be accepted was not
recorded. Their random numbers were made in another way, so they can be read, but not resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmmc.core.facts import KernelFacts
from dmmc.runs.header import RunHeader, RunRecord

Array = NDArray[Any]

VERSION = 1

_LABELS = {"cluster": "cluster", "hmc": "HMC", "independence": "diffusion", "path_refresh": "partial path"}
_INDEPENDENT = ("independence", "path")
_MODEL_FREE = ("hmc", "cluster")


def header(data: Mapping[str, Any]) -> RunHeader:
    """The header of a run file of version 1.

    Raises:
        DmmcError: if an entry is missing, or of another type.
    """
    kernel = data.get("kernel")
    fields = {key: value for key, value in data.items() if key != "evaluations"}
    fields["cost"] = data.get("evaluations", {})
    fields["facts"] = facts(kernel).to_json() if isinstance(kernel, dict) else {}
    return RunHeader.from_json(fields)


def facts(kernel: Mapping[str, Any]) -> KernelFacts:
    """What the description of a kernel says about it."""
    name = str(kernel.get("name", "unknown"))
    return KernelFacts(
        name=name,
        label=_LABELS.get(name, ""),
        independent_weights=name in _INDEPENDENT or kernel.get("theta") == math.pi / 2,
        model_free=name in _MODEL_FREE,
        inexact=str(kernel.get("inexact_reason") or "not stated") if kernel.get("inexact") else "",
    )


def record(data: Mapping[str, Any]) -> RunRecord:
    """What the ``summary`` of a run file of version 1 says, as far as it has a place in version 2."""
    seconds = data.get("wall_seconds")
    draws = data.get("wall_draws")
    return RunRecord(
        wall_seconds={str(name): float(x) for name, x in seconds.items()} if isinstance(seconds, dict) else {},
        wall_draws=draws if isinstance(draws, int) else 0,
    )


def statistics(stats: Mapping[str, Array], steps_per_draw: int) -> dict[str, Array]:
    """The sample statistics with ``acceptance_rate``, where ``accepted`` is there.

    With one step per draw it is the probability ``min(1, exp(-energy_error))`` or ``min(1, w' / w)`` of that step. With
    several steps it is not known, nor for the first proposal of a chain if that was accepted, since the weight before
    it was not recorded. There ``accepted`` is taken instead.
    """
    if "accepted" not in stats or "acceptance_rate" in stats:
        return dict(stats)
    accepted = np.asarray(stats["accepted"], dtype=np.float64)
    rate = accepted
    if steps_per_draw == 1 and "energy_error" in stats:
        rate = _probability(-stats["energy_error"])
    elif steps_per_draw == 1 and "log_w_proposed" in stats and "log_w" in stats:
        log_w = stats["log_w"]
        # A first step that was rejected has left the log w of the state as it was.
        before = np.concatenate([log_w[:, :1], log_w[:, :-1]], axis=1)
        rate = _probability(stats["log_w_proposed"] - before)
        rate[:, 0] = np.where(accepted[:, 0] > 0, accepted[:, 0], rate[:, 0])
    return {**stats, "acceptance_rate": rate}


def _probability(log_ratio: Array) -> Array:
    return np.exp(np.minimum(np.nan_to_num(log_ratio, nan=-np.inf, neginf=-np.inf, posinf=np.inf), 0.0))

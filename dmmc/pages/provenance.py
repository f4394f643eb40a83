"""What was run, in a few facts and in full."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmmc.pages.wording import seconds
from dmmc.runs.run import StoredRun

SHOWN = 12
"""Characters of a text setting that are shown; of a fingerprint they are enough to recognise it."""


@dataclass(frozen=True)
class Provenance:
    """What is known about the origin of one run.

    Attributes:
        name: the sampler.
        size: chains and draws.
        facts: what was run, by name, as text.
        complete: everything, as JSON.
    """

    name: str
    size: str
    facts: Mapping[str, str]
    complete: str


def provenance(name: str, run: StoredRun) -> Provenance:
    """The origin of a run."""
    header = run.header
    thermalise = header.provenance.get("thermalise")
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in dict(_settings(header.kernel)).items())
    size = f"{run.n_chains:,} × {run.n_draws:,}"
    facts = {
        "file": run.path.name,
        "chains × draws": size,
        "draws discarded": f"{run.discarded:,} of each chain" if run.discarded else "–",
        "steps discarded at the start": f"{header.discard:,}" if header.discard else "–",
        "steps per draw": f"{header.steps_per_draw:,}",
        "thermalisation": f"{thermalise:,} steps" if isinstance(thermalise, int) else "–",
        "kernel": settings or "–",
        "seed": str(header.seed),
        "wall time": seconds(run.record.wall_seconds.get("chain", math.nan)),
        "versions": ", ".join(f"{package} {number}" for package, number in run.versions.items()),
    }
    everything = {
        "run_id": run.run_id,
        "header": header.to_json(),
        "record": run.record.to_json(),
        "versions": run.versions,
    }
    return Provenance(name, size, facts, json.dumps(everything, indent=2, ensure_ascii=False))


def _settings(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers and texts of a description, those of its parts included."""
    for key, value in description.items():
        if isinstance(value, Mapping):
            yield from _settings(value)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    yield from _settings(part)
        elif isinstance(value, str) and key != "name":
            yield key, value[:SHOWN]
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "chunk_sites":
            yield key, f"{value:.6g}"

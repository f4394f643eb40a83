"""Run files for tests: made block by block from nothing but the block's number, and files of format version 1."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from dmmc.core.facts import KernelFacts
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.journal import RunWriter
from dmmc.runs.run import load_run

CHAINS, DRAWS, LATTICE = 3, 5, (4, 2)
HEADER = RunHeader(
    kernel={"name": "independence", "proposal": {"name": "flow"}},
    facts=KernelFacts("independence", "diffusion", independent_weights=True),
    cost={"network": 48},
    action={"name": "phi4", "kappa": 0.27},
    lattice=LATTICE,
    seed=7,
    steps_per_draw=1,
    keep_every=5,
    block=5,
    n_draws=100,
    provenance={"chains": CHAINS},
)
RECORD = RunRecord({"chain": 1.5}, 20)


def block(number: int, chains: int = CHAINS, draws: int = DRAWS) -> dict:
    """The arguments of append for a block that is a function of its number only."""
    rng = np.random.default_rng(number)
    return {
        "block": {"M": rng.normal(size=(chains, draws)), "two_point": rng.normal(size=(chains, draws, 6))},
        "stats": {"accepted": rng.random((chains, draws)) < 0.7, "n_leapfrog": rng.integers(0, 9, (chains, draws))},
        "cfgs": rng.normal(size=(chains, *LATTICE)),
        "cfg_index": np.stack([np.arange(chains), np.full(chains, draws - 1)], axis=1),
        "state": {
            "phi": rng.normal(size=(chains, *LATTICE)),
            "rng": rng.integers(0, 256, 50, dtype=np.uint8),
            "step": np.array(number),
        },
    }


def write(path: Path, n_blocks: int, header: RunHeader = HEADER) -> Path:
    with RunWriter.create(path, header) as writer:
        for number in range(n_blocks):
            writer.append(**block(number))
        return writer.finish(RECORD)


def check(path: Path, n_blocks: int) -> None:
    """Everything in the file is what the first n_blocks blocks held, bit by bit."""
    run, blocks = load_run(path), [block(number) for number in range(n_blocks)]
    for stored, part in ((run.observables, "block"), (run.stats, "stats")):
        assert stored.keys() == blocks[0][part].keys()
        for name, array in stored.items():
            expected = np.concatenate([b[part][name] for b in blocks], axis=1)
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
    assert (run.n_chains, run.n_draws, run.n_blocks) == (CHAINS, n_blocks * DRAWS, n_blocks)
    np.testing.assert_array_equal(run.cfgs(), np.concatenate([b["cfgs"] for b in blocks]))
    index = np.concatenate([b["cfg_index"] + [0, n * DRAWS] for n, b in enumerate(blocks)])
    np.testing.assert_array_equal(run.cfg_index, index)
    assert run.state.keys() == blocks[-1]["state"].keys()
    for name, array in blocks[-1]["state"].items():
        np.testing.assert_array_equal(run.state[name], array)
        assert run.state[name].dtype == array.dtype and run.state[name].shape == array.shape


def journal(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def store(
    path, observables, stats, *, kernel="hmc", lattice=LATTICE, evaluation=None, cfgs=None, cfg_index=None, **changes
) -> Path:
    """A finished run of given arrays.

    Args:
        path: the file.
        observables: arrays ``(chain, draw, ...)`` by name.
        stats: likewise.
        kernel: name of the kernel, or its facts.
        lattice: extents.
        evaluation: arrays beside the chains.
        cfgs: kept configurations.
        cfg_index: chain and draw of each.
        changes: other entries of the header.
    """
    facts = KernelFacts(kernel) if isinstance(kernel, str) else kernel
    draws = next(iter(observables.values())).shape[1]
    base = replace(HEADER, kernel={"name": facts.name}, facts=facts, lattice=lattice, n_draws=draws, provenance={})
    with RunWriter.create(path, replace(base, **changes)) as writer:
        writer.append(observables, stats, cfgs, {}, cfg_index)
        return writer.finish(RunRecord({"chain": 2.0}, draws), evaluation)


def write_format1(path: Path, kernel: dict, observables, stats, *, summary=None, evaluation=None, **changes) -> Path:
    """A finished run as format version 1 laid it out, written without the help of the package."""
    draws = next(iter(observables.values())).shape[1]
    header = {
        "kernel": kernel,
        "evaluations": {"network": 48},
        "action": {"name": "phi4", "kappa": 0.27, "lam": 0.022, "scale": 1.0},
        "lattice": list(LATTICE),
        "seed": 7,
        "steps_per_draw": 1,
        "keep_every": 0,
        "block": 16,
        "n_draws": draws,
        "provenance": {"chains": 3},
    }
    groups = {"observables": observables, "sample_stats": stats, "state": {}, "evaluation": evaluation or {}}
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, arrays in groups.items():
            group = file.create_group(name)
            for key, array in arrays.items():
                group.create_dataset(key, data=array, chunks=True, fletcher32=True)
        file.attrs["format"] = np.bytes_(b"dmmc-run")
        file.attrs["format_version"] = 1
        file.attrs["run_id"] = np.bytes_(b"0123456789abcdef")
        file.attrs["n_blocks"] = 1
        summary = {"wall_seconds": {"chain": 12.5}, "wall_draws": draws} if summary is None else summary
        for name, value in (("header", header | changes), ("summary", summary), ("versions", {"dmmc": "0.1.0"})):
            file.attrs[name] = np.bytes_(json.dumps(value).encode())
    return path

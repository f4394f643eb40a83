"""Run files for tests: made block by block from nothing but the block's number, and files of format version 1."""

import hashlib
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
    n_draws=1_000_000,
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
                dataset = group.create_dataset(key, data=array, chunks=True, fletcher32=True)
                dataset.attrs["sha256"] = np.bytes_(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
        file.attrs["format"] = np.bytes_(b"dmmc-run")
        file.attrs["format_version"] = 1
        file.attrs["run_id"] = np.bytes_(b"0123456789abcdef")
        file.attrs["n_blocks"] = 1
        summary = {"wall_seconds": {"chain": 12.5}, "wall_draws": draws} if summary is None else summary
        for name, value in (("header", header | changes), ("summary", summary), ("versions", {"dmmc": "0.1.0"})):
            file.attrs[name] = np.bytes_(json.dumps(value).encode())
    return path


def free_chains(path: Path, kind: str, shape=(6, 4), chains=4, draws=400, steps_per_draw=1, seed=1, version=2) -> Path:
    """Chains of a free field of mass 0.7 by NumPy alone, with every configuration kept.

    Args:
        path: the run file.
        kind: ``hmc``, or ``independence`` with proposals that are 1.2 times as wide as the target.
        shape: extents of the lattice.
        chains: parallel chains.
        draws: draws of each.
        steps_per_draw: steps between two draws.
        seed: of everything random.
        version: format version of the file; version 1 has no acceptance rates, and keeps no configurations.
    """
    rng, V = np.random.default_rng(seed), int(np.prod(shape))
    unit = np.eye(V).reshape(V, *shape)
    matrix = 0.49 * unit
    for axis in range(1, 1 + len(shape)):
        matrix = matrix + 2 * unit - np.roll(unit, 1, axis) - np.roll(unit, -1, axis)
    matrix = matrix.reshape(V, V)
    root = np.linalg.cholesky(np.linalg.inv(matrix))

    def action(phi):
        return 0.5 * np.einsum("ni,ij,nj->n", phi, matrix, phi)

    def hmc(phi):
        p, x = rng.normal(size=phi.shape), phi
        before, length, n = action(phi) + 0.5 * (p**2).sum(1), 0.45, 3
        for _ in range(n):
            x = x + 0.5 * length * p
            p = p - length * x @ matrix
            x = x + 0.5 * length * p
        energy = action(x) + 0.5 * (p**2).sum(1)
        settings = {"diverging": False, "step_size": length, "n_steps": n}
        facts = {name: np.full(chains, value) for name, value in settings.items()}
        return x, before - energy, lambda accepted: {"energy_error": energy - before, "energy": energy, **facts}

    def log_q(phi):
        return -action(phi) / 1.44

    def independence(phi):
        x = 1.2 * rng.normal(size=phi.shape) @ root.T
        here, there = -action(phi) - log_q(phi), -action(x) - log_q(x)

        def stats(accepted):
            log_w = np.where(accepted, there, here)
            return {"log_q": np.where(accepted, log_q(x), log_q(phi)), "log_w": log_w, "log_w_proposed": there}

        return x, there - here, stats

    phi = rng.normal(size=(chains, V)) @ root.T
    steps: list[dict] = []
    fields = []
    for step in range(draws * steps_per_draw):
        proposed, log_ratio, stats = {"hmc": hmc, "independence": independence}[kind](phi)
        rate = np.exp(np.minimum(log_ratio, 0))
        accepted = rng.random(chains) < rate
        phi = np.where(accepted[:, None], proposed, phi)
        steps.append({"accepted": accepted, "acceptance_rate": rate} | stats(accepted))
        if (step + 1) % steps_per_draw == 0:
            fields.append(phi)
    stats = {name: np.stack([s[name] for s in steps[steps_per_draw - 1 :: steps_per_draw]], 1) for name in steps[0]}
    for name in ("accepted", "acceptance_rate"):
        stats[name] = np.stack([s[name] for s in steps], 1).reshape(chains, draws, steps_per_draw).mean(2)
    cfgs = np.stack(fields).reshape(-1, *shape)
    observables = measured(cfgs, action(cfgs.reshape(-1, V)), shape, chains)
    index = np.array([(chain, draw) for draw in range(draws) for chain in range(chains)])
    if version == 1:
        del stats["acceptance_rate"]
        name = {"name": kind}
        return write_format1(
            path, name, observables, stats, lattice=list(shape), steps_per_draw=steps_per_draw, seed=seed
        )
    facts = KernelFacts(kind, {"hmc": "HMC"}.get(kind, "diffusion"), kind == "independence", kind == "hmc")
    options = {"steps_per_draw": steps_per_draw, "cfgs": cfgs, "cfg_index": index, "seed": seed}
    return store(path, observables, stats, kernel=facts, lattice=shape, **options)


def measured(phi, S, shape, chains) -> dict:
    """The standard observables of fields ``(draw * chain, *shape)``, each ``(chain, draw, ...)``."""
    import torch

    from dmmc.theory.lattice import Lattice
    from dmmc.theory.observables import measure

    values = measure(torch.from_numpy(phi), torch.from_numpy(S), Lattice(shape))
    return {name: np.swapaxes(x.numpy().reshape(-1, chains, *x.shape[1:]), 0, 1) for name, x in values.items()}

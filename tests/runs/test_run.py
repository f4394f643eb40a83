"""Finished runs: round trips, files that are missing or foreign, and views without the first draws."""

import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from dmmc.core.errors import DmmcError, FileError
from dmmc.runs.fields import load_fields
from dmmc.runs.journal import RunWriter
from dmmc.runs.run import begun_header, load_run, stored_header
from stored_runs import CHAINS, DRAWS, HEADER, LATTICE, RECORD, block, check, store, write


def test_round_trip(tmp_path):
    path = write(tmp_path / "run.h5", 4)
    check(path, 4)
    run = load_run(path)
    assert run.header == HEADER and run.record == RECORD
    assert run.versions["numpy"] == np.__version__ and run.versions["h5py"] == h5py.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5"]
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"dmmc-run"
        for name in ("cfgs", "observables/M", "sample_stats/accepted", "state/phi"):
            assert file[name].fletcher32 and len(file[name].attrs["sha256"]) == 64


def test_a_run_without_configurations(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", HEADER) as writer:
        writer.append({"M": np.zeros((2, 3))}, {}, None, {})
        path = writer.finish(RECORD)
    run = load_run(path)
    assert run.cfg_index.shape == (0, 2) and run.stats == {} and run.state == {}
    with pytest.raises(FileError, match="kept no configurations"):
        run.cfgs()


def test_large_datasets_are_chunked_and_verified(tmp_path):
    rng = np.random.default_rng(0)
    M, cfgs = rng.normal(size=(300, 1000)), rng.normal(size=(300, 32, 32))
    index = np.stack([np.arange(300), np.zeros(300, dtype=int)], axis=1)
    with RunWriter.create(tmp_path / "run.h5", replace(HEADER, lattice=(32, 32))) as writer:
        writer.append({"M": M}, {}, cfgs, {"phi": cfgs}, index)
        writer.append({"M": M}, {}, cfgs, {"phi": cfgs}, index)
        run = load_run(writer.finish(RECORD))
    np.testing.assert_array_equal(run.observables["M"], np.concatenate([M, M], axis=1))
    np.testing.assert_array_equal(run.cfgs(), np.concatenate([cfgs, cfgs]))


def test_missing_unfinished_and_foreign_files(tmp_path):
    path = tmp_path / "run.h5"
    for load in (load_run, load_fields):
        with pytest.raises(FileError, match="no file"):
            load(path)
        with pytest.raises(FileError, match="directory"):
            load(tmp_path)
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
        writer.append(**block(1))
    for load in (load_run, load_fields):
        with pytest.raises(FileError, match=r"2 blocks.*--resume"):
            load(path)
    for content, match in ((b"", "empty"), (b"not HDF5 at all", "not an HDF5 file")):
        (tmp_path / "foreign").write_bytes(content)
        for load in (load_run, load_fields):
            with pytest.raises(FileError, match=match):
                load(tmp_path / "foreign")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["something"] = np.zeros(3)
    with pytest.raises(FileError, match=r"not a dmmc run.*/cfgs"):
        load_run(tmp_path / "foreign.h5")
    with pytest.raises(FileError, match=r"no dataset /cfgs.*something"):
        load_fields(tmp_path / "foreign.h5")
    with pytest.raises(FileError, match="not a dmmc run"):
        RunWriter.resume(tmp_path / "foreign.h5", HEADER)
    newer = write(tmp_path / "newer.h5", 1)
    with h5py.File(newer, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(FileError, match="update dmmc"):
        load_run(newer)


def test_without_the_first_draws(tmp_path):
    run = load_run(write(tmp_path / "run.h5", 4))
    later = run.discarding(7)
    assert (later.n_chains, later.n_draws, later.discarded) == (CHAINS, 4 * DRAWS - 7, 7)
    for part in ("observables", "stats"):
        for name, array in getattr(run, part).items():
            np.testing.assert_array_equal(getattr(later, part)[name], array[:, 7:])
    # Of the configurations, kept at draws 4, 9, 14 and 19, three are left, at draws 2, 7 and 12.
    assert sorted(set(later.cfg_index[:, 1].tolist())) == [2, 7, 12]
    np.testing.assert_array_equal(later.cfgs(), run.cfgs()[CHAINS:])
    np.testing.assert_array_equal(later.cfg_index[:, 0], run.cfg_index[CHAINS:, 0])
    again = later.discarding(3)
    assert (again.n_draws, again.discarded) == (4 * DRAWS - 10, 10)
    np.testing.assert_array_equal(again.observables["M"], run.observables["M"][:, 10:])
    np.testing.assert_array_equal(again.cfgs(), run.cfgs()[2 * CHAINS :])
    assert run.n_draws == 4 * DRAWS and run.discarded == 0
    np.testing.assert_array_equal(run.discarding(0).cfgs(), run.cfgs())
    assert run.discarding(4 * DRAWS - 4).n_draws == 4
    with pytest.raises(DmmcError, match="must not be negative, got -1"):
        run.discarding(-1)
    for n in (4 * DRAWS - 3, 4 * DRAWS):  # with three the diagnostics could do nothing
        with pytest.raises(DmmcError, match=rf"{n} of the 20 draws .*run.h5 cannot be discarded: at least 4 must"):
            run.discarding(n)


def test_fields_by_chain_and_draw(tmp_path):
    run = load_run(write(tmp_path / "run.h5", 4))
    fields = run.fields()
    assert fields.shape == (CHAINS, 4, *LATTICE)
    np.testing.assert_array_equal(run.field_draws, [4, 9, 14, 19])
    for (chain, draw), cfg in zip(run.cfg_index, run.cfgs(), strict=True):
        np.testing.assert_array_equal(fields[chain, list(run.field_draws).index(draw)], cfg)
    later = run.discarding(7)
    np.testing.assert_array_equal(later.fields(), fields[:, 1:])
    np.testing.assert_array_equal(later.field_draws, [2, 7, 12])
    ragged = replace(run, cfg_index=run.cfg_index[1:], cfg_rows=run.cfg_rows[1:])
    with pytest.raises(DmmcError, match=r"not hold the same draws of every chain; use cfgs\(\) and cfg_index"):
        ragged.fields()


def test_repr(tmp_path):
    run = load_run(write(tmp_path / "run.h5", 4))
    assert repr(run) == "Run run.h5: diffusion, 3 chains x 20 draws, phi4 on 4 x 2"
    assert repr(run.discarding(2)).endswith("3 chains x 18 draws, phi4 on 4 x 2, the first 2 draws discarded")
    assert (run.lattice, run.volume) == (LATTICE, 8)
    # 1.5 s for 20 draws of 3 chains
    assert run.wall_seconds_per_draw == pytest.approx(1.5 / 60)


def test_headers_without_arrays(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    assert stored_header(path) == begun_header(path) == HEADER
    np.save(tmp_path / "fields.npy", np.zeros((2, 4, 2)))
    for other in (tmp_path / "fields.npy", tmp_path / "none.h5"):
        assert stored_header(other) is None and begun_header(other) is None


def test_a_header_that_is_none_is_refused(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    with h5py.File(path, "a") as file:
        file.attrs["header"] = np.bytes_(b'{"author": "somebody else"}')
    with pytest.raises(FileError, match=r"header of .*run.h5 is not that of a dmmc run: .*kernel"):
        load_run(path)


def test_runs_are_read_without_torch(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    code = f"import sys, dmmc.runs.run as r; r.load_run({str(path)!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lattice": [10**9, 10**9]}, "not on the lattice"),
        ({"lattice": [4, -2]}, "positive extents"),
        ({"lattice": []}, "positive extents"),
        ({"seed": -1}, "seed must be"),
        ({"block": 0}, "block must be"),
        ({"steps_per_draw": 0}, "steps_per_draw must be"),
        ({"cost": {"force": -1}}, "the number of force evaluations"),
    ],
    ids=str,
)
def test_impossible_headers_are_refused(tmp_path, change, message):
    path = write(tmp_path / "run.h5", 2)
    with h5py.File(path, "r+") as file:
        file.attrs["header"] = np.bytes_(json.dumps(HEADER.to_json() | change).encode())
    with pytest.raises(FileError, match=message):
        load_run(path)


def test_a_two_point_function_of_another_lattice_is_refused(tmp_path):
    path = store(
        tmp_path / "run.h5", {"two_point": np.ones((2, 8, 6))}, {"accepted": np.ones((2, 8))}, lattice=(10**9, 10**9)
    )
    with pytest.raises(FileError, match="two-point function"):
        load_run(path)


@pytest.mark.parametrize(("name", "value"), [("format_version", 0), ("format_version", -1), ("n_blocks", -1)])
def test_impossible_numbers_are_refused(tmp_path, name, value):
    path = write(tmp_path / "run.h5", 2)
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(FileError, match="is damaged"):
        load_run(path)

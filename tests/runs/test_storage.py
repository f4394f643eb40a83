"""Runs on disk: round trips, resumption, extension, damage of every kind, and kills at random moments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.runs.storage import RunWriter, load_fields, load_run

CHAINS, DRAWS, LATTICE = 3, 5, (4, 2)
HEADER = {"action": {"name": "phi4", "kappa": 0.27}, "lattice": list(LATTICE), "seed": 7, "n_draws": 100}


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


def write(path: Path, n_blocks: int, header: dict = HEADER) -> Path:
    with RunWriter.create(path, header) as writer:
        for number in range(n_blocks):
            writer.append(**block(number))
        return writer.finish({"acceptance": 0.7})


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


def test_round_trip(tmp_path):
    path = write(tmp_path / "run.h5", 4)
    check(path, 4)
    run = load_run(path)
    assert run.header == HEADER and run.summary == {"acceptance": 0.7}
    assert run.versions["numpy"] == np.__version__ and run.versions["h5py"] == h5py.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5"]
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"dmmc-run"
        for name in ("cfgs", "observables/M", "sample_stats/accepted", "state/phi"):
            assert file[name].fletcher32 and len(file[name].attrs["sha256"]) == 64


def test_a_run_without_configurations(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", HEADER) as writer:
        writer.append({"M": np.zeros((2, 3))}, {}, None, {})
        path = writer.finish({})
    run = load_run(path)
    assert run.cfg_index.shape == (0, 2) and run.stats == {} and run.state == {}
    with pytest.raises(FileError, match="kept no configurations"):
        run.cfgs()


def test_large_datasets_are_chunked_and_verified(tmp_path):
    rng = np.random.default_rng(0)
    M, cfgs = rng.normal(size=(300, 1000)), rng.normal(size=(300, 32, 32))
    index = np.stack([np.arange(300), np.zeros(300, dtype=int)], axis=1)
    with RunWriter.create(tmp_path / "run.h5", HEADER) as writer:
        writer.append({"M": M}, {}, cfgs, {"phi": cfgs}, index)
        writer.append({"M": M}, {}, cfgs, {"phi": cfgs}, index)
        run = load_run(writer.finish({}))
    np.testing.assert_array_equal(run.observables["M"], np.concatenate([M, M], axis=1))
    np.testing.assert_array_equal(run.cfgs(), np.concatenate([cfgs, cfgs]))


def test_resume_goes_on_where_the_journal_ends(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        assert writer.last_state() is None
        writer.append(**block(0))
        writer.append(**block(1))
    (journal(path) / "block_000002.h5.tmp").write_bytes(b"half a block")
    (journal(path) / "assembled.h5.tmp").write_bytes(b"half a file")
    with RunWriter.resume(path, HEADER) as writer:
        assert (writer.n_blocks, writer.n_draws) == (2, 2 * DRAWS)
        np.testing.assert_array_equal(writer.last_state()["phi"], block(1)["state"]["phi"])
        assert not list(journal(path).glob("*.tmp"))
        writer.append(**block(2))
        writer.finish({})
    check(path, 3)


def test_a_finished_run_is_extended(tmp_path):
    path = write(tmp_path / "run.h5", 2)
    longer = {**HEADER, "n_draws": 200}
    with RunWriter.resume(path, longer) as writer:
        assert writer.n_blocks == 2
        np.testing.assert_array_equal(writer.last_state()["phi"], block(1)["state"]["phi"])
        writer.append(**block(2))
        check(path, 2)  # the finished file stays as it is meanwhile
    with RunWriter.resume(path, longer) as writer:  # interrupted, and again
        assert writer.n_blocks == 3
        np.testing.assert_array_equal(writer.last_state()["phi"], block(2)["state"]["phi"])
        writer.append(**block(3))
        writer.finish({"acceptance": 0.7})
    check(path, 4)
    assert load_run(path).header == longer and not journal(path).exists()


def test_killed_between_assembly_and_removal_of_the_journal(tmp_path, monkeypatch):
    path = write(tmp_path / "run.h5", 2)
    writer = RunWriter.resume(path, HEADER)
    writer.append(**block(2))
    monkeypatch.setattr("dmmc.runs.storage._remove", lambda journal: None)
    writer.finish({})
    monkeypatch.undo()
    check(path, 3)
    assert journal(path).exists()
    with RunWriter.resume(path, HEADER) as writer:
        assert writer.n_blocks == 3  # not 4: block 2 is in the file already
        writer.append(**block(3))
        writer.finish({})
    check(path, 4)


def test_create_refuses_what_is_there(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
    with pytest.raises(FileError, match="--resume"):
        RunWriter.create(path, HEADER)
    with RunWriter.resume(path, HEADER) as writer:
        writer.finish({})
    with pytest.raises(FileError, match="--out"):
        RunWriter.create(path, HEADER)
    check(path, 1)
    with RunWriter.create(path, HEADER, overwrite=True) as writer:
        for number in range(2):
            writer.append(**block(number))
    with RunWriter.create(path, HEADER, overwrite=True) as writer:
        assert writer.n_blocks == 0
        writer.append(**block(0))
        writer.finish({})
    check(path, 1)


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "run.h5"
    with pytest.raises(FileError, match="nothing to resume"):
        RunWriter.resume(path, HEADER)
    RunWriter.create(path, HEADER).close()
    for header, match in (
        ({**HEADER, "seed": 8}, "seed is 7 there and 8 here"),
        ({**HEADER, "extra": 1}, "extra is absent there"),
        ({k: v for k, v in HEADER.items() if k != "lattice"}, "lattice is .* absent here"),
    ):
        with pytest.raises(MismatchError, match=match):
            RunWriter.resume(path, header)
    with RunWriter.resume(path, {**HEADER, "n_draws": 10}) as writer:
        writer.append(**block(0))
        writer.finish({})
    with pytest.raises(MismatchError, match="seed"):
        RunWriter.resume(path, {**HEADER, "seed": 8})
    assert not journal(path).exists()  # a refusal leaves nothing behind


def test_two_writers(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
        for attempt in (RunWriter.resume, RunWriter.create):
            with pytest.raises(FileError, match="another process"):
                attempt(path, HEADER)
        code = f"from dmmc.runs.storage import RunWriter; RunWriter.resume({str(path)!r}, {HEADER!r})"
        other = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        assert other.returncode != 0 and "another process" in other.stderr
        writer.append(**block(1))
        writer.finish({})
    check(path, 2)
    with pytest.raises(DmmcError, match="closed"):
        writer.append(**block(2))


def test_blocks_that_do_not_fit_are_refused(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", HEADER) as writer:
        with pytest.raises(DmmcError, match="no draws yet"):
            writer.finish({})
        with pytest.raises(DmmcError, match="same"):
            writer.append({"M": np.zeros((2, 3)), "M2": np.zeros((2, 4))}, {}, None, {})
        with pytest.raises(DmmcError, match="same"):
            writer.append({"M": np.zeros(3)}, {}, None, {})
        good = block(0)
        for index in (None, good["cfg_index"][:1], good["cfg_index"] + [0, 1]):
            with pytest.raises(DmmcError, match="cfg_index"):
                writer.append(**{**good, "cfg_index": index})
        writer.append(**good)
        with pytest.raises(DmmcError, match="fit"):
            writer.append(**block(1, chains=4))
        with pytest.raises(DmmcError, match="fit"):
            writer.append(**{**good, "block": {"M": good["block"]["M"]}})
        with pytest.raises(DmmcError, match="JSON"):
            writer.finish({"array": np.zeros(3)})
        writer.finish({})
    check(tmp_path / "run.h5", 1)
    with pytest.raises(DmmcError, match="JSON"):
        RunWriter.create(tmp_path / "other.h5", {"array": np.zeros(3)})


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


def test_truncated_files(tmp_path):
    path = write(tmp_path / "run.h5", 2)
    content = path.read_bytes()
    for length in np.linspace(8, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"truncated|damaged"):
            load_run(path)
        with pytest.raises(FileError, match=r"truncated|damaged"):
            load_fields(path)


def test_any_flipped_bit_of_the_data_is_detected(tmp_path):
    path = write(tmp_path / "run.h5", 2)
    content = path.read_bytes()
    expected = {name: load_run(path).observables[name] for name in ("M", "two_point")}
    for name, load in (("M", load_run), ("two_point", load_run), ("cfgs", load_fields)):
        data = (expected[name] if name in expected else load_fields(path)).tobytes()
        start = content.index(data)  # one chunk, stored as it is
        for offset in np.random.default_rng(1).integers(0, len(data), 8):
            damaged = bytearray(content)
            damaged[start + offset] ^= 1 << (offset % 8)
            (tmp_path / "damaged.h5").write_bytes(damaged)
            with pytest.raises(FileError, match="damaged"):
                load(tmp_path / "damaged.h5")


def test_a_flipped_bit_anywhere_gives_the_same_data_or_an_error(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    content = path.read_bytes()
    detected = 0
    for position in np.random.default_rng(2).integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            check(path, 1)  # flips in unused space are harmless; anything else would fail here
            assert load_run(path).header == HEADER
        except FileError:
            detected += 1
    assert detected > 0


def test_the_sha256_finds_consistent_changes(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    with h5py.File(path, "a") as file:  # HDF5 renews its own checksums
        file["observables/M"][0, 0] += 1
        file["cfgs"][0] += 1
    with pytest.raises(FileError, match="SHA-256"):
        load_run(path)
    with pytest.raises(FileError, match="SHA-256"):
        load_fields(path)


def test_damaged_journals(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        for number in range(3):
            writer.append(**block(number))
    middle = journal(path) / "block_000001.h5"
    content = middle.read_bytes()
    middle.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="block_000001"):
        RunWriter.resume(path, HEADER)
    middle.unlink()
    with pytest.raises(FileError, match="lacks blocks"):
        RunWriter.resume(path, HEADER)
    middle.write_bytes(content)
    manifest = journal(path) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:20])
    with pytest.raises(FileError, match="manifest"):
        RunWriter.resume(path, HEADER)
    manifest.write_text(text)
    with RunWriter.resume(path, HEADER) as writer:
        writer.finish({})
    check(path, 3)


def test_a_journal_next_to_another_run_is_refused(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    other = write(tmp_path / "other.h5", 1)
    with RunWriter.resume(path, HEADER) as writer:
        writer.append(**block(1))
    os.replace(other, path)
    with pytest.raises(FileError, match="another run"):
        RunWriter.resume(path, HEADER)
    path.unlink()
    with pytest.raises(FileError, match="gone"):
        RunWriter.resume(path, HEADER)


def test_fields_from_elsewhere(tmp_path):
    fields = np.random.default_rng(3).normal(size=(6, 4, 2))
    np.save(tmp_path / "fields.npy", fields.astype(np.float32))
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file["cfgs"] = fields
    np.testing.assert_array_equal(load_fields(tmp_path / "fields.h5", (4, 2)), fields)
    loaded = load_fields(tmp_path / "fields.npy")
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, fields.astype(np.float32))
    with pytest.raises(MismatchError, match=r"\(4, 2\), not \(2, 4\)"):
        load_fields(tmp_path / "fields.npy", (2, 4))


@pytest.mark.parametrize(
    "bad, match",
    [
        (np.zeros((3, 4), dtype=complex), "real"),
        (np.array([["a", "b"]]), "real"),
        (np.zeros(3), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.zeros((1,) * 6), "shape"),
        (np.array([[1.0, np.nan]]), "NaN"),
        (np.array([[1.0, None]], dtype=object), "readable"),
    ],
)
def test_bad_fields_are_refused(tmp_path, bad, match):
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(FileError, match=match):
        load_fields(tmp_path / "bad.npy")


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_storage import HEADER, RunWriter, block
writer = (RunWriter.resume if {resume} else RunWriter.create)({path!r}, HEADER)
print("ready", flush=True)
while writer.n_blocks < 100_000:
    writer.append(**block(writer.n_blocks))
"""


def test_kill_at_random_moments(tmp_path):
    """Several times: append in a subprocess, kill -9 it at a random moment, resume; nothing committed is lost."""
    path, rng, committed = tmp_path / "run.h5", np.random.default_rng(4), 0
    for attempt in range(5):
        code = WRITER.format(tests=str(Path(__file__).parents[1]), resume=attempt > 0, path=str(path))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.01, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with RunWriter.resume(path, HEADER) as writer:
            assert writer.n_blocks >= committed
            committed = writer.n_blocks
    with RunWriter.resume(path, HEADER) as writer:
        writer.append(**block(writer.n_blocks))
        writer.finish({})
    assert committed > 0
    check(path, committed + 1)


def test_kill_during_finish(tmp_path):
    """A kill while the file is assembled leaves either the journal or the file, complete."""
    path = tmp_path / "run.h5"
    code = """
import os, signal, dmmc.runs.storage as storage
from dmmc.runs.storage import RunWriter
writer = RunWriter.resume({path!r}, {header!r})
real, calls = os.{function}, 0
def deadly(*arguments):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
os.{function} = deadly
writer.finish({{}})
"""
    for n_blocks, (function, at) in enumerate(
        [("fsync", 1), ("replace", 1), ("fsync", 2), ("unlink", 1), ("unlink", 2)]
    ):
        resume = n_blocks > 0
        with (RunWriter.resume if resume else RunWriter.create)(path, HEADER) as writer:
            assert writer.n_blocks == n_blocks
            writer.append(**block(n_blocks))
        source = code.format(path=str(path), header=HEADER, function=function, at=at)
        process = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    with RunWriter.resume(path, HEADER) as writer:
        writer.append(**block(writer.n_blocks))
        writer.finish({})
    check(path, 6)


def test_the_manifest_can_be_read_by_people(tmp_path):
    RunWriter.create(tmp_path / "run.h5", HEADER).close()
    assert json.loads((journal(tmp_path / "run.h5") / "manifest.json").read_text())["header"] == HEADER

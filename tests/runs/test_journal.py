"""Runs being written: resumption, extension, damage of the journal, and kills at random moments."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.runs.hdf5 import METADATA_BYTES
from dmmc.runs.header import RunRecord
from dmmc.runs.journal import RunWriter
from dmmc.runs.manifest import Manifest
from dmmc.runs.run import begun_header, load_run
from stored_runs import CHAINS, DRAWS, HEADER, LATTICE, RECORD, block, check, journal, write

TESTS = Path(__file__).parents[1]


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
        writer.finish(RECORD)
    check(path, 3)


def test_a_finished_run_is_extended(tmp_path):
    path = write(tmp_path / "run.h5", 2)
    longer = replace(HEADER, n_draws=200)
    with RunWriter.resume(path, longer) as writer:
        assert writer.n_blocks == 2
        np.testing.assert_array_equal(writer.last_state()["phi"], block(1)["state"]["phi"])
        writer.append(**block(2))
        check(path, 2)  # the finished file stays as it is meanwhile
    with RunWriter.resume(path, longer) as writer:  # interrupted, and again
        assert writer.n_blocks == 3
        np.testing.assert_array_equal(writer.last_state()["phi"], block(2)["state"]["phi"])
        writer.append(**block(3))
        writer.finish(RECORD)
    check(path, 4)
    assert load_run(path).header == longer and not journal(path).exists()


def test_killed_between_assembly_and_removal_of_the_journal(tmp_path, monkeypatch):
    path = write(tmp_path / "run.h5", 2)
    writer = RunWriter.resume(path, HEADER)
    writer.append(**block(2))
    monkeypatch.setattr("dmmc.runs.journal._remove", lambda journal: None)
    writer.finish(RECORD)
    monkeypatch.undo()
    check(path, 3)
    assert journal(path).exists()
    with RunWriter.resume(path, HEADER) as writer:
        assert writer.n_blocks == 3  # not 4: block 2 is in the file already
        writer.append(**block(3))
        writer.finish(RECORD)
    check(path, 4)


def test_create_refuses_what_is_there(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
    with pytest.raises(FileError, match="--resume"):
        RunWriter.create(path, HEADER)
    with RunWriter.resume(path, HEADER) as writer:
        writer.finish(RECORD)
    with pytest.raises(FileError, match="--out"):
        RunWriter.create(path, HEADER)
    check(path, 1)
    with RunWriter.create(path, HEADER, overwrite=True) as writer:
        for number in range(2):
            writer.append(**block(number))
    with RunWriter.create(path, HEADER, overwrite=True) as writer:
        assert writer.n_blocks == 0
        writer.append(**block(0))
        writer.finish(RECORD)
    check(path, 1)


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "run.h5"
    with pytest.raises(FileError, match="nothing to resume"):
        RunWriter.resume(path, HEADER)
    RunWriter.create(path, HEADER).close()
    for header, match in (
        (replace(HEADER, seed=8), "seed is 7 there and 8 here"),
        (replace(HEADER, lattice=(8, 2)), r"lattice is \[4, 2\] there and \[8, 2\] here"),
        (replace(HEADER, kernel={"name": "hmc"}, provenance={}), "kernel is .*; provenance is"),
        (replace(HEADER, observables=("wall",)), "observables is .* there"),
    ):
        with pytest.raises(MismatchError, match=match):
            RunWriter.resume(path, header)
    with RunWriter.resume(path, replace(HEADER, n_draws=10)) as writer:
        writer.append(**block(0))
        writer.finish(RECORD)
    with pytest.raises(MismatchError, match="seed"):
        RunWriter.resume(path, replace(HEADER, seed=8))
    assert not journal(path).exists()  # a refusal leaves nothing behind


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_file_modes_follow_the_umask(tmp_path, umask, mode):
    path = tmp_path / "run.h5"
    before = os.umask(umask)
    try:
        with RunWriter.create(path, HEADER) as writer:
            writer.append(**block(0))
            modes = {file.stat().st_mode & 0o777 for file in journal(path).iterdir()}
            writer.finish(RECORD)
    finally:
        os.umask(before)
    assert modes == {mode} and path.stat().st_mode & 0o777 == mode


def test_a_full_disk_loses_the_block_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
        with monkeypatch.context() as patched:
            patched.setattr("dmmc.core.files.sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(OSError, match=r"No space left: .*block_000001.h5"):
                writer.append(**block(1))
        assert writer.n_blocks == 1
    with RunWriter.resume(path, HEADER) as writer:
        assert writer.n_blocks == 1 and not list(journal(path).glob("*.tmp"))
        writer.append(**block(1))
        writer.finish(RECORD)
    check(path, 2)


def test_what_was_discarded_is_part_of_the_run(tmp_path):
    path = write(tmp_path / "run.h5", 1)
    with pytest.raises(MismatchError, match="discard is 0 there and 2 here"):
        RunWriter.resume(path, replace(HEADER, discard=2))
    check(path, 1)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stored_runs import HEADER, RunWriter, block
writer = (RunWriter.resume if {resume} else RunWriter.create)({path!r}, HEADER)
print("ready", flush=True)
while writer.n_blocks < 100_000:
    writer.append(**block(writer.n_blocks))
"""


def test_two_writers(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, HEADER) as writer:
        writer.append(**block(0))
        for attempt in (RunWriter.resume, RunWriter.create):
            with pytest.raises(FileError, match="another process"):
                attempt(path, HEADER)
        code = WRITER.format(tests=str(TESTS), resume=True, path=str(path))
        other = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        assert other.returncode != 0 and "another process" in other.stderr
        writer.append(**block(1))
        writer.finish(RECORD)
    check(path, 2)
    with pytest.raises(DmmcError, match="closed"):
        writer.append(**block(2))


def test_blocks_that_do_not_fit_are_refused(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", HEADER) as writer:
        with pytest.raises(DmmcError, match="no draws yet"):
            writer.finish(RECORD)
        with pytest.raises(DmmcError, match="same"):
            writer.append({"M": np.zeros((2, 3)), "M2": np.zeros((2, 4))}, {}, None, {})
        with pytest.raises(DmmcError, match="same"):
            writer.append({"M": np.zeros(3)}, {}, None, {})
        for name in ("a/b", "", "."):
            with pytest.raises(DmmcError, match="cannot be the name"):
                writer.append({name: np.zeros((CHAINS, DRAWS))}, {}, None, {})
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
            writer.finish(RunRecord({"chain": np.zeros(3)}))
        writer.finish(RECORD)
    check(tmp_path / "run.h5", 1)
    with pytest.raises(DmmcError, match="JSON"):
        RunWriter.create(tmp_path / "other.h5", replace(HEADER, provenance={"array": np.zeros(3)}))


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
        writer.finish(RECORD)
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


def test_kill_at_random_moments(tmp_path):
    """Several times: append in a subprocess, kill -9 it at a random moment, resume; nothing committed is lost."""
    path, rng, committed = tmp_path / "run.h5", np.random.default_rng(4), 0
    for attempt in range(5):
        code = WRITER.format(tests=str(TESTS), resume=attempt > 0, path=str(path))
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
        writer.finish(RECORD)
    assert committed > 0
    check(path, committed + 1)


def test_kill_during_finish(tmp_path):
    """A kill while the file is assembled leaves either the journal or the file, complete."""
    path = tmp_path / "run.h5"
    code = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from stored_runs import HEADER, RECORD, RunWriter
writer = RunWriter.resume({path!r}, HEADER)
real, calls = os.{function}, 0
def deadly(*arguments):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
os.{function} = deadly
writer.finish(RECORD)
"""
    for n_blocks, (function, at) in enumerate(
        [("fsync", 1), ("replace", 1), ("fsync", 2), ("unlink", 1), ("unlink", 2)]
    ):
        resume = n_blocks > 0
        with (RunWriter.resume if resume else RunWriter.create)(path, HEADER) as writer:
            assert writer.n_blocks == n_blocks
            writer.append(**block(n_blocks))
        source = code.format(tests=str(TESTS), path=str(path), function=function, at=at)
        process = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    with RunWriter.resume(path, HEADER) as writer:
        writer.append(**block(writer.n_blocks))
        writer.finish(RECORD)
    check(path, 6)


def test_the_manifest_can_be_read_by_people(tmp_path):
    RunWriter.create(tmp_path / "run.h5", HEADER).close()
    manifest = json.loads((journal(tmp_path / "run.h5") / "manifest.json").read_text())
    assert manifest["header"] == HEADER.to_json() and manifest["format_version"] == 2
    assert begun_header(tmp_path / "run.h5") == HEADER


@contextmanager
def largest_file(size):
    """No file may become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_really_full_does_no_harm(tmp_path):
    # HDF5 crashes the process when it cannot write what it still holds while a file is closed.
    path, big = tmp_path / "run.h5", block(0) | {"cfgs": np.ones((3, *LATTICE))}
    big["block"] = {
        name: np.repeat(array, 200, axis=2) if array.ndim > 2 else array for name, array in big["block"].items()
    }
    with RunWriter.create(path, HEADER) as writer:
        with largest_file(10_000), pytest.raises(OSError, match=r"File too large: .*block_000000.h5"):
            writer.append(**big)
        writer.append(**big)
        writer.append(**big)
        with largest_file(300_000), pytest.raises(OSError, match=r"File too large: .*run.h5"):
            writer.finish(RECORD)
        assert not path.exists()
    with RunWriter.resume(path, HEADER) as writer:
        assert writer.n_blocks == 2
        writer.finish(RECORD)
    assert load_run(path).n_draws == 2 * DRAWS


def test_space_for_a_finished_run_is_enough(tmp_path, monkeypatch):
    # What is set aside is as much as the file takes, for arrays of all sizes, and not much more.
    seen = []
    real = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, start, size: (seen.append(size), real(fd, start, size)))
    for rows in (1, 300, 2500):
        path, shape = tmp_path / f"{rows}.h5", (3, 7, rows)
        with RunWriter.create(path, HEADER) as writer:
            writer.append({"M": np.ones(shape)}, {"a": np.ones(shape)}, np.ones((rows, 31, 17)), {"phi": np.ones(rows)},
                          np.zeros((rows, 2), dtype=np.int64))  # fmt: skip
            writer.finish(RECORD)
        assert path.stat().st_size < seen[-1] < 1.3 * path.stat().st_size + METADATA_BYTES
    assert len(seen) == 3


def test_a_run_behind_a_symbolic_link(tmp_path):
    target, link = tmp_path / "disk" / "target.h5", tmp_path / "run.h5"
    target.parent.mkdir()
    link.symlink_to(target)
    with RunWriter.create(link, HEADER) as writer:
        writer.append(**block(0))
        assert journal(target).is_dir()
        writer.finish(RECORD)
    check(link, 1)
    with RunWriter.create(link, HEADER, overwrite=True) as writer:
        writer.append(**block(0))
        writer.finish(RECORD)
    assert link.is_symlink() and not target.is_symlink()
    check(target, 1)


def test_only_files_are_overwritten(tmp_path):
    os.mkfifo(tmp_path / "run.h5")
    for overwrite in (True, False):
        with pytest.raises(FileError, match="not a regular file"):
            RunWriter.create(tmp_path / "run.h5", HEADER, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; restore it, or remove .*partial to start afresh"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "is not the manifest of a dmmc run"),
        ('{"format": "other"}', "is not the manifest of a dmmc run"),
        ('{"format": "dmmc-run"}', "is damaged; .*format_version"),
        ('{"format": "dmmc-run", "format_version": "new"}', "format version is 'new'"),
        ('{"format": "dmmc-run", "format_version": 99}', "update dmmc"),
        ('{"format": "dmmc-run", "format_version": 2, "run_id": 1, "header": []}', "is damaged; .*sha256"),
    ],
)
def test_manifests_that_are_none_are_refused(tmp_path, content, message):
    RunWriter.create(tmp_path / "run.h5", HEADER).close()
    manifest = journal(tmp_path / "run.h5") / "manifest.json"
    manifest.write_text(content)
    with pytest.raises(FileError, match=message):
        Manifest.read(manifest)
    with pytest.raises(FileError, match=message):
        RunWriter.resume(tmp_path / "run.h5", HEADER)
    assert manifest.read_text() == content


def test_no_character_of_a_manifest_can_be_changed(tmp_path):
    RunWriter.create(tmp_path / "run.h5", HEADER).close()
    manifest = journal(tmp_path / "run.h5") / "manifest.json"
    text = manifest.read_text()
    for position, character in enumerate(text):
        other = "7" if character.isdigit() and character != "7" else "2" if character == "7" else "x"
        if other != character:
            manifest.write_text(text[:position] + other + text[position + 1 :])
            with pytest.raises(FileError):
                Manifest.read(manifest)

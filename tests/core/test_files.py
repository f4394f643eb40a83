"""Files appear complete or not at all."""

import os
import stat

import pytest

from dmmc.core import files
from dmmc.core.errors import FileError
from dmmc.core.files import check_place, locked, replace_file, sync, take_lock


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    path, seen = tmp_path / "run.txt", []

    def write(temporary):
        temporary.write_text("half")
        seen.append((temporary.parent, path.exists()))
        temporary.write_text("whole")

    replace_file(path, write)
    assert path.read_text() == "whole"
    # It was written in the same folder, hence on the same file system, while the final name did not exist.
    assert seen == [(tmp_path, False)]
    assert list(tmp_path.iterdir()) == [path]


def test_an_earlier_file_is_replaced(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("old")
    reader = path.open()
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    # Who had opened the earlier file still reads it: it was replaced, not written over.
    assert reader.read() == "old"
    reader.close()


@pytest.mark.parametrize("began", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, began):
    path = tmp_path / "run.txt"
    path.write_text("old")

    def write(temporary):
        if began:
            temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_to_flush_leaves_what_was_there(tmp_path, monkeypatch):
    # A full disk may only be noticed then.
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "run.txt", lambda temporary: temporary.write_text("new"))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    path, calls = tmp_path / "run.txt", []
    monkeypatch.setattr(files, "sync", lambda file: calls.append((file.read_text(), path.exists())))
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert calls == [("new", False)]


def test_file_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "run.txt", lambda temporary: temporary.write_text("new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.txt").stat().st_mode) == 0o640


def test_files_and_folders_can_be_flushed(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("new")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    sync(path)
    sync(tmp_path)
    if before is not None:  # no descriptor is left open
        assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")


def test_places_are_refused_before_anything_is_written_there(tmp_path, monkeypatch):
    check_place(tmp_path / "file")
    check_place(tmp_path / "new" / "folders" / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="not a directory that can be written to"):
        check_place(tmp_path / "file" / "new")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(FileError, match="not a directory that can be written to"):
        check_place(tmp_path / "new")


def test_a_lock_has_one_owner_and_leaves_nothing_behind(tmp_path):
    lock = tmp_path / "model.lock"
    lock.write_text("")  # of a process that was killed
    with locked(lock, "the model"):
        for _ in range(2):
            with pytest.raises(FileError, match="the model is being written by another process"):
                take_lock(lock, "the model")
    assert not lock.exists()
    with pytest.raises(KeyboardInterrupt), locked(lock, "the model"):
        raise KeyboardInterrupt
    assert not lock.exists()


def test_a_lock_file_that_its_owner_removes_meanwhile_is_no_lock(tmp_path, monkeypatch):
    lock, flock = tmp_path / "model.lock", files.fcntl.flock

    def removed(descriptor, how):
        flock(descriptor, how)
        lock.unlink()

    monkeypatch.setattr(files.fcntl, "flock", removed)
    with pytest.raises(FileError, match="another process"):
        take_lock(lock, "the model")

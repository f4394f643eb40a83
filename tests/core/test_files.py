"""Files appear complete or not at all."""

import os
import stat

import pytest

from dmmc.core import files
from dmmc.core.files import replace_file, sync


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

    def spy(flushed):
        calls.append((flushed.read_text() if flushed.is_file() else flushed, path.exists()))

    monkeypatch.setattr(files, "sync", spy)
    replace_file(path, lambda temporary: temporary.write_text("new"))
    # And afterwards the folder, so that the name is on the disk as well.
    assert calls == [("new", False), (tmp_path, True)]


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

"""Files appear complete or not at all."""

import os
import stat

import pytest

from dmmc.core import files
from dmmc.core.errors import FileError
from dmmc.core.files import check_place, replace_file, sync


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


def test_the_temporary_file_may_lie_elsewhere(tmp_path):
    folder, seen = tmp_path / "folder", []
    folder.mkdir()
    replace_file(tmp_path / "run.txt", lambda temporary: seen.append(temporary.parent), folder)
    assert seen == [folder] and list(folder.iterdir()) == []


def test_the_target_of_a_link_is_replaced(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "folder" / "link.txt"
    link.parent.mkdir()
    link.symlink_to("../target.txt")
    for text in ("new", "newer"):  # the first time there is no target yet
        replace_file(link, lambda temporary, text=text: temporary.write_text(text))
        assert link.is_symlink() and target.read_text() == text and not target.is_symlink()


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/null")
    for name, match in (
        ("pipe", "pipe is not a regular file"),
        ("device", "device is not a regular file"),
        ("loop", "loop cannot be reached"),
        (".", "is a directory"),
    ):
        with pytest.raises(FileError, match=match):
            replace_file(tmp_path / name, lambda temporary: temporary.write_text("new"))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("precious"), os.mkdir])
def test_nothing_is_written_through_a_temporary_name(make, tmp_path):
    (tmp_path / "precious").write_text("old")
    make(tmp_path / ".run.txt.tmp")
    with pytest.raises(FileError, match="in the way"):
        replace_file(tmp_path / "run.txt", lambda temporary: temporary.write_text("new"))
    assert (tmp_path / "precious").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_what_an_interruption_left_is_written_over(tmp_path):
    (tmp_path / ".run.txt.tmp").write_text("half of an earlier one")
    replace_file(tmp_path / "run.txt", lambda temporary: temporary.write_text("new"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_a_full_disk_names_the_file(tmp_path):
    def full(temporary):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*run.txt'"):
        replace_file(tmp_path / "run.txt", full)


def test_places_are_refused_before_anything_is_written_there(tmp_path, monkeypatch):
    check_place(tmp_path / "file")
    check_place(tmp_path / "new" / "folders" / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="not a directory that can be written to"):
        check_place(tmp_path / "file" / "new")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(FileError, match="not a directory that can be written to"):
        check_place(tmp_path / "new")

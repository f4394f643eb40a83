"""Locks: one owner, and nothing left behind."""

import pytest

from dmmc.core import locks
from dmmc.core.errors import FileError
from dmmc.core.locks import locked, take_lock


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
    lock, flock = tmp_path / "model.lock", locks.fcntl.flock

    def removed(descriptor, how):
        flock(descriptor, how)
        lock.unlink()

    monkeypatch.setattr(locks.fcntl, "flock", removed)
    with pytest.raises(FileError, match="another process"):
        take_lock(lock, "the model")

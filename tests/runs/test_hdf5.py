"""Damage of run files: truncated files, flipped bits, and changes that HDF5 does not notice."""

import h5py
import numpy as np
import pytest

from dmmc.core.errors import FileError
from dmmc.runs.fields import load_fields
from dmmc.runs.run import load_run
from stored_runs import HEADER, check, write


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

"""Configurations from files of other codes."""

import h5py
import numpy as np
import pytest

from dmmc.core.errors import FileError, MismatchError
from dmmc.runs.fields import load_fields


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


def test_no_memory_is_taken_for_numbers_that_a_file_does_not_hold(tmp_path):
    path = tmp_path / "fields.npy"
    np.save(path, np.ones((3, 4, 2)))
    path.write_bytes(path.read_bytes().replace(b"(3, 4, 2)", b"(3333333333333, 4, 2)").replace(b"            ", b"", 1))
    with pytest.raises(FileError, match=r"not a readable \.npy file"):
        load_fields(path)

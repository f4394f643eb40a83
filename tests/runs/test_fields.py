"""Configurations from files of other codes."""

import struct

import h5py
import numpy as np
import pytest

from dmmc.core.errors import FileError
from dmmc.runs.fields import load_fields


def test_fields_from_elsewhere(tmp_path):
    fields = np.random.default_rng(3).normal(size=(6, 4, 2))
    np.save(tmp_path / "fields.npy", fields.astype(np.float32))
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file["cfgs"] = fields
    np.testing.assert_array_equal(load_fields(tmp_path / "fields.h5"), fields)
    loaded = load_fields(tmp_path / "fields.npy")
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, fields.astype(np.float32))


def test_fields_after_a_block_of_another_program(tmp_path):
    """Such as MATLAB puts at the head of its HDF5 files."""
    with h5py.File(tmp_path / "fields.mat", "w", userblock_size=512) as file:
        file["cfgs"] = np.ones((3, 4))
    np.testing.assert_array_equal(load_fields(tmp_path / "fields.mat"), np.ones((3, 4)))


@pytest.mark.parametrize(
    "bad, match",
    [
        (np.zeros((3, 4), dtype=complex), "real"),
        (np.array([["a", "b"]]), "real"),
        (np.zeros(3), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.zeros((1,) * 7), "shape"),
        (np.array([[1.0, np.nan]]), "NaN"),
        (np.array([[1.0, None]], dtype=object), "readable"),
        (np.full((3, 4), np.longdouble("1e400")), "NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_fields_are_refused(tmp_path, bad, match):
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(FileError, match=match):
        load_fields(tmp_path / "bad.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999, 8), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 8), }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (2, 8), }",
        "{'descr': '<f8', 'fortr",
        "(" * 9000,
        "\0" * 30,
    ],
)
def test_absurd_and_malformed_headers_are_refused_in_one_line(tmp_path, header):
    path = tmp_path / "fields.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64))
    with pytest.raises(FileError, match=r"is not a readable \.npy file of numbers") as refused:
        load_fields(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def archive(path):
    np.savez(path.with_suffix(".npz"), phi=np.ones((3, 4)))
    path.with_suffix(".npz").rename(path)


def hdf5(**contents):
    def write(path):
        with h5py.File(path, "w") as file:
            for name, content in contents.items():
                file[name] = content

    return write


def never_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("cfgs", shape=(10**13, 8, 8), dtype="f8", chunks=(1, 8, 8))


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (archive, "is an archive such as .npz; save its fields alone"),
        (hdf5(**{f"conf_{k}": 1.0 for k in range(20)}), "no dataset /cfgs.*conf_0, .*and 12 more"),
        (hdf5(**{"cfgs/a": np.ones(3)}), "no dataset /cfgs"),
        (hdf5(cfgs=["a", "b"]), r"must be real numbers \(N, \*lattice\), got object \(2,\)"),
        (hdf5(cfgs=h5py.Empty("f8")), "must be real numbers .* got float64 None"),
        (hdf5(cfgs=1.0), r"must have shape .* got \(\)"),
        (hdf5(cfgs=h5py.SoftLink("/nowhere")), "is a link, and is not followed"),
        (never_written, "claims 5120000000000000 bytes, which the file does not hold"),
    ],
)
def test_files_of_other_programs_are_refused_in_one_line(tmp_path, write, match):
    write(tmp_path / "fields")
    with pytest.raises(FileError, match=match) as refused:
        load_fields(tmp_path / "fields")
    assert "\n" not in str(refused.value)


def test_no_memory_is_taken_for_numbers_that_a_file_does_not_hold(tmp_path):
    path = tmp_path / "fields.npy"
    np.save(path, np.ones((3, 4, 2)))
    path.write_bytes(path.read_bytes().replace(b"(3, 4, 2)", b"(3333333333333, 4, 2)").replace(b"            ", b"", 1))
    with pytest.raises(FileError, match=r"not a readable \.npy file"):
        load_fields(path)

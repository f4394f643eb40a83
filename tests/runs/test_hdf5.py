"""Damage of run files: truncated files, flipped bits, and changes that HDF5 does not notice."""

import os

import h5py
import numpy as np
import pytest

from dmmc.core.errors import FileError
from dmmc.runs import hdf5
from dmmc.runs.fields import load_fields
from dmmc.runs.run import load_run, stored_header
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


def stranger(path, change):
    """A file with ``/cfgs`` that ``change`` has made, and a run in which ``change`` has replaced ``observables/M``."""
    with h5py.File(path.with_name("fields.h5"), "w") as file:
        change(file, "cfgs")
    with h5py.File(write(path, 1), "a") as file:
        del file["observables/M"]
        change(file["observables"], "M")
    return path.with_name("fields.h5"), path


def external_link(secret):
    return lambda group, name: group.__setitem__(name, h5py.ExternalLink(secret, "cfgs"))


def soft_link(secret):
    return lambda group, name: group.__setitem__(name, h5py.SoftLink("/sample_stats/accepted"))


def raw_file(secret):
    return lambda group, name: group.create_dataset(name, (3, 5), "f8", external=[(secret, 0, 120)])


def virtual_dataset(secret):
    layout = h5py.VirtualLayout((3, 5), "f8")
    layout[:] = h5py.VirtualSource(secret, "cfgs", (3, 5))
    return lambda group, name: group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("make", [external_link, soft_link, raw_file, virtual_dataset])
def test_nothing_is_read_from_other_files(make, tmp_path):
    secret = str(tmp_path / "secret.h5")
    with h5py.File(secret, "w") as file:
        file["cfgs"] = np.ones((3, 5))
    fields, run = stranger(tmp_path / "run.h5", make(secret))
    for load, path in ((load_fields, fields), (load_run, run)):
        with pytest.raises(FileError, match=r"lies in another file|is a link"):
            load(path)


def unwritten(group, name):
    group.create_dataset(name, (1 << 40, 1 << 10), "f8")


def unwritten_chunks(group, name):
    group.create_dataset(name, (1 << 40, 1 << 10), "f8", chunks=(1, 1 << 10), fletcher32=True)


def little_of_much(group, name):
    group.create_dataset(name, (1 << 40, 8), "f8", chunks=(1, 8), compression="gzip")[0] = 1


@pytest.mark.parametrize("change", [unwritten, unwritten_chunks, little_of_much])
def test_no_memory_is_taken_for_what_is_not_there(change, tmp_path):
    fields, run = stranger(tmp_path / "run.h5", change)
    for load, path in ((load_fields, fields), (load_run, run)):
        with pytest.raises(FileError, match=r"claims \d+ bytes, which the file does not hold"):
            load(path)


def test_compressed_fields_of_other_programs_are_read(tmp_path):
    phi = np.random.default_rng(1).normal(size=(20, 8, 8))
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file.create_dataset("cfgs", data=phi, compression="gzip", shuffle=True, chunks=(4, 8, 8))
    np.testing.assert_array_equal(load_fields(tmp_path / "fields.h5"), phi)


@pytest.mark.parametrize("name", ["observables/M", "sample_stats/accepted", "state/phi", "cfgs", "cfg_index"])
def test_a_checksum_that_is_missing_is_noticed(name, tmp_path):
    path = write(tmp_path / "run.h5", 1)
    with h5py.File(path, "a") as file:
        del file[name].attrs["sha256"]
    with pytest.raises(FileError, match=rf"{name} has lost its SHA-256"):
        load_fields(path) if name == "cfgs" else load_run(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["observables"].create_dataset("text", data="words"), "must be numbers"),
        (lambda file: file["observables"].create_group("group"), "no dataset group"),
        (lambda file: file.move("observables", "others"), "no group observables"),
        (lambda file: file.attrs.__delitem__("n_blocks"), "damaged or incomplete"),
        (lambda file: file.attrs.__setitem__("n_blocks", "many"), "damaged or incomplete"),
        (lambda file: file.attrs.__setitem__("format_version", "new"), "format version is 'new'"),
        (lambda file: file.attrs.__setitem__("header", np.bytes_(b"{")), "header of .* is damaged"),
        (lambda file: file.attrs.__setitem__("header", "text of any length"), "header of .* is damaged"),
        (lambda file: file.attrs.__delitem__("header"), "header of .* is damaged"),
        (lambda file: file.attrs.__setitem__("record", np.bytes_(b"[]")), "damaged or incomplete"),
    ],
)
def test_files_that_are_not_as_they_should_be(change, message, tmp_path):
    path = write(tmp_path / "run.h5", 1)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(FileError, match=message):
        load_run(path)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "run.h5", 1)

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", forbidden)
    for load in (load_run, load_fields, stored_header):
        with pytest.raises(FileError, match="cannot be read: Permission denied"):
            load(path)
    monkeypatch.undo()
    os.mkfifo(tmp_path / "pipe")
    for load in (load_run, load_fields):
        with pytest.raises(FileError, match="not a regular file"):
            load(tmp_path / "pipe")


def test_an_array_without_axes_or_rows(tmp_path):
    content = hdf5.image(
        lambda file: [hdf5.write_array(file, str(k), x) for k, x in enumerate((np.array(3.0), np.ones((0, 2))))]
    )
    (tmp_path / "some.h5").write_bytes(content)
    value, rows = hdf5.verified(tmp_path / "some.h5", lambda file: [hdf5.read_array(file[k]) for k in "01"])
    assert value == 3 and rows.shape == (0, 2)

"""Configurations for other codes: in any order of axes, and back again."""

import json

import h5py
import numpy as np
import pytest

import dmmc
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.studies import exporting
from dmmc.studies.exporting import export_fields
from dmmc.theory.phi4 import Phi4
from helpers import hmc_ensemble

ACTION, SHAPE, CHAINS, DRAWS = Phi4(0.22, 0.05), (4, 6), 8, 25


@pytest.fixture(scope="module")
def fields():
    return hmc_ensemble(ACTION, SHAPE, n=200).numpy().reshape(CHAINS, DRAWS, *SHAPE)


@pytest.fixture(scope="module")
def run(fields, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "run.h5"
    return dmmc.import_fields(fields, path, shape=SHAPE, action=ACTION, first=100, every=10)


def test_every_order_of_axes(run, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "PIECE_BYTES", 8 * 24 * 7)
    c, n, x, y = range(4)
    flat = fields.reshape(-1, *SHAPE)
    for axes, expected in {
        None: fields,
        "n x y": flat,
        "x y n": flat.transpose(1, 2, 0),
        "y x n c": fields.transpose(y, x, n, c),
    }.items():
        made = export_fields(run, tmp_path / "out.npy", axes=axes, overwrite=True)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
        assert made.shape == expected.shape and json.loads((tmp_path / "out.npy.json").read_text()) == made.to_json()
        export_fields(run.path, tmp_path / "out.raw", axes=axes, dtype=">f4", overwrite=True)
        assert (tmp_path / "out.raw").read_bytes() == expected.astype(">f4").tobytes()
    assert made.idl["r0001"] == (100, 340, 10) and str(made).endswith("axes y x n c, shape 6 x 4 x 25 x 8, type <f8")


def test_a_dataset_for_each_field(run, fields, tmp_path):
    made = export_fields(run.discarding(5), tmp_path / "out.h5", axes="y x", field="mass")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == [f"r{k:04d}" for k in range(1, 9)]
        assert sorted(map(int, file["r0003"])) == list(range(150, 350, 10))
        np.testing.assert_allclose(file["r0003/170"], np.sqrt(0.22) * fields[2, 7].T, rtol=1e-15)
        assert json.loads(file.attrs["fields"]) == made.to_json()
    assert made.field == pytest.approx(np.sqrt(0.22)) and made.idl["r0008"] == (150, 340, 10)


def test_what_is_exported_can_be_imported(run, tmp_path):
    export_fields(run, tmp_path / "out.raw", axes="y x n", dtype=">f8", field="textbook")
    back = dmmc.import_fields(
        tmp_path / "out.raw", tmp_path / "back.h5",
        shape=SHAPE, axes="y x n", dtype=">f8", chains=CHAINS, field="textbook", action=ACTION,
    )  # fmt: skip
    np.testing.assert_allclose(back.cfgs(), run.cfgs(), rtol=1e-15)
    np.testing.assert_allclose(back.observables["M2"], run.observables["M2"], rtol=1e-13)


def test_draws_that_were_kept_now_and_then_keep_their_numbers(tmp_path):
    run = dmmc.make_ensemble(
        ACTION, dmmc.Lattice((4,)), tmp_path / "hmc.h5", chains=2, draws=12, keep_every=3, thermalise=5
    )
    assert export_fields(run, tmp_path / "out.npy").idl == {"r0001": (3, 12, 3), "r0002": (3, 12, 3)}
    none = dmmc.make_ensemble(
        ACTION, dmmc.Lattice((4,)), tmp_path / "no.h5", chains=2, draws=4, keep_every=0, thermalise=5
    )
    with pytest.raises(FileError, match="kept no configurations"):
        export_fields(none, tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("out.npy", {"axes": "n x"}, "do not fit: name x, y, n, and c"),
        ("out.npy", {"axes": "x y"}, "do not fit"),
        ("out.npy", {"axes": "c x n y z"}, "do not fit"),
        ("out.h5", {"axes": "n x y"}, "alone, since each field is a dataset"),
        ("out.npy", {"dtype": "<i4"}, "is no type of real numbers"),
        ("out.npy", {"dtype": "double-ish"}, "is no type of real numbers"),
        ("out.npy", {"field": "lattice"}, "field is one of"),
        ("run.h5", {}, "exists; choose another --out"),
    ],
)  # fmt: skip
def test_what_is_refused(run, name, options, match):
    folder = run.path.parent
    before = sorted(folder.iterdir())
    with pytest.raises((DmmcError, MismatchError), match=match):
        export_fields(run, folder / name, **options)
    assert sorted(folder.iterdir()) == before

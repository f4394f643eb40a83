"""Configurations of other codes: whatever their layout they become the same run, and what is wrong is refused."""

import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import dmmc
from checks import PEAK_MEMORY, needs_proc
from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.runs import foreign
from dmmc.studies import importing
from dmmc.studies.given import read_ensemble
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.phi4 import Phi4
from helpers import hmc_ensemble

ACTION, SHAPE, CHAINS, DRAWS = Phi4(0.22, 0.05), (4, 6), 8, 25


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of short chains
        yield


@pytest.fixture(scope="module")
def fields():
    """``(chain, draw, *lattice)``."""
    return hmc_ensemble(ACTION, SHAPE, n=200).numpy().reshape(CHAINS, DRAWS, *SHAPE)


def imported(tmp_path, source, **options):
    options = {"action": ACTION} | options
    path = tmp_path / f"imported-{len(list(tmp_path.iterdir()))}.h5"
    return importing.import_fields(source, path, say=lambda text: None, **options)


def refused(tmp_path, source, match, **options):
    """The import fails with one message, and leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DmmcError, match=match) as caught:
        imported(tmp_path, source, **options)
    assert sorted(tmp_path.iterdir()) == before and "\n" not in str(caught.value)
    return str(caught.value)


def check(run, fields):
    assert (run.n_chains, run.n_draws, run.lattice) == (CHAINS, DRAWS, SHAPE)
    stored = np.empty_like(fields)
    stored[tuple(run.cfg_index.T)] = run.cfgs()
    np.testing.assert_array_equal(stored, fields)
    np.testing.assert_allclose(run.observables["M"], fields.mean((2, 3)), rtol=1e-14)


def layouts(folder, fields):
    """The same fields as other codes may have them: the source, and the options that it is read with."""
    c, n, x, y = range(4)
    flat = fields.reshape(-1, *SHAPE)
    np.save(folder / "n.npy", flat)
    np.save(folder / "last.npy", np.ascontiguousarray(flat.transpose(2, 1, 0)))
    np.save(folder / "fortran.npy", np.asfortranarray(flat))
    np.save(folder / "turns.npy", fields.transpose(n, c, x, y).reshape(-1, *SHAPE))
    np.savez(folder / "one.npz", fields=flat)
    np.savez(folder / "two.npz", M=flat.mean((1, 2)), phi=flat.transpose(2, 1, 0))
    np.savez_compressed(folder / "compressed.npz", phi=flat)
    fields.transpose(n, x, y, c).astype("<f8").tofile(folder / "little.raw")
    (folder / "big.raw").write_bytes(b"header" + flat.astype(">f8").tobytes())
    flat.transpose(1, 2, 0).astype(">f8").tofile(folder / "fortran.raw")
    with h5py.File(folder / "fields.h5", "w") as file:
        file.create_dataset("a/phi", data=flat, chunks=(7, 4, 6), compression="gzip")
        file["a/last"] = flat.transpose(2, 1, 0)
        file["turns"] = fields.transpose(n, c, x, y).reshape(-1, *SHAPE)
        file["plaquettes"] = flat.mean((1, 2))
    for k in range(CHAINS):
        np.save(folder / f"chain{k}.npy", fields[k])
    for k in range(CHAINS * DRAWS):
        flat[k].tofile(folder / f"cfg{k:03d}.raw")
    shaped = {"shape": SHAPE, "chains": CHAINS}
    return {
        "array": (flat, {"chains": CHAINS}),
        "tensor": (torch.as_tensor(fields), {"shape": SHAPE}),
        "npy": (folder / "n.npy", {"chains": CHAINS}),
        "npy, chains": (fields, {"axes": "c n x y"}),
        "npy, n last": (folder / "last.npy", {"axes": "y x n", **shaped}),
        "npy, Fortran order": (folder / "fortran.npy", {"axes": "n x y", **shaped}),
        "npy, chains take turns": (folder / "turns.npy", {"axes": "n c x y", **shaped}),
        "npz": (folder / "one.npz", shaped),
        "npz of several": (folder / "two.npz", {"name": "phi", "axes": "y,x,n", **shaped}),
        "npz, compressed": (folder / "compressed.npz", shaped),
        "raw": (folder / "little.raw", {"dtype": "<f8", "axes": "n x y c", **shaped}),
        "raw, big-endian": (folder / "big.raw", {"dtype": ">f8", "skip": 6, **shaped}),
        "raw, n last": (folder / "fortran.raw", {"dtype": ">f8", "axes": "x y n", **shaped}),
        "HDF5": (folder / "fields.h5", {"name": "a/phi", **shaped}),
        "HDF5, n last": (folder / "fields.h5", {"name": "/a/last", "axes": "y x n", **shaped}),
        "HDF5, chains take turns": (folder / "fields.h5", {"name": "turns", "axes": "n c x y", **shaped}),
        "a file for each chain": ([folder / f"chain{k}.npy" for k in range(CHAINS)], {}),
        "a file for each field": (
            [folder / f"cfg{k:03d}.raw" for k in range(CHAINS * DRAWS)],
            {"dtype": "<f8", "axes": "x y", **shaped},
        ),
    }


def test_every_layout_gives_the_same_run(fields, tmp_path, monkeypatch):
    """Also where a file is read in many pieces and windows."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for how, (source, options) in layouts(tmp_path / "in", fields).items():
        for piece, window in ((1 << 24, 1 << 25), (8 * CHAINS * 24 * 7, 24 * 8 * 3)):
            if piece < 1 << 24 and "each" in how:
                continue
            monkeypatch.setattr(importing, "PIECE_BYTES", piece)
            monkeypatch.setattr(foreign, "WINDOW_BYTES", window)
            try:
                check(imported(tmp_path / "out", source, **options), fields)
            except AssertionError as error:
                error.add_note(how)
                raise


def test_an_imported_run_is_a_run_like_any_other(fields, tmp_path):
    run = dmmc.import_fields(
        math.sqrt(0.22) * fields.reshape(-1, *SHAPE), tmp_path / "mine.h5",
        action=ACTION, chains=CHAINS, field="mass", label="mine", first=100, every=10,
        observables={"rows": lambda phi, S: phi.mean(2)},
    )  # fmt: skip
    np.testing.assert_allclose(run.cfgs()[0], fields[0, 0], rtol=1e-15)
    S = ACTION(torch.as_tensor(fields).flatten(0, 1)).view(CHAINS, DRAWS).numpy()
    np.testing.assert_allclose(run.observables["S_per_site"], S / 24, rtol=1e-12)
    assert run.header.facts.label == "mine" and run.header.facts.model_free and not run.header.facts.inexact
    summary = run.summary()
    assert {"M2", "binder", "S_per_site", "rows[0]", "rows[3]"} <= summary.observables.keys()
    assert summary.symmetry == "z2" and "fields fit the action: 200 configurations, <phi dS/dphi>/V =" in str(summary)
    assert run.configurations == range(100, 350, 10) and run.discarding(2).configurations == range(120, 350, 10)
    hmc = dmmc.make_ensemble(
        ACTION, dmmc.Lattice(SHAPE), tmp_path / "hmc.h5", chains=8, draws=25, keep_every=1, thermalise=20
    )
    written = dmmc.report(run, hmc, out=tmp_path / "page.html", reference="mine")
    assert written.reference == "mine" and set(written.runs) == {"mine", "HMC"}
    assert all(found.level != "bad" for found in written.verdicts["mine"])
    assert "autocorrelation" in written.figures and "fields fit the action" in (tmp_path / "page.html").read_text()
    given = read_ensemble(run)
    assert given.chains == CHAINS and given.action == ACTION and given.check().virial == pytest.approx(1, abs=0.2)
    with pytest.raises(DmmcError, match="exists"):
        dmmc.import_fields(fields, tmp_path / "mine.h5")


def test_imports_are_told_apart_by_what_they_hold(fields, tmp_path):
    """Files of one name, of two ensembles: they share no random numbers, and may stand on one page."""
    flat = fields.reshape(-1, *SHAPE)
    one, again, other = (imported(tmp_path, part).header.kernel for part in (flat[:100], flat[:100], flat[100:]))
    assert one == again != other and one["source"] == other["source"]


def test_configuration_numbers_reach_pyerrors(fields, tmp_path):
    pytest.importorskip("pyerrors")
    obs = dmmc.import_fields(
        fields, tmp_path / "run.h5", shape=SHAPE, action=ACTION, first=7, every=3
    ).to_pyerrors("mine")  # fmt: skip
    assert obs["M2"].idl["mine|r0001"] == range(7, 82, 3)


def test_fields_without_an_action(fields, tmp_path):
    run = dmmc.import_fields(fields, tmp_path / "run.h5", shape=SHAPE)
    assert run.header.action == {} and "S_per_site" not in run.observables
    summary = run.summary()
    assert "M2" in summary.observables and "without an action" in str(summary)
    assert read_ensemble(run, ACTION).check().virial == pytest.approx(1, abs=0.2)
    refused(tmp_path, fields, "NaN", shape=SHAPE, action=None, observables={"E": lambda phi, S: S})
    with pytest.raises(MismatchError, match="action is"):
        dmmc.report(run, imported(tmp_path, fields, shape=SHAPE), out=tmp_path / "both.html")


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (lambda f: f, {}, r"shape \(8, 25, 4, 6\)|does not fit|distinct"),
        (lambda f: f, {"shape": (6, 4)}, "its axis x in c n x y has 4 sites, not 6"),
        (lambda f: f, {"shape": (4, 6, 2)}, "its axis x in n x y z has 25 sites, not 4"),
        (lambda f: f, {"axes": "n x y"}, r"has 4 axes, \(8, 25, 4, 6\), and 3 are named, n x y"),
        (lambda f: f, {"axes": "n x x y"}, "the axis x is named twice"),
        (lambda f: f, {"axes": "n c x k"}, "there is no axis 'k'"),
        (lambda f: f, {"axes": "c n x y", "chains": 4}, "has 8 chains along its axis c, not 4"),
        (lambda f: f.reshape(-1, 4, 6), {"chains": 7}, "200 configurations .* are not 7 chains of equal length: 4"),
        (lambda f: f.reshape(-1, 4, 6), {"axes": "n c x y"}, "one axis for n and c; say how many chains"),
        (lambda f: f + 1j, {"shape": SHAPE}, r"complex numbers \(complex128\)"),
        (lambda f: np.sign(f).astype(int), {"shape": SHAPE}, r"integers \(int64\), which are hardly values"),
        (lambda f: np.where(f == f.max(), np.nan, f), {"shape": SHAPE}, "NaN or infinite values, the first at site"),
        (lambda f: np.array([f[0, 0], f[0, 1, :3]], dtype=object), {}, "must be an array of numbers"),
        (lambda f: np.ma.masked_greater(f, 1), {"shape": SHAPE}, "the array has masked values"),
        (lambda f: [f[0], f[1, :20]], {"shape": SHAPE}, "unequal length: .* has 20 configurations, and .* 25"),
        (lambda f: [f[0], f[1, :, :3]], {}, "on a lattice 4 x 6 and .* on 3 x 6"),
        (lambda f: f[:0], {"shape": SHAPE}, "it is empty"),
        (lambda f: f, {"shape": SHAPE, "dtype": "<f8"}, "which says its type"),
        (lambda f: f, {"shape": SHAPE, "name": "phi"}, "arrays have no names"),
        (lambda f: f, {"shape": SHAPE, "field": "lattice"}, "field is one of hopping, mass, textbook or a positive"),
        (lambda f: f, {"shape": SHAPE, "field": 0.0}, "positive number"),
        (lambda f: f, {"shape": SHAPE, "field": "mass", "action": None}, "not known without an action"),
        # Values that are read as they should be, and are no fields of the action.
        (lambda f: math.sqrt(0.22) * f, {"shape": SHAPE}, r"should be 1 and is 0\.1.*of the mass form: multiply them"),
        (lambda f: math.sqrt(0.44) * f, {"shape": SHAPE}, "normalisation of the textbook form"),
        (lambda f: f, {"shape": SHAPE, "field": "mass"}, r"should be 1 and is .*\(multiplied by about 0\.4"),
        (lambda f: f, {"shape": SHAPE, "action": Phi4(0.3, 0.05)}, "other couplings"),
        (lambda f: f.reshape(8, 25, 6, 4), {"axes": "c n x y"}, r"fit if their axes are read as \(4, 6\)"),
        (lambda f: f.transpose(1, 2, 3, 0), {"axes": "n c x y"}, "should be 1"),
        (lambda f: np.concatenate([f, f]), {"shape": SHAPE}, "200 of 400 configurations occur again elsewhere"),
        (lambda f: f[:1, :1].repeat(25, 1), {"shape": SHAPE}, "1 distinct configurations in 25"),
        (lambda f: 0 * abs(f), {"shape": SHAPE}, "1 distinct configurations in 200"),
        (lambda f: f * 1e20, {"shape": SHAPE}, "absurd sizes"),
    ],
)  # fmt: skip
def test_arrays_that_are_refused(fields, tmp_path, source, options, match):
    refused(tmp_path, source(fields.copy()), match, **options)


def test_files_that_are_refused(fields, tmp_path):
    flat = fields.reshape(-1, *SHAPE)
    np.save(tmp_path / "good.npy", flat)
    content = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-8])
    np.savez(tmp_path / "two.npz", phi=flat, pi=flat)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:1000])
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["phi"], file["pi"] = flat, flat
        file["outside"] = h5py.ExternalLink("elsewhere.h5", "/phi")
    flat.astype(">f8").tofile(tmp_path / "big.raw")
    flat.astype("<f4").tofile(tmp_path / "single.raw")
    (tmp_path / "cut.raw").write_bytes(flat.tobytes()[:-3])
    (tmp_path / "short.raw").write_bytes(flat.tobytes()[:-16])
    (tmp_path / "empty.raw").write_bytes(b"")
    raw = {"shape": SHAPE, "dtype": "<f8"}
    for name, options, match in (
        ("missing.npy", {}, "there is no file"),
        ("cut.npy", {}, "is truncated: .* numbers of type float64 take 38400 bytes, and 38392 are there"),
        ("two.npz", {}, r"has 2 arrays \(phi, pi\); say which"),
        ("two.npz", {"name": "psi"}, "has no array psi; those that it has: phi, pi"),
        ("cut.npz", {}, "is truncated or damaged"),
        ("two.h5", {}, r"has 2 datasets \(phi, pi\); say which"),
        ("two.h5", {"name": "psi"}, "has no dataset psi; those that it has: phi, pi"),
        ("two.h5", {"name": "phi", "dtype": "<f8"}, "an HDF5 file, which says its type"),
        ("big.raw", {"shape": SHAPE}, "neither a .npy file, nor an .npz archive, nor an HDF5 file"),
        ("big.raw", {"dtype": ">f8"}, "say on which lattice"),
        ("big.raw", raw, "as <f8, are of absurd sizes; in the other byte order, >f8, they are not"),
        ("single.raw", {**raw, "action": None, "chains": 8, "dtype": ">f4"}, "the other byte order, <f4, they are not"),
        ("single.raw", raw, "should be 1 and is|absurd"),
        ("cut.raw", raw, "no whole number of values of type <f8"),
        ("short.raw", raw, "199 fields of 4 x 6 and 22 numbers more; it is truncated, or has another shape"),
        ("empty.raw", raw, "is empty"),
        ("big.raw", {**raw, "dtype": "double-ish"}, "no type of numbers; write <f8"),
        ("big.raw", {**raw, "dtype": ">f8", "shape": (5, 5)}, "Give another field, axes, shape, chains or action"),
    ):  # fmt: skip
        refused(tmp_path, tmp_path / name, match, **options)
    assert imported(tmp_path, tmp_path / "two.h5", name="phi").lattice == SHAPE
    run = dmmc.import_fields(flat, tmp_path / "run.h5", action=ACTION)
    refused(tmp_path, run.path, "is a run of dmmc already")


def test_unchecked_fields_are_taken_and_every_output_says_so(fields, tmp_path):
    wrong = math.sqrt(0.22) * fields
    run = dmmc.import_fields(wrong, tmp_path / "run.h5", shape=SHAPE, action=ACTION, unchecked=True)
    assert "<phi dS/dphi>/V should be 1 and is 0.1" in run.header.facts.inexact
    assert any(note.startswith("UNCHECKED") for note in run.summary().notes)
    written = dmmc.report(run, out=tmp_path / "page.html")
    assert written.verdicts["imported"][0].level == "bad" and "UNCHECKED" in (tmp_path / "page.html").read_text()
    small = {"steps": 2, "config": {"filters": 2, "hidden1": 4, "hidden2": 3}}
    with pytest.raises(MismatchError, match="should be 1 and is"):
        dmmc.train(run, tmp_path / "model.safetensors", **small)
    model = dmmc.train(run, tmp_path / "model.safetensors", unchecked=True, **small)
    assert "should be 1 and is 0.1" in dmmc.load_model(tmp_path / "model.safetensors").remarks[0]
    options = {"chains": 4, "draws": 8, "flow_steps": 2, "discard": 2}
    with pytest.raises(MismatchError, match="should be 1 and is"):
        dmmc.sample(model, tmp_path / "chain.h5", reference=run, **options)
    chain = dmmc.sample(model, tmp_path / "chain.h5", reference=run, unchecked=True, **options)
    notes = [note for note in chain.summary().notes if note.startswith("UNCHECKED")]
    assert ["the ensemble" in note[:30] for note in notes] == [True, False] and "the reference" in notes[1]
    # Where nothing is wrong, nothing is said.
    good = dmmc.import_fields(fields, tmp_path / "good.h5", shape=SHAPE, action=ACTION, unchecked=True)
    assert not good.header.facts.inexact and "UNCHECKED" not in str(good.summary())


def test_one_sided_ensembles_are_told(fields, tmp_path):
    M = fields.mean((2, 3), keepdims=True)
    run = imported(tmp_path, np.sign(M) * fields, shape=SHAPE)
    assert "All fields have M > 0, although the theory is symmetric" in str(dmmc.load_run(run.path).summary())
    run = imported(tmp_path, np.sign(M) * fields, shape=SHAPE, action=AutogradAction(ACTION, "x"))
    assert "All fields" not in str(dmmc.load_run(run.path).summary())
    # Where no fields of M < 0 are to be expected, these are not fields of the action: it pulls them there.
    with pytest.raises(dmmc.DmmcError, match="<dS/dphi> should be 0"):
        imported(tmp_path, np.sign(M) * fields, shape=SHAPE, action=AutogradAction(ACTION, "x", symmetry="none"))


def test_the_command(fields, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", np.ascontiguousarray(fields.reshape(-1, *SHAPE).transpose(1, 2, 0)))
    theory = [
        *[
            "import",
            "mine.npy",
            "--kappa",
            "0.22",
            "--lam",
            "0.05",
            "--out",
            "run.h5",
            "--shape",
            "4",
            "6",
            "--chains",
            "8",
            "--axes",
        ],
        "x y n",
    ]
    for options, message in (
        (["--field", "mass"], "multiplied by about 0.4"),
        (["--chains", "7"], "not 7 chains of equal length"),
        (["--axes", "n x y"], "has 4 sites, not 6|has 200 sites|sites, not"),
        (["--name", "phi"], "arrays have no names"),
        (["--dtype", "<f8"], "which says its type"),
        (["--every", "0"], "configurations have numbers"),
    ):
        assert cli.main([*theory, *options]) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dmmc import: ")]
        assert re.search(message, error) and not (tmp_path / "run.h5").exists()
    assert cli.main(theory) == 0 and "fields fit the action" in capsys.readouterr().out
    assert cli.main([*["export", "run.h5", "--out", "back.npy", "--axes"], "x y n"]) == 0
    np.testing.assert_array_equal(np.load("back.npy"), np.load("mine.npy"))
    assert cli.main(["export", "run.h5", "--out", "back.npy"]) == 2 and "exists" in capsys.readouterr().err


LARGE = (
    PEAK_MEMORY
    + """
import sys
import dmmc
from dmmc.studies import importing

importing.PIECE_BYTES = importing.SAMPLED_BYTES = 1 << 20
for file in sys.argv[1:]:
    try:
        importing.import_fields(file, "out.h5", shape=(64, 64), dtype="<f8", axes="n x y", chains=4)
    except dmmc.DmmcError as error:
        print(peak_memory(), error)
"""
)


@needs_proc
def test_an_import_takes_no_more_memory_for_a_larger_file(tmp_path):
    """Sparse files of zeros are read to their ends, and then refused for what they hold."""
    sizes = (8 << 20, 160 << 20)
    files = [tmp_path / f"{size}.raw" for size in sizes]
    for file, size in zip(files, sizes, strict=True):
        with file.open("wb") as stream:
            stream.truncate(size)
    ended = subprocess.run(
        [sys.executable, "-c", LARGE, *files], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (before, small), (after, large) = (line.split(" ", 1) for line in ended.stdout.splitlines())
    assert "1 distinct configurations in 256" in small and "1 distinct configurations in 5120" in large
    # A piece of 1 MiB, the work on it, and a few numbers of each field: far below the 152 MiB that the file has more.
    assert int(after) - int(before) < 76 << 20 and int(after) < 1 << 30


def test_the_example(tmp_path):
    """From an array, an action and an observable to a page, in fifteen lines that import nothing but dmmc."""
    example = Path(__file__).parents[2] / "examples" / "own_configurations.py"
    _, lines = example.read_text().split('another_program("mine.npy", args.sites, args.draws)\n')
    lines, _ = lines.split("\n\n\nif __name__")
    assert len([line for line in lines.splitlines() if line.strip()]) <= 15
    subprocess.run(
        [sys.executable, example, "--sites", "4", "--draws", "12", "--steps", "3"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "mine" in page and "nn" in page and "fields fit the action" in page

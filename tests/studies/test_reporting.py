"""Reports find out what their inputs are, and are written as a whole or not at all."""

import os
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.facts import KernelFacts
from dmmc.pages.page import Page, ReportSummary
from dmmc.runs.run import load_run
from dmmc.studies import reporting
from dmmc.studies.reporting import write_report
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.results import COSTED, RESULT, TAUS, Measured, PointResult, TauInt
from dmmc.studies.scan.run import analyse
from dmmc.theory.lattice import Lattice
from helpers import free_reference, random_model
from stored_runs import store

HMC = KernelFacts("hmc", "HMC", model_free=True)
ACTION = {"name": "phi4", "kappa": 0.25, "lam": 0.022, "scale": 1.0}


def write_run(path, draws=60, discard=0, seed=1):
    rng = np.random.default_rng(seed)
    M = 0.4 * rng.standard_normal((8, draws))
    observables = {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4}
    observables |= {name: rng.normal(0.8, 0.1, (8, draws)) for name in ("phi2", "S_per_site")}
    observables["two_point"] = rng.exponential(1.0, (8, draws, 6))
    stats = {"accepted": rng.random((8, draws)) < 0.8}
    return store(path, observables, stats, kernel=HMC, lattice=(4, 4), action=ACTION, discard=discard)


def write_scan(folder):
    """The result of a scan along L with one sampler, whose tau_int is xi^2."""
    sizes = (8, 12, 16)
    results = [
        PointResult(
            point=f"L{L}",
            line="L/4",
            lattice=(L, L),
            action=ACTION,
            sampler="cluster",
            label="cluster",
            file=f"L{L}/cluster.h5",
            chains=4,
            draws=100,
            acceptance=Measured(0.8, 0.01),
            observables={"xi": Measured(L / 4, 0.01 * L), "binder": Measured(0.6, 0.01)},
            tau_int={name: TauInt((L / 4) ** 2, 0.02 * L, True) for name in TAUS},
            cost={name: {"seconds": Measured(1e-3 * L, 1e-5), "force": Measured(5.0 * L, 0.1)} for name in COSTED},
        )
        for L in sizes
    ]
    scan = analyse((), ScanOptions(samplers=("cluster",)), results)
    folder.mkdir()
    RESULT.write(folder, replace(scan, notes=("a <note>",)))
    return folder


def test_runs_and_a_scan_on_one_page(tmp_path):
    folder = write_scan(tmp_path / "two <sizes>")
    out = tmp_path / "report.html"
    summary = write_report([write_run(tmp_path / "hmc.h5"), folder], out)
    text = out.read_text(encoding="utf-8")
    assert summary.path == str(out)
    assert ReportSummary.from_json(summary.to_json()) == summary
    assert summary.runs == {"HMC": "hmc.h5"}
    assert summary.sections == ("Scan two <sizes>",)
    assert "<h2>Scan two &lt;sizes&gt;</h2>" in text
    assert "a &lt;note&gt;" in text
    assert [x for x in summary.figures if "section" in x] == [
        "section-1-tau-xi", "section-1-tau-L", "section-1-cost", "section-1-acceptance"
    ]  # fmt: skip
    # The slope that was put in, for M too.
    assert len(re.findall(r"<strong>2\.0+\(", text)) == 2 * len(TAUS)  # against xi and against L
    alone = write_report([folder / "scan.json"], tmp_path / "alone.html")
    assert alone.title == "Scan two <sizes>"
    assert alone.runs == {}


def test_the_reader_discards_draws(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(reporting, "render", lambda runs, **_: given.extend(runs) or Page("", ReportSummary("")))
    path = write_run(tmp_path / "run.h5", discard=10)
    for discard, left in ((None, 60), (0, 60), (25, 35)):
        write_report([path], tmp_path / "page.html", discard=discard, overwrite=True)
        assert given.pop().n_draws == left
    with pytest.raises(DmmcError, match="cannot be discarded"):
        write_report([path], tmp_path / "page.html", discard=60, overwrite=True)


def test_refusals_leave_no_file(tmp_path, monkeypatch):
    out, path = tmp_path / "report.html", write_run(tmp_path / "run.h5")
    foreign, text = tmp_path / "foreign.h5", tmp_path / "notes.txt"
    with h5py.File(foreign, "w") as file:
        file["cfgs"] = np.zeros((2, 4, 4))
    text.write_text("notes")
    for folder in ("scan", "several/one", "several/two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "plan.json").write_text('{"kind": "scan"}')
    (tmp_path / "several" / "three").mkdir()
    copy, truncated = tmp_path / "copy.h5", tmp_path / "truncated.h5"
    shutil.copy(path, copy)
    truncated.write_bytes(path.read_bytes()[:-2000])
    for inputs, error, match in (
        ([], DmmcError, "nothing to report on"),
        ([tmp_path / "none.h5"], FileError, "there is no file"),
        ([tmp_path / "several" / "three"], FileError, "holds neither a scan nor an exactness laboratory"),
        ([tmp_path / "scan"], FileError, "the scan in .* is not finished; run the same command with --resume"),
        ([tmp_path / "several"], FileError, "is no study itself; name the folders in it: one, two"),
        ([foreign], FileError, "not a dmmc run"),
        ([text], FileError, "not an HDF5 file"),
        ([truncated], FileError, "restore it from a copy"),
        ([path, copy], DmmcError, "are the same run"),
        ([path, path], DmmcError, "named twice"),
        ([path, load_run(path)], DmmcError, "named twice"),
    ):
        with pytest.raises(error, match=match):
            write_report(inputs, out)
    for place, match in ((tmp_path, "is a directory"), (tmp_path / "no" / "report.html", "no directory")):
        with pytest.raises(FileError, match=match):
            write_report([path], place)
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a disk that can only be read
    monkeypatch.setattr(reporting, "render", None)
    with pytest.raises(FileError, match="can be written to"):
        write_report([path], out)
    assert [path.name for path in tmp_path.iterdir() if "html" in path.name] == []


def test_names_that_are_no_text_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "render", lambda *_, **__: Page("of caf\udce9.h5", ReportSummary("")))
    write_report([], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == b"of caf&#56553;.h5"


def test_a_model_is_known_by_its_content(tmp_path):
    path = tmp_path / "model.of.mine"
    random_model(free_reference(Lattice((4,)))).save(path)
    with pytest.raises(DmmcError, match="was never trained"):
        write_report([path], tmp_path / "report.html")


def test_an_earlier_page_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "render", lambda *_, **__: Page("new", ReportSummary("new")))
    out = tmp_path / "report.html"
    out.write_text("earlier")
    with pytest.raises(FileError, match="--overwrite"):
        write_report([], out)

    def full(*_):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            write_report([], out, overwrite=True)
    assert out.read_text() == "earlier"
    write_report([], out, overwrite=True)
    assert out.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

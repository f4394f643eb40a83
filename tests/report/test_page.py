"""The HTML report: what is in it, what it refuses, and that a real browser shows it without any network."""

import base64
import html
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest

from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.diagnostics import format_value
from dmmc.report import page, svg, table, wording
from dmmc.runs import storage
from dmmc.studies import workflow
from dmmc.studies.scan import scan
from dmmc.theory import momenta
from dmmc.theory.actions import FreeField, Phi4

KERNELS = {
    "cluster": {"name": "cluster", "n_local": 2},
    "hmc": {"name": "hmc", "n_leapfrog": 5, "step_size": 0.2},
    "independence": {"name": "independence", "proposal": {"name": "flow", "n_steps": 8, "model": "0123456789abcdef"}},
}
SVG = "data:image/svg+xml;base64,"
PHI4 = {"name": "phi4", "kappa": 0.25, "lam": 0.022, "scale": 1.0}


def write_run(path, kind, *, shape=(4, 4), chains=8, draws=60, seed=1, action=PHI4, old=False, sign=False, steps=1):
    """A run of independent draws; ``sign`` keeps M positive, ``old`` leaves out what earlier versions did not store."""
    rng = np.random.default_rng([seed, *map(ord, kind)])
    M = 0.4 * rng.standard_normal((chains, draws))
    M = abs(M) if sign else M
    phat2 = momenta.orbit_phat2(shape)
    block = {
        "M": M,
        "abs_M": abs(M),
        "M2": M**2,
        "M4": M**4,
        "phi2": rng.normal(0.8, 0.1, (chains, draws)),
        "S_per_site": rng.normal(0.5, 0.1, (chains, draws)),
        "two_point": rng.exponential(1 / (phat2 + 0.3), (chains, draws, len(phat2))),
    }
    stats = {"accepted": rng.random((chains, draws)) < 0.8}
    if steps > 1:
        stats["accepted"] = rng.binomial(steps, 0.8, (chains, draws)) / steps
    evaluation = {}
    if kind == "hmc":
        stats["energy_error"] = rng.normal(0.02, 0.2, (chains, draws))
    if kind == "independence":
        log_w = rng.normal(-0.02, 0.2, (chains, draws))
        stats |= {"log_w_proposed": log_w, "log_w": log_w, "log_q": -log_w}
        evaluation = {
            "delta": rng.normal(0, 1e-5, 24),
            "denoising": rng.standard_normal((5, *shape)),
            "denoising_level": np.linspace(1, 0, 5),
            "denoising_noise": np.array([9.0, 4.0, 2.0, 1.0, 0.0]),
            "log_w_reference": rng.normal(0.02, 0.2, 200),
        }
    header = {
        "kernel": KERNELS[kind],
        "evaluations": {"network": 32} if kind == "independence" else {"force": 6},
        "action": action,
        "lattice": list(shape),
        "seed": seed,
        "steps_per_draw": steps,
        "n_draws": draws,
        "provenance": {"chains": chains},
    }
    summary = {"wall_seconds": {"chain": 8.0}, "wall_draws": draws}
    if old:
        evaluation, summary = {}, {}
        del header["evaluations"]
    with storage.RunWriter.create(path, header) as writer:
        writer.append(block, stats, None, {})
        return writer.finish(summary, evaluation)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: write_run(folder / f"{kind}.h5", kind) for kind in KERNELS}


def test_proposals_near_the_state_are_not_judged_as_independent_ones(tmp_path, monkeypatch):
    for theta, judged in ((math.pi / 2, True), (0.3, False)):
        monkeypatch.setitem(KERNELS, "independence", {"name": "latent", "theta": theta, "proposal": {"name": "flow"}})
        path = write_run(tmp_path / f"{theta}.h5", "independence")
        run = storage.load_run(path)
        assert (workflow.summarise(run, workflow.estimates(run))["ess_fraction"] is not None) is judged
        assert ("log-weights" in page.render([path])[0]) is judged


def test_an_inexact_chain_is_marked(tmp_path, monkeypatch):
    mark = {"inexact": True, "inexact_reason": "log q is estimated with 1 probe"}
    monkeypatch.setitem(KERNELS, "independence", KERNELS["independence"] | mark)
    path = write_run(tmp_path / "chain.h5", "independence")
    html_, summary = page.render([path])
    (name,) = summary["verdicts"]
    assert summary["verdicts"][name][0]["title"] == "Inexact on purpose"
    assert "log q is estimated with 1 probe" in html_ and "Do not use the results" in html_
    run = storage.load_run(path)
    assert workflow.summarise(run, workflow.estimates(run))["inexact"] == "log q is estimated with 1 probe"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """The folder of a small scan."""
    folder = tmp_path_factory.mktemp("scans") / "two <sizes>"
    points = scan.grid({"kappa0.2": Phi4(0.2, 0.022)}, [2, 4], 1, "L")
    scan.scan(scan.ScanOptions(points, samplers=("cluster",), chains=32, draws=64, max_draws=64, thermalise=10), folder)
    return folder


@pytest.fixture(scope="module")
def report(runs, scanned, tmp_path_factory):
    """Page and summary of the three samplers and a scan."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    return out, page.write_report([runs["hmc"], scanned, runs["independence"], runs["cluster"]], out)


class Outline(HTMLParser):
    """Checks that elements nest, and collects attributes and the text of table cells."""

    VOID = frozenset({"meta", "img", "br", "input", "link", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.cells, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data.strip()


def test_page_holds_everything_and_loads_nothing(report):
    out, summary = report
    text = out.read_text(encoding="utf-8")
    outline = Outline(text)
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert len(text) < 3e6
    assert summary["reference"] == "cluster"
    assert summary["runs"] == {"cluster": "cluster.h5", "HMC": "hmc.h5", "diffusion": "independence.h5"}
    assert summary["notes"] == []
    figures = ["magnetisation", "two-point-function", "traces", "autocorrelation", "acceptance", "log-weights"]
    of_scan = ["scan-1-tau-xi", "scan-1-tau-L", "scan-1-cost", "scan-1-acceptance"]
    assert summary["figures"] == [*figures, "denoising", *of_scan]
    assert summary["scans"] == ["two <sizes>"]
    # Verdicts come before the numbers, these before the figures.
    order = [text.index(f'id="{name}"') for name in ("verdicts", "comparison", "cost", *summary["figures"])]
    assert order == sorted(order)
    images = [attrs for tag, attrs in outline.elements if tag == "img"]
    assert len(images) == 2 * len(summary["figures"])
    assert all(len(image["alt"]) > 20 for image in images)
    assert sum(tag == "figcaption" for tag, _ in outline.elements) == len(summary["figures"])
    for tag, attrs in outline.elements:
        assert tag not in ("script", "link", "iframe", "object")
        assert attrs.get("src", SVG).startswith(SVG)
        assert attrs.get("href", "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    # Nothing about the machine but the names of the files.
    assert str(out.parent) not in text
    assert str(out.parent.parent) not in text


def test_a_scan_alone(scanned):
    alone, summary = page.render([scanned])
    assert summary["scans"] == ["two <sizes>"]
    assert page.render([scanned / "scan.json"])[1]["scans"] == ["two <sizes>"]
    cells = Outline(alone).cells
    assert "<h1>Scan two &lt;sizes&gt;</h1>" in alone
    assert 'id="verdicts"' not in alone
    fits = json.loads((scanned / "scan.json").read_text())["fits"]
    assert len(fits) > 0
    for fit in fits:
        against = {"xi": "ξ", "L": "L"}[fit["against"]]
        z = format_value(fit["z"], fit["z_error"]).replace("-", "−")
        expected = ["cluster", "2 of kappa0.2", wording.SYMBOLS[fit["observable"]], against, z]
        assert any(cells[k : k + 5] == expected for k in range(len(cells)))
    with pytest.raises(DmmcError, match="--reference hmc is none of the runs"):
        page.render([scanned], reference="hmc")


def test_both_versions_of_a_figure_are_the_same_drawing():
    from matplotlib.figure import Figure

    with svg.page_style():
        figure = Figure()
        figure.subplots().plot([0, 1], color="#0072B2")
        made = svg.picture("line", figure, "a line", "a line")
        again = svg.picture("line", figure, "a line", "a line")
    light, dark = (re.sub("#[0-9a-f]{6}", "colour", base64.b64decode(uri.split(",")[1]).decode())
                   for uri in (made.light, made.dark))  # fmt: skip
    assert light == dark
    assert made.light != made.dark
    assert again == made
    assert len(set(svg.DARK.values())) == len(svg.DARK)


def test_table_has_the_numbers_of_the_text_table(report, runs):
    out, _ = report
    cells = Outline(out.read_text(encoding="utf-8")).cells
    found = {
        name: workflow.estimates(storage.load_run(runs[kind]))
        for kind, name in wording.SAMPLERS.items()
        if kind in runs
    }
    for line in table.comparison(found, reference="cluster").splitlines()[2:-2]:
        numbers = [x.replace("-", "−") for x in re.split(r" {2,}", line)[1:]]
        assert any(cells[k : k + len(numbers)] == numbers for k in range(len(cells))), line


def test_cost_of_an_effective_sample(runs):
    run = storage.load_run(runs["independence"])
    found = workflow.estimates(run)
    row = page._efficiency("diffusion", run, found)
    tau = found["M2"].tau_int
    # 8 s for 8 chains of 60 draws, 32 network evaluations a draw; 2 tau draws are worth one independent one.
    assert row["seconds_each"] == page._seconds(2 * tau * 8 / 480)
    assert row["evaluations_each"] == f"{64 * tau:.0f} network"
    assert row["effective"] == f"{480 / (2 * tau):.0f}"
    assert [page._seconds(x) for x in (12.0, 0.012, 1.2e-5, math.nan)] == ["12 s", "12 ms", "12 µs", "–"]


def test_a_bad_run_is_said_first(runs, tmp_path):
    bad = write_run(tmp_path / "one_sided.h5", "independence", sign=True, seed=2)
    text, summary = page.render([runs["cluster"], bad])
    levels = [verdict["level"] for verdict in summary["verdicts"]["diffusion"]]
    assert levels[0] == "bad"
    assert "Do not use the results of diffusion as they are." in text
    first = html.escape(summary["verdicts"]["diffusion"][0]["title"])
    assert text.index(first) < text.index('id="comparison"')
    # The mean of |x| is off 0 by many standard errors, which the table marks.
    assert 'class="z far"' in text


def test_what_is_missing_is_said_in_one_sentence(tmp_path):
    old = write_run(tmp_path / "old.h5", "independence", old=True)
    text, summary = page.render([old])
    Outline(text)
    assert summary["reference"] is None
    assert [note.count(".") - note.count(".h5") for note in summary["notes"]] == [1, 1]
    assert "old.h5 is of an earlier version" in summary["notes"][1]
    assert "log-weights" in summary["figures"]
    assert "denoising" not in summary["figures"]
    assert ">z</th>" not in text  # nothing to compare with


def test_several_steps_a_draw(tmp_path):
    one, three = (write_run(tmp_path / f"{n}.h5", "hmc", steps=n) for n in (1, 3))
    _, summary = page.render([one, three])
    assert "acceptance" in summary["figures"]
    runs = [storage.load_run(path) for path in (one, three)]
    costs = [page._efficiency("HMC", run, workflow.estimates(run))["evaluations_each"] for run in runs]
    forces = [float(cost.removesuffix(" force").replace(",", "")) for cost in costs]
    # The observables are the same draws, so that an effective sample costs three times as many steps.
    assert forces[1] == pytest.approx(3 * forces[0], abs=2)


def test_a_figure_that_cannot_be_drawn_is_a_note(tmp_path):
    path = write_run(tmp_path / "run.h5", "hmc")
    run = storage.load_run(path)
    run.observables["two_point"][...] = 0.0
    notes = []
    drawn = [picture.name for picture in page._pictures({"HMC": run}, notes)]
    assert "two-point-function" not in drawn
    assert "traces" in drawn
    assert len(notes) == 1
    assert "must be positive" in notes[0]


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (2, 2, 2, 3)])
def test_any_dimension_and_unknown_actions(tmp_path, shape):
    action = {"name": "sine <Gordon>", "beta": 2.0}
    path = write_run(tmp_path / "run.h5", "independence", shape=shape, action=action, chains=2, draws=30)
    text, summary = page.render([path])
    assert "sine &lt;Gordon&gt;" in text
    assert "<Gordon>" not in text
    assert " × ".join(map(str, shape)) in text
    assert "denoising" in summary["figures"]


def test_couplings_in_the_form_of_the_field():
    def described(action):
        return wording.theory(action.describe(), 2)

    assert described(Phi4(0.27, 0.022)) == ("φ⁴", "κ = 0.27, λ = 0.022 (hopping form)")
    assert described(Phi4.from_mass(-4.0, 4.572, 2))[1].startswith("m² = −4, λ = 4.572 (mass form; κ = 0.")
    assert described(Phi4.from_textbook(-4.0, 4.572, 2))[1].startswith("μ₀² = −4, λ = 4.572 (textbook form")
    assert described(FreeField(0.5)) == ("Free field", "m = 0.5")


def test_reference_and_names(runs, tmp_path):
    second = write_run(tmp_path / "second.h5", "hmc", seed=7)
    named = page._named([storage.load_run(path) for path in (runs["hmc"], runs["independence"], second)])
    assert list(named) == ["HMC hmc", "diffusion", "HMC second"]
    assert page._reference(named, None) == "HMC hmc"
    for wanted, expected in (("second.h5", "HMC second"), (str(second), "HMC second"), ("Diffusion", "diffusion")):
        assert page._reference(named, wanted) == expected
    with pytest.raises(DmmcError, match="--reference HMC fits HMC hmc and HMC second; name one of"):
        page._reference(named, "HMC")
    with pytest.raises(DmmcError, match="--reference cluster is none of the runs"):
        page._reference(named, "cluster")


def test_refusals_leave_no_file(runs, tmp_path):
    out = tmp_path / "report.html"
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["cfgs"] = np.zeros((2, 4, 4))
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    other = {
        "lattice": write_run(tmp_path / "other_lattice.h5", "cluster", shape=(4, 6)),
        "action": write_run(tmp_path / "other_action.h5", "cluster", action={**PHI4, "kappa": 0.26}),
    }
    copy = tmp_path / "copy.h5"
    shutil.copy(runs["hmc"], copy)
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(copy.read_bytes()[:-2000])
    for inputs, error, match in (
        ([], DmmcError, "nothing to report on"),
        ([tmp_path / "none.h5"], FileError, "there is no file"),
        ([tmp_path], FileError, "not the result of a finished scan"),
        ([foreign], FileError, "not a dmmc run"),
        ([text], FileError, "not an HDF5 file"),
        ([truncated], FileError, "restore it from a copy"),
        ([runs["hmc"], other["lattice"]], MismatchError, r"lattice is \[4, 4\] and \[4, 6\]"),
        ([runs["hmc"], other["action"]], MismatchError, "action is .*0.25.* and .*0.26"),
        ([runs["hmc"], copy], DmmcError, "are the same run"),
    ):
        with pytest.raises(error, match=match):
            page.write_report(inputs, out)
    for place, match in ((tmp_path, "is a directory"), (tmp_path / "no" / "report.html", "no directory")):
        with pytest.raises(FileError, match=match):
            page.write_report([runs["hmc"]], place)
    assert [path.name for path in tmp_path.iterdir() if "html" in path.name] == []


def test_an_earlier_page_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "render", lambda *_, **__: ("new", {}))
    out = tmp_path / "report.html"
    out.write_text("earlier")
    with pytest.raises(FileError, match="--overwrite"):
        page.write_report([], out)

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            page.write_report([], out, overwrite=True)
    assert out.read_text() == "earlier"
    page.write_report([], out, overwrite=True)
    assert out.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_command_line(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    arguments = ["report", str(runs["hmc"]), str(runs["cluster"]), "--out", str(out), "--reference", "hmc"]
    arguments += ["--title", "A & B"]
    assert cli.main([*arguments, "--json", str(tmp_path / "page.json")]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    summary = json.loads((tmp_path / "page.json").read_text())
    assert summary["reference"] == "HMC"
    assert "<h1>A &amp; B</h1>" in out.read_text(encoding="utf-8")
    assert cli.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------
# In a browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("DMMC_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the PATH, DMMC_BROWSER is not set")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


# Of every figure, the versions that are shown, decoded: their natural width, and their name.
SHOWN = """async () => Promise.all(
    [...document.querySelectorAll("figure img")].filter(x => x.checkVisibility()).map(async x => {
        await x.decode();
        return [x.closest("figure").id, x.className, x.naturalWidth];
    }))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(browser, report, scheme, width):
    out, summary = report
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    trouble, requests = [], []
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(out.as_uri(), wait_until="load")

    def check(expected):
        images = shown.evaluate(SHOWN)
        assert [name for name, _, _ in images] == summary["figures"]
        assert {version for _, version, _ in images} == {expected}
        assert all(natural > 0 for _, _, natural in images)
        dark = shown.evaluate("getComputedStyle(document.body).color.match(/[0-9]+/)[0] > 128")
        assert dark == (expected == "dark")

    check(scheme)
    other = "light" if scheme == "dark" else "dark"
    shown.get_by_text(other, exact=True).click()
    check(other)
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    shown.emulate_media(media="print", color_scheme=scheme)
    check("light")
    context.close()
    assert trouble == []
    assert all(url.startswith(("file://", "data:")) for url in requests)

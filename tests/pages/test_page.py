"""The HTML page: what is in it, what it refuses, and that a real browser shows it without any network."""

import base64
import html
import math
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.facts import KernelFacts
from dmmc.model.history import TrainingRecord
from dmmc.pages import figures, page_tables, pictures, svg, table, wording
from dmmc.pages import page as page_module
from dmmc.pages.comparable import choose_reference, is_sign_symmetric, named
from dmmc.pages.page import ReportSummary, render
from dmmc.pages.section import fill, training_section
from dmmc.proposals.certificate import Certificate
from dmmc.runs.run import load_run
from dmmc.runs.summary import estimates, summarise
from dmmc.studies.comparison import beside_reference
from dmmc.theory import momenta
from stored_runs import store

CLUSTER = KernelFacts("cluster", "cluster", model_free=True)
HMC = KernelFacts("hmc", "HMC", model_free=True)
DIFFUSION = KernelFacts("independence", "diffusion", independent_weights=True)
KERNELS = {
    "cluster": {"name": "cluster", "n_local": 2},
    "hmc": {"name": "hmc", "n_leapfrog": 5, "step_size": 0.2},
    "independence": {"name": "independence", "proposal": {"name": "flow", "n_steps": 8, "model": "0123456789abcdef"}},
}
SVG = "data:image/svg+xml;base64,"
PHI4 = {"name": "phi4", "kappa": 0.25, "lam": 0.022, "scale": 1.0}
SYMMETRIC = {"symmetry": {"symmetry": "z2", "evidence": "declared", "deviation": None}}


def measured(chains, draws, shape, rng, sign=False):
    """Independent draws of every standard observable; ``sign`` keeps M positive."""
    M = 0.4 * rng.standard_normal((chains, draws))
    M = abs(M) if sign else M
    phat2 = momenta.orbit_phat2(shape)
    return {
        "M": M,
        "abs_M": abs(M),
        "M2": M**2,
        "M4": M**4,
        "phi2": rng.normal(0.8, 0.1, (chains, draws)),
        "S_per_site": rng.normal(0.5, 0.1, (chains, draws)),
        "two_point": rng.exponential(1 / (phat2 + 0.3), (chains, draws, len(phat2))),
    }


def make_run(
    path, facts, *, shape=(4, 4), chains=8, draws=60, seed=1, action=PHI4, bare=False, sign=False, steps=1, extra=None,
    stats=None, provenance=SYMMETRIC, **changes
):  # fmt: skip
    """A stored run of independent draws; ``bare`` leaves out what is measured beside the chains."""
    rng = np.random.default_rng([seed, *map(ord, facts.name)])
    observables = measured(chains, draws, shape, rng, sign) | (extra or {})
    accepted = rng.random((chains, draws)) < 0.8
    recorded = {"accepted": rng.binomial(steps, 0.8, (chains, draws)) / steps if steps > 1 else accepted}
    evaluation = {}
    if facts == HMC:
        recorded["energy_error"] = rng.normal(0.02, 0.2, (chains, draws))
    if facts.independent_weights:
        log_w = rng.normal(-0.02, 0.2, (chains, draws))
        recorded |= {"log_w_proposed": log_w, "log_w": log_w, "log_q": -log_w}
        evaluation = {
            "delta": rng.normal(0, 1e-5, 24),
            "denoising": rng.standard_normal((5, *shape)),
            "denoising_level": np.linspace(1, 0, 5),
            "denoising_noise": np.array([9.0, 4.0, 2.0, 1.0, 0.0]),
            "log_w_reference": rng.normal(0.02, 0.2, 200),
        }
    store(
        path, observables, recorded if stats is None else stats, kernel=facts, lattice=shape,
        evaluation={} if bare else evaluation, action=action, seed=seed, steps_per_draw=steps, provenance=provenance,
        cost={"network": 32} if facts.independent_weights else {"force": 6}, **changes
    )  # fmt: skip
    return load_run(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {facts.name: make_run(folder / f"{facts.name}.h5", facts) for facts in (CLUSTER, HMC, DIFFUSION)}


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without the figures of runs, which take most of the time."""
    monkeypatch.setattr(page_module, "run_pictures", lambda runs: ((), ()))


@pytest.fixture(scope="module")
def study():
    """A section as a study makes one, with a figure."""
    with svg.page_style():
        drawn = svg.picture("study-1-loss", figures.training_loss({"model": CURVE}), "The loss of a model.", "How.")
    return training_section("study-1", "a <model>", (drawn,), [("steps", "300")])


PIXEL = svg.Picture("pixel", SVG, SVG, 1, 1, False, "one pixel", "")
CURVE = [TrainingRecord(100 * k, 0.0, 2.0 - k, 1.0) for k in (1, 2, 3)]


@pytest.fixture(scope="module")
def page(runs, study):
    """The page of three samplers and a study."""
    return render([runs["cluster"], runs["hmc"], runs["independence"]], sections=[study])


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


def test_page_holds_everything_and_loads_nothing(page, runs):
    text, summary = page.html, page.summary
    outline = Outline(text)
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert len(text) < 3e6
    assert summary.reference == "cluster"
    assert summary.runs == {"cluster": "cluster.h5", "HMC": "hmc.h5", "diffusion": "independence.h5"}
    assert summary.notes == ()
    of_runs = ("magnetisation", "two-point-function", "wall-correlator", "traces", "autocorrelation", "acceptance")
    of_model = ("log-weights", "denoising", "denoising-relative")
    assert summary.figures == (*of_runs, *of_model, "study-1-loss")
    assert summary.sections == ("Training of a <model>",)
    assert "<h2>Training of a &lt;model&gt;</h2>" in text
    # Verdicts come before the numbers, and these before the figures.
    parts = ("verdicts", "comparison", "autocorrelation-times", "cost", *summary.figures, "provenance")
    order = [text.index(f'id="{name}"') for name in parts]
    assert order == sorted(order)
    images = [attrs for tag, attrs in outline.elements if tag == "img"]
    assert len(images) == 2 * len(summary.figures)
    assert all(len(image["alt"]) > 10 for image in images)
    assert sum(tag == "figcaption" for tag, _ in outline.elements) == len(summary.figures)
    for tag, attrs in outline.elements:
        assert tag not in ("script", "link", "iframe", "object")
        assert attrs.get("src", SVG).startswith(SVG)
        assert attrs.get("href", "#").startswith("#")
        assert attrs.get("href", "#verdicts").removeprefix("#") in outline.ids
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    # Nothing about the machine but the names of the files.
    assert str(runs["hmc"].path.parent) not in text


def test_summary_is_a_record(page):
    assert ReportSummary.from_json(page.summary.to_json()) == page.summary
    assert page.summary.verdicts["HMC"][0].level == "good"


def test_a_section_alone(study):
    page = render([], sections=[study], title=None)
    assert page.summary.title == "Training of a <model>"
    assert "<h1>Training of a &lt;model&gt;</h1>" in page.html
    assert 'id="verdicts"' not in page.html
    with pytest.raises(DmmcError, match="--reference hmc is none of the runs"):
        render([], sections=[study], reference="hmc")
    with pytest.raises(DmmcError, match="nothing to report on"):
        render([])


def test_templates_escape_text(study):
    section = replace(study, title="A & B", link="A & B")
    assert "<h2>A &amp; B</h2>" in render([], sections=[section]).html
    assert "<td>1 &lt; 2</td>" in fill("dmmc.pages", "training.html", pictures=[PIXEL], settings=[("x", "1 < 2")])


@pytest.mark.parametrize("independent", [True, False])
def test_proposals_near_the_state_are_not_judged_as_independent_ones(tmp_path, independent, undrawn):
    run = make_run(tmp_path / "run.h5", KernelFacts("latent", independent_weights=True))
    run = replace(run, header=replace(run.header, facts=KernelFacts("latent", independent_weights=independent)))
    gallery = pictures.Gallery()
    pictures._weights(gallery, "latent", run, {"latent": run})
    assert bool(gallery.pictures) is independent
    assert ("ESS/N" in render([run]).summary.verdicts["latent"][0].text) is independent


def test_an_inexact_chain_is_marked(tmp_path, undrawn):
    run = make_run(tmp_path / "chain.h5", replace(DIFFUSION, inexact="log q is estimated with 1 probe"))
    page = render([run])
    assert page.summary.verdicts["diffusion"][0].title == "Inexact on purpose"
    assert "log q is estimated with 1 probe" in page.html
    assert "Do not use the results" in page.html


def test_both_versions_of_a_figure_are_the_same_drawing():
    from matplotlib.figure import Figure

    with svg.page_style():
        figure = Figure()
        figure.subplots().plot([0, 1], color="#0072B2")
        made = svg.picture("line", figure, "a line", "a line")
        again = svg.picture("line", figure, "a line", "a line")
    light, dark = (
        re.sub("#[0-9a-f]{6}", "colour", base64.b64decode(uri.split(",")[1]).decode())
        for uri in (made.light, made.dark)
    )
    assert light == dark
    assert made.light != made.dark
    assert again == made


def test_table_has_the_numbers_of_the_text_table(page, runs):
    cells = Outline(page.html).cells
    of_samplers = {run.header.facts.label: estimates(run) for run in runs.values()}
    lines = table.comparison(of_samplers, reference="cluster").splitlines()[2:]
    rows = [line for line in lines if not line.startswith(("tau_int", "z:"))]
    assert len(rows) >= 9
    for line in rows:
        numbers = [x.replace("-", "−") for x in re.split(r" {2,}", line)[1:]]
        assert any(cells[k : k + len(numbers)] == numbers for k in range(len(cells))), line


def test_cost_of_an_effective_sample(runs):
    run = runs["independence"]
    assert page_tables.priced({"diffusion": run}) == ("M", "M2")
    row = page_tables.efficiency("diffusion", summarise(run), ("M", "M2"))
    # 2 s for 8 chains of 60 draws, 32 network evaluations per draw; 2 tau draws are worth one independent draw.
    for name, price in zip(("M", "M2"), row.prices, strict=True):
        tau = diagnostics.resolved_tau(run.observables[name])[0].tau_int
        assert price.wall == wording.seconds(2 * tau * 2 / 480)
        assert price.evaluations == f"{64 * tau:.0f} network"
        assert price.effective == f"{480 / (2 * tau):.0f}"
    assert row.acceptance == f"{run.stats['accepted'].mean():.3f}"
    assert [wording.seconds(x) for x in (12.0, 0.012, 1.2e-5, math.nan)] == ["12 s", "12 ms", "12 µs", "–"]


def test_a_run_is_measured_once(runs, undrawn, monkeypatch):
    measured, summary = [], diagnostics.summary
    monkeypatch.setattr(diagnostics, "summary", lambda *args: measured.append(args) or summary(*args))
    render([runs["cluster"], runs["hmc"]])
    assert len(measured) == 2


def test_a_price_that_is_only_a_bound_says_so(tmp_path):
    slow = np.cumsum(np.random.default_rng(3).standard_normal((8, 60)), axis=1)
    run = make_run(tmp_path / "slow.h5", HMC, extra={"M": slow})
    price, _ = page_tables.efficiency("HMC", summarise(run), ("M", "M2")).prices
    assert price.effective.startswith("≲ ")
    assert price.wall.startswith("≳ ") and price.evaluations.startswith("≳ ")


def test_a_bad_run_is_said_first(runs, tmp_path, undrawn):
    bad = make_run(tmp_path / "one_sided.h5", DIFFUSION, sign=True, seed=2)
    page = render([runs["cluster"], bad])
    first, *_ = page.summary.verdicts["diffusion"]
    assert first.level == "bad"
    assert "Do not use the results of diffusion as they are." in page.html
    assert page.html.index(html.escape(first.title)) < page.html.index('id="comparison"')
    # The mean of |x| is off 0 by many standard errors, which the table marks.
    assert 'class="z far"' in page.html


def test_no_symmetry_is_claimed_that_a_run_does_not_have(tmp_path, undrawn):
    """All chains on one side is how a theory without the symmetry may be."""
    none = {"symmetry": {"symmetry": "none", "evidence": "S(-phi) differs", "deviation": 0.3}}
    own = {"name": "own", "h": 0.2}
    for action, provenance, judged in ((PHI4, SYMMETRIC, True), (PHI4, none, False), (own, {}, False)):
        run = make_run(tmp_path / "run.h5", HMC, sign=True, action=action, provenance=provenance)
        run.path.unlink()
        page = render([run])
        assert (page.summary.verdicts["HMC"][0].level == "bad") is judged
        assert is_sign_symmetric(run) is judged


def test_what_is_missing_is_said_in_one_sentence(tmp_path):
    page = render([make_run(tmp_path / "bare.h5", DIFFUSION, bare=True)])
    Outline(page.html)
    assert page.summary.reference is None
    assert [note.count(".") - note.count(".h5") for note in page.summary.notes] == [1, 1]
    assert "independent check" in page.summary.notes[0]
    assert "bare.h5 holds nothing but its chains" in page.summary.notes[1]
    assert "log-weights" in page.summary.figures
    assert "denoising" not in page.summary.figures
    # There is nothing to compare with, hence neither a column z nor a note about it.
    assert ">z</th>" not in page.html
    assert "z is the difference" not in page.html


def test_several_steps_per_draw(tmp_path):
    one, three = (make_run(tmp_path / f"{n}.h5", HMC, steps=n) for n in (1, 3))
    figures.acceptance({"one": one.stats["accepted"], "three": three.stats["accepted"]})
    costs = [page_tables.efficiency("HMC", summarise(run), ("M2",)).prices[0].evaluations for run in (one, three)]
    forces = [float(cost.removesuffix(" force").replace(",", "")) for cost in costs]
    # The observables are the same draws, so that an effective sample costs three times as many steps.
    assert forces[1] == pytest.approx(3 * forces[0], abs=2)


def test_a_figure_that_cannot_be_drawn_is_a_note(tmp_path):
    run = make_run(tmp_path / "run.h5", HMC)
    run.observables["two_point"][...] = 0.0
    drawn, notes = pictures.run_pictures({"HMC": run})
    names = [picture.name for picture in drawn]
    assert "two-point-function" not in names
    assert "traces" in names
    assert any("must be positive" in note for note in notes)


@pytest.mark.parametrize("shape", [(1,), (6,), (2, 3, 4), (2, 2, 2, 3)])
def test_any_dimension_and_unknown_actions(tmp_path, shape):
    action = {"name": "sine <Gordon>", "beta": 2.0}
    run = make_run(tmp_path / "run.h5", DIFFUSION, shape=shape, action=action, chains=2, draws=30)
    page = render([run])
    Outline(page.html)
    assert "sine &lt;Gordon&gt;" in page.html
    assert "<Gordon>" not in page.html
    assert wording.extent(shape) in page.html
    assert "denoising" in page.summary.figures
    assert ("wall-correlator" in page.summary.figures) == (max(shape) > 3)


def test_kernels_and_observables_that_nobody_knows(tmp_path):
    rng = np.random.default_rng(5)
    extra = {"winding": rng.integers(-1, 2, (4, 40)).astype(float), "current": rng.standard_normal((4, 40, 3))}
    extra["stress"] = rng.standard_normal((4, 40, 2, 2))
    own = KernelFacts("my_kernel")
    run = make_run(tmp_path / "own.h5", own, chains=4, draws=40, extra=extra, stats={"swaps": rng.random((4, 40))})
    page = render([run])
    cells = Outline(page.html).cells
    assert page.summary.runs == {"my kernel": "own.h5"}
    # Every component has a row among the means and one among the autocorrelation times.
    for name in ("winding", "current0", "current1", "current2", "stress0,1"):
        assert cells.count(name) == 2, name
    # Without a record of acceptance, as of the chains of another program, the verdicts are on all the rest.
    assert page.summary.verdicts["my kernel"] and not any(
        "acceptance" in found.text for found in page.summary.verdicts["my kernel"]
    )
    assert "acceptance" not in page.summary.figures


def test_reference_and_names(runs, tmp_path, undrawn):
    second = make_run(tmp_path / "second.h5", HMC, seed=7)
    names = named([runs["independence"], runs["hmc"], second])
    assert list(names) == ["diffusion", "HMC hmc", "HMC second"]
    # The first run whose kernel needs no model, in the order given.
    assert choose_reference(names, None) == "HMC hmc"
    assert choose_reference(named([second, runs["cluster"]]), None) == "HMC"
    assert choose_reference(named([runs["independence"]]), None) is None
    for wanted, expected in (("second.h5", "HMC second"), (str(second.path), "HMC second"), ("Diffusion", "diffusion")):
        assert choose_reference(names, wanted) == expected
    with pytest.raises(DmmcError, match="--reference HMC fits HMC hmc and HMC second; name one of"):
        choose_reference(names, "HMC")
    with pytest.raises(DmmcError, match="--reference cluster is none of the runs"):
        choose_reference(names, "cluster")
    page = render([runs["cluster"], runs["hmc"]], reference="hmc.h5")
    assert page.summary.reference == "HMC"
    assert "z is the difference from HMC" in page.html


def test_runs_that_do_not_belong_together(runs, tmp_path):
    lattice = make_run(tmp_path / "lattice.h5", CLUSTER, shape=(4, 6))
    action = make_run(tmp_path / "action.h5", CLUSTER, action={**PHI4, "kappa": 0.26})
    for other, error, match in (
        (lattice, MismatchError, r"lattice is \[4, 4\] and \[4, 6\]"),
        (action, MismatchError, "action is .*0.25.* and .*0.26"),
        (runs["hmc"], DmmcError, "are the same run"),
    ):
        with pytest.raises(error, match=match):
            render([runs["hmc"], other])


def test_runs_that_share_their_random_numbers(tmp_path, undrawn):
    """Chains that differ only in their lengths, or in how they began, meet; what makes them is in their headers."""
    one = make_run(tmp_path / "one.h5", HMC)
    for name, changes in (("later", {"discard": 50}), ("longer", {"draws": 80}), ("wider", {"chains": 16})):
        with pytest.raises(DmmcError, match=r"by the same kernel with the same seed 1.*another --seed"):
            render([one, make_run(tmp_path / f"{name}.h5", HMC, **changes)])
    tuned = make_run(tmp_path / "tuned.h5", HMC)
    tuned = replace(tuned, header=replace(tuned.header, kernel={"name": "hmc", "step_size": 0.1}))
    for other in (make_run(tmp_path / "seed.h5", HMC, seed=2), tuned):
        assert len(render([one, other]).summary.runs) == 2
        assert not beside_reference(other, one.path).startswith("note: ")
    later = load_run(tmp_path / "later.h5")
    assert beside_reference(later, one.path).startswith("note: ") and "share" in beside_reference(later, one.path)


def test_discarded_draws_are_stated(runs, undrawn):
    page = render([runs["hmc"].discarding(20)])
    assert "8 × 40" in page.html
    assert "20 of each chain" in page.html


def test_steps_discarded_before_the_first_draw_are_stated(tmp_path, undrawn):
    cells = Outline(render([make_run(tmp_path / "run.h5", HMC, discard=1234)]).html).cells
    assert cells[cells.index("steps discarded at the start") + 1] == "1,234"


@pytest.mark.parametrize("facts", [DIFFUSION, KernelFacts("latent")])
def test_the_bound_on_the_bias_is_that_of_the_summary(tmp_path, undrawn, facts):
    """Of every kernel with an integrator: on the page, in the summary and in the verdict."""
    run = make_run(tmp_path / "run.h5", facts)
    n = 24
    rounding, none = np.random.default_rng(3).normal(0, 1e-3, n), np.zeros(n)
    made = Certificate(np.random.default_rng(4).normal(0, 0.2, n), none[:0], rounding, none, none)
    run = replace(run, evaluation={**run.evaluation, **made.arrays()})
    page, summary = render([run]), summarise(run)
    assert summary.bias and f"<li>{facts.label}: {html.escape(summary.bias)}.</li>" in page.html
    coarse = {x.title: x for x in page.summary.verdicts[facts.label]}["The integrator is too coarse"]
    assert coarse.level == "bad" and f"{summary.bias_bound_sigma:.1e}" in coarse.text
    without = replace(run, evaluation={})
    assert "bias" not in render([without]).html.partition('id="comparison"')[2].partition("</section>")[0]


# ---------------------------------------------------------------------------------------------------------
# In a browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("DMMC_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the PATH, DMMC_BROWSER is not set")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
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
def test_in_a_browser(browser, page, tmp_path, scheme, width):
    out, summary = tmp_path / "page.html", page.summary
    out.write_text(page.html, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    shown.set_default_timeout(600_000)  # milliseconds: of a machine that is busy with other things
    trouble, requests = [], []
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(out.as_uri(), wait_until="load")

    def check(expected):
        images = shown.evaluate(SHOWN)
        assert [name for name, _, _ in images] == list(summary.figures)
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

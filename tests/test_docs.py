"""What the documentation says runs: its Python on small data, its commands up to their options; its links lead on."""

import functools
import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch

from dmmc.cli import main as cli
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.runs import chain
from dmmc.studies import workflow
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice
from helpers import SMALL, random_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page, language=None):
    """Fenced blocks of a language (None: of any or none) as ``(first line, text)``."""
    text = page.read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [(text[: m.start(2)].count("\n") + 1, m[2]) for m in fences if language in (None, m[1])]


def prose(page):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)


def anchors(page):
    """Headings as GitHub turns them into fragments of a link."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages speak of, as small as they can be: a proposal that is good, if untrained."""
    out = tmp_path_factory.mktemp("docs")
    action, lattice = Phi4(0.2, 0.1), Lattice((4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        for method, name in (("hmc", "hmc"), ("cluster", "cluster")):
            options = chain.ChainOptions(100, keep_every=5, block=50)
            run = workflow.make_ensemble(
                action, lattice, workflow.EnsembleOptions(method, 8, 20, options), out / f"{name}.h5"
            )
        phi = torch.as_tensor(run.cfgs(), dtype=torch.float32)
        reference = GaussianReference.measure(phi, lattice, False, action)
        model = random_model(reference, action, SMALL, strength=0.05, dtype=torch.float32)
        model.save(out / "model.safetensors")
        options = chain.ChainOptions(64, keep_every=8, block=32)
        workflow.sample(model, action, 8, options, out / "chain.h5", n_steps=2, reference=phi[:40], n_delta=4)
    return out


@each_page
def test_python_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    small = functools.cache(lambda name: DiffusionModel.load("model.safetensors"))
    monkeypatch.setattr("dmmc.model.pretrained.load_pretrained", small)
    namespace = {"__name__": page.stem}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of short chains
        for line, text in blocks(page, "python"):
            try:
                # Padded, so that a traceback names the line of the page.
                exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)
            except Exception as error:
                error.add_note(f"in the block at {page.name}:{line}")
                raise


@each_page
def test_commands_have_these_options(page):
    commands = [
        line for _, text in blocks(page) for line in re.sub(r" *\\\n *", " ", text).splitlines()
        if re.match(r"(\.venv/bin/)?dmmc \w", line)
    ]  # fmt: skip
    assert commands, "the page shows no command"
    for command in commands:
        cli._parser().parse_args(shlex.split(command, comments=True)[1:])


@each_page
def test_links_and_figures_exist(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for target in targets:
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if fragment:
            assert fragment in anchors(file), f"{page.name} links to {target}, but there is no such heading"


def test_every_figure_is_shown_and_can_be_made():
    shown = {name for page in PAGES for name in re.findall(r"\(figures/([\w-]+\.png)\)", page.read_text())}
    present = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    assert shown == present
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "figures").iterdir()) < 1_000_000
    namespace = {"__name__": "make_figures"}
    exec(compile((ROOT / "docs" / "make_figures.py").read_text(), "make_figures.py", "exec"), namespace)
    assert {f"{name}.png" for name in namespace["FIGURES"]} == present

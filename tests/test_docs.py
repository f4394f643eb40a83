"""What the documentation says is true: its Python runs, its commands parse, its links and names lead somewhere."""

import functools
import importlib
import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import dmmc
from dmmc.cli import main as cli
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.gallery import registry
from dmmc.model.reference import GaussianReference
from helpers import SMALL, random_model

ROOT = Path(__file__).parents[1]
README, INDEX = ROOT / "README.md", ROOT / "docs" / "index.md"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_COMMANDS = {"README.md", "diagnostics.md", "exactness.md", "gallery.md"}
FIGURES = ROOT / "docs" / "figures"
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page, language=None):
    """Fenced blocks of a language (None: of any or none) as ``(first line, text)``, without their indentation."""
    text = page.read_text()
    return [
        (text[: m.start(3)].count("\n") + 1, re.sub(f"^{m[1]}", "", m[3], flags=re.M))
        for m in FENCE.finditer(text)
        if language in (None, m[2])
    ]


def without_blocks(page):
    return FENCE.sub("", page.read_text())


def anchors(page):
    """Headings as GitHub turns them into fragments of a link."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that the pages in docs speak of, as small as they can be: a proposal that is good, if untrained."""
    out = tmp_path_factory.mktemp("docs")
    action, lattice = dmmc.Phi4(0.2, 0.1), dmmc.Lattice((4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # of short chains
        for method in ("cluster", "hmc"):
            run = dmmc.make_ensemble(
                action, lattice, out / f"{method}.h5", method=method, chains=8, draws=100, keep_every=5, thermalise=20
            )
        phi = torch.as_tensor(run.cfgs(), dtype=torch.float32)
        reference = GaussianReference.measure(phi, lattice, False, action)
        model = random_model(reference, action, SMALL, strength=0.05, dtype=torch.float32)
        model.save(out / "model.safetensors")
        dmmc.sample(model, out / "chain.h5", chains=8, draws=64, flow_steps=2, reference=run)
    return out


def give_options(monkeypatch, name, **options):
    """Give a function of the front door options that make it cheap, whatever the page says."""
    function = getattr(dmmc, name)
    monkeypatch.setattr(dmmc, name, lambda *args, **given: function(*args, **(given | options)))


def make_small(monkeypatch, model):
    """Small lattices, few draws, hardly any training: seconds in place of minutes."""
    lattice = dmmc.Lattice
    monkeypatch.setattr(dmmc, "Lattice", lambda shape: lattice((4,) * len(shape)))
    monkeypatch.setattr(dmmc, "load_pretrained", functools.cache(lambda name: dmmc.load_model(model)))
    give_options(monkeypatch, "make_ensemble", chains=16, draws=40, keep_every=5)
    give_options(monkeypatch, "train", minutes=None, steps=4, config={"filters": 2, "hidden1": 4, "hidden2": 3})
    give_options(monkeypatch, "sample", chains=8, draws=40, flow_steps=2)


@each_page
def test_python_runs(page, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    give_options(monkeypatch, "make_ensemble", thermalise=20, trajectory=1.0)
    give_options(monkeypatch, "sample", discard=4)
    if page in (README, INDEX):
        make_small(monkeypatch, files / "model.safetensors")  # and it makes all of its files itself
    else:
        for path in files.iterdir():
            shutil.copy(path, tmp_path)
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


def test_the_first_example_is_short_and_needs_dmmc_only():
    _, text = blocks(README, "python")[0]
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 12
    assert [line for line in lines if "import" in line] == ["import dmmc"]
    names = set(re.findall(r"\bdmmc\.(\w+)", text))
    assert {"make_ensemble", "train", "sample"} <= names <= set(dmmc.__all__)


@each_page
def test_commands_have_these_options(page):
    commands = [
        line for _, text in blocks(page) for line in re.sub(r" *\\\n *", " ", text).splitlines()
        if re.match(r"(\.venv/bin/)?dmmc \w", line)
    ]  # fmt: skip
    assert commands or page.name not in WITH_COMMANDS, "the page shows no command"
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        cli._parser(words[0]).parse_args(words)


@each_page
def test_options_in_the_text_exist(page):
    """An option that stands by itself belongs to some command; one after a command belongs to that command."""
    options = {
        name: {option for action in _subparser(name)._actions for option in action.option_strings}
        for name in cli.COMMANDS
    }
    for code in re.findall(r"`([^`\n]*)`", without_blocks(page)):
        command = re.match(r"dmmc ([\w-]+)", code)
        possible = options[command[1]] if command else set().union(*options.values())
        if command or code.startswith("--"):
            assert set(re.findall(r"--[a-z][\w-]*", code)) <= possible, code


def _subparser(command):
    (commands,) = (action for action in cli._parser(command)._actions if action.dest == "command")
    return commands.choices[command]


@each_page
def test_make_targets_and_scripts_exist(page):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    text = page.read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)) <= set(targets)
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


@each_page
def test_names_exist(page):
    """Dotted names such as ``dmmc.model.posterior``, and paths such as ``model/posterior.py``."""
    code = " ".join(re.findall(r"`([^`\n]*)`", without_blocks(page)))
    for name in re.findall(r"\bdmmc(?:\.\w+)+", code):
        if not re.search(r"\.(py|h5)$", name):
            assert resolves(name), f"{page.name} speaks of {name}"
    for path in re.findall(r"[\w.]+(?:/[\w.]+)+\.py\b|[\w.]+(?:/[\w.]+)*/(?=\s|$)", code):
        assert any((folder / path).exists() for folder in (ROOT, ROOT / "dmmc")) or path in MADE, path


MADE = {"quickstart/", "exactness/", "gallery/"}
"""Folders that commands make."""


def resolves(name):
    """Whether a module, or something in a module, has this dotted name."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@each_page
def test_links_and_figures_exist(page):
    check_links(page, without_blocks(page))


def check_links(page, text):
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if fragment:
            assert fragment in anchors(file), f"{page.name} links to {target}, but there is no such heading"


def test_every_figure_is_shown_and_can_be_made():
    shown = {name for page in PAGES for name in re.findall(r"\(figures/([\w-]+\.png)\)", page.read_text())}
    present = {path.name for path in FIGURES.glob("*.png")}
    assert shown == present
    assert sum(path.stat().st_size for path in FIGURES.glob("*.png")) < 1_000_000
    namespace = {"__name__": "make_figures"}
    exec(compile((ROOT / "docs" / "make_figures.py").read_text(), "make_figures.py", "exec"), namespace)
    assert {f"{name}.png" for name in namespace["FIGURES"]} == present


def test_every_figure_of_the_gallery_is_shown_beside_the_command_that_makes_it():
    folder = FIGURES / "gallery"
    every = []
    for page in PAGES:
        text = page.read_text()
        shown = re.findall(r"\(figures/gallery/([\w-]+\.png)\)", text)
        made = set(re.findall(r"\bdmmc gallery ([\w-]+)(?: --quick)? --seed \d+", text))
        assert set(shown) <= {f"{name}-{figure}.png" for name in made for figure in registry.exhibit(name).figures}
        every += shown
    assert sorted(every) == sorted(path.name for path in folder.iterdir()), "run docs/make_gallery.py"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000


def cells(kind):
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_committed_as_written():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, "clear the outputs of the notebook"
    check_links(NOTEBOOK, FENCE.sub("", "\n\n".join(cells("markdown"))))


def test_the_notebook_needs_the_front_door_only():
    code = "\n".join(cells("code"))
    assert re.findall(r"^\s*(?:import|from) (dmmc.*)$", code, re.M) == ["dmmc"]
    names = set(re.findall(r"\bdmmc\.(\w+)", code))
    assert {"make_ensemble", "train", "sample"} <= names <= set(dmmc.__all__)
    for name in re.findall(r"\bdmmc(?:\.\w+)+", code):
        assert resolves(name), f"the notebook speaks of {name}"


def test_every_page_can_be_reached():
    """From the tables of contents of the site, and from the table about code of one's own."""
    listed = set(
        re.findall(
            r"^(?:\w+ <)?([\w./]+)>?$", "\n".join(re.findall(r"^:::.*?^:::", INDEX.read_text(), re.M | re.S)), re.M
        )
    )
    docs = ROOT / "docs"
    assert {(docs / name).resolve() for name in listed} == {
        path.with_suffix("")
        for path in [README, ROOT / "CONTRIBUTING.md", NOTEBOOK, *docs.glob("*.md")]
        if path != INDEX
    }
    table = (docs / "own_code.md").read_text()
    assert {path.name for path in (docs / "own_code").iterdir()} == set(re.findall(r"\(own_code/([\w.]+)\)", table))

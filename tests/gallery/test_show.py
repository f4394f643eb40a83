"""An exhibit in its folder: what is written, what is made anew, and what is refused."""

import json

import pytest

from dmmc.cli import gallery as command
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.gallery import ensembles, registry
from dmmc.gallery.exhibit import Drawing, Exhibit, Findings, Request
from dmmc.gallery.kept import kept_run
from dmmc.gallery.show import RESULT, show
from dmmc.pages.figures import make_panels
from dmmc.runs.run import load_run


def quick(folder, name="line", seed=1, **others):
    return Request(folder / name, folder, quick=True, seed=seed, say=lambda _: None, **others)


class Maker:
    """An exhibit of one line, which counts how often it is made and may be interrupted."""

    def __init__(self, name="line", figures=("line",), fails=False):
        self.exhibit = Exhibit(name, "A line", "nobody, 2024", 0.1, self.make, figures=figures, files=("part.h5",))
        self.calls, self.fails = 0, fails

    def make(self, request):
        self.calls += 1
        kept_run(request.folder / "part.h5", lambda resume: ensembles_like(request, resume))
        if self.fails:
            raise KeyboardInterrupt
        figure, (ax,) = make_panels(4, 3)
        ax.plot([0, 1])
        drawing = Drawing("line", figure, "It rises <steeply>.")
        return Findings((drawing,), "a  b", ("One sentence.",), {"z": float("nan"), "n": (1, 2)})


def ensembles_like(request, resume):
    from dmmc.runs.chain import ChainOptions
    from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
    from dmmc.theory.lattice import Lattice

    options = EnsembleOptions(chains=4, thermalise=10, run=ChainOptions(24, seed=request.child_seed("part")))
    make_ensemble(ensembles.action("symmetric"), Lattice((4, 4)), request.folder / "part.h5", options, resume=resume)


def test_an_exhibit_writes_figure_page_and_numbers_once(tmp_path):
    maker = Maker()
    shown = show(maker.exhibit, quick(tmp_path))
    folder = tmp_path / "line"
    assert {path.name for path in folder.iterdir()} == {"plan.json", "part.h5", "line.png", "page.html", "result.json"}
    page = (folder / "page.html").read_text()
    assert "dmmc gallery line --quick --seed 1" in page and "One sentence." in page and "data:image/svg" in page
    assert "&lt;steeply&gt;" in page and "<steeply>" not in page
    assert json.loads((folder / "result.json").read_text())["numbers"] == {"z": None, "n": [1, 2]}
    assert show(maker.exhibit, quick(tmp_path)) == shown == RESULT.read(folder)
    assert maker.calls == 1
    show(maker.exhibit, quick(tmp_path), overwrite=True)
    assert maker.calls == 2


def test_an_interrupted_exhibit_goes_on_with_what_it_has(tmp_path):
    maker = Maker(fails=True)
    with pytest.raises(KeyboardInterrupt):
        show(maker.exhibit, quick(tmp_path))
    part = tmp_path / "line" / "part.h5"
    before = part.stat().st_mtime_ns
    maker.fails = False
    show(maker.exhibit, quick(tmp_path))
    assert maker.calls == 2 and part.stat().st_mtime_ns == before
    show(maker.exhibit, quick(tmp_path), overwrite=True)
    assert part.stat().st_mtime_ns > before


def test_other_requests_and_files_of_others_are_refused(tmp_path):
    maker = Maker()
    show(maker.exhibit, quick(tmp_path))
    with pytest.raises(MismatchError, match="seed is 1 there and 2 here"):
        show(maker.exhibit, quick(tmp_path, seed=2))
    with pytest.raises(MismatchError, match="exhibit is line there and other here"):
        show(Maker("other").exhibit, quick(tmp_path))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "line.png").write_text("mine")
    with pytest.raises(FileError, match=r"new holds line\.png"):
        show(Maker("new").exhibit, quick(tmp_path, "new"))
    assert maker.calls == 1 and (tmp_path / "new" / "line.png").read_text() == "mine"


def test_what_an_exhibit_did_not_declare_is_refused(tmp_path):
    with pytest.raises(DmmcError, match="draws line, which its figures do not name"):
        show(Maker(figures=()).exhibit, quick(tmp_path))


def test_every_exhibit_is_where_the_registry_says_and_declares_itself():
    names = [registry.exhibit(name).name for name in registry.NAMES]
    assert names == list(registry.NAMES)
    for line, name in zip(command._listed(), names, strict=True):
        assert line.startswith(name) and "]" in line
    with pytest.raises(DmmcError, match="no exhibit 'mona-lisa'"):
        registry.exhibit("mona-lisa")


def test_seeds_of_parts_differ_between_exhibits_and_parts(tmp_path):
    seeds = [quick(tmp_path, name, seed).child_seed(part) for name in "ab" for seed in (1, 2) for part in "xy"]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(DmmcError, match="seed"):
        quick(tmp_path, seed=-1)


def test_ensembles_are_shared_and_independent_of_each_other(tmp_path):
    first, second = (ensembles.ensemble("broken", part, quick(tmp_path)) for part in ("training", "test"))
    assert len(first.cfgs()) == len(second.cfgs()) == 512
    assert not (first.cfgs() == second.cfgs()).any()
    path = ensembles.path_of("broken", "test", quick(tmp_path))
    before = path.stat().st_mtime_ns
    again = ensembles.ensemble("broken", "test", quick(tmp_path, "another"))
    assert path.stat().st_mtime_ns == before and (again.cfgs() == second.cfgs()).all()
    assert load_run(path).header.action["kappa"] == 0.5
    # Another seed and the full size have files of their own.
    other = {path, ensembles.path_of("broken", "test", quick(tmp_path, seed=2))}
    assert len(other | {ensembles.path_of("broken", "test", Request(tmp_path / "x", tmp_path))}) == 3

"""What ``import dmmc`` gives: quick, documented, and enough for a run from the action to the report."""

import inspect
import json
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dmmc
from dmmc.core import rng
from dmmc.kernels.of_model import KernelOptions
from dmmc.model.network import network_class
from dmmc.runs.summary_records import RunSummary
from user_kernel import GuidedWalk

README = """
import dmmc

action = dmmc.Phi4(kappa=0.27, lam=0.022)
lattice = dmmc.Lattice((16, 16))
hmc = dmmc.make_ensemble(action, lattice, "hmc.h5")
model = dmmc.train(hmc, "model.safetensors", minutes=5)
run = dmmc.sample(model, "chain.h5", reference=hmc)
print(run.summary())
run.report("report.html", beside=[hmc])
"""
"""The example of the README. Here it runs on a tiny lattice, with short chains and a small network."""

TINY = {
    "kappa=0.27, lam=0.022": "kappa=0.2, lam=0.05",
    "16, 16": "4, 4",
    '"hmc.h5"': '"hmc.h5", chains=16, draws=24, keep_every=2, thermalise=20',
    "minutes=5": "steps=60, config={'filters': 3, 'hidden1': 6, 'hidden2': 4}",
    "reference=hmc": "reference=hmc, chains=8, draws=40, flow_steps=4",
}


def in_a_new_process(code):
    """What the code prints, as JSON."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def test_importing_loads_neither_torch_nor_numpy():
    loaded = in_a_new_process("import sys, json, dmmc; print(json.dumps(sorted(sys.modules)))")
    heavy = {"torch", "numpy", "h5py", "scipy", "matplotlib", "tqdm", "msgspec"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    # Only the version, and what threads and forked processes need: the public names come when they are used.
    own = {name for name in loaded if name.startswith("dmmc.")}
    assert own == {"dmmc.core", "dmmc.core.forks", "dmmc.core.threads", "dmmc.core.version"}


def test_names_that_need_no_torch_load_none():
    code = "import sys, json, dmmc; dmmc.DmmcError, dmmc.diagnostics; print(json.dumps('torch' in sys.modules))"
    assert in_a_new_process(code) is False


def test_every_public_name_is_there_and_documented():
    assert list(dmmc.__all__) == sorted(dmmc.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(set(dmmc.__all__)) == len(dmmc.__all__)
    assert dir(dmmc) == sorted(dmmc.__all__)
    for name in dmmc.__all__:
        value = getattr(dmmc, name)
        assert inspect.getdoc(value), name
        assert name == "__version__" or f"`{name}`" in dmmc.__doc__, name
    assert issubclass(dmmc.DmmcError, Exception) and inspect.ismodule(dmmc.diagnostics)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'dmmc' has no attribute 'nonsense'"):
        _ = dmmc.nonsense
    assert not hasattr(dmmc, "workflow")


def test_no_package_has_the_name_of_something_else():
    """Python makes a package an attribute of its parent, where it would hide a function of the same name."""
    packages = {module.name for module in pkgutil.iter_modules(dmmc.__path__)}
    assert {name for name in dmmc.__all__ if name in packages} == {"diagnostics"}
    import dmmc.pages.figures as figures

    assert inspect.ismodule(figures) and inspect.isfunction(dmmc.report)


def test_signatures_are_typed_and_documented():
    for name in ("make_ensemble", "train", "sample", "run_chain", "load_model", "load_run", "report"):
        function = getattr(dmmc, name)
        for parameter in inspect.signature(function).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter)
            documented = parameter.name in function.__doc__ or len(inspect.signature(function).parameters) <= 2
            assert documented, (name, parameter)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The folder and the names of the example of the README, after it ran."""
    folder = tmp_path_factory.mktemp("readme")
    code = README
    for old, new in TINY.items():
        assert code.count(old) == 1
        code = code.replace(old, new)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, names)
    for run in (names["hmc"], names["run"]):
        object.__setattr__(run, "path", folder / run.path)
    return folder, names


def test_the_example_of_the_readme(example):
    text = (Path(dmmc.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert README in text and len(README.strip().splitlines()) <= 12
    folder, names = example
    assert {path.name for path in folder.iterdir()} == {"hmc.h5", "model.safetensors", "chain.h5", "report.html"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "HMC" in page and "diffusion" in page and "data:image/svg" in page
    assert isinstance(names["run"], dmmc.Run) and isinstance(names["model"], dmmc.DiffusionModel)


def test_results_show_themselves(example):
    _, names = example
    run, hmc, model = names["run"], names["hmc"], names["model"]
    assert repr(run) == "Run chain.h5: diffusion, 8 chains x 40 draws, phi4 on 4 x 4"
    summary = run.summary()
    assert isinstance(summary, RunSummary) and summary.observables["M2"].error > 0
    for text in (str(summary), repr(summary)):
        assert "acceptance" in text and "<M^2>" in text
    html = run._repr_html_()
    assert "Run chain.h5" in html and html.count("<table>") == 2 and "Run hmc.h5" in hmc._repr_html_()
    assert repr(model) == (
        "DiffusionModel of φ⁴, κ = 0.2, λ = 0.05 (hopping form) on 4 x 4; network interaction with 1182 weights; "
        "symmetry z2; trained for 60 steps"
    )
    assert repr(names["lattice"]) == "Lattice(shape=(4, 4))" and repr(names["action"]) == str(names["action"])
    assert "not trained" in repr(dmmc.DiffusionModel.untrained(model.reference, None, symmetry="z2"))


def test_runs_are_read_back_and_shortened(example):
    folder, names = example
    run = dmmc.load_run(folder / "chain.h5")
    assert isinstance(run, dmmc.Run) and repr(run) == repr(names["run"])
    later = run.discarding(10)
    assert isinstance(later, dmmc.Run) and later.n_draws == 30 and later.discarded == 10
    np.testing.assert_array_equal(later.observables["M"], run.observables["M"][:, 10:])
    assert "the first 10 draws discarded" in repr(later) and "after the first 10" in str(later.summary())
    assert dmmc.load_model(folder / "model.safetensors").fingerprint() == names["model"].fingerprint()
    with pytest.raises(dmmc.DmmcError, match="no file"):
        dmmc.load_run(folder / "missing.h5")


def test_ways_out(example):
    pytest.importorskip("arviz")
    pytest.importorskip("pyerrors")
    _, names = example
    run = names["run"]
    arviz = run.to_arviz()
    np.testing.assert_array_equal(arviz.posterior["M2"].values, run.observables["M2"])
    np.testing.assert_array_equal(arviz.sample_stats["accepted"].values, run.stats["accepted"])
    assert run.to_pyerrors()["M2"].value == pytest.approx(run.observables["M2"].mean())


def test_a_page_about_several_runs(example, tmp_path):
    folder, names = example
    written = dmmc.report(
        *(names["hmc"], folder / "chain.h5", folder / "model.safetensors"),
        out=tmp_path / "page.html",
        title="All of it",
        discard=4,
    )
    assert written.title == "All of it" and written.reference == "HMC"
    assert "<h1>All of it</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(dmmc.DmmcError, match="exists"):
        dmmc.report(names["hmc"], out=tmp_path / "page.html")


def test_files_in_the_way_are_noticed_before_the_work(example, monkeypatch):
    folder, names = example

    def begun(*args, **kwargs):
        raise AssertionError("the work has begun")

    for place in ("ensemble.HMC.tune", "sampling.make_kernel", "training.fit"):
        monkeypatch.setattr(f"dmmc.studies.{place}", begun)
    for make in (
        lambda: dmmc.make_ensemble(names["action"], names["lattice"], folder / "hmc.h5"),
        lambda: dmmc.train(names["hmc"], folder / "model.safetensors"),
        lambda: dmmc.sample(names["model"], folder / "chain.h5"),
        lambda: dmmc.run_chain(GuidedWalk(names["action"], names["lattice"]), folder / "hmc.h5"),
    ):
        with pytest.raises(dmmc.DmmcError, match="exists; choose another"):
            make()


def wall(phi, S):
    """A vector: the mean field of each row."""
    return phi.mean(2)


def test_a_kernel_of_ones_own(tmp_path):
    """A kernel with a state of its own runs, is resumed bit for bit, is reported and given to ArviZ."""
    pytest.importorskip("arviz")
    kernel = GuidedWalk(dmmc.Phi4(0.2, 0.05), dmmc.Lattice((4, 4)), 0.2)
    how = {"chains": 8, "discard": 20, "keep_every": 4, "observables": {"wall": wall}}
    how["derived"] = {"ratio": lambda mean: mean["wall"][1] ** 2 / mean["M2"]}
    whole = dmmc.run_chain(kernel, tmp_path / "whole.h5", draws=63, **how)
    # Blocks of 1, 2, 4, 8, 16, 16, ... draws: 31 is the end of one of them.
    dmmc.run_chain(kernel, tmp_path / "parts.h5", draws=31, **how)
    parts = dmmc.run_chain(kernel, tmp_path / "parts.h5", draws=63, resume=True, **how)
    assert set(parts.state) == {"phi", "S", "direction"} and (np.abs(parts.state["direction"]) == 1).all()
    for name, values in whole.observables.items():
        np.testing.assert_array_equal(parts.observables[name], values)
    for name in ("accepted", "acceptance_rate", "forward"):
        np.testing.assert_array_equal(parts.stats[name], whole.stats[name])
    assert parts.header.facts.label == "guided walk" and parts.header.discard == 20
    summary = parts.summary()
    assert {"wall[0]", "wall[3]", "ratio"} <= summary.observables.keys() and "20 steps were discarded" in str(summary)
    arviz = parts.to_arviz()
    np.testing.assert_array_equal(arviz.posterior["wall"].values, parts.observables["wall"])
    np.testing.assert_array_equal(arviz.sample_stats["forward"].values, parts.stats["forward"])
    with pytest.raises(dmmc.DmmcError, match="asks for the mean of 'nothing', which is not recorded"):
        dmmc.run_chain(kernel, tmp_path / "none.h5", derived={"ratio": lambda mean: mean["nothing"]})
    assert not list(tmp_path.glob("none*"))
    with pytest.raises(dmmc.DmmcError, match="share their random numbers and are not independent"):
        dmmc.report(parts, dmmc.load_run(tmp_path / "whole.h5"), out=tmp_path / "report.html")
    dmmc.report(parts, out=tmp_path / "report.html", derived=how["derived"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "guided walk" in page and "wall<sub>3</sub>" in page and ">ratio<" in page
    with pytest.raises(dmmc.DmmcError, match="the number of chains must be a positive integer"):
        dmmc.run_chain(kernel, tmp_path / "none.h5", chains=0)
    with pytest.raises(dmmc.DmmcError, match="width"):
        dmmc.run_chain(GuidedWalk(kernel.action, kernel.lattice, 0.3), tmp_path / "parts.h5", resume=True, **how)


@pytest.fixture(scope="module")
def bare():
    """A registered network without with_trace: one weight, ``N = a D phi``."""

    @dmmc.register_network("test-bare")
    class Bare(dmmc.Network):
        def __init__(self, reference):
            super().__init__(reference)
            self.a = torch.nn.Parameter(torch.zeros(()))

        def forward(self, modes, v, context=None):
            c = self.reference.c(modes)
            return self.a * c / (c + v.view(-1, 1, *[1] * c.ndim)) * modes

        def config(self):
            return {}

    return Bare


def test_a_network_of_ones_own(bare, example, tmp_path):
    assert network_class("test-bare") is bare
    _, names = example
    model = dmmc.train(names["hmc"], tmp_path / "model.safetensors", steps=20, network="test-bare")
    assert float(model.network.a) != 0 and model.history.steps == 20
    read = dmmc.load_model(tmp_path / "model.safetensors")
    assert read.fingerprint() == model.fingerprint() and repr(read) == repr(model)
    for kernel in ("path", "refresh"):
        options = KernelOptions(kernel, path_steps=8)
        run = dmmc.sample(read, tmp_path / f"{kernel}.h5", kernel=options, chains=16, draws=64)
        assert run.summary().acceptance > 0.1
        ours, other = (x.summary().observables["phi2"] for x in (run, names["hmc"]))
        assert abs(ours.value - other.value) < 5 * np.hypot(ours.error, other.error)
    for kernel in ("independence", "latent", "cycle"):
        with pytest.raises(dmmc.DmmcError, match=r"without with_trace.*use the kernel path or refresh"):
            dmmc.sample(read, tmp_path / "none.h5", kernel=kernel)
    assert not list(tmp_path.glob("none*"))


def test_errors_can_be_pickled():
    error = dmmc.DmmcError("say what to do")
    assert str(pickle.loads(pickle.dumps(error))) == "say what to do"


def test_the_warm_up_of_another_lattice_has_other_random_numbers(tmp_path, monkeypatch):
    names, stream = set(), rng.stream

    def recorded(seed, *name, **options):
        names.add(name)
        return stream(seed, *name, **options)

    monkeypatch.setattr(rng, "stream", recorded)
    for extent in (2, 3):
        kernel = dmmc.HMC(dmmc.Phi4(0.2, 0.1), dmmc.Lattice((extent,)), step_size=0.3, n_leapfrog=3)
        dmmc.run_chain(kernel, tmp_path / f"{extent}.h5", chains=2, draws=1, discard=0, tune=False)
    assert len([name for name in names if name[0] == "warm-up"]) == 2

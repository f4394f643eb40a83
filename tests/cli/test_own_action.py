"""An action of one's own on the command line: every command takes it, and check-action looks at it closely."""

import shutil
import sys

import numpy as np
import pytest

from commands import ENSEMBLE, TRAIN, dmmc, summary
from dmmc.runs.run import load_run
from own_actions import __file__ as MODULE

OWN = """
import dmmc
from {module} import S_numpy, dS_numpy

couplings = {{"kappa": 0.2, "lam": 0.05}}
theory = dmmc.action(S_numpy, dS_numpy, name="own", symmetry="z2", hopping=0.4, **couplings)
without = dmmc.action(S_numpy, name="own", **couplings)
twice = dmmc.action(S_numpy, lambda phi: 2 * dS_numpy(phi, **couplings), name="own", **couplings)
torch_like = dmmc.Phi4(**couplings)

def plain(phi):
    return S_numpy(phi, **couplings)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with a module of actions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copy(MODULE, tmp_path / "my_formulas.py")
    (tmp_path / "my_theory.py").write_text(OWN.format(module="my_formulas"))
    yield tmp_path
    for name in ("my_theory", "my_formulas"):
        sys.modules.pop(name, None)


def test_from_the_action_to_the_chain(own):
    theory = ("--action", "my_theory:theory")
    ensemble = [word for word in ENSEMBLE if word not in ("--kappa", "0.2", "--lam", "0.05")]
    assert dmmc(*ensemble, *theory, "--out", "hmc.h5") == 0
    assert load_run("hmc.h5").header.action == {"name": "own", "kappa": 0.2, "lam": 0.05}
    assert dmmc(*TRAIN, *theory, "--ensemble", "hmc.h5", "--steps", 5, "--out", "model.safetensors") == 0
    chain = (
        "sample",
        "--kernel",
        "path",
        "--path-steps",
        8,
        "--chains",
        8,
        "--model",
        "model.safetensors",
        "--draws",
        8,
    )
    assert dmmc(*chain, *theory, "--reference", "hmc.h5", "--out", "chain.h5") == 0
    # The same action without its gradient: the chain of a model needs none, and is the same.
    assert dmmc(*chain, "--action", "my_theory:without", "--out", "without.h5") == 0
    assert (load_run("chain.h5").observables["M"] == load_run("without.h5").observables["M"]).all()


def test_training_without_a_gradient(own, made, capsys):
    fields = load_run(made / "hmc.h5").cfgs()
    np.save("fields.npy", fields)
    without = ("--action", "my_theory:without")
    assert dmmc(*TRAIN, *without, "--ensemble", "fields.npy", "--steps", 5, "--out", "model.safetensors") == 0
    assert "the action has no gradient, so the model learns from the fields alone" in capsys.readouterr().err
    assert dmmc(*TRAIN[:1], "--init", "model.safetensors", *without, "--ensemble", "fields.npy", "--steps", 2,
                "--out", "again.safetensors") == 0  # fmt: skip


def test_scans_and_laboratories_take_it(own, monkeypatch):
    asked = {}
    for command in ("scan", "exactness"):
        place = {"scan": "dmmc.cli.scan.scan", "exactness": "dmmc.studies.exactness.run_laboratory"}[command]
        monkeypatch.setattr(place, lambda what, *args, **kwargs: asked.update(given=what) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dmmc(command, *(("--sizes", 4) if command == "scan" else ("--shape", 4, 4)), "--action", "my_theory:theory")
        action = asked["given"][0].action if command == "scan" else asked["given"].action
        assert action.describe()["name"] == "own"


@pytest.mark.parametrize(
    ("name", "has_grad"), [("theory", True), ("without", False), ("plain", False), ("torch_like", True)]
)
def test_a_right_action_passes(name, has_grad, own, capsys):
    assert dmmc("check-action", "--action", f"my_theory:{name}", "--shape", 4, 4, "--json", "found.json") == 0
    printed, found = capsys.readouterr().out, summary(own / "found.json")
    assert "WRONG" not in printed and f"gradient{'.grad' * has_grad} " in printed and "time of S" in printed
    assert found["lattice"] == [4, 4] and found["fields"] == 256 and ("gradient" in found["seconds"]) == has_grad
    assert {"argument", "values", "batch", "memory", "float32", "symmetry"} <= {
        test["what"] for test in found["findings"]
    }


def test_it_says_by_how_much_a_gradient_is_off(own, made, capsys):
    assert dmmc("check-action", "--action", "my_theory:twice", "--ensemble", made / "hmc.h5") == 2
    said = capsys.readouterr()
    assert "is not the gradient of S" in said.out and "multiplied by 0.5 it would be" in said.out
    assert said.err == "dmmc check-action: the action does not keep its contract; see WRONG above\n"

"""Theories on the command line: the external field beside any action, and actions of the package by name."""

import pytest

from commands import TRAIN, dmmc
from dmmc.cli import main as cli
from dmmc.cli.action import action_of
from dmmc.runs.run import load_run
from dmmc.theory.external_field import ExternalField
from dmmc.theory.free_field import FreeField
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sine_gordon import SineGordon
from dmmc.theory.yukawa import Yukawa

COMMANDS = {
    "ensemble": "ensemble --shape 4 4 --out new",
    "train": "train --ensemble old --out new",
    "sample": "sample --model old --out new",
    "scan": "scan",
    "exactness": "exactness",
    "import": "import old --out new",
    "check-action": "check-action --shape 4 4",
}
"""The commands that take an action, with what else they need."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "action"),
    [
        ("--kappa 0.2 --lam 0.1 --h 0.3", ExternalField(Phi4(0.2, 0.1), 0.3)),
        ("--m2 -4 --lam-mass 6 --h -0.3", ExternalField(Phi4.from_mass(-4, 6, 2), -0.3)),
        ("--free-mass 0.5 --h 0.3", ExternalField(FreeField(0.5), 0.3)),
        ("--action sine_gordon --set m2=0.1 alpha=-0.2 beta=2", SineGordon(0.1, -0.2, 2)),
        ("--action sine_gordon --set m2=0.1 --set alpha=1e-1 beta=2 --h 1", ExternalField(SineGordon(0.1, 0.1, 2), 1)),
        ("--kappa 0.2 --lam 0.1 --yukawa 0.3", Yukawa(Phi4(0.2, 0.1), 0.3)),
        (
            "--kappa 0.2 --lam 0.1 --h 1 --yukawa -1 --fermion-mass 0.1",
            Yukawa(ExternalField(Phi4(0.2, 0.1), 1), -1, 0.1),
        ),
        ("--action phi4 --set kappa=0.2 lam=0.1", Phi4(0.2, 0.1)),
        ("--action phi4 --set kappa=0.2 lam=0.1 scale=0.5", Phi4(0.2, 0.1, 0.5)),
    ],
)
def test_every_command_takes_it(command, options, action):
    words = f"{COMMANDS[command]} {options}".split()
    assert action_of(cli._parser(command).parse_args(words), 2) == action


def test_from_the_external_field_to_the_chain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    theory = "--kappa 0.2 --lam 0.05 --h 0.2"
    ensemble = f"ensemble {theory} --shape 3 3 --chains 16 --thermalise 20 --draws 24 --keep-every 2 --out hmc.h5"
    assert dmmc(*ensemble.split()) == 0
    assert dmmc(*TRAIN, "--ensemble", "hmc.h5", "--steps", 2, "--out", "model.safetensors") == 0
    sample = "sample --model model.safetensors --chains 8 --draws 8 --flow-steps 2 --reference hmc.h5"
    assert dmmc(*f"{sample} {theory} --out chain.h5".split()) == 0
    assert "The action declares that it has no symmetry." in capsys.readouterr().out
    action = ExternalField(Phi4(0.2, 0.05), 0.2).describe()
    assert load_run("hmc.h5").header.action == load_run("chain.h5").header.action == action
    # Neither the theory without h nor that with -h is the theory of the model.
    for other in ("--kappa 0.2 --lam 0.05", "--kappa 0.2 --lam 0.05 --h -0.2"):
        assert dmmc(*f"{sample} {other} --out other.h5".split()) == 2
        assert "the model was trained for" in capsys.readouterr().err
    assert dmmc("report", "chain.h5", "hmc.h5", "--out", "page.html") == 0
    assert "φ⁴ in an external field" in (tmp_path / "page.html").read_text()


def test_fermions_from_hmc_to_the_chain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    theory = "--kappa 0.2 --lam 0.05 --yukawa 0.2"
    for method in ("hmc", "pseudofermions", "determinants"):
        ensemble = f"ensemble {theory} --shape 4 2 --chains 16 --thermalise 20 --draws 24 --keep-every 2"
        assert dmmc(*f"{ensemble} --method {method} --observable condensate --out {method}.h5".split()) == 0
    assert "<psi-bar psi>" in capsys.readouterr().out
    assert dmmc(*TRAIN, "--ensemble", "hmc.h5", "--steps", 2, "--out", "model.safetensors") == 0
    sample = "sample --model model.safetensors --chains 8 --draws 8 --flow-steps 2 --reference hmc.h5"
    assert dmmc(*f"{sample} --observable condensate --out chain.h5".split()) == 0
    assert load_run("chain.h5").header.action == Yukawa(Phi4(0.2, 0.05), 0.2).describe()
    assert "<psi-bar psi>" in capsys.readouterr().out
    assert dmmc("report", "chain.h5", "hmc.h5", "pseudofermions.h5", "--out", "page.html") == 0
    assert "φ⁴ with Wilson fermions" in (tmp_path / "page.html").read_text()

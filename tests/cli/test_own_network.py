"""A network of one's own on the command line: imported, trained, saved, read and sampled."""

import subprocess
import sys

from commands import dmmc
from dmmc.runs.run import load_run

MODULE = """
import torch

import dmmc


@dmmc.register_network("decoupled")
class Decoupled(dmmc.Network):
    def __init__(self, reference):
        super().__init__(reference)
        self.strength = torch.nn.Parameter(torch.zeros(()))

    def config(self):
        return {}

    def forward(self, modes, v, context=None):
        return self.strength * modes
"""


def test_a_registered_network_goes_all_the_way(made, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_network.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "dmmc"]
    train = ["train", "--ensemble", made / "hmc.h5", "--steps", "2", "--levels", "8", "--trajectories", "2"]
    own = ["--trust", "own_network:Decoupled"]
    # Each command in a process of its own, which does not know the network from the one before.
    for command in (
        [*train, *own, "--network", "decoupled", "--out", "model"],
        ["sample", "--model", "model", *own, "--chains", "2", "--draws", "4", "--path-steps", "2", "--out", "chain.h5"],
    ):
        done = subprocess.run([*map(str, (*run, *command))], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "chain.h5").header.facts.name == "path"
    assert dmmc("sample", "--model", "model", "--out", "other.h5") == 2
    said = capsys.readouterr().err
    assert "no network 'decoupled' is registered" in said and "train again" not in said

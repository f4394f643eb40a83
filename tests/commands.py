"""Runs of the command line in this process, on lattices so small that a command takes a second or two."""

import json

from dmmc.cli import main as cli

ACTION = "--kappa 0.2 --lam 0.05"
THEORY = {"name": "phi4", "kappa": 0.2, "lam": 0.05, "scale": 1.0}
ENSEMBLE = f"ensemble {ACTION} --shape 4 4 --chains 16 --thermalise 20 --draws 24 --keep-every 2".split()
TRAIN = ["train", "--hidden1", "6", "--hidden2", "4", "--filters", "3", "--levels", "8", "--trajectories", "2"]
SAMPLE = ["sample", "--chains", "8", "--flow-steps", "4"]


def dmmc(*args):
    """Exit code of a command."""
    return cli.main([str(arg) for arg in args])


def summary(path):
    """The content of a file that ``--json`` wrote; infinities and NaN are no JSON."""

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def make_all(folder):
    """An ensemble, a model and a chain of it in ``folder``, with their summaries."""
    for name, arguments in {
        "hmc.h5": ENSEMBLE,
        "model.safetensors": [*TRAIN, "--ensemble", folder / "hmc.h5", "--steps", 100],
        "chain.h5": [
            *(*SAMPLE, "--model", folder / "model.safetensors", "--draws", 40, "--reference", folder / "hmc.h5"),
        ],
    }.items():
        record = (folder / name).with_suffix(".json")
        assert dmmc(*arguments, "--out", folder / name, "--json", record) == 0
    return folder

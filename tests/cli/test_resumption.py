"""Commands that were killed or interrupted, and go on with ``--resume`` or begin afresh."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import ACTION, ENSEMBLE, SAMPLE, TRAIN, dmmc, summary
from dmmc.core.threads import WORTH_THREADS
from dmmc.model.checkpoint import threads_of
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors
from dmmc.runs.run import load_run
from dmmc.studies.resumption import checkpoint_of

SCRIPT = """
import functools, sys, torch
torch.set_num_threads(1)
from dmmc.cli import main, train
train.TrainingOptions.__init__ = functools.partialmethod(train.TrainingOptions.__init__, checkpoint_seconds=0.0)
sys.exit(main.main(sys.argv[1:]))
"""


def kill_when(condition, *args):
    """Run a command in a process of its own, with a checkpoint after every step, and kill -9 it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while not condition():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
    finally:
        process.kill()
        _, message = process.communicate()
    assert process.returncode == -signal.SIGKILL, message


def assert_same_run(a, b):
    for group in ("observables", "stats"):
        there = getattr(b, group)
        assert getattr(a, group).keys() == there.keys()
        for name, value in getattr(a, group).items():
            np.testing.assert_array_equal(value, there[name])
    np.testing.assert_array_equal(a.cfg_index, b.cfg_index)
    if len(a.cfg_index):
        np.testing.assert_array_equal(a.cfgs(), b.cfgs())


def test_a_killed_training_is_resumed_bit_for_bit(made, tmp_path, capsys):
    train = [*TRAIN, "--ensemble", made / "hmc.h5", "--steps", 120]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"
    assert dmmc(*train, "--out", whole) == 0
    checkpoint = Path(f"{out}.checkpoint")

    def past(step):
        return checkpoint.exists() and read_tensors(checkpoint, "dmmc-training", 2).header["step"] >= step

    kill_when(lambda: past(7), *train, "--out", out)
    kill_when(lambda: past(40), *train, "--out", out, "--resume")
    assert not out.exists() and not past(120)
    # Other options do not fit the checkpoint; the same ones finish the training.
    assert dmmc(*train, "--out", out, "--resume", "--seed", 3) == 2
    capsys.readouterr()
    assert dmmc(*train, "--out", out, "--resume") == 0
    assert f"going on with {out}" in capsys.readouterr().err
    assert not checkpoint.exists()
    assert DiffusionModel.load(out).fingerprint() == DiffusionModel.load(whole).fingerprint()


def test_a_killed_chain_is_resumed_bit_for_bit(made, tmp_path, capsys):
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 120, "--block", 2]
    assert dmmc(*sample, "--out", tmp_path / "whole.h5") == 0
    out = tmp_path / "chain.h5"
    kill_when(lambda: len(list((tmp_path / "chain.h5.partial").glob("block_*.h5"))) > 8, *sample, "--out", out)
    assert not out.exists()
    assert dmmc(*sample, "--out", out) == 2
    capsys.readouterr()
    assert dmmc(*sample, "--out", out, "--resume", "--json", tmp_path / "chain.json") == 0
    assert f"going on with {out}" in capsys.readouterr().err
    assert_same_run(load_run(out), load_run(tmp_path / "whole.h5"))
    assert summary(tmp_path / "chain.json")["draws"] == 120


def test_where_nothing_was_saved_work_begins_afresh(made, tmp_path, capsys):
    commands = {
        "hmc.h5": ENSEMBLE,
        "model.safetensors": [*TRAIN, "--ensemble", made / "hmc.h5", "--steps", 3],
        "chain.h5": [*SAMPLE, "--model", made / "model.safetensors", "--draws", 6],
    }
    for name, arguments in commands.items():
        for folder, resume in (("resumed", ["--resume"]), ("fresh", [])):
            assert dmmc(*arguments, *resume, "--out", tmp_path / folder / name) == 0, name
            said = f"nothing of {tmp_path / folder / name} was saved yet: starting afresh" in capsys.readouterr().err
            assert said == bool(resume)
    for name in ("hmc.h5", "chain.h5"):
        assert_same_run(*(load_run(tmp_path / folder / name) for folder in ("resumed", "fresh")))
    models = (DiffusionModel.load(tmp_path / folder / "model.safetensors") for folder in ("resumed", "fresh"))
    assert len({model.fingerprint() for model in models}) == 1


def test_a_chain_that_was_killed_before_its_first_draw(made, tmp_path, monkeypatch, capsys):
    """The journal exists then, and has no blocks."""
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 6]

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmmc.runs.chain._block", killed)
        assert dmmc(*sample, "--out", tmp_path / "chain.h5") == 130
    assert dmmc(*sample, "--out", tmp_path / "chain.h5") == 2
    assert "holds an unfinished run" in capsys.readouterr().err
    assert dmmc(*sample, "--out", tmp_path / "chain.h5", "--resume") == 0
    assert dmmc(*sample, "--out", tmp_path / "whole.h5") == 0
    assert_same_run(load_run(tmp_path / "chain.h5"), load_run(tmp_path / "whole.h5"))


def test_a_finished_training_is_not_resumed(made, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    train = [*TRAIN, "--ensemble", made / "hmc.h5", "--steps", 2, "--out", out]
    assert dmmc(*train) == 0
    before = out.read_bytes()
    assert dmmc(*train, "--resume") == 2
    assert f"--init {out}" in capsys.readouterr().err and out.read_bytes() == before


def test_ctrl_c(made, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmmc.cli.sample.sample", interrupted)
    assert dmmc(*SAMPLE, "--model", made / "model.safetensors", "--out", tmp_path / "chain.h5") == 130
    assert "go on with the same command and --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", 2], "seed is 1 there and 2 here"),
        (["--chains", 4], "provenance"),
        (["--steps-per-draw", 2], "steps_per_draw"),
        (["--flow-steps", 5], "kernel"),
        (["--discard", 1], "discard"),
        (["--block", 3], "block"),
    ],
)
def test_resuming_a_chain_with_other_options_is_refused(change, message, made, tmp_path, capsys):
    out = tmp_path / "chain.h5"
    out.write_bytes((made / "chain.h5").read_bytes())
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 60, "--out", out, "--resume"]
    assert dmmc(*sample, *change) == 2
    assert message in capsys.readouterr().err
    assert out.read_bytes() == (made / "chain.h5").read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_a_run_goes_on_with_its_threads(tmp_path, capsys):
    # Sums are rounded differently with another number of threads.
    path, before = tmp_path / "run.h5", torch.get_num_threads()
    chain = ["ensemble", *ACTION.split(), "--shape", 4, "--chains", 4, "--thermalise", 3, "--out", path]
    try:
        assert dmmc(*chain, "--draws", 4, "--threads", 2) == 0
        for draws, options, threads, remark in (
            (5, (), 2, "with 2 CPU threads, as before; --threads changes that"),
            (6, ("--threads", 1), 1, "begun with 2 CPU threads, and goes on with 1"),
            (7, (), 1, "with 1 CPU threads, as before"),
        ):
            torch.set_num_threads(3)
            assert dmmc(*chain, "--draws", draws, "--resume", *options) == 0
            assert load_run(path).header.threads == threads == torch.get_num_threads()
            assert remark in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)


def test_a_training_goes_on_with_its_threads(made, tmp_path, capsys, monkeypatch):
    """They are in the checkpoint, which is all that there is if the model was not saved yet."""
    out, before = tmp_path / "model.safetensors", torch.get_num_threads()
    # A batch that is large enough for more than one thread.
    train = [*TRAIN, "--ensemble", made / "hmc.h5", "--steps", 2, "--levels", WORTH_THREADS // 8, "--out", out]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DiffusionModel, "save", interrupted)
    try:
        assert dmmc(*train, "--threads", 2) == 130
        for options, threads, remark in (
            ((), 2, "with 2 CPU threads, as before; --threads changes that"),
            (("--threads", 1), 1, "begun with 2 CPU threads, and goes on with 1"),
            ((), 1, "with 1 CPU threads, as before"),
        ):
            torch.set_num_threads(3)
            assert dmmc(*train, "--resume", *options) == 130
            assert threads_of(checkpoint_of(out)) == threads == torch.get_num_threads()
            assert remark in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)

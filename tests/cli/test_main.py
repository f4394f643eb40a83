"""The command line from end to end on tiny lattices, kills and resumption, and what it refuses."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dmmc.cli import main as cli
from dmmc.kernels import hmc
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.pretrained import pretrained_names
from dmmc.runs import storage
from dmmc.studies import quickstart, workflow


def words(text):
    return text.split()


ENSEMBLE = words("ensemble --kappa 0.2 --lam 0.05 --shape 4 4 --chains 16 --thermalise 20 --draws 24 --keep-every 2")
TRAIN = words("train --hidden 6 4 --filters 3 --levels 8 --trajectories 2")
SAMPLE = words("sample --chains 8 --flow-steps 4")


def dmmc(*args):
    """Exit code of a command in this process."""
    return cli.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an ensemble, a model and a chain of it, and their summaries."""
    folder = tmp_path_factory.mktemp("made")
    for name, arguments in {
        "hmc": [*ENSEMBLE],
        "model": [*TRAIN, "--ensemble", folder / "hmc.h5", "--steps", 100],
        "chain": [*SAMPLE, "--model", folder / "model.safetensors", "--draws", 40, "--reference", folder / "hmc.h5"],
    }.items():
        out = folder / (f"{name}.safetensors" if name == "model" else f"{name}.h5")
        assert dmmc(*arguments, "--out", out, "--json", folder / f"{name}.json") == 0
    return folder


def summary(path):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# The commands


def check_run_summary(found, path, chains, draws):
    run = storage.load_run(path)
    assert (found["chains"], found["draws"]) == (run.n_chains, run.n_draws) == (chains, draws)
    assert found["file"] == str(path) and found["lattice"] == [4, 4]
    assert found["action"] == {"name": "phi4", "kappa": 0.2, "lam": 0.05, "scale": 1.0}
    assert found["acceptance"] == pytest.approx(run.stats["accepted"].mean())
    assert ("energy_error" in found) == ("energy_error" in run.stats)
    if "energy_error" in found:
        assert found["energy_error"]["mean_exp_minus"] == pytest.approx(np.exp(-run.stats["energy_error"]).mean())
    names = {"M", "abs_M", "M2", "M4", "phi2", "S_per_site", "chi2", "chi2_signed", "binder", "xi"}
    assert found["observables"].keys() == names
    for entry in found["observables"].values():
        assert math.isfinite(entry["value"]) and entry["error"] > 0 and entry["tau_int"] > 0
    assert found["observables"]["phi2"]["value"] == pytest.approx(run.observables["phi2"].mean())
    assert found["tau_int"]["M2"]["value"] > 0 and "1/2" in found["tau_int"]["M2"]["unit"]
    assert found["wall_seconds"] and all(seconds >= 0 for seconds in found["wall_seconds"].values())
    return run


def test_ensemble(made):
    found = summary(made / "hmc.json")
    run = check_run_summary(found, made / "hmc.h5", 16, 24)
    assert found["kernel"] == "hmc" and 0.5 < found["acceptance"] <= 1
    assert found["ess_fraction"] is found["std_log_w"] is found["bias_bound_sigma"] is found["kl"] is None
    assert run.cfgs().shape == (16 * 12, 4, 4)


def test_cluster_ensemble_of_the_mass_form(tmp_path, capsys):
    # The same theory as m2 = (1 - 2 lam) / kappa - 4 and lam_m = lam / kappa^2.
    arguments = [arg for arg in ENSEMBLE if arg not in ("--kappa", "0.2", "--lam", "0.05")]
    out = tmp_path / "cluster.h5"
    assert dmmc(*arguments, "--m2", 0.5, "--lam-mass", 1.25, "--method", "cluster", "--out", out) == 0
    header = storage.load_run(out).header
    assert header["kernel"]["name"] == "cluster"
    assert header["action"] == pytest.approx({"name": "phi4", "kappa": 0.2, "lam": 0.05, "scale": math.sqrt(0.2)})
    printed = capsys.readouterr().out
    assert "acceptance" in printed and "chi2" in printed and str(out) in printed


def test_stuck_chains_are_refused(tmp_path, monkeypatch, capsys):
    def steep(action, lattice, n, generator):
        phi = fields(action, lattice, n, generator)
        phi[3] += 60.0
        return phi

    fields = hmc.first_fields
    monkeypatch.setattr(hmc, "first_fields", steep)
    assert dmmc(*ENSEMBLE, "--thermalise", 40, "--out", tmp_path / "hmc.h5") == 2
    assert "1 of 16 chains did not move" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ensemble_of_a_free_field(tmp_path):
    out = tmp_path / "free.h5"
    arguments = words("--shape 5 --chains 8 --thermalise 5 --draws 8")
    assert dmmc("ensemble", "--free-mass", 0.7, *arguments, "--out", out) == 0
    assert storage.load_run(out).header["action"] == {"name": "free", "mass": 0.7}


def test_train(made):
    found = summary(made / "model.json")
    assert found["steps"] == 100 and found["lattice"] == [4, 4] and not found["two_sector"]
    assert found["validation"][-1]["validation"] < found["validation"][-1]["gaussian"]
    assert found["wall_seconds"]["train"] > 0
    model = DiffusionModel.load(made / "model.safetensors")
    assert dict(model.action) == found["action"] == {"name": "phi4", "kappa": 0.2, "lam": 0.05, "scale": 1.0}
    assert model.network.size.hidden1 == 6 and model.network.size.filters == 3


def test_sample(made):
    found = summary(made / "chain.json")
    run = check_run_summary(found, made / "chain.h5", 8, 40)
    assert found["kernel"] == "independence"
    assert 0.3 < found["acceptance"] < 1 and 0 < found["ess_fraction"] < 1 and 0 < found["std_log_w"] < 2
    assert found["std_log_w"] == pytest.approx(run.stats["log_w_proposed"].std(ddof=1))
    assert abs(found["expected_acceptance"] - found["acceptance"]) < 0.1
    assert 0 < found["bias_bound_sigma"] < 0.05 and found["rejected_not_finite"] == 0
    assert found["kl"]["log_z"] == pytest.approx(found["kl"]["log_z_reference"], abs=0.5)
    assert found["observables"]["M2"]["bias_bound"] == pytest.approx(
        found["bias_bound_sigma"] * run.observables["M2"].std()
    )
    assert "bias_bound" not in found["observables"]["xi"]
    assert found["bias_bound_sigma"] == pytest.approx(run.evaluation["delta"].std(ddof=1))
    assert run.evaluation["log_w_reference"].shape == (len(storage.load_run(made / "hmc.h5").cfg_index),)
    # From the prior at the largest noise level to a field of the model.
    assert run.evaluation["denoising"].shape == (5, 4, 4)
    np.testing.assert_array_equal(run.evaluation["denoising_level"], [1, 0.75, 0.5, 0.25, 0])
    assert run.evaluation["denoising_noise"][-1] == 0 and (np.diff(run.evaluation["denoising_noise"]) < 0).all()


def test_the_model_of_one_lattice_starts_that_of_another(made, tmp_path):
    ensemble, out = tmp_path / "hmc.h5", tmp_path / "model.safetensors"
    arguments = [{"4": "5", "0.2": "0.21"}.get(arg, arg) for arg in ENSEMBLE]
    assert dmmc(*arguments, "--out", ensemble) == 0
    init = ["--init", made / "model.safetensors"]
    assert dmmc(*TRAIN, "--ensemble", ensemble, "--steps", 2, *init, "--out", out) == 0
    assert DiffusionModel.load(out).lattice.shape == (5, 5)


def test_foreign_ensembles(made, tmp_path):
    fields = storage.load_fields(made / "hmc.h5")
    np.save(tmp_path / "foreign.npy", fields.astype(np.float32))
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["cfgs"] = fields
    for name in ("foreign.npy", "foreign.h5"):
        out = tmp_path / f"{name}.safetensors"
        action = words("--kappa 0.2 --lam 0.05")
        assert dmmc(*TRAIN, "--ensemble", tmp_path / name, *action, "--steps", 2, "--out", out) == 0
        assert DiffusionModel.load(out).action["kappa"] == 0.2


def test_overwrite(made, tmp_path):
    out = tmp_path / "chain.h5"
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 4, "--out", out]
    assert dmmc(*sample) == 0
    assert dmmc(*sample, "--seed", 2) == 2
    assert dmmc(*sample, "--seed", 2, "--overwrite") == 0
    assert storage.load_run(out).header["seed"] == 2


def test_extension(made, tmp_path):
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--block", 5]
    assert dmmc(*sample, "--draws", 10, "--out", tmp_path / "a.h5") == 0
    assert dmmc(*sample, "--draws", 20, "--out", tmp_path / "a.h5", "--resume") == 0
    assert dmmc(*sample, "--draws", 20, "--out", tmp_path / "b.h5") == 0
    a, b = (storage.load_run(tmp_path / name).observables["M"] for name in ("a.h5", "b.h5"))
    np.testing.assert_array_equal(a, b)


def test_version_and_help(capsys):
    for arguments, text in [(["--version"], "dmmc "), (["--help"], "quickstart"), (["sample", "--help"], "--model")]:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        out = capsys.readouterr().out
        assert stop.value.code == 0 and text in out and "default: None" not in out


def test_ctrl_c(made, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "sample", interrupted)
    assert dmmc(*SAMPLE, "--model", made / "model.safetensors", "--out", tmp_path / "chain.h5") == 130
    assert "--resume" in capsys.readouterr().err


def test_quickstart(tmp_path, capsys):
    options = quickstart.QuickstartOptions(
        kappa=0.2, lam=0.05, shape=(4, 4), minutes=None, steps=20, draws=12, chains=8, baseline_draws=60
    )
    out = tmp_path / "new" / "quickstart"
    found = quickstart.quickstart(options, out)
    figures = {f"{name}.png" for name in ("denoising", "magnetisation", "autocorrelation", "log_weights", "two_point")}
    assert {path.name for path in out.iterdir()} == {*quickstart.FILES, "table.txt", "report.html", *figures}
    assert {Path(path).name for path in found["figures"]} == figures
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    json.dumps(found, allow_nan=False)
    assert found["table"] == (out / "table.txt").read_text().rstrip("\n")
    assert all(name in found["table"] for name in ("cluster", "HMC", "diffusion", "xi"))
    assert found["acceptance"] > 0.1 and found["kl"] is not None
    assert found["baselines"].keys() == {"HMC", "cluster"}
    assert "train train" in found["wall_seconds"]
    assert "4/4" in capsys.readouterr().out
    with pytest.raises(quickstart.FileError, match="holds an earlier run"):
        quickstart.quickstart(options, out)


def test_quickstart_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        quickstart,
        "QuickstartOptions",
        functools.partial(quickstart.QuickstartOptions, kappa=0.2, lam=0.05, shape=(4, 4), chains=8),
    )
    arguments = words("quickstart --steps 2 --draws 4 --baseline-draws 60")
    arguments += ["--out", tmp_path / "q", "--json", tmp_path / "q.json"]
    assert dmmc(*arguments) == 0
    assert "report.html" in capsys.readouterr().out
    assert summary(tmp_path / "q.json")["draws"] == 4
    assert dmmc(*arguments) == 2
    assert "holds an earlier run" in capsys.readouterr().err
    # What is refused must not remove an earlier result first.
    assert dmmc(*arguments, "--overwrite", "--draws", 0) == 2
    assert (tmp_path / "q" / "chain.h5").exists()
    assert dmmc(*arguments, "--overwrite", "--seed", 5) == 0
    assert storage.load_run(tmp_path / "q" / "chain.h5").header["seed"] == 5


# Kills

SCRIPT = """
import functools, sys, torch
torch.set_num_threads(1)
from dmmc.cli import main as cli
from dmmc.model import training
training.TrainingOptions = functools.partial(training.TrainingOptions, checkpoint_seconds=0.0)
sys.exit(cli.main(sys.argv[1:]))
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


def test_a_killed_training_is_resumed_bit_for_bit(made, tmp_path):
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
    assert dmmc(*train, "--out", out, "--resume") == 0
    assert not checkpoint.exists()
    assert DiffusionModel.load(out).fingerprint() == DiffusionModel.load(whole).fingerprint()


def test_a_killed_chain_is_resumed_bit_for_bit(made, tmp_path):
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 120, "--block", 2]
    assert dmmc(*sample, "--out", tmp_path / "whole.h5") == 0
    out = tmp_path / "chain.h5"
    kill_when(lambda: len(list((tmp_path / "chain.h5.partial").glob("block_*.h5"))) > 8, *sample, "--out", out)
    assert not out.exists()
    assert dmmc(*sample, "--out", out) == 2
    assert dmmc(*sample, "--out", out, "--resume", "--json", tmp_path / "chain.json") == 0
    whole, resumed = storage.load_run(tmp_path / "whole.h5"), storage.load_run(out)
    for name, value in whole.observables.items():
        np.testing.assert_array_equal(resumed.observables[name], value)
    for name, value in whole.stats.items():
        np.testing.assert_array_equal(resumed.stats[name], value)
    np.testing.assert_array_equal(resumed.cfgs(), whole.cfgs())
    assert summary(tmp_path / "chain.json")["draws"] == 120


# What is refused


@pytest.fixture(scope="module")
def bad(made, tmp_path_factory):
    """A folder of files that are wrong in one way each, next to links to good ones."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("hmc.h5", "model.safetensors", "chain.h5"):
        (folder / name).write_bytes((made / name).read_bytes())
    fields = storage.load_fields(made / "hmc.h5")
    np.save(folder / "good.npy", fields)
    np.save(folder / "few.npy", fields[:10])
    np.save(folder / "one.npy", fields[:1])
    np.save(folder / "zero.npy", 0 * fields)
    np.save(folder / "nan.npy", np.where(np.arange(len(fields)) == 5, np.nan, fields.T).T)
    np.save(folder / "flat.npy", fields.ravel())
    np.save(folder / "complex.npy", fields + 1j)
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "other_lattice.npy", fields[:, :, :3])
    (folder / "text").write_text("kappa = 0.27\n")
    (folder / "empty").write_bytes(b"")
    for name in ("hmc.h5", "model.safetensors"):
        content = (made / name).read_bytes()
        (folder / f"truncated_{name}").write_bytes(content[: len(content) // 2])
    damaged = bytearray((made / "hmc.h5").read_bytes())
    with h5py.File(made / "hmc.h5") as file:
        damaged[file["cfgs"].id.get_chunk_info(0).byte_offset + 1000] ^= 1
    (folder / "damaged.h5").write_bytes(damaged)
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["configurations"] = fields
    write_tensors(folder / "other.safetensors", {"x": torch.zeros(2)}, "something-else", 1, {})
    write_tensors(folder / "newer.safetensors", {"x": torch.zeros(2)}, "dmmc-model", 99, {})
    (folder / "directory").mkdir()
    (folder / "unfinished.h5.partial").mkdir()
    writer = storage.RunWriter.create(folder / "unfinished.h5", {"n_draws": 3})
    writer.close()
    return folder


ACTION, FIELDS = "--kappa 0.2 --lam 0.05", "--ensemble hmc.h5 --steps 2"
FORM = "ensemble --shape 4 4 --out new"
BASE = f"{FORM} {ACTION}"
MODEL = "sample --model model.safetensors --draws 4 --out new"
LEARN = "train --steps 2 --out new"

BAD = [
    # Actions
    (f"{FORM}", "say which action"),
    (f"{FORM} --kappa 0.2", "needs all of --kappa --lam"),
    (f"{FORM} --lam 0.1", "needs all of --kappa --lam"),
    (f"{FORM} --m2 0.2", "needs all of --m2 --lam-mass"),
    (f"{BASE} --m2 0.2", "one form"),
    (f"{BASE} --free-mass 1", "one form"),
    (f"{FORM} --kappa nan --lam 0.1", "kappa must be a finite number"),
    (f"{FORM} --kappa inf --lam 0.1", "kappa must be a finite number"),
    (f"{FORM} --kappa -0.2 --lam 0.1", "kappa must be positive"),
    (f"{FORM} --kappa 0 --lam 0.1", "kappa must be positive"),
    (f"{FORM} --kappa 0.2 --lam 0", "lam must be positive"),
    (f"{FORM} --kappa 0.2 --lam -1", "lam must be positive"),
    (f"{FORM} --m2 nan --lam-mass 1", "m2 must be a finite number"),
    (f"{FORM} --m2 -4 --lam-mass 0", "lam_m must be positive"),
    (f"{FORM} --free-mass 0", "mass must be positive"),
    (f"{FORM} --free-mass 1 --method cluster", "phi^4 only"),
    # Lattices and lengths
    (f"ensemble --shape 0 4 --out new {ACTION}", "1 to 4 positive extents"),
    (f"ensemble --shape 4 -4 --out new {ACTION}", "1 to 4 positive extents"),
    (f"ensemble --shape 2 2 2 2 2 --out new {ACTION}", "1 to 4 positive extents"),
    (f"{BASE} --draws 0", "--draws must be at least 4"),
    (f"{BASE} --draws 3", "--draws must be at least 4"),
    (f"{BASE} --chains 0", "at least one chain"),
    (f"{BASE} --thermalise 0", "thermalisation"),
    (f"{BASE} --trajectory 0", "trajectory length must be a positive number"),
    (f"{BASE} --trajectory inf", "trajectory length must be a positive number"),
    (f"{BASE} --steps-per-draw 0", "must be positive"),
    (f"{BASE} --keep-every -1", "not negative"),
    (f"{BASE} --block 0", "must be positive"),
    (f"{BASE} --seed -1", "--seed must be between"),
    (f"{BASE} --seed 9223372036854775808", "--seed must be between"),
    (f"{BASE} --threads 0", "--threads must be positive"),
    (f"{BASE} --device nonsense", "--device nonsense cannot be used"),
    (f"{BASE} --device meta", "--device meta cannot be used"),
    (f"{BASE} --device cuda:99", "--device cuda:99 cannot be used"),
    # Outputs
    (f"{BASE} --out hmc.h5", "exists"),
    (f"{BASE} --out directory", "is a directory"),
    (f"{BASE} --out text/new", "not a directory that can be written to"),
    (f"{BASE} --out unfinished.h5", "holds an unfinished run"),
    (f"{BASE} --json missing/summary.json", "no directory missing"),
    (f"{BASE} --json directory", "is a directory"),
    (f"{BASE} --resume", "nothing to resume"),
    (f"{BASE} --out text --resume", "not an HDF5 file"),
    (f"{LEARN} --ensemble hmc.h5 --out model.safetensors", "exists"),
    (f"{LEARN} --ensemble hmc.h5 --out model.safetensors --resume", "nothing to resume"),
    (f"{LEARN} --ensemble hmc.h5 --out never-begun --resume", "no training to resume"),
    (f"{LEARN} --ensemble hmc.h5 --out directory", "is a directory"),
    (f"{MODEL} --out chain.h5", "exists"),
    (f"{MODEL} --resume", "nothing to resume"),
    # Ensembles
    (f"{LEARN} --ensemble missing.h5", "there is no file missing.h5"),
    (f"{LEARN} --ensemble directory", "is a directory"),
    (f"{LEARN} --ensemble empty", "is empty"),
    (f"{LEARN} --ensemble text", "not an HDF5 file"),
    (f"{LEARN} --ensemble truncated_hmc.h5", "truncated or damaged"),
    (f"{LEARN} --ensemble damaged.h5", "damaged"),
    (f"{LEARN} --ensemble unfinished.h5", "is not finished"),
    (f"{LEARN} --ensemble foreign.h5 {ACTION}", "no dataset /cfgs"),
    (f"{LEARN} --ensemble good.npy", "does not say its action"),
    (f"{LEARN} --ensemble nan.npy {ACTION}", "NaN or infinite"),
    (f"{LEARN} --ensemble flat.npy {ACTION}", "must have shape"),
    (f"{LEARN} --ensemble complex.npy {ACTION}", "must be real numbers"),
    (f"{LEARN} --ensemble object.npy {ACTION}", "not a readable .npy file"),
    (f"{LEARN} --ensemble few.npy {ACTION}", "at least 24 configurations"),
    (f"{LEARN} --ensemble one.npy {ACTION}", "at least 2 configurations"),
    (f"{LEARN} --ensemble zero.npy {ACTION}", "propagator must be positive"),
    (f"{LEARN} --ensemble hmc.h5 --kappa 0.3 --lam 0.05", "leave out the action flags"),
    (f"{LEARN} --ensemble hmc.h5 --init text", "not a safetensors file"),
    (f"{LEARN} --ensemble hmc.h5 --init missing", "no file missing"),
    (f"{LEARN} --ensemble hmc.h5 --init model.safetensors --sectors two", "cannot start one of two"),
    # Training
    ("train --ensemble hmc.h5 --out new --steps 0", "budget must be positive"),
    ("train --ensemble hmc.h5 --out new --minutes nan", "budget must be positive"),
    ("train --ensemble hmc.h5 --out new --minutes -1", "budget must be positive"),
    (f"{LEARN} --ensemble hmc.h5 --levels 0", "must be positive"),
    (f"{LEARN} --ensemble hmc.h5 --learning-rate nan", "learning_rate > 0"),
    (f"{LEARN} --ensemble hmc.h5 --hidden 0 4", "at least 1 channel"),
    (f"{LEARN} --ensemble hmc.h5 --seed -1", "--seed must be between"),
    # Models
    ("sample --model missing --out new", "there is no file missing"),
    ("sample --model directory --out new", "there is no file directory"),
    ("sample --model text --out new", "not a safetensors file"),
    ("sample --model truncated_model.safetensors --out new", "truncated"),
    ("sample --model other.safetensors --out new", "not a dmmc-model file"),
    ("sample --model newer.safetensors --out new", "newer dmmc"),
    ("sample --pretrained nonsense --out new", "no pretrained model 'nonsense'"),
    (f"{MODEL} --kappa 0.21 --lam 0.05", "was trained for"),
    (f"{MODEL} --free-mass 1", "was trained for"),
    (f"{MODEL} --shape 8 8", "was trained on lattice (4, 4), not (8, 8)"),
    (f"{MODEL} --draws 0", "--draws must be at least 4"),
    (f"{MODEL} --chains 0", "number of chains must be positive"),
    (f"{MODEL} --flow-steps 0", "must be positive"),
    (f"{MODEL} --determinants 17", "of the 16 proposals of the certificate at most"),
    (f"{MODEL} --kernel path --determinants 8", "for kernels with a flow"),
    (f"{MODEL} --kernel nonsense", "the kernel is one of independence"),
    (f"{MODEL} --kernel path --flow-steps 8", "has no integrator"),
    (f"{MODEL} --kernel latent --target-acceptance 2", "must lie between 0 and 1"),
    (f"{MODEL} --kernel path --level 0.5", "level is an option of the kernel refresh"),
    (f"{MODEL} --kernel refresh --level 0", "noise level must lie above 0"),
    (f"{MODEL} --path-steps 8", "path_steps is an option"),
    (f"{MODEL} --reference other_lattice.npy", "is on a lattice (4, 3), not (4, 4)"),
    (f"{MODEL} --reference nan.npy", "NaN or infinite"),
    # Quickstart
    ("quickstart --out text", "is a file"),
    ("quickstart --out new --draws 0", "--draws must be at least 4"),
    ("quickstart --out new --steps 0", "budget must be positive"),
    ("quickstart --out new --minutes nan", "budget must be positive"),
    ("quickstart --out new --baseline-draws 10", "--baseline-draws must be at least 60"),
    ("quickstart --out new --seed -1", "--seed must be between"),
]


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[arguments for arguments, _ in BAD])
def test_bad_input_is_refused(arguments, message, bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    before = contents(bad)
    try:
        code, after = cli.main(arguments.split()), contents(bad)
    finally:  # the next one is to find the folder as it was
        for path in contents(bad).keys() - before.keys():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    captured = capsys.readouterr()
    assert message in captured.err
    # One message, not a traceback; and nothing written.
    assert code == 2 and captured.err.startswith("dmmc ") and captured.err.count("\n") == 1
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("nonsense", "invalid choice"),
        (f"{BASE} --method metropolis", "invalid choice"),
        (f"{BASE} --draws many", "invalid int value"),
        ("sample --out new", "one of the arguments --model --pretrained is required"),
        (f"train {FIELDS} --minutes 1 --out new", "not allowed with"),
        ("train --steps 3 --out new", "--ensemble"),
    ],
)
def test_what_is_no_command_is_refused(arguments, message, bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", 2], "seed is 1 there and 2 here"),
        (["--chains", 4], "provenance"),
        (["--steps-per-draw", 2], "steps_per_draw"),
        (["--flow-steps", 5], "kernel"),
    ],
)
def test_resuming_a_chain_with_other_options_is_refused(change, message, made, tmp_path, capsys):
    out = tmp_path / "chain.h5"
    out.write_bytes((made / "chain.h5").read_bytes())
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 60, "--out", out, "--resume"]
    assert dmmc(*sample, *change) == 2
    assert message in capsys.readouterr().err
    assert out.read_bytes() == (made / "chain.h5").read_bytes() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5") == 2
    assert "can be written to" in capsys.readouterr().err


def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_commit", full)
    assert dmmc(*ENSEMBLE, "--out", tmp_path / "new.h5") == 1
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"steps": 0}, {"draws": 3}, {"baseline_draws": 59}, {"minutes": math.inf}])
def test_bad_sizes_of_a_quickstart_are_refused_from_python_too(options):
    with pytest.raises(quickstart.DmmcError):
        quickstart.QuickstartOptions(**options)


def test_pretrained_models_are_known_by_name(capsys, tmp_path):
    for name in pretrained_names():
        assert dmmc("sample", "--pretrained", name, "--shape", 3, "--out", tmp_path / "new") == 2
        assert "was trained on lattice" in capsys.readouterr().err

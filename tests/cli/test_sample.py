"""``dmmc sample``."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import SAMPLE, dmmc, summary
from dmmc.model.pretrained import pretrained_names
from dmmc.model.schedules import VE
from dmmc.runs.run import load_run
from dmmc.runs.summary_records import RunSummary
from dmmc.studies.foreign import foreign
from records import check_run_summary

OBSERVABLES = """
import torch


def kinetic(phi, S):
    return sum((phi - phi.roll(1, axis)).square().flatten(1).mean(1) for axis in (1, 2))


def slices(phi, S):
    return phi.mean(2)


def ratio(mean):
    return mean["slices"][1] ** 2 / mean["kinetic"]
"""


def test_sample(made):
    read = RunSummary.from_json(summary(made / "chain.json"))
    run = check_run_summary(read, made / "chain.h5", 8, 40)
    assert read.facts.name == "independence" and read.facts.independent_weights
    assert 0.3 < read.acceptance < 1 and 0 < read.ess_fraction < 1 and 0 < read.std_log_w < 2
    assert read.std_log_w == pytest.approx(run.stats["log_w_proposed"].std(ddof=1))
    assert abs(read.expected_acceptance - read.acceptance) < 0.1
    assert 0 < read.bias_bound_sigma < 0.05 and read.rejected_not_finite == 0
    assert read.kl.log_z == pytest.approx(read.kl.log_z_reference, abs=0.5)
    assert read.observables["M2"].bias_bound == pytest.approx(read.bias_bound_sigma * run.observables["M2"].std())
    assert read.observables["xi"].bias_bound is None
    assert read.bias_bound_sigma == read.certificate.limit_95
    assert run.evaluation["log_w_reference"].shape == (len(load_run(made / "hmc.h5").cfg_index),)
    # From the prior at the largest noise level to a field of the model.
    assert run.evaluation["denoising"].shape == (5, 4, 4)
    np.testing.assert_array_equal(run.evaluation["denoising_level"], [1, 0.75, 0.5, 0.25, 0])
    assert run.evaluation["denoising_noise"][-1] == 0 and (np.diff(run.evaluation["denoising_noise"]) < 0).all()
    assert read.wall_seconds.keys() == {"warm-up", "chain", "reference weights", "certificate"}
    assert read.symmetry == "z2" and "declared by the action" in read.symmetry_evidence


def test_the_reference_stands_beside_the_chain(made, tmp_path, capsys):
    fields = tmp_path / "fields.npy"
    np.save(fields, load_run(made / "hmc.h5").cfgs())
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 8]
    assert dmmc(*sample, "--out", tmp_path / "a.h5", "--reference", made / "hmc.h5") == 0
    said = capsys.readouterr().out
    assert re.search(r"^observable +HMC \(reference\) +diffusion +z$", said, re.MULTILINE) and "<|M|>" in said
    assert dmmc(*sample, "--out", tmp_path / "b.h5", "--reference", fields) == 0
    assert "(reference)" not in capsys.readouterr().out  # fields alone have no errors


def test_observables_of_ones_own(made, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_observables.py").write_text(OBSERVABLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    out, record = tmp_path / "chain.h5", tmp_path / "chain.json"
    own = [*("--observable", "kinetic=own_observables:kinetic"), *("--observable", "slices=own_observables:slices")]
    own += ["--derived", "ratio=own_observables:ratio"]
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 40, *own]
    assert dmmc(*sample, "--out", out, "--json", record) == 0
    parts = {"kinetic", "ratio", *(f"slices[{k}]" for k in range(4))}
    run = check_run_summary(RunSummary.from_json(summary(record)), out, 8, 40, extra=parts)
    assert run.header.observables == ("kinetic", "slices")
    np.testing.assert_allclose(run.observables["slices"].mean(-1), run.observables["M"], rtol=0, atol=1e-12)
    printed = capsys.readouterr().out
    assert all(name in printed for name in parts)
    wanted = ["--derived", "ratio=own_observables:ratio"]
    assert dmmc("report", out, "--out", tmp_path / "page.html", *wanted) == 0
    assert ">ratio<" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_beginning_of_the_chain(made, tmp_path, capsys):
    read = summary(made / "chain.json")
    # Five rejection times of a good model are a few steps.
    assert 1 <= read["steps_discarded"] <= 30
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 8]
    for name, discard, steps in (("auto", [], read["steps_discarded"]), ("none", ["--discard", 0], 0)):
        out = tmp_path / f"{name}.h5"
        assert dmmc(*sample, *discard, "--out", out) == 0
        assert load_run(out).header.discard == steps
        assert (f"{steps} steps were discarded before the first draw" in capsys.readouterr().out) == (steps > 0)
        # Where the run goes on nothing has to be said about it again.
        assert dmmc(*sample, "--draws", 12, "--out", out, "--resume") == 0
        assert (load_run(out).header.discard, load_run(out).n_draws) == (steps, 12)
        capsys.readouterr()


def test_overwrite(made, tmp_path):
    out = tmp_path / "chain.h5"
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--draws", 4, "--out", out]
    assert dmmc(*sample) == 0
    assert dmmc(*sample, "--seed", 2) == 2
    assert dmmc(*sample, "--seed", 2, "--overwrite") == 0
    assert load_run(out).header.seed == 2


def test_extension(made, tmp_path):
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--block", 5]
    # Blocks have 1, 2, 4, 5, 5, ... draws; the first run ends with one of them.
    assert dmmc(*sample, "--draws", 12, "--out", tmp_path / "a.h5") == 0
    assert dmmc(*sample, "--draws", 22, "--out", tmp_path / "a.h5", "--resume") == 0
    assert dmmc(*sample, "--draws", 22, "--out", tmp_path / "b.h5") == 0
    a, b = (load_run(tmp_path / name).observables["M"] for name in ("a.h5", "b.h5"))
    np.testing.assert_array_equal(a, b)


def test_the_duration_of_long_work_is_said_first(made, tmp_path, monkeypatch, capsys):
    def begun(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmmc.runs.chain.run", begun)
    sample = [*SAMPLE, "--model", made / "model.safetensors", "--out", tmp_path / "chain.h5"]
    assert dmmc(*sample, "--draws", 10**6) == 130
    assert "The chain will take about" in capsys.readouterr().err


def test_pretrained_models_are_known_by_name(capsys, tmp_path):
    for name in pretrained_names():
        for command in (["sample", "--pretrained", name], ["sample", "--model", name], ["exactness", "--model", name]):
            assert dmmc(*command, "--shape", 3, "--out", tmp_path / "new") == 2
            assert "was trained" in capsys.readouterr().err


NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, sigma):
        return self.linear(x.unsqueeze(-1)).squeeze(-1)
"""


def test_networks_of_other_codes(made, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("own_net").Net()
    run = load_run(made / "hmc.h5")
    model = foreign(net, predicts="eps", schedule=VE(5.0), ensemble=run, arguments={}, say=lambda text: None)
    model.save(tmp_path / "net.safetensors")
    monkeypatch.setattr("dmmc.model.foreign._TRUSTED", {})
    sample = ["sample", "--chains", 4, "--draws", 8, "--discard", 0, "--model", tmp_path / "net.safetensors"]
    assert dmmc(*sample, "--out", tmp_path / "chain.h5") == 2
    assert "pass it to dmmc.trust_network first (on the command line: --trust MODULE:CLASS)" in capsys.readouterr().err
    wanted = ["--trust", "own_net:Net", "--path-steps", 2]
    assert dmmc(*sample, *wanted, "--out", tmp_path / "chain.h5") == 0
    assert load_run(tmp_path / "chain.h5").header.facts.name == "path"
    for text, message in (("own_net:Missing", "cannot be loaded"), ("math:pi", "takes a class of torch modules")):
        assert dmmc(*sample, "--trust", text, "--out", tmp_path / "none.h5") == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("none*"))

"""The demonstration, with everything small."""

import functools
import json
from pathlib import Path

import pytest

from commands import dmmc, summary
from dmmc.core.errors import FileError
from dmmc.core.records import plain
from dmmc.runs.run import load_run
from dmmc.studies import quickstart
from dmmc.studies.quickstart import QuickstartOptions, QuickstartSummary

SMALL = {"kappa": 0.2, "lam": 0.05, "shape": (4, 4), "chains": 8, "flow_steps": 4}


def test_quickstart(tmp_path, capsys):
    options = QuickstartOptions(minutes=None, steps=20, draws=12, baseline_draws=60, **SMALL)
    out = tmp_path / "new" / "quickstart"
    made = quickstart.quickstart(options, out)
    figures = {f"{name}.png" for name in ("denoising", "magnetisation", "autocorrelation", "log_weights", "two_point")}
    assert {path.name for path in out.iterdir()} == set(quickstart.FILES)
    assert {Path(path).name for path in made.figures} == figures
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert QuickstartSummary.from_json(json.loads(json.dumps(plain(made), allow_nan=False))) == made
    assert made.table == (out / "table.txt").read_text(encoding="utf-8").rstrip("\n")
    assert all(name in made.table for name in ("cluster", "HMC", "diffusion", "xi"))
    assert made.chain.acceptance > 0.1 and made.chain.kl is not None
    assert made.baselines.keys() == {"HMC", "cluster"}
    assert {"training: train", "diffusion: chain", "HMC: thermalise"} <= made.wall_seconds.keys()
    assert "4/4" in capsys.readouterr().out
    # The fields that are weighed as a reference were not trained on, and there are as many as are weighed.
    assert load_run(out / "chain.h5").evaluation["log_w_reference"].shape == (512,)
    with pytest.raises(FileError, match=r"holds hmc\.h5, cluster\.h5, .* which this demonstration would replace"):
        quickstart.quickstart(options, out)


def test_quickstart_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "dmmc.cli.quickstart.QuickstartOptions.__init__",
        functools.partialmethod(QuickstartOptions.__init__, **SMALL),
    )
    # Drawing takes longer than everything else here.
    monkeypatch.setattr(quickstart, "write_report", lambda runs, out, **_: out.write_text("a page"))
    monkeypatch.setattr(quickstart, "draw", lambda runs, sampled, out: ())
    arguments = ["quickstart", "--steps", "2", "--draws", "4", "--baseline-draws", "60"]
    arguments += ["--out", tmp_path / "q", "--json", tmp_path / "q.json"]
    assert dmmc(*arguments) == 0
    assert "report.html" in capsys.readouterr().out
    read = QuickstartSummary.from_json(summary(tmp_path / "q.json"))
    assert (read.chain.draws, read.chain.lattice) == (4, (4, 4))
    assert dmmc(*arguments[:-2]) == 2
    assert "which this demonstration would replace" in capsys.readouterr().err
    # What is refused must not remove an earlier result first.
    assert dmmc(*arguments, "--overwrite", "--draws", 0) == 2
    assert (tmp_path / "q" / "chain.h5").exists()

    (tmp_path / "q" / "mine.txt").write_text("")
    (tmp_path / "q" / "model.safetensors.checkpoint").write_text("")

    def begun(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "make_ensemble", begun)
    assert dmmc(*arguments, "--overwrite", "--seed", 5) == 130
    assert [path.name for path in (tmp_path / "q").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["report.html", "table.txt", "two_point.png", "chain.h5.partial"])
def test_files_of_others_are_not_replaced(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileError, match="would replace"):
        quickstart.quickstart(QuickstartOptions(), tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]

"""``dmmc train``."""

import h5py
import numpy as np
import pytest

from commands import ACTION, ENSEMBLE, THEORY, TRAIN, dmmc, summary
from dmmc.cli.train import TrainSummary
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.runs.fields import load_fields


def test_train(made):
    read = TrainSummary.from_json(summary(made / "model.json"))
    assert read.steps == 100 and read.lattice == (4, 4) and read.symmetry == "z2" and not read.two_sector
    assert read.kl_removed > 0 and read.wall_seconds["train"] > 0
    model = DiffusionModel.load(made / "model.safetensors")
    assert dict(model.action) == read.action == THEORY
    assert model.network.size.hidden1 == 6 and model.network.size.filters == 3
    last = model.history.curve[-1]
    assert last.validation < last.gaussian and last.kl_removed == read.kl_removed
    assert "symmetry phi -> -phi is declared by the action" in model.symmetry_evidence


def test_the_model_of_one_lattice_starts_that_of_another(made, tmp_path):
    ensemble, out = tmp_path / "hmc.h5", tmp_path / "model.safetensors"
    arguments = [{"4": "5", "0.2": "0.21"}.get(arg, arg) for arg in ENSEMBLE]
    assert dmmc(*arguments, "--out", ensemble) == 0
    init = ["--init", made / "model.safetensors"]
    assert dmmc(*TRAIN, "--ensemble", ensemble, "--steps", 2, *init, "--out", out) == 0
    model = DiffusionModel.load(out)
    assert model.lattice.shape == (5, 5) and model.history.before is not None


def test_foreign_ensembles(made, tmp_path):
    fields = load_fields(made / "hmc.h5")
    np.save(tmp_path / "foreign.npy", fields.astype(np.float32))
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["cfgs"] = fields
    for name in ("foreign.npy", "foreign.h5"):
        out = tmp_path / f"{name}.safetensors"
        assert dmmc(*TRAIN, "--ensemble", tmp_path / name, *ACTION.split(), "--steps", 2, "--out", out) == 0
        assert DiffusionModel.load(out).action["kappa"] == 0.2


def test_data_without_an_action_is_refused(made, tmp_path, capsys):
    np.save(tmp_path / "data.npy", load_fields(made / "hmc.h5"))
    out = tmp_path / "model.safetensors"
    assert dmmc(*TRAIN, "--ensemble", tmp_path / "data.npy", "--steps", 2, "--out", out) == 2
    assert "does not say an action that is known here; give it with --kappa and --lam" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("symmetry", ["none", "z2"])
def test_the_symmetry_that_was_asked_for(symmetry, made, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    arguments = [*TRAIN, "--ensemble", made / "hmc.h5", "--steps", 2, "--symmetry", symmetry]
    assert dmmc(*arguments, "--out", out, "--json", tmp_path / "model.json") == 0
    model = DiffusionModel.load(out)
    assert model.symmetry == symmetry == summary(tmp_path / "model.json")["symmetry"]
    assert model.network.odd == (symmetry == "z2") and "asked for" in model.symmetry_evidence
    assert model.symmetry_evidence in capsys.readouterr().err


def test_the_duration_of_long_work_is_said_first(made, tmp_path, monkeypatch, capsys):
    def begun(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmmc.studies.training.fit", begun)
    arguments = [*TRAIN, "--ensemble", made / "hmc.h5", "--out", tmp_path / "model.safetensors"]
    assert dmmc(*arguments) == 130
    assert "The training will take about 5 min 0 s." in capsys.readouterr().err
    assert dmmc(*arguments, "--minutes", 0.25) == 130
    assert "will take" not in capsys.readouterr().err


ROUNDS = [*TRAIN, *ACTION.split(), "--steps", 30, "--proposals", 128]


def test_rounds_from_a_free_field_and_on_from_there(tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    arguments = [*ROUNDS, "--rounds", 2, "--shape", 4, 4, "--out", out]
    assert dmmc(*arguments, "--json", tmp_path / "model.json") == 0
    told = capsys.readouterr()
    read = TrainSummary.from_json(summary(tmp_path / "model.json"))
    assert read.lattice == (4, 4) and read.steps == sum(record.steps for record in read.rounds)
    last = read.rounds[-1]
    assert last.proposals == 128 and last.steps == 0 and 0 < last.acceptance < 1
    assert f"proposals: ESS/N {last.ess:.3f}, acceptance {last.acceptance:.3f}" in told.out
    assert "fields of its own chain in" in told.out and "round 1: ESS/N" in told.err
    assert DiffusionModel.load(out).history.rounds.records == read.rounds
    # On to another coupling, without any ensemble; the action is that of the model where none is given.
    further = tmp_path / "further.safetensors"
    start = ["--rounds", 1, "--init", out, "--out", further]
    assert dmmc(*[{"0.2": "0.21"}.get(x, x) for x in ROUNDS], *start) == 0
    assert DiffusionModel.load(further).action["kappa"] == 0.21
    without = [x for x in ROUNDS if x not in ACTION.split()]
    assert dmmc(*without, *start, "--overwrite") == 0
    assert DiffusionModel.load(further).action["kappa"] == 0.2


def test_rounds_from_an_ensemble(made, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    arguments = [*TRAIN, "--steps", 30, "--proposals", 128, "--rounds", 1, "--ensemble", made / "hmc.h5"]
    assert dmmc(*arguments, "--least-ess", 0.2, "--out", out) == 0
    model = DiffusionModel.load(out)
    assert dict(model.action) == THEORY and model.history.before.steps == 15
    assert dmmc(*arguments, "--out", out) == 2
    assert "exists; choose another --out" in capsys.readouterr().err

"""The benchmarks run, as small as they can be."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def load_benchmark(monkeypatch, name):
    """The module of a benchmark."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run_benchmark(monkeypatch, name, *options):
    """Run a benchmark in this process, and return its module."""
    module = load_benchmark(monkeypatch, name)
    monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
    module.main()
    return module


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_cost(tmp_path, monkeypatch, capsys):
    module = run_benchmark(monkeypatch, "cost", tmp_path, "--quick")
    first = json.loads((tmp_path / "cost.json").read_text())
    costs = module.Costs.from_json(first["lattices"][0])
    diffusion, hmc = costs.entries["diffusion, small"], costs.entries["HMC"]
    assert hmc.cost["M2"] == min(costs.lengths.values()) and set(costs.lengths) == {"1", "2"}
    tau = diffusion.estimates["M2"].tau_int
    assert diffusion.cost["M2"] == pytest.approx(2 * max(tau, 0.5) * diffusion.seconds)
    assert costs.ratio("diffusion, small", "M2")[0] == pytest.approx(hmc.cost["M2"] / diffusion.cost["M2"])
    assert costs.models["diffusion, small"].steps == 20 and costs.models["diffusion, small"].evaluations > 0
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    # What is finished is read and not measured again.
    run_benchmark(monkeypatch, "cost", tmp_path, "--quick")
    assert json.loads((tmp_path / "cost.json").read_text()) == first
    assert "HMC, length" in capsys.readouterr().out


def test_training(tmp_path, monkeypatch, capsys):
    run_benchmark(monkeypatch, "training", tmp_path, "--quick")
    first = json.loads((tmp_path / "training.json").read_text())
    assert sorted(first) == [f"L6-small, {n} trajectories, seed 1, 0.2 s" for n in (0, 1)]
    assert all(0 < one["ess"] <= 1 and one["steps"] >= 1 for one in first.values())
    run_benchmark(monkeypatch, "training", tmp_path, "--quick")
    assert json.loads((tmp_path / "training.json").read_text()) == first
    assert "1 trajectories" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_volumes(tmp_path, monkeypatch, capsys):
    kernels = ["independence", "block 0.5", "independence + hmc 2 x2", "independence | hmc 2"]
    options = [tmp_path, "--quick", "--model", "phi4-flow-L8", "--kernels"]
    module = run_benchmark(monkeypatch, "volumes", *options, *kernels)
    first = json.loads((tmp_path / "volumes.json").read_text())
    (point,) = first.values()
    assert list(point["kernels"]) == kernels and 0 < point["acceptance"] < 1
    # The model is moved to another lattice, where it is not as good, and the way back is the way there all the same.
    assert point["std_log_w"] > 0.1 and abs(point["way_back"]) < 0.1 * point["std_log_w"]
    for one in point["kernels"].values():
        assert 0 < one["acceptance"] <= 1 and one["milliseconds"] > 0
        assert one["M2"]["n"] == module.QUICK.chains * 2 * module.PIECE  # 60 draws in pieces of 50
    # What is there is read, also by a call for other kernels, and costs are 2 tau_int times the time of a step.
    run_benchmark(monkeypatch, "volumes", *options, "independence", "independence + clusters")
    (then,) = json.loads((tmp_path / "volumes.json").read_text()).values()
    assert list(then["kernels"]) == [*kernels, "independence + clusters"]
    assert then["kernels"]["independence"]["M2"] == point["kernels"]["independence"]["M2"]
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines[::-1] if line.startswith("independence + clusters"))
    one = then["kernels"]["independence + clusters"]
    assert f"{2 * max(one['M2']['tau_int'], 0.5) * one['milliseconds']:.3g}(" in row
    with pytest.raises(ValueError, match="'cluster' is not a kernel"):
        run_benchmark(monkeypatch, "volumes", *options, "cluster")


def test_progress(tmp_path, monkeypatch, capsys):
    made = {
        # As the first version wrote it, with a second bound and nothing discarded, and as this one does.
        tmp_path: {
            "chains": 2,
            "draws": 10,
            "bias_bound_sigma": 1e-3,
            "bias_bound_sigma_95": 2e-3,
            "tau": 1.0,
            "s": 40.0,
        },
        BENCHMARKS.parents[1]: {"chains": 4, "draws": 10, "discard": 0, "steps_discarded": 10, "bias_bound_sigma": 1e-4}
        | {"tau": 0.3, "s": 4.0},
    }

    def command(words, cwd, env, check, capture_output):
        summary = dict(made[Path(env["PYTHONPATH"])])
        summary |= {"wall_seconds": {"chain": summary.pop("s")}, "observables": {"M2": {"tau_int": summary.pop("tau")}}}
        Path(words[words.index("--json") + 1]).write_text(json.dumps(summary))

    (tmp_path / "dmmc").mkdir()
    (tmp_path / "dmmc" / "__main__.py").touch()
    monkeypatch.setattr("subprocess.run", command)
    run_benchmark(monkeypatch, "progress", tmp_path)
    said = capsys.readouterr().out
    # 2 s a draw and tau_int 1; 50 ms, with the discarded steps, and tau_int 1/2 at least.
    assert (
        "effective M^2 4e+03 ms, bias at most 2.0e-03" in said and "effective M^2 50 ms, bias at most 1.0e-04" in said
    )
    assert "costs 80 times less now" in said


def test_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it shares the couplings with the benchmark of the training
    module = run_benchmark(monkeypatch, "sizes", tmp_path, "--quick")
    first = json.loads((tmp_path / "sizes.json").read_text())
    networks = ["small", "small, no diagonals"]
    trained = [f"L6, {name}, seed 1, 0.1 s" for name in networks]
    assert set(first) == {
        *trained,
        *(f"L6: seconds of {what}, {'; '.join(networks)}" for what in ("a training step", "an evaluation")),
    }
    for name in trained:
        assert first[name]["evaluations"]["0.1"] <= first[name]["evaluations"]["0.01"]
        assert 0 < first[name]["ess"] <= 1 and first[name]["tau_int"]["M2"][0] >= 0.5
    models = [module.dmmc.DiffusionModel.load(tmp_path / f"{name}.safetensors") for name in trained]
    assert [len(model.network.shells) for model in models] == [3, 2]
    # What is finished is read and not measured again.
    run_benchmark(monkeypatch, "sizes", tmp_path, "--quick")
    assert json.loads((tmp_path / "sizes.json").read_text()) == first
    assert "small, no diagonals" in capsys.readouterr().out
    # Trainings that start from these are others.
    run_benchmark(monkeypatch, "sizes", tmp_path, "--quick", "--start", 6, 0.1)
    again = module.dmmc.DiffusionModel.load(tmp_path / f"{trained[1]} from L6, 0.1 s.safetensors")
    assert again.history.before == models[1].history and len(again.network.shells) == 2
    # Several changes at once, and the size itself.
    ((name, config),) = module.changed("medium", "2 filters + 6 level knots")
    assert name == "medium, 2 filters + 6 level knots" and config == {
        "filters": 2, "hidden1": 16, "hidden2": 12, "level_knots": 6,
    }  # fmt: skip
    assert not list(module.changed("medium", "channels 16, 12"))
    assert list(module.changed("medium", "none")) == [("medium", module.SIZES["medium"])]
    with pytest.raises(SystemExit):
        run_benchmark(monkeypatch, "sizes", tmp_path, "--changes", "3 filter")
    assert "there is no change '3 filter'; choose from none, 2 filters" in capsys.readouterr().err


def test_the_table_of_sizes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = load_benchmark(monkeypatch, "sizes")

    def found(tau, evaluations):
        tau_int = {"M2": (tau, 0.1), "M": (0.4, 0.1)}
        facts = {"steps": 10, "ess": 0.5, "acceptance": 0.5, "tau_int": tau_int}
        return facts | {"evaluations": {"0.1": evaluations, "0.01": 2 * evaluations}}

    text = module.table({"a": [found(1.0, 30), found(3.0, 30)], "b": [found(4.0, 15)] * 2}, {"a": 1e-4, "b": 3e-4})
    *_, last = text.splitlines()
    # Twice the tau_int, half of the evaluations, three times the time of each: 3 in all. The seeds of the first network
    # scatter by a half, far more than the errors of its tau_int. Those are all there is to M, which has no
    # autocorrelation: 0.1 / 0.5 / sqrt(2) in both networks, 0.2 together.
    row = [x.strip() for x in last.split("  ") if x.strip()]
    assert row[-4:] == ["3.00", "3.00 +- 1.50", "3.00 +- 1.50", "1.50 +- 0.30"]

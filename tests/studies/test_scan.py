"""Scans: a tiny one from end to end, interrupted and resumed; its analysis on made-up results; what is refused."""

import copy
import json
import math
import shutil

import numpy as np
import pytest
import xarray as xr

from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.diagnostics import format_value
from dmmc.runs import chain, storage
from dmmc.studies.folder import load_result
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan import scan
from dmmc.studies.scan import table as scan_table
from dmmc.theory.actions import FreeField, Phi4


def words(text):
    return text.split()


TINY = words(
    "scan --dim 1 --sizes 4 6 --kappa 0.2 --lam 0.05 --steps 5 --chains 16 --thermalise 10 --draws 16 "
    "--diffusion-draws 16 --max-draws 96 --lengths 150 --flow-steps 2"
)


def dmmc(*args):
    """Exit code of a command in this process."""
    return cli.main([str(arg) for arg in args])


@pytest.fixture(autouse=True, scope="module")
def small_ensembles():
    """To train on: 32 fields."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "TRAINING_CHAINS", 8)
        patch.setattr(scan, "TRAINING_DRAWS", 32)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished scan; not to be changed."""
    out = tmp_path_factory.mktemp("scan") / "scan"
    assert dmmc(*TINY, "--out", out, "--json", out.parent / "summary.json") == 0
    return out


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(made, tmp_path / "scan")


def numbers(out):
    """All of a scan that does not depend on the clock or the folder."""
    summary = load_result(out, scan_table.RESULT)
    for key in ("table", "netcdf", "figures"):
        del summary[key]
    for result in summary["results"]:
        for key in ("file", "training_seconds"):
            del result[key]
        del result["cost"]["seconds"]
    return summary


# A scan


def test_a_scan_measures_every_sampler_at_every_point(made):
    summary = load_result(made, scan_table.RESULT)
    assert summary == json.loads((made.parent / "summary.json").read_text())
    found = [(result["point"], result["sampler"]) for result in summary["results"]]
    assert found == [(f"phi4_L{L}", sampler) for L in (4, 6) for sampler in ("hmc", "diffusion", "cluster")]
    for result in summary["results"]:
        run = storage.load_run(result["file"])
        assert run.header["lattice"] == result["lattice"] == [result["L"]]
        tau = result["tau_int"]["M2"]
        for kind, evaluations in run.header["evaluations"].items():
            assert result["cost"][kind]["value"] == pytest.approx(2 * tau["value"] * evaluations)
            assert result["cost"][kind]["error"] == pytest.approx(2 * tau["error"] * evaluations)
        seconds = run.summary["wall_seconds"]["chain"] / (run.summary["wall_draws"] * run.n_chains)
        assert result["cost"]["seconds"]["value"] == pytest.approx(2 * tau["value"] * seconds)
        assert ("network" if result["sampler"] == "diffusion" else "force") in result["cost"]
        assert result["acceptance"]["value"] == pytest.approx(run.stats["accepted"].mean())
        assert (result["training_seconds"] is None) == (result["sampler"] != "diffusion")


def test_chains_are_as_long_as_their_tau_int_asks(made):
    for result in load_result(made, scan_table.RESULT)["results"]:
        tau = max(one["value"] for one in result["tau_int"].values())
        n = result["chains"] * result["draws"]
        assert n >= 150 * tau or result["draws"] == 96
        assert result["draws"] >= 16
        assert all(one["resolved"] for one in result["tau_int"].values()) == (result["verdict"] == "good")


def test_chains_of_a_scan_share_no_random_numbers(made):
    seeds = [
        storage.load_run(path).header["seed"] for path in sorted(made.glob("*/*.h5")) if "ensemble" not in path.stem
    ]
    assert len(set(seeds)) == len(seeds) == 6


def test_the_second_model_starts_from_the_first(made, tmp_path, monkeypatch):
    given = []
    train = scan.workflow.train
    monkeypatch.setattr(scan.workflow, "train", lambda *args, **options: given.append(options["init"]) or
                        train(*args, **options))  # fmt: skip
    shutil.copytree(made / "phi4_L4", tmp_path / "scan" / "phi4_L4")
    shutil.copy(made / "plan.json", tmp_path / "scan")
    assert dmmc(*TINY, "--out", tmp_path / "scan", "--resume") == 0
    assert [one.lattice.shape for one in given] == [(4,)]
    assert numbers(tmp_path / "scan") == numbers(made)


def test_netcdf_holds_the_same_numbers(made):
    summary = load_result(made, scan_table.RESULT)
    with xr.open_dataset(made / "scan.nc", engine="h5netcdf") as data:
        assert data.sizes == {"sampler": 3, "point": 2}
        assert data.L.values.tolist() == [4, 6] and data.kappa.values.tolist() == [0.2, 0.2]
        for result in summary["results"]:
            here = data.sel(sampler=result["sampler"], point=result["point"])
            for name, pair in [
                ("xi", result["xi"]), ("binder", result["binder"]), ("acceptance", result["acceptance"]),
                *((f"tau_int_{name}", tau) for name, tau in result["tau_int"].items()),
                *((f"cost_{kind}", cost) for kind, cost in result["cost"].items()),
            ]:  # fmt: skip
                for suffix, key in (("", "value"), ("_error", "error")):
                    expected = math.nan if pair[key] is None else pair[key]
                    np.testing.assert_array_equal(here[name + suffix], expected)
                    assert data[name + suffix].attrs["units"] and data[name + suffix].attrs["long_name"]
            assert int(here.tau_int_M2_resolved) == result["tau_int"]["M2"]["resolved"]
            assert int(here.n_draws) == result["draws"]
        assert math.isnan(data.cost_network.sel(sampler="hmc", point="phi4_L4"))
        assert json.loads(data.attrs["plan"]) == summary["plan"]
        assert json.loads(data.attrs["fits"]) == summary["fits"]


def test_table_and_figures(made):
    summary = load_result(made, scan_table.RESULT)
    lines = (made / "table.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines[2:8]] == [
        [result["point"], result["sampler"]] for result in summary["results"]
    ]
    assert sum("z = " in line for line in lines) == len(summary["fits"])
    assert summary["figures"] == [str(made / f"{name}.png") for name in ("tau_xi", "tau_L", "cost", "acceptance")]
    assert all((made / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("tau_xi", "cost"))


# Interruption


def test_a_scan_goes_on_from_what_is_left_of_it(made, copied):
    last = copied / "phi4_L6"
    for name in ("cluster.h5", "diffusion.h5", "model.safetensors"):
        (last / name).unlink()
    for name in ("scan.json", "scan.nc", "table.txt"):
        (copied / name).unlink()
    kept = (last / "hmc.h5").stat().st_mtime_ns
    assert dmmc(*TINY, "--out", copied, "--resume") == 0
    assert numbers(copied) == numbers(made)
    assert (last / "hmc.h5").stat().st_mtime_ns == kept


@pytest.mark.parametrize("blocks", [1, 3, 6])
def test_a_scan_interrupted_within_a_chain_goes_on(blocks, made, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        made_blocks, block = [], chain._block

        def interrupted(*args):
            if len(made_blocks) == blocks:
                raise KeyboardInterrupt
            made_blocks.append(None)
            return block(*args)

        patch.setattr(chain, "_block", interrupted)
        assert dmmc(*TINY, "--out", tmp_path / "scan") == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "scan" / "scan.json").exists()
    with pytest.raises(FileError, match="not the result of a finished scan"):
        load_result(tmp_path / "scan", scan_table.RESULT)
    assert dmmc(*TINY, "--out", tmp_path / "scan", "--resume") == 0
    assert numbers(tmp_path / "scan") == numbers(made)


def test_another_scan_in_the_same_folder_is_refused(made, capsys):
    before = (made / "scan.json").read_bytes()
    for extra, message in [
        ([], "holds a scan; go on with --resume"),
        (["--resume", "--seed", 2], "seed is 1 there and 2 here"),
        (["--resume", "--samplers", "hmc"], "samplers is"),
        (["--resume", "--sizes", 4, 8], "points differ"),
        (["--resume", "--steps", 21], "steps is 5 there and 21 here"),
    ]:
        assert dmmc(*TINY, "--out", made, *extra) == 2
        assert message in capsys.readouterr().err
    assert (made / "scan.json").read_bytes() == before


def test_nothing_to_resume_and_damaged_plans(tmp_path, capsys):
    assert dmmc(*TINY, "--out", tmp_path / "new", "--resume") == 2
    assert "no scan to resume" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "plan.json").write_text('{"points":')
    assert dmmc(*TINY, "--out", tmp_path, "--overwrite") == 2
    assert "damaged" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert dmmc(*TINY, "--out", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_overwriting_removes_the_earlier_scan_and_nothing_else(copied):
    (copied / "notes.txt").write_text("mine")
    (copied / "phi4_L6" / "notes.txt").write_text("mine")
    small = words("scan --dim 1 --sizes 4 --kappa 0.21 --lam 0.05 --samplers hmc --chains 16 --draws 32 --max-draws 64")
    assert dmmc(*small, "--out", copied, "--overwrite") == 0
    files = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    assert files == {
        "notes.txt", "phi4_L6/notes.txt", "phi4_L4/hmc.h5", "plan.json", "table.txt", "scan.json", "scan.nc",
        "tau_xi.png", "tau_L.png", "cost.png", "acceptance.png",
    }  # fmt: skip


def test_chains_that_are_too_short_give_lower_bounds(tmp_path):
    # tau_int of |M| is about 40 there, and the chains end at 64 draws.
    critical = words("scan --sizes 16 --kappa 0.27 --lam 0.022 --samplers hmc --chains 8 --draws 64 --max-draws 64")
    assert dmmc(*critical, "--out", tmp_path / "scan") == 0
    (result,) = load_result(tmp_path / "scan", scan_table.RESULT)["results"]
    assert not result["tau_int"]["abs_M"]["resolved"]
    assert "lower bounds" in result["verdict"]
    assert ">" in (tmp_path / "scan" / "table.txt").read_text().splitlines()[2]


# Plans


def test_flow_benchmark():
    points = scan.flow_benchmark([64, 6])
    assert [(point.L, point.shape) for point in points] == [(6, (6, 6)), (64, (64, 64))]
    for point, lam_m in zip(points, (6.975, 4.398), strict=True):
        assert point.action.m2(2) == pytest.approx(-4) and point.action.lam_m == pytest.approx(lam_m)
    assert len({point.line for point in points}) == 1
    with pytest.raises(DmmcError, match="sizes 6, 8"):
        scan.flow_benchmark([7])


def test_grid_lines_are_along_what_changes():
    actions = {"kappa0.2": Phi4(0.2, 0.02), "kappa0.25": Phi4(0.25, 0.02)}
    assert [point.line for point in scan.grid(actions, [8, 4], 3, "L")] == ["kappa0.2"] * 2 + ["kappa0.25"] * 2
    points = scan.grid(actions, [8, 4], 3, "kappa")
    assert [(point.line, point.shape) for point in points] == [("L4", (4, 4, 4)), ("L8", (8, 8, 8))] * 2
    assert len({point.name for point in points}) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sizes 7", "flow benchmark has the sizes"),
        ("--sizes 6 --dim 3", "two-dimensional"),
        ("--kappas 0.2 0.21", "needs --lam"),
        ("--kappas 0.2 0.21 --lam 0.02 --kappa 0.2", "goes with --lam alone"),
        ("--kappas 0.2 -0.1 --lam 0.02", "kappa must be positive"),
        ("--along kappa", "needs --kappas"),
        ("--kappa 0.2 --lam 0.02 --sizes 1", "2 at least"),
        ("--kappa 0.2 --lam 0.02 --sizes 4 --dim 5", "--dim must be"),
        ("--kappa 0.2 --sizes 4", "needs all of"),
        ("--free-mass 0.5 --sizes 4", "leave out the sampler cluster"),
        ("--minutes 0", "budget must be positive"),
        ("--minutes 1 --draws 2", "4 draws at least"),
        ("--max-draws 100", "max_draws"),
        ("--chains 0", "must be positive"),
        ("--lengths 0", "lengths must be positive"),
        ("--trajectory -1", "trajectory length must be a positive number"),
        ("--samplers hmc hmc", "different ones"),
        ("--seed -1", "seed must be"),
        ("--device nonsense", "cannot be used"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(flags, message, tmp_path, capsys):
    assert dmmc("scan", *flags.split(), "--out", tmp_path / "scan") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "scan").exists()


def test_options_refuse():
    point = scan.grid({"free": FreeField(1.0)}, [4], 1, "L")
    for change, message in [
        ({"points": ()}, "needs points"),
        ({"points": point * 2}, "same name"),
        ({"along": "mass"}, "along L or kappa"),
        ({"samplers": ("nuts",)}, "different ones of hmc"),
        ({"seed": 2**63}, "seed"),
    ]:
        with pytest.raises(DmmcError, match=message):
            scan.ScanOptions(**{"points": point, "samplers": ("hmc",), **change})


# Analysis


def made_up(sizes=(6, 8, 10, 14, 20), z=2.0, kappas=None, seed=1, scatter=0.03):
    """Results of HMC and cluster at ``xi = L / 4``, or of several kappa about a Binder crossing at 0.271."""
    r = np.random.default_rng(seed)
    results = []
    for L in sizes:
        for kappa in kappas or [0.2]:
            for sampler, tau in (("hmc", 2 * (L / 4) ** z), ("cluster", 1.5)):
                x = L * (kappa - 0.271)
                U = 0.61 + 1.5 * x - 2 * x * x if kappas else 0.2

                def pair(value, relative):
                    return {"value": value * (1 + relative * r.standard_normal()), "error": relative * value}

                taus = {name: pair(tau, scatter) | {"resolved": True} for name in scan_table.TAUS}
                results.append({
                    "point": f"{kappa}_L{L}", "line": f"L{L}" if kappas else "all", "L": L, "lattice": [L, L],
                    "kappa": kappa, "lam": 0.022, "sampler": sampler, "chains": 64, "draws": 512,
                    "xi": pair(L / 4, 0.02), "binder": pair(U, 0.005), "acceptance": pair(0.8, 0.01), "tau_int": taus,
                    "cost": {"seconds": pair(0.001 * tau, 0.1), "force": pair(20 * tau, 0.1)}, "verdict": "good",
                })  # fmt: skip
    return results


def summarised(results, along):
    fits, notes = scan.power_laws(results, along)
    crossings, missed = scan.crossings(results, 1) if along == "kappa" else ([], [])
    xi = {point: {"value": x, "error": dx} for point, (x, dx) in scan.common_xi(results).items()}
    return {
        "along": along, "results": results, "xi": xi, "fits": fits, "crossings": crossings, "notes": notes + missed,
        "plan": {"samplers": ["hmc", "cluster"], "trajectory": 1.0},
    }  # fmt: skip


def fit_of(summary, **place):
    (fit,) = [fit for fit in summary["fits"] if all(fit[key] == value for key, value in place.items())]
    return fit


def test_power_laws_of_results():
    summary = summarised(made_up(), "L")
    assert len(summary["fits"]) == 2 * 3 * 2 and not summary["notes"]
    for against in ("xi", "L"):
        for sampler, z in (("hmc", 2), ("cluster", 0)):
            for observable in scan_table.TAUS:
                fit = fit_of(summary, against=against, sampler=sampler, observable=observable)
                assert abs(fit["z"] - z) < 5 * fit["z_error"] < 0.6
                assert fit["dof"] == 3 and len(fit["points"]) == 5
    assert fit_of(summary, against="L", sampler="hmc", observable="M2")["c"] == pytest.approx(2 / 16, rel=0.5)


def test_lower_bounds_are_not_fitted():
    results = made_up()
    for result in results:
        if (result["L"], result["sampler"]) == (20, "hmc"):
            result["tau_int"]["M2"] = {"value": 3.0, "error": 0.1, "resolved": False}
    summary = summarised(results, "L")
    fit = fit_of(summary, against="xi", sampler="hmc", observable="M2")
    assert "0.2_L20" not in fit["points"] and abs(fit["z"] - 2) < 5 * fit["z_error"]
    assert len(fit_of(summary, against="xi", sampler="hmc", observable="abs_M")["points"]) == 5
    figure = scan_figures.tau_int(summary)
    assert any(line.get_markerfacecolor() == "white" for line in figure.axes[0].lines)
    for result in results:
        result["tau_int"]["M2"]["resolved"] = False
    fits, notes = scan.power_laws(results, "L")
    assert not [fit for fit in fits if fit["observable"] == "M2"]
    assert notes == [f"no power law of M2, {name}, all: fewer than two tau_int measured" for name in ("hmc", "cluster")]


def test_xi_is_that_of_the_best_sampler():
    results = made_up(sizes=(8,))
    cluster = next(result for result in results if result["sampler"] == "cluster")
    assert scan.common_xi(results) == {"0.2_L8": tuple(cluster["xi"].values())}
    cluster["xi"] = {"value": None, "error": None}
    hmc = next(result for result in results if result["sampler"] == "hmc")
    assert scan.common_xi(results) == {"0.2_L8": tuple(hmc["xi"].values())}
    assert scan.common_xi([cluster]) == {}


def test_at_fixed_size_only_small_xi_is_fitted():
    results = made_up(sizes=(16,), kappas=[0.26, 0.262, 0.264, 0.266])
    for result, xi in zip(results, np.repeat([1.0, 2.0, 3.0, 8.0], 2), strict=True):
        result["xi"] = {"value": xi, "error": 0.01}
    fits, _ = scan.power_laws(results, "kappa")
    assert {fit["against"] for fit in fits} == {"xi"}
    assert all(fit["points"] == ["0.26_L16", "0.262_L16", "0.264_L16"] for fit in fits)


def test_crossings_of_results():
    kappas = [0.266, 0.269, 0.272, 0.275]
    found, notes = scan.crossings(made_up((8, 16, 32), kappas=kappas), 1)
    assert [one["sampler"] for one in found] == ["hmc", "cluster"] and not notes
    for one in found:
        best = one["crossings"][-1]
        assert abs(best["kappa"] - 0.271) < 5 * best["kappa_error"] < 0.002
        assert best["sizes"] == [16, 32]
    json.dumps(found, allow_nan=False)
    assert found == scan.crossings(made_up((8, 16, 32), kappas=kappas), 1)[0]
    assert scan.crossings(made_up((8,), kappas=kappas), 1)[1] == [
        f"no Binder crossing of {sampler}: that takes two sizes at the same two kappa, or more"
        for sampler in ("hmc", "cluster")
    ]
    _, notes = scan.crossings(made_up((8, 16), kappas=[0.262, 0.265]), 1)
    assert all("take larger kappa" in note for note in notes) and len(notes) == 2


# Figures and files


def test_figures_show_the_fits_and_the_crossing(tmp_path):
    summary = summarised(made_up(), "L")
    drawn = scan_figures.draw(summary)
    assert list(drawn) == ["tau_xi", "tau_L", "cost", "acceptance"]
    for ax in drawn["tau_xi"].axes:
        assert ax.get_xscale() == ax.get_yscale() == "log"
        assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["HMC", "cluster"]
    fit = fit_of(summary, against="xi", sampler="hmc", observable="M2")
    assert drawn["tau_xi"].axes[0].get_legend().get_texts()[0].get_text() == (
        f"HMC: z = {format_value(fit['z'], fit['z_error'])}"
    )

    kappas = [0.266, 0.269, 0.272, 0.275]
    summary = summarised(made_up((8, 16, 32), kappas=kappas), "kappa")
    drawn = scan_figures.draw(summary)
    assert list(drawn) == ["tau_xi", "cost", "acceptance", "binder"]
    assert len(drawn["acceptance"].axes[0].get_legend().get_texts()) == 6
    for ax, crossed in zip(drawn["binder"].axes, summary["crossings"], strict=True):
        assert ax.get_title().endswith(f"= {format_value(crossed['kappa_c'], crossed['kappa_c_error'])}")
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["L = 8", "L = 16", "L = 32"]
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
    with pytest.raises(DmmcError, match="no crossing"):
        scan_figures.binder({**summary, "crossings": []})
    with pytest.raises(DmmcError, match="no results"):
        scan_figures.draw({**summary, "results": []})


def test_table_of_crossings_and_missing_values():
    results = made_up((8, 16, 32), kappas=[0.266, 0.269, 0.272, 0.275])
    results = copy.deepcopy(results)
    results[0]["xi"] = {"value": None, "error": None}
    text = scan_table.table(summarised(results, "kappa"))
    assert "crossing of the Binder cumulants, cluster" in text and "L = 16, 32: kappa = 0.27" in text
    assert text.splitlines()[2].split()[:6] == ["0.266_L8", "hmc", "64", "x", "512", "-"]
    assert "hmc: trajectories of length 1 of the hopping-form field" in text


def test_loading_refuses_what_is_no_scan(tmp_path):
    (tmp_path / "scan.json").write_text("[]")
    with pytest.raises(FileError, match="not the result of a scan"):
        load_result(tmp_path, scan_table.RESULT)
    with pytest.raises(FileError, match="not the result of a finished scan"):
        load_result(tmp_path / "none.json", scan_table.RESULT)


def test_resuming_with_other_points_names_them(tmp_path):
    options = scan.ScanOptions(scan.grid({"a": Phi4(0.2, 0.02)}, [4], 1, "L"), samplers=("hmc",))
    scan._open(tmp_path / "scan", options.describe(), resume=False, overwrite=False)
    other = scan.ScanOptions(scan.grid({"a": Phi4(0.21, 0.02)}, [4], 1, "L"), samplers=("hmc",))
    with pytest.raises(MismatchError, match="points differ"):
        scan._open(tmp_path / "scan", other.describe(), resume=True, overwrite=False)

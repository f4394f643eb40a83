"""Scans: a tiny one from end to end, interrupted and resumed; what is refused."""

import argparse
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from dmmc.cli import scan as scan_command
from dmmc.cli.main import main
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.runs import chain
from dmmc.runs.run import load_run
from dmmc.studies import sampling
from dmmc.studies.scan import analysis, samplers
from dmmc.studies.scan import figures as scan_figures
from dmmc.studies.scan.netcdf import to_xarray
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import flow_benchmark, grid
from dmmc.studies.scan.results import COSTED, RESULT, TAUS, UNKNOWN, ScanResult
from dmmc.studies.scan.run import scan
from dmmc.studies.scan.samplers import SAMPLERS
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.phi4 import Phi4
from dmmc.theory.registry import register_action


def words(text):
    return text.split()


TINY = words(
    "scan --dim 1 --sizes 4 6 --kappa 0.2 --lam 0.05 --steps 5 --chains 16 --thermalise 10 --draws 16 "
    "--diffusion-draws 16 --max-draws 96 --lengths 150 --flow-steps 2"
)

SMALL = ScanOptions(samplers=("hmc",), chains=16, draws=32, max_draws=64, thermalise=20)
"""A scan with HMC alone, of a second or less."""


def dmmc(*args):
    """Exit code of a command in this process."""
    return main([str(arg) for arg in args])


@pytest.fixture(autouse=True, scope="module")
def small_ensembles():
    """Models are trained on 32 fields, and no denoising sequences are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "DENOISING_TIMES", (0.0,))
        patch.setattr(samplers, "TRAINING_CHAINS", 8)
        patch.setattr(samplers, "TRAINING_DRAWS", 32)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished scan; not to be changed."""
    out = tmp_path_factory.mktemp("scan") / "scan"
    assert dmmc(*TINY, "--out", out, "--json", out.parent / "summary.json") == 0
    return out


@pytest.fixture
def no_pictures(monkeypatch):
    """Scans without figures, which take longer than their chains."""
    monkeypatch.setattr(scan_figures, "draw", lambda result: {})


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(made, tmp_path / "scan")


def numbers(out):
    """All of a scan that does not depend on the clock."""
    result = RESULT.read(out)
    timeless = [
        replace(
            one,
            training_seconds=None,
            cost={name: costs | {"seconds": UNKNOWN} for name, costs in one.cost.items()},
        )
        for one in result.results
    ]
    return replace(result, results=tuple(timeless))


# A scan


def test_a_fresh_scan_does_not_speak_of_resumption(tmp_path, capsys, no_pictures):
    arguments = [*TINY, "--samplers", "diffusion", "--sizes", 4, "--max-draws", 16]
    assert dmmc(*arguments, "--out", tmp_path / "scan") == 0
    assert not [line for line in capsys.readouterr().err.splitlines() if "going on" in line or "afresh" in line]


def test_a_scan_measures_every_sampler_at_every_point(made):
    result = RESULT.read(made)
    assert result == ScanResult.from_json(json.loads((made.parent / "summary.json").read_text()))
    places = [(one.point, one.sampler) for one in result.results]
    assert places == [(f"phi4_L{L}", sampler) for L in (4, 6) for sampler in ("hmc", "diffusion", "cluster")]
    for one in result.results:
        run = load_run(made / one.file)
        assert run.header.lattice == one.lattice == (one.L,)
        assert one.label == run.header.facts.label
        assert set(one.tau_int) == set(TAUS) and set(one.cost) == set(COSTED) == {"M", "M2"}
        costs = dict(run.header.cost) | {"seconds": run.wall_seconds_per_draw}
        for name, cost in one.cost.items():
            tau = one.tau_int[name]
            assert cost.keys() == costs.keys()
            for kind, of_a_draw in costs.items():
                assert cost[kind].value == pytest.approx(2 * tau.value * of_a_draw)
                assert cost[kind].error == pytest.approx(2 * tau.error * of_a_draw)
        assert ("network" if one.sampler == "diffusion" else "force") in costs
        assert one.acceptance.value == pytest.approx(run.stats["accepted"].mean())
        assert (one.training_seconds is None) == (one.sampler != "diffusion")


def test_the_command_says_where_its_results_are(made, capsys, no_pictures):
    assert dmmc(*TINY, "--out", made, "--resume") == 0
    printed = capsys.readouterr().out
    assert "1/6  phi4_L4  hmc" in printed and "6/6  phi4_L6  cluster" in printed
    for name in ("scan.json", "scan.nc", "table.txt", "tau_xi.png", "cost.png"):
        assert f"  {made / name}\n" in printed


def test_chains_are_as_long_as_their_tau_int_asks(made):
    for one in RESULT.read(made).results:
        tau = max(tau.value for tau in one.tau_int.values())
        assert one.chains * one.draws >= 150 * tau or one.draws == 96
        assert one.draws >= 16
        for name, tau in one.tau_int.items():
            if tau.resolved:
                assert one.chains * one.draws >= analysis.ENOUGH_FOR_TAU * tau.value
            assert (name in one.unresolved) == (not tau.resolved)


def test_seeds_of_points_and_samplers_differ(made):
    runs = {path: load_run(path) for path in sorted(made.glob("*/*.h5")) if "ensemble" not in path.stem}
    seeds = {path: run.header.seed for path, run in runs.items()}
    assert len(set(seeds.values())) == len(seeds) == 6
    # The ensemble that a model is trained on has the seed of its chain, and other numbers than the cluster chain.
    fields = load_run(made / "phi4_L4" / "ensemble.h5")
    assert fields.header.seed == seeds[made / "phi4_L4" / "diffusion.h5"]
    assert not np.isin(fields.observables["M"], runs[made / "phi4_L4" / "cluster.h5"].observables["M"]).any()


def test_the_second_model_starts_from_the_first(made, tmp_path, monkeypatch, no_pictures):
    given = []
    train = samplers.train

    def noted(*args, **options):
        given.append(options["init"])
        return train(*args, **options)

    monkeypatch.setattr(samplers, "train", noted)
    shutil.copytree(made / "phi4_L4", tmp_path / "scan" / "phi4_L4")
    shutil.copy(made / "plan.json", tmp_path / "scan")
    assert dmmc(*TINY, "--out", tmp_path / "scan", "--resume") == 0
    assert [one.lattice.shape for one in given] == [(4,)]
    assert numbers(tmp_path / "scan") == numbers(made)


def test_netcdf_holds_the_same_numbers(made):
    result = RESULT.read(made)
    with xr.open_dataset(made / "scan.nc", engine="h5netcdf") as data:
        assert data.sizes == {"sampler": 3, "point": 2}
        assert data.L.values.tolist() == [4, 6] and data.kappa.values.tolist() == [0.2, 0.2]
        assert data.lam.values.tolist() == [0.05, 0.05]
        for one in result.results:
            here = data.sel(sampler=one.sampler, point=one.point)
            pairs = {"xi": one.xi, "binder": one.binder, "acceptance": one.acceptance}
            pairs |= {f"tau_int_{name}": tau for name, tau in one.tau_int.items()}
            pairs |= {f"cost_{name}_{kind}": x for name, cost in one.cost.items() for kind, x in cost.items()}
            for name, pair in pairs.items():
                for suffix, expected in zip(("", "_error"), pair.numbers, strict=True):
                    np.testing.assert_array_equal(here[name + suffix], expected)
                    assert data[name + suffix].attrs["units"] and data[name + suffix].attrs["long_name"]
            for name, tau in one.tau_int.items():
                assert int(here[f"tau_int_{name}_resolved"]) == tau.resolved
            assert int(here.n_draws) == one.draws and int(here.n_chains) == one.chains
        assert math.isnan(data.cost_M2_network.sel(sampler="hmc", point="phi4_L4"))
        written = json.loads((made / "scan.json").read_text())
        for name in ("points", "options", "fits", "crossings", "notes"):
            assert json.loads(data.attrs[name]) == written[name]


def test_table_and_figures(made):
    result = RESULT.read(made)
    lines = (made / "table.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines[2:8]] == [[one.point, one.label] for one in result.results]
    assert sum("z = " in line for line in lines) == len(result.fits)
    for name in ("tau_xi", "tau_L", "cost", "acceptance"):
        assert (made / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_theory_of_ones_own_is_scanned(tmp_path, no_pictures):
    @register_action("sextic")
    def sextic(g):
        def S(phi):
            kinetic = 0.5 * (phi.roll(1, 1) - phi).square()
            return (kinetic + 0.3 * phi.square() + g * phi**6).flatten(1).sum(1)

        return AutogradAction(S, "sextic", (("g", g),))

    result = scan(grid({"sextic": sextic(0.2)}, [4, 6], 1, "L"), tmp_path / "scan", SMALL)
    assert [(one.sampler, one.L, one.action) for one in result.results] == [
        ("hmc", L, {"name": "sextic", "g": 0.2}) for L in (4, 6)
    ]
    assert result.results[0].acceptance.value > 0.5
    assert to_xarray(result).g.values.tolist() == [0.2, 0.2]
    assert RESULT.read(tmp_path / "scan") == result
    with pytest.raises(DmmcError, match="needs actions with a hopping term"):
        scan(grid({"sextic": sextic(0.2)}, [4], 1, "L"), tmp_path / "other", replace(SMALL, samplers=("cluster",)))
    assert not (tmp_path / "other").exists()


# Interruption


def test_a_scan_goes_on_from_what_is_left_of_it(made, copied, no_pictures):
    last = copied / "phi4_L6"
    for name in ("cluster.h5", "diffusion.h5"):
        (last / name).unlink()
    for name in ("scan.json", "scan.nc", "table.txt"):
        (copied / name).unlink()
    kept = (last / "hmc.h5").stat().st_mtime_ns
    assert dmmc(*TINY, "--out", copied, "--resume") == 0
    assert numbers(copied) == numbers(made)
    assert (last / "hmc.h5").stat().st_mtime_ns == kept


def interrupted_after(blocks, monkeypatch, *args):
    """Exit code of a command that is interrupted when it has made so many blocks of draws."""
    made_blocks, block = [], chain._block

    def interrupted(*args):
        if len(made_blocks) == blocks:
            raise KeyboardInterrupt
        made_blocks.append(None)
        return block(*args)

    with monkeypatch.context() as patch:
        patch.setattr(chain, "_block", interrupted)
        return dmmc(*args)


def test_a_scan_interrupted_within_its_first_chain_goes_on(made, tmp_path, monkeypatch, capsys, no_pictures):
    hmc = [*TINY, "--samplers", "hmc", "--out", tmp_path / "scan"]
    # Also where nothing was saved yet, as after a kill within the first second.
    assert interrupted_after(3, monkeypatch, *hmc, "--resume") == 130
    assert f"nothing of {tmp_path / 'scan'} was saved yet: starting afresh" in capsys.readouterr().err
    assert interrupted_after(0, monkeypatch, *hmc, "--resume") == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "scan" / "scan.json").exists()
    with pytest.raises(FileError, match="not the result of a finished scan"):
        RESULT.read(tmp_path / "scan")
    assert dmmc(*hmc, "--resume") == 0
    whole = tuple(one for one in numbers(made).results if one.sampler == "hmc")
    assert numbers(tmp_path / "scan").results == whole


@pytest.mark.parametrize(
    "missing", [("hmc.h5",), ("diffusion.h5",), ("ensemble.h5", "model.safetensors", "diffusion.h5")]
)
def test_a_scan_interrupted_within_a_later_chain_goes_on(missing, made, copied, monkeypatch, no_pictures):
    for name in missing:
        (copied / "phi4_L6" / name).unlink()
    (copied / "scan.json").unlink()
    assert interrupted_after(2, monkeypatch, *TINY, "--out", copied, "--resume") == 130
    assert (copied / "phi4_L6" / f"{missing[0]}.partial").is_dir()
    assert dmmc(*TINY, "--out", copied, "--resume") == 0
    assert numbers(copied) == numbers(made)


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


def test_damaged_plans(tmp_path, capsys):
    (tmp_path / "plan.json").write_text('{"points":')
    assert dmmc(*TINY, "--out", tmp_path, "--overwrite") == 2
    assert "damaged" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert dmmc(*TINY, "--out", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_overwriting_removes_the_earlier_scan_and_nothing_else(copied, no_pictures):
    (copied / "notes.txt").write_text("mine")
    (copied / "phi4_L6" / "notes.txt").write_text("mine")
    scan(grid({"phi4": Phi4(0.21, 0.05)}, [4], 1, "L"), copied, SMALL, overwrite=True)
    files = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    assert files == {
        "notes.txt", "phi4_L6/notes.txt", "phi4_L4/hmc.h5", "plan.json", "table.txt", "scan.json", "scan.nc"
    }  # fmt: skip


def test_chains_that_are_too_short_give_lower_bounds(tmp_path, no_pictures):
    # tau_int of |M| is about 40 there, and the chains end at 64 draws.
    options = replace(SMALL, chains=8, draws=64, max_draws=64, thermalise=None)
    result = scan(grid({"critical": Phi4(0.27, 0.022)}, [16], 2, "L"), tmp_path / "scan", options)
    assert {"M", "abs_M"} <= set(result.results[0].unresolved)
    assert ">" in (tmp_path / "scan" / "table.txt").read_text().splitlines()[2]


# Plans


def test_flow_benchmark():
    points = flow_benchmark([64, 6])
    assert [(point.L, point.lattice.shape) for point in points] == [(6, (6, 6)), (64, (64, 64))]
    for point, lam_m in zip(points, (6.975, 4.398), strict=True):
        assert point.action.m2(2) == pytest.approx(-4) and point.action.lam_m == pytest.approx(lam_m)
    assert len({point.line for point in points}) == 1
    with pytest.raises(DmmcError, match="sizes 6, 8"):
        flow_benchmark([7])


def test_couplings_that_are_nearly_equal_are_different_points():
    parser = argparse.ArgumentParser()
    scan_command.add_arguments(parser)
    args = parser.parse_args(words("--kappas 0.27 0.2700000001 0.27 --lam 0.022 --sizes 8"))
    assert [point.name for point in scan_command._points(args, "kappa")] == ["kappa0.27_L8", "kappa0.2700000001_L8"]


def test_grid_lines_are_along_what_changes():
    actions = {"kappa0.2": Phi4(0.2, 0.02), "kappa0.25": Phi4(0.25, 0.02)}
    assert [point.line for point in grid(actions, [8, 4], 3, "L")] == ["kappa0.2"] * 2 + ["kappa0.25"] * 2
    points = grid(actions, [8, 4], 3, "kappa")
    assert [(point.line, point.lattice.shape) for point in points] == [("L4", (4, 4, 4)), ("L8", (8, 8, 8))] * 2
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
        ("--kappa 0.2 --lam 0.02 --sizes 1", "at least 2"),
        ("--kappa 0.2 --lam 0.02 --sizes 4 --dim 5", "--dim must be"),
        ("--kappa 0.2 --sizes 4", "needs all of"),
        ("--minutes 0", "budget must be positive"),
        ("--minutes 1 --draws 2", "at least 4 draws"),
        ("--max-draws 100", "max_draws"),
        ("--chains 0", "must be positive"),
        ("--flow-steps 0", "must be positive"),
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


@pytest.mark.parametrize(
    ("points", "change", "message"),
    [
        ((), {}, "needs points"),
        (grid({"free": FreeField(1.0)}, [4], 1, "L") * 2, {}, "same name"),
        (grid({"../free": FreeField(1.0)}, [4], 1, "L"), {}, "cannot be the name of a folder"),
        (grid({"free": FreeField(1.0)}, [4], 1, "L"), {"along": "kappa"}, "needs actions with that coupling"),
        (grid({"free": FreeField(1.0)}, [4], 1, "L"), {"samplers": ("nuts",)}, "different ones of hmc"),
        (grid({"free": FreeField(1.0)}, [4], 1, "L"), {"samplers": ()}, "different ones of hmc"),
    ],
)
def test_what_is_no_scan_is_refused(points, change, message, tmp_path):
    with pytest.raises(DmmcError, match=message):
        scan(points, tmp_path / "scan", replace(SMALL, **change))
    assert not (tmp_path / "scan").exists()


def test_options_refuse():
    for change, message in [({"along": "mass"}, "along L or kappa"), ({"seed": 2**63}, "seed")]:
        with pytest.raises(DmmcError, match=message):
            replace(SMALL, **change)


def test_all_samplers_are_compared_by_default():
    assert set(ScanOptions().samplers) == set(SAMPLERS)


# Files


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content | {"results": [{"point": "a"}]}, "missing required field"),
        (lambda content: content | {"xi": {"phi4_L4": 1.0}}, "Expected `object`"),
        (lambda content: content | {"options": content["options"] | {"chains": "many"}}, "Expected `int`"),
        (lambda content: content | {"options": content["options"] | {"chains": 0}}, "must be positive"),
        (lambda content: content | {"version": 99}, "update dmmc"),
        (lambda content: content | {"format": "dmmc-exactness"}, "not the result of a scan"),
        (lambda content: [], "not the result of a scan"),
    ],
)
def test_damaged_results_are_refused_in_one_line(damage, message, copied, tmp_path, capsys):
    path = copied / "scan.json"
    content = damage(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=message):
        RESULT.read(copied)
    assert dmmc("report", copied, "--out", tmp_path / "report.html") == 2
    error = capsys.readouterr().err
    assert str(copied) in error and message in error and error.count("\n") == 1


def test_truncated_results_are_refused(copied):
    path = copied / "scan.json"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileError, match="not the result of a finished scan"):
        RESULT.read(copied)
    with pytest.raises(FileError, match="not the result of a finished scan"):
        RESULT.read(copied / "none.json")


def test_resuming_with_other_points_names_them(tmp_path, no_pictures):
    scan(grid({"a": Phi4(0.2, 0.02)}, [4], 1, "L"), tmp_path / "scan", SMALL)
    with pytest.raises(MismatchError, match="points differ"):
        scan(grid({"a": Phi4(0.21, 0.02)}, [4], 1, "L"), tmp_path / "scan", SMALL, resume=True)

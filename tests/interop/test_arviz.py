"""Runs in ArviZ: with the version installed here, and with ArviZ 1 where there is a Python for it."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import arviz as az
import numpy as np
import pytest

from arviz_checks import CHECKS
from dmmc.core.errors import DmmcError, FileError
from dmmc.interop.arviz import to_arviz
from dmmc.kernels.cluster import ClusterInfo
from dmmc.kernels.hmc import HMCInfo
from dmmc.kernels.independence import WeightedInfo
from dmmc.kernels.penalty import PenaltyInfo
from dmmc.kernels.refresh import RefreshInfo
from dmmc.runs.run import load_run
from dmmc.theory.lattice import Lattice
from stored_runs import free_chains, store

ROOT = Path(__file__).parents[2]
SHAPE, CHAINS = (6, 4), 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: free_chains(folder / f"{kind}.h5", kind, SHAPE, CHAINS) for kind in ("hmc", "independence")}


@pytest.mark.parametrize("name", ["hmc", "independence"])
@pytest.mark.parametrize("check", CHECKS)
def test_promises(check, name, runs):
    check(runs[name])


def test_several_steps_per_draw(tmp_path):
    run = load_run(free_chains(tmp_path / "run.h5", "hmc", SHAPE, CHAINS, draws=20, steps_per_draw=2))
    stats = to_arviz(run)["sample_stats"]
    assert {0.5, 1.0} <= set(np.unique(stats["accepted"])) <= {0.0, 0.5, 1.0}
    for name, array in run.stats.items():
        np.testing.assert_array_equal(stats[name].values, array)
    assert to_arviz(run).attrs["steps_per_draw"] == 2


def test_energies(runs):
    stats = to_arviz(runs["hmc"])["sample_stats"]
    # H of a harmonic system has the mean V: V / 2 from the momenta, V / 2 from the fields, spread sqrt(V).
    assert float(stats["energy"].mean()) == pytest.approx(24, abs=5 * np.sqrt(24 / 100))
    assert stats["diverging"].dtype == bool and not stats["diverging"].any()
    assert (stats["step_size"] == 0.45).all() and (stats["n_steps"] == 3).all()
    assert "energy" not in to_arviz(runs["independence"])["sample_stats"]


@pytest.mark.parametrize("kind", ["hmc", "independence"])
def test_old_files_have_acceptance_rates_without_nan(kind, runs, tmp_path):
    old = to_arviz(free_chains(tmp_path / "old.h5", kind, SHAPE, CHAINS, version=1))["sample_stats"]
    new = to_arviz(runs[kind])["sample_stats"]
    rate, expected = old["acceptance_rate"].values, new["acceptance_rate"].values
    np.testing.assert_allclose(rate[:, 1:], expected[:, 1:], rtol=1e-9)
    known = np.isclose(rate[:, 0], expected[:, 0], rtol=1e-9)
    # What an accepted first proposal was compared with is not recorded: then it is what happened.
    assert (known | (new["accepted"].values[:, 0] & (rate[:, 0] == 1))).all()
    np.testing.assert_array_equal(old["accepted"].values, new["accepted"].values)


def test_extra_observables(tmp_path):
    record = {"M": np.zeros((2, 30)), "plaquette": np.ones((2, 30)), "wall": np.ones((2, 30, 5))}
    posterior = to_arviz(store(tmp_path / "run.h5", record, {"accepted": np.ones((2, 30))}))["posterior"]
    assert set(posterior.data_vars) == set(record)
    assert posterior["plaquette"].dims == ("chain", "draw")
    assert posterior["wall"].dims == ("chain", "draw", "wall_dim_0")


def test_acceptance_of_a_kernel_of_parts(tmp_path):
    accepted = np.random.default_rng(1).integers(0, 5, (2, 30)) / 4
    stats = to_arviz(store(tmp_path / "run.h5", {"M": accepted}, {"accepted": accepted}))["sample_stats"]
    np.testing.assert_array_equal(stats["accepted"].values, accepted)


@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3, 2), (2, 2, 2, 3)])
def test_any_dimension(shape, tmp_path):
    data = to_arviz(free_chains(tmp_path / "run.h5", "hmc", shape, draws=5))
    labels = data["posterior"]["momentum"].values.tolist()
    assert labels[0] == ",".join("0" * len(shape)) and len(set(labels)) == len(labels)
    assert data["constant_data"]["mode"].shape == (len(labels), len(shape))
    assert int(data["constant_data"]["orbit_size"].sum()) == Lattice(shape).volume


def test_statistics_of_more_dimensions(runs):
    run = load_run(runs["hmc"])
    tensor = np.arange(CHAINS * 400 * 6.0).reshape(CHAINS, 400, 2, 3)
    more = replace(run, stats={**run.stats, "stress": tensor})
    stress = to_arviz(more)["sample_stats"]["stress"]
    assert stress.dims == ("chain", "draw", "stress_dim_0", "stress_dim_1")
    np.testing.assert_array_equal(stress.values, tensor)


def test_one_chain(tmp_path):
    data = to_arviz(free_chains(tmp_path / "run.h5", "hmc", SHAPE, chains=1, draws=50))
    assert data["posterior"]["M"].shape == (1, 50)
    assert np.isfinite(float(az.ess(data)["M2"]))


def test_without_the_first_draws(runs):
    run = load_run(runs["hmc"]).discarding(100)
    data = to_arviz(run)
    np.testing.assert_array_equal(data["posterior"]["M2"].values, run.observables["M2"])
    np.testing.assert_array_equal(data["sample_stats"]["energy"].values, run.stats["energy"])


def test_refusals(runs, tmp_path):
    with pytest.raises(FileError, match="no file"):
        to_arviz(tmp_path / "none.h5")
    run = load_run(runs["hmc"])
    with pytest.raises(DmmcError, match=r"12\), but the lattice \(4, 4\) has 6 momentum orbits"):
        to_arviz(replace(run, header=replace(run.header, lattice=(4, 4))))


@pytest.mark.parametrize("module", ["arviz", "pyerrors"])
def test_no_torch(module, runs):
    code = (
        f"import sys; from dmmc.interop.{module} import to_{module}; to_{module}(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(runs["independence"])], check=True, cwd=ROOT)


# ArviZ 1

PACKAGES = ["arviz>=1", "numpy", "h5py", "h5netcdf", "matplotlib", "msgspec"]


def pythons():
    """Interpreters that may be new enough: the one named in DMMC_PYTHON312, those on PATH, those of pyenv."""
    named = [os.environ.get("DMMC_PYTHON312"), *(shutil.which(f"python3.{minor}") for minor in (12, 13, 14))]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    return [name for name in [*named, *sorted(map(str, pyenv.glob("versions/3.1[2-9]*/bin/python3")))] if name]


def is_new_enough(python):
    code = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
def test_arviz_1(runs, request):
    python = next(filter(is_new_enough, pythons()), None)
    if python is None:
        pytest.skip("ArviZ 1 needs Python 3.12 or later: name one in DMMC_PYTHON312, or have it on PATH")
    # In pytest's cache, so that only the first run installs; the rest of dmmc's requirements, torch first, stays out.
    venv = request.config.cache.mkdir("arviz_1") / "venv"
    installed = venv / "installed"
    if not installed.exists() or installed.read_text() != repr(PACKAGES):
        subprocess.run([python, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        installed.write_text(repr(PACKAGES))
    done = subprocess.run(
        [venv / "bin" / "python", ROOT / "tests" / "arviz_checks.py", *runs.values()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(runs)} runs pass {len(CHECKS)} checks: ArviZ 1" in done.stdout


@pytest.mark.parametrize("info", [WeightedInfo, HMCInfo, ClusterInfo, RefreshInfo, PenaltyInfo])
def test_everything_that_a_kernel_reports_is_documented(info):
    for field in fields(info):
        assert f"``{field.name}``" in to_arviz.__doc__, field.name

"""Runs in ArviZ: with the version installed here, and with ArviZ 1 where there is a Python for it."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import torch

from arviz_checks import CHECKS
from dmmc.core.errors import DmmcError, FileError
from dmmc.interop.arviz import to_arviz
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.storage import RunWriter, load_run
from dmmc.theory.actions import FreeField, Phi4
from dmmc.theory.lattice import Lattice
from helpers import free_reference, random_model, rng

ROOT = Path(__file__).parents[2]
LATTICE, CHAINS = Lattice((6, 4)), 4
OPTIONS = ChainOptions(draws=400, keep_every=1, block=100, seed=3)


def hmc_run(path, options=OPTIONS, lattice=LATTICE, wrap=lambda kernel: kernel):
    kernel = wrap(HMC(Phi4(0.2, 0.1), lattice, step_size=0.3, n_leapfrog=3))
    return chain.run(kernel, lambda: kernel.start(torch.zeros(CHAINS, *lattice.shape)), options, path, progress=False)


def flow_run(path):
    model = random_model(free_reference(LATTICE), strength=0.03)
    kernel = Independence(FreeField(0.7), LATTICE, FlowProposal(model, n_steps=2))
    return chain.run(kernel, lambda: kernel.start_from_proposals(CHAINS, rng(5)), OPTIONS, path, progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {"hmc": hmc_run(folder / "hmc.h5"), "flow": flow_run(folder / "flow.h5")}


@pytest.mark.parametrize("name", ["hmc", "flow"])
@pytest.mark.parametrize("check", CHECKS)
def test_promises(check, name, runs):
    check(runs[name])


def test_several_steps_a_draw(tmp_path):
    options = ChainOptions(draws=20, steps_per_draw=2)
    run = load_run(hmc_run(tmp_path / "run.h5", options, wrap=Cluster))
    stats = to_arviz(run)["sample_stats"]
    assert set(stats.data_vars) == {"lp", "accepted", "acceptance_rate", "energy_error", "n_clusters"}
    # Only the last of a draw's steps has left its probability: what remains is the fraction accepted.
    assert {0.5, 1.0} <= set(np.unique(stats["accepted"])) <= {0.0, 0.5, 1.0}
    np.testing.assert_array_equal(stats["acceptance_rate"].values, run.stats["accepted"])
    assert to_arviz(run).attrs["steps_per_draw"] == 2


@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3, 2), (2, 2, 2, 3)])
def test_any_dimension(shape, tmp_path):
    data = to_arviz(hmc_run(tmp_path / "run.h5", ChainOptions(draws=5), Lattice(shape)))
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
    kernel = HMC(Phi4(0.2, 0.1), LATTICE, step_size=0.3, n_leapfrog=3)
    options = ChainOptions(draws=50)
    data = to_arviz(chain.run(kernel, lambda: kernel.start(torch.zeros(1, 6, 4)), options, tmp_path / "run.h5"))
    assert data["posterior"]["M"].shape == (1, 50)
    assert np.isfinite(float(az.ess(data)["M2"]))


def test_refusals(runs, tmp_path):
    with pytest.raises(FileError, match="no file"):
        to_arviz(tmp_path / "none.h5")
    run = load_run(runs["hmc"])
    with pytest.raises(DmmcError, match=r"12\), but the lattice \(4, 4\) has 6 momentum orbits"):
        to_arviz(replace(run, header={**run.header, "lattice": [4, 4]}))
    with RunWriter.create(tmp_path / "foreign.h5", {"author": "somebody else"}) as writer:
        writer.append({"M": np.zeros((1, 5))}, {"accepted": np.ones((1, 5))}, None, {})
        path = writer.finish({})
    with pytest.raises(
        DmmcError, match=r"header of .*foreign.h5 has no 'kernel'; store the run with dmmc.runs.chain.run"
    ):
        to_arviz(path)


@pytest.mark.parametrize("module", ["arviz", "pyerrors"])
def test_no_torch(module, runs):
    code = (
        f"import sys; from dmmc.interop.{module} import to_{module}; to_{module}(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(runs["flow"])], check=True, cwd=ROOT)


# ArviZ 1


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
    if not installed.exists():
        subprocess.run([python, "-m", "venv", "--clear", venv], check=True)
        packages = ["arviz>=1", "numpy", "h5py", "h5netcdf", "matplotlib"]
        subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
        installed.touch()
    done = subprocess.run(
        [venv / "bin" / "python", ROOT / "tests" / "arviz_checks.py", *runs.values()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(runs)} runs pass {len(CHECKS)} checks: ArviZ 1" in done.stdout

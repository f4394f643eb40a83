"""emcee's moves over several processes of MPI; skipped where MPI, mpi4py or schwimmbad is not installed."""

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dmmc.model.reference import GaussianReference
from dmmc.theory.lattice import Lattice
from helpers import random_model
from own_actions import EXAMPLES

pytest.importorskip("emcee")
MPIEXEC = shutil.which("mpiexec")
if MPIEXEC is None or not all(map(importlib.util.find_spec, ("mpi4py", "schwimmbad"))):
    pytest.skip("MPI, mpi4py or schwimmbad is not installed", allow_module_level=True)

SCRIPT = """
import sys
import emcee, numpy as np, torch
import dmmc
from dmmc.interop.emcee import DiffusionMove

torch.set_num_threads(1)
ACTION = dmmc.Phi4(0.2, 0.1)

def log_prob(x):
    return float(-ACTION(torch.tensor(x).view(1, 2, 2)))

def chain(pool):
    move = DiffusionMove(dmmc.flow_proposal(dmmc.load_model(sys.argv[1]), 4))
    sampler = emcee.EnsembleSampler(16, 4, log_prob, moves=move, pool=pool)
    sampler.random_state = np.random.RandomState(3).get_state()
    sampler.run_mcmc(0.1 * np.random.default_rng(1).normal(size=(16, 4)), 5)
    np.save(sys.argv[2], sampler.get_chain())

if __name__ == "__main__":
    if sys.argv[3] == "alone":
        chain(None)
    else:
        from schwimmbad import MPIPool
        with MPIPool() as pool:
            if not pool.is_master():
                pool.wait()
                sys.exit(0)
            assert pool.size == 2
            chain(pool)
"""


def test_the_chain_does_not_depend_on_the_number_of_ranks(tmp_path):
    lattice = Lattice((2, 2))
    random_model(GaussianReference(lattice, 1 / (lattice.orbit_phat2 + 1.0))).save(tmp_path / "model.safetensors")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES.parent), environment.get("PYTHONPATH", "")])
    for how, command in (("alone", []), ("pool", [MPIEXEC, "-n", "3"])):
        arguments = [tmp_path / "model.safetensors", tmp_path / f"{how}.npy", how]
        run = [*command, sys.executable, tmp_path / "script.py", *arguments]
        ended = subprocess.run(run, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
    assert np.array_equal(np.load(tmp_path / "pool.npy"), np.load(tmp_path / "alone.npy"))

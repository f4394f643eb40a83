"""One seed for everything: what is different has random numbers of its own, so that no two chains are correlated."""

import math
from itertools import combinations

import numpy as np
import pytest

from dmmc.kernels.of_model import KernelOptions
from dmmc.runs.chain import ChainOptions
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_reference, random_model

CHAINS = 32


def series(run):
    """M of each draw, in units of its standard deviation."""
    M = run.observables["M"]
    return (M - M.mean()) / M.std()


def correlation(a, b):
    """Correlation of two runs in standard errors, which come from the scatter of their chains."""
    products = (a * b).mean(1)
    return products.mean() / (products.std(ddof=1) / math.sqrt(len(products)))


def baseline(path, kappa, method="hmc", shape=(4, 4)):
    options = EnsembleOptions(method, chains=CHAINS, thermalise=10, run=ChainOptions(40, steps_per_draw=2, seed=1))
    return series(make_ensemble(Phi4(kappa, 0.05), Lattice(shape), path, options))


def test_ensembles_of_other_couplings_methods_and_lattices(tmp_path):
    runs = {
        (kappa, *how): baseline(tmp_path / f"{k}.h5", kappa, *how)
        for k, (kappa, *how) in enumerate([(0.24,), (0.25,), (0.24, "cluster"), (0.24, "hmc", (4, 5))])
    }
    for (one, a), (other, b) in combinations(runs.items(), 2):
        assert abs(correlation(a, b)) < SIGMA, (one, other)
    # What the same random numbers would give, at couplings as near as these.
    assert correlation(runs[0.24,], runs[0.24,]) > 2 * SIGMA


@pytest.mark.parametrize("kernel", ["independence", "path"])
def test_chains_of_other_models_and_kernels(kernel, tmp_path):
    action, reference = Phi4(0.2, 0.3), free_reference(Lattice((2,)), mass=1.2)

    def chain(name, seed, kernel):
        options = KernelOptions(kernel, path_steps=4) if kernel == "path" else KernelOptions(kernel)
        steps = 2 if options.uses_flow else "auto"
        run = ChainOptions(16, seed=1)
        asked = SampleOptions(CHAINS, options, run, flow_steps=steps, proposals=4, determinants=0)
        model = random_model(reference, action, seed=seed, strength=0.05)
        return series(sample(model, tmp_path / name, asked, say=lambda _: None))

    one, other_model = chain("one.h5", 1, kernel), chain("model.h5", 2, kernel)
    assert abs(correlation(one, other_model)) < SIGMA
    assert abs(correlation(one, chain("latent.h5", 1, "latent"))) < SIGMA
    assert np.array_equal(one, chain("again.h5", 1, kernel))

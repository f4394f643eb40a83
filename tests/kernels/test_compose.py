"""Exactness of cycles of kernels: each part weighs the fields that it is given anew.

Bounds are those of ``checks``: 5 sigma, or the same probability for several numbers at once; about 10 comparisons.
"""

import functools
from dataclasses import dataclass, replace

import pytest
import torch

from checks import Gaussian, invariance, mutate, phi4_draws
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.compose import Hybrid
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.kernels.latent import Latent
from dmmc.kernels.path import Path, PathRefresh
from dmmc.model.reference import GaussianReference
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import PathProposal
from dmmc.runs import chain, storage
from dmmc.runs.chain import ChainOptions
from dmmc.theory.actions import Phi4
from dmmc.theory.lattice import Lattice
from helpers import random_model, rng

TWO_SITES = Lattice((2,))
PHI4 = Phi4(0.22, 0.1)
LOCAL = HMC(PHI4, TWO_SITES, step_size=0.6, n_leapfrog=3)


@functools.cache
def draws():
    return phi4_draws(PHI4, TWO_SITES, 20_000, c=0.5)


@functools.cache
def model(two_sector=False):
    propagator = 1.3 * TWO_SITES.two_point(draws()[:2000]).mean(0)
    reference = GaussianReference(TWO_SITES, propagator, mean=0.5 if two_sector else 0.0)
    return random_model(reference, two_sector=two_sector, strength=0.2)


@pytest.fixture(autouse=True, scope="module")
def before_any_mutant():
    draws(), model()


def wide():
    return Independence(PHI4, TWO_SITES, Gaussian.of(TWO_SITES, torch.tensor([2.5, 1.2]).double(), mean=1.0))


def paths(two_sector=False):
    return PathProposal.of(model(two_sector), 4)


CYCLES = {
    "independence, hmc": lambda: ((wide(), 2), (LOCAL, 2)),
    "hmc, independence": lambda: ((LOCAL, 1), (wide(), 1)),
    "latent, hmc": lambda: ((Latent(PHI4, TWO_SITES, FlowProposal(model(), 8), 0.8), 2), (LOCAL, 1)),
    "two-sector latent, hmc": lambda: ((Latent(PHI4, TWO_SITES, FlowProposal(model(True), 8), 0.8), 2), (LOCAL, 1)),
    "path, hmc": lambda: ((Path(PHI4, TWO_SITES, paths()), 2), (LOCAL, 1)),
    "two-sector path, hmc": lambda: ((Path(PHI4, TWO_SITES, paths(True)), 2), (LOCAL, 1)),
    "path, refresh, cluster": lambda: (
        (Path(PHI4, TWO_SITES, paths()), 1),
        (PathRefresh(PHI4, TWO_SITES, paths(), 0.4), 2),
        (Cluster(LOCAL, 1), 1),
    ),
}


def hybrid_keeps_phi4(name="independence, hmc", cycles=3):
    n = 6000 if "latent" in name else 20_000
    return invariance(Hybrid(CYCLES[name]()), draws()[:n], cycles)


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_keep_phi4(name):
    assert hybrid_keeps_phi4(name) < 1


@dataclass(frozen=True)
class Keeping:
    """A kernel that moves the fields and leaves what others have stored beside them: the classic bug."""

    kernel: HMC

    def steps(self, state, n, generator):
        for new, statistics in self.kernel.steps(state, n, generator):
            yield replace(state, phi=new.phi, S=new.S), statistics


def test_stale_weights_would_be_found():
    # Two kernels in turn without the care of Hybrid.
    first, second = wide(), Keeping(LOCAL)
    state = first.start(draws())
    for seed in range(3):
        *_, (state, _) = second.steps(state, 2, rng(seed))
        *_, (state, _) = first.steps(state, 2, rng(100 + seed))

    class Done:
        lattice = TWO_SITES

        def start(self, phi):
            return None

        def steps(self, _, n, generator):
            yield state, {}

    assert invariance(Done(), draws()) > 2


def test_statistics_of_all_parts():
    found = Hybrid(CYCLES["path, refresh, cluster"]())
    start = found.start(draws()[:50])
    assert set(start.tensors()) == {"phi", "S"}
    for state, statistics in found.steps(start, 3, rng(2)):
        assert set(statistics) == {
            *("accepted", "log_q", "log_w", "log_w_proposed"),
            *("path_refresh_accepted", "path_refresh_log_w_ratio"),
            *("cluster_accepted", "cluster_energy_error", "cluster_n_clusters"),
        }
        assert all(x.shape == (50,) for x in statistics.values())
        assert set((2 * statistics["path_refresh_accepted"]).tolist()) <= {0.0, 1.0, 2.0}
        assert torch.equal(state.S, PHI4(state.phi))
    # 4 steps and 4 to begin with; twice 2 * 3, and once more; one trajectory of three and its neighbourhood.
    assert found.evaluations == {"network": 8 + 3 * 2 * 3, "force": 4}
    twice = Hybrid(((LOCAL, 1), (LOCAL, 1), (LOCAL, 1)))
    _, statistics = next(twice.steps(twice.start(draws()[:5]), 1, rng()))
    assert set(statistics) >= {"accepted", "hmc2_accepted", "hmc3_accepted"}


def test_one_part_alone_is_that_kernel():
    alone, found = LOCAL.start(draws()[:20]), Hybrid(((LOCAL, 3),))
    *_, (last, _) = LOCAL.steps(alone, 6, rng())
    *_, (state, _) = found.steps(found.start(draws()[:20]), 2, rng())
    assert torch.equal(state.phi, last.phi) and torch.equal(state.S, last.S)


def test_a_stored_hybrid_goes_on_where_it_was(tmp_path):
    found, options = Hybrid(CYCLES["path, hmc"]()), ChainOptions(draws=12, block=3, keep_every=1)

    def start():
        return found.start(draws()[:5])

    whole = storage.load_run(chain.run(found, start, options, tmp_path / "whole.h5", progress=False))
    chain.run(found, start, replace(options, draws=6), tmp_path / "parts.h5", progress=False)
    parts = storage.load_run(chain.run(found, start, options, tmp_path / "parts.h5", resume=True, progress=False))
    assert (whole.cfgs() == parts.cfgs()).all()
    assert whole.header["kernel"] == found.describe()
    assert all((whole.stats[name] == parts.stats[name]).all() for name in whole.stats)


def test_bad_input():
    for parts in [(), ((LOCAL, 0),), ((LOCAL, 1.5),)]:
        with pytest.raises(DmmcError, match="at least one kernel"):
            Hybrid(parts)
    for other in (HMC(PHI4, Lattice((3,)), 0.1, 3), HMC(Phi4(0.23, 0.1), TWO_SITES, 0.1, 3)):
        with pytest.raises(MismatchError, match="one action and one lattice"):
            Hybrid(((LOCAL, 1), (other, 1)))
    noisy = FlowProposal(model(), 8, divergence=Hutchinson())
    inexact = Hybrid(((LOCAL, 1), (Independence(PHI4, TWO_SITES, noisy, allow_inexact=True), 1))).describe()
    assert inexact["inexact"] is True and inexact["inexact_reason"]
    assert "inexact" not in Hybrid(((LOCAL, 1),)).describe()


MUTANTS = {
    "fields of the last part lost": (
        Hybrid,
        "steps",
        "yield State(state.phi, state.S), statistics",
        "yield State(-state.phi.abs(), state.S), statistics",
        hybrid_keeps_phi4,
    ),
    "weights of other fields": (
        Hybrid,
        "steps",
        "kernel.start(state.phi)",
        "(lambda s: s if s.log_w is None else State(s.phi, s.S, s.log_q, s.log_w.roll(1)))(kernel.start(state.phi))",
        hybrid_keeps_phi4,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    *bug, check = MUTANTS[name]
    mutate(monkeypatch, *bug)
    assert check() > 2

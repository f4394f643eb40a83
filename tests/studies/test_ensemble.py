"""Baseline ensembles from Python."""

import pytest
import torch

from dmmc.core.errors import DmmcError, FileError
from dmmc.kernels.base import Kernel
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies import ensemble
from dmmc.studies.ensemble import METHODS, EnsembleOptions, make_ensemble
from dmmc.studies.stages import Stages
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.yukawa import Yukawa
from helpers import SIGMA
from theories import TILTED, exact_mean

ACTION, LATTICE = Phi4(0.2, 0.05), Lattice((4, 4))
FERMIONS = {"pseudofermions": Yukawa(ACTION, 0.2), "determinants": Yukawa(ACTION, 0.2)}
"""The action of the methods that are for theories with fermions."""


def short(method="hmc", draws=8, **changes):
    return EnsembleOptions(method, chains=8, thermalise=10, run=ChainOptions(draws, seed=1, **changes))


def test_any_action_with_a_gradient(tmp_path):
    """HMC of two unequal wells on two sites, against quadrature."""
    options = EnsembleOptions(chains=128, thermalise=100, trajectory=2.0, run=ChainOptions(100, seed=1))
    summary = summarise(make_ensemble(TILTED, Lattice((2,)), tmp_path / "hmc.h5", options))
    x = summary.observables["phi2"]
    assert x.error < 0.01 and abs(x.value - exact_mean(TILTED, lambda phi: phi.square().mean(1))) < SIGMA * x.error


def test_observables_of_ones_own_are_recorded(tmp_path):
    fourth = {"fourth": lambda phi, S: phi.pow(4).flatten(1).mean(1)}
    run = make_ensemble(ACTION, LATTICE, tmp_path / "hmc.h5", short(), observables=fourth)
    assert run.header.observables == ("fourth",) and run.observables["fourth"].shape == (8, 8)
    assert (run.observables["fourth"] >= run.observables["phi2"] ** 2).all()


def test_stages_are_told_and_recorded(tmp_path):
    stages = Stages()
    run = make_ensemble(ACTION, LATTICE, tmp_path / "hmc.h5", short(), stages=stages)
    assert run.record.wall_seconds.keys() == stages.seconds.keys() == {"warm-up", "thermalise", "chain"}
    assert run.record.wall_seconds["warm-up"] == stages.seconds["warm-up"]


@pytest.mark.parametrize("method", METHODS)
def test_resumption(method, tmp_path):
    said = []
    # Blocks of 1, 2, 4, 8 draws: 7 is the end of one of them.
    for path, draws in (("whole.h5", 15), ("parts.h5", 7), ("parts.h5", 15)):
        run = make_ensemble(
            FERMIONS.get(method, ACTION),
            LATTICE,
            tmp_path / path,
            short(method, draws),
            resume=path == "parts.h5",
            say=said.append,
        )
        if path == "whole.h5":
            whole = run
    for name, values in whole.observables.items():
        assert (run.observables[name] == values).all()
    assert said == [
        f"nothing of {tmp_path / 'parts.h5'} was saved yet: starting afresh",
        f"going on with {tmp_path / 'parts.h5'}",
    ]


def test_long_work_is_announced(tmp_path, monkeypatch):
    """The duration is that of the steps of the warm-up, in proportion."""
    now = iter([100.0, 100.0 + 60 * 2.0])
    monkeypatch.setattr(ensemble.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(ensemble.chain, "run", lambda *args, **kwargs: None)
    monkeypatch.setattr(ensemble, "load_run", lambda path: None)
    said = []
    make_ensemble(ACTION, LATTICE, tmp_path / "hmc.h5", short(draws=40), say=said.append, stages=NoStages())
    assert said == ["The chains will take about 1 min 40 s."]  # 10 + 40 steps of 2 seconds


class NoStages(Stages):
    """Does not look at the clock."""

    def __call__(self, name):
        return torch.no_grad()


def test_what_is_refused(tmp_path):
    with pytest.raises(DmmcError, match="must be one of hmc, cluster"):
        EnsembleOptions("metropolis")
    for bad in ({"chains": 0}, {"thermalise": 0}, {"trajectory": 0.0}, {"trajectory": float("inf")}):
        with pytest.raises(DmmcError):
            EnsembleOptions(**bad)
    plain = AutogradAction(lambda phi: phi.square().flatten(1).sum(1), "plain")
    with pytest.raises(DmmcError, match="hopping"):
        make_ensemble(plain, LATTICE, tmp_path / "run.h5", short("cluster"))
    vector = AutogradAction(lambda phi: phi.square().flatten(1).sum(1), "vector", components=2)
    with pytest.raises(DmmcError, match="fields of the lattice have 3 components, and those of the action have 2"):
        make_ensemble(vector, Lattice(LATTICE.shape, 3), tmp_path / "run.h5", short())
    assert not list(tmp_path.iterdir())
    (tmp_path / "run.h5").write_bytes(b"x")
    with pytest.raises(FileError, match="exists"):
        make_ensemble(ACTION, LATTICE, tmp_path / "run.h5", short())


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    """The table of methods is all that knows them."""
    made = []

    def shorter(action, lattice, trajectory) -> Kernel:
        made.append(trajectory)
        return METHODS["hmc"](action, lattice, trajectory / 2)

    monkeypatch.setitem(METHODS, "shorter", shorter)
    run = make_ensemble(ACTION, LATTICE, tmp_path / "run.h5", short("shorter"))
    assert made == [ensemble.hmc.LENGTH] and run.header.facts.name == "hmc"


@pytest.mark.parametrize("change", [{"chains": 4.0}, {"chains": "4"}, {"thermalise": 2.5}, {"thermalise": 0}], ids=str)
def test_counts_are_integers(change):
    with pytest.raises(DmmcError, match="must be a positive integer, got"):
        EnsembleOptions(**change)

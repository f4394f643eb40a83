"""The exhibit of enhanced statistics, in its quick version: its numbers are those of its runs, its chain is exact."""

import math

import pytest

from dmmc.gallery import statistics
from dmmc.gallery.exhibit import Request
from dmmc.gallery.show import show
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.runs.run import load_run
from dmmc.runs.summary import estimates, summarise
from helpers import SIGMA


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The finished exhibit, and its folder."""
    folder = tmp_path_factory.mktemp("gallery")
    request = Request(folder / "statistics", folder, quick=True, seed=1, say=lambda _: None)
    return show(statistics.EXHIBIT, request), request.folder


def test_it_says_what_went_in_and_what_came_out(shown):
    exhibit, folder = shown
    numbers = exhibit.numbers
    given, chain = load_run(folder / "given.h5"), load_run(folder / "chain.h5")
    assert numbers["configurations in"] == len(given.cfgs()) == 200
    assert numbers["configurations out"] == chain.n_chains * chain.n_draws == 4000
    assert set(statistics.EXHIBIT.files) <= {path.name for path in folder.iterdir()}
    assert numbers["acceptance"] == summarise(chain).acceptance > 0.5
    assert "200 of HMC" in exhibit.table and "4,000 exact" in exhibit.table
    # A chain whose model was trained on its own chain says so, here and wherever it goes.
    assert any("fields of its own chain" in text for text in exhibit.findings)
    assert "fields of its own chain" in str(summarise(chain))


def test_the_frozen_chain_agrees_with_cluster_updates(shown):
    exhibit, _ = shown
    assert set(exhibit.numbers["observables"]) == set(statistics.OBSERVABLES)
    assert all(abs(x["z"]) < SIGMA for x in exhibit.numbers["observables"].values())


def test_gains_are_ratios_of_cost_times_variance(shown):
    exhibit, folder = shown
    costs = exhibit.numbers["cpu seconds per step and chain"]
    assert all(0 < cost < 1 for cost in costs.values())
    rival, chain = load_run(folder / "rival.h5"), load_run(folder / "chain.h5")
    for name in ("M", "M2", "S_per_site"):
        hmc, exact = estimates(rival)[name], estimates(chain)[name]
        price = [run.n_chains * run.n_draws * costs[kind] for run, kind in ((rival, "HMC"), (chain, "chain"))]
        gain = (hmc.error**2 * price[0]) / (exact.error**2 * price[1])
        found = exhibit.numbers["observables"][name]
        assert found["gain"] == pytest.approx(gain)
        assert found["same_time"] == pytest.approx(math.sqrt(gain) * exact.error)
        # Of the given configurations nothing but those that were stored counts.
        assert found["given"]["n"] == 200


def test_both_models_learn_from_their_own_chains(shown):
    exhibit, folder = shown
    given, none = (DiffusionModel.load(folder / f"{name}.safetensors") for name in ("given", "none"))
    assert given.history.before.ensemble == 200
    assert none.history.before is None and "free field" in none.history.rounds.plan["begins with"]
    for model in (given, none):
        *rounds, last = model.history.rounds.records
        assert last.acceptance > 0.6 and last.ess > min(record.ess for record in rounds)
    curves = exhibit.numbers["learning curves"]
    assert [len(curve) for curve in curves.values()] == [len(x.history.rounds.records) for x in (given, none)]


def test_an_interrupted_training_of_the_exhibit_goes_on(tmp_path, monkeypatch):
    request = Request(tmp_path / "statistics", tmp_path, quick=True, seed=2, say=lambda _: None)
    (tmp_path / "statistics").mkdir()
    resumed = []

    def training(actions, path, *args, resume, **kwargs):
        resumed.append(resume)
        (path.with_name(path.name + ".round")).write_bytes(b"of the first round")
        raise KeyboardInterrupt

    monkeypatch.setattr(statistics, "train_rounds", training)
    size, rounds = statistics.QUICK, statistics.RoundOptions(1, 128)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            statistics._model(request, "given", rounds, size, lattice=None)
    assert resumed == [False, True]

"""The exhibit about fermions: a model that never saw HMC samples the full theory exactly, and the race is fair."""

import math

import pytest
import torch

import dmmc
from dmmc.gallery import fermions, fermions_runs
from dmmc.kernels.base import Kernel
from dmmc.runs.run import load_run
from dmmc.runs.summary import estimates
from dmmc.studies.race import Contestant, seconds_per_step
from fermions import YUKAWA, grid
from helpers import SIGMA


def test_a_model_from_a_free_field_samples_the_theory_exactly(tmp_path):
    """Its chain agrees with an integral over all fields of four sites, although no HMC was run."""
    model = dmmc.train_rounds(
        YUKAWA,
        tmp_path / "model.safetensors",
        lattice=dmmc.Lattice((2, 2)),
        rounds=2,
        proposals=512,
        steps=100,
        config={"filters": 3, "hidden1": 6, "hidden2": 4},
    )
    run = dmmc.sample(
        model, tmp_path / "chain.h5", chains=32, draws=256, flow_steps=6, observables=YUKAWA.observables()
    )
    phi, p, condensate = grid((2, 2))
    M = phi.mean((1, 2))
    exact = {"M": (p * M).sum(), "M2": (p * M**2).sum(), "condensate": (p * condensate).sum()}
    found = run.summary().observables
    for name, value in exact.items():
        assert abs(found[name].value - float(value)) < SIGMA * found[name].error
        assert found[name].error < 0.03 * abs(float(value))


@pytest.fixture(scope="module")
def shown(quick_gallery):
    return quick_gallery("fermions"), quick_gallery.request("fermions").folder


def test_all_samplers_agree(shown):
    """Neighbouring |z| of all observables and samplers: a dozen comparisons."""
    exhibit, folder = shown
    (point,) = exhibit.numbers["points"]
    runs = [load_run(path) for path in sorted((folder / "4-0.3").glob("*.h5"))]
    assert len(runs) == 4
    for name in ("M", "M2", "condensate"):
        values = [estimates(run)[name] for run in runs]
        assert all(abs(dmmc.diagnostics.z_score(x, values[0])) < SIGMA for x in values[1:])
    assert {x["length"] for name, x in point["entries"].items() if name != "diffusion"} == {2.0}


def test_costs_are_times_of_effective_samples(shown):
    exhibit, _ = shown
    (point,) = exhibit.numbers["points"]
    for entry in point["entries"].values():
        for name, cost in entry["cost"].items():
            tau = entry["estimates"][name]["tau_int"]
            assert cost == pytest.approx(2 * max(tau, 0.5) * entry["seconds"])
    assert point["training"] > 0 and point["curve"][-1][0] == 1.0
    assert set(fermions.EXHIBIT.figures) == {"fermions"}


def test_what_it_compares_and_when_training_pays():
    cost = {"diffusion": 1.0, "HMC": 30.0, "HMC, pseudofermions": 5.0}
    entries = {
        name: fermions_runs.Entry(None, 0.9, {}, x, {"M2": 1e-3 * x, "condensate": 1e-3}) for name, x in cost.items()
    }
    race = fermions_runs.Race(8, 0.3, entries, {}, 40.0, [(1.0, 0.9)], 4, None)
    assert race.best() == "HMC, pseudofermions"
    assert race.ratio("HMC") == pytest.approx(30)
    assert race.break_even == pytest.approx(10_000)
    entries["diffusion"].cost["M2"] = 6e-3
    assert race.break_even == math.inf
    assert "never" in fermions._paid_off(race)


class Slow(Kernel):
    """Waits for as long as it is told, with jitter on top."""

    action, lattice, facts, describe = None, None, None, dict

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def initial(self, n, generator):
        return torch.zeros(n)

    def step(self, state, generator):
        self.clock[0] += self.seconds * (1 + float(torch.rand((), generator=generator)))
        return state, None

    def steps(self, state, n, generator):
        return (self.step(state, generator) for _ in range(n))


def test_the_race_takes_the_least_time_of_a_step_and_chain(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("dmmc.studies.race.time.perf_counter", lambda: clock[0])
    # Twenty turns: the least of them is above one and a half times the least possible with a probability of 1e-6.
    contestants = {"fast": Contestant(Slow(clock, 1.0), 10, 2), "slow": Contestant(Slow(clock, 7.0), 5, 1)}
    found = seconds_per_step(contestants, 20, 1)
    assert 0.1 <= found["fast"] < 0.15
    assert 1.4 <= found["slow"] < 2.1

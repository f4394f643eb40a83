"""Training on the model's own chain: the steps along a path, the chain of each of them, resumption, what is said."""

import math
from dataclasses import replace

import pytest
import torch

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import SIZES, NetworkSize
from dmmc.model.options import TrainingOptions
from dmmc.model.trainer import Trainer
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies.reporting import model_section, write_report
from dmmc.studies.resumption import recorded_threads, unfinished_training
from dmmc.studies.rounds import RoundOptions, course, train_rounds
from dmmc.studies.rounds.annealing import SMALLEST_STEP, ActionPath, Position, chain_of, free_start, next_step
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.theory.external_field import ExternalField
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.mixture import Mixture
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, free_draws, free_reference, hmc_ensemble, rng
from theories import EVEN, GRID, TILTED, exact_mean

SIZE = {"filters": 3, "hidden1": 6, "hidden2": 4}
SQUARE, PAIR = Lattice((4, 4)), Lattice((2,))
ACTION = Phi4(0.25, 0.1)


def short(steps=40, **others):
    return TrainingOptions(steps=steps, **{"levels": 16, "trajectories": 2, "seed": 1, **others})


def quiet(actions, path, options=None, rounds=None, **others):
    return train_rounds(actions, path, options or short(), rounds, config=SIZE, say=lambda _: None, **others)


# Steps along a path, with Gaussian proposals for Gaussian theories: everything is known.

WIDE, NARROW = FreeField(0.5), FreeField(1.5)


def gaussian_ess(share):
    """ESS per proposal of WIDE for the mixture with NARROW, per mode of precision A and P: sqrt(A (2P - A)) / P."""
    a = SQUARE.orbit_phat2 + 0.5**2
    p = (1 - share) * a + share * (SQUARE.orbit_phat2 + 1.5**2)
    return math.exp(float((SQUARE.orbit_size * ((a * (2 * p - a)).log() / 2 - p.log())).sum()))


def proposals(n=20_000):
    reference = free_reference(SQUARE, 0.5)
    phi = free_draws(reference, n)
    return phi, -WIDE(phi) - 0.5 * SQUARE.volume * math.log(2 * math.pi) - reference.log_normaliser()


def test_the_longest_step_that_proposals_support_is_found():
    phi, log_q = proposals()
    path = ActionPath(WIDE, (NARROW,))
    least = 0.7
    assert gaussian_ess(1.0) < 0.5 * least
    step = next_step(path, Position(0, 0.0), phi, log_q, least)
    assert step.position.stage == 0 and 0 < step.position.share < 1
    assert step.action == Mixture(WIDE, NARROW, step.position.share)
    assert step.ess >= least
    # 20,000 weights give the ESS to better than 1 %; the step is found to 1/64.
    assert step.ess == pytest.approx(gaussian_ess(step.position.share), rel=0.02)
    assert gaussian_ess(step.position.share + 1.5 * SMALLEST_STEP) < least
    torch.testing.assert_close(step.proposals.log_w, -step.action(phi) - log_q)
    # From there the rest is bisected again, and a step that is supported is taken as a whole.
    on = next_step(path, Position(0, 0.9), phi, log_q, 0.999)
    assert 0.9 < on.position.share < 0.91
    whole = next_step(path, step.position, phi, log_q, 0.01)
    assert whole.position == path.end and whole.action is NARROW


def test_paths_go_from_stage_to_stage_and_end():
    phi, log_q = proposals(2000)
    path = ActionPath(WIDE, (WIDE, NARROW))
    assert next_step(path, Position(0, 0.0), phi, log_q, 0.9).position == Position(0, 1.0)
    assert next_step(path, Position(0, 1.0), phi, log_q, 0.01).position == path.end
    assert next_step(path, path.end, phi, log_q, 0.999).position == path.end
    # Without a known action at the beginning there is nothing in between.
    assert next_step(ActionPath(None, (NARROW,)), Position(0, 0.0), phi, log_q, 0.999).position == Position(0, 1.0)
    with pytest.raises(MismatchError, match="different numbers of components"):
        ActionPath(None, (WIDE, Phi4(0.2, 0.1, components=2)))
    with pytest.raises(DmmcError, match="at least one"):
        ActionPath(WIDE, ())
    with pytest.raises(DmmcError, match="no proposal of the model has a weight"):
        next_step(path, path.end, phi, torch.full_like(log_q, torch.nan), 0.5)


def test_the_chain_of_a_step_is_a_sample_of_its_action():
    phi, log_q = proposals()
    step = next_step(ActionPath(WIDE, (NARROW,)), Position(0, 0.0), phi, log_q, 0.7)
    place = chain_of(step, rng(3))
    p = (1 - step.position.share) * 0.5**2 + step.position.share * 1.5**2 + SQUARE.orbit_phat2
    measured = SQUARE.two_point(phi[place])
    # tau_int of an independence chain at this ESS is below 1: its draws are worth a half of as many at least.
    error = measured.std(0) / math.sqrt(0.5 * len(place))
    assert float(((measured.mean(0) - 1 / p) / error).abs().max()) < SIGMA
    before = SQUARE.two_point(phi)
    assert float(((before.mean(0) - 1 / p) / (before.std(0) / math.sqrt(len(phi)))).abs().max()) > 4 * SIGMA
    # Rejections repeat fields, and proposals without weight are in no chain.
    assert len(torch.unique(place)) < len(place) <= len(phi)
    zero = step.proposals.log_w.clone()
    zero[: len(phi) // 2] = -torch.inf
    left = chain_of(replace(step, proposals=replace(step.proposals, log_w=zero)), rng(3))
    assert int(left.min()) >= len(phi) // 2
    few = replace(step.proposals, **{name: x[:7] for name, x in step.proposals.tensors().items()})
    with pytest.raises(DmmcError, match="at least 8 proposals"):
        chain_of(replace(step, proposals=few), rng())


@pytest.mark.parametrize("action", [Phi4(0.27, 0.022), Phi4(0.27, 0.1, scale=0.5), EVEN])
def test_a_free_start_has_the_kinetic_term_of_the_action(action):
    start, hopping = free_start(action), getattr(action, "hopping", None) or 0.5
    phi = rng_fields()
    link = phi.roll(1, 1)
    # The part of S that couples neighbours: its derivative by phi(x) and phi(x + mu).
    torch.testing.assert_close(start(phi + link) - start(phi) - start(link), (phi * start.grad(link)).flatten(1).sum(1))
    assert start.hopping == pytest.approx(hopping) and start.mass == 1


def rng_fields():
    return torch.randn(3, 4, 4, generator=rng(), dtype=torch.float64)


# The whole.


def test_from_none_to_an_exact_chain(tmp_path):
    """Two unequal wells, from a free field around zero: the chain of the model agrees with quadrature."""
    said = []
    path = tmp_path / "model.safetensors"
    model = train_rounds(TILTED, path, short(300), RoundOptions(4, 768), lattice=PAIR, config=SIZE, say=said.append)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert model.symmetry == "none" and not model.network.odd and model.action == TILTED.describe()
    rounds = model.history.rounds
    *trained, last = rounds.records
    assert 0 < trained[0].share < 1 and (trained[-1].stage, trained[-1].share) == (0, 1.0)
    assert all(record.ess >= 0.3 for record in trained if record.share < 1)
    assert last.steps == last.fields == 0 and last.acceptance > 0.4
    assert model.history.steps == sum(record.steps for record in trained) >= 250
    assert rounds.plan["begins with"] == {"free field": free_start(TILTED).describe(), "lattice": [2]}
    assert any(text.startswith("round 1: ESS/N 0.") for text in said)
    fields = sum(record.fields for record in trained)
    expected = f"The model was trained on {fields:,} fields of its own chain in {len(trained)} rounds."
    assert model.remarks[-1].startswith(expected)

    read = DiffusionModel.load(path)
    assert read.history == model.history and read.remarks == model.remarks
    run = sample(read, tmp_path / "chain.h5", SampleOptions(run=ChainOptions(128, seed=1), flow_steps=8), action=TILTED)
    summary = summarise(run)
    assert "fields of its own chain" in summary.notes[0] and "fields of its own chain" in str(summary)
    # The record says beforehand how well the frozen model does.
    assert summary.acceptance == pytest.approx(last.acceptance, abs=0.1)
    for name, of in {"M": lambda phi: phi.mean(1), "phi2": lambda phi: phi.square().mean(1)}.items():
        x = summary.observables[name]
        assert x.error < 0.06 and abs(x.value - exact_mean(TILTED, of)) < SIGMA * x.error, name
    write_report([tmp_path / "chain.h5"], tmp_path / "page.html")
    assert expected in (tmp_path / "page.html").read_text()
    section = model_section(read, "model", "section-1")
    assert section.pictures == ("section-1-loss", "section-1-rounds") and "rounds on its own chain" in section.body


def test_from_a_few_configurations(tmp_path):
    phi, said = hmc_ensemble(ACTION, SQUARE.shape, n=200), []
    model = train_rounds(
        ACTION,
        tmp_path / "model.safetensors",
        short(150),
        RoundOptions(2, 512),
        ensemble=phi,
        config=SIZE,
        say=said.append,
    )
    history = model.history
    assert [record.share for record in history.rounds.records] == [1.0, 1.0, 1.0]
    assert history.before.ensemble == 200 and history.before.steps == 38 and history.before.rounds is None
    assert [record.steps for record in history.rounds.records] == [38, 75, 0]  # a half for the last round
    assert history.rounds.records[-1].acceptance > history.rounds.records[0].acceptance
    assert any("200 configurations" in text for text in said)  # the ensemble was checked against its action
    with pytest.raises(MismatchError, match="should be 1"):
        quiet(Phi4(0.25, 0.2), tmp_path / "other.safetensors", ensemble=hmc_ensemble(ACTION, SQUARE.shape))
    assert not (tmp_path / "other.safetensors").exists()


def test_a_round_of_few_effective_fields_is_remarked_on(tmp_path):
    said = []
    options, rounds = short(4), RoundOptions(1, 64, least_ess=0.5)
    path = tmp_path / "model.safetensors"
    train_rounds(ACTION, path, options, rounds, lattice=SQUARE, config=SIZE, say=said.append)
    notes = [text for text in said if text.startswith("note: the proposals of this round are worth")]
    assert 1 <= len(notes) <= len([text for text in said if text.startswith("round")])


def test_the_network_of_rounds_is_not_the_cheapest_one(tmp_path):
    where = tmp_path / "model.safetensors"
    model = train_rounds(ACTION, where, short(4), RoundOptions(1, 64), lattice=SQUARE, say=lambda _: None)
    assert model.network.size == NetworkSize(**SIZES["small"])


def test_two_sectors_are_kept(tmp_path):
    phi = GRID.draws(EVEN, 500)
    model = quiet(EVEN, tmp_path / "model.safetensors", short(60), RoundOptions(1, 256), ensemble=phi)
    assert model.two_sector and model.reference.mean == pytest.approx(float(phi.mean(1).abs().mean()), rel=0.05)


def test_a_path_of_actions_is_followed_with_the_symmetry_that_all_have(tmp_path):
    path = [ACTION, ExternalField(ACTION, 0.1), ExternalField(ACTION, 0.2)]
    rounds = RoundOptions(1, 256, least_ess=0.05)
    model = quiet(path, tmp_path / "model.safetensors", short(60), rounds, lattice=SQUARE)
    assert model.symmetry == "none" and model.action == path[-1].describe()
    ends = [record.stage for record in model.history.rounds.records if record.share == 1]
    assert ends[:3] == [0, 1, 2]  # more rounds than one, since the path is longer
    # A model that is odd cannot go there, and one that is not goes on from where it was.
    odd = quiet(ACTION, tmp_path / "odd.safetensors", short(20), RoundOptions(1, 128), lattice=SQUARE)
    assert odd.network.odd
    with pytest.raises(MismatchError, match="not all actions of the path have it"):
        quiet(path, tmp_path / "other.safetensors", init=odd)
    further = quiet(
        ExternalField(ACTION, 0.3), tmp_path / "further.safetensors", short(20), RoundOptions(1, 256), init=model
    )
    assert further.history.before.rounds == model.history.rounds and len(further.remarks) == 2
    with pytest.raises(MismatchError, match="symmetry"):
        quiet(path, tmp_path / "other.safetensors", lattice=SQUARE, symmetry="z2")


class Counted:
    """phi^4, and how often it was asked for S and for its force."""

    symmetry = "z2"
    hopping = ACTION.hopping

    def __init__(self):
        self.fields = {"S": 0, "force": 0}

    def __call__(self, phi):
        self.fields["S"] += len(phi)
        return ACTION(phi)

    def grad(self, phi):
        self.fields["force"] += len(phi)
        return ACTION.grad(phi)

    def describe(self):
        return {"name": "counted"}


def test_the_force_of_each_different_field_is_evaluated_once(tmp_path):
    """What makes rounds possible for actions whose force costs as much as thousands of network evaluations."""
    counts = []
    for steps in (20, 200):
        action = Counted()
        options = short(steps, trajectories=0)
        model = quiet(action, tmp_path / f"{steps}.safetensors", options, RoundOptions(2, 256), lattice=SQUARE)
        records, N = model.history.rounds.records, 256
        tests = 1000  # of the action and its symmetry, once
        assert action.fields["force"] <= sum(record.fields for record in records) + tests
        assert action.fields["S"] <= N * len(records) + tests
        counts.append(action.fields["force"] - sum(record.fields for record in records))
    assert counts[0] == counts[1] > 0  # whatever the number of steps


# Resumption.


def interrupted(monkeypatch, tmp_path, how):
    """Train until ``how`` interrupts, then go on; the model, and the files that were there in between."""
    path = tmp_path / "model.safetensors"
    options = short(60, checkpoint_seconds=0.0)
    rounds = RoundOptions(2, 256)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        how(patch)
        quiet(ACTION, path, options, rounds, lattice=SQUARE)
    left = {file.name.removeprefix(path.name) for file in unfinished_training(path)}
    assert not path.exists() and recorded_threads(path) == torch.get_num_threads()
    with pytest.raises(FileError, match=r"holds an unfinished training; .*--resume"):
        quiet(ACTION, path, options, rounds, lattice=SQUARE)
    with pytest.raises(MismatchError, match=r"belongs to another training run \(different "):
        quiet(ACTION, path, replace(options, seed=2), rounds, lattice=SQUARE, resume=True)
    model = quiet(ACTION, path, options, rounds, lattice=SQUARE, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    return model, left


def after(n, function):
    """``function``, which is interrupted the n-th time."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return counted


INTERRUPTS = {
    "in the first round": (lambda patch: patch.setattr(Trainer, "update", after(10, Trainer.update))),
    "in the second round": (lambda patch: patch.setattr(Trainer, "update", after(45, Trainer.update))),
    "between rounds": (lambda patch: patch.setattr(course, "chain_fields", after(2, course.chain_fields))),
    "at the end": (lambda patch: patch.setattr(course, "flow_proposal", after(3, course.flow_proposal))),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    return quiet(ACTION, path, short(60, checkpoint_seconds=0.0), RoundOptions(2, 256), lattice=SQUARE)


@pytest.mark.parametrize("when", INTERRUPTS)
def test_an_interrupted_training_goes_on_bit_for_bit(when, monkeypatch, tmp_path, uninterrupted):
    assert len(uninterrupted.history.rounds.trained) == 2
    model, left = interrupted(monkeypatch, tmp_path, INTERRUPTS[when])
    assert left == {".round", ".round.checkpoint"}
    assert model.fingerprint() == uninterrupted.fingerprint()

    def timeless(history):
        records = tuple(replace(record, seconds=0.0) for record in history.rounds.records)
        return replace(history, seconds=0.0, rounds=replace(history.rounds, records=records))

    assert timeless(model.history) == timeless(uninterrupted.history)
    assert model.remarks == uninterrupted.remarks


def test_an_interrupted_training_on_an_ensemble_goes_on(monkeypatch, tmp_path):
    phi = hmc_ensemble(ACTION, SQUARE.shape, n=200)
    how = {"ensemble": phi, "options": short(40, checkpoint_seconds=0.0), "rounds": RoundOptions(1, 256)}
    whole = quiet(ACTION, tmp_path / "whole.safetensors", **how)
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", after(5, Trainer.update))
        quiet(ACTION, path, **how)
    assert unfinished_training(path)
    assert quiet(ACTION, path, resume=True, **how).fingerprint() == whole.fingerprint()
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "whole.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lattice": None}, "begin with an ensemble"),
        ({"init": "model"}, "begin with an ensemble"),
        ({"actions": None}, "none is known; give it"),
        ({"actions": []}, "none is known; give it"),
        ({"network": "none"}, "no network"),
        ({"network": "foreign"}, "without with_trace"),
        ({"lattice": Lattice((4, 4), 2)}, "component"),
        ({"resume": True, "overwrite": True}, "not both"),
    ],
    ids=lambda x: "" if isinstance(x, str) else " ".join(x),
)
def test_refusals(changes, message, tmp_path):
    arguments = {"actions": ACTION, "path": tmp_path / "model.safetensors", "lattice": SQUARE} | changes
    with pytest.raises(DmmcError, match=message):
        train_rounds(options=short(2), say=lambda _: None, **arguments)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"rounds": 2.0}, {"proposals": 10}, {"least_ess": 0.0}, {"least_ess": 1.0}, {"flow_steps": 0}],
)
def test_options_out_of_range(wrong):
    with pytest.raises(DmmcError, match=next(iter(wrong))):
        RoundOptions(**wrong)

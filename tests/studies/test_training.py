"""From an ensemble to a model: what is found out about the theory, and what is refused."""

import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.interaction import SIZES, USUAL, InteractionNetwork, NetworkSize
from dmmc.model.options import TrainingOptions
from dmmc.model.trainer import Trainer
from dmmc.proposals.of_model import flow_proposal
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary import summarise
from dmmc.studies import training
from dmmc.studies.resumption import checkpoint_of, training_lock
from dmmc.studies.rounds import train_rounds
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sectors import is_broken
from helpers import SIGMA, hmc_ensemble, rng
from theories import EVEN, GRID, TILTED, exact_mean

SIZE = {"filters": 3, "hidden1": 6, "hidden2": 4}


def short(steps=2):
    return TrainingOptions(steps=steps, levels=16, trajectories=2, seed=1)


@pytest.fixture(scope="module")
def tilted():
    """Independent fields of two unequal wells."""
    return GRID.draws(TILTED, 2000)


@pytest.fixture(scope="module")
def both_wells(tilted, tmp_path_factory):
    """A model of them, and what was said."""
    said = []
    path = tmp_path_factory.mktemp("tilted") / "model.safetensors"
    model = train(tilted, path, short(400), action=TILTED, config=SIZE, say=said.append)
    return model, said


def test_an_undeclared_symmetry_is_tested_said_and_recorded(tmp_path):
    said = []
    phi = GRID.draws(EVEN, 500)
    model = train(
        phi, tmp_path / "model.safetensors", short(), action=EVEN, config=SIZE, sectors="one", say=said.append
    )
    assert model.symmetry == "z2" and model.network.odd and model.reference.mean == 0
    assert "found by a test" in model.symmetry_evidence and model.symmetry_evidence in said
    read = DiffusionModel.load(tmp_path / "model.safetensors")
    assert read.symmetry_evidence == model.symmetry_evidence
    options = SampleOptions(chains=4, run=ChainOptions(4, seed=1), flow_steps=2)
    with pytest.raises(DmmcError, match="does not say its action"):  # no action is registered under this name
        sample(read, tmp_path / "chain.h5", options)
    run = sample(read, tmp_path / "chain.h5", options, action=EVEN)
    assert run.header.provenance["symmetry"] == {"symmetry": "z2", "evidence": model.symmetry_evidence}
    summary = summarise(run)
    assert (summary.symmetry, summary.symmetry_evidence) == ("z2", model.symmetry_evidence)
    assert "found by a test" in str(summary)


def test_nothing_of_a_training_is_lost_if_its_model_cannot_be_saved(tmp_path, monkeypatch):
    path, phi = tmp_path / "model.safetensors", GRID.draws(EVEN, 100)
    checkpoint = tmp_path / "model.safetensors.checkpoint"

    def run(**options):
        return train(phi, path, short(3), action=EVEN, config=SIZE, say=lambda _: None, **options)

    whole = run()
    path.unlink()
    replace = os.replace

    def full(temporary, final):
        if Path(final) == path:
            raise OSError(28, "No space left on device")
        replace(temporary, final)

    for options in ({}, {"resume": True}):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(FileError, match=r"cannot write .*model.safetensors: .*No space left"):
                run(**options)
        assert list(tmp_path.iterdir()) == [checkpoint]
    # It is not begun afresh by mistake either.
    with pytest.raises(FileError, match=r"holds an unfinished training; .*finish it with --resume"):
        run()
    with monkeypatch.context() as patch:  # the state is there: no further step is done
        patch.setattr(Trainer, "update", None)
        assert run(resume=True).fingerprint() == whole.fingerprint()
    assert list(tmp_path.iterdir()) == [path]
    assert run(overwrite=True).fingerprint() == whole.fingerprint()


def test_two_equal_wells_are_mirrored(tmp_path):
    phi = GRID.draws(EVEN, 500)
    assert is_broken(phi)
    model = train(phi, tmp_path / "model.safetensors", short(), action=EVEN, config=SIZE, say=lambda _: None)
    assert model.symmetry == "z2" and model.two_sector and not model.network.odd
    assert model.reference.mean == pytest.approx(float(phi.mean(1).abs().mean()), rel=0.02)


def test_two_unequal_wells_are_modelled_as_they_are(both_wells, tilted, tmp_path):
    model, said = both_wells
    # The histogram of M has two narrow peaks; only the symmetry would allow to mirror one of them.
    assert is_broken(tilted)
    assert model.symmetry == "none" and not model.two_sector and not model.network.odd
    assert "The action has no symmetry" in model.symmetry_evidence and model.symmetry_evidence in said
    mean = exact_mean(TILTED, lambda phi: phi.mean(1))
    assert mean > 0.2 and abs(model.reference.mean - mean) < 5 * float(tilted.mean(1).std()) / math.sqrt(len(tilted))
    fields, _ = flow_proposal(model, 8).sample(1000, rng(3))
    positive = float((fields.mean(1) > 0).double().mean())
    # The model has both wells, and not with equal weight.
    truth = exact_mean(TILTED, lambda phi: (phi.mean(1) > 0).double())
    assert abs(positive - truth) < 0.08 < truth - 0.5

    options = SampleOptions(chains=64, run=ChainOptions(128, seed=2), flow_steps=8)
    summary = summarise(sample(model, tmp_path / "chain.h5", options, action=TILTED))
    assert summary.acceptance > 0.3 and summary.symmetry == "none"
    for name, exact in {"M": mean, "phi2": exact_mean(TILTED, lambda phi: phi.square().mean(1))}.items():
        x = summary.observables[name]
        assert x.error < 0.05 and abs(x.value - exact) < SIGMA * x.error, name


@pytest.mark.parametrize("how", [{"symmetry": "z2"}, {"sectors": "two"}])
def test_a_symmetry_that_does_not_hold_is_refused(how, tilted, tmp_path):
    with pytest.raises(MismatchError, match="symmetry"):
        train(tilted, tmp_path / "model.safetensors", short(), action=TILTED, say=lambda _: None, **how)
    assert not list(tmp_path.iterdir())


def test_a_symmetry_that_is_not_to_be_used(tmp_path):
    phi = GRID.draws(EVEN, 500)
    model = train(
        phi, tmp_path / "model.safetensors", short(), action=EVEN, config=SIZE, symmetry="none", say=lambda _: None
    )
    assert model.symmetry == "none" and not model.two_sector and not model.network.odd
    assert "as asked for" in model.symmetry_evidence


@pytest.mark.parametrize(
    ("action", "factor", "message"),
    [
        (Phi4(0.25, 0.022), 1.0, "should be 1 and is 1.[12]"),
        (Phi4(0.27, 0.05), 1.0, "should be 1 and is 1.[34]"),
        (Phi4(0.27, 0.022), math.sqrt(0.27), "normalisation of the mass form"),
    ],
)
def test_an_ensemble_that_does_not_fit_is_refused(action, factor, message, tmp_path):
    phi = factor * hmc_ensemble(Phi4(0.27, 0.022), (8, 8), n=1000)
    with pytest.raises(MismatchError, match=message):
        train(phi, tmp_path / "model.safetensors", short(), action=action, say=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_one_sided_ensemble_is_remarked_on(tmp_path):
    phi = GRID.draws(EVEN, 1000)
    said = []
    train(phi[phi.mean(1) > 0], tmp_path / "model.safetensors", short(), action=EVEN, config=SIZE, say=said.append)
    assert any("all fields have M > 0, although the theory is symmetric" in remark for remark in said)


def test_starting_from_a_model(both_wells, tilted, tmp_path):
    init, _ = both_wells
    how = {"action": TILTED, "say": lambda _: None}
    model = train(tilted, tmp_path / "model.safetensors", short(), init=init, **how)
    assert model.history.steps == 2 and model.history.before == init.history
    phi = GRID.draws(EVEN, 500)
    with pytest.raises(MismatchError, match="'none' and this theory 'z2'"):
        train(phi, tmp_path / "other.safetensors", short(), init=init, action=EVEN, sectors="one", say=how["say"])


def test_the_size_of_a_network_has_a_name(tmp_path):
    phi = GRID.draws(EVEN, 100)

    def network(**how):
        return train(phi, tmp_path / f"{len(how)}", short(), action=EVEN, overwrite=True, say=lambda _: None, **how)

    usual, small = network().network.size, network(size="small").network.size
    named = {name: NetworkSize(**SIZES[name]) for name in ("tiny", "small", "medium", "large")}
    assert usual == network(size="auto").network.size == replace(named["tiny"], odd=usual.odd)
    assert small == replace(named["small"], odd=usual.odd) and NetworkSize() == named[USUAL] == named["small"]
    # The usual size is a matter of the lattice; where the action takes most of the time, acceptance counts for more.
    for extent, name, precise in ((16, "tiny", "small"), (64, "tiny", "medium"), (65, "medium", "medium")):
        assert InteractionNetwork.usual_size(Lattice((extent, extent))) == name
        assert InteractionNetwork.usual_size(Lattice((extent, extent)), precise=True) == precise
    assert InteractionNetwork.usual_size(Lattice((16, 16), components=2)) == "small"
    assert (
        train(phi, tmp_path / "costly", short(), action=replace(EVEN, costly=True), say=lambda _: None).network.size
        == small
    )
    # What is said beside the size counts, and the names are in the order of the work of the second layer.
    assert network(size="small", config={"hidden2": 5}).network.size == replace(small, hidden2=5)
    assert sorted(named, key=lambda x: named[x].hidden1 * named[x].hidden2) == list(SIZES)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": "huge"}, "has no size 'huge'; its sizes are auto, tiny, small, medium, large"),
        ({"size": "small", "network": "unet"}, "it has no sizes, so give its config"),
        ({"size": "small", "init": "a model"}, "has the size of that"),
    ],
)
def test_sizes_that_are_refused(how, message, both_wells, tilted, tmp_path):
    how |= {"init": both_wells[0]} if "init" in how else {}
    where = {} if "init" in how else {"lattice": Lattice((2,))}
    functions = [partial(train, tilted, action=TILTED), partial(train_rounds, TILTED, **where)]
    for function in functions[: 1 if "network" in how else 2]:  # rounds have other reasons to refuse a U-Net
        with pytest.raises(DmmcError, match=message):
            function(tmp_path / "model.safetensors", short(), **how)
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way(tmp_path, tilted):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(FileError, match="exists"):
        train(tilted, tmp_path / "model.safetensors", short(), action=TILTED)
    with pytest.raises(FileError, match="is finished, there is nothing to resume"):
        train(tilted, tmp_path / "model.safetensors", short(), action=TILTED, resume=True)
    with pytest.raises(FileError, match="is a directory"):
        train(tilted, tmp_path, short(), action=TILTED)


def test_an_unfinished_training_is_in_the_way(tmp_path, tilted):
    path, checkpoint = tmp_path / "model.safetensors", tmp_path / "model.safetensors.checkpoint"
    checkpoint.write_bytes(b"of another training")
    how = {"action": TILTED, "config": SIZE, "say": lambda _: None}
    with pytest.raises(FileError, match="holds an unfinished training; choose another --out, finish it with --resume"):
        train(tilted, path, short(), **how)
    with pytest.raises(DmmcError, match="not both"):
        train(tilted, path, short(), resume=True, overwrite=True, **how)
    assert checkpoint.read_bytes() == b"of another training"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    # A training that replaces it and is killed before its first checkpoint is not mistaken for it.
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmmc.studies.training.fit", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tilted, path, short(), overwrite=True, **how)
    assert not list(tmp_path.iterdir())
    train(tilted, path, short(), resume=True, **how | {"say": said.append})
    assert f"nothing of {path} was saved yet: starting afresh" in said
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_two_trainings_of_one_model_do_not_meet(tmp_path, tilted, monkeypatch):
    """The second one is refused while the first is at work, and afterwards because there is a model."""
    path, how = tmp_path / "model.safetensors", {"action": TILTED, "config": SIZE, "say": lambda _: None}
    refused, fit = [], training.fit

    def meets_another(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(training, "fit", None)
            for ways in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(FileError, match="is being written by another process") as error:
                    train(tilted, path, short(), **how, **ways)
                refused.append(error)
        return fit(*args, **kwargs)

    monkeypatch.setattr(training, "fit", meets_another)
    model = train(tilted, path, short(), **how)
    assert len(refused) == 3 and DiffusionModel.load(path).fingerprint() == model.fingerprint()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def ends_meanwhile(*args, **kwargs):
        path.write_bytes(b"made meanwhile")
        return measure(*args, **kwargs)

    path.unlink()
    measure = training.GaussianReference.measure
    monkeypatch.setattr(training.GaussianReference, "measure", ends_meanwhile)
    with pytest.raises(FileError, match="exists"):
        train(tilted, path, short(), **how)
    assert path.read_bytes() == b"made meanwhile"


def test_global_random_numbers_do_not_matter(tmp_path, tilted):
    prints = set()
    for k in range(2):
        torch.manual_seed(k)
        model = train(tilted, tmp_path / f"{k}.safetensors", short(), action=TILTED, config=SIZE, say=lambda _: None)
        prints.add(model.fingerprint())
    assert len(prints) == 1


def test_a_training_lies_beside_the_target_of_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "link", tmp_path / "there" / "model"
    link.symlink_to(real)
    assert checkpoint_of(link) == checkpoint_of(real) and training_lock(link) == training_lock(real)

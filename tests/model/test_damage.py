"""Damaged and malicious files of models, proposals and trainings: each is refused, with one clear error."""

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dmmc.core import files
from dmmc.core.errors import DmmcError, FileError
from dmmc.model import checkpoint as checkpoints
from dmmc.model import diffusion_model as models
from dmmc.model.checkpoint import read_checkpoint, write_checkpoint
from dmmc.model.dense import DenseSize
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory, TrainingRecord
from dmmc.model.interaction import InteractionNetwork
from dmmc.model.options import TrainingOptions
from dmmc.model.trainer import Trainer
from dmmc.proposals import dense, whitened
from dmmc.proposals.whitened import DenseProposal
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SMALL, free_reference, random_model, rng

REFERENCE = free_reference(Lattice((4, 4)))
OPTIONS = TrainingOptions(steps=7)
HISTORY = TrainingHistory(OPTIONS, 7, 0.5, 100, (TrainingRecord(7, 0.3, 0.1, 0.2),))
IDENTITY = {"lattice": [4, 4]}


def new_trainer():
    return Trainer(InteractionNetwork(REFERENCE, SMALL), OPTIONS)


def save_model(path):
    replace(random_model(REFERENCE, Phi4(0.27, 0.022), dtype=torch.float32), history=HISTORY).save(path)


def save_dense(path):
    samples = torch.randn(50, 2, generator=rng(), dtype=torch.float64)
    proposal = dense.untrained(samples, size=DenseSize(3, 2, 4), n_steps=4)
    replace(proposal, flow=replace(proposal.flow, model=replace(proposal.flow.model, history=HISTORY))).save(path)


def save_checkpoint(path):
    trainer = new_trainer()
    modes = REFERENCE.lattice.to_modes(torch.ones(1, 1, 4, 4))
    trainer.update(modes, modes, torch.tensor([0.5], dtype=torch.float64))
    trainer.angles, trainer.curve = (0.5, 0.4), [TrainingRecord(1, 0.3, 0.1, 0.2)]
    write_checkpoint(path, trainer, IDENTITY)


KINDS = {
    "model": (save_model, DiffusionModel.load, models.FORMAT),
    "dense": (save_dense, DenseProposal.load, whitened.FORMAT),
    "checkpoint": (save_checkpoint, lambda path: read_checkpoint(path, new_trainer(), IDENTITY), checkpoints.FORMAT),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path, monkeypatch):
    """A file, the function that reads it, and a function that writes it with another header and the right checksum."""
    monkeypatch.setattr(files, "sync", lambda path: None)  # many files, of which none is needed after a power failure
    save, load, format_name = KINDS[request.param]
    path = tmp_path / "file"
    save(path)
    good = read_tensors(path, format_name, 2)

    def rewrite(header):
        write_tensors(path, good.tensors, format_name, 2, header)

    return path, load, good.header, rewrite


def test_changed_bytes_and_truncations_are_noticed(kind):
    path, load, *_ = kind
    content, draw = path.read_bytes(), random.Random(1)
    load(path)
    json_end = 8 + int.from_bytes(content[:8], "little")
    positions = draw.sample(range(json_end), 60) + draw.sample(range(json_end, len(content)), 40)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(FileError):
            load(path)
    for length in draw.sample(range(len(content)), 30):
        path.write_bytes(content[:length])
        with pytest.raises(FileError):
            load(path)
    for longer in (content + b"\0", content + content):
        path.write_bytes(longer)
        with pytest.raises(FileError):
            load(path)


@pytest.mark.parametrize("version", ["1", "0", "-1", "3", "2.0", ""])
def test_a_changed_version_is_noticed(kind, version):
    # Files of version 1 have no checksum, and must not be a way around that of a later version.
    path, load, *_ = kind
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {"format_version": version})
    with pytest.raises(FileError):
        load(path)


def leaves(value, where=()):
    """The places of all values in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*where, key)
        yield from leaves(inner, (*where, key))


def changed(header, where, value):
    copy = json.loads(json.dumps(header))
    inner = copy
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return copy


def test_no_header_makes_a_traceback(kind):
    # Each value in turn is replaced by ones of other types and sizes. Most are refused; some, such as another wall
    # time, are as good as the one before.
    path, load, header, rewrite = kind
    refused = 0
    for where in leaves(header):
        for value in (None, -1, 10**30, "x", [[]], {"a": 1}, float("nan")):
            rewrite(changed(header, where, value))
            try:
                load(path)
            except DmmcError:
                refused += 1
    assert refused > 60
    nested = '{"before": ' * 900 + "null" + "}" * 900
    for text in ("[]", "3", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"history": ' + nested + "}"):
        with pytest.raises(FileError):
            load(write_text(path, text))


def write_text(path, header):
    """Give the file a header that is no JSON, or none that Python could write."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {"header": header})
    return path


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        # More sites than could be listed, momenta that do not fit the propagator.
        (("lattice",), [10**9, 10**9], "propagator must have shape"),
        (("lattice",), [1, 10**12], "propagator must have shape"),
        # More weights than there is memory for.
        (("network", "hidden1"), 10**9, r"configuration has \d+ weights, and the file \d+"),
        (("network", "level_knots"), 10**9, r"configuration has \d+ weights"),
        (("network", "radial_knots"), 10**9, r"configuration has \d+ weights"),
        (("network", "shells"), [[], [10**20]], "shells must be distinct tuples of distances from 1 to"),
        (("reference", "v_max"), 1e308, "too far apart"),
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_anything_is_made(tmp_path, monkeypatch, where, value, message):
    save_model(tmp_path / "model")
    good = read_tensors(tmp_path / "model", models.FORMAT, 2)
    header = changed(good.header, ("reference", "v_offset"), 1e-5)
    write_tensors(tmp_path / "model", good.tensors, models.FORMAT, 2, changed(header, where, value))
    monkeypatch.setattr(InteractionNetwork, "__init__", None)
    with pytest.raises(FileError, match=message):
        DiffusionModel.load(tmp_path / "model")


def test_absurd_sizes_of_a_dense_network_are_refused(tmp_path):
    save_dense(tmp_path / "dense")
    good = read_tensors(tmp_path / "dense", whitened.FORMAT, 2)
    for where, value, message in (
        (("network", "hidden2"), 10**9, r"configuration has \d+ weights"),
        (("n_steps",), 10**9, "number of steps must be at most 100000"),
        (("n_steps",), [4, 10**9], "number of steps must be at most 100000"),
    ):
        write_tensors(tmp_path / "dense", good.tensors, whitened.FORMAT, 2, changed(good.header, where, value))
        with pytest.raises(FileError, match=message):
            DenseProposal.load(tmp_path / "dense")


def test_whitening_that_is_none_is_refused(tmp_path):
    save_dense(tmp_path / "dense")
    good = read_tensors(tmp_path / "dense", whitened.FORMAT, 2)
    lower = good.tensors["cholesky"]
    for change in (
        {"cholesky": lower.mT.contiguous()}, {"cholesky": -lower}, {"cholesky": lower[:1]},
        {"cholesky": lower * torch.inf}, {"mean": good.tensors["mean"].float()}, {"mean": torch.tensor(1.0)},
    ):  # fmt: skip
        write_tensors(tmp_path / "dense", good.tensors | change, whitened.FORMAT, 2, good.header)
        with pytest.raises(FileError, match="not a complete model file"):
            DenseProposal.load(tmp_path / "dense")


def test_weights_of_other_kinds_of_numbers_are_refused(tmp_path):
    save_model(tmp_path / "model")
    good = read_tensors(tmp_path / "model", models.FORMAT, 2)
    for kind, message in (
        (torch.complex64, "and should be torch.float32"),
        (torch.int32, "and should be torch.float32"),
        (torch.float8_e4m3fn, "in which networks do not compute"),
    ):
        others = good.tensors if kind.is_floating_point else {"lin": good.tensors["lin"]}
        tensors = good.tensors | {name: x.to(kind) for name, x in others.items() if name != "propagator"}
        write_tensors(tmp_path / "model", tensors, models.FORMAT, 2, good.header)
        with pytest.raises(FileError, match=message):
            DiffusionModel.load(tmp_path / "model")

"""Model files: what is saved is what is loaded, and everything else is refused with a reason."""

import json
import math
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dmmc.core import files
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.model import file as file_module
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory, TrainingRecord
from dmmc.model.interaction import InteractionNetwork, NetworkSize
from dmmc.model.options import TrainingOptions
from dmmc.model.pretrained import load_pretrained, pretrained_card, pretrained_names
from dmmc.proposals.flow import FlowProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SMALL, free_reference, noise, random_model, rng

ACTION = Phi4(0.27, 0.022)
WEIGHTS = Path(file_module.__file__).parent / "weights"
PAGE = Path(__file__).parents[2] / "docs" / "pretrained.md"
HISTORY = TrainingHistory(TrainingOptions(steps=7), 7, 0.5, 100, (TrainingRecord(7, 0.3, 0.1, 0.2),))


def make(shape=(4, 4), action=ACTION, two_sector=False, **options):
    reference = free_reference(Lattice(shape), mean=1.2 if two_sector else 0.0, v_max=21.0)
    model = random_model(reference, action, two_sector=two_sector, **options)
    return replace(model, history=HISTORY)


@pytest.fixture
def saved(tmp_path):
    return make(dtype=torch.float32).save(tmp_path / "model.safetensors")


def rewrite(path, tensors=None, **metadata):
    """Change tensors or metadata of a model file, with the right checksum; None takes an entry away."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {name: value for name, value in (stored | (tensors or {})).items() if value is not None}
    merged = {key: value for key, value in (old | metadata).items() if value is not None}
    if "header" in merged and "sha256" not in metadata:
        merged["sha256"] = file_module._checksum(merged["header"], kept)
    save_file(kept, path, merged)
    return path


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["header"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("two_sector", [False, True])
def test_round_trip_is_bitwise(tmp_path, two_sector, dtype):
    size = NetworkSize(filters=3, hidden1=5, hidden2=4, shells=((), (1,), (2,), (1, 2)), level_knots=7, radial_knots=5)
    model = make((4, 3), two_sector=two_sector, size=size, dtype=dtype)
    path = model.save(tmp_path / "deep" / "model.safetensors")
    loaded = DiffusionModel.load(path, ACTION, Lattice((4, 3)))
    assert loaded.dtype == dtype and loaded.two_sector == two_sector
    assert (loaded.action, loaded.history) == (model.action, model.history)
    assert loaded.network.size == model.network.size
    assert loaded.known_action() == ACTION
    assert torch.equal(loaded.reference.propagator, model.reference.propagator)
    assert loaded.reference.describe() == model.reference.describe()
    weights = model.network.state_dict()
    assert weights.keys() == loaded.network.state_dict().keys()
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert loaded.fingerprint() == model.fingerprint()
    for result, expected in zip(*(FlowProposal(m, 4).sample(5, rng()) for m in (loaded, model)), strict=True):
        assert torch.equal(result, expected)
    assert os.listdir(path.parent) == [path.name]


def test_fingerprint_is_of_all_that_enters_a_proposal():
    models = [
        make(),
        make(seed=2),
        make(two_sector=True),
        make(dtype=torch.float32),
        make((4, 3)),
    ]
    with torch.no_grad():
        models.append(make())
        models[-1].network.w[3, 1, 2, 1] += 1e-12
    c = models[0].reference.propagator.clone()
    for change in ({"propagator": c * (1 + 1e-12)}, {"v_max": 22.0}, {"v_offset": 0.1}):
        network = InteractionNetwork(replace(models[0].reference, **change), SMALL).double()
        network.load_state_dict(models[0].network.state_dict())
        models.append(replace(models[0], network=network))
    assert len({model.fingerprint() for model in models}) == len(models)
    same = replace(make(), history=None, action={})
    assert same.fingerprint() == make().fingerprint() and len(same.fingerprint()) == 64


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileError, match="there is no file"):
            DiffusionModel.load(path)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match="truncated or not a safetensors file"):
        DiffusionModel.load(saved)


def test_file_that_lacks_its_last_byte(saved):
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(FileError, match="truncated"):
        DiffusionModel.load(saved)


def test_other_kinds_of_files(tmp_path):
    path = tmp_path / "file"
    with h5py.File(path, "w") as file:
        file["phi"] = [1.0, 2.0]
    hdf5 = path.read_bytes()
    for content in (hdf5, pickle.dumps({"w": [1.0]}), b"kappa = 0.27\n" * 40, bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(FileError, match="not a safetensors file"):
            DiffusionModel.load(path)
    torch.save({"w": torch.ones(3)}, path)
    with pytest.raises(FileError, match="not a safetensors file"):
        DiffusionModel.load(path)


def test_foreign_safetensors_files(tmp_path, saved):
    foreign = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.ones(3)}, foreign, metadata)
        with pytest.raises(FileError, match="not a dmmc-model file"):
            DiffusionModel.load(foreign)
    write_tensors(foreign, {"weight": torch.ones(3)}, "dmmc-training", 2, {"step": 3})
    with pytest.raises(FileError, match="not a dmmc-model file"):
        DiffusionModel.load(foreign)
    with pytest.raises(FileError, match="not a dmmc-training file"):
        read_tensors(saved, "dmmc-training", 2)


def test_a_file_that_is_replaced_again_and_again_can_be_read(tmp_path):
    # As the checkpoint of a training that goes on: header and tensors are to be of the same file.
    path, stop = tmp_path / "checkpoint", threading.Event()

    def write(k):
        write_tensors(path, {"weight": torch.full((1 + 500 * (k % 2),), float(k))}, "dmmc-training", 2, {"step": k})

    def replace_it():
        k = 1
        while not stop.is_set():
            write(k)
            k += 1

    write(0)
    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        for _ in range(5000):
            contents = read_tensors(path, "dmmc-training", 2)
            tensors, header = contents.tensors, contents.header
            assert float(tensors["weight"][0]) == header["step"] and len(tensors["weight"]) == 1 + 500 * (
                header["step"] % 2
            )
    finally:
        stop.set()
        writer.join()


def test_newer_version(saved):
    with pytest.raises(FileError, match="newer dmmc; upgrade"):
        DiffusionModel.load(rewrite(saved, format_version="3"))


@pytest.mark.parametrize(
    "metadata",
    [{"format_version": "one"}, {"format_version": None}, {"header": None}, {"header": "{"}, {"header": "[]"}],
)
def test_broken_metadata(saved, metadata):
    with pytest.raises(FileError, match=r"no readable header|not a complete model file"):
        DiffusionModel.load(rewrite(saved, **metadata))


def test_incomplete_contents(saved):
    good = saved.read_bytes()
    header = header_of(saved)
    for key in ("lattice", "network", "reference", "symmetry", "two_sector", "action", "history", "versions"):
        saved.write_bytes(good)
        short = {name: value for name, value in header.items() if name != key}
        with pytest.raises(FileError, match="not a complete model file"):
            DiffusionModel.load(rewrite(saved, header=json.dumps(short)))
    for tensors in ({"w": None}, {"propagator": None}, {"w": torch.ones(2)}, {"extra": torch.ones(2)}):
        saved.write_bytes(good)
        with pytest.raises(FileError, match="not a complete model file"):
            DiffusionModel.load(rewrite(saved, tensors))
    saved.write_bytes(good)
    DiffusionModel.load(saved)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(saved, value):
    w = DiffusionModel.load(saved).network.w.clone()
    w[0, 0, 0, 0] = value
    with pytest.raises(FileError, match="the weights 'w' are not all finite"):
        DiffusionModel.load(rewrite(saved, {"w": w}))


def test_wrong_action_and_lattice(saved):
    DiffusionModel.load(saved, Phi4(0.27 * (1 + 1e-12), 0.022), Lattice((4, 4)))  # rounding is no difference
    for action in (Phi4(0.271, 0.022), Phi4(0.27, 0.022, scale=2.0), FreeField(1.0)):
        with pytest.raises(MismatchError, match=r"trained for phi4\(kappa=0.27, lam=0.022, scale=1\), not"):
            DiffusionModel.load(saved, action)
    for shape in ((4, 5), (4,), (4, 4, 4)):
        with pytest.raises(MismatchError, match=r"trained on lattice \(4, 4\), not"):
            DiffusionModel.load(saved, ACTION, Lattice(shape))


def test_model_of_data_alone_takes_any_action(tmp_path):
    model = DiffusionModel.load(make(action=None).save(tmp_path / "m"))
    model.check_fits(ACTION, Lattice((4, 4)))
    assert model.known_action() is None


def test_foreign_action_is_known_by_its_name_alone(tmp_path):
    action = AutogradAction(lambda phi: phi.flatten(1).square().sum(1), "mine", (("g", 1.5),))
    path = make(action=action).save(tmp_path / "m")
    assert DiffusionModel.load(path, action).known_action() is None
    with pytest.raises(MismatchError, match=r"trained for mine\(g=1.5\), not mine\(g=2\)"):
        DiffusionModel.load(path, replace(action, parameters=(("g", 2.0),)))


def test_two_sectors_need_biases(tmp_path):
    odd = make().network
    with pytest.raises(DmmcError, match="pass odd=False in its configuration"):
        DiffusionModel(odd, {}, two_sector=True, symmetry="z2")
    assert not make(two_sector=True).network.size.odd
    path = make(dtype=torch.float32).save(tmp_path / "m")
    with pytest.raises(DmmcError, match="two-sector"):
        DiffusionModel.load(rewrite(path, header=json.dumps(header_of(path) | {"two_sector": True})))


@pytest.mark.parametrize("function", ["os.replace", "os.fsync", "save"])
def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "model.safetensors"
    old = make().save(path).read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    if function == "save":
        monkeypatch.setattr(file_module, "save", fail)
    else:
        monkeypatch.setattr(files.os, function.removeprefix("os."), fail)
    with pytest.raises(FileError, match=r"cannot write .*no space left"):
        make(seed=2).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old and os.listdir(tmp_path) == [path.name]
    make(seed=2).save(path)
    assert DiffusionModel.load(path).fingerprint() == make(seed=2).fingerprint()


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot write"):
        make().save(tmp_path / "file" / "model.safetensors")


def test_moved_to_the_same_place_is_the_same_model():
    model = make((4, 3))
    moved = model.moved_to(model.reference, ACTION)
    phi = noise(model.lattice, 6)
    result, expected = (FlowProposal(m, 4).log_q(phi) for m in (moved, model))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert moved.dtype == model.dtype and moved.action == model.action and moved.history is None


@pytest.mark.parametrize("two_sector", [False, True])
def test_moved_to_another_lattice_and_coupling(two_sector):
    model, action = make((4, 4), two_sector=two_sector), Phi4(0.3, 0.1)
    moved = model.moved_to(free_reference(Lattice((8, 6)), 0.5), action)
    assert moved.lattice.shape == (8, 6) and moved.action == action.describe() and moved.two_sector == two_sector
    assert torch.equal(moved.network.radial_in, model.network.radial_in)
    assert bool(torch.isfinite(FlowProposal(moved, 4).sample(3, rng())[1]).all())
    with pytest.raises(MismatchError, match="a model of 2 dimensions cannot start one of 3"):
        model.moved_to(free_reference(Lattice((4, 4, 4))), action)


def test_pretrained_models_load():
    for name in pretrained_names():
        model = load_pretrained(name)
        model.check_fits(model.known_action(), model.lattice)
        # Its chains choose their steps without a measurement, and its card stands in the documentation.
        assert model.flow_errors is not None
        card = pretrained_card(name)
        assert card.startswith(f"## {name}\n") and card in PAGE.read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 3 * 2**20
    with pytest.raises(FileError, match="no pretrained model 'nonesuch'; there are: "):
        load_pretrained("nonesuch")
    with pytest.raises(FileError, match="no pretrained model 'nonesuch'; there are: "):
        pretrained_card("nonesuch")


def test_pretrained_model_is_what_it_was():
    # Its fingerprint is recorded in run files, and must not change with the format of model files.
    model = load_pretrained("phi4-flow-L32-large")
    assert model.fingerprint() == "5558831a55864b501dd0f409ae0a08b2b00552e39fabe51a36378c72e68e43a6"
    assert (model.symmetry, model.network.name, model.lattice.shape) == ("z2", "interaction", (32, 32))
    assert model.history.steps == 24259 and len(model.history.curve) == 242 and model.history.before is None
    assert model.history.curve[0].gaussian == pytest.approx(135.124, abs=1e-3)


def as_version_1(path, model):
    """The file that format 1 had for a model."""
    network = {key: value for key, value in header_of(path)["network"].items() if key != "name"}
    header = {key: value for key, value in header_of(path).items() if key not in ("version", "symmetry")}
    options = header["history"]["options"]
    points = [{"step": 7, "loss": 0.3, "validation": 0.1, "N=0": 0.2}]
    header["history"] = {
        "options": options, "steps": 7, "seconds": 0.5, "ensemble": 100, "validation": points, "before": {}
    }  # fmt: skip
    header["network"] = network
    return rewrite(path, header=json.dumps(header), format_version="1", sha256=None), header


@pytest.mark.parametrize(("two_sector", "odd", "symmetry"), [(0, 1, "z2"), (1, 0, "z2"), (0, 0, "none")])
def test_files_of_format_1(tmp_path, two_sector, odd, symmetry):
    size = NetworkSize(**SMALL.describe() | {"odd": bool(odd)})
    model = make(two_sector=bool(two_sector), size=size, dtype=torch.float32)
    path, header = as_version_1(model.save(tmp_path / "model"), model)
    loaded = DiffusionModel.load(path, ACTION)
    assert loaded.symmetry == symmetry and loaded.two_sector == bool(two_sector) and loaded.history == HISTORY
    assert loaded.fingerprint() == model.fingerprint()
    # An untrained model had an empty history.
    assert DiffusionModel.load(rewrite(path, header=json.dumps(header | {"history": {}}), sha256=None)).history is None
    for changes in ({"history": {"steps": 3}}, {"history": 3}, {"network": 3}, {"network": {}}, {"two_sector": "no"}):
        with pytest.raises(FileError, match="not a complete model file"):
            DiffusionModel.load(rewrite(path, header=json.dumps(header | changes), sha256=None))


@pytest.mark.parametrize(
    "changes",
    [
        {"lattice": "4x4"},
        {"lattice": [4, -4]},
        {"lattice": [4.5, 4]},
        {"lattice": []},
        {"network": {"name": "interaction", "filters": "three"}},
        {"network": {"name": "interaction", "shells": [["x"]]}},
        {"network": {"name": 3}},
        {"network": {"filters": 3}},
        {"network": []},
        {"reference": {"mean": "0", "v_max": 21.0, "v_offset": 0.1}},
        {"reference": {"mean": 0.0, "v_max": None, "v_offset": 0.1}},
        {"reference": {"mean": 0.0, "v_max": -21.0, "v_offset": 0.1}},
        {"reference": {"v_max": 21.0, "v_offset": 0.1}},
        {"symmetry": "o3"},
        {"symmetry": "none"},
        {"two_sector": 1},
        {"history": {"steps": 3}},
        {"action": "phi4"},
        {"versions": None},
        {"version": 99},
        {"version": "two"},
    ],
    ids=str,
)
def test_malformed_headers_are_refused(saved, changes):
    with pytest.raises(FileError, match="not a complete model file"):
        DiffusionModel.load(rewrite(saved, header=json.dumps(header_of(saved) | changes)))


@pytest.mark.parametrize(
    "propagator", [torch.ones(6, dtype=torch.int64), -torch.ones(6), torch.ones(6) * math.nan, torch.ones(2, 3)]
)
def test_malformed_propagators_are_refused(saved, propagator):
    with pytest.raises(FileError, match="not a complete model file: propagator must"):
        DiffusionModel.load(rewrite(saved, {"propagator": propagator}))


def test_weights_of_several_types_are_refused(saved):
    with pytest.raises(FileError, match=r"its weights are of several types: torch\.float32, torch\.float64"):
        DiffusionModel.load(rewrite(saved, {"w": DiffusionModel.load(saved).network.w.double()}))


def test_every_changed_byte_is_noticed(saved):
    # One byte in each part of the file: the length, the JSON of safetensors, our header, tensors at both ends.
    content = saved.read_bytes()
    json_end = 8 + int.from_bytes(content[:8], "little")
    inside = content.index(b"kappa")
    for position in (
        0,
        9,
        inside,
        inside + 12,
        json_end - 2,
        json_end,
        (json_end + len(content)) // 2,
        len(content) - 1,
    ):
        damaged = bytearray(content)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(FileError):
            DiffusionModel.load(saved)
    saved.write_bytes(content)
    DiffusionModel.load(saved)
    with pytest.raises(FileError, match="has no checksum"):
        DiffusionModel.load(rewrite(saved, sha256=None))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_file_modes_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = make().save(tmp_path / "model")
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~mask


def test_files_hold_all_types_of_numbers(tmp_path):
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool)
    tensors = {str(dtype): torch.ones(3, 2).to(dtype) for dtype in types} | {
        "empty": torch.ones(0),
        "one": torch.ones(()),
    }
    path = write_tensors(tmp_path / "file", tensors, "test", 2, {"x": [1, None]})
    contents = read_tensors(path, "test", 2)
    assert contents.header == {"x": [1, None]} and contents.version == 2
    assert contents.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(contents.tensors[name], value) and contents.tensors[name].dtype == value.dtype

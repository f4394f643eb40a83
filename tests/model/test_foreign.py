"""Networks of other codes: the score is reproduced in every parametrisation; files, and what is refused."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError, FileError
from dmmc.model import foreign as module
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.foreign import PREDICTIONS, ForeignNetwork, import_path, trust_network
from dmmc.model.reference import GaussianReference
from dmmc.model.schedules import VE, VP
from dmmc.model.separation import check_separate
from dmmc.theory.lattice import Lattice
from foreign_nets import Answer, GaussianNet, SmallNet
from helpers import noise

LATTICE = Lattice((4, 3))
EXACT = torch.linspace(2.0, 0.3, len(LATTICE.orbit_modes), dtype=torch.float64)
REFERENCE = GaussianReference(LATTICE, EXACT.flip(0) + 0.5, mean=0.2)
"""Another propagator and another mean than those of the field, so that N is not zero."""

MEAN = -0.4


def exact(v, modes):
    """``D N`` of the Gaussian field: ``grad S_int`` is linear in the field, and so is its posterior mean."""
    c, other = LATTICE.spread(EXACT), REFERENCE.c(modes)
    v = v.view(-1, 1, 1, 1)
    shift = torch.zeros(LATTICE.half, dtype=torch.complex128)
    shift[0, 0] = (MEAN - REFERENCE.mean) * math.sqrt(LATTICE.volume)  # of the modes of phi - reference mean
    posterior = (c * modes + v * shift) / (c + v)  # E[phi_0 | phi_s]
    gradient = (posterior - shift) / c - posterior / other
    return other / (other + v) * gradient


CASES = [
    *((predicts, VE(30.0, 1e-4), lambda told: told) for predicts in ("score", "eps", "x0")),
    ("score", VE(30.0, 1e-4, argument="time"), lambda t: 1e-4 * 3e5**t),
    ("eps", VE(base=40.0, sigma_min=1e-4, argument="time"), lambda t: ((1600**t - 1) / math.log(1600)).sqrt()),
    *((predicts, VP(), lambda t: torch.expm1(0.1 * t + 9.95 * t**2).sqrt()) for predicts in PREDICTIONS),
    ("v", VP(argument="log_sigma"), torch.exp),
    ("eps", VP(argument="sigma"), lambda told: told),
]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_exact_score_is_reproduced(case, scale):
    predicts, schedule, sigma_of = CASES[case]
    net = GaussianNet(LATTICE.shape, scale**2 * EXACT, scale * MEAN, predicts, schedule.preserves_variance, sigma_of)
    network = ForeignNetwork(REFERENCE, net, predicts, schedule, scale=scale).double()
    assert network.reference.v_max == pytest.approx((schedule.bounds[1] / scale) ** 2)
    v = torch.tensor([0.01, 1.0, 5.0], dtype=torch.float64)
    modes = LATTICE.to_modes(3 * noise(LATTICE, 6).view(3, 2, *LATTICE.shape))
    torch.testing.assert_close(network(modes, v), exact(v, modes), rtol=1e-7, atol=1e-9)


def test_below_the_least_noise_the_interaction_is_constant():
    net = GaussianNet(LATTICE.shape, EXACT, MEAN, "eps", False, lambda told: told, channel=False)
    network = ForeignNetwork(REFERENCE, net, "eps", VE(10.0, 0.1), channel_axis=False).double()
    modes = LATTICE.to_modes(noise(LATTICE, 2).view(1, 2, *LATTICE.shape))
    at = torch.tensor([0.01], dtype=torch.float64)
    c = REFERENCE.c(modes)
    interaction = network(modes, at) * (c + at) / c
    for v in (0.0, 1e-3):
        torch.testing.assert_close(network(modes, at.new_tensor([v])) * (c + v) / c, interaction)
    torch.testing.assert_close(torch.cat(net.told).min(), torch.tensor(0.1, dtype=torch.float64))


def test_what_has_an_attribute_sample_is_taken_for_it():
    class Output:
        def __init__(self, sample):
            self.sample = sample

    modes = LATTICE.to_modes(noise(LATTICE, 2).view(1, 2, *LATTICE.shape))
    v = torch.ones(1, dtype=torch.float64)
    wrapped, plain = (
        ForeignNetwork(REFERENCE, Answer(f), "score", VE(10.0)).double() for f in (lambda x: Output(-x), lambda x: -x)
    )
    assert torch.equal(wrapped(modes, v), plain(modes, v))


def saved(path, **settings):
    net = SmallNet(4, "group")
    network = ForeignNetwork(REFERENCE, net, "eps", VE(10.0), {"channels": 4, "between": "group"}, **settings)
    model = DiffusionModel(network, {})
    model.save(path)
    return model


def test_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TRUSTED", {})
    model = saved(tmp_path / "model.safetensors", scale=0.5)
    # Nothing is made that was not trusted, although its module is imported.
    with pytest.raises(
        FileError, match=r"cannot be loaded: its network is a module 'foreign_nets:SmallNet' of another"
    ):
        DiffusionModel.load(tmp_path / "model.safetensors")
    assert trust_network(SmallNet) is SmallNet
    read = DiffusionModel.load(tmp_path / "model.safetensors")
    assert read.fingerprint() == model.fingerprint() and read.network.describe() == model.network.describe()
    assert read.reference.v_max == model.reference.v_max == 400
    modes = LATTICE.to_modes(noise(LATTICE, 2).float().view(1, 2, *LATTICE.shape))
    assert torch.equal(read.network(modes, torch.ones(1)), model.network(modes, torch.ones(1)))


def test_a_file_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "strange.py").write_text("raise SystemExit('code has run')")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("strange:Net", "torch.nn.modules.linear:Linear", "os:system"):
        with monkeypatch.context() as patch:
            patch.setattr(module, "import_path", lambda cls, path=path: path)
            saved(tmp_path / "model.safetensors")
        with pytest.raises(
            FileError, match=f"its network is a module '{path}' of another code, and a file runs no code"
        ):
            DiffusionModel.load(tmp_path / "model.safetensors")


def test_a_damaged_header_asks_for_no_memory(tmp_path):
    trust_network(SmallNet)
    config = {"module": import_path(SmallNet), "arguments": {"channels": 10**7}}
    assert ForeignNetwork.n_weights(LATTICE, config) == 28 * 10**7 + 1
    assert ForeignNetwork.n_weights(LATTICE, {**config, "arguments": {"colour": 3}}) is None


def test_moved_to_another_lattice():
    network = ForeignNetwork(REFERENCE, SmallNet(), "eps", VE(10.0))
    other = Lattice((6, 6))
    moved = network.moved_to(GaussianReference(other, torch.ones(len(other.orbit_modes), dtype=torch.float64)))
    assert moved.lattice == other and moved.reference.v_max == 100
    for key, value in moved.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"module": SmallNet}, "must be a torch.nn.Module, made and with its weights; got SmallNet"),
        ({"module": "net.pt"}, "must be a torch.nn.Module, made and with its weights; got str"),
        ({"predicts": "noise"}, "predicts must be one of score, eps, x0, v; got 'noise'"),
        ({"schedule": 10.0}, r"must be a dmmc.VE\(...\) or a dmmc.VP\(...\), got 10.0"),
        ({"schedule": VE}, r"must be a dmmc.VE\(...\) or a dmmc.VP\(...\), got <class"),
        ({"predicts": "v"}, r"defined where a\^2 \+ b\^2 = 1: give a schedule dmmc.VP"),
        ({"scale": 0}, "scale must be a positive number, got 0"),
        ({"arguments": {"width": 3}}, r"foreign_nets:SmallNet is not made by the arguments \{'width': 3\} \[TypeError"),
        ({"arguments": {"channels": 5}}, "make another network: its weights 'first.bias' have the shape"),
        ({"arguments": {"between": torch.nn.Identity}}, "must consist of JSON values"),
    ],
)
def test_bad_arguments(settings, message):
    usual = {"module": SmallNet(), "predicts": "eps", "schedule": VE(10.0)}
    with pytest.raises(DmmcError, match=message):
        ForeignNetwork(REFERENCE, **(usual | settings))


def test_a_network_without_arguments_cannot_be_saved(tmp_path):
    model = DiffusionModel(ForeignNetwork(REFERENCE, SmallNet(), "eps", VE(10.0)), {})
    assert len(model.fingerprint()) == 64
    with pytest.raises(DmmcError, match=r"cannot be made again: pass dmmc.foreign its arguments=\{...\}"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.cat([x, x], 1), r"must keep the shape \(6, 1, 4, 3\) of its fields; got \(6, 2, 4, 3\)"),
        (lambda x: (x, x), "must return a tensor, got tuple"),
        (lambda x: x + x.mean(0), "the fields of a batch see each other"),
    ],
)
def test_bad_answers(function, message):
    network = ForeignNetwork(REFERENCE, Answer(function), "eps", VE(10.0))
    with pytest.raises(DmmcError, match=message):
        check_separate(network)


@pytest.mark.parametrize("between", [None, "batch", "statistics", "group", "dropout"])
@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics_are_found(between, training):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = SmallNet(4, between)
    torch.nn.init.zeros_(net.second.weight)  # a network that begins with zero must not get through
    network = ForeignNetwork(REFERENCE, net, "eps", VE(10.0)).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    if between == "statistics" or (between == "batch" and training):
        how = "in training mode" if training else "without running statistics"
        with pytest.raises(DmmcError, match=rf"see each other \(the layer module.between is a BatchNorm2d {how}\)"):
            check_separate(network)
    else:
        check_separate(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

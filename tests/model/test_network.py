"""The network seam: any registered network is made, trained, saved, loaded and moved; nothing draws global numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dmmc.core.errors import DmmcError, FileError
from dmmc.kernels.base import State
from dmmc.kernels.cluster import Cluster
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.initialisation import drawing_from
from dmmc.model.interaction import InteractionNetwork
from dmmc.model.network import Network, make_network, network_class, network_names, register_network
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.model.sites import SiteNetwork
from dmmc.model.training import fit
from dmmc.proposals.certify import certify
from dmmc.proposals.divergence import BruteForce
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.path import PathProposal
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SMALL, free_reference, hmc_ensemble, noise, rng

SHAPE, ACTION = (4, 4), Phi4(0.25, 0.1)


class Body(nn.Module):
    """Two periodic convolutions; the noise level enters as a second channel. The dropout is for the random stream."""

    def __init__(self, channels, dropout):
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1, padding_mode="circular")
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, u, level):
        if self.training:
            self.calls += 1
        x = torch.cat([u, level.view(-1, 1, 1, 1).expand_as(u)], 1)
        return self.second(self.dropout(torch.tanh(self.first(x))))


@register_network("test-conv")
class Conv(SiteNetwork):
    def __init__(self, reference, channels=6, dropout=0.0):
        super().__init__(reference, Body(channels, dropout))
        self.channels, self.dropout = channels, dropout

    def config(self):
        return {"channels": self.channels, "dropout": self.dropout}


@register_network("test-scale")
class Scale(Network):
    """``N = a D phi_s``: one parameter, and another one that nothing depends on."""

    odd = True
    level_intervals = 1

    def __init__(self, reference):
        super().__init__(reference)
        self.a, self.idle = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(3))

    def forward(self, modes, v, context=None):
        c = self.reference.c(modes)
        v = v.view(-1, 1, *[1] * c.ndim)
        return self.a * c / (c + v) * modes

    def config(self):
        return {}


def phi4_model(network="test-conv", config=None, **options):
    reference = free_reference(Lattice(SHAPE))
    return DiffusionModel.untrained(reference, ACTION, network, config, generator=rng(), **options)


def short(**changes):
    return replace(TrainingOptions(steps=6, levels=8, trajectories=1, validation_every=3, seed=3), **changes)


def trained(model, checkpoint=None, resume=False, action=ACTION, **changes):
    return fit(model, action, hmc_ensemble(ACTION, SHAPE, n=200), short(**changes), checkpoint, resume, progress=False)


@pytest.mark.parametrize("network", ["test-conv", "test-scale", "interaction"])
@pytest.mark.parametrize("action", [ACTION, None], ids=["action", "data alone"])
def test_any_registered_network_is_trained_saved_loaded_and_used(tmp_path, network, action):
    reference = free_reference(Lattice(SHAPE))
    model = DiffusionModel.untrained(reference, action, network, symmetry="z2", generator=rng())
    model = fit(model, action, hmc_ensemble(ACTION, SHAPE, n=200), short(), progress=False)
    loaded = DiffusionModel.load(model.save(tmp_path / "model"), action)
    assert type(loaded.network) is network_class(network) and not loaded.network.training
    assert loaded.fingerprint() == model.fingerprint() and loaded.history == model.history
    assert loaded.network.config() == model.network.config()
    modes = reference.lattice.to_modes(noise(reference.lattice, 3).float().unsqueeze(0))
    v = torch.tensor([0.5])
    assert torch.equal(loaded.network(modes, v), model.network(modes, v)) and model.network(modes, v).any()
    assert model.network.level_intervals == {"test-conv": 5, "test-scale": 1, "interaction": 5}[network]


def test_a_model_is_used_in_evaluation_mode():
    # With dropout or batch statistics, the density of a proposal would be another one at every call.
    network = make_network("test-conv", free_reference(Lattice(SHAPE)), {"dropout": 0.5}, rng())
    nn.init.ones_(network.body.second.weight)
    assert network.training
    flow = FlowProposal(DiffusionModel(network, ACTION.describe()), 2, divergence=BruteForce())
    first, second = (flow.push(flow.latents(3, rng()))[1] for _ in range(2))
    assert torch.equal(first, second) and float(network.body.calls) == 0
    for other in (flow.model.to_float64(), trained(flow.model), flow.model.moved_to(flow.model.reference, ACTION)):
        assert not any(module.training for module in other.network.modules())


def test_steps_are_placed_by_the_intervals_that_a_network_declares():
    for name, intervals in (("test-conv", 5), ("test-scale", 1)):
        model = phi4_model(name, symmetry="z2")
        assert FlowProposal(model, divergence=BruteForce()).intervals == model.network.level_intervals == intervals


def test_training_finds_the_exact_answer_of_a_network_with_one_parameter():
    # A free field seen from a reference of twice its propagator: N = (1/C' - 1/C) E[phi_0 | phi_s] is not a D phi_s for
    # all levels, but where C' = 2 C for every p the best a is positive, and for C' = C / 2 negative.
    signs = []
    for factor in (0.5, 2.0):
        reference = free_reference(Lattice(SHAPE), 0.8)
        wrong = replace(reference, propagator=factor * reference.propagator)
        phi = reference.lattice.to_sites(
            reference.c(noise(reference.lattice, 1)).sqrt() * reference.lattice.to_modes(noise(reference.lattice, 500))
        )
        model = DiffusionModel.untrained(wrong, FreeField(0.8), "test-scale")
        model = fit(model, FreeField(0.8), phi, short(steps=40, learning_rate=0.1, validation_every=20), progress=False)
        assert model.history.curve[-1].kl_removed > 0.1 * model.history.curve[-1].gaussian
        signs.append(math.copysign(1, float(model.network.a)))
        assert torch.equal(model.network.idle, torch.ones(3))
    assert signs == [-1, 1]


def test_interrupted_training_of_any_network_goes_on_to_the_same_bits(tmp_path):
    # Dropout draws from the global generator, and a buffer counts the calls: both belong to the state of training.
    for config in ({"dropout": 0.5}, {"channels": 2}):
        whole = trained(phi4_model(config=config))
        checkpoint = tmp_path / "training"
        options = {"checkpoint": checkpoint, "checkpoint_seconds": 0.0}

        class Stop(Exception):
            pass

        def stop_after(network, n):
            def hook(module, *_):
                if module.body.training and float(module.body.calls) > n:
                    raise Stop

            return network.register_forward_hook(hook)

        model = phi4_model(config=config)
        handle = stop_after(model.network, 4)
        with pytest.raises(Stop):
            trained(model, **options)
        handle.remove()
        assert checkpoint.exists()
        resumed = trained(phi4_model(config=config), resume=True, **options)
        assert resumed.fingerprint() == whole.fingerprint()
        assert float(resumed.network.body.calls) == float(whole.network.body.calls) == 6
        checkpoint.unlink()


def test_global_random_numbers_are_neither_used_nor_changed():
    def everything():
        model = phi4_model(config={"dropout": 0.5})
        assert phi4_model("interaction").network.a1.any()
        torch.rand(3)
        before = torch.get_rng_state()
        DiffusionModel.untrained(free_reference(Lattice(SHAPE)), ACTION)
        InteractionNetwork(free_reference(Lattice(SHAPE)), SMALL)
        result = trained(model)
        assert torch.equal(torch.get_rng_state(), before)
        return result.fingerprint()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = everything()
        torch.manual_seed(2)
        assert everything() == first


@pytest.mark.cuda
def test_global_random_numbers_of_a_cuda_device_are_restored_and_reproducible():
    torch.cuda.manual_seed_all(1)
    before, drawn = torch.cuda.get_rng_state(), []
    for seed in (5, 5, 6):
        with drawing_from(rng(seed)):
            drawn.append(torch.rand(3, device="cuda"))
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_generators_are_advanced_by_what_is_drawn():
    generator = rng(5)
    with drawing_from(generator):
        first = torch.rand(2)
    with drawing_from(generator):
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), torch.rand(4, generator=rng(5)))
    weights = [
        make_network("test-conv", free_reference(Lattice(SHAPE)), {}, rng(seed)).body.first.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("network", ["test-conv", "interaction"])
def test_the_default_dtype_and_the_gradient_mode_of_the_caller_do_not_matter(network):
    expected = trained(phi4_model(network)).fingerprint()
    torch.set_default_dtype(torch.float64)
    try:
        model = phi4_model(network)
        assert all(p.dtype == torch.float32 for p in model.network.parameters())
        assert trained(model).fingerprint() == expected
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert trained(phi4_model(network)).fingerprint() == expected
    with torch.inference_mode():
        # Lattice, reference, network and ensemble are all made in there.
        assert trained(phi4_model(network)).fingerprint() == expected
        phi = hmc_ensemble(ACTION, SHAPE, n=200).clone()
        assert phi.is_inference()
        double = phi4_model(network).to_float64()
        again = fit(double, ACTION, phi, short(), progress=False)
    assert not any(p.is_inference() for p in again.network.parameters())


def test_proposals_and_forces_by_autograd_work_in_every_mode():
    def everything():
        model = phi4_model(config={"channels": 2})
        nn.init.ones_(model.network.body.second.weight)
        action = AutogradAction(ACTION, "by autograd")
        phi, log_q = FlowProposal(model, 1, divergence=BruteForce()).sample(2, rng())
        return phi, log_q, action.grad(phi)

    expected = everything()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = everything()
        for x, y in zip(found, expected, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("network", ["test-conv", "interaction"])
def test_the_default_device_of_the_caller_does_not_matter(tmp_path, network):
    phi = hmc_ensemble(ACTION, SHAPE, n=200)

    def everything():
        """From fields to chains; all tables of the lattice and the reference are made anew."""
        lattice = Lattice(SHAPE)
        reference = GaussianReference.measure(phi, lattice, action=ACTION)
        model = DiffusionModel.untrained(reference, ACTION, network, config(), generator=rng())
        model = fit(model, ACTION, phi, short(), tmp_path / "training", progress=False)
        model = DiffusionModel.load(model.save(tmp_path / "model"))
        moved = model.moved_to(reference, ACTION)
        flow = FlowProposal(model, 2, divergence=BruteForce())
        paths = PathProposal.of(model, 3).calibrated(phi, rng())
        state, _ = Cluster.default(ACTION, lattice).step(State(phi[:3], ACTION(phi[:3])), rng())
        certificate = certify(flow, 2, determinants=1, probes=2)
        return [
            *moved.network.parameters(), *flow.sample(3, rng()), *paths.sample(3, rng()), state.phi,
            torch.from_numpy(certificate.delta),
        ]  # fmt: skip

    def config():
        return SMALL.describe() if network == "interaction" else {"dropout": 0.5}

    expected = everything()
    with torch.device("meta"):  # whatever lands there has no numbers
        found = everything()
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_registry():
    assert {"interaction", "test-conv", "test-scale"} <= set(network_names())
    assert network_class("interaction") is InteractionNetwork
    reference = free_reference(Lattice(SHAPE))
    with pytest.raises(DmmcError, match=r"no network 'nonesuch' is registered \(there are .*interaction, "):
        make_network("nonesuch", reference, {})
    for name, config in (("test-conv", {"colour": 3}), ("interaction", {"filtres": 3}), ("interaction", {"shells": 1})):
        with pytest.raises(DmmcError, match=f"not a configuration of the network '{name}'"):
            make_network(name, reference, config)
    with pytest.raises(DmmcError, match="there is a network 'interaction' already"):

        @register_network("interaction")
        class Other(Network):
            pass


class Unregistered(Conv):
    """Its parent is registered, itself it is not: a file would be read as one of the parent."""


def test_networks_without_a_name_are_not_saved(tmp_path):
    reference = free_reference(Lattice(SHAPE))
    for network in (SiteNetwork(reference, Body(3, 0.0)), Unregistered(reference)):
        model = DiffusionModel(network, ACTION.describe())
        assert "class" in network.describe() and len(model.fingerprint()) == 64
        assert trained(model).history.steps == 6
        with pytest.raises(DmmcError, match=rf'{type(network).__name__} cannot be saved.*register_network\("a-name"\)'):
            model.save(tmp_path / "model")


@register_network("test-arrays")
class Arrays(Scale):
    """Its ``config()`` gives back what it was given, also where JSON has no form for it."""

    def __init__(self, reference, sizes=(1, 2)):
        super().__init__(reference)
        self.sizes = sizes

    def config(self):
        return {"sizes": self.sizes}


def test_what_cannot_be_saved_is_refused_before_the_training(tmp_path):
    reference = free_reference(Lattice(SHAPE))
    with pytest.raises(DmmcError, match=r"the config\(\) of the network 'test-arrays' must consist of JSON values"):
        make_network("test-arrays", reference, {"sizes": np.arange(3)})
    model = DiffusionModel(Arrays(reference, {1, 2}), ACTION.describe(), symmetry="z2")
    for call in (lambda: trained(model, tmp_path / "training"), lambda: model.save(tmp_path / "model")):
        with pytest.raises(DmmcError, match="must consist of JSON values: Object of type set"):
            call()
    quiet = AutogradAction(ACTION, "array", (("kappa", torch.ones(2)),))
    with pytest.raises(DmmcError, match=r"the action's describe\(\) returns must consist of JSON values"):
        trained(replace(phi4_model(), action={}), tmp_path / "training", action=quiet)
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_network_that_is_not_registered_is_refused(tmp_path, monkeypatch):
    path = phi4_model().save(tmp_path / "model")
    monkeypatch.delitem(network_class.__globals__["_REGISTRY"], "test-conv")
    with pytest.raises(FileError, match=r"no network 'test-conv' is registered .*import the module that registers it"):
        DiffusionModel.load(path)


def test_a_network_without_parameters_cannot_be_trained():
    class Nothing(Network):
        def forward(self, modes, v, context=None):
            return torch.zeros_like(modes)

    with pytest.raises(DmmcError, match="a Nothing has no parameters"):
        trained(DiffusionModel(Nothing(free_reference(Lattice(SHAPE))), ACTION.describe()))


def test_moving_a_network():
    model = phi4_model()
    moved = model.moved_to(free_reference(Lattice((8, 6)), 0.5), Phi4(0.26, 0.1))
    assert moved.lattice.shape == (8, 6) and moved.network.config() == model.network.config()
    assert torch.equal(moved.network.body.first.weight, model.network.body.first.weight)

    class Sized(Network):
        def __init__(self, reference):
            super().__init__(reference)
            self.weights = nn.Parameter(torch.ones(reference.lattice.volume))

        def config(self):
            return {}

    with pytest.raises(DmmcError, match=r"the weights of a Sized on \(4, 4\) do not fit on \(8, 6\)"):
        Sized(free_reference(Lattice(SHAPE))).moved_to(free_reference(Lattice((8, 6))))


@pytest.mark.parametrize("network", ["test-conv", "interaction"])
def test_a_context_is_refused_by_networks_that_cannot_use_it(network):
    made = phi4_model(network).network
    modes = made.lattice.to_modes(noise(made.lattice, 1).float().unsqueeze(0))
    with pytest.raises(DmmcError, match="takes no context"):
        made(modes, torch.tensor([0.5]), torch.zeros(1, 2))
    if network == "interaction":
        with pytest.raises(DmmcError, match="takes no context"):
            made.with_trace(modes, torch.tensor([0.5]), torch.zeros(1, 2))


# What symmetry a network is given.


def test_a_network_is_odd_only_under_a_symmetry_that_holds():
    reference = free_reference(Lattice(SHAPE))
    shifted = replace(reference, mean=0.5)
    quiet = AutogradAction(ACTION, "quiet")
    for where, action, options, odd, symmetry in [
        (reference, ACTION, {}, True, "z2"),
        (reference, quiet, {}, False, "none"),
        (reference, quiet, {"symmetry": "z2"}, True, "z2"),
        (reference, ACTION, {"symmetry": "none"}, False, "none"),
        (reference, ACTION, {"config": {"odd": False}}, False, "z2"),
        (reference, None, {}, False, "none"),
        (shifted, ACTION, {}, False, "z2"),
        (shifted, ACTION, {"two_sector": True}, False, "z2"),
    ]:
        model = DiffusionModel.untrained(where, action, **options)
        assert (model.network.odd, model.symmetry) == (odd, symmetry)
    for where, action, options, message in [
        (reference, quiet, {"config": {"odd": True}}, "an odd network is for theories with the symmetry"),
        (shifted, ACTION, {"config": {"odd": True}}, "an odd network is for fields of mean 0"),
        (shifted, ACTION, {"config": {"odd": True}, "two_sector": True}, "needs a network with biases"),
        (shifted, quiet, {"two_sector": True}, "is mirrored by the symmetry"),
        (reference, ACTION, {"symmetry": "Z2"}, "is one of z2, o_n, none, not 'Z2'"),
    ]:
        with pytest.raises(DmmcError, match=message):
            DiffusionModel.untrained(where, action, **options)


def test_more_weights_than_there_is_memory_for_are_refused():
    reference = free_reference(Lattice((4, 4)))
    with pytest.raises(DmmcError, match=r"has \d+ weights, and to train them takes .* GiB of memory"):
        make_network("interaction", reference, {"hidden1": 10**9})

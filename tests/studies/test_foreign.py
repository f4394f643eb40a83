"""Networks of other codes from the front door: exact chains, training on, and what is said and refused."""

import math

import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.kernels.independence import Independence
from dmmc.kernels.invariance import assert_invariant
from dmmc.kernels.of_model import KernelOptions, usual_kernel
from dmmc.kernels.path import PathIndependence
from dmmc.proposals.divergence import BruteForce
from dmmc.studies.foreign import foreign
from foreign_nets import Answer, GaussianNet, SmallNet
from helpers import hmc_ensemble, noise, rng

ACTION, LATTICE = dmmc.Phi4(0.2, 0.1), dmmc.Lattice((3, 2))
FREE = dmmc.FreeField(1.0)
PROPAGATOR = 1 / (LATTICE.orbit_phat2 + 1.0)


def free_fields(n):
    """Independent fields of the free theory."""
    root = LATTICE.spread(PROPAGATOR).sqrt()
    return LATTICE.to_sites(root * LATTICE.to_modes(noise(LATTICE, n)))


def exact_net(predicts="eps", propagator=PROPAGATOR):
    # The network is told t with sigma^2 = exp(integral of beta) - 1.
    return GaussianNet(
        LATTICE.shape, propagator, 0.0, predicts, True, lambda t: torch.expm1(0.1 * t + 9.95 * t**2).sqrt()
    ).double()


@pytest.fixture(scope="module")
def phi():
    return hmc_ensemble(ACTION, LATTICE.shape, n=500)


def model_of(net, ensemble, action=ACTION, **settings):
    said = []
    usual = {"predicts": "eps", "schedule": dmmc.VE(10.0), "say": said.append}
    made = foreign(net, ensemble=ensemble, action=action, **(usual | settings))
    return made, said


def test_chains_are_exact_whatever_the_network_predicts(phi):
    # The exact network of another theory: a proposal that is neither good nor hopeless.
    model, _ = model_of(exact_net(propagator=1.5 * PROPAGATOR), phi, schedule=dmmc.VP())
    draws = phi[torch.randperm(len(phi), generator=rng())]
    path = PathIndependence(ACTION, LATTICE, dmmc.path_proposal(model, 6))
    flow = Independence(ACTION, LATTICE, dmmc.flow_proposal(model, 4, divergence=BruteForce()))
    for kernel in (path, flow):
        report = assert_invariant(kernel, draws, rng(3), steps=1)
        assert report.moved > 0.05


def test_an_exact_network_of_a_free_field_is_accepted():
    model, said = model_of(exact_net("v"), free_fields(400), FREE, predicts="v", schedule=dmmc.VP())
    assert not said and model.symmetry == "z2"
    generator = rng(2)
    # The flow of the exact score gives the density of the field itself, up to the integrator.
    flow = dmmc.flow_proposal(model, 12, divergence=BruteForce())
    fields, log_q = flow.sample(32, generator)
    log_w = -FREE(fields) - log_q
    assert float(log_w.std()) < 0.02


def test_a_wrong_guess_of_the_prediction_is_named():
    _, said = model_of(exact_net("x0"), free_fields(400), FREE, predicts="eps", schedule=dmmc.VP())
    assert len(said) == 1 and "as one of 'x0' it does not: probably it predicts that" in said[0]
    _, said = model_of(SmallNet(), free_fields(400), FREE)
    assert len(said) == 1 and "it is not trained, or the schedule or the scale of its fields is another one" in said[0]


def test_from_the_front_door_to_a_chain(phi, tmp_path):
    net = SmallNet(4, "group")
    model = dmmc.foreign(
        net,
        predicts="eps",
        schedule=dmmc.VE(5.0, 0.05, argument="log_sigma"),
        ensemble=phi,
        action=ACTION,
        arguments={"channels": 4, "between": "group"},
    )
    assert net.training and all(p.requires_grad for p in net.parameters())  # a copy is used
    trained = dmmc.train(phi, tmp_path / "model.safetensors", action=ACTION, init=model, steps=3)
    assert trained.reference.v_max == pytest.approx(25) and trained.history.steps == 3
    changed = (a != b for a, b in zip(trained.network.parameters(), model.network.parameters(), strict=True))
    assert any(bool(x.any()) for x in changed)
    read = dmmc.load_model(tmp_path / "model.safetensors")
    assert usual_kernel(read) == "path"
    kernel = KernelOptions(usual_kernel(read), path_steps=3)
    run = dmmc.sample(read, tmp_path / "chain.h5", kernel=kernel, chains=4, draws=8, discard=0)
    assert run.summary().symmetry == "z2" and run.header.cost == {"network": 3}


def test_batch_statistics_are_refused_in_training(phi, tmp_path):
    model, _ = model_of(SmallNet(4, "batch"), phi, arguments={"channels": 4, "between": "batch"})
    with pytest.raises(DmmcError, match=r"see each other \(the layer module.between is a BatchNorm2d in training"):
        dmmc.train(phi, tmp_path / "model.safetensors", action=ACTION, init=model, steps=3)
    assert not list(tmp_path.glob("*.safetensors"))
    model.network.train()
    for propose in (dmmc.path_proposal, lambda model: dmmc.flow_proposal(model, divergence=BruteForce())):
        with pytest.raises(DmmcError, match="BatchNorm2d in training mode"):
            propose(model)


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (SmallNet(4, "statistics"), {}, "the layer module.between is a BatchNorm2d without running statistics"),
        (Answer(lambda x: x / 0), {}, "returns NaN or infinite values on noised fields"),
        (Answer(lambda x: x[:, :, :1]), {}, r"must keep the shape \(256, 1, 3, 2\) of its fields"),
        (Answer(lambda x: x.flatten(1) @ torch.ones(7, 7)), {}, r"the network fails on 256 fields of shape \(3, 2\)"),
        (SmallNet(), {"channel_axis": False}, r"the network fails .* with \(fields \(m, \*lattice\), noise"),
        (SmallNet(), {"predicts": "epsilon"}, "predicts must be one of score, eps, x0, v; got 'epsilon'"),
        (SmallNet, {}, "must be a torch.nn.Module, made and with its weights; got SmallNet"),
        (torch.zeros, {}, "must be a torch.nn.Module, made and with its weights; got builtin"),
        (SmallNet(), {"ensemble": torch.zeros(8)}, r"an ensemble must have shape \(n, \*lattice\)"),
    ],
)
def test_bad_input(phi, net, settings, message):
    with pytest.raises(DmmcError, match=message):
        model_of(net, **({"ensemble": phi} | settings))


def test_an_ensemble_of_another_theory(phi):
    with pytest.raises(MismatchError):
        model_of(SmallNet(), math.sqrt(2) * phi)

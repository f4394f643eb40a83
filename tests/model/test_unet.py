"""The U-Net respects the lattice, needs no least noise, and learns a score from fields alone."""

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.model.reference import GaussianReference
from dmmc.model.separation import check_separate
from dmmc.model.training import fit
from dmmc.theory.lattice import Lattice
from helpers import free_draws, free_reference, noise, rng

PREDICTS = ("score", "interaction")
CONFIG = {"channels": 8, "features": 8}


def made(shape=(8, 8), **config):
    reference = free_reference(Lattice(shape), mass=0.8)
    model = DiffusionModel.untrained(reference, None, "unet", CONFIG | config, generator=rng(1))
    with torch.no_grad():  # the last layer starts at zero
        for p in model.network.double().parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng(p.numel()), dtype=torch.float64))
    return model


@pytest.mark.parametrize("predicts", PREDICTS)
def test_shifts_by_blocks_commute_with_the_score(predicts):
    # With zero padding, only fields that vanish at the edges would be shifted.
    model, phi = made(predicts=predicts), noise(Lattice((8, 8)), 3)
    for shift in ((4, 0), (0, 4), (-4, 4)):
        shifted = phi.roll(shift, (1, 2))
        torch.testing.assert_close(model.score(shifted, 0.7), model.score(phi, 0.7).roll(shift, (1, 2)))


@pytest.mark.parametrize("predicts", PREDICTS)
def test_the_score_is_finite_down_to_no_noise_and_depends_on_the_noise(predicts):
    model, phi = made(predicts=predicts), noise(Lattice((8, 8)), 2)
    scores = torch.stack([model.score(phi, sigma) for sigma in (0.0, 1e-4, 0.3, 3.0)])
    assert bool(scores.isfinite().all())
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-3)
    time = model.network.body.time
    features = time(torch.tensor([0.1, 0.6], dtype=torch.float64))
    assert float((features[0] - features[1]).abs().max()) > 0.1
    # Nothing outside the network depends on the time here: the same fields and noise, another time embedding.
    modes = model.lattice.to_modes(phi).unsqueeze(0)
    before = model.network(modes, torch.ones(1, dtype=torch.float64))
    time.frequencies.mul_(1.5)
    assert float((model.network(modes, torch.ones(1, dtype=torch.float64)) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("predicts", PREDICTS)
def test_files_and_batches(predicts, tmp_path):
    model, phi = made((16,), scales=2, predicts=predicts), noise(Lattice((16,)), 4)
    check_separate(model.network)
    again = DiffusionModel.load(model.save(tmp_path / "unet.safetensors"))
    assert torch.equal(again.score(phi, 0.5), model.score(phi, 0.5))
    assert again.network.config() == CONFIG | {"scales": 2, "groups": 4, "predicts": predicts}


def test_components_and_three_dimensions():
    for lattice in (Lattice((8,), 2), Lattice((4, 4, 4))):
        reference = free_reference(lattice, mass=0.8)
        model = DiffusionModel.untrained(reference, None, "unet", CONFIG | {"scales": 2})
        assert model.score(noise(lattice, 2), 1.0).shape == (2, *lattice.field_shape)
        assert model.backward(2, n_steps=2).shape == (1, 2, *lattice.field_shape)


def test_denoising_score_matching_learns_the_score_of_a_free_field():
    # Half of the variance is given as the reference, so that what is to be learned is a score and not zero.
    lattice = Lattice((8,))
    exact = free_reference(lattice, mass=0.8)
    reference = GaussianReference(lattice, 0.5 * exact.propagator)
    phi = free_draws(exact, 4000, seed=3).float()
    before = DiffusionModel.untrained(reference, None, "unet", CONFIG | {"scales": 2}, generator=rng(1))
    after = fit(before, None, phi, TrainingOptions(steps=150, levels=64, fields_per_level=2, seed=1), progress=False)
    sigma = torch.linspace(0.2, 2.7, 400, dtype=torch.float64)
    noisy = free_draws(exact, 400, seed=5) + sigma[:, None] * noise(lattice, 400, seed=6)
    wanted = lattice.to_sites(-lattice.to_modes(noisy) / (exact.c(noisy) + sigma[:, None] ** 2))

    def error(model):
        return float((sigma[:, None] * (model.score(noisy, sigma) - wanted)).square().mean().sqrt())

    assert error(after) < 0.3 * error(before), (error(before), error(after))


def test_refusals():
    for shape, config, text in [
        ((6, 6), {}, "extents that are multiples of 4"),
        ((4, 4), {}, "at least 8"),
        ((8, 8), {"channels": 6}, "a multiple of groups"),
        ((8, 8), {"features": 3}, "features even"),
        ((8, 8), {"predicts": "noise"}, "predicts must be score or interaction"),
        ((8, 8), {"channels": 0}, "channels of a U-Net"),
        ((2, 2, 2, 2), {"scales": 1}, "at most 3 dimensions"),
    ]:
        with pytest.raises(DmmcError, match=text):
            made(shape, **config)

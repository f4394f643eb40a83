"""The two equations of the exhibit, on a free field, where their steps are linear and every number is known."""

import math
from dataclasses import replace

import pytest
import torch

from dmmc.gallery import stochastic_quantisation
from dmmc.gallery.exhibit import Request
from dmmc.gallery.processes import Memory, backward, course, langevin, strength
from dmmc.gallery.show import show
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.theory.evaluation import force
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, free_draws, free_reference, rng, z_scores

FREE, LATTICE = FreeField(0.7), Lattice((6,))
MODES = [(0,), (1,), (3,)]
N = 4000


def model():
    """The model of a free field, which is exact before any training."""
    config = {"filters": 2, "hidden1": 2, "hidden2": 2}
    return DiffusionModel.untrained(free_reference(LATTICE), FREE, config=config, symmetry="z2").to_float64()


def propagator():
    return 1 / (LATTICE.orbit_phat2 + 0.49)


def test_the_diffusion_process_has_the_drift_noise_and_memory_of_a_gaussian():
    """For a free field the model is exact, and so are its steps, however few."""
    c, steps, reference = propagator(), 12, model().reference
    snapshots = list(backward(model(), N, steps, rng()))
    memory = course(snapshots, LATTICE, MODES).memory(-1)
    assert [x.time for x in snapshots] == pytest.approx([k / steps for k in range(steps + 1)])
    assert snapshots[0].variance == pytest.approx(reference.v_max) and snapshots[-1].variance == 0
    for k, x in enumerate(snapshots):
        v = x.variance
        assert float(z_scores(LATTICE.two_point(x.phi), c + v).abs().max()) < SIGMA
        # In a unit of time the noise has the variance g^2 = -dv/dtau; the drift is g^2 times that of a Gaussian.
        square = (v + reference.v_offset) * reference.log_range
        rms = math.sqrt(float((LATTICE.orbit_size / (c + v)).sum()) / LATTICE.volume)
        assert x.noise == pytest.approx(math.sqrt(square))
        assert strength(x.drift) == pytest.approx(square * rms, rel=0.04)
        # A mode is correlated with its own end by sqrt(C / (C + v)).
        exact = (c / (c + v)).sqrt()[[0, 1, 3]]
        z = (torch.as_tensor(memory.correlation[k]) - exact) / torch.as_tensor(memory.error[k])
        assert k == steps or float(z.abs().max()) < SIGMA
    # At the end the drift is g^2 times the force of stochastic quantisation.
    end = snapshots[-1]
    assert torch.allclose(end.drift / end.noise**2, -force(FREE, end.phi), rtol=0, atol=1e-6)


def test_the_langevin_equation_forgets_at_the_rate_that_the_propagator_says():
    c, h = propagator(), 0.02
    phi = free_draws(free_reference(LATTICE), N)
    found = course(langevin(FREE, LATTICE, phi, [0.2, 1.0], h, rng(3)), LATTICE, MODES)
    assert found.time == (0.0, 0.2, 1.0) and found.noise == (math.sqrt(2),) * 3
    # In equilibrium <(dS/dphi)^2> = <S''>: 2 + m^2.
    assert found.drift[0] == pytest.approx(math.sqrt(2.49), rel=0.03)
    memory = found.memory(0)
    for k, steps in ((1, 10), (2, 50)):
        survives = (1 - h / c) ** steps
        var = c / (1 - h / (2 * c))  # in which the steps end, from C
        exact = survives * (c / (var + survives**2 * (c - var))).sqrt()
        z = (torch.as_tensor(memory.correlation[k]) - exact[[0, 1, 3]]) / torch.as_tensor(memory.error[k])
        assert float(z.abs().max()) < SIGMA


def test_the_error_of_a_correlation_is_its_scatter():
    """200 times a correlation of 0.6 from 100 pairs, so that the error is known to 5 %."""
    x, y = (torch.randn(200, 100, 1, generator=rng(seed), dtype=torch.float64) for seed in (1, 2))
    pairs = [Memory.of(torch.stack([a, 0.6 * a + 0.8 * b]).to(torch.complex128), 0) for a, b in zip(x, y, strict=True)]
    values = torch.tensor([float(pair.correlation[1, 0]) for pair in pairs])
    errors = torch.tensor([float(pair.error[1, 0]) for pair in pairs])
    assert float(values.std() / errors.mean()) == pytest.approx(1, abs=0.25)
    assert float(errors.mean()) == pytest.approx(0.64 / 10, rel=0.1)


def test_the_exhibit_makes_its_figures_and_numbers(tmp_path, monkeypatch):
    small = replace(stochastic_quantisation.QUICK, extent=4, chains=16, draws=48, training=5, last=1.0, looks=5)
    monkeypatch.setattr(stochastic_quantisation, "QUICK", small)
    exhibit = stochastic_quantisation.EXHIBIT
    shown = show(exhibit, Request(tmp_path / exhibit.name, tmp_path, quick=True, say=lambda _: None))
    assert [figure.file for figure in shown.figures] == [f"{name}.png" for name in exhibit.figures]
    assert "Langevin, no step" in shown.table
    # The drift of the model has the size of the force where no noise is left, from the first training step on.
    last = shown.numbers["diffusion"]["drift"][-1] / shown.numbers["diffusion"]["noise"][-1] ** 2
    assert last == pytest.approx(shown.numbers["force"], rel=0.5)

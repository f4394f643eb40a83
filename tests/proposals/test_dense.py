"""Dense models: log q against the map's determinant and quadrature, training on samples alone.

Random networks in float64, unless said otherwise, since what is exact must be so for a bad model as well.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from checks import invariance, mean_shift
from dmmc import diagnostics
from dmmc.core.errors import DmmcError, FileError
from dmmc.kernels.independence import Independence
from dmmc.model.dense import DenseSize
from dmmc.model.options import TrainingOptions
from dmmc.proposals import dense
from dmmc.proposals.base import Proposal
from dmmc.proposals.certify import measure_delta
from dmmc.proposals.dense import train_on_samples
from dmmc.proposals.whitened import DenseProposal
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from helpers import randomise, rng

SMALL = DenseSize(hidden1=6, hidden2=5, level_knots=6)
QUICK = TrainingOptions(steps=400, levels=64, fields_per_level=4, learning_rate=1e-2)


def skewed(n, n_parameters, seed=1):
    """Samples whose mean, scales and correlations are nothing special."""
    generator = rng(seed)
    mix = torch.randn(n_parameters, n_parameters, generator=generator, dtype=torch.float64)
    return torch.randn(n, n_parameters, generator=generator, dtype=torch.float64).exp() @ mix + 3.0


def random_proposal(n_parameters, n_steps=24, strength=0.6) -> DenseProposal:
    """Random weights; steps are a multiple of the 3 intervals between the knots of ``SMALL``."""
    start = dense.untrained(skewed(200, n_parameters), size=SMALL, n_steps=n_steps, generator=rng())
    start.flow.model.network.double()
    randomise(start.flow.model.network, strength=strength)
    return start


def banana(n, seed=1):
    """``x1 = z1 + z0^2 - 1`` and one more parameter: ``(n, 3)``."""
    x = torch.randn(n, 3, generator=rng(seed), dtype=torch.float64)
    x[:, 1] += x[:, 0] ** 2 - 1
    return x


def banana_action(x):
    return 0.5 * (x[:, 0] ** 2 + (x[:, 1] - x[:, 0] ** 2 + 1) ** 2 + x[:, 2] ** 2)


def two_modes(n, seed=1):
    """Two unit Gaussians in the plane, 8 apart, 30 % of the weight in the left one."""
    generator = rng(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x[:, 0] += torch.where(torch.rand(n, generator=generator) < 0.3, -4.0, 4.0)
    return x


def two_modes_action(x):
    left, right = 0.5 * (x[:, 0] + 4) ** 2 - math.log(0.3), 0.5 * (x[:, 0] - 4) ** 2 - math.log(0.7)
    return 0.5 * x[:, 1] ** 2 - torch.logaddexp(-left, -right)


@pytest.mark.parametrize("n_parameters", [1, 2, 5])
def test_log_q_is_the_density_of_the_map(n_parameters):
    proposal = random_proposal(n_parameters, n_steps=48)
    latents = torch.randn(6, n_parameters, generator=rng(3), dtype=torch.float64)

    def to_x(z):
        return proposal.mean + proposal.flow.push(z)[0] @ proposal.cholesky.T

    h, units = 1e-4, torch.eye(n_parameters, dtype=torch.float64)
    ends = [to_x((latents.unsqueeze(1) + sign * h * units).flatten(0, 1)) for sign in (1, -1)]
    jacobian = ((ends[0] - ends[1]) / (2 * h)).view(6, n_parameters, n_parameters)
    log_normal = -0.5 * latents.square().sum(1) - 0.5 * n_parameters * math.log(2 * math.pi)
    exact = log_normal - torch.linalg.slogdet(jacobian).logabsdet
    assert float((exact - log_normal).std()) > 0.05  # the determinant of this map is not a constant
    torch.testing.assert_close(proposal.log_q(to_x(latents)), exact, rtol=0, atol=1e-4)


def test_samples_come_with_their_density():
    proposal = random_proposal(4)
    x, log_q = proposal.sample(50, rng(4))
    assert x.shape == (50, 4) and x.dtype == log_q.dtype == torch.float64
    torch.testing.assert_close(proposal.log_q(x), log_q, rtol=0, atol=1e-4)
    assert float(measure_delta(proposal.flow, 50, rng(5)).std()) < 1e-3
    assert proposal.evaluations == 4 * 24 and proposal.inexact == ""


def test_density_of_one_parameter_integrates_to_one():
    proposal = random_proposal(1, n_steps=48)
    width = float(proposal.cholesky)
    x = float(proposal.mean) + width * torch.linspace(-10, 10, 1001, dtype=torch.float64)
    density = proposal.log_q(x.view(-1, 1)).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("n_parameters", [1, 3, 6])
def test_untrained_model_is_the_gaussian_of_the_samples(n_parameters):
    samples = skewed(500, n_parameters)
    proposal = dense.untrained(samples.numpy(), n_steps=2, generator=rng())
    covariance = torch.cov(samples.T).view(n_parameters, n_parameters)
    law = torch.distributions.MultivariateNormal(samples.mean(0), covariance)
    x, log_q = proposal.sample(20_000, rng(1))
    torch.testing.assert_close(log_q, law.log_prob(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(proposal.log_q(samples[:9]), law.log_prob(samples[:9]), rtol=0, atol=1e-4)
    # Means and second moments of the draws, all at once.
    white = torch.linalg.solve_triangular(proposal.cholesky, (x - samples.mean(0)).T, upper=False).T
    unit = torch.eye(n_parameters, dtype=torch.float64)
    products = (white.unsqueeze(1) * white.unsqueeze(2) - unit).flatten(1)
    assert mean_shift(torch.cat([white, products], 1)) < 1


@pytest.mark.parametrize(
    ("draw", "action"), [(banana, banana_action), (two_modes, two_modes_action)], ids=["banana", "two modes"]
)
def test_training_on_samples_alone(draw, action):
    # Acceptances of five seeds: untrained 0.50 to 0.54 and 0.37 to 0.39, after 400 steps 0.78 to 0.84 and 0.89 to 0.92.
    samples = draw(4000)
    reference = draw(2000, seed=2)

    def acceptance(proposal):
        x, log_q = proposal.sample(2000, rng(3))
        proposed = -action(x) - log_q
        at_home = -action(reference) - proposal.log_q(reference)
        return float((proposed - at_home).exp().clamp(max=1).mean())

    trained = train_on_samples(samples, QUICK, progress=False)
    assert acceptance(dense.untrained(samples)) < 0.6
    assert acceptance(trained) > 0.7
    last = trained.flow.model.history.curve[-1]
    assert last.validation < last.gaussian
    # Exact with any model: one step from exact draws.
    lattice = Lattice((samples.shape[1],))
    kernel = Independence(AutogradAction(action, draw.__name__), lattice, trained)
    assert invariance(kernel, draw(5000, seed=4)) < 1
    assert float(measure_delta(trained.flow, 500, rng(5)).std()) < 2e-3  # a bias below 2 / 1000 of a standard deviation


def test_training_is_reproducible_and_knows_its_seed():
    samples, options = banana(200), replace(QUICK, steps=20)
    first = train_on_samples(samples, options, progress=False).describe()
    assert train_on_samples(samples.numpy(), options, progress=False).describe() == first
    assert train_on_samples(samples, replace(options, seed=1), progress=False).describe() != first


def test_too_few_samples_for_long_training_give_a_warning():
    samples = torch.randn(100, 8, generator=rng(), dtype=torch.float64)  # Gaussian: there is nothing to learn
    with pytest.warns(UserWarning, match="its 100 samples by heart"):
        train_on_samples(samples, QUICK, progress=False)


def test_saved_and_loaded(tmp_path):
    proposal = train_on_samples(banana(200), replace(QUICK, steps=20), size=SMALL, progress=False)
    path = proposal.save(tmp_path / "model.safetensors")
    loaded = DenseProposal.load(path)
    assert loaded.describe() == proposal.describe()
    assert loaded.flow.model.history.steps == 20
    for before, after in zip(proposal.sample(5, rng()), loaded.sample(5, rng()), strict=True):
        assert torch.equal(before, after)
    with pytest.raises(FileError, match="no file"):
        DenseProposal.load(tmp_path / "other")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileError, match="truncated"):
        DenseProposal.load(path)


def test_it_is_a_proposal():
    proposal: Proposal = random_proposal(2)
    assert proposal.describe()["name"] == "dense"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((10, 3, 2)), "shape"),
        (np.zeros(10), "shape"),
        (np.zeros((3, 3)), "n > D"),
        (np.full((30, 2), np.nan), "NaN"),
        (np.random.default_rng(1).normal(size=(30, 1)) * [1.0, 0.0], "singular"),
        (np.random.default_rng(1).normal(size=(30, 1)) * [1.0, 2.0, -3.0], "singular"),
        (np.random.default_rng(1).normal(size=(20, 1)), "at least 24"),
    ],
)
def test_bad_samples(samples, message):
    with pytest.raises(DmmcError, match=message):
        train_on_samples(samples, replace(QUICK, steps=1), progress=False)


def test_bad_options():
    samples = banana(30)
    with pytest.raises(DmmcError, match="finest"):
        dense.untrained(samples, finest=2.0)
    proposal = dense.untrained(samples)
    for bad in (samples[:, :2], torch.full((1, 3), torch.inf)):
        with pytest.raises(DmmcError, match="x"):
            proposal.log_q(bad)


def test_expected_acceptance_of_the_weights_is_high_where_the_model_is_good():
    # Gaussian samples: nothing to learn, and the model of their covariance is off by its sampling error alone.
    samples = torch.randn(20_000, 4, generator=rng(), dtype=torch.float64)
    x, log_q = dense.untrained(samples).sample(2000, rng(2))
    assert diagnostics.expected_acceptance((-0.5 * x.square().sum(1) - log_q).numpy()) > 0.95


def test_neither_global_random_numbers_nor_defaults_of_torch_matter(tmp_path):
    samples = skewed(100, 2)
    before = torch.get_rng_state()
    expected = dense.untrained(samples)
    path = expected.save(tmp_path / "proposal")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            made = [dense.untrained(samples), DenseProposal.load(path)]
            drawn = [proposal.sample(3, rng())[0] for proposal in made]
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(proposal.describe() == expected.describe() for proposal in made)
    assert all(torch.equal(x, expected.sample(3, rng())[0]) for x in drawn)

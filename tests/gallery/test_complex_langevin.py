"""The exhibit of complex Langevin dynamics: exact laws by quadrature, and reweighting within P with a wrong model."""

import pytest
import torch

from dmmc.diagnostics import gamma_derived, gamma_method
from dmmc.gallery import complex_laws
from dmmc.gallery.complex_laws import HOLOMORPHIC, balance, exact_holomorphic, gaussian_law, holomorphic, log_gaussian
from dmmc.gallery.complex_learned import gaussian_density_error, gaussian_score_error, square
from dmmc.gallery.few_numbers import flow_of
from dmmc.gallery.two_numbers import LATTICE
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.runs.chain import ChainOptions
from dmmc.studies.chain import run_chain
from helpers import SIGMA, rng, z_scores

# Wide and fine enough for z^4 in a Gaussian of variances 3/4 and 1/4: the trapezoidal rule is exact to rounding.
POINTS = square((8.0, 5.0), 301)
CELL = 16 / 300 * 10 / 300


def wrong_model(strength=0.1):
    """A model with random weights, and so with another law than P."""
    reference = GaussianReference(LATTICE, torch.tensor([0.5], dtype=torch.float64), v_offset=0.06)
    config = {"scales": [0.87, 0.5], "width": 8, "knots": 6}
    made = DiffusionModel.untrained(reference, None, "two-numbers", config, symmetry="z2").to_float64()
    for p in made.network.parameters():
        p.add_(strength * torch.randn(p.shape, generator=rng(), dtype=torch.float64))
    return made


def test_averages_over_p_are_those_of_the_complex_weight():
    p = log_gaussian(POINTS, 0.0)[0].exp() * CELL
    assert float(p.sum()) == pytest.approx(1, abs=1e-10)
    phi = POINTS.unsqueeze(2)
    found = (p @ holomorphic(phi, p)).tolist()
    assert found == pytest.approx(exact_holomorphic(0.0), abs=1e-10)
    sigma0 = complex_laws.SIGMA0
    assert complex(*found[:2]) == pytest.approx(1 / sigma0) and complex(*found[2:]) == pytest.approx(3 / sigma0**2)
    # P is stationary; a Gaussian of another covariance is not.
    assert all(abs(float(p @ values)) < 1e-10 for values in balance(0.0, phi).values())
    other = log_gaussian(POINTS, 0.1)[0].exp() * CELL
    assert max(abs(float(other @ values)) for values in balance(0.0, phi).values()) > 0.05


def test_the_law_as_an_action_and_its_score():
    phi = torch.randn(7, 2, generator=rng(), dtype=torch.float64, requires_grad=True)
    log_p, score = log_gaussian(phi, 0.3)
    (gradient,) = torch.autograd.grad(log_p.sum(), phi)
    torch.testing.assert_close(gradient, score)
    log_p, score = (x.detach() for x in log_gaussian(phi, 0.0))
    law, fields = gaussian_law(), phi.detach().unsqueeze(2)
    torch.testing.assert_close(law.grad(fields).squeeze(2), -score)
    torch.testing.assert_close(-law(fields) - log_p, (-law(fields) - log_p).mean().expand(7))


def test_the_quartic_model_is_stationary_under_its_drift_at_the_edge_of_the_strip():
    # K_y points inwards on both lines, at every x, and touches zero: they are the narrowest such lines.
    y = complex_laws.edge(complex_laws.LAM)
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    line = torch.stack([x, torch.full_like(x, y)], 1).unsqueeze(2)
    drift = complex_laws.complex_action(complex_laws.LAM).drift(line)[:, 1, 0]
    assert float(drift.max()) < 1e-9 and float(drift.max()) > -1e-4


def test_within_p_a_wrong_model_is_put_right(tmp_path):
    model, law = wrong_model(), gaussian_law()
    flow = flow_of(model)
    phi, log_q = flow.sample(6_400, rng(3))
    exact = torch.tensor(exact_holomorphic(0.0), dtype=torch.float64)
    values = holomorphic(phi, log_q)
    assert float(z_scores(values, exact).abs().max()) > 2 * SIGMA  # the model alone is wrong, and is seen to be
    log_w = -law(phi) - log_q
    w = (log_w - log_w.max()).exp().view(64, -1).numpy()
    run = run_chain(
        Independence(law, LATTICE, flow), tmp_path / "c.h5", ChainOptions(100, seed=1), observables={"z": holomorphic}
    )
    for k, wanted in enumerate(exact.tolist()):
        weighted = gamma_derived(lambda a, b: a / b, [w * values[:, k].view(64, -1).numpy(), w])
        chain = gamma_method(run.observables["z"][..., k])
        assert abs(weighted.value - wanted) < SIGMA * weighted.error, HOLOMORPHIC[k]
        assert abs(chain.value - wanted) < SIGMA * chain.error, HOLOMORPHIC[k]
    # The density by quadrature predicts both: it is normalised, and its acceptance is that of the chain.
    density = gaussian_density_error(model)
    accepted = gamma_method(run.stats["accepted"].astype(float))
    assert abs(density.norm - 1) < 1e-3
    assert abs(density.acceptance - accepted.value) < SIGMA * accepted.error + 1e-3


def test_the_quick_exhibit(quick_gallery):
    averages = quick_gallery("complex-langevin").numbers
    for name in ("gaussian", "quartic"):
        for one in averages[name]["averages"]:
            if one["sampler"] in ("CL, h -> 0", "model, weighted", "chain within P"):
                assert abs(one["value"] - one["exact"]) < SIGMA * one["error"], one
    # After 150 steps the score is already better than that of the reference, at every time at which this one is wrong.
    wrong = [one for one in averages["gaussian"]["scores"] if one["gaussian"] > 0.1]
    assert wrong and all(one["error"] < 0.5 * one["gaussian"] for one in wrong)


def test_the_error_of_a_score_that_is_known():
    # Without weights the model is the reference, whose error is the other number.
    error = gaussian_score_error(wrong_model(0.0), 0.7)
    assert error.error == pytest.approx(error.gaussian, rel=1e-9) and 0.1 < error.error < 1

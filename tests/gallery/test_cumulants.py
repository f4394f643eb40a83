"""The exhibit of cumulants: exact processes have exact cumulants, in either scheme, and a wrong flow is seen."""

import math

import pytest
import torch

from dmmc.diagnostics import cumulants_of_moments
from dmmc.gallery import cumulants
from dmmc.gallery.cumulant_paths import EVEN, Point, System
from dmmc.gallery.few_numbers import flow_of
from dmmc.gallery.wells import WELLS, well
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from helpers import SIGMA, rng


def model(theory, strength=0.0):
    """A model with random weights, in float64; without them it is the Gaussian reference."""
    propagator = torch.tensor(theory.moments(2)[1:], dtype=torch.float64)
    reference = GaussianReference(theory.lattice, propagator, v_max=100.0, v_offset=0.3)
    made = DiffusionModel.untrained(reference, theory.action, "one-number").to_float64()
    for p in made.network.parameters():
        p.add_(strength * torch.randn(p.shape, generator=rng()))
    return made


def test_noise_adds_to_the_second_cumulant_alone_and_rescaling_shrinks_them():
    theory = well(WELLS["double well"])
    process = model(theory)
    phi = theory.quantiles(torch.rand(64_000, generator=rng(), dtype=torch.float64))
    points = cumulants._points("forward", cumulants._noised(phi, process, rng(2)), process)
    exact = tuple(cumulants_of_moments(theory.moments(8)))
    system = System("double well", exact, (0.0,) * 8, tuple(points), ())
    assert max(abs(system.z(point)) for point in points) < SIGMA
    # Close to the target errors are small, so that this says something: 2 % of kappa_4 where v = 0.7.
    close = next(p for p in points if p.order == 4 and p.tau == 0.8)
    assert close.error < 0.02 * abs(exact[3])
    # With unit variance the variance-preserving process keeps it, at any time.
    unit = System("unit", (0.0, 1.0, 0.0, -0.5, 0.0, 2.0, 0.0, 3.0), (0.0,) * 8, (), ((0.5, 0.7), (0.0, 30.0)))
    for point in unit.course(2):
        assert point.value * point.shrink == pytest.approx(1)
    a = 1 / math.sqrt(1.7)
    assert [unit.course(order)[0].value * unit.course(order)[0].shrink for order in (4, 6, 8)] == pytest.approx(
        [-0.5 * a**4, 2 * a**6, 3 * a**8]
    )


def test_the_flow_of_a_gaussian_model_stays_gaussian():
    theory = well(WELLS["single well"])
    c = theory.moments(2)[1]
    for point in cumulants._of_flow(model(theory)):
        wanted = c + point.v if point.order == 2 else 0.0
        # kappa_8 is what is left of moments that are 105 times the fourth power of the second.
        assert abs(point.value - wanted) < 1e-9 * (c + point.v) ** (point.order // 2)


def test_cumulants_of_the_flow_are_those_of_its_density():
    theory = well(WELLS["single well"])
    made = model(theory, strength=0.1)
    pushed = {p.order: p.value for p in cumulants._of_flow(made) if p.tau == 1}
    phi = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    q = flow_of(made).log_q(phi.view(-1, 1)).exp() * (phi[1] - phi[0])
    kappa = cumulants_of_moments([float((q * phi**power).sum()) for power in range(1, 9)])
    for order in EVEN:
        # Random splines are rough, and two ways to integrate across their knots agree to a few 1e-5.
        assert pushed[order] == pytest.approx(kappa[order - 1], rel=1e-3)
    assert abs(pushed[4]) > 0.01  # and it is no Gaussian


def test_a_deviation_counts_the_errors_of_both():
    system = System("s", (0.0, 2.0), (0.0, 0.3), (), ())
    assert system.z(Point("backward", 0.5, 1.0, 2, 4.0, 0.4)) == pytest.approx((4 - 3) / 0.5)


def test_the_quick_exhibit(quick_gallery):
    shown = quick_gallery("cumulants")
    # 88 pulls of the forward process; those of one set of fields are correlated, which makes large ones no more likely.
    assert shown.numbers["largest_z_forward"] < SIGMA
    lattice = shown.numbers["systems"][1]
    for point in lattice["points"]:
        if point["process"] == "exact chain":
            order = point["order"] - 1
            error = math.hypot(point["error"], lattice["errors"][order])
            assert abs(point["value"] - lattice["exact"][order]) < SIGMA * error

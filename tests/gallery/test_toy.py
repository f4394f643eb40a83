"""The toy exhibit: its distances from the truth are zero for a model that is right, and its chain is exact for one that
is wrong."""

import math

import pytest
import torch

from dmmc.diagnostics import gamma_method
from dmmc.gallery import wells
from dmmc.gallery.distances import DensityError, relative_error
from dmmc.gallery.few_numbers import flow_of
from dmmc.kernels.independence import Independence
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.runs.chain import ChainOptions
from dmmc.studies.chain import run_chain
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.one_site import OneSite
from helpers import SIGMA, rng

SITE = Lattice((1,))


def model(c, action=None, strength=0.0, v_max=100.0, v_offset=0.3):
    """A model with a network of random weights; without them it is the Gaussian reference."""
    reference = GaussianReference(SITE, torch.tensor([c], dtype=torch.float64), v_max=v_max, v_offset=v_offset)
    made = DiffusionModel.untrained(reference, action, "one-number", symmetry="z2")
    for p in made.network.parameters():
        p.add_(strength * torch.randn(p.shape, generator=rng()))
    return made


def test_a_free_field_has_no_errors():
    # The reference of a free field is exact: what is left is rounding, of the score in float32.
    theory, right = OneSite(FreeField(mass=0.8)), model(1 / 0.64)
    errors = [wells.score_error(theory, right, tau) for tau in (0.0, 0.4, 0.9, 1.0)]
    assert max(one.error for one in errors) < 1e-5
    assert errors[0].v == pytest.approx(100) and errors[-1].v == 0
    density = wells.density_error(theory, right)
    assert density.total_variation < 1e-9 and abs(density.acceptance - 1) < 1e-9 and abs(density.ess - 1) < 1e-9
    # A wrong variance is seen, as large as it is: the score of Normal(0, 2 C) at tau = 1 is half of the right one.
    wrong = model(2 / 0.64)
    assert wells.score_error(theory, wrong, 1.0).error == pytest.approx(0.5, abs=1e-5)
    # Total variation of Normal(0, 1) and Normal(0, 2): they cross at x^2 = 2 ln 2.
    x = math.sqrt(2 * math.log(2))
    wanted = math.erf(x / math.sqrt(2)) - math.erf(x / 2)
    assert wells.density_error(theory, wrong).total_variation == pytest.approx(wanted, abs=1e-4)


def test_a_wrong_model_has_a_density_that_predicts_its_chain_and_the_chain_is_exact(tmp_path):
    theory = wells.well(1.0)
    action, wrong = theory.action, model(1.3, theory.action, strength=0.1)
    density = wells.density_error(theory, wrong)
    assert abs(density.norm - 1) < 1e-4  # random splines are rough: a few 1e-6; half a divergence costs 1e-2 or more
    assert 0.5 < density.acceptance < 0.95
    kernel = Independence(action, SITE, flow_of(wrong))
    run = run_chain(kernel, tmp_path / "chain.h5", ChainOptions(200, seed=1))
    accepted = gamma_method(run.stats["accepted"].astype(float))
    assert abs(accepted.value - density.acceptance) < SIGMA * accepted.error
    for name, exact in zip(("M2", "M4"), theory.moments(4)[1::2], strict=True):
        found = gamma_method(run.observables[name])
        assert abs(found.value - exact) < SIGMA * found.error


def test_the_wells_are_those_of_the_paper():
    phi = torch.linspace(-5, 5, 11, dtype=torch.float64).view(-1, 1)
    for mass2 in wells.WELLS.values():
        wanted = 0.5 * mass2 * phi**2 + 0.4 / 24 * phi**4
        assert torch.allclose(wells.well(mass2).action(phi), wanted.flatten())


def test_distances_of_densities():
    # Four states: everything by hand.
    p, q = torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    found = DensityError.of(p.log(), q.log(), 1.0)
    assert found.total_variation == pytest.approx(0.4) and found.norm == pytest.approx(1)
    assert found.acceptance == pytest.approx(float(torch.minimum(p.outer(q), q.outer(p)).sum()))
    assert found.ess == pytest.approx(1 / float((p * p / q).sum()))
    assert relative_error(p.log(), torch.ones(4), torch.tensor([1.0, 1, 1, 2])) == pytest.approx(math.sqrt(0.1))


def test_the_exhibit_learns_within_seconds(quick_gallery):
    numbers = quick_gallery("toy").numbers
    # 200 steps of training bring the score of the double well from an error of 1 to some 0.03; that of the single one
    # from 0.1. A model that has learned nothing, or the score at other noise, fails by far.
    assert numbers["largest_score_error"]["double well"] < 0.1
    assert numbers["largest_score_error"]["single well"] < 0.02
    for moments in numbers["moments"].values():
        for one in moments:
            if one["sampler"] == "exact chain":
                assert abs(one["estimate"]["value"] - one["exact"]) < SIGMA * one["estimate"]["error"]

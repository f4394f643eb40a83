"""Integration steps: their order, unequal ones, and the choice of them.

Random networks with 7 - 3 = 4 intervals of the noise level, unless said otherwise.
"""

import math
from dataclasses import replace

import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.flow_errors import FlowErrors
from dmmc.proposals.certify import certify
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.integrator import Integrator
from dmmc.proposals.runge_kutta import METHODS
from dmmc.proposals.steps import choose_steps, measure_errors, with_known_steps
from dmmc.proposals.symmetrised import Symmetrised
from dmmc.theory.lattice import Lattice
from helpers import SMALL, free_reference, noise, random_model, rng


def model_on(shape, two_sector=False, strength=0.08, **options):
    reference = free_reference(Lattice(shape), mass=0.8, mean=0.8 if two_sector else 0.0)
    return random_model(reference, two_sector=two_sector, strength=strength, **options)


def test_order_of_the_methods_and_unequal_steps():
    model = model_on((4, 4))
    latents = noise(model.lattice, 4)
    exact = FlowProposal(model, 96, method="dopri5").push(latents)
    for method, table in METHODS.items():
        assert sum(table.b) == pytest.approx(1)
        error = {}
        for n in (1, 2, 4):  # in each interval, so that no step straddles a knot
            coarse = FlowProposal(model, (n,) * 4, method=method).push(latents)
            error[n] = [float((x - y).abs().max()) for x, y in zip(coarse, exact, strict=True)]
        # A doubling gains 2^p in the limit; more than half of it here. The next order would gain more than twice it.
        for coarse, fine in zip(error[2], error[4], strict=True):
            assert 0.5 < coarse / fine / 2**table.order < 2, (method, error)
        equal = FlowProposal(model, 8, method=method).push(latents)
        for x, y in zip(equal, FlowProposal(model, (2, 2, 2, 2), method=method).push(latents), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    flow = FlowProposal(model, (1, 2, 3, 5))
    down, up = (list(flow.integrator.steps(*way)) for way in ((1.0, 0.0), (0.0, 1.0)))
    assert [h for _, h in down] == pytest.approx([-0.25] + [-0.125] * 2 + [-0.25 / 3] * 3 + [-0.05] * 5)
    # The way back has the same steps from end to start, so that it is the inverse but for the order of the method.
    assert [level + h for level, h in up[::-1]] == pytest.approx([level for level, _ in down])
    assert flow.total_steps == 11 and flow.evaluations == 44 and replace(flow, method="dopri5").evaluations == 66
    assert flow.describe()["n_steps"] == [1, 2, 3, 5]
    # What old files do not say is the method that they were made with.
    assert "method" not in flow.describe() and replace(flow, method="dopri5").describe()["method"] == "dopri5"


def test_an_equation_with_a_known_solution():
    # psi grows by e^3 from level 1 to 0, to order p; a cubic rate is integrated exactly.
    def velocity(psi, level):
        return -3 * psi, torch.full((len(psi),), 3.0 + 4 * level**3, dtype=torch.float64)

    psi = torch.ones(2, 5, dtype=torch.float64)
    for method, table in METHODS.items():
        error = {}
        for n in (32, 64):
            end, change = Integrator((n,), method).integrate(velocity, psi, 1.0, 0.0)
            error[n] = abs(float(end[0, 0]) / math.exp(3) - 1)
            torch.testing.assert_close(change, torch.full((2,), -4.0, dtype=torch.float64), rtol=0, atol=1e-12)
        assert 0.5 < error[32] / error[64] / 2**table.order < 2


def test_steps_are_as_few_as_the_error_asks_for():
    model = model_on((4, 4), strength=0.15, size=replace(SMALL, level_knots=5))
    proposal = FlowProposal(model, method="dopri5")
    choice = choose_steps(proposal, 400, generator=rng(3))
    assert choice.target == pytest.approx(0.01 / 20) and choice.reached
    assert choice.certificate.limit <= choice.target and f"asked for {choice.target:.1e}" in choice.text
    chosen = choice.proposal
    assert len(chosen.schedule) == proposal.intervals == 2 and chosen.method == "dopri5"
    # It holds for other proposals, up to the spread of limits; half of the steps would not do.
    again = certify(chosen, 48, rng(9), determinants=48)
    assert again.std < 1.5 * choice.target
    half = replace(chosen, n_steps=tuple(max(1, k // 2) for k in chosen.schedule))
    assert certify(half, 48, rng(9), determinants=48).limit > choice.target
    stricter = choose_steps(proposal, 40_000, generator=rng(3))
    assert stricter.reached and stricter.proposal.total_steps > chosen.total_steps


def test_a_model_without_an_error_takes_the_fewest_steps():
    reference = free_reference(Lattice((4, 4)), mass=0.8)
    proposal = FlowProposal(DiffusionModel.untrained(reference, None, symmetry="z2").to_float64(), method="dopri5")
    choice = choose_steps(proposal, 1e4, n=4)
    assert choice.reached and choice.proposal.schedule == (1,) * proposal.intervals


def test_rounding_sets_a_floor_and_is_named():
    proposal = FlowProposal(model_on((3, 3), dtype=torch.float32, size=replace(SMALL, level_knots=4)), method="dopri5")
    choice = choose_steps(proposal, 1e14, n=8, generator=rng())
    assert not choice.reached and "float32 arithmetic alone" in choice.text and "float64" in choice.text
    assert choice.certificate.limit < 3 * choice.certificate.limit_rounding  # steps were not wasted on it
    assert choose_steps(proposal.to_float64(), 1e6, n=8, generator=rng()).reached


def test_steps_of_an_average_are_chosen_as_those_of_its_base():
    average = Symmetrised(FlowProposal(model_on((3, 3), True, size=replace(SMALL, level_knots=5)), method="dopri5"))
    choice = choose_steps(average, 400, n=8, generator=rng(3))
    assert choice.reached and len(choice.proposal.schedule) == 2
    assert type(choice.proposal) is Symmetrised and choice.proposal.base.method == "dopri5"
    assert f"({choice.proposal.evaluations} evaluations)" in choice.text


def test_refusals():
    flow = FlowProposal(model_on((4, 4)), 4)
    for bad in ((), (0,), (2, 0, 2)):
        with pytest.raises(DmmcError, match=r"must be (a )?positive integer"):
            replace(flow, n_steps=bad)
    with pytest.raises(DmmcError, match="one of rk4, dopri5, not 'euler'"):
        replace(flow, method="euler")
    with pytest.raises(DmmcError, match="n_effective must be at least 1"):
        choose_steps(flow, 0)
    with pytest.raises(DmmcError, match="relative positive"):
        choose_steps(flow, 10, 0.0)


def table(*intervals):
    return FlowErrors("dopri5", 5, intervals)


def test_known_errors_give_the_fewest_steps_by_hand():
    errors = table(((1, 1e-4), (2, 4e-6)), ((2, 3.2e-3), (4, 1e-4)))
    # Measured numbers are what was measured, and others follow the law of the order from the nearest one.
    assert errors.of_interval(0, 1) == 1e-4 and errors.of_interval(1, 4) == 1e-4
    assert errors.of_interval(1, 1) == pytest.approx(32 * 3.2e-3) and errors.of_interval(1, 8) == pytest.approx(
        1e-4 / 32
    )
    assert errors.spread((1, 4)) == pytest.approx(math.sqrt(2) * 1e-4)
    # By trying all schedules: none of fewer steps keeps the goal.
    for goal in (1e-2, 1e-3, 2e-4, 5e-5, 1e-6):
        found = errors.fewest(goal)
        assert errors.spread(found) <= goal
        fewer = [(i, j) for i in range(1, 13) for j in range(1, 13) if i + j < sum(found)]
        assert all(errors.spread(steps) > goal for steps in fewer), goal
    # Further than thrice what was measured nothing is trusted.
    assert errors.fewest(1e-30) == (6, 12)
    assert errors.knows((1, 4)) and not errors.knows((1, 3))
    again = errors.with_measured((1, 3), (2e-4, 5e-4))
    assert again.intervals == (((1, 2e-4), (2, 4e-6)), ((2, 3.2e-3), (3, 5e-4), (4, 1e-4)))
    assert FlowErrors.from_json(again.to_json()) == again


@pytest.mark.parametrize("bad", [(), ((),), (((0, 1.0),),), (((1, math.inf),),), (((2, 1.0), (1, 1.0)),)])
def test_errors_that_cannot_be_are_refused(bad):
    with pytest.raises(DmmcError):
        table(*bad)


def test_known_errors_spare_the_measurement_and_keep_the_limit(tmp_path):
    model = model_on((4, 4), strength=0.15, size=replace(SMALL, level_knots=5))
    fresh = FlowProposal(model, method="dopri5")
    assert with_known_steps(fresh, 400) is None
    errors = measure_errors(fresh)
    # The errors are those of the flow: a certificate of the whole way finds the same, up to the noise of 16 proposals
    # on either side, sqrt(2 / 30) = 26 %, and that of few probes, which only makes the measured ones larger.
    for schedule in ((2, 2), errors.fewest(1e-4)):
        whole = certify(fresh.with_schedule(schedule), 48, rng(9), determinants=48)
        assert 0.4 < errors.spread(schedule) / whole.std < 3, schedule
    known = replace(model, flow_errors=errors)
    chosen = with_known_steps(FlowProposal(known, method="dopri5"), 400, 0.01)
    assert certify(chosen, 48, rng(9), determinants=48).limit < 0.01 / 20
    assert with_known_steps(FlowProposal(known, method="dopri5"), 400, 0.1).total_steps < chosen.total_steps
    # They belong to one method, go into the file with the model, and change nothing of what it proposes.
    assert with_known_steps(FlowProposal(known, method="rk4"), 400) is None
    assert known.fingerprint() == model.fingerprint()
    assert DiffusionModel.load(known.save(tmp_path / "known.safetensors")).flow_errors == errors
    with pytest.raises(DmmcError, match="n_effective must be at least 1"):
        with_known_steps(fresh, 0)


def test_steps_so_long_that_fields_run_away_only_ask_for_more_of_them():
    proposal = FlowProposal(model_on((3, 3), strength=3.0, size=replace(SMALL, level_knots=4)), method="dopri5")
    errors = measure_errors(proposal, (1e-2,), n=4)
    assert all(math.isfinite(x) for interval in errors.intervals for _, x in interval)
    assert sum(errors.fewest(1e-2)) > 4

"""Verdicts on models and chains whose fault is known: the right one comes first, and a good chain gets none."""

import functools
import math
import re

import numpy as np
import pytest
import torch

from checks import Gaussian, Mixture
from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.theory.actions import declaration
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4
from helpers import Grid, ar1, free_draws, free_reference, rng

BROKEN = Phi4.from_mass(-5.0, 1.0, 1)  # on two sites: wells at +-1.6 with a barrier of 12.5 between them


def titles(verdicts):
    return [x.title for x in verdicts]


def record(phi, action, lattice):
    """Observables of ``(chain, draw, *lattice)``."""
    flat = phi.flatten(0, 1)
    return {k: v.view(*phi.shape[:2], *v.shape[1:]).numpy() for k, v in measure(flat, action(flat), lattice).items()}


def run(kernel, state, n, seed=3):
    steps = list(kernel.steps(state, n, rng(seed)))
    infos = [info.tensors() for _, info in steps]
    stats = {name: torch.stack([info[name] for info in infos], 1).numpy() for name in infos[0]}
    return stats, record(torch.stack([s.phi for s, _ in steps], 1), kernel.action, kernel.lattice)


def judged(action, lattice, proposal, draws, n=500, start=None, **options):
    """Verdicts on chains of a proposal, with exact draws of the target as the reference, or without one."""
    options = {"z2_symmetric": declaration(action).symmetry == "z2"} | options
    kernel = Independence(action, lattice, proposal)
    generator = rng(2)
    state = kernel.initial(16, generator) if start is None else kernel.start(start, generator)
    stats, observables = run(kernel, state, n)
    if draws is not None:
        options["log_w_reference"] = (-action(draws) - proposal.log_q(draws)).view(16, -1).numpy()
        options["reference"] = record(draws.view(16, -1, *lattice.shape), action, lattice)
    return diagnostics.judge(stats["accepted"], stats["log_w"], stats["log_w_proposed"], observables, **options)


@functools.cache
def two_wells():
    """Exact draws of the broken phase, and Gaussians like one well: ``(draws, well(width, side))``."""
    draws = Grid.make(2, 4, 401).draws(BROKEN, 4000)
    positive = draws[draws.mean(1) > 0]
    mean, covariance = positive.mean(0), torch.cov(positive.T)
    return draws, lambda width=1.1, side=1: Gaussian(side * mean, width**2 * covariance)


def both_wells(width):
    well = two_wells()[1]
    return Mixture((0.5, 0.5), (well(width), well(width, -1)))


# Three models, three verdicts


def test_three_models_of_the_broken_phase():
    draws, well = two_wells()
    lattice = Lattice((2,))
    good = judged(BROKEN, lattice, both_wells(1.1), draws, bias_bound=1e-5)
    assert [x.level for x in good] == ["good"] and good[0].title == "Nothing wrong found"
    assert good[0].number > 0.8 and "within" in good[0].text and "reference configurations" in good[0].text

    untrained = judged(BROKEN, lattice, both_wells(8.0), draws)
    assert untrained[0].title == "The model is under-trained" and untrained[0].level != "good"
    assert untrained[0].quantity == "ESS/N" and untrained[0].number < untrained[0].threshold == 0.2
    assert "The model misses a mode" not in titles(untrained)

    for width in (1.1, 0.4):
        collapsed = judged(BROKEN, lattice, well(width), draws)
        assert collapsed[0].title == "The model misses a mode" and collapsed[0].level == "bad"
        # Half of the target: 5 standard errors of 4000 draws, and what of its own half the narrow one misses.
        assert collapsed[0].number == pytest.approx(0.5, abs=0.05) and "M" in collapsed[0].text
        assert "Only one sign of M" in titles(collapsed)


def test_three_models_of_the_free_field():
    lattice, action, reference = Lattice((3, 4)), FreeField(0.7), free_reference(Lattice((3, 4)), 0.7)
    draws = free_draws(reference, 4000)

    def model(width):
        return Gaussian.of(lattice, width**2 * lattice.spread(reference.propagator))

    good = judged(action, lattice, model(1.05), draws)
    assert [x.level for x in good] == ["good"]
    untrained = judged(action, lattice, model(1.8), draws)
    assert untrained[0].title == "The model is under-trained"
    narrow = judged(action, lattice, model(0.6), draws)
    assert narrow[0].level == "bad" and {"The model is under-trained", "The weights have a heavy tail"} & set(
        titles(narrow)
    )


def test_without_a_reference_the_chain_says_that_it_cannot_know():
    _, well = two_wells()
    lattice = Lattice((2,))
    good = judged(BROKEN, lattice, both_wells(1.1), None)
    assert good[0].level == "good" and "cannot know of modes" in good[0].text
    collapsed = judged(BROKEN, lattice, well(1.2), None)
    # The symmetry of the action gives it away; without the symmetry nothing does.
    assert collapsed[0].title == "Only one sign of M" and "cannot know of modes" in collapsed[0].text
    blind = judged(BROKEN, lattice, well(1.2), None, z2_symmetric=False)
    assert blind[0].level == "good" and "cannot know of modes" in blind[0].text


def test_missed_mode_without_a_symmetry():
    # 20 % of the target sit in a second well that the model does not propose; M of both wells is known to no verdict.
    lattice = Lattice((1,))
    target = Mixture(
        (0.8, 0.2),
        tuple(
            Gaussian(torch.full((1,), x, dtype=torch.float64), torch.eye(1, dtype=torch.float64)) for x in (0.0, 9.0)
        ),
    )
    action = AutogradAction(lambda phi: -target.log_q(phi), "two wells")
    draws, _ = target.sample(4000, rng(5))
    verdicts = judged(action, lattice, target.parts[0], draws)
    assert verdicts[0].title == "The model misses a mode"
    assert verdicts[0].number == pytest.approx(0.2, abs=5 * math.sqrt(0.16 / 4000))
    assert f"{-math.log(0.8):.1f}" in verdicts[0].text  # log Z is missing log(1 - 0.2)
    # A chain that starts in the well that is missed stays there.
    start = torch.zeros(16, 1, dtype=torch.float64)
    start[4] = 9.0
    verdicts = judged(action, lattice, target.parts[0], draws, start=start)
    stuck = verdicts[titles(verdicts).index("A chain is stuck")]
    assert (
        stuck.level == "bad" and stuck.number == 500 and "Chain 4" in stuck.text and "above all proposals" in stuck.text
    )


# One fault each, on synthetic chains


def synthetic(sigma=0.4, shape=(16, 1000), seed=1):
    """An independence chain with Gaussian log weights and an M of two values: arguments of :func:`judge`."""
    generator = np.random.default_rng(seed)
    proposed, uniform = generator.normal(0, sigma, shape), np.log(generator.random(shape))
    fresh = generator.choice([-1.0, 1.0], shape) * generator.normal(1, 0.2, shape)
    log_w, M = generator.normal(sigma**2, sigma, shape[0]), fresh[:, 0]
    accepted, states, field = np.empty(shape, bool), np.empty(shape), np.empty(shape)
    for i in range(shape[1]):
        accepted[:, i] = uniform[:, i] < proposed[:, i] - log_w
        states[:, i] = log_w = np.where(accepted[:, i], proposed[:, i], log_w)
        field[:, i] = M = np.where(accepted[:, i], fresh[:, i], M)
    return accepted, states, proposed, {"M": field, "M2": field**2}


def test_a_good_chain_is_good_for_nearly_any_seed():
    # A dozen comparisons with a bound of 4 sigma: a false alarm in fewer than 1 of 1000 chains, 3 of 40 in 1 of 10^5.
    alarms = 0
    for seed in range(40):
        chain, other = synthetic(seed=seed), synthetic(seed=1000 + seed)
        verdicts = diagnostics.judge(
            *chain, log_w_reference=other[1], reference=other[3], bias_bound=1e-4, z2_symmetric=True
        )
        assert verdicts[0].level != "bad", verdicts
        alarms += titles(verdicts) != ["Nothing wrong found"]
    assert alarms < 3


def test_perfect_model():
    # All weights are equal to rounding: no tail, no rejection, no error of the acceptance.
    accepted, states, proposed, observables = synthetic(sigma=1e-13)
    verdicts = diagnostics.judge(accepted, states, proposed, observables, log_w_reference=states)
    assert titles(verdicts) == ["Nothing wrong found"]


@pytest.mark.parametrize(("bias_bound", "level"), [(1e-5, "good"), (0.004, "doubtful"), (0.05, "bad")])
def test_integrator_bias_against_the_statistical_error(bias_bound, level):
    # 16000 draws of tau 0.7: errors of std * sqrt(1.4 / 16000) = 0.009 std.
    verdicts = diagnostics.judge(*synthetic(), bias_bound=bias_bound)
    assert verdicts[0].level == level
    assert (verdicts[0].title == "The integrator is too coarse") == (level != "good")
    if level != "good":
        assert verdicts[0].number == pytest.approx(bias_bound / 0.009, rel=0.2)


def test_integrator_bias_of_other_kernels():
    verdicts = diagnostics.judge_chain(np.ones((16, 1000)), observables_of(series(0.7, (16, 1000))), bias_bound=0.05)
    assert [(x.title, x.level) for x in verdicts] == [("The integrator is too coarse", "bad")]


def test_advice_is_for_the_chain_at_hand():
    chain = synthetic(sigma=1.6)
    flow, path = (diagnostics.judge(*chain, bias_bound=bound)[0] for bound in (1e-6, None))
    assert flow.title == path.title == "The model is under-trained"
    assert "integrator" in flow.text and "integrator" not in path.text
    accepted, states, proposed, observables = synthetic()
    observables["M"] = abs(observables["M"])
    ours = diagnostics.judge(accepted, states, proposed, observables, z2_symmetric=True)[0]
    others = diagnostics.judge_chain(accepted, observables, z2_symmetric=True)[0]
    assert ours.title == others.title == "Only one sign of M"
    assert "cluster" not in ours.text and "cluster" in others.text


def test_a_tail_with_a_variance_needs_more_proposals_and_no_better_model():
    # 40 weights u^-0.42: a finite variance, but k is above 1 - 1/log10(40) = 0.38.
    accepted, states, proposed, observables = synthetic(shape=(4, 10))
    proposed = -0.42 * np.log((np.random.default_rng(3).permutation(40) + 0.5) / 40).reshape(4, 10)
    verdicts = diagnostics.judge(accepted, states, proposed, observables)
    assert 0.38 < diagnostics.pareto_k(proposed) <= 0.5
    few = verdicts[titles(verdicts).index("Too few proposals")]
    assert (
        few.level == "doubtful"
        and "variance exists" in few.text
        and "The weights have a heavy tail" not in titles(verdicts)
    )


@pytest.mark.parametrize(("draws", "level"), [(5, "bad"), (10, "doubtful"), (200, "good")])
def test_too_few_draws(draws, level):
    verdicts = diagnostics.judge(*synthetic(sigma=0.2, shape=(5, draws), seed=3))
    assert verdicts[0].level == level
    assert ("Too few draws" in titles(verdicts)) == (level != "good")


def test_signs_out_of_balance():
    accepted, states, proposed, observables = synthetic()
    observables["M"] = np.where(np.arange(1000) % 8 == 0, abs(observables["M"]), observables["M"])
    verdicts = diagnostics.judge(accepted, states, proposed, observables, z2_symmetric=True)
    assert titles(verdicts) == ["The signs of M are out of balance"] and verdicts[0].level == "bad"
    assert verdicts[0].number > 6
    # No symmetry is assumed of an action that does not declare it.
    assert diagnostics.judge(accepted, states, proposed, observables)[0].level == "good"


def test_disagreement_with_the_reference():
    chain, other = synthetic(), synthetic(seed=2)
    shifted = {"M": 1.1 * other[3]["M"], "M2": 1.21 * other[3]["M2"]}
    verdicts = diagnostics.judge(*chain, reference=shifted)
    assert titles(verdicts) == ["Disagrees with the reference"] and verdicts[0].level == "bad"
    assert verdicts[0].number < -6 and "<M^2>" in verdicts[0].text and "M2" not in verdicts[0].text
    wrong = {name: other[3][name] for name in ("M", "M2")}
    wrong["M"] = np.where(abs(wrong["M"]) < 1, wrong["M"], 1.5 * wrong["M"])  # M^2 alone would not show it
    assert "fraction of draws with" in diagnostics.judge(*chain, reference=wrong)[0].text


def test_heavy_tail():
    # Weights u^-0.9: a mean, no variance.
    accepted, states, proposed, observables = synthetic(shape=(16, 2000))
    proposed = -0.9 * np.log(np.random.default_rng(4).random(proposed.shape))
    verdicts = diagnostics.judge(accepted, states, proposed, observables)
    tail = verdicts[titles(verdicts).index("The weights have a heavy tail")]
    assert tail.level == "doubtful" and tail.number == pytest.approx(0.9, abs=0.3) and tail.threshold == 0.7


def test_a_heavy_tail_of_next_to_nothing_does_not_matter():
    accepted, states, proposed, observables = synthetic(sigma=1e-9)
    proposed = 1e-5 * np.random.default_rng(4).random(proposed.shape) ** -0.9
    assert diagnostics.pareto_k(proposed) > 0.7 and diagnostics.ess_fraction(proposed) > 0.99
    assert titles(diagnostics.judge(accepted, states, proposed, observables)) == ["Nothing wrong found"]


def test_broad_weights_that_leave_too_few_draws_are_the_cause_and_come_first():
    verdicts = diagnostics.judge(*synthetic(sigma=1.5, shape=(8, 40)))
    assert titles(verdicts)[:2] == ["The model is under-trained", "Too few draws"]
    assert [x.level for x in verdicts[:2]] == ["bad", "bad"] and verdicts[0].number > 0.02


def test_proposals_that_overflow():
    accepted, states, proposed, observables = synthetic()
    some = np.where(np.random.default_rng(5).random(proposed.shape) < 0.05, -np.inf, proposed)
    verdicts = diagnostics.judge(accepted, states, some, observables)
    assert titles(verdicts) == ["Proposals overflow"] and verdicts[0].number == pytest.approx(0.05, abs=0.01)
    verdicts = diagnostics.judge(np.zeros_like(accepted), states, np.full_like(proposed, -np.inf), observables)
    assert verdicts[0].title == "No proposal can be accepted"


def test_the_worst_comes_first():
    accepted, states, proposed, observables = synthetic(sigma=1.6)
    observables["M"] = abs(observables["M"])
    verdicts = diagnostics.judge(accepted, states, proposed, observables, bias_bound=0.003, z2_symmetric=True)
    assert [x.level for x in verdicts] == sorted(x.level for x in verdicts)  # "bad" < "doubtful"
    assert titles(verdicts)[:2] == ["Only one sign of M", "The model is under-trained"]


def test_verdicts_are_complete_sentences_with_their_number():
    accepted, states, proposed, observables = synthetic(sigma=2.2, shape=(4, 300))
    for x in diagnostics.judge(accepted, states, proposed, observables, bias_bound=0.5):
        assert x.text.endswith((".", ")")) and x.title and x.quantity and isinstance(x.number, float)
        assert "nan" not in x.text


# Chains that are not independence chains


def test_hmc_of_a_free_field_is_good():
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    kernel = HMC(action, lattice, 0.3, 4)
    stats, observables = run(kernel, kernel.start(free_draws(free_reference(lattice, 0.7), 16), rng()), 400)
    exact = record(free_draws(free_reference(lattice, 0.7), 4000, seed=2).view(16, 250, 3, 4), action, lattice)
    verdicts = diagnostics.judge_chain(
        stats["accepted"], observables, energy_error=stats["energy_error"], reference=exact
    )
    assert titles(verdicts) == ["Nothing wrong found"] and "within" in verdicts[0].text


def test_hmc_that_never_crosses():
    draws, _ = two_wells()
    kernel = HMC(BROKEN, Lattice((2,)), 0.1, 5)
    for start, title, level in [
        (draws[:16], "The sign of M is frozen", "doubtful"),
        (abs(draws[:16]), "Only one sign of M", "bad"),
    ]:
        stats, observables = run(kernel, kernel.start(start, rng()), 300)
        chain = {"energy_error": stats["energy_error"]}
        verdicts = diagnostics.judge_chain(stats["accepted"], observables, z2_symmetric=True, **chain)
        assert title in titles(verdicts) and verdicts[titles(verdicts).index(title)].level == level
        assert title not in titles(diagnostics.judge_chain(stats["accepted"], observables, **chain))


def test_energy_errors_after_a_bad_start():
    # Creutz's identity holds for any reversible, volume-preserving map, but in equilibrium only.
    lattice, action = Lattice((3, 4)), FreeField(0.7)
    kernel = HMC(action, lattice, 0.5, 4)
    stats, observables = run(kernel, kernel.start(8 * free_draws(free_reference(lattice, 0.7), 64), rng()), 5)
    verdicts = diagnostics.judge_chain(stats["accepted"], observables, energy_error=stats["energy_error"])
    assert "HMC violates <exp(-dH)> = 1" in titles(verdicts)


def series(tau, shape, seed=1):
    return ar1(tau, *shape, np.random.default_rng(seed))


def observables_of(M):
    return {"M": M, "abs_M": abs(M), "M2": M**2}


def test_short_and_scattered_chains():
    accepted = np.random.default_rng(2).random((16, 400)) < 0.8
    assert diagnostics.judge_chain(accepted, observables_of(series(2.0, (16, 400))))[0].level == "good"
    short = diagnostics.judge_chain(accepted, observables_of(series(60.0, (16, 400))))
    assert "Too few draws" in titles(short)
    M = series(0.5, (16, 400))
    M[3] = 3 + 0.1 * M[3]  # one chain in a mode of its own
    verdicts = diagnostics.judge_chain(accepted, observables_of(M), z2_symmetric=False)
    assert verdicts[0].title == "The chains differ from each other" and verdicts[0].level == "bad"
    assert "chain 3" in verdicts[0].text
    record = {"M": M * np.random.default_rng(3).choice([-1.0, 1.0], M.shape), "abs_M": abs(M)}
    scattered = diagnostics.judge_chain(accepted, record, z2_symmetric=False)[0]
    assert scattered.text.startswith("Split R-hat of |M| is") and scattered.quantity == "split R-hat of |M|"
    # Many chains of five autocorrelation times: their scatter is in the errors.
    short = diagnostics.judge_chain(np.ones((64, 200)), observables_of(series(40.0, (64, 200))))
    assert [(x.title, x.level) for x in short] == [("The chains differ from each other", "doubtful")]
    # tau_int of M^2 is 20; R^2 - 1 = 4 tau_int / draws holds to terms of relative order 2 tau_int / draws, here 13 %.
    fifteen = diagnostics.judge_chain(np.ones((64, 300)), observables_of(series(40.0, (64, 300))))
    said = re.search(r"only about ([\d.]+) autocorrelation times long", fifteen[0].text)
    assert said is not None and 12 < float(said[1]) < 18


def test_stuck_chain_of_another_kernel():
    accepted, M = np.random.default_rng(3).random((16, 400)) < 0.8, series(1.0, (16, 400))
    accepted[7, 99:161] = True
    accepted[7, 100:160] = False
    verdicts = diagnostics.judge_chain(accepted, observables_of(M))
    assert verdicts[0].title == "A chain is stuck" and verdicts[0].number == 60 and "Chain 7" in verdicts[0].text
    accepted[7], M[7] = False, 0.3
    verdicts = diagnostics.judge_chain(accepted, observables_of(M))
    assert verdicts[0].title == "A chain is stuck" and "never accepted" in verdicts[0].text
    # Only trajectories have a step size.
    assert "step size" not in verdicts[0].text and "another kernel" in verdicts[0].text
    dH = np.random.default_rng(4).normal(0, 0.1, (16, 400))
    assert "step size" in diagnostics.judge_chain(accepted, observables_of(M), energy_error=dH)[0].text


def test_nothing_ever_moved():
    verdicts = diagnostics.judge_chain(np.zeros((4, 50), bool), observables_of(np.full((4, 50), 0.2)))
    assert verdicts[0].title == "A chain is stuck" and "Too few draws" in titles(verdicts)


def test_bad_input_is_refused():
    accepted, states, proposed, observables = synthetic(shape=(4, 50))
    with pytest.raises(DmmcError, match="no M"):
        diagnostics.judge(accepted, states, proposed, {"M2": observables["M2"]})
    with pytest.raises(DmmcError, match="shape"):
        diagnostics.judge(accepted[:, :-1], states, proposed, observables)
    with pytest.raises(DmmcError, match="same draws"):
        diagnostics.judge(accepted, states[:, :-1], proposed, observables)
    with pytest.raises(DmmcError, match="4 draws"):
        diagnostics.judge_chain(accepted[:, :2], observables_of(states[:, :2]))
    with pytest.raises(DmmcError, match="log_w_reference"):
        diagnostics.judge(accepted, states, proposed, observables, log_w_reference=np.array([0.0, np.nan]))


# References that do not fit


def gaussian_weights(shift=0.0, sigma=0.6, seed=11, shape=(16, 500)):
    """log w of independent draws of the target, where log w of the proposals is Gaussian of standard deviation sigma.

    With log Z = 0 the proposals have the mean -sigma^2 / 2 and the target, reweighted with w, the mean sigma^2 / 2.
    """
    return np.random.default_rng(seed).normal(0.5 * sigma**2 + shift, sigma, shape)


def chain_with_log_z_zero(sigma=0.6):
    accepted, states, proposed, observables = synthetic(sigma=sigma)
    offset = 0.5 * sigma**2
    return accepted, states - offset, proposed - offset, observables


def test_a_reference_of_the_same_target_does_not_contradict():
    alarms = 0
    for seed in range(40):
        verdicts = diagnostics.judge(*chain_with_log_z_zero(), log_w_reference=gaussian_weights(seed=seed))
        alarms += titles(verdicts) != ["Nothing wrong found"]
    assert alarms < 3


@pytest.mark.parametrize(("shift", "name", "value"), [(-0.5, "KL(p||q)", 0.18 - 0.5), (-5.0, "KL(p||q)", 0.18 - 5.0)])
def test_a_negative_divergence_is_bad(shift, name, value):
    verdicts = diagnostics.judge(*chain_with_log_z_zero(), log_w_reference=gaussian_weights(shift))
    assert verdicts[0].title == "The reference contradicts the proposals" and verdicts[0].level == "bad"
    # sigma / sqrt(8000) and 0.66 / sqrt(16000) in quadrature, 5 of these
    assert verdicts[0].quantity == name and verdicts[0].number == pytest.approx(value, abs=0.05)
    assert verdicts[0].number < verdicts[0].threshold < 0


def test_a_negative_divergence_of_the_proposals_is_bad():
    # A few reference configurations of tiny weight: log Z from the reference comes out below the bound of the
    # proposals.
    reference = gaussian_weights()
    reference[:, ::50] = -8.0
    verdicts = diagnostics.judge(*chain_with_log_z_zero(), log_w_reference=reference)
    assert verdicts[0].title == "The reference contradicts the proposals" and verdicts[0].quantity == "KL(q||p)"


def test_equal_weights_with_another_offset_contradict():
    accepted, states, proposed, observables = synthetic(sigma=1e-13)
    verdicts = diagnostics.judge(accepted, states, proposed, observables, log_w_reference=np.full((4, 50), -1.0))
    assert verdicts[0].title == "The reference contradicts the proposals" and verdicts[0].number == pytest.approx(-1)


@pytest.mark.parametrize(("sigma", "bad"), [(4.0, False), (6.0, True)])
def test_a_reference_of_enormous_spread_is_bad(sigma, bad):
    reference = np.random.default_rng(12).normal(2.0, sigma, (16, 500))
    verdicts = diagnostics.judge(*chain_with_log_z_zero(), log_w_reference=reference)
    assert ("The model does not describe the reference" in titles(verdicts)) == bad


def test_energy_errors_beyond_the_range_of_exp():
    dH = np.random.default_rng(13).normal(size=(8, 200))
    dH[0, :4] = [np.inf, np.nan, -900.0, 1e200]
    with np.errstate(over="raise"):
        verdicts = diagnostics.judge_chain(np.ones((8, 200)), observables_of(series(0.6, (8, 200))), energy_error=dH)
    assert all(math.isfinite(x.number) for x in verdicts)

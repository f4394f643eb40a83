"""What pilots say about the cost of other kernels, for series whose autocorrelation times are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dmmc.diagnostics import gamma_method
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.runs.rival import CLOCK, Pilot, Rival, rivals, sentence
from helpers import ar1


def autoregression(tau, shape, seed):
    return ar1(tau, *shape, np.random.default_rng(seed))


def pilot(tau, shape=(64, 60), seed=1, kernel="block", options=None, tau_M=None):
    series = {"M2": autoregression(tau, shape, seed)}
    series |= {} if tau_M is None else {"M": autoregression(tau_M, shape, seed + 1000)}
    return Pilot(kernel, options or {"share": 0.25}, np.full(shape, 0.4), series)


CHAIN = {"M2": gamma_method(autoregression(10, (64, 2000), seed=2))}
BOTH = CHAIN | {"M": gamma_method(autoregression(20, (64, 2000), seed=3))}
EQUAL = {"chain": 1.0, "block": 1.0, "cycle": 1.0}


def only(found):
    (one,) = found
    return one


def test_the_gain_is_the_ratio_of_the_autocorrelation_times_and_of_the_seconds():
    found = only(rivals([pilot(2)], CHAIN, 1, {}))
    assert abs(found.tau_int - 2) < 5 * found.tau_int_error and not found.bound
    assert abs(found.gain - 5) < 5 * found.gain_error and found.cost == 1
    # Relative errors of the two in quadrature; that of the pilot is the larger one.
    assert 0.9 * found.tau_int_error / found.tau_int < found.gain_error / found.gain < 0.3
    three = only(rivals([pilot(2)], CHAIN, 3, {}))  # three steps of the chain for each draw
    assert three.gain == pytest.approx(3 * found.gain)
    dear = only(rivals([pilot(2)], CHAIN, 1, {"block": 3e-3, "chain": 1.5e-3}))
    assert dear.gain == pytest.approx(found.gain / 2) and dear.cost == 2
    # The ratio of the seconds has an error, too.
    assert dear.gain_error / dear.gain == pytest.approx(math.hypot(found.gain_error / found.gain, CLOCK))
    assert rivals([pilot(2)], CHAIN, 1, {"block": 6.0, "chain": 1.0}) == ()
    assert (found.kernel, found.options, found.acceptance) == ("block", {"share": 0.25}, pytest.approx(0.4))


def test_of_several_the_one_that_needs_least_time_is_named_for_each_observable():
    blocks, cycle = pilot(2, tau_M=8), pilot(3, seed=5, kernel="cycle", options={"trajectory": 8.0}, tau_M=2)
    found = rivals([cycle, blocks], BOTH, 1, EQUAL)
    assert [(one.observable, one.kernel) for one in found] == [("M2", "block"), ("M", "cycle")]
    # Where a cycle takes three times as long, blocks gain more for M, too: 20 / 8 and 20 / (3 * 2) within 40 %.
    dear = rivals([cycle, blocks], BOTH, 1, EQUAL | {"cycle": 5.0})
    assert [(one.observable, one.kernel) for one in dear] == [("M2", "block"), ("M", "block")]
    # Of M nothing is said where it is a vector, which has no row of its own.
    assert [one.observable for one in rivals([blocks], CHAIN, 1, EQUAL)] == ["M2"]


def test_nothing_is_said_of_equals_or_of_what_is_slower():
    # Of equals, 2 % are taken for better ones: at most 4 of 50 (a Poisson law of mean 1, 99.6 %).
    assert sum(len(rivals([pilot(10, seed=k, shape=(64, 200))], CHAIN, 1, {})) for k in range(50)) <= 4
    assert rivals([pilot(30, shape=(64, 200))], CHAIN, 1, {}) == ()
    assert rivals([], CHAIN, 1, {}) == ()
    assert rivals([pilot(2, options={"share": 1.0})], CHAIN, 1, {}) == ()  # that is the kernel of the chain


def test_nothing_is_said_of_a_pilot_that_is_too_short():
    short = pilot(8, shape=(8, 15))
    assert not resolved_tau(short.series["M2"])[1]
    assert rivals([short], {"M2": replace(CHAIN["M2"], tau_int=1000.0)}, 1, {}) == ()
    stuck = replace(pilot(2), series={"M2": np.ones((64, 60))})
    assert rivals([stuck], CHAIN, 1, {}) == ()
    assert rivals([pilot(2)], {"M2": replace(CHAIN["M2"], tau_int=math.nan)}, 1, {}) == ()


def test_a_chain_that_is_too_short_gives_a_bound():
    found = rivals([pilot(2)], {"M2": replace(CHAIN["M2"], resolved=False)}, 1, {})
    assert only(found).bound and "would take at least" in sentence(found, 0.1)


def test_sentences():
    blocks = Rival("block", "M2", 0.41, 3.2, 0.3, 1.0, 3.14, 0.42, options={"share": 0.25})
    assert sentence([blocks], 0.124) == (
        "Acceptance 0.12 here: an effective M^2 would take 3.14(42) times less time with the kernel block "
        "(dmmc sample --kernel block --share 0.25)."
    )
    cycle = replace(blocks, kernel="cycle", observable="M", bound=True, options={"trajectory": 8.0})
    assert sentence([blocks, cycle], None) == (
        "an effective M^2 would take 3.14(42) times less time with the kernel block "
        "(dmmc sample --kernel block --share 0.25), and one of M at least 3.14(42) times less "
        "with the kernel cycle (dmmc sample --kernel cycle --trajectory 8)."
    )
    alone = [replace(cycle, kernel="hmc", observable=name, bound=False) for name in ("M2", "M")]
    assert sentence(alone, None) == (
        "an effective M^2 would take 3.14(42) times less time, and one of M 3.14(42) times less, with HMC alone "
        "(dmmc ensemble --trajectory 8)."
    )


def test_they_are_stored_and_read():
    made = pilot(2, tau_M=3), pilot(4, kernel="cycle", options={"trajectory": 8.0})
    read = Pilot.stored(made[0].arrays() | {"delta": np.ones(3)} | made[1].arrays())
    for before, after in zip(made, read, strict=True):
        assert (after.kernel, after.options) == (before.kernel, before.options)
        assert after.series.keys() == before.series.keys()
        assert all(np.array_equal(x, after.arrays()[name]) for name, x in before.arrays().items())
    assert Pilot.stored({"delta": np.ones(3)}) == ()


def test_a_file_from_when_blocks_alone_were_tried_is_read():
    old = pilot(2)
    arrays = {"pilot_share": np.array([0.25]), "pilot_acceptance": old.acceptance, "pilot_M2": old.series["M2"]}
    assert rivals(Pilot.stored(arrays), BOTH, 1, {}) == rivals([old], CHAIN, 1, {})

"""What a pilot says about the cost of another kernel, for series whose autocorrelation times are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dmmc.diagnostics import gamma_method
from dmmc.diagnostics.autocorrelation import resolved_tau
from dmmc.runs.rival import Pilot, Rival, rival
from helpers import ar1


def autoregression(tau, shape, seed):
    return ar1(tau, *shape, np.random.default_rng(seed))


def pilot(tau, shape=(64, 60), seed=1, share=0.25):
    rates = np.full(shape, 0.4)
    return Pilot(np.array([share]), rates, autoregression(tau, shape, seed))


CHAIN = gamma_method(autoregression(10, (64, 2000), seed=2))


def test_the_gain_is_the_ratio_of_the_autocorrelation_times():
    found = rival(pilot(2), CHAIN, 1)
    assert abs(found.tau_int - 2) < 5 * found.tau_int_error and not found.bound
    assert abs(found.gain - 5) < 5 * found.gain_error
    # Relative errors of the two in quadrature; that of the pilot is the larger one.
    assert 0.9 * found.tau_int_error / found.tau_int < found.gain_error / found.gain < 0.3
    assert rival(pilot(2), CHAIN, 3).gain == pytest.approx(3 * found.gain)  # three steps of the chain for each draw
    assert (found.share, found.acceptance) == (0.25, pytest.approx(0.4))


def test_nothing_is_said_of_equals_or_of_what_is_slower():
    # Of equals, 2 % are taken for better ones: at most 4 of 50 (a Poisson law of mean 1, 99.6 %).
    assert sum(rival(pilot(10, seed=k, shape=(64, 200)), CHAIN, 1) is not None for k in range(50)) <= 4
    assert rival(pilot(30, shape=(64, 200)), CHAIN, 1) is None
    assert rival(None, CHAIN, 1) is None
    assert rival(pilot(2, share=1.0), CHAIN, 1) is None  # that is the kernel of the chain


def test_nothing_is_said_of_a_pilot_that_is_too_short():
    short = pilot(8, shape=(8, 15))
    assert not resolved_tau(short.pilot_M2)[1]
    assert rival(short, replace(CHAIN, tau_int=1000.0), 1) is None
    stuck = replace(pilot(2), pilot_M2=np.ones((64, 60)))
    assert rival(stuck, CHAIN, 1) is None
    assert rival(pilot(2), replace(CHAIN, tau_int=math.nan), 1) is None


def test_a_chain_that_is_too_short_gives_a_bound():
    found = rival(pilot(2), replace(CHAIN, resolved=False), 1)
    assert found.bound and "at least" in found.sentence(0.1)


def test_sentences():
    blocks = Rival(0.25, 0.41, 3.2, 0.3, 3.14, 0.42)
    assert blocks.sentence(0.124) == (
        "Acceptance 0.12 here: the kernel of blocks with 25 % of the sites would need 3.14(42) times less time for an "
        "effective M^2 (dmmc sample --kernel block --share 0.25)."
    )
    assert (
        replace(blocks, bound=True)
        .sentence(None)
        .startswith("the kernel of blocks with 25 % of the sites would need at ")
    )


def test_it_is_stored_and_read():
    made = pilot(2)
    read = Pilot.stored(made.arrays() | {"delta": np.ones(3)})
    assert all(np.array_equal(x, made.arrays()[name]) for name, x in read.arrays().items())
    assert Pilot.stored({"pilot_M2": np.ones((2, 3))}) is None

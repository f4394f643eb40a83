"""The table of observables: its exact chains agree with the truth, and a bias is seen with more statistics."""

import math

import numpy as np

from dmmc.gallery import observables
from dmmc.gallery.observables import EXACT, OBSERVABLES, OTHERS, QUICK_PHASES
from helpers import SIGMA, ar1


def test_exact_chains_agree_with_clusters_and_an_untrained_network_does_not(quick_gallery):
    shown = quick_gallery("observables")
    for phase in QUICK_PHASES:
        samplers = shown.numbers["samplers"][phase]
        assert list(samplers) == list(OTHERS)
        for name in EXACT:
            assert all(abs(z) < SIGMA for z in samplers[name]["z"].values()), (phase, name, samplers[name]["z"])
            assert 0 <= samplers[name]["acceptance"] <= 1
        # With six observables and few chains, chi^2 is not quite one; what a wrong chain gives is below 1e-6.
        assert shown.numbers["agreement"][EXACT[0]][phase]["p_value"] > 1e-5
    # The U-Net has seen 60 steps: domains remain in the broken phase, and |M| is too small.
    off = shown.numbers["samplers"]["broken"]["U-Net, unadjusted"]["z"]
    assert off["chi2"] > 4 or off["abs_M"] < -4
    assert shown.table.count("\n") == len(QUICK_PHASES) * (len(OBSERVABLES) + 1) + 1


def record(rng, shift=0.0, chains=1, draws=4000):
    M = ar1(0.5, chains, draws, rng) + shift
    return {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "phi2": M**2, "S_per_site": M}


def test_ten_times_the_statistics_show_a_small_bias():
    # The mean is off by 0.1: 2 standard errors of 400 draws, 6.3 of 4000.
    rng = np.random.default_rng(3)
    truth = observables.estimates(record(rng, chains=64, draws=1000), 16)
    biased = observables.compare(record(rng, 0.1), truth, 16)
    assert biased.z_tenth["M"] == np.clip(biased.z_tenth["M"], 2 - 3.5, 2 + 3.5)
    assert biased.z["M"] == np.clip(biased.z["M"], 6.3 - 3.5, 6.3 + 3.5)
    assert biased.largest >= abs(biased.z["M"])
    honest = observables.compare(record(rng), truth, 16)
    assert honest.largest < SIGMA and honest.largest_tenth < SIGMA


def test_a_tenth_is_of_the_chains_or_of_the_draws():
    rng = np.random.default_rng(1)
    for chains, draws, shape in ((1, 640, (1, 64)), (32, 24, (4, 24)), (8, 24, (1, 24))):
        assert observables.tenth(record(rng, chains=chains, draws=draws))["M"].shape == shape


def test_estimates_are_those_of_the_definitions():
    rng = np.random.default_rng(2)
    x = record(rng, draws=500)
    found = observables.estimates(x, 16)
    M = x["M"]
    assert math.isclose(found["abs_M"].value, abs(M).mean())
    assert math.isclose(found["chi2"].value, 16 * ((M**2).mean() - abs(M).mean() ** 2))
    assert math.isclose(found["binder"].value, 1 - (M**4).mean() / (3 * (M**2).mean() ** 2))

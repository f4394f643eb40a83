"""The exhibit of autocorrelation functions, on 4 x 4: what is frozen, what is not, and whether samplers agree."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dmmc.gallery import autocorrelation, ensembles, models
from dmmc.gallery.autocorrelation import EXACT, TRUTH, compare, samplers, sign_changes
from dmmc.gallery.exhibit import Request
from dmmc.gallery.show import show
from helpers import SIGMA


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A quick exhibit of smaller size than usual, and what it was asked for."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensembles, "QUICK", replace(ensembles.QUICK, extent=4))
        patch.setattr(models, "QUICK_STEPS", 10)
        request = Request(folder / "autocorrelation", folder, quick=True, say=lambda _: None)
        yield show(autocorrelation.EXHIBIT, request), request


def fair(changes, n):
    """How far a number of changes is from n tosses of a fair coin, in standard deviations."""
    return (changes - n / 2) / math.sqrt(n / 4)


def test_in_the_broken_phase_only_hmc_keeps_its_sign(shown):
    runs = samplers("broken", shown[1])
    changes = {name: sign_changes(run.observables["M"]) for name, run in runs.items()}
    assert changes["HMC"] == 0
    # One cluster holds nearly all sites, and every accepted proposal is of either sector with equal probability.
    M, accepted = runs[TRUTH].observables["M"], runs[EXACT].stats["accepted"]
    assert abs(fair(changes[TRUTH], M[:, 1:].size)) < SIGMA
    assert abs(fair(changes[EXACT], np.count_nonzero(accepted[:, 1:]))) < SIGMA
    tau = compare(0.5, runs).tau["M"]
    assert tau["HMC"][0] > 20 and tau[EXACT][0] < 5


def test_exact_chains_agree_with_clusters_and_one_of_another_theory_does_not(shown):
    numbers, request = shown[0].numbers, shown[1]
    assert numbers["dof"] == 18 and numbers["largest_z"] < SIGMA and numbers["p_value"] > 1e-6
    assert numbers["agree"] == (numbers["largest_z"] < 3.5 and numbers["p_value"] > 1e-3)
    runs, other = samplers("symmetric", request), samplers("critical", request)
    result = compare(0.21, {**runs, EXACT: other[EXACT]})
    assert result.agreement.p_value < 1e-6 and max(abs(x.z) for x in result.biases[EXACT].values()) > SIGMA


def test_the_figure_and_the_words(shown):
    assert [figure.file for figure in shown[0].figures] == ["autocorrelation.png"]
    assert "M changes its sign 0 times (HMC)" in shown[0].findings[-1]
    assert shown[0].table.count("diffusion") == 3

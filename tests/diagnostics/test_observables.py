"""Every recorded observable appears in a summary, whoever made it; the standard ones are tested with the theory."""

import math

import numpy as np
import pytest
import torch

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.theory import sectors
from helpers import ar1

CHAINS, DRAWS = 8, 500


def record(seed=1):
    rng = np.random.default_rng(seed)
    M = ar1(2.0, CHAINS, DRAWS, rng)
    standard = {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "phi2": M**2 + 1, "S_per_site": ar1(1.0, 8, 500, rng)}
    two_point = np.stack([5 + M**2, 1 + 0.1 * rng.normal(size=M.shape)], -1)
    return {**standard, "two_point": two_point}


def test_extra_observables_are_not_dropped():
    standard = record()
    rng = np.random.default_rng(2)
    own = {
        "plaquette": rng.normal(1, 0.1, (CHAINS, DRAWS)),
        "wall": rng.normal(size=(CHAINS, DRAWS, 3)),
        "tensor": rng.normal(size=(CHAINS, DRAWS, 2, 2)),
        "parity": rng.random((CHAINS, DRAWS)) < 0.5,
    }
    estimates = diagnostics.summary({**standard, **own}, 16, 0.5)
    assert set(estimates) == {*standard, "chi2", "chi2_signed", "binder", "xi"} - {"two_point"} | {
        *("plaquette", "parity", "wall[0]", "wall[1]", "wall[2]"),
        *("tensor[0,0]", "tensor[0,1]", "tensor[1,0]", "tensor[1,1]"),
    }
    assert estimates["wall[2]"] == diagnostics.gamma_method(own["wall"][:, :, 2])
    assert estimates["tensor[1,0]"] == diagnostics.gamma_method(own["tensor"][:, :, 1, 0])
    assert estimates["plaquette"] == diagnostics.gamma_method(own["plaquette"])
    assert estimates["parity"].value == own["parity"].mean()


def test_a_bad_observable_does_not_hide_the_others():
    bad = np.random.default_rng(3).normal(size=(CHAINS, DRAWS, 2))
    bad[3, 7, 1] = np.inf
    with pytest.warns(DiagnosticsWarning, match=r"ratio\[1\] has NaN or infinite values"):
        estimates = diagnostics.summary({**record(), "ratio": bad}, 16)
    assert math.isnan(estimates["ratio[1]"].value) and math.isfinite(estimates["ratio[0]"].error)
    with pytest.raises(DmmcError, match="shape"):
        diagnostics.summary({**record(), "mean": np.zeros(CHAINS)}, 16)


def test_broken_and_symmetric_magnetisations():
    rng = np.random.default_rng(4)
    sign = np.where(rng.random((CHAINS, DRAWS)) < 0.5, -1, 1)
    assert not diagnostics.is_broken(record()["M"])
    assert diagnostics.is_broken(sign * (1 + 0.1 * rng.normal(size=(CHAINS, DRAWS))))
    assert diagnostics.is_broken(1 + 0.1 * rng.normal(size=(CHAINS, DRAWS)))
    assert not diagnostics.is_broken(sign * (1 + 0.4 * rng.normal(size=(CHAINS, DRAWS))))
    # Ensembles of fields are judged by the same number.
    phi = torch.from_numpy(sign * (1 + 0.1 * rng.normal(size=(CHAINS, DRAWS)))).view(-1, 1)
    assert sectors.is_broken(phi) and not sectors.is_broken(phi - phi.mean().sign() * phi.abs())


@pytest.mark.filterwarnings("ignore::dmmc.diagnostics.DiagnosticsWarning")
def test_a_chain_that_is_stuck_at_zero():
    zero = np.zeros((4, 50))
    with pytest.warns(DiagnosticsWarning, match="binder is not defined"):
        estimate = diagnostics.binder({"M2": zero, "M4": zero})
    assert math.isnan(estimate.value) and math.isnan(estimate.error) and not estimate.resolved
    with pytest.warns(DiagnosticsWarning):
        assert math.isnan(diagnostics.jackknife(lambda a, b: a / b, [zero, zero]).value)
    # Without one of the chains the denominator is zero.
    one = np.zeros((4, 50))
    one[2] = np.random.default_rng(1).normal(1, 0.1, 50)
    with pytest.warns(DiagnosticsWarning, match="not defined without one of the"):
        assert math.isnan(diagnostics.jackknife(lambda a: 1 / a, [one], block_size=50).error)
    # The logarithm of a negative mean is not defined either.
    with pytest.warns(DiagnosticsWarning, match="not defined"):
        assert math.isnan(diagnostics.gamma_derived(math.log, [zero - 1]).value)


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1.0, 1e200])
def test_whether_a_phase_is_broken_does_not_depend_on_units(unit):
    noise = np.random.default_rng(2).normal(size=(4, 50))
    assert not diagnostics.is_broken(unit * noise)
    assert diagnostics.is_broken(unit * (noise + 20))
    assert diagnostics.std_log_w(unit * noise) == pytest.approx(unit * noise.std(ddof=1), rel=1e-12)


@pytest.mark.parametrize("M", [np.zeros((0, 10)), [[1.0, np.nan]], [[1.0, np.inf]]])
def test_a_phase_of_no_numbers_is_refused(M):
    with pytest.raises(DmmcError, match="M must be finite numbers"):
        diagnostics.is_broken(M)

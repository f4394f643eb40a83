"""The one door for arrays of any library: what comes in, what is refused, and numbers of any magnitude."""

import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics.series import as_array, as_series, transposed
from helpers import ar1

X = ar1(3.0, 4, 500, np.random.default_rng(1), mean=1.0)

KINDS = {
    "NumPy": lambda x: x,
    "a list": lambda x: x.tolist(),
    "a list of arrays": list,
    "torch": torch.tensor,
    "torch with gradients": lambda x: torch.tensor(x, requires_grad=True),
    "a list of tensors": lambda x: [torch.tensor(row) for row in x],
    "a list of tensors with gradients": lambda x: [torch.tensor(row, requires_grad=True) for row in x],
    "xarray": lambda x: xr.DataArray(x, dims=("chain", "draw")),
    "xarray without names": xr.DataArray,
    "no mask": np.ma.masked_array,
    "an empty mask": lambda x: np.ma.masked_array(x, np.zeros_like(x, dtype=bool)),
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_library(kind):
    x = KINDS[kind](X)
    series = as_series(x)
    assert type(series) is np.ndarray and series.dtype == np.float64
    np.testing.assert_array_equal(series, X)
    assert diagnostics.gamma_method(x) == diagnostics.gamma_method(X)
    assert diagnostics.ess(x) == diagnostics.ess(X)
    assert diagnostics.ess_fraction(x) == diagnostics.ess_fraction(X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int32, torch.bool])
def test_other_types_of_torch(dtype):
    x = torch.tensor(X > 1).to(dtype)
    np.testing.assert_array_equal(as_series(x), X > 1)


def test_verdicts_on_tensors():
    rng = np.random.default_rng(2)
    accepted, log_w = rng.random((8, 400)) < 0.9, rng.normal(0, 0.3, (8, 400))
    arrays = [accepted, log_w, log_w]
    tensors = [torch.tensor(x) for x in arrays]
    M = rng.normal(size=(8, 400))
    assert diagnostics.judge(*tensors, {"M": torch.tensor(M)}) == diagnostics.judge(*arrays, {"M": M})
    assert diagnostics.judge_chain(tensors[0], {"M": M}) == diagnostics.judge_chain(accepted, {"M": M})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0]], "not a rectangular array.*same number of draws"),
        (np.ma.masked_array(X, X > 2), "masked values"),
        (list(np.ma.masked_array(X, X > 2)), "masked values"),
        (torch.empty(2, 9, device="meta"), "not a rectangular array of numbers"),
        (torch.ones(2, 9).to_sparse(), "not a rectangular array of numbers"),
        ([torch.empty(9, device="meta")] * 2, "not a rectangular array of numbers"),
        ([[torch.tensor(1.0, requires_grad=True)] * 4], "cut all chains|real numbers"),
        (xr.DataArray(X.T, dims=("draw", "chain")), r"dimensions \('draw', 'chain'\); transpose"),
        (np.zeros((1000, 3)), r"shape \(1000, 3\).*if its axes are \(draw, chain\), transpose it"),
        (np.zeros((2, 3)), "at least 4 draws per chain are needed, run longer"),
        (torch.zeros(2, 9, dtype=torch.complex64), "real numbers"),
        ([["a", "b"]], "real numbers"),
        ([[None, 1.0]], "real numbers"),
        (np.array([[1.0, 2.0, 3.0, np.nan]]), "NaN"),
    ],
)
def test_one_clear_message(bad, message):
    with pytest.raises(DmmcError, match=message):
        as_series(bad)


def test_scalars_and_vectors():
    assert as_array(torch.tensor(2.0, requires_grad=True)) == 2.0
    np.testing.assert_array_equal(as_array([1, 2]), [1, 2])


@pytest.mark.parametrize("unit", [1e200, -1e200, 1e-200, 1e150, 1e-290])
def test_magnitude_does_not_matter(unit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        here, there = diagnostics.gamma_method(X), diagnostics.gamma_method(unit * X)
        assert there.value == pytest.approx(unit * here.value, rel=1e-12)
        assert there.error == pytest.approx(abs(unit) * here.error, rel=1e-12)
        assert there.tau_int == pytest.approx(here.tau_int, rel=1e-12) and there.window == here.window
        rho = diagnostics.autocorrelation_function(unit * X, 10)
        np.testing.assert_allclose(rho, diagnostics.autocorrelation_function(X, 10), rtol=1e-10, atol=1e-12)
        derived = diagnostics.gamma_derived(lambda a: 2 * a, [unit * X])
        assert derived.error == pytest.approx(2 * abs(unit) * here.error, rel=1e-6)
        summary, expected = diagnostics.convergence_summary(unit * X), diagnostics.convergence_summary(X)
        assert summary.rhat == pytest.approx(expected.rhat) and summary.ess_mean == pytest.approx(expected.ess_mean)
        assert summary.mcse == pytest.approx(abs(unit) * expected.mcse)
        blocks = diagnostics.blocking(unit * X)
        np.testing.assert_allclose(blocks.error, abs(unit) * diagnostics.blocking(X).error, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e200, -1e-200])
def test_constants_of_any_magnitude_are_constant(value):
    with pytest.warns(diagnostics.DiagnosticsWarning, match="constant"):
        assert math.isnan(diagnostics.gamma_method(np.full((3, 50), value)).error)


def test_names_of_dimensions_are_seen_everywhere():
    swapped = xr.DataArray(X.T, dims=("draw", "chain"))
    for estimate in (lambda x: diagnostics.chi2({"M2": x, "abs_M": x}, 16), diagnostics.is_broken, diagnostics.log_z):
        with pytest.raises(DmmcError, match=r"transpose it to \(chain, draw\)"):
            estimate(swapped)


@pytest.mark.parametrize("estimate", [diagnostics.gamma_method, diagnostics.ess, diagnostics.rhat])
def test_a_transposed_array_is_noticed(estimate):
    rng = np.random.default_rng(5)
    few, slow = rng.normal(size=(200, 4)), ar1(5.0, 20, 300, rng).T
    with pytest.warns(diagnostics.AxesWarning, match="200 chains of 4 draws; if its axes are .draw, chain."):
        estimate(few)
    with pytest.warns(diagnostics.AxesWarning, match="300 chains of 20 draws, and neighbouring chains are as alike"):
        estimate(slow)
    assert not transposed(slow.T)


def test_many_chains_are_not_taken_for_draws():
    # Independent chains, also with a drift from a common start: 4 standard deviations, 1 of 30,000 series.
    rng = np.random.default_rng(6)
    for tau in (0.5, 3.0, 100.0):
        x = ar1(tau, 256, 50, rng)
        assert not transposed(as_series(x)) and not transposed(as_series(x + 10 * np.exp(-np.arange(50) / 10)))

"""Functions of means that users define: the same numbers as the standard ones, and clear refusals."""

import math

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning
from dmmc.diagnostics.means import check_functions
from helpers import ar1


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(1)
    M = ar1(2.0, 4, 200, rng)
    two_point = np.stack([5 + M**2, 1 + 0.1 * rng.normal(size=M.shape)], -1)
    return {"M": M, "M2": M**2, "M4": M**4, "abs_M": abs(M), "two_point": two_point, "up": M > 0}


def test_the_standard_ones_again(record):
    mine = diagnostics.of_means(
        record,
        {
            "U4": lambda mean: 1 - mean["M4"] / (3 * mean["M2"] ** 2),
            "length": lambda mean: math.sqrt((mean["two_point"][0] / mean["two_point"][1] - 1) / 0.5),
            "chi": lambda mean: 16 * (mean["M2"] - mean["abs_M"] ** 2),
            "share": lambda mean: mean["up"],
        },
    )
    for name, standard in (
        ("U4", diagnostics.binder(record)),
        ("length", diagnostics.xi(record, 0.5)),
        ("chi", diagnostics.chi2(record, 16)),
        ("share", diagnostics.gamma_method(record["up"])),
    ):
        got, expected = mine[name], standard
        assert (got.value, got.error, got.tau_int) == pytest.approx(
            (expected.value, expected.error, expected.tau_int), rel=1e-6
        )


def test_where_it_is_not_defined(record):
    with pytest.warns(DiagnosticsWarning, match="root is not defined at the measured means"):
        estimate = diagnostics.of_means(record, {"root": lambda mean: math.sqrt(-mean["M2"])})["root"]
    assert math.isnan(estimate.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda mean: mean["M3"], r"asks for the mean of 'M3', which is not recorded; there are M, M2, "),
        (lambda mean: 3.0, "uses no mean"),
        (lambda mean: mean["two_point"], r"must return one number, got an array of shape \(2,\)"),
        (lambda mean: mean["M2"] * 1j, "must return a real number, got .*j"),
        (lambda mean: str(mean["M2"]), "must return a real number, got '"),
        (lambda mean: mean["M2"] and None, "must return a real number, got None"),
        (lambda mean: mean["M2"].nonsense, r"'mine' fails \[AttributeError: .*nonsense"),
        (lambda mean: mean["M2"][0], r"'mine' fails \[TypeError: 'float' object is not subscriptable"),
    ],
)
def test_bad_functions(record, function, message):
    with pytest.raises(DmmcError, match=message):
        diagnostics.of_means(record, {"mine": function})


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("M2", lambda mean: mean["M2"], "'M2' belongs to another observable"),
        ("xi", lambda mean: mean["M2"], "'xi' belongs to another observable"),
        ("a/b", lambda mean: mean["M2"], "cannot be called 'a/b'"),
        (1, lambda mean: mean["M2"], "cannot be called 1"),
        ("ratio", "M4 / M2", "must be a function of the means.* is a str"),
        ("ratio", lambda mean: mean["M3"] / mean["M2"], "asks for the mean of 'M3', which is not recorded"),
    ],
)
def test_what_can_be_seen_before_anything_is_recorded(name, function, message):
    with pytest.raises(DmmcError, match=message):
        check_functions({name: function}, ("M2", "M4", "wall"))


def test_shapes_are_not_known_beforehand():
    check_functions({"first": lambda mean: mean["wall"][0] / mean["M2"]}, ("M2", "wall"))

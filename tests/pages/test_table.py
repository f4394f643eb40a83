"""The comparison table has the right numbers, in the terminal and as data."""

import math

import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import Estimate
from dmmc.pages.table import compare, comparison


def estimate(value, error, tau=0.5):
    return Estimate(value, error, tau, 0.1 * tau, 1, 100)


def cells(text):
    lines = [line.split("  ") for line in text.splitlines()]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


SAMPLERS = {
    "HMC": {
        "M2": estimate(0.29, 0.03, 40), "M": estimate(0.1, 0.2, 300), "abs_M": estimate(0.5, math.nan),
        "custom[0]": estimate(1, 0.1), "custom[1]": estimate(2, 0.1),
    },
    "cluster": {"M2": estimate(0.25, 0.04, 3), "abs_M": estimate(0.49, 0.01), "M": estimate(0.0, 0.1, 0.5)},
    "diffusion": {"abs_M": estimate(0.47, 0.0), "M2": estimate(0.2, 0.03, 1), "M": estimate(0.1, 0.1, 0.7)},
}  # fmt: skip


def test_numbers_and_z():
    text = comparison(SAMPLERS, reference="cluster")
    rows = cells(text)
    assert rows[0] == ["observable", "cluster (reference)", "HMC", "z", "diffusion", "z"]
    # z = (0.29 - 0.25) / 0.05 and (0.2 - 0.25) / 0.05; (0.47 - 0.49) / 0.01
    assert rows[2:10] == [
        ["<M>", "0.00(10)", "0.10(20)", "+0.4", "0.10(10)", "+0.7"],
        ["<|M|>", "0.490(10)", "0.5(nan)", "-", "0.47(0)", "-2.0"],
        ["<M^2>", "0.250(40)", "0.290(30)", "+0.8", "0.200(30)", "-1.0"],
        ["custom[0]", "-", "1.00(10)", "-", "-", "-"],
        ["custom[1]", "-", "2.00(10)", "-", "-", "-"],
        ["tau_int of M", "0.500(50)", "300(30)", "0.700(70)"],
        ["tau_int of M^2", "3.00(30)", "40.0(4.0)", "1.00(10)"],
        ["z: difference from cluster in standard errors"],
    ]
    with pytest.raises(DmmcError, match="one of HMC"):
        comparison({"HMC": {}}, reference="cluster")
    with pytest.raises(DmmcError, match="nothing to compare"):
        comparison({})


def test_a_single_sampler_has_no_z():
    text = comparison({"HMC": SAMPLERS["HMC"]})
    assert cells(text)[0] == ["observable", "HMC"]
    assert "z:" not in text
    assert "tau_int: integrated" in text
    # Nor is tau_int explained where it is not given.
    assert "tau_int" not in comparison({"other": {"custom": estimate(1, 0.1)}})


def test_the_first_sampler_is_the_reference_by_default():
    compared = compare(SAMPLERS)
    assert compared.samplers == ("HMC", "cluster", "diffusion")
    assert [row.name for row in compared.rows] == ["M", "abs_M", "M2", "custom[0]", "custom[1]"]
    assert compared.rows[2].z[1] == pytest.approx(-0.8)
    assert math.isnan(compared.rows[2].z[0])
    # A column that is called the reference need not be marked as one.
    assert cells(comparison({"reference": {}, "x": {"M": estimate(1, 1)}}))[0] == ["observable", "reference", "x", "z"]

"""Measurements on fields against direct formulas, and the derived quantities with their errors."""

import math

import numpy as np
import pytest
import torch

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import DiagnosticsWarning, Estimate
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import STANDARD, check_names, measure

SHAPES = [(1,), (2,), (5,), (4, 4), (3, 4), (2, 3, 2), (2, 2, 3, 1)]


def fields(shape: tuple[int, ...], n: int = 5) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.3


@pytest.mark.parametrize("shape", SHAPES)
def test_measurements_against_direct_formulas(shape):
    lattice, phi = Lattice(shape), fields(shape)
    S = torch.arange(5.0, dtype=torch.float64)
    out = measure(phi, S, lattice)
    sites = phi.numpy().reshape(5, -1)
    M = sites.sum(1) / lattice.volume
    expected = {
        "M": M,
        "abs_M": abs(M),
        "M2": M**2,
        "M4": M**4,
        "phi2": (sites**2).sum(1) / lattice.volume,
        "S_per_site": S.numpy() / lattice.volume,
    }
    assert tuple(out) == STANDARD and out.keys() == {*expected, "two_point"}
    for name, value in expected.items():
        assert out[name].shape == (5,)
        np.testing.assert_allclose(out[name].numpy(), value, rtol=1e-13, atol=1e-15)
    # two_point: a plain complex transform, every momentum of the orbit averaged one by one
    power = abs(np.fft.fftn(phi.numpy(), axes=range(1, lattice.dim + 1))) ** 2 / lattice.volume
    assert out["two_point"].shape == (5, len(lattice.orbit_modes))
    for orbit, modes in enumerate(lattice.orbit_modes):
        members = [p for p in np.ndindex(shape) if folded(p, shape) == folded(modes, shape)]
        mean = np.mean([power[(slice(None), *p)] for p in members], axis=0)
        np.testing.assert_allclose(out["two_point"][:, orbit].numpy(), mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(out["two_point"][:, 0].numpy(), lattice.volume * M**2, rtol=1e-12)


def folded(p, shape):
    """Momentum up to reflections and exchanges of equal axes."""
    return sorted((extent, min(n, extent - n)) for n, extent in zip(p, shape, strict=True))


def test_float32_fields_are_measured_in_float64():
    lattice, phi = Lattice((4, 4)), fields((4, 4)).float()
    out = measure(phi, torch.zeros(5), lattice)
    assert all(value.dtype == torch.float64 for value in out.values())
    assert torch.equal(out["phi2"], measure(phi.double(), torch.zeros(5), lattice)["phi2"])


def test_bad_measurements_are_refused():
    lattice, phi = Lattice((4, 4)), fields((4, 4))
    with pytest.raises(DmmcError, match="S must have shape"):
        measure(phi, torch.zeros(4), lattice)
    with pytest.raises(DmmcError, match="shape"):
        measure(phi, torch.zeros(5), Lattice((4, 5)))
    with pytest.raises(DmmcError, match="NaN"):
        measure(phi / 0, torch.zeros(5), lattice)


def test_extra_observables_are_measured_like_the_others():
    lattice, phi = Lattice((4, 3)), fields((4, 3)).float()
    S = torch.arange(5.0)

    def spoils_its_argument(field, S):
        return field.mul_(2).flatten(1)[:, :3]

    extra = {
        "links": lambda field, S: (field * field.roll(1, 1)).flatten(1).sum(1),
        "wall-average": lambda field, S: field.mean(2),
        "three": spoils_its_argument,
        "positive": lambda field, S: field.flatten(1).sum(1) > 0,
        "S2": lambda field, S: S**2,
    }
    out = measure(phi, S, lattice, extra)
    assert tuple(out) == (*STANDARD, *extra)
    assert {name: tuple(out[name].shape) for name in extra} == {
        "links": (5,),
        "wall-average": (5, 4),
        "three": (5, 3),
        "positive": (5,),
        "S2": (5,),
    }
    assert all(value.dtype == torch.float64 for value in out.values())
    exact = phi.double()
    torch.testing.assert_close(out["links"], (exact * exact.roll(1, 1)).flatten(1).sum(1))
    torch.testing.assert_close(out["three"], 2 * exact.flatten(1)[:, :3])
    torch.testing.assert_close(out["S2"], S.double() ** 2)
    double = fields((4, 3))
    before = double.clone()
    measure(double, S, lattice, {"three": spoils_its_argument})
    assert torch.equal(double, before)


@pytest.mark.parametrize(
    ("name", "observable", "message"),
    [
        ("mine", lambda phi, S: phi.mean(), r"must return shape \(5, ...\)"),
        ("mine", lambda phi, S: phi.flatten(1).sum(0), r"must return shape \(5, ...\)"),
        ("mine", lambda phi, S: 1.0, "must return a torch.Tensor, got float"),
        ("mine", lambda phi, S: torch.fft.fft(phi.flatten(1)), "must return real numbers"),
        ("mine", lambda phi, S: S / 0, "'mine' returns NaN or infinite values"),
        ("M2", lambda phi, S: S, "belongs to a standard observable"),
        ("a/b", lambda phi, S: S, "cannot be called 'a/b'"),
        ("", lambda phi, S: S, "cannot be called ''"),
    ],
)
def test_bad_observables_are_refused(name, observable, message):
    with pytest.raises(DmmcError, match=message):
        measure(fields((4, 4)), torch.ones(5), Lattice((4, 4)), {name: observable})


def free_field(lattice: Lattice, mass: float, chains: int, draws: int, seed: int) -> torch.Tensor:
    """Independent free fields with propagator 1 / (phat^2 + mass^2)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains * draws, *lattice.shape, generator=generator, dtype=torch.float64)
    return lattice.to_sites(lattice.to_modes(noise) / (lattice.phat2 + mass**2).sqrt())


def record_of(phi: torch.Tensor, lattice: Lattice, chains: int) -> dict[str, np.ndarray]:
    measured = measure(phi, phi.flatten(1).square().sum(1), lattice)
    return {name: x.numpy().reshape(chains, -1, *x.shape[1:]) for name, x in measured.items()}


@pytest.mark.parametrize("shape", [(8,), (4, 6), (4, 4), (2, 3, 4)])
def test_free_field_has_its_exact_values(shape):
    mass, chains = 0.7, 64
    lattice = Lattice(shape)
    V, phat2_min = lattice.volume, float(lattice.orbit_phat2[1])
    record = record_of(free_field(lattice, mass, chains, 300, seed=2), lattice, chains)
    result = diagnostics.summary(record, V, phat2_min)
    m2 = 1 / (mass**2 * V)  # variance of M, which is Gaussian
    exact = {
        "M": 0.0,
        "abs_M": math.sqrt(2 * m2 / math.pi),
        "M2": m2,
        "M4": 3 * m2**2,
        "phi2": float(lattice.sum_modes(1 / (lattice.phat2 + mass**2))) / V,
        "chi2": V * m2 * (1 - 2 / math.pi),
        "chi2_signed": V * m2,
        "binder": 0.0,
        "xi": 1 / mass,  # the second-moment length of a free lattice propagator is exactly 1 / mass
    }
    for name, value in exact.items():
        # 5 sigma; nine quantities on four lattices keep that a 1e-5 event
        assert abs(result[name].value - value) < 5 * result[name].error, name
        assert result[name].error > 0
        assert abs(result[name].tau_int - 0.5) < 5 * result[name].tau_int_error + 0.01, name
    assert result.keys() == {*exact, "S_per_site"}


def test_values_are_the_direct_formulas():
    lattice, chains = Lattice((3, 4)), 4
    phat2_min = float(lattice.orbit_phat2[1])
    assert phat2_min == pytest.approx(4 * math.sin(math.pi / 4) ** 2)  # along the longest axis
    r = record_of(fields((3, 4), 400), lattice, chains)
    result = diagnostics.summary(r, 12, phat2_min)
    mean = {name: x.mean(axis=(0, 1)) for name, x in r.items()}
    assert result["chi2"].value == pytest.approx(12 * (mean["M2"] - mean["abs_M"] ** 2))
    assert result["chi2_signed"].value == pytest.approx(12 * (mean["M2"] - mean["M"] ** 2))
    assert result["binder"].value == pytest.approx(1 - mean["M4"] / (3 * mean["M2"] ** 2))
    ratio = mean["two_point"][0] / mean["two_point"][1]
    assert result["xi"].value == pytest.approx(math.sqrt((ratio - 1) / phat2_min))
    for name in ("M", "abs_M", "M2", "M4", "phi2", "S_per_site"):
        assert result[name].value == pytest.approx(mean[name])


def test_xi_of_an_antiferromagnetic_sample_is_nan():
    lattice = Lattice((4,))
    phi = fields((4,), 100)
    phi = phi - 0.9 * phi.mean(dim=1, keepdim=True)  # G(0) suppressed below G(p_min)
    record = record_of(phi, lattice, 2)
    with pytest.warns(DiagnosticsWarning, match="xi is not defined"):
        assert math.isnan(diagnostics.xi(record, float(lattice.orbit_phat2[1])).value)


def test_one_site_has_no_xi():
    record = record_of(fields((1,), 2000), Lattice((1,)), 2)
    assert "xi" not in diagnostics.summary(record, 1)
    with pytest.raises(DmmcError, match="two orbits"):
        diagnostics.summary(record, 1, 1.0)


def test_bad_records_are_refused():
    record = record_of(fields((4,), 40), Lattice((4,)), 2)
    with pytest.raises(DmmcError, match="no M4"):
        diagnostics.summary({k: v for k, v in record.items() if k != "M4"}, 4)
    with pytest.raises(DmmcError, match="phat2_min"):
        diagnostics.xi(record, 0.0)
    with pytest.raises(DmmcError, match="M2"):
        diagnostics.primary({**record, "M2": record["M2"][0]})


def test_z_score():
    def estimate(value, error):
        return Estimate(value, error, 0.5, 0.1, 1, 100)

    assert diagnostics.z_score(estimate(1.0, 3.0), estimate(0.0, 4.0)) == pytest.approx(0.2)
    assert diagnostics.z_score(estimate(0.0, 3.0), estimate(1.0, 4.0)) == pytest.approx(-0.2)
    assert math.isnan(diagnostics.z_score(estimate(1.0, 0.0), estimate(0.0, 0.0)))
    assert math.isnan(diagnostics.z_score(estimate(1.0, math.nan), estimate(0.0, 1.0)))


def test_an_observable_is_a_function():
    with pytest.raises(DmmcError, match="the observable 'x' must be a function, and is a NoneType"):
        check_names({"x": None})

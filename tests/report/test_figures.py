"""Figures and tables: what is drawn and printed is what was given, and nothing needs a display."""

import math
import subprocess
import sys

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.diagnostics import Estimate
from dmmc.report import figures
from dmmc.report.table import comparison


def texts(ax):
    return [label.get_text() for label in ax.get_legend().get_texts()]


def ar1(a, shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        x[:, t] = a * x[:, t - 1] + math.sqrt(1 - a * a) * x[:, t]
    return x


@pytest.mark.parametrize("shape", [(12,), (6, 10), (3, 6, 10), (2, 3, 6, 10)])
def test_denoising_shows_each_field_in_units_of_its_own_size(shape, tmp_path):
    fields = np.random.default_rng(1).standard_normal((3, *shape)) * np.array([100.0, 10, 1]).reshape(
        3, *[1] * len(shape)
    )
    figure = figures.denoising(fields, [30, 3, 0.0])
    panels = figure.axes[:3]
    assert [ax.get_title() for ax in panels] == ["noise s = 30", "noise s = 3", "noise s = 0"]
    for ax, field in zip(panels, fields, strict=True):
        expected = field / math.sqrt(np.mean(field**2))
        expected = expected[(0,) * (len(shape) - 2)] if len(shape) > 2 else expected
        shown = ax.lines[0].get_ydata() if len(shape) == 1 else ax.images[0].get_array()
        np.testing.assert_allclose(shown, expected)
        if len(shape) > 1:
            assert ax.images[0].get_clim() == (-3, 3)
    figures.save(figure, tmp_path / "denoising.png")
    assert (tmp_path / "denoising.png").read_bytes().startswith(b"\x89PNG")


def test_magnetisation_histograms(tmp_path):
    chains = {"HMC": ar1(0.8, (4, 500), 2), "diffusion": 0.5 * ar1(0.0, (8, 300), 3)}
    figure = figures.magnetisation(chains, bins=20)
    (ax,) = figure.axes
    assert texts(ax) == ["HMC", "diffusion"]
    for k, M in enumerate(chains.values()):
        density, edges, _ = ax.patches[2 * k].get_data()
        np.testing.assert_allclose(density, np.histogram(M, edges, density=True)[0], atol=1e-12)
        # The band is one standard error of the bin's probability.
        top, _, bottom = ax.patches[2 * k + 1].get_data()
        middle = diagnostics.gamma_method((M >= edges[10]) & (M < edges[11]))
        assert (top - bottom)[10] / 2 == pytest.approx(middle.error / (edges[1] - edges[0]))
    figures.save(figure, tmp_path / "M.png")


def test_traces_show_a_few_chains_and_lose_no_excursion():
    records = {"HMC": {"M": ar1(0.9, (9, 300), 11)}, "diffusion": {"M": ar1(0.0, (2, 5000), 12)}}
    records["diffusion"]["M"][1, 3210] = 40.0
    figure = figures.traces(records, ("M",), chains=3, points=400)
    short, long = figure.axes
    assert [ax.get_title() for ax in figure.axes] == list(records)
    assert [line.get_label() for line in short.lines] == ["chain 0", "chain 4", "chain 8"]
    for line, chain in zip(short.lines, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), records["HMC"]["M"][chain])
    for line, x in zip(long.lines, records["diffusion"]["M"], strict=True):
        t, y = line.get_data()
        assert len(t) == 400
        assert (y.min(), y.max()) == (x.min(), x.max())
        assert (np.diff(t) >= 0).all()
    t, y = long.lines[1].get_data()
    assert abs(t[y.argmax()] - 3210) <= 5000 / 200 / 2
    with pytest.raises(DmmcError, match="HMC, diffusion has no phi2"):
        figures.traces(records, ("phi2",))


def test_acceptance_over_time():
    rng = np.random.default_rng(13)
    accepted = rng.random((50, 90)) < np.where(np.arange(90) < 45, 0.9, 0.3)
    half = np.full((1, 8), 0.5)  # two steps a draw, one of them accepted; a single chain has no error
    figure = figures.acceptance({"diffusion": accepted, "HMC": half}, stretches=9)
    (ax,) = figure.axes
    first, second = ax.lines[:2]
    np.testing.assert_allclose(first.get_ydata(), accepted.reshape(50, 9, 10).mean((0, 2)))
    np.testing.assert_allclose(first.get_xdata(), 4.5 + 10 * np.arange(9))
    np.testing.assert_allclose(second.get_ydata(), np.full(8, 0.5))
    assert texts(ax) == [f"diffusion: {accepted.mean():.3f}", "HMC: 0.500"]
    (band,) = ax.collections
    heights = np.ptp(band.get_paths()[0].vertices[:, 1])
    assert heights > 0.6  # it follows the fall
    with pytest.raises(DmmcError, match=r"acceptance of HMC must have shape \(chain, draw\)"):
        figures.acceptance({"HMC": np.ones(8)})


def test_autocorrelation_curves_and_legend(tmp_path):
    records = {"HMC": {"M2": ar1(0.9, (4, 2000), 4)}, "diffusion": {"M2": ar1(0.0, (4, 2000), 5)}}
    figure = figures.autocorrelation(records, ("M2",), max_lag=30)
    (ax,) = figure.axes
    for line, label, (sampler, record) in zip(ax.lines, texts(ax), records.items(), strict=False):
        rho, _ = diagnostics.autocorrelation_function(record["M2"], 30)
        np.testing.assert_allclose(line.get_ydata(), rho)
        estimate = diagnostics.gamma_method(record["M2"])
        value = diagnostics.format_value(estimate.tau_int, estimate.tau_int_error)
        assert label == rf"{sampler}: $\tau_{{\rm int}} = {value}$"
    figures.save(figure, tmp_path / "rho.png")
    # Too short for its memory: no equality is claimed.
    figure = figures.autocorrelation({"HMC": {"M2": ar1(0.99, (1, 300), 6)}})
    assert r"\gtrsim" in texts(figure.axes[0])[0]
    with pytest.raises(DmmcError, match="diffusion has no phi2"):
        figures.autocorrelation(records, ("phi2",))


def test_log_weights_are_relative_to_log_z(tmp_path):
    # A constant weight e^c with p = q: log Z = c, and both histograms are one spike at 0.
    figure = figures.log_weights(np.full(50, 7.0), np.full(40, 7.0))
    for k in (0, 2):
        density, edges, _ = figure.axes[0].patches[k].get_data()
        spike = int(np.digitize(0.0, edges)) - 1
        assert density[spike] * (edges[1] - edges[0]) == pytest.approx(1)
    rng = np.random.default_rng(7)
    q = np.append(0.3 * rng.standard_normal(999), -np.inf)
    p = 0.09 + 0.3 * rng.standard_normal(500)
    figure = figures.log_weights(q, p)
    (ax,) = figure.axes
    assert f"ESS/N = {diagnostics.ess_fraction(q):.3f}, std = {diagnostics.std_log_w(q):.2f}" in texts(ax)[0]
    assert f"std = {diagnostics.std_log_w(p):.2f}" in texts(ax)[1]
    assert "1 of 1000 proposals" in ax.get_title()
    density, edges, _ = ax.patches[0].get_data()
    assert density.sum() * (edges[1] - edges[0]) == pytest.approx(0.999)
    figures.save(figure, tmp_path / "weights.png")
    alone = figures.log_weights(q).axes[0]
    assert texts(alone) == texts(ax)[:1]
    np.testing.assert_allclose(
        np.average(alone.patches[0].get_data()[0]) * np.ptp(alone.patches[0].get_data()[1]), 0.999
    )
    with pytest.raises(DmmcError, match="no proposal"):
        figures.log_weights(np.full(3, -np.inf), np.zeros(3))


def test_two_point_and_ratio(tmp_path):
    phat2 = np.array([0.0, 0.4, 0.8, 2.0, 8.0])
    G = 1 / (phat2 + 0.1)
    figure = figures.two_point({"HMC": (phat2, G, 0.1 * G), "diffusion": (phat2, 1.02 * G, 0.05 * G)})
    ax, below = figure.axes
    assert texts(ax) == ["HMC", "diffusion"]
    for container, factor in zip(ax.containers, (1, 1.02), strict=True):
        np.testing.assert_allclose(container[0].get_xdata(), phat2)
        np.testing.assert_allclose(container[0].get_ydata(), factor * G)
    (ratio,) = below.containers
    np.testing.assert_allclose(ratio[0].get_ydata(), 1.02)
    bars = np.array(ratio[2][0].get_segments())
    np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 2 * 0.05)
    low, high = ax.get_ylim()
    assert low < G.min()
    assert high > 1.02 * G.max()
    figures.save(figure, tmp_path / "G.png")
    with pytest.raises(DmmcError, match="same momenta"):
        figures.two_point({"HMC": (phat2, G, G), "diffusion": (phat2[1:], G[1:], G[1:])})


def test_bad_input_and_paths(tmp_path):
    for draw in (figures.magnetisation, figures.autocorrelation, figures.two_point):
        with pytest.raises(DmmcError, match="at least one sampler"):
            draw({})
    with pytest.raises(DmmcError, match="levels"):
        figures.denoising(np.zeros((2, 4)), [1.0])
    figure = figures.denoising(np.zeros((2, 4)), [1.0, 0.0])
    for path, match in ((tmp_path / "a.pdf", "PNG"), (tmp_path / "no" / "a.png", "no directory")):
        with pytest.raises(DmmcError, match=match):
            figures.save(figure, path)


def test_importing_figures_loads_no_matplotlib():
    code = "import sys, dmmc.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_comparison_numbers_and_z():
    def estimate(value, error, tau=0.5):
        return Estimate(value, error, tau, 0.1 * tau, 1, 100)

    table = comparison(
        {
            "HMC": {"M2": estimate(0.29, 0.03, 40), "abs_M": estimate(0.5, math.nan), "custom": estimate(1, 0.1)},
            "cluster": {"M2": estimate(0.25, 0.04, 3), "abs_M": estimate(0.49, 0.01)},
            "diffusion": {"abs_M": estimate(0.47, 0.0), "M2": estimate(0.2, 0.03, 1)},
        }
    )
    rows = [line.split("  ") for line in table.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows[0] == ["observable", "cluster", "HMC", "z", "diffusion", "z"]
    # z = (0.29 - 0.25) / 0.05 and (0.2 - 0.25) / 0.05; (0.47 - 0.49) / 0.01
    assert rows[2:6] == [
        ["<|M|>", "0.490(10)", "0.5(nan)", "-", "0.47(0)", "-2.0"],
        ["<M^2>", "0.250(40)", "0.290(30)", "+0.8", "0.200(30)", "-1.0"],
        ["custom", "-", "1.00(10)", "-", "-", "-"],
        ["tau_int of M^2", "3.00(30)", "40.0(4.0)", "1.00(10)"],
    ]
    with pytest.raises(DmmcError, match="one of HMC"):
        comparison({"HMC": {}}, reference="cluster")

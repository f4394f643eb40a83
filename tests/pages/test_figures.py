"""Figures show what they were given, and nothing needs a display."""

import math
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.model.history import RoundRecord, TrainingRecord
from dmmc.pages import figures
from dmmc.pages.styles import palette


def texts(ax):
    return [label.get_text() for label in ax.get_legend().get_texts()]


def ar1(a, shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        x[:, t] = a * x[:, t - 1] + math.sqrt(1 - a * a) * x[:, t]
    return x


SHAPES = [(12,), (6, 10), (3, 6, 10), (2, 3, 6, 10)]


def stages(shape):
    """A field at three stages of very different size."""
    noise = np.random.default_rng(1).standard_normal((3, *shape))
    return noise * np.array([100.0, 10, 1]).reshape(3, *[1] * len(shape))


def plane(field):
    return field[(0,) * (field.ndim - 2)] if field.ndim > 2 else field


@pytest.mark.parametrize("shape", SHAPES)
def test_denoising_shows_raw_fields_on_one_scale(shape, tmp_path):
    fields = stages(shape)
    figure = figures.denoising(fields, [30, 3, 0.0], [0, 0.5, 1])
    panels = figure.axes[:3]
    assert [ax.get_title() for ax in panels] == [
        "$\\tau = 0$\n$s = 30$", "$\\tau = 0.5$\n$s = 3$", "$\\tau = 1$\n$s = 0$"
    ]  # fmt: skip
    limits = {ax.get_ylim() if len(shape) == 1 else ax.images[0].get_clim() for ax in panels}
    ((low, high),) = limits
    assert low == -high
    # Twice the root mean square of the largest field, up to rounding: few sites of it are saturated.
    size = math.sqrt(np.mean(plane(fields[0]) ** 2))
    assert 2 * size <= high <= 2.2 * size or (len(shape) == 1 and high >= abs(fields).max())
    for ax, field in zip(panels, fields, strict=True):
        shown = ax.lines[0].get_ydata() if len(shape) == 1 else ax.images[0].get_array()
        np.testing.assert_allclose(shown, plane(field))
    figures.save(figure, tmp_path / "denoising.png")
    assert (tmp_path / "denoising.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", SHAPES)
def test_denoising_shows_each_field_in_units_of_its_own_size(shape):
    fields = stages(shape)
    panels = figures.denoising(fields, [30, 3, 0.0], scale="rms").axes[:3]
    assert [ax.get_title() for ax in panels] == ["$s = 30$", "$s = 3$", "$s = 0$"]
    for ax, field in zip(panels, fields, strict=True):
        shown = ax.lines[0].get_ydata() if len(shape) == 1 else ax.images[0].get_array()
        np.testing.assert_allclose(shown, plane(field / math.sqrt(np.mean(field**2))))
        if len(shape) > 1:
            assert ax.images[0].get_clim() == (-3, 3)


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
    records = {"HMC": {"M2": ar1(0.6, (4, 2000), 4)}, "diffusion": {"M2": ar1(0.0, (4, 2000), 5)}}
    figure = figures.autocorrelation(records, ("M2",), max_lag=100)
    (ax,) = figure.axes
    assert ax.get_xscale() == "linear"
    for k, (sampler, record) in enumerate(records.items()):
        rho, error = diagnostics.autocorrelation_function(record["M2"], 100)
        container = ax.containers[k]
        # A line through all lags, and error bars at some of them; the two samplers' bars stand apart.
        (line,) = [line for line in ax.lines if len(line.get_xdata()) == 101 and np.allclose(line.get_ydata(), rho)]
        assert line.get_color() == palette([sampler])[sampler].colour
        lags = container[0].get_xdata().astype(int)
        assert 10 < len(lags) <= 26
        np.testing.assert_allclose(container[0].get_ydata(), rho[lags])
        bars = np.array(container[2][0].get_segments())
        np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 2 * error[lags], atol=1e-12)
        estimate = diagnostics.gamma_method(record["M2"])
        value = diagnostics.format_value(estimate.tau_int, estimate.tau_int_error)
        assert texts(ax)[k] == rf"{sampler}: $\tau_{{\rm int}} = {value}$"
    assert not set(ax.containers[0][0].get_xdata()) & set(ax.containers[1][0].get_xdata())
    figures.save(figure, tmp_path / "rho.png")
    # Too short for its memory: no equality is claimed.
    figure = figures.autocorrelation({"HMC": {"M2": ar1(0.99, (1, 300), 6)}}, ("M2",))
    assert r"\gtrsim" in texts(figure.axes[0])[0]
    with pytest.raises(DmmcError, match="diffusion has no phi2"):
        figures.autocorrelation(records, ("phi2",))


def test_very_different_memories_get_a_panel_each():
    slow, fast = ar1(0.95, (8, 3000), 7), ar1(0.0, (8, 3000), 8)
    names = ("M", "abs_M", "M2")
    alike = figures.autocorrelation({"HMC": dict.fromkeys(names, fast), "x": dict.fromkeys(names, fast)}, names)
    assert [ax.get_title() for ax in alike.axes] == ["$M$", "$|M|$", "$M^2$"]
    apart = figures.autocorrelation({"HMC": {"M": slow}, "diffusion": {"M": fast}}, ("M",))
    short, long = apart.axes
    assert short.get_title() == "$M$: short lags"
    # tau_int of 19.5 and 0.5: six of them, and a few lags more.
    assert 10 <= short.get_xlim()[1] < 16
    assert 90 < long.get_xlim()[1] < 200
    assert short.get_legend() is None and len(texts(long)) == 2


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
    assert texts(ax)[1] == f"reference: std = {diagnostics.std_log_w(p):.2f}"
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


@dataclass
class Correlator:
    t: np.ndarray
    value: np.ndarray
    error: np.ndarray
    mass_t: np.ndarray
    mass: np.ndarray
    mass_error: np.ndarray


def test_wall_correlator_and_effective_mass(tmp_path):
    t = np.arange(9)
    value = np.cosh(0.8 * (t - 8))
    mass, mass_error = np.full(7, 0.8), np.geomspace(0.001, 1, 7)
    one = Correlator(t, value, 0.01 * value, t[1:-1], mass, mass_error)
    figure = figures.wall_correlator({"HMC": one, "diffusion": one})
    left, right = figure.axes
    assert texts(left) == ["HMC", "diffusion"]
    assert left.get_yscale() == "log"
    np.testing.assert_allclose(left.containers[0][0].get_ydata(), value)
    bars = np.array(left.containers[0][2][0].get_segments())
    np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 0.02 * value)
    # Up to where the error exceeds half of the mass, in place at its distances; nothing behind a gap.
    n = int(np.sum(mass_error <= 0.4))
    assert len(right.containers[0][0].get_ydata()) == n < 7
    np.testing.assert_allclose(right.containers[0][0].get_xdata(), t[1 : 1 + n], atol=0.1)
    mass[2] = math.nan
    right = figures.wall_correlator({"HMC": one}).axes[1]
    np.testing.assert_allclose(right.containers[0][0].get_data(), [[1, 2], [0.8, 0.8]])
    figures.save(figure, tmp_path / "C.png")
    # A correlator that hardly falls has a linear axis; one that noise takes below zero as well.
    lost = np.full(7, math.nan)
    for shape in (10 + value / value[0], value - 2):
        left, right = figures.wall_correlator({"HMC": Correlator(t, shape, value, t[1:-1], lost, lost)}).axes
        assert left.get_yscale() == "linear"
        assert [text.get_text() for text in right.texts] == ["lost in the noise"]
    with pytest.raises(DmmcError, match=r"C\(t\) of HMC must be finite"):
        figures.wall_correlator({"HMC": Correlator(t, math.nan * value, value, t[1:-1], lost, lost)})


def test_training_loss_is_relative_to_the_reference():
    records = [TrainingRecord(100 * k, 8.0, 7.0 - k, 9.5) for k in (1, 2, 3)]
    (ax,) = figures.training_loss({"model": records}).axes
    np.testing.assert_allclose(ax.lines[0].get_data(), [[100, 200, 300], [-3.5, -4.5, -5.5]])
    assert texts(ax) == ["model: -5.50"]
    assert ax.lines[0].get_color() == palette(["diffusion"])["diffusion"].colour
    with pytest.raises(DmmcError, match="too few steps"):
        figures.training_loss({"model": []})


def test_a_learning_curve_tells_the_rounds_on_the_way_from_those_at_the_end():
    shares, ess = (0.5, 1.0, 1.0, 1.0), (0.3, 0.4, 0.8, 0.9)
    records = [
        RoundRecord({}, 1 if k else 0, share, 100, x, 0.9 * x, None, 50, 10, 1.0)
        for k, (share, x) in enumerate(zip(shares, ess, strict=True))
    ]
    records[1] = replace(records[1], stage=0)  # the end of the way to another action than the last
    left, right = figures.learning_curve({"model": records}).axes
    curve, there, on_the_way = left.lines
    np.testing.assert_allclose(curve.get_data(), [[0, 1, 2, 3], ess])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.9 * x for x in ess])
    assert there.get_xdata().tolist() == [2, 3] and on_the_way.get_xdata().tolist() == [0, 1]
    assert on_the_way.get_markerfacecolor() == "none" and texts(left) == ["model: 0.90"]
    with pytest.raises(DmmcError, match="not trained in rounds"):
        figures.learning_curve({"model": []})


def test_a_sampler_has_one_colour_in_every_figure():
    labels = ["cluster", "own kernel", "HMC"]
    series = {name: ar1(0.3, (4, 200), k) for k, name in enumerate(labels)}
    phat2 = np.array([0.0, 1.0])
    one = np.ones(3)
    correlator = Correlator(np.arange(3), one, 0.1 * one, np.arange(3), one, 0.1 * one)
    drawn = (
        figures.magnetisation(series).axes[0],
        figures.acceptance({name: x > 0 for name, x in series.items()}).axes[0],
        figures.autocorrelation({name: {"M2": x} for name, x in series.items()}, ("M2",)).axes[0],
        figures.two_point({name: (phat2, 1 + phat2, 0.1 * np.ones(2)) for name in labels}).axes[0],
        figures.wall_correlator(dict.fromkeys(labels, correlator)).axes[0],
    )  # fmt: skip
    for ax in drawn:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            artist = handle[0] if isinstance(handle, tuple) else handle
            colour = artist.get_edgecolor() if hasattr(artist, "get_edgecolor") else artist.get_color()
            assert to_hex(colour) == palette(labels)[label.split(":")[0]].colour.lower()


def test_bad_input_and_paths(tmp_path):
    for draw in (figures.magnetisation, figures.autocorrelation, figures.two_point, figures.wall_correlator):
        with pytest.raises(DmmcError, match="at least one sampler"):
            draw({})
    for options, match in (({"noise": [1.0]}, "noise"), ({"times": [0.0]}, "times"), ({"scale": "own"}, "raw or rms")):
        with pytest.raises(DmmcError, match=match):
            figures.denoising(np.zeros((2, 4)), **{"noise": [1.0, 0.0]} | options)
    figure = figures.denoising(np.zeros((2, 4)), [1.0, 0.0])
    for path, match in ((tmp_path / "a.pdf", "PNG"), (tmp_path / "no" / "a.png", "no directory")):
        with pytest.raises(DmmcError, match=match):
            figures.save(figure, path)


def test_importing_figures_loads_no_matplotlib():
    code = "import sys, dmmc.pages.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

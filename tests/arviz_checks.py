"""What to_arviz promises, checked with any version of ArviZ: by the tests, and as a script where torch is missing.

    python tests/arviz_checks.py RUN.h5 ...

A run to be checked must have one step per draw and have kept every configuration.
"""

import itertools
import json
import math
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")

import arviz as az
import matplotlib.pyplot as plt
import numpy as np

import dmmc
from dmmc.diagnostics import gamma_method
from dmmc.interop.arviz import to_arviz
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.run import load_run

SCALARS = {"M", "abs_M", "M2", "M4", "phi2", "S_per_site"}
STATISTICS = {
    "hmc": {"energy_error", "energy", "diverging", "step_size", "n_steps"},
    "independence": {"log_q", "log_w", "log_w_proposed"},
}
GROUPS = ("posterior", "sample_stats", "constant_data")


def dataset(data, group):
    node = data[group]
    return node.to_dataset() if hasattr(node, "to_dataset") else node


def check_kind(path):
    kind = "InferenceData" if int(az.__version__.split(".")[0]) < 1 else "DataTree"
    assert type(to_arviz(path)).__name__ == kind
    assert type(to_arviz(load_run(path))).__name__ == kind


def check_contents(path):
    """Every draw of every array is there, bit for bit, and nothing that the kernel does not report."""
    run, data = load_run(path), to_arviz(path)
    posterior, stats = data["posterior"], data["sample_stats"]
    assert set(posterior.data_vars) == SCALARS | {"two_point"}
    expected = {"lp", "accepted", "acceptance_rate"} | STATISTICS[run.header.facts.name]
    assert set(stats.data_vars) == expected
    for group, arrays in ((posterior, run.observables), (stats, run.stats)):
        for name, array in arrays.items():
            assert group[name].dims[:2] == ("chain", "draw")
            np.testing.assert_array_equal(group[name].values, array)
        np.testing.assert_array_equal(group["chain"].values, np.arange(run.n_chains))
        np.testing.assert_array_equal(group["draw"].values, np.arange(run.n_draws))
    assert posterior["two_point"].dims == ("chain", "draw", "momentum")
    assert stats["accepted"].dtype == bool
    volume = run.volume
    np.testing.assert_allclose(stats["lp"].values, -volume * posterior["S_per_site"].values, rtol=1e-15)


def check_momenta(path):
    """The label of an orbit, its numbers and its two-point function belong together, by a Fourier transform."""
    run, data = load_run(path), to_arviz(path)
    posterior, constants = data["posterior"], data["constant_data"]
    shape = run.lattice
    power = abs(np.fft.fftn(run.cfgs(), axes=range(1, 1 + len(shape)), norm="ortho")) ** 2
    chain, draw = run.cfg_index.T
    assert len(chain) == run.n_chains * run.n_draws
    assert int(constants["orbit_size"].sum()) == math.prod(shape)
    assert len(set(shape)) == len(shape), "of unequal extents, so that orbits are momenta up to reflections"
    for label in posterior["momentum"].values:
        mode = [int(n) for n in str(label).split(",")]
        signs = itertools.product((1, -1), repeat=len(mode))
        orbit = {tuple(np.mod(np.multiply(mode, sign), shape)) for sign in signs}
        here = constants.sel(momentum=label)
        np.testing.assert_array_equal(here["mode"].values, mode)
        assert int(here["orbit_size"]) == len(orbit)
        lattice_momentum = sum(4 * math.sin(math.pi * n / extent) ** 2 for n, extent in zip(mode, shape, strict=True))
        assert math.isclose(float(here["phat2"]), lattice_momentum, rel_tol=1e-12, abs_tol=1e-12)
        expected = np.mean([power[:, *n] for n in orbit], axis=0)
        stored = posterior["two_point"].sel(momentum=label).values[chain, draw]
        np.testing.assert_allclose(stored, expected, rtol=1e-9, atol=1e-12)


def check_acceptance(path):
    """Acceptance rates are the probabilities with which steps were accepted."""
    stats = to_arviz(path)["sample_stats"]
    rate, accepted = stats["acceptance_rate"].values, stats["accepted"].values
    assert (rate >= 0).all() and (rate <= 1).all()
    assert accepted[rate == 1].all() and not accepted[rate == 0].any()
    # accepted - rate are martingale differences of variance rate (1 - rate), whatever the chain: 5 sigma
    assert abs(np.sum(accepted - rate)) < 5 * math.sqrt(np.sum(rate * (1 - rate)))
    assert 0.1 < accepted.mean() < 0.99, "a run on which this check can fail"


def check_attributes(path):
    run, data = load_run(path), to_arviz(path)
    for attrs in (data.attrs, *(dataset(data, group).attrs for group in GROUPS)):
        assert RunHeader.from_json(json.loads(attrs["header"])) == run.header
        assert RunRecord.from_json(json.loads(attrs["record"])) == run.record
        assert json.loads(attrs["versions"]) == run.versions
        assert json.loads(attrs["action"]) == run.header.action
        assert tuple(json.loads(attrs["lattice"])) == run.lattice
        assert (attrs["run_id"], attrs["kernel"]) == (run.run_id, run.header.facts.name)
        assert (attrs["seed"], attrs["steps_per_draw"]) == (run.header.seed, 1)
        assert (attrs["inference_library"], attrs["creation_library_version"]) == ("dmmc", dmmc.__version__)


def check_netcdf(path):
    data = to_arviz(path)
    with TemporaryDirectory() as folder:
        data.to_netcdf(f"{folder}/run.nc")
        back = az.from_netcdf(f"{folder}/run.nc")
        assert dict(back.attrs) == data.attrs
        for group in GROUPS:
            # identical: names, dimensions, coordinates, values and attributes
            assert dataset(back, group).identical(dataset(data, group)), group
        if hasattr(back, "close"):
            back.close()


def check_statistics(path):
    """ArviZ's numbers are those of the bare arrays, for each momentum too, and agree with ours."""
    run, data = load_run(path), to_arviz(path)
    table = az.summary(data, round_to="none")
    n_orbits = run.observables["two_point"].shape[2]
    assert len(table) == len(SCALARS) + n_orbits
    for name in SCALARS:
        assert math.isclose(table.loc[name, "mean"], run.observables[name].mean(), rel_tol=1e-12)
    one_zero = list(data["posterior"]["momentum"].values).index("1,0")
    assert math.isclose(table.loc["two_point[1,0]", "mean"], run.observables["two_point"][..., one_zero].mean())
    for method in (az.ess, az.rhat):
        numbers = method(data)
        assert set(numbers.data_vars) == SCALARS | {"two_point"}
        assert numbers["two_point"].dims == ("momentum",)
        for orbit in range(n_orbits):
            bare = method(run.observables["two_point"][..., orbit])
            assert math.isclose(numbers["two_point"].values[orbit], float(bare), rel_tol=1e-12)
    assert float(az.rhat(data)["M2"]) < 1.1
    # Two estimates of tau_int from one record, which differ in where they cut off the sum
    ours = gamma_method(run.observables["M2"])
    theirs = run.observables["M2"].size / (2 * float(az.ess(data, method="mean")["M2"]))
    assert abs(theirs - ours.tau_int) < 5 * ours.tau_int_error


def check_plots(path):
    data = to_arviz(path)
    for plot in (az.plot_trace, az.plot_rank, az.plot_autocorr):
        for choice in (
            {"var_names": ["M", "M2", "S_per_site"]},
            {"var_names": ["two_point"], "coords": {"momentum": ["0,0", "1,0"]}},
        ):
            plot(data, **choice)
            figure = plt.gcf()
            figure.canvas.draw()
            drawn = [axes for axes in figure.axes if axes.lines or axes.collections or axes.patches]
            assert len(drawn) >= len(choice["var_names"]), plot
            plt.close("all")


CHECKS = (
    check_kind,
    check_contents,
    check_momenta,
    check_acceptance,
    check_attributes,
    check_netcdf,
    check_statistics,
    check_plots,
)


if __name__ == "__main__":
    warnings.simplefilter("error")
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    for path in map(Path, sys.argv[1:]):
        for check in CHECKS:
            check(path)
    assert "torch" not in sys.modules
    print(f"{len(sys.argv) - 1} runs pass {len(CHECKS)} checks: ArviZ {az.__version__}, Python {sys.version}")

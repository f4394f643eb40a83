"""Runs in pyerrors: names, values, and errors by its arithmetic against ours."""

import sys

import numpy as np
import pyerrors as pe
import pytest

from dmmc import diagnostics
from dmmc.core.errors import DmmcError, FileError
from dmmc.interop.pyerrors import to_pyerrors
from dmmc.runs.run import load_run
from dmmc.theory.lattice import Lattice
from stored_runs import free_chains, store

LATTICE = Lattice((4, 3))
VOLUME, PHAT2_MIN = LATTICE.volume, float(LATTICE.orbit_phat2[1])
DERIVED = {
    "chi2": lambda obs: VOLUME * (obs["M2"] - obs["abs_M"] ** 2),
    "chi2_signed": lambda obs: VOLUME * (obs["M2"] - obs["M"] ** 2),
    "binder": lambda obs: 1 - obs["M4"] / (3 * obs["M2"] ** 2),
    "xi": lambda obs: np.sqrt((obs["two_point"][0] / obs["two_point"][1] - 1) / PHAT2_MIN),
}


@pytest.fixture(scope="module")
def one_chain(tmp_path_factory):
    return load_run(free_chains(tmp_path_factory.mktemp("one") / "run.h5", "hmc", LATTICE.shape, 1, 2000))


@pytest.fixture(scope="module")
def four_chains(tmp_path_factory):
    return load_run(free_chains(tmp_path_factory.mktemp("four") / "run.h5", "hmc", LATTICE.shape, 4, 2000))


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    return load_run(free_chains(tmp_path_factory.mktemp("flow") / "run.h5", "independence", LATTICE.shape, 12, 400))


def test_names_and_values(flow_run):
    obs = to_pyerrors(flow_run.path)
    assert obs.keys() == flow_run.observables.keys()
    ensemble = f"independence-{flow_run.run_id[:8]}"
    names = [f"{ensemble}|r{k:04d}" for k in range(1, 13)]
    for name in obs.keys() - {"two_point"}:
        one, recorded = obs[name], flow_run.observables[name]
        assert one.names == names and one.e_names == [ensemble] and one.tag == name
        assert one.value == pytest.approx(recorded.mean(), rel=1e-12)
        for k, replicum in enumerate(names):
            assert one.idl[replicum] == range(1, 401)
            np.testing.assert_allclose(one.deltas[replicum] + one.r_values[replicum], recorded[k], rtol=0, atol=1e-14)
    two_point = obs["two_point"]
    assert two_point.shape == (len(LATTICE.orbit_modes),) and two_point.dtype == object
    assert [orbit.tag for orbit in two_point] == [f"two_point[{k}]" for k in range(len(two_point))]
    for k, orbit in enumerate(two_point):
        assert orbit.value == pytest.approx(flow_run.observables["two_point"][:, :, k].mean(), rel=1e-12)


def test_extra_observables(tmp_path):
    rng = np.random.default_rng(1)
    record = {"M": rng.normal(size=(2, 30)), "wall": rng.normal(size=(2, 30, 5)), "parity": rng.random((2, 30)) < 0.5}
    obs = to_pyerrors(store(tmp_path / "run.h5", record, {"accepted": np.ones((2, 30))}))
    assert obs.keys() == record.keys() and obs["wall"].shape == (5,)
    assert obs["wall"][3].tag == "wall[3]" and obs["wall"][3].value == pytest.approx(record["wall"][:, :, 3].mean())
    assert obs["parity"].value == pytest.approx(record["parity"].mean())


def test_functions_of_means(one_chain):
    run = one_chain.deriving({"U4": DERIVED["binder"], "ratio": lambda mean: mean["two_point"][1] / mean["M2"]})
    obs = to_pyerrors(run)
    for name, expected in (("U4", DERIVED["binder"](obs)), ("ratio", obs["two_point"][1] / obs["M2"])):
        for x in (obs[name], expected):
            x.gamma_method()
        assert obs[name].tag == name and obs[name].value == pytest.approx(expected.value)
        # Its gradient is a central difference, see test_errors_by_its_arithmetic_are_ours.
        assert obs[name].dvalue == pytest.approx(expected.dvalue, rel=1e-4)


def test_two_runs_are_two_ensembles(one_chain, four_chains):
    a, b = to_pyerrors(one_chain)["M2"], to_pyerrors(four_chains)["M2"]
    difference = a - b
    assert len(difference.e_names) == 2
    for x in (a, b, difference):
        x.gamma_method()
    assert difference.dvalue == pytest.approx(np.hypot(a.dvalue, b.dvalue), rel=1e-9)


def test_observables_of_a_run_are_correlated(four_chains):
    obs = to_pyerrors(four_chains)
    # M2 and the zero mode of the two-point function are one thing but for the volume.
    nothing = obs["two_point"][0] - VOLUME * obs["M2"]
    nothing.gamma_method()
    obs["M2"].gamma_method()
    assert nothing.dvalue < 1e-9 * obs["M2"].dvalue


def test_ensemble_name(one_chain):
    assert to_pyerrors(one_chain, ensemble="A1")["M"].names == ["A1|r0001"]
    for name in ("", "A|r1"):
        with pytest.raises(DmmcError, match="must not be empty nor contain"):
            to_pyerrors(one_chain, ensemble=name)


@pytest.mark.parametrize("kind", ["one_chain", "four_chains", "flow_run"])
def test_errors_by_its_arithmetic_are_ours(kind, request):
    run = request.getfixturevalue(kind)
    # Fluctuations about each chain's own mean, as pyerrors has them: then both are the same numbers.
    centred = {name: x - x.mean(axis=1, keepdims=True) + x.mean((0, 1)) for name, x in run.observables.items()}
    ours = diagnostics.summary(centred, VOLUME, PHAT2_MIN)
    obs = to_pyerrors(run)
    for name, estimate in ours.items():
        theirs = DERIVED[name](obs) if name in DERIVED else obs[name]
        theirs.gamma_method(S=1.5)
        assert theirs.value == pytest.approx(estimate.value, rel=1e-9), name
        assert list(theirs.e_windowsize.values()) == [estimate.window], name
        # Their gradient is exact, ours a central difference over 0.1 error, good to about (0.1 error / mean)^2.
        assert theirs.dvalue == pytest.approx(estimate.error, rel=1e-4), name
        # of Eq. (49), pyerrors takes Gamma(0) (1 + 1/n) where we have Gamma(0) (1 + 2 tau / n)
        (tau,) = theirs.e_tauint.values()
        assert tau == pytest.approx(estimate.tau_int, rel=2 * tau / estimate.n + 1e-4), name


def test_tag_and_names_survive_pyerrors_json(one_chain, tmp_path):
    obs = to_pyerrors(one_chain)["M2"]
    pe.input.json.dump_to_json([obs], str(tmp_path / "obs"))
    back = pe.input.json.load_json(str(tmp_path / "obs"), verbose=False)
    assert (back.names, back.tag) == (obs.names, "M2")
    assert back.value == pytest.approx(obs.value, rel=1e-12)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(FileError, match="no file"):
        to_pyerrors(tmp_path / "none.h5")

    def stored(name, M):
        return store(tmp_path / name, {"M": M}, {"accepted": np.ones(M.shape)})

    with pytest.raises(DmmcError, match=r"5 draws per chain or more, .*short.h5 has 4; run longer"):
        to_pyerrors(stored("short.h5", np.zeros((2, 4))))
    with pytest.raises(DmmcError, match=r"M of .*bad.h5 has NaN or infinite values"):
        to_pyerrors(stored("bad.h5", np.array([[1.0, 2.0, np.nan, 3.0, 4.0]])))
    monkeypatch.setitem(sys.modules, "pyerrors", None)
    with pytest.raises(DmmcError, match=r'not installed; install it with: pip install "dmmc\[pyerrors\]"'):
        to_pyerrors(stored("good.h5", np.zeros((2, 5))))

"""Ensembles that a user brings, in any form."""

import math
import re

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import load_run
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.given import read_ensemble
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import free_draws, free_reference, hmc_ensemble

ACTION, SHAPE = Phi4(0.27, 0.022), (8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 8 chains that keeps five fields of each."""
    options = EnsembleOptions(chains=8, thermalise=20, run=ChainOptions(10, keep_every=2, seed=1))
    return make_ensemble(Phi4(0.2, 0.05), Lattice((4, 3)), tmp_path_factory.mktemp("given") / "hmc.h5", options)


def test_a_run_gives_its_fields_chain_by_chain(run):
    stored = torch.as_tensor(run.cfgs())
    for source in (run, run.path, str(run.path), load_run(run.path)):
        given = read_ensemble(source)
        assert (given.action, given.lattice.shape, given.chains) == (Phi4(0.2, 0.05), (4, 3), 8)
        assert given.name == str(run.path) and given.phi.dtype == torch.float64
        for chain in range(8):
            mine = stored[torch.as_tensor(run.cfg_index[:, 0] == chain)]
            torch.testing.assert_close(given.phi[5 * chain : 5 * chain + 5], mine, rtol=0, atol=0)


def test_chains_of_a_shortened_run(run):
    given = read_ensemble(run.discarding(5))
    assert len(given.phi) == 8 * 3 and given.chains == 8


def test_fields_and_files_of_other_programs(run, tmp_path):
    fields = run.cfgs()
    np.save(tmp_path / "fields.npy", fields)
    for source in (fields, torch.as_tensor(fields), tmp_path / "fields.npy"):
        given = read_ensemble(source, Phi4(0.2, 0.05))
        assert given.chains is None and given.action == Phi4(0.2, 0.05) and given.lattice.shape == (4, 3)
        np.testing.assert_array_equal(given.phi.numpy(), fields)
        assert read_ensemble(source).action is None and read_ensemble(source).check().virial is None
    single = read_ensemble(fields.astype(np.float32))
    assert single.phi.dtype == torch.float64


class Labelled:
    """An array of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.astype(">f8"),
        lambda x: x.astype(np.longdouble),
        lambda x: x[::-1][::-1],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.tolist(),
        lambda x: np.asfortranarray(x),
        lambda x: np.ma.masked_array(x),
        lambda x: np.ma.masked_array(x, mask=np.zeros(x.shape, bool)),
        Labelled,
        lambda x: np.broadcast_to(x, x.shape),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_of_any_kind_are_read(run, arrange):
    fields = run.cfgs()
    np.testing.assert_array_equal(read_ensemble(arrange(fields)).phi.numpy(), fields)


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ma.masked_greater(np.arange(40.0).reshape(10, 4), 30), "has masked values; leave out the configurations"),
        (np.zeros((30, 4), dtype=object), "must be an array of numbers.*got object"),
        (np.array(["a", "b"]), "must be an array of numbers.*got <U1"),
        (np.zeros(30, dtype=[("a", "f8", (4, 4))]), "must be an array of numbers"),
        (np.zeros(30, dtype="M8[D]"), "must be an array of numbers"),
        ([[1.0, 2.0], [3.0]], r"NumPy makes none of it \[ValueError: "),
        (Broken(), r"NumPy makes none of it \[RuntimeError: on another device\]"),
        (None, "must be an array of numbers"),
        (np.zeros((30, 4), dtype=np.uint64), "must be real floating point, got uint64"),
        (np.full((30, 4), np.longdouble("1e400")), "NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_that_hold_no_fields_are_refused_in_one_line(array, message):
    with pytest.raises(DmmcError, match=message) as caught:
        read_ensemble(array)
    assert "\n" not in str(caught.value)


def test_gradients_are_left_behind(run):
    phi = torch.as_tensor(run.cfgs()).requires_grad_()
    assert not read_ensemble(phi).phi.requires_grad


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (torch.zeros(5), "must have shape"),
        (torch.zeros(5, 4, dtype=torch.int64), "must be real floating point"),
        (torch.zeros(5, 4, dtype=torch.complex128), "must be real floating point"),
        (torch.full((5, 4), math.nan), "NaN or infinite"),
        (torch.zeros(5, 2, 2, 2, 2, 2), "1 to 4 positive extents"),
    ],
)
def test_arrays_that_are_no_ensemble(phi, message):
    with pytest.raises(DmmcError, match=message):
        read_ensemble(phi)


def test_another_action_or_lattice_is_refused(run):
    with pytest.raises(MismatchError, match="leave the action out"):
        read_ensemble(run, Phi4(0.21, 0.05))
    for source in (run, run.cfgs(), torch.as_tensor(run.cfgs())):
        with pytest.raises(MismatchError, match=r"\(4, 3\), not \(3, 4\)"):
            read_ensemble(source, lattice=(3, 4))
    assert read_ensemble(run, Phi4(0.2, 0.05 * (1 + 1e-12)), (4, 3)).action is not None


def test_fields_are_checked_against_their_action():
    phi = hmc_ensemble(ACTION, SHAPE, n=1000)
    check = read_ensemble(phi, ACTION).check()
    assert abs(check.virial_z) < 5 and abs(check.virial - 1) < 0.1
    for action, factor in (
        (Phi4(0.25, 0.022), 1.0),
        (ACTION, math.sqrt(0.27)),
        (ACTION.rescaled(math.sqrt(0.27)), 1.0),
    ):
        with pytest.raises(MismatchError, match="does not fit the action"):
            read_ensemble(factor * phi, action).check()
    with pytest.raises(MismatchError, match="in the wrong order"):
        tall = hmc_ensemble(ACTION, (4, 6), n=1000)
        read_ensemble(tall.reshape(-1, 6, 4), ACTION).check()


def test_other_arrangements_of_the_axes_are_told():
    phi = hmc_ensemble(ACTION, SHAPE, n=1000)
    for shape, how, right in (
        ((1000, 1, 8, 8), "without its axes of extent 1", (1000, 8, 8)),
        ((10, 100, 8, 8), "with its first two axes as chain and draw", (1000, 8, 8)),
        ((100, 10, 8, 8), "with its first two axes as chain and draw", (1000, 8, 8)),
        ((10, 100, 1, 8, 8), "with its first two axes as chain and draw", (1000, 8, 8)),
    ):
        with pytest.raises(MismatchError) as refused:
            read_ensemble(phi.reshape(shape), ACTION).check()
        message = str(refused.value)
        assert f"of shape {shape}, read as {shape[0]} configurations on a lattice {shape[1:]}," in message
        assert f"{how}: reshape it to {right}" in message and "more of them" not in message
    # If no arrangement fits, what was found and what is expected is said all the same.
    for action in (Phi4(0.25, 0.022), None):
        with pytest.raises(DmmcError, match=r"of shape \(10, 100, 8, 8\).*shape must be \(configurations, \*lattice\)"):
            read_ensemble(phi.reshape(10, 100, 8, 8), action).check()
    with pytest.raises(MismatchError, match=r"has shape \(10, 100, 8, 8\).*not \(8, 8\)"):
        read_ensemble(phi.reshape(10, 100, 8, 8), ACTION, SHAPE)


def test_a_few_right_fields_are_too_few_before_they_are_read_in_another_way():
    """Ten fields of 8 x 8 sites pass for 80 chains of 8 sites as well, if the mass is large."""
    phi = free_draws(free_reference(Lattice((8, 8)), 5.0), 10)
    with pytest.raises(DmmcError, match=r"too small: at least 24 configurations .*If it is meant with its first two"):
        read_ensemble(phi, FreeField(5.0)).check()


def test_an_ensemble_that_was_read_is_a_source_too(run):
    given = read_ensemble(run)
    assert read_ensemble(given) is given
    assert read_ensemble(read_ensemble(run.cfgs()), Phi4(0.2, 0.05)).action == Phi4(0.2, 0.05)
    with pytest.raises(MismatchError, match="leave the action out"):
        read_ensemble(given, Phi4(0.21, 0.05))


def test_fields_are_found_after_a_change_of_directory(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    read = load_run("hmc.h5")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read.cfgs(), run.cfgs())


def test_a_one_sided_ensemble_is_noted():
    phi = hmc_ensemble(ACTION, SHAPE, n=1000)
    one_sided = read_ensemble(phi[phi.flatten(1).mean(1) > 0], ACTION).check("z2")
    assert any("one sector" in remark for remark in one_sided.notes)
    assert not any("one sector" in remark for remark in read_ensemble(phi, ACTION).check("z2").notes)


def test_arrays_are_read_to_the_cpu_whatever_the_default_is():
    phi = np.zeros((30, 4, 4))
    with torch.device("meta"):
        assert read_ensemble(phi).phi.device.type == "cpu"


@pytest.mark.parametrize(
    "phi", [torch.empty(30, 4, 4, device="meta"), torch.ones(30, 4, 4).to_sparse()], ids=["meta", "sparse"]
)
def test_tensors_without_values_are_refused(phi):
    with pytest.raises(DmmcError, match="an ordinary tensor with values"):
        read_ensemble(phi)


def test_repeated_fields_are_noticed_without_an_action():
    phi = np.repeat(np.random.default_rng(2).normal(size=(5, 4)), 20, axis=0)
    with pytest.raises(DmmcError, match="5 distinct configurations in 100"):
        read_ensemble(phi).check()


def test_what_the_check_has_measured_is_said():
    said = []
    phi = free_draws(free_reference(Lattice((4,))), 100).numpy()
    given = read_ensemble(phi, FreeField(0.7))
    assert given.remarks("z2", False, said.append, "the ensemble") == ()
    assert re.fullmatch(r"the ensemble: 100 configurations, <phi dS/dphi>/V = .*\(.*\), z = .*", said[0])

"""Fields with components on their whole way: ensemble, model, chain, report, and the fields of other codes."""

import h5py
import numpy as np
import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError, MismatchError
from dmmc.diagnostics.observables import z_score
from dmmc.model.options import TrainingOptions
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import load_run
from dmmc.runs.summary import estimates
from dmmc.studies.ensemble import EnsembleOptions, make_ensemble
from dmmc.studies.exporting import export_fields
from dmmc.studies.importing import import_fields
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.studies.training import train
from dmmc.theory.ensemble import check_ensemble
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, rng

O2, SQUARE = Phi4(0.24, 0.2, components=2), Lattice((4, 4))
SIZE = {"filters": 3, "hidden1": 6, "hidden2": 4}


def quiet(_):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An ensemble, a model of it, and an exact chain."""
    where = tmp_path_factory.mktemp("o2")
    options = EnsembleOptions(chains=64, thermalise=60, run=ChainOptions(draws=60, keep_every=2, seed=1))
    hmc = make_ensemble(O2, SQUARE, where / "hmc.h5", options, say=quiet)
    budget = TrainingOptions(steps=150, levels=32, trajectories=4, seed=1)
    model = train(hmc, where / "model.safetensors", budget, config=SIZE, say=quiet)
    chains = SampleOptions(flow_steps=6, chains=64, run=ChainOptions(draws=60, keep_every=20, seed=2), proposals=32)
    sample(model, where / "chain.h5", chains, reference=hmc, say=quiet)
    return where


def test_the_chain_agrees_with_hmc(folder):
    hmc, chain = (load_run(folder / name) for name in ("hmc.h5", "chain.h5"))
    acceptance = chain.stats["accepted"].mean()
    assert acceptance > 0.6
    ours, theirs = estimates(chain), estimates(hmc)
    assert {"M[0]", "M[1]", "abs_M", "M2", "binder", "xi"} <= ours.keys() == theirs.keys()
    assert max(abs(z_score(ours[name], theirs[name])) for name in ours) < SIGMA
    # By symmetry.
    assert max(abs(ours[f"M[{k}]"].value / ours[f"M[{k}]"].error) for k in (0, 1)) < SIGMA


def test_fields_of_a_run_have_an_axis_of_components(folder):
    run = load_run(folder / "chain.h5")
    assert run.header.components == 2 and run.lattice == (4, 4)
    assert run.fields().shape == (64, 3, 2, 4, 4)
    phi = torch.from_numpy(run.fields()).flatten(0, 1)
    M = phi.mean((-2, -1))
    measured = measure(phi, O2(phi), Lattice((4, 4), 2))
    torch.testing.assert_close(measured["M"], M)
    torch.testing.assert_close(measured["abs_M"], M.square().sum(1).sqrt())
    torch.testing.assert_close(measured["M4"], M.square().sum(1).square())
    torch.testing.assert_close(measured["phi2"], phi.square().sum(1).mean((-2, -1)))
    torch.testing.assert_close(measured["two_point"][:, 0], 16 * measured["M2"])


def test_a_resumed_chain_is_the_uninterrupted_one(folder, tmp_path):
    model = dmmc.load_model(folder / "model.safetensors")
    for path, draws in ((tmp_path / "whole.h5", (8,)), (tmp_path / "parts.h5", (4, 8))):
        for k, n in enumerate(draws):
            run = ChainOptions(draws=n, block=1, keep_every=4, seed=3)
            options = SampleOptions(flow_steps=4, chains=4, run=run, discard=2, proposals=8)
            sample(model, path, options, resume=bool(k), say=quiet)
    whole, parts = (load_run(tmp_path / f"{name}.h5") for name in ("whole", "parts"))
    for name, values in whole.observables.items():
        assert np.array_equal(values, parts.observables[name]), name
    assert np.array_equal(whole.fields(), parts.fields())


def test_the_report_shows_them(folder):
    runs = [dmmc.load_run(folder / name) for name in ("hmc.h5", "chain.h5")]
    dmmc.report(*runs, out=folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "O(2) φ⁴" in page and "magnetisation" in page
    assert "could not be drawn" not in page


def test_fields_of_another_code(folder, tmp_path):
    """Whatever the order of their axes, the fields that are imported are those that were exported."""
    fields = load_run(folder / "hmc.h5").fields()  # (chain, draw, component, x, y)
    np.save(tmp_path / "mine.npy", np.moveaxis(fields, 2, -1))
    run = import_fields(tmp_path / "mine.npy", tmp_path / "mine.h5", action=O2, axes="c n x y i", say=quiet)
    assert np.array_equal(run.fields(), fields) and run.header.components == 2
    raw = tmp_path / "mine.bin"
    fields.astype(">f8").tofile(raw)
    again = import_fields(raw, tmp_path / "raw.h5", action=O2, shape=(4, 4), dtype=">f8", chains=64, say=quiet)
    assert np.array_equal(again.fields(), fields)
    export_fields(run, tmp_path / "back.npy", axes="i n c y x")
    assert np.array_equal(np.load(tmp_path / "back.npy"), fields.transpose(2, 1, 0, 4, 3))
    export_fields(run, tmp_path / "back.h5", axes="x y i")
    with h5py.File(tmp_path / "back.h5") as file:
        assert np.array_equal(file["r0001/1"], np.moveaxis(fields[0, 0], 0, -1))
    with pytest.raises(DmmcError, match="do not fit: name i, x, y, n, and c"):
        export_fields(run, tmp_path / "no.npy", axes="n x y")
    for axes, message in [
        ("c n x y z", "have none for the 2 components of the field; call that one i"),
        ("c n i x y", "its axis i in c n i x y has 4 components, and the fields of the action have 2"),
    ]:
        with pytest.raises(MismatchError, match=message):
            import_fields(tmp_path / "mine.npy", tmp_path / "no.h5", action=O2, axes=axes, say=quiet)
    with pytest.raises(MismatchError, match="the action is not one of a field with components"):
        import_fields(tmp_path / "mine.npy", tmp_path / "no.h5", action=Phi4(0.24, 0.2), axes="c n x y i", say=quiet)
    assert not (tmp_path / "no.h5").exists()


def test_an_ensemble_of_other_couplings_is_refused(folder):
    phi = torch.from_numpy(load_run(folder / "hmc.h5").fields()).flatten(0, 1)
    check = check_ensemble(phi, O2, chains=64)
    assert abs(check.virial_z) < SIGMA and abs(check.mean_z) < SIGMA
    with pytest.raises(MismatchError, match="the ensemble does not fit the action"):
        check_ensemble(phi, Phi4(0.2, 0.2, components=2), chains=64)
    with pytest.raises(DmmcError, match=r"fields with 3 components must have shape \(n, 3, \*lattice\), got"):
        check_ensemble(phi, Phi4(0.24, 0.2, components=3), chains=64)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda d: train(d / "hmc.h5", d / "no.safetensors", action=Phi4(0.24, 0.2), say=quiet),
            "is an ensemble of .*components.*, not of",
        ),
        (
            lambda d: sample(dmmc.load_model(d / "model.safetensors"), d / "no.h5", action=Phi4(0.24, 0.2)),
            "the model is of fields with 2 components, and the action is of scalar fields",
        ),
        (
            lambda d: train(d / "hmc.h5", d / "no.safetensors", sectors="two", say=quiet),
            "one sector can be mirrored only in a theory of a scalar field",
        ),
        (
            lambda d: train(d / "hmc.h5", d / "no.safetensors", symmetry="none", say=quiet),
            'no biases, and is for theories with the symmetry "o_n" alone',
        ),
        (
            lambda d: dmmc.make_ensemble(O2, Lattice((4, 4), 3), d / "no.h5"),
            "have 3 components, and those of the action",
        ),
        (lambda d: Phi4(0.2, 0.1, components=0), "components must be a positive integer, got 0"),
    ],
    ids=["ensemble", "model", "sectors", "symmetry", "lattice", "none"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(use, message, folder):
    before = sorted(folder.iterdir())
    with pytest.raises(DmmcError, match=message):
        use(folder)
    assert sorted(folder.iterdir()) == before


def test_the_action_of_components():
    """Its gradient, its symmetry, and its scalar case."""
    phi = torch.randn(3, 2, 4, 3, generator=rng(), dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(O2(phi).sum(), phi)
    torch.testing.assert_close(O2.grad(phi.detach()), gradient)
    turned = torch.stack([phi[:, 0] * 0.6 - phi[:, 1] * 0.8, phi[:, 0] * 0.8 + phi[:, 1] * 0.6], 1)
    torch.testing.assert_close(O2(turned), O2(phi))
    scalar, one = phi[:, 0].detach(), Phi4(0.24, 0.2, components=1)
    torch.testing.assert_close(one(scalar.unsqueeze(1)), Phi4(0.24, 0.2)(scalar))

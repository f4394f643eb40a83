"""The exactness laboratory: a tiny one on two sites from end to end, its statistics on made-up chains, what is refused.

A right result fails by chance with probability CHANCE of ``checks`` (5 sigma); a wrong one must be seen at 5 sigma.
"""

import json
import math
import shutil

import numpy as np
import pytest
import scipy.stats
import torch

from checks import CHANCE
from dmmc import diagnostics
from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.kernels.independence import Independence
from dmmc.model.reference import GaussianReference
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain, storage
from dmmc.studies import exactness
from dmmc.studies.exactness import Means, agreement, laboratory, means, quadrature
from dmmc.studies.exactness import table as exactness_table
from dmmc.studies.exactness.table import OBSERVABLES
from dmmc.studies.exactness.wrong import Collapsed, Declared, Pool
from dmmc.studies.folder import PLAN, load_result
from dmmc.theory.actions import FreeField, Phi4
from dmmc.theory.lattice import Lattice
from helpers import SIGMA, SMALL, Grid, random_model, rng

PHI4, TWO_SITES = Phi4(0.3, 0.3), Lattice((2,))
VARIANTS = "flow path hmc ode pool one-sector no-tail"
TINY = (
    "exactness --shape 2 --kappa 0.3 --lam 0.3 --steps 10 --chains 512 --draws 8192 --flow-steps 4 --seed 3 "
    f"--variants {VARIANTS}"
).split()


def dmmc(*args):
    """Exit code of a command in this process."""
    return cli.main([str(arg) for arg in args])


@pytest.fixture(autouse=True, scope="module")
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "NETWORK", SMALL)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished laboratory; not to be changed."""
    out = tmp_path_factory.mktemp("exactness") / "lab"
    assert dmmc(*TINY, "--out", out, "--json", out.parent / "summary.json") == 0
    return out


def results(out):
    """All that does not depend on the clock or the folder."""
    summary = load_result(out, exactness_table.RESULT)
    for key in ("figures", "report", "wall_seconds"):
        del summary[key]
    return summary


# A laboratory


def test_exact_ones_agree_and_gross_errors_are_seen(made):
    summary = load_result(made, exactness_table.RESULT)
    assert summary == json.loads((made.parent / "summary.json").read_text())
    of_name = {result["name"]: result for result in summary["variants"]}
    assert list(of_name) == VARIANTS.split()
    assert summary["truth"]["method"] == "quadrature"
    assert summary["agreement"]["dof"] == 3 * len(OBSERVABLES)
    assert summary["agreement"]["p_value"] > CHANCE
    for name in ("flow", "path", "hmc"):
        assert of_name[name]["exact"] and of_name[name]["agreement"]["p_value"] > CHANCE
    for name in ("ode", "pool", "one-sector", "no-tail"):
        assert of_name[name]["seen"] and not of_name[name]["exact"], exactness_table.verdict(of_name[name])
        assert of_name[name]["agreement"]["p_value"] < CHANCE
    # A collapse to one sign shows in M alone, and there as <|M|>.
    sector = of_name["one-sector"]["observables"]
    assert sector["M"]["relative"] == pytest.approx(1, abs=SIGMA * sector["M"]["relative_error"])
    assert all(abs(value["z"]) < SIGMA for name, value in sector.items() if name != "M")
    assert summary["missed"] == []


def test_chains_say_in_their_files_what_they_are(made):
    for result in load_result(made, exactness_table.RESULT)["variants"]:
        run = storage.load_run(made / result["file"])
        assert bool(run.header["kernel"].get("inexact")) is not result["exact"]
        assert bool(run.header["kernel"].get("inexact_reason")) is not result["exact"]
        assert run.n_chains * run.n_draws == result["chains"] * result["draws"]
        assert result["observables"]["M2"]["value"] == pytest.approx(run.observables["M2"].mean())


def test_chains_share_no_random_numbers(made):
    seeds = [storage.load_run(path).header["seed"] for path in made.glob("*.h5")]
    assert len(set(seeds)) == len(seeds) == len(VARIANTS.split()) + 1  # and the ensemble


def test_table_figure_and_page_show_every_variant(made):
    summary = load_result(made, exactness_table.RESULT)
    text, html = (made / "table.txt").read_text(), (made / "report.html").read_text()
    for result in summary["variants"]:
        assert result["label"] in text and result["why"] in text
        assert result["label"].replace(">", "&gt;") in html
        if result["seen"]:
            assert f"{result['agreement']['sigma']:.0f} σ" in html
    assert text.startswith(summary["table"][:40]) and "chi2/dof" in text
    assert (made / "bias.png").read_bytes()[1:4] == b"PNG"
    assert "The exact kernels agree with the truth" in html


def test_what_is_finished_is_read_and_what_is_not_is_made(made, tmp_path, monkeypatch):
    begun, run = [], chain.run

    def interrupted(kernel, start, options, path, **rest):
        begun.append(path.name)
        if path.name == "hmc.h5" and not rest["resume"]:
            raise KeyboardInterrupt
        return run(kernel, start, options, path, **rest)

    monkeypatch.setattr(chain, "run", interrupted)
    out = tmp_path / "lab"
    assert dmmc(*TINY, "--out", out) == 130
    monkeypatch.setattr(chain, "run", run)
    assert begun == ["ensemble.h5", "flow.h5", "path.h5", "hmc.h5"]
    before = {name: (out / name).stat().st_mtime_ns for name in begun[:3]}
    assert dmmc(*TINY, "--out", out, "--resume") == 0
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert results(out) == results(made)


def test_another_plan_is_not_resumed_and_nothing_is_overwritten(made, tmp_path, capsys):
    out = shutil.copytree(made, tmp_path / "lab")
    (out / "mine.txt").write_text("")
    assert dmmc(*TINY, "--out", out) == 2
    assert "--resume" in capsys.readouterr().err
    assert dmmc(*TINY, "--out", out, "--resume", "--seed", 4) == 2
    assert "seed is 3 there and 4 here" in capsys.readouterr().err
    assert dmmc(*TINY, "--out", tmp_path / "none", "--resume") == 2
    assert not (tmp_path / "none").exists()
    assert results(out) == results(made)
    laboratory._clear(out)
    assert {path.name for path in out.iterdir()} == {PLAN, "mine.txt"}
    (out / PLAN).write_text("{")
    assert dmmc(*TINY, "--out", out, "--overwrite") == 2
    assert "damaged" in capsys.readouterr().err
    with pytest.raises(FileError, match="not the result"):
        load_result(out, exactness_table.RESULT)


# Statistics


def chains(n, draws, seed):
    """Records of made-up chains ``(n, draws)`` of a field on two sites, white."""
    phi = np.random.default_rng(seed).normal(size=(n, draws, 2)) @ np.array([[1.0, 0.3], [0.0, 0.8]])
    M, difference = phi.mean(-1), (phi[..., 0] - phi[..., 1]) ** 2 / 2
    two_point = np.stack([2 * M**2, difference], -1)
    return {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "S_per_site": (phi**4).mean(-1), "two_point": two_point}


def test_means_and_errors_are_those_of_the_gamma_method():
    record = chains(400, 50, 1)
    found = means(record)
    errors = np.sqrt(np.diag(found.covariance))
    gamma = {**diagnostics.primary({**record, "phi2": record["M2"]}), "binder": diagnostics.binder(record)}
    gamma["G_min"] = diagnostics.gamma_method(record["two_point"][..., 1])
    for name, value, error in zip(OBSERVABLES, found.values, errors, strict=True):
        assert value == pytest.approx(gamma[name].value, rel=1e-12)
        # The variance of 400 chain means is known to sqrt(2 / 399), its root to half of that: 5 sigma.
        assert error == pytest.approx(gamma[name].error, rel=SIGMA / math.sqrt(2 * 399) + SIGMA * 0.01)
    # |M| and M^2 rise together, and the record says by how much.
    i, j = OBSERVABLES.index("abs_M"), OBSERVABLES.index("M2")
    expected = np.corrcoef(record["abs_M"].ravel(), record["M2"].ravel())[0, 1]
    assert found.covariance[i, j] / (errors[i] * errors[j]) == pytest.approx(expected, abs=SIGMA / 20)


def p_values(n_sets, share_truth=True, shift=0.0):
    """Of chi^2 of three kernels and a truth noisier than they are, all means of correlated observables."""
    generator, k, n = np.random.default_rng(2), 6, 200
    mixing = generator.normal(size=(k, k)) + 2 * np.eye(k)

    def estimate(scale=1.0):
        by_chain = scale * generator.normal(size=(n, k)) @ mixing
        return Means(by_chain.mean(0) + 5, np.cov(by_chain, rowvar=False) / n, n)

    found = []
    for _ in range(n_sets):
        truth, kernels = estimate(1.5), [estimate() for _ in range(3)]
        kernels[0] = Means(kernels[0].values + shift, kernels[0].covariance, n)
        if not share_truth:  # each kernel as if it were the only one
            alone = [agreement([kernel], truth) for kernel in kernels]
            found.append(scipy.stats.chi2.sf(sum(one.chi2 for one in alone), sum(one.dof for one in alone)))
        else:
            found.append(agreement(kernels, truth).p_value)
    return np.array(found)


def test_p_values_are_uniform():
    assert scipy.stats.kstest(p_values(1000), "uniform").pvalue > CHANCE


def test_p_values_would_not_be_uniform_without_the_covariance_through_the_truth():
    assert scipy.stats.kstest(p_values(1000, share_truth=False), "uniform").pvalue < CHANCE


def test_a_shift_lowers_the_p_value():
    assert np.median(p_values(200, shift=1.0)) < 1e-3


def test_observables_that_depend_on_each_other_count_once():
    truth = Means(np.zeros(2), np.zeros((2, 2)), 0)
    found = agreement([Means(np.array([2.0, 4.0]), np.array([[1.0, 2.0], [2.0, 4.0]]), 0)], truth)
    assert (found.dof, found.chi2) == (1, pytest.approx(4.0))
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(2))
    assert found.sigma == pytest.approx(2)
    far = agreement([Means(np.array([50.0, 0.0]), np.eye(2), 0)], truth)
    assert far.p_value == 0 and far.sigma == pytest.approx(50, rel=0.01)  # of one degree of freedom it would be 50
    with pytest.raises(DmmcError, match="no exact kernel"):
        agreement([], truth)


@pytest.mark.parametrize("action", [PHI4, Phi4.from_mass(-4.0, 6.0, 1), Phi4(0.5, 0.022)])
def test_quadrature_knows_the_truth(action):
    found = dict(zip(OBSERVABLES, quadrature(action, TWO_SITES).values, strict=True))
    grid = Grid.make(2, 12 * action.scale, 901)
    p, M = grid.probabilities(action), grid.phi.mean(1)
    assert found["M"] == 0
    assert found["abs_M"] == pytest.approx(float(p @ M.abs()), rel=1e-3)  # |M| has a kink
    assert found["M2"] == pytest.approx(float(p @ M**2), rel=1e-9)
    assert found["binder"] == pytest.approx(1 - float(p @ M**4) / (3 * float(p @ M**2) ** 2), rel=1e-9)
    assert found["S_per_site"] == pytest.approx(float(p @ action(grid.phi)) / 2, rel=1e-9)
    assert found["G_min"] == pytest.approx(float(p @ (grid.phi[:, 0] - grid.phi[:, 1]) ** 2) / 2, rel=1e-9)
    with pytest.raises(DmmcError, match="two sites"):
        quadrature(action, Lattice((3,)))


def result(label, z, error, exact=False):
    values = {"relative": z * error, "relative_error": error, "z": z}
    observables = dict.fromkeys(OBSERVABLES, values)
    seen = abs(z) >= exactness_table.SEEN
    together = {"sigma": abs(z)}
    return {
        "label": label, "exact": exact, "seen": seen, "agreement": together, "worst": "M2", "observables": observables
    }  # fmt: skip


def test_what_was_not_seen_is_reported_with_what_would_have_been():
    found = exactness_table.missed([result("a", 6.0, 0.1), result("b", 3.0, 0.002), result("c", 1.0, 0.1, exact=True)])
    assert len(found) == 1
    assert found[0].startswith("b: not seen; 5 sigma") and "<M^2> 1.0" in found[0]
    assert exactness_table.verdict(result("a", 6.0, 0.1)) == "seen, 6 sigma: <M^2> by +60(10) %"
    assert exactness_table.verdict(result("b", -3.0, 0.002)) == "not seen, 3.0 sigma: <M^2> by -0.60(20) %"


# Proposals that are not exact


@pytest.fixture(scope="module")
def flow():
    reference = GaussianReference(TWO_SITES, torch.tensor([1.2, 0.5]))
    return FlowProposal(random_model(reference, PHI4, strength=0.2), n_steps=8)


def test_a_collapsed_model_misses_what_it_should(flow):
    phi, log_q = Collapsed(flow, largest=0.8, one_sign=True).sample(500, rng())
    M = phi.mean(1)
    assert len(phi) == 500 and float(M.min()) > 0 and float(M.max()) <= 0.8
    # Sample and inverse flow differ by the integrator; the mirror image has the same density.
    torch.testing.assert_close(log_q, flow.log_q(-phi), atol=1e-3, rtol=0)
    with pytest.raises(DmmcError, match="hardly proposes"):
        Collapsed(flow, largest=0.0).sample(4, rng())


def test_a_pool_holds_its_own_fields_only(flow):
    pool = Pool(flow, 16, seed=5)
    phi, log_q = pool.sample(2000, rng())
    assert len(torch.unique(phi, dim=0)) == 16  # 2000 draws miss one of 16 with probability 16 exp(-125)
    again, _ = Pool(flow, 16, seed=5).sample(2000, rng())
    assert torch.equal(phi, again)
    torch.testing.assert_close(log_q, flow.log_q(phi), atol=1e-3, rtol=0)


def test_declared_proposals_need_leave(flow):
    with pytest.raises(DmmcError, match="a pool"):
        Independence(PHI4, TWO_SITES, Declared(Pool(flow, 4, 1), "a pool"))


# Bad input


@pytest.mark.parametrize(
    "change, message",
    [
        ({"variants": ("flow", "flows")}, "variants must be different ones of"),
        ({"variants": ()}, "variants must be different ones of"),
        ({"shape": (1,)}, "two sites or more"),
        ({"action": FreeField(1.0)}, "phi\\^4"),
        ({"chains": 8}, "32 at least"),
        ({"draws": 2047}, "draws"),
        ({"truth_draws": 2047}, "truth_draws"),
        ({"steps": 0}, "positive"),
        ({"flow_steps": 0}, "positive"),
        ({"seed": -1}, "seed"),
        ({"model": "none.safetensors"}, "no file"),
    ],
)
def test_bad_numbers_are_refused(change, message):
    with pytest.raises(DmmcError, match=message):
        exactness.ExactnessOptions(**{"action": PHI4, **change})


def test_a_model_of_another_theory_is_refused_before_anything_is_written(made, tmp_path):
    with pytest.raises(MismatchError, match="trained on lattice"):
        exactness.ExactnessOptions(PHI4, (4, 4), model=str(made / "model.safetensors"))
    out = tmp_path / "lab"
    bad = ["exactness", "--shape", "4", "4", "--model", made / "model.safetensors", "--out", out]
    assert dmmc(*bad) == 2
    assert not out.exists()
    assert dmmc(*TINY[:-1], "nonsense", "--out", out) == 2
    assert not out.exists()
    (tmp_path / "file").write_text("")
    assert dmmc(*TINY, "--out", tmp_path / "file") == 2


def test_laboratories_side_by_side(tmp_path, capsys):
    tiny = {"chains": 32, "draws": 128, "steps": 2, "flow_steps": 2, "truth_draws": 128, "variants": ("flow", "ode")}
    laboratories = {
        "two": exactness.ExactnessOptions(PHI4, (2,), **tiny), "four": exactness.ExactnessOptions(PHI4, (2, 2), **tiny)
    }  # fmt: skip
    out = tmp_path / "out"
    with pytest.raises(FileError, match="no laboratory to resume"):
        exactness.side_by_side(laboratories, out, resume=True)
    assert not out.exists()
    first = exactness.exactness(laboratories["two"], out / "two")  # as if interrupted in the second
    with pytest.raises(FileError, match="holds a laboratory"):
        exactness.side_by_side(laboratories, out)
    found = exactness.side_by_side(laboratories, out, resume=True)
    assert list(found["laboratories"]) == ["two", "four"]
    assert found["laboratories"]["two"]["variants"] == first["variants"]
    assert all(summary["table"] in found["table"] for summary in found["laboratories"].values())
    html = (out / "report.html").read_text()
    assert html.count("Exactness laboratory") >= 2


def test_without_a_shape_three_lattices(monkeypatch, tmp_path):
    seen = {}

    def side_by_side(laboratories, out, resume, overwrite):
        seen.update(laboratories)
        return {"table": "", "report": ""}

    monkeypatch.setattr(exactness, "side_by_side", side_by_side)
    assert dmmc("exactness", "--out", tmp_path / "lab") == 0
    assert {name: (one.shape, one.action.kappa, one.draws) for name, one in seen.items()} == {
        "8x8": ((8, 8), 0.27, 98304), "16x16": ((16, 16), 0.27, 24576), "two-sites": ((2,), 0.3, 98304)
    }  # fmt: skip
    assert dmmc("exactness", "--kappa", 0.2, "--lam", 0.1, "--draws", 4096, "--out", tmp_path / "lab") == 0
    assert {(one.action, one.draws) for one in seen.values()} == {(Phi4(0.2, 0.1), 4096)}
    assert dmmc("exactness", "--model", "model.safetensors", "--out", tmp_path / "lab") == 2
    assert not (tmp_path / "lab").exists()


def test_help_names_every_variant(capsys):
    with pytest.raises(SystemExit):
        dmmc("exactness", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert all(f" {name}" in text for name in exactness.NAMES)

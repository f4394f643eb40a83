"""The exactness laboratory: a tiny one on two sites from end to end, its statistics on made-up chains, what is refused.

A correct result fails by chance with probability CHANCE of ``checks`` (5 sigma); a wrong one must be seen at 5 sigma.
"""

import dataclasses
import json
import shutil

import pytest
import torch

from checks import CHANCE
from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.kernels.independence import Independence
from dmmc.model.reference import GaussianReference
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain
from dmmc.runs.run import load_run
from dmmc.studies import exactness
from dmmc.studies.exactness import (
    OBSERVABLES,
    RESULT,
    Agreement,
    BiasResult,
    ExactnessOptions,
    LaboratoryResult,
    SideBySide,
    VariantResult,
    chains,
    laboratory,
    table,
)
from dmmc.studies.exactness.analysis import SEEN
from dmmc.studies.exactness.wrong import Collapsed, Declared, Pool, Unadjusted
from dmmc.studies.folder import PLAN, remove
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, random_model, rng, tilted

PHI4, TWO_SITES = Phi4(0.3, 0.3), Lattice((2,))
TILTED = tilted(PHI4)
VARIANTS = "flow path hmc ode pool one-sector no-tail"
TINY = (
    "exactness --shape 2 --kappa 0.3 --lam 0.3 --steps 10 --chains 512 --draws 8192 --flow-steps 4 --seed 3 "
    f"--variants {VARIANTS}"
).split()
SMALL_NETWORK = {"filters": 3, "hidden1": 5, "hidden2": 4, "level_knots": 7, "radial_knots": 5}


def dmmc(*args):
    """Exit code of a command in this process."""
    return cli.main([str(arg) for arg in args])


@pytest.fixture(autouse=True, scope="module")
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "NETWORK", SMALL_NETWORK)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished laboratory; not to be changed."""
    out = tmp_path_factory.mktemp("exactness") / "lab"
    assert dmmc(*TINY, "--out", out, "--json", out.parent / "summary.json") == 0
    return out


def assert_same(found, expected):
    """Whether two laboratories found the same, to the bit but for what LAPACK has a part in; times do not count."""

    def parts(result):
        together = [variant.agreement for variant in result.variants] + [result.agreement]
        variants = tuple(dataclasses.replace(variant, agreement=None) for variant in result.variants)
        return dataclasses.replace(result, variants=variants, agreement=None, wall_seconds={}), together

    (rest, together), (expected_rest, expected_together) = parts(found), parts(expected)
    assert rest == expected_rest
    for one, other in zip(together, expected_together, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-9, abs=1e-300)


# A laboratory


def test_exact_variants_agree_and_gross_errors_are_seen(made):
    result = RESULT.read(made)
    assert result == LaboratoryResult.from_json(json.loads((made.parent / "summary.json").read_text()))
    assert [variant.name for variant in result.variants] == VARIANTS.split()
    assert (result.truth.method, result.truth.symmetry.symmetry) == ("quadrature", "z2")
    assert result.agreement.dof == 3 * len(OBSERVABLES)
    assert result.agreement.p_value > CHANCE
    for name in ("flow", "path", "hmc"):
        assert result.variant(name).exact and result.variant(name).agreement.p_value > CHANCE
    for name in ("ode", "pool", "one-sector", "no-tail"):
        variant = result.variant(name)
        assert variant.seen and not variant.exact, table.verdict(variant)
        assert variant.agreement.p_value < CHANCE
    # A collapse to one sign shows in M alone, and there as <|M|>.
    sector = result.variant("one-sector").observables
    assert sector["M"].relative == pytest.approx(1, abs=SIGMA * sector["M"].relative_error)
    assert all(abs(bias.z) < SIGMA for name, bias in sector.items() if name != "M")
    assert result.missed == ()


def test_results_survive_the_way_through_json(made):
    result = RESULT.read(made)
    assert LaboratoryResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    both = SideBySide({"a": result, "b": dataclasses.replace(result, agreement=None)}, "report.html")
    assert SideBySide.from_json(json.loads(json.dumps(both.to_json()))) == both


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"chi2"', '"chi"'),
        lambda text: text.replace('"exact": true', '"exact": "yes"'),
        lambda text: text.replace("dmmc-exactness", "dmmc-scan"),
        lambda text: "[]",
    ],
)
def test_a_damaged_result_is_refused_in_one_line(made, tmp_path, capsys, damage):
    path = tmp_path / RESULT.file
    path.write_text(damage((made / RESULT.file).read_text()))
    with pytest.raises(FileError, match=r"exactness\.json") as refused:
        RESULT.read(path)
    assert "\n" not in str(refused.value)


def test_chains_say_in_their_files_what_they_are(made):
    for variant in RESULT.read(made).variants:
        run = load_run(made / variant.file)
        assert bool(run.header.facts.inexact) is not variant.exact
        assert (run.n_chains, run.n_draws, run.header.cost) == (variant.chains, variant.draws, variant.cost)
        assert variant.observables["M2"].value == pytest.approx(run.observables["M2"].mean())


def test_chains_share_no_random_numbers(made):
    seeds = [load_run(path).header.seed for path in made.glob("*.h5")]
    assert len(set(seeds)) == len(seeds) == len(VARIANTS.split()) + 1  # and the ensemble


def test_table_figure_and_page_show_every_variant(made):
    result = RESULT.read(made)
    text, html = (made / "table.txt").read_text(), (made / "report.html").read_text()
    for variant in result.variants:
        assert variant.label in text and variant.why in text
        assert variant.label.replace(">", "&gt;") in html
        if variant.seen:
            assert f"{variant.agreement.sigma:.0f} σ" in html
    assert text == table.table(result) + "\n" and "chi2/dof" in text
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
    assert_same(RESULT.read(out), RESULT.read(made))


def test_another_plan_is_not_resumed_and_nothing_is_overwritten(made, tmp_path, capsys):
    out = shutil.copytree(made, tmp_path / "lab")
    (out / "mine.txt").write_text("")
    assert dmmc(*TINY, "--out", out) == 2
    assert "--resume" in capsys.readouterr().err
    assert dmmc(*TINY, "--out", out, "--resume", "--seed", 4) == 2
    assert "seed is 3 there and 4 here" in capsys.readouterr().err
    assert RESULT.read(out) == RESULT.read(made)
    remove(out, laboratory.files_of({}))
    assert {path.name for path in out.iterdir()} == {PLAN, "mine.txt"}
    (out / PLAN).write_text("{")
    assert dmmc(*TINY, "--out", out, "--overwrite") == 2
    assert "damaged" in capsys.readouterr().err
    with pytest.raises(FileError, match="not the result"):
        RESULT.read(out)


def test_a_theory_without_the_symmetry_is_compared_with_a_truth_that_has_none(tmp_path):
    """The field of the tilted action prefers one sign, which every exact variant must reproduce."""
    options = ExactnessOptions(
        TILTED, (2,), ("flow", "hmc", "one-sector"), draws=4096, chains=256, truth_draws=4096, steps=10, flow_steps=4
    )
    result = exactness.run_laboratory(options, tmp_path / "lab")
    assert result.truth.symmetry.symmetry == "none"
    assert result.truth.observables["M"].value > 0.05 and result.truth.observables["M"].error == 0
    assert result.agreement.p_value > CHANCE
    assert result.variant("one-sector").seen


# What was not seen


def variant_result(name, z, error, exact=False):
    bias = BiasResult(
        value=1.0, error=error, bias=z * error, bias_error=error, z=z, relative=z * error, relative_error=error
    )
    return VariantResult(
        name=name, label=name.upper(), exact=exact, why="", file="", chains=1, draws=1, acceptance=1.0, tau_int_M2=0.5,
        cost={}, observables=dict.fromkeys(OBSERVABLES, bias), agreement=Agreement(z * z, 1, 0.5, abs(z)), worst="M2",
        seen=abs(z) >= SEEN,
    )  # fmt: skip


def test_what_was_not_seen_is_reported_with_what_would_have_been(made):
    variants = (
        variant_result("a", 6.0, 0.1),
        variant_result("b", 3.0, 0.002),
        variant_result("c", 1.0, 0.1, exact=True),
    )
    result = dataclasses.replace(RESULT.read(made), variants=variants, missed=("b",))
    notes = table.missed(result)
    assert len(notes) == 1
    assert notes[0].startswith("B: not seen; 5 sigma") and "<M^2> 1.0" in notes[0]
    assert notes[0] in table.table(result)
    assert table.verdict(variants[0]) == "seen, 6 sigma: <M^2> by +60(10) %"
    assert table.verdict(variant_result("b", -3.0, 0.002)) == "not seen, 3.0 sigma: <M^2> by -0.60(20) %"
    without_scale = dataclasses.replace(variants[0].observables["M2"], relative=None, relative_error=None)
    assert table.shown_bias(without_scale) == "+0.60(10)"


# Proposals that are not exact


@pytest.fixture(scope="module")
def flow():
    reference = GaussianReference(TWO_SITES, torch.tensor([1.2, 0.5]))
    return FlowProposal(random_model(reference, PHI4, strength=0.2), n_steps=8)


def test_a_collapsed_model_misses_what_it_should(flow):
    phi, log_q = Collapsed(flow, largest=0.8, positive=True).sample(500, rng())
    M = phi.mean(1)
    assert len(phi) == 500 and float(M.min()) > 0 and float(M.max()) <= 0.8
    # The map and its inverse differ by the error of the integrator.
    torch.testing.assert_close(log_q, flow.log_q(phi), atol=1e-3, rtol=0)
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


def test_unadjusted_chains_are_the_proposals(flow):
    kernel = Unadjusted(PHI4, TWO_SITES, flow)
    assert kernel.facts.inexact and kernel.cost == {"network": flow.evaluations}
    states = [
        state.phi for state, info in kernel.steps(kernel.initial(3, rng(1)), 2, rng(2)) if bool(info.accepted.all())
    ]
    torch.testing.assert_close(torch.cat(states), flow.sample(6, rng(2))[0].double())


# Bad input


@pytest.mark.parametrize(
    "change, message",
    [
        ({"variants": ("flow", "flows")}, "variants must be different ones of"),
        ({"variants": ()}, "variants must be different ones of"),
        ({"shape": (1,)}, "two sites or more"),
        ({"action": TILTED}, "does not declare the hopping"),
        ({"chains": 8}, "at least 32"),
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
        ExactnessOptions(**{"action": PHI4, **change})


def test_a_model_of_another_theory_is_refused_before_anything_is_written(made, tmp_path):
    with pytest.raises(MismatchError, match="trained on lattice"):
        ExactnessOptions(PHI4, (4, 4), model=str(made / "model.safetensors"))
    out = tmp_path / "lab"
    bad = ["exactness", "--shape", "4", "4", "--model", made / "model.safetensors", "--out", out]
    assert dmmc(*bad) == 2
    assert not out.exists()
    assert dmmc(*TINY[:-1], "nonsense", "--out", out) == 2
    assert not out.exists()
    (tmp_path / "file").write_text("")
    assert dmmc(*TINY, "--out", tmp_path / "file") == 2


def test_a_free_field_declares_what_the_laboratory_needs():
    assert ExactnessOptions(FreeField(1.0)).plan().action == {"name": "free", "mass": 1.0}


def test_laboratories_side_by_side(tmp_path):
    """Here the flow of two steps and the variant ``ode-2`` have kernels of the same description."""
    tiny = {"chains": 32, "draws": 128, "steps": 2, "flow_steps": 2, "truth_draws": 128, "variants": ("flow", "ode-2")}
    laboratories = {"two": ExactnessOptions(PHI4, (2,), **tiny), "four": ExactnessOptions(PHI4, (2, 2), **tiny)}
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileError, match="exists"):
            exactness.run_side_by_side(laboratories, out, resume=resume)
    assert [path.name for path in out.iterdir()] == ["report.html"]
    (out / "report.html").unlink()
    first = exactness.run_laboratory(laboratories["two"], out / "two")  # as if interrupted in the second
    with pytest.raises(FileError, match="holds a laboratory"):
        exactness.run_side_by_side(laboratories, out)
    # What is in the way of the last is noticed before the first has begun.
    (out / "four").mkdir()
    (out / "four" / "table.txt").write_text("mine")
    with pytest.raises(FileError, match=r"holds table\.txt"):
        exactness.run_side_by_side(laboratories, out, resume=True)
    (out / "four" / "table.txt").unlink()
    both = exactness.run_side_by_side(laboratories, out, resume=True)
    assert list(both.laboratories) == ["two", "four"]
    assert_same(both.laboratories["two"], first)
    assert both.laboratories["four"].truth.method == "cluster"
    assert all(table.table(result) in table.tables(both) for result in both.laboratories.values())
    html = (out / "report.html").read_text()
    assert html.count("What is exact") >= 2
    flow, twin = (load_run(out / "two" / f"{name}.h5") for name in ("flow", "ode-2"))
    assert flow.header.kernel == twin.header.kernel and flow.header.facts != twin.header.facts
    assert not set(flow.stats["log_w_proposed"].ravel()) & set(twin.stats["log_w_proposed"].ravel())


def test_without_a_shape_three_lattices(monkeypatch, tmp_path):
    seen = {}

    def run_side_by_side(laboratories, out, resume, overwrite):
        seen.update(laboratories)
        return SideBySide({}, "")

    monkeypatch.setattr(exactness, "run_side_by_side", run_side_by_side)
    assert dmmc("exactness", "--out", tmp_path / "lab") == 0
    assert {name: (one.shape, one.action.kappa, one.draws) for name, one in seen.items()} == {
        "8x8": ((8, 8), 0.27, 98304), "16x16": ((16, 16), 0.27, 24576), "two-sites": ((2,), 0.3, 98304)
    }  # fmt: skip
    assert dmmc("exactness", "--kappa", 0.2, "--lam", 0.1, "--draws", 4096, "--out", tmp_path / "lab") == 0
    assert {(one.action, one.draws) for one in seen.values()} == {(Phi4(0.2, 0.1), 4096)}
    # The same bare mass is another kappa in another number of dimensions.
    assert dmmc("exactness", "--m2", -1, "--lam-mass", 2, "--out", tmp_path / "lab") == 0
    assert {name: one.action for name, one in seen.items()} == {
        "8x8": Phi4.from_mass(-1, 2, 2), "16x16": Phi4.from_mass(-1, 2, 2), "two-sites": Phi4.from_mass(-1, 2, 1)
    }  # fmt: skip
    assert dmmc("exactness", "--model", "model.safetensors", "--out", tmp_path / "lab") == 2
    assert not (tmp_path / "lab").exists()


def test_help_names_every_variant(capsys):
    with pytest.raises(SystemExit):
        dmmc("exactness", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert all(f" {name}" in text for name in exactness.NAMES)

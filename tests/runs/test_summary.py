"""Summaries of runs: every observable, typed results that survive JSON, and what is said of weights and energies."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dmmc import diagnostics
from dmmc.core.facts import KernelFacts, PartFacts
from dmmc.diagnostics.symbols import symbol
from dmmc.proposals.certificate import Certificate
from dmmc.runs.run import load_run
from dmmc.runs.summary import estimates, proposals_are_independent, summarise
from dmmc.runs.summary_records import RunSummary
from dmmc.theory.momenta import orbit_phat2
from helpers import ar1
from stored_runs import store, write_format1

CHAINS, DRAWS, LATTICE = 16, 400, (4, 4)
DIFFUSION = KernelFacts("independence", "diffusion", independent_weights=True)


def observables(M=None, seed=1):
    """A record whose M is an AR(1) series of tau_int 2, and whose two-point function has xi = 1.5."""
    rng = np.random.default_rng(seed)
    M = ar1(2.0, CHAINS, DRAWS, rng) if M is None else M
    phat2 = orbit_phat2(LATTICE)
    two_point = 16 * (M**2).mean() / (1 + 1.5**2 * phat2) * rng.exponential(size=(*M.shape, len(phat2)))
    two_point[..., 0] = 16 * M**2
    standard = {"M": M, "abs_M": abs(M), "M2": M**2, "M4": M**4, "phi2": M**2 + 1}
    return {**standard, "S_per_site": ar1(1.0, *M.shape, rng), "two_point": two_point}


def weights(sigma=0.5, seed=2):
    log_w = np.random.default_rng(seed).normal(-0.5 * sigma**2, sigma, (CHAINS, DRAWS))
    accepted = np.random.default_rng(seed + 1).random((CHAINS, DRAWS)) < 0.7
    return {"accepted": accepted, "acceptance_rate": accepted * 1.0, "log_w": log_w, "log_w_proposed": log_w}


def made(path, record=None, stats=None, **options):
    stats = {"accepted": np.ones((CHAINS, DRAWS))} if stats is None else stats
    return load_run(
        store(path / "run.h5", observables() if record is None else record, stats, lattice=LATTICE, **options)
    )


def certificate(n=16, std=1e-3, seed=3):
    rng = np.random.default_rng(seed)
    delta, rounding = std * rng.normal(size=n), 1e-5 * rng.normal(size=n)
    return Certificate(delta, np.zeros(0), rounding, np.full(n, 1e-6), np.full(n, -2e-5)).arrays()


def test_every_observable_appears(tmp_path):
    rng = np.random.default_rng(5)
    own = {"plaquette": rng.normal(size=(CHAINS, DRAWS)), "wall": rng.normal(size=(CHAINS, DRAWS, 2))}
    run = made(tmp_path, observables() | own)
    means = estimates(run)
    assert set(means) == {
        *("M", "abs_M", "M2", "M4", "phi2", "S_per_site", "chi2", "chi2_signed", "binder", "xi"),
        *("plaquette", "wall[0]", "wall[1]"),
    }
    assert means == diagnostics.summary(run.observables, 16, float(orbit_phat2(LATTICE)[1]))
    assert abs(means["xi"].value - 1.5) < 5 * means["xi"].error
    summary = summarise(run)
    assert list(summary.observables) == list(means)
    for name, x in means.items():
        here = summary.observables[name]
        assert (here.value, here.error, here.tau_int) == (x.value, x.error, x.tau_int)
        assert symbol(name).text in str(summary) and str(x) in str(summary)


def test_typed_and_stored_as_json(tmp_path):
    stats = weights() | {"energy_error": np.zeros((CHAINS, DRAWS))}
    evaluation = certificate() | {"log_w_reference": np.random.default_rng(4).normal(0.125, 0.5, 200)}
    finding = {"symmetry": "z2", "evidence": "declared by the action", "deviation": None}
    summary = summarise(
        made(tmp_path, stats=stats, kernel=DIFFUSION, evaluation=evaluation, provenance={"symmetry": finding})
    )
    assert RunSummary.from_json(summary.to_json()) == summary
    assert (summary.symmetry, summary.symmetry_evidence) == ("z2", "declared by the action")
    assert summary.facts == DIFFUSION and summary.lattice == LATTICE and summary.seed == 7
    assert (summary.chains, summary.draws, summary.discard) == (CHAINS, DRAWS, 0)
    bare = summarise(made(tmp_path / "bare", kernel="hmc"))
    assert RunSummary.from_json(bare.to_json()) == bare
    assert (bare.ess_fraction, bare.kl, bare.certificate, bare.energy, bare.bias_bound_sigma) == (None,) * 5


def test_weights_and_divergences(tmp_path):
    sigma = 0.5
    reference = np.random.default_rng(4).normal(0.5 * sigma**2, sigma, 4000)
    run = made(tmp_path, stats=weights(sigma), kernel=DIFFUSION, evaluation={"log_w_reference": reference})
    summary = summarise(run)
    n = CHAINS * DRAWS
    # Gaussian log weights, log Z = 0; spreads of the estimates are below sigma / sqrt(4000) = 0.008
    assert summary.ess_fraction == pytest.approx(math.exp(-(sigma**2)), abs=0.05)
    assert summary.std_log_w == pytest.approx(sigma, abs=5 * sigma / math.sqrt(2 * n))
    assert summary.expected_acceptance == pytest.approx(math.erfc(sigma / 2), abs=0.02)
    assert summary.kl.kl_q_p == pytest.approx(sigma**2 / 2, abs=0.04)
    assert summary.kl.kl_p_q == pytest.approx(sigma**2 / 2, abs=0.06)
    assert abs(summary.kl.log_z) < 5 * summary.kl.log_z_error and abs(summary.kl.log_z_reference) < 0.06
    assert summary.kl.std_log_w_reference == pytest.approx(sigma, abs=0.03)
    assert summary.rejected_not_finite == 0
    assert summary.acceptance == run.stats["accepted"].mean()
    text = str(summary)
    assert f"ESS/N {summary.ess_fraction:.3f}" in text
    assert f"KL(p||q) from the reference: {summary.kl.kl_p_q:.4g}" in text
    # The mean of 1/w has the relative variance exp(sigma^2) - 1; its error is known to a few per cent.
    assert summary.kl.log_z_reference_error == pytest.approx(math.sqrt(math.expm1(sigma**2) / 4000), rel=0.3)
    shown = diagnostics.format_value(summary.kl.log_z_reference, summary.kl.log_z_reference_error)
    assert f"{shown} from the reference" in text
    # A kernel whose weights are not those of independent proposals says nothing of the kind.
    facts = replace(run.header.facts, independent_weights=False)
    dependent = replace(run, header=replace(run.header, facts=facts))
    assert not proposals_are_independent(dependent)
    assert summarise(dependent).ess_fraction is None and summarise(dependent).kl is None


def test_a_proposal_of_weight_zero(tmp_path):
    stats = weights()
    stats["log_w_proposed"] = stats["log_w_proposed"].copy()
    stats["log_w_proposed"][0, 0] = -np.inf
    reference = np.random.default_rng(4).normal(0.125, 0.5, 400)
    summary = summarise(made(tmp_path, stats=stats, kernel=DIFFUSION, evaluation={"log_w_reference": reference}))
    assert summary.rejected_not_finite == 1 and summary.kl.kl_q_p is None and summary.kl.kl_p_q is not None
    assert "1 proposals were not finite" in str(summary) and "infinite" in str(summary)


def test_bias_bounds(tmp_path):
    run = made(tmp_path, stats=weights(), kernel=DIFFUSION, evaluation=certificate())
    summary, stored = summarise(run), Certificate.stored(run.evaluation)
    assert summary.bias_bound_sigma == summary.certificate.limit_95 == stored.limit
    assert summary.observables["M2"].bias_bound == pytest.approx(stored.limit * np.std(run.observables["M2"]))
    assert summary.observables["chi2"].bias_bound is None  # not the mean of something measured on configurations
    shares = [x.bias_bound / x.error for x in summary.observables.values() if x.bias_bound is not None]
    assert summary.bias_of_error == pytest.approx(max(shares))
    assert (summary.certificate.method, summary.certificate.proposals) == ("step doubling", 16)
    assert summary.certificate.reversal_log_q == 2e-5
    assert "bias at most" in str(summary) and str(summary.certificate) in str(summary)
    # Without a certificate the spread of delta is all there is.
    only = replace(run, evaluation={"delta": run.evaluation["delta"]})
    assert summarise(only).certificate is None
    assert summarise(only).bias_bound_sigma == np.std(run.evaluation["delta"], ddof=1)


def test_a_difference_of_log_q_between_the_two_ways_counts_where_every_step_goes_back(tmp_path):
    """Of 16 x 400 draws, a shift of 0.1 standard deviations is several statistical errors, and 2e-5 is none."""
    parts = (PartFacts("diffusion", "accepted", 1, {}), PartFacts("HMC", "hmc_accepted", 1, {}))
    cycle = KernelFacts("cycle", "diffusion + HMC", parts=parts)
    exact, evaluation = certificate(), certificate()
    evaluation["reversal_log_q"] = np.full(16, -0.1)
    for number, (kernel, arrays, said) in enumerate(
        [(cycle, evaluation, True), (cycle, exact, False), (DIFFUSION, evaluation, False)]
    ):
        (tmp_path / str(number)).mkdir()
        summary = summarise(made(tmp_path / str(number), stats=weights(), kernel=kernel, evaluation=arrays))
        assert ("log q differs by 0.1 from that of the way there" in str(summary)) == said
        # The bound contains it for kernels with parts alone.
        stored = Certificate(**{name: arrays[name] for name in Certificate.__dataclass_fields__})
        added = 0.1 if said else 2e-5 if kernel is cycle else 0.0
        assert summary.bias_bound_sigma == pytest.approx(stored.limit + added, rel=1e-9)


def test_efficiency_of_M_and_M2(tmp_path):
    summary = summarise(made(tmp_path, steps_per_draw=3, cost={"network": 40, "force": 5}))
    for name in ("M", "M2"):
        tau = summary.observables[name].tau_int
        costs = summary.efficiency[name]
        assert costs.effective_samples == pytest.approx(CHAINS * DRAWS / (2 * tau))
        # 2 seconds for 400 draws of 16 chains
        assert costs.seconds == pytest.approx(2 * tau * 2.0 / (CHAINS * DRAWS))
        assert costs.evaluations == pytest.approx({"network": 2 * tau * 120, "force": 2 * tau * 15})
    assert summary.observables["M"].tau_int > summary.observables["M2"].tau_int
    assert "network evaluations each" in str(summary)
    assert summary.wall_seconds == {"chain": 2.0}


def test_wall_seconds_of_a_command(tmp_path):
    assert summarise(made(tmp_path), {"warm-up": 1.0, "chain": 3.0}).wall_seconds == {"warm-up": 1.0, "chain": 3.0}


def test_draws_at_the_start_can_be_discarded(tmp_path):
    record = observables()
    record["M2"] = record["M2"].copy()
    record["M2"][:, :50] += 100.0
    run = made(tmp_path, record)
    later = run.discarding(50)
    assert summarise(later).observables["M2"].value == record["M2"][:, 50:].mean() == estimates(later)["M2"].value
    assert (summarise(later).discard, summarise(later).draws) == (50, DRAWS - 50)
    assert "after the first 50" in str(summarise(later))
    assert summarise(run).observables["M2"].value == pytest.approx(record["M2"].mean())


def test_broken_phase_has_no_correlation_length(tmp_path):
    rng = np.random.default_rng(6)
    sign = np.where(rng.random((CHAINS, DRAWS)) < 0.5, -1, 1)
    summary = summarise(made(tmp_path, observables(sign * (4 + 0.3 * rng.normal(size=(CHAINS, DRAWS))))))
    assert "xi" not in summary.observables and "chi2" in summary.observables
    assert any("broken phase" in note for note in summary.notes) and "broken phase" in str(summary)
    assert not any("broken" in note for note in summarise(made(tmp_path / "symmetric")).notes)


def test_energy_errors_of_trajectories_that_ran_away(tmp_path):
    dH = np.random.default_rng(7).normal(0.5, 1.0, (CHAINS, DRAWS))
    dH[0, :5] = [np.inf, np.nan, 1e200, 1e300, 2000.0]
    with np.errstate(over="raise", invalid="raise"):
        energy = summarise(made(tmp_path, stats={"accepted": np.ones_like(dH), "energy_error": dH})).energy
    assert energy.ran_away == 5
    # dH of mean 1/2 and variance 1 fulfils Creutz's identity; exp(-dH) has the variance e - 1.
    n = dH.size
    assert energy.mean == pytest.approx(0.5, abs=5 / math.sqrt(n))
    assert energy.std == pytest.approx(1.0, abs=5 / math.sqrt(2 * n))
    assert energy.mean_exp_minus == pytest.approx(1.0, abs=5 * math.sqrt((math.e - 1) / n) + 5 / n)
    far = np.full((CHAINS, DRAWS), -900.0)
    stats = {"accepted": np.ones_like(far), "energy_error": far}
    assert summarise(made(tmp_path / "far", stats=stats)).energy.mean_exp_minus is None
    none = summarise(made(tmp_path / "none", stats={**stats, "energy_error": np.full_like(far, np.inf)})).energy
    assert (none.mean, none.std, none.mean_exp_minus, none.ran_away) == (None, None, 0.0, n)


def test_constant_and_short_series_are_remarked_on(tmp_path):
    M = np.repeat(np.random.default_rng(8).normal(size=(CHAINS, 1)), DRAWS, axis=1)
    summary = summarise(made(tmp_path, observables(M)))
    assert any(note.startswith("M: no chain ever changed") for note in summary.notes)
    assert any("more warnings like these" in note for note in summary.notes)
    still = observables() | {"charge": np.zeros((CHAINS, DRAWS))}
    summary = summarise(made(tmp_path / "still", still))
    charge = summary.observables["charge"]
    assert (charge.value, charge.error, charge.tau_int) == (0.0, None, None)
    assert any("charge is constant" in note for note in summary.notes)


def test_for_notebooks(tmp_path):
    record = observables() | {"<b>bold": np.random.default_rng(9).normal(size=(CHAINS, DRAWS))}
    facts = KernelFacts("mine", "mine & yours", inexact="no <test>")
    summary = summarise(made(tmp_path, record, kernel=facts))
    html = summary._repr_html_()
    assert "&lt;b&gt;bold" in html and "<b>bold" not in html and "mine &amp; yours" in html
    assert "no &lt;test&gt;" in html and html.count("<table>") == html.count("</table>") == 2
    assert repr(summary) == str(summary) and "INEXACT, on purpose: no <test>" in str(summary)
    lines = str(summary).splitlines()
    assert lines[0] == "mine & yours: 16 chains x 400 draws, phi4 on 4 x 4"
    rows = lines[lines.index(next(line for line in lines if line.startswith("---"))) + 1 :][: len(summary.observables)]
    assert len({len(row) for row in rows}) == 1, "columns are aligned"


def test_old_files_are_summarised(tmp_path):
    stats = weights()
    del stats["acceptance_rate"]
    kernel = {"name": "independence", "proposal": {}}
    path = write_format1(tmp_path / "run.h5", kernel, observables(), stats, lattice=list(LATTICE))
    summary = summarise(load_run(path))
    assert summary.ess_fraction is not None and summary.efficiency["M"].evaluations["network"] > 48
    assert summary.facts.label == "diffusion"


def test_without_torch(tmp_path):
    path = made(tmp_path).path
    code = (
        "import sys; from dmmc.runs.run import load_run; from dmmc.runs.summary import summarise; "
        f"print(summarise(load_run({str(path)!r}))); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_nobody_is_told_to_transpose_a_stored_run(tmp_path):
    few = {name: x[:, :6] for name, x in observables().items()}
    with pytest.warns(diagnostics.AxesWarning):
        diagnostics.gamma_method(few["M2"])
    run = made(tmp_path, few, {"accepted": np.ones((CHAINS, 6))})
    assert "transpose" not in str(summarise(run))


def test_the_bias_of_a_run_without_a_certificate_in_words(tmp_path):
    run = made(tmp_path, stats=weights(), kernel=DIFFUSION, evaluation={"delta": certificate()["delta"]})
    summary = summarise(run)
    assert summary.bias.startswith("bias at most about") and f"integrator: {summary.bias}" in str(summary)
    assert summarise(made(tmp_path / "hmc")).bias == ""

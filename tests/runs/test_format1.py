"""Run files of format version 1: read with everything that later versions record, but not resumed."""

import json
import math

import numpy as np
import pytest

from dmmc.core.errors import FileError
from dmmc.core.facts import KernelFacts
from dmmc.runs import format1
from dmmc.runs.header import RunHeader, RunRecord
from dmmc.runs.journal import RunWriter
from dmmc.runs.run import begun_header, load_run, stored_header
from stored_runs import HEADER, LATTICE, journal, write_format1

KERNEL = {"name": "independence", "proposal": {"name": "flow", "n_steps": 12}}


def arrays(chains=3, draws=40, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(chains, draws)) for name in ("M", "abs_M", "M2", "M4", "phi2", "S_per_site")}


def weights(chains=3, draws=40, seed=2):
    """An independence chain: its statistics as version 1 recorded them, and the probabilities of its steps."""
    rng = np.random.default_rng(seed)
    proposed = rng.normal(size=(chains, draws))
    now = rng.normal(size=chains)
    accepted, states, rate = np.empty((chains, draws)), np.empty((chains, draws)), np.empty((chains, draws))
    for k in range(draws):
        rate[:, k] = np.exp(np.minimum(proposed[:, k] - now, 0))
        accepted[:, k] = rng.random(chains) < rate[:, k]
        states[:, k] = now = np.where(accepted[:, k], proposed[:, k], now)
    return {"accepted": accepted, "log_w": states, "log_w_proposed": proposed, "log_q": -states}, rate


def test_header_and_record(tmp_path):
    observables, (stats, _) = arrays(), weights()
    path = write_format1(tmp_path / "run.h5", KERNEL, observables, stats)
    run = load_run(path)
    assert run.header == RunHeader(
        kernel=KERNEL,
        facts=KernelFacts("independence", "diffusion", independent_weights=True),
        cost={"network": 48},
        action={"name": "phi4", "kappa": 0.27, "lam": 0.022, "scale": 1.0},
        lattice=LATTICE,
        seed=7,
        steps_per_draw=1,
        keep_every=0,
        block=16,
        n_draws=40,
        provenance={"chains": 3},
    )
    assert run.record == RunRecord({"chain": 12.5}, 40)
    assert stored_header(path) == begun_header(path) == run.header
    for name, array in observables.items():
        np.testing.assert_array_equal(run.observables[name], array)
    assert repr(run) == "Run run.h5: diffusion, 3 chains x 40 draws, phi4 on 4 x 2"


@pytest.mark.parametrize(
    ("kernel", "label", "independent", "model_free"),
    [
        ({"name": "hmc", "step_size": 0.1, "n_leapfrog": 4}, "HMC", False, True),
        ({"name": "cluster", "n_local": 1}, "cluster", False, True),
        (KERNEL, "diffusion", True, False),
        ({"name": "latent", "theta": math.pi / 2}, "latent", True, False),
        ({"name": "latent", "theta": 0.4}, "latent", False, False),
        ({"name": "path", "proposal": {}}, "path", True, False),
        ({"name": "path_refresh", "level": 0.5}, "partial path", False, False),
        ({"name": "hybrid", "parts": [KERNEL, {"name": "hmc"}]}, "hybrid", False, False),
        ({"name": "penalty", "inexact": True, "inexact_reason": "noise"}, "penalty", False, False),
        ({"name": "unadjusted", "inexact": True, "inexact_reason": "no test"}, "unadjusted", False, False),
        ({"name": "sde with flow density"}, "sde with flow density", False, False),
    ],
    ids=lambda x: x["name"] if isinstance(x, dict) else None,
)
def test_facts_follow_from_the_kernel(kernel, label, independent, model_free):
    facts = format1.facts(kernel)
    assert facts == KernelFacts(kernel["name"], label, independent, model_free, kernel.get("inexact_reason", ""))


def test_acceptance_rate_of_weights(tmp_path):
    stats, rate = weights(chains=12)
    stats["log_w_proposed"][1, 5] = -np.inf  # not finite, hence rejected
    run = load_run(write_format1(tmp_path / "run.h5", KERNEL, arrays(chains=12), stats))
    derived = run.stats["acceptance_rate"]
    rate[1, 5] = 0
    np.testing.assert_allclose(derived[:, 1:], rate[:, 1:], rtol=1e-12)
    first = stats["accepted"][:, 0] > 0
    assert first.any() and not first.all()
    np.testing.assert_array_equal(derived[first, 0], 1.0)
    np.testing.assert_allclose(derived[~first, 0], rate[~first, 0], rtol=1e-12)


def test_acceptance_rate_of_energy_errors(tmp_path):
    dH = np.random.default_rng(3).normal(size=(3, 40))
    dH[0, 0] = np.inf
    stats = {"accepted": np.random.default_rng(4).random((3, 40)) < 0.5, "energy_error": dH}
    run = load_run(write_format1(tmp_path / "run.h5", {"name": "hmc"}, arrays(), stats))
    np.testing.assert_allclose(run.stats["acceptance_rate"], np.minimum(1, np.exp(-dH)))


def test_acceptance_rate_of_several_steps_per_draw(tmp_path):
    stats, _ = weights()
    run = load_run(write_format1(tmp_path / "run.h5", KERNEL, arrays(), stats, steps_per_draw=2))
    np.testing.assert_array_equal(run.stats["acceptance_rate"], stats["accepted"])


def test_an_old_run_is_not_resumed(tmp_path):
    path = write_format1(tmp_path / "run.h5", KERNEL, arrays(), weights()[0])
    header = load_run(path).header
    with pytest.raises(FileError, match=r"older dmmc.*random numbers"):
        RunWriter.resume(path, header)
    assert not journal(path).exists()
    unfinished = journal(tmp_path / "unfinished.h5")
    unfinished.mkdir()
    old = {key: value for key, value in HEADER.to_json().items() if key not in ("facts", "cost", "version")}
    old["evaluations"] = {"network": 48}
    manifest = {"format": "dmmc-run", "format_version": 1, "run_id": "a", "base_blocks": 0, "base_draws": 0}
    (unfinished / "manifest.json").write_text(json.dumps({**manifest, "header": old}))
    assert begun_header(tmp_path / "unfinished.h5") == HEADER
    with pytest.raises(FileError, match="older dmmc"):
        RunWriter.resume(tmp_path / "unfinished.h5", HEADER)


def test_a_header_without_a_kernel_is_refused(tmp_path):
    path = write_format1(tmp_path / "run.h5", None, arrays(), weights()[0])
    with pytest.raises(FileError, match=r"header of .* is not that of a dmmc run"):
        load_run(path)

"""What a run says: every observable with its error, and how good the chain, its weights and its integrator were.

This module does not import torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dmmc import diagnostics
from dmmc.diagnostics import DiagnosticsWarning, Estimate
from dmmc.diagnostics.energy import mean_exp_minus, ran_away
from dmmc.diagnostics.observables import components
from dmmc.proposals.certificate import Certificate
from dmmc.runs.run import StoredRun
from dmmc.runs.summary_records import Efficiency, EnergySummary, KlSummary, ObservableEstimate, RunSummary
from dmmc.theory.momenta import orbit_phat2

SLOW = ("M", "M2")
"""Observables whose autocorrelation times and costs are summarised: the slowest, and the slowest even one."""

NOTES = 3
"""Warnings of the diagnostics that are repeated in a summary; a few of many that say the same."""


def estimates(run: StoredRun) -> dict[str, Estimate]:
    """Every observable of a run with its error.

    Recorded observables and functions of their means are there, each component of a vector by the name ``name[k]``.
    The two-point function enters through the correlation length xi only, which is left out if M keeps away from zero
    (:func:`dmmc.diagnostics.is_broken`). Warnings about short or constant series are kept quiet.

    Raises:
        DmmcError: if a standard observable is missing, or has fewer than four draws.
    """
    return _estimates(run)[0]


def summarise(run: StoredRun, wall: Mapping[str, float] | None = None) -> RunSummary:
    """The summary of a run.

    Args:
        run: the run; to discard another number of draws, pass ``run.discarding(n)``.
        wall: wall seconds by stage; None for those of the run file.

    Raises:
        DmmcError: as :func:`estimates`.
    """
    means, notes = _estimates(run)
    stored = Certificate.stored(run.evaluation)
    certificate = None if stored is None else stored.summary()
    sigma = certificate.limit_95 if certificate is not None else bias_bound_sigma(run)
    observables = {
        name: ObservableEstimate(
            value=_known(x.value),
            error=_known(x.error),
            tau_int=_known(x.tau_int),
            tau_int_error=_known(x.tau_int_error),
        )
        for name, x in means.items()
    }
    bounds = {} if sigma is None else {name: sigma * spread for name, spread in _spreads(run).items()}
    for name in observables.keys() & bounds.keys():
        observables[name] = replace(observables[name], bias_bound=_known(bounds[name]))
    independent = proposals_are_independent(run)
    log_w = run.stats["log_w_proposed"] if independent else None
    symmetry = run.header.provenance.get("symmetry")
    return RunSummary(
        file=str(run.path),
        facts=run.header.facts,
        action=run.header.action,
        lattice=run.lattice,
        seed=run.header.seed,
        chains=run.n_chains,
        draws=run.n_draws,
        discard=run.discarded,
        observables=observables,
        efficiency=_efficiency(run, means),
        acceptance=_known(float(np.mean(run.stats["accepted"]))) if "accepted" in run.stats else None,
        ess_fraction=None if log_w is None else diagnostics.ess_fraction(log_w),
        std_log_w=None if log_w is None else _known(diagnostics.std_log_w(log_w)),
        expected_acceptance=None if log_w is None else diagnostics.expected_acceptance(log_w),
        rejected_not_finite=None if log_w is None else diagnostics.n_zero_weight(log_w),
        kl=_kl(run) if independent else None,
        bias_bound_sigma=sigma,
        bias_of_error=None if sigma is None else _bias_of_error(bounds, means),
        certificate=certificate,
        energy=_energy(run),
        symmetry=str(symmetry.get("symmetry", "")) if isinstance(symmetry, dict) else "",
        symmetry_evidence=str(symmetry.get("evidence", "")) if isinstance(symmetry, dict) else "",
        wall_seconds=dict(run.record.wall_seconds if wall is None else wall),
        notes=tuple(notes),
        steps_discarded=run.header.discard,
    )


def proposals_are_independent(run: StoredRun) -> bool:
    """Whether ``log_w_proposed`` are weights of independent proposals, as ESS, log Z and the laws of rejection need."""
    return run.header.facts.independent_weights and "log_w_proposed" in run.stats


def bias_bound_sigma(run: StoredRun) -> float | None:
    """Standard deviation of the integrator's error of log q, which bounds the bias of an observable in units of its
    own.

    This is the estimate by step doubling; the limit of the certificate is the bound with its confidence. None for a
    chain without an integrator in its proposal.
    """
    return float(np.std(run.evaluation["delta"], ddof=1)) if "delta" in run.evaluation else None


def _estimates(run: StoredRun) -> tuple[dict[str, Estimate], list[str]]:
    """The estimates, and what is to be said about them."""
    phat2 = float(orbit_phat2(run.lattice)[1]) if run.volume > 1 else None
    notes = []
    M = run.observables.get("M")
    if phat2 is not None and M is not None and M.ndim == 2 and diagnostics.is_broken(M):
        phat2 = None
        notes.append(
            "M keeps away from zero, as in a broken phase, where the second-moment xi is not a correlation length; "
            "it is left out."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagnosticsWarning)
        means = diagnostics.summary(run.observables, run.volume, phat2)
    messages = [str(x.message) for x in caught if issubclass(x.category, DiagnosticsWarning)]
    notes += [f"{message}." for message in messages[:NOTES]]
    if len(messages) > NOTES:
        notes.append(f"There are {len(messages) - NOTES} more warnings like these.")
    return means, notes


def _spreads(run: StoredRun) -> dict[str, float]:
    """Standard deviations of everything that is measured on single configurations."""
    parts = (part for name, values in run.observables.items() for part in components(name, values))
    return {name: float(np.std(series)) for name, series in parts}


def _efficiency(run: StoredRun, means: Mapping[str, Estimate]) -> dict[str, Efficiency]:
    seconds = run.wall_seconds_per_draw
    costs = {}
    for name in SLOW:
        tau = means[name].tau_int if name in means else math.nan
        if tau > 0:
            steps = 2 * tau * run.header.steps_per_draw
            costs[name] = Efficiency(
                effective_samples=run.n_chains * run.n_draws / (2 * tau),
                seconds=None if seconds is None else 2 * tau * seconds,
                evaluations={kind: steps * n for kind, n in run.header.cost.items()},
            )
    return costs


def _kl(run: StoredRun) -> KlSummary | None:
    if "log_w_reference" not in run.evaluation:
        return None
    gap = diagnostics.kl_gap(run.stats["log_w_proposed"], run.evaluation["log_w_reference"])
    return KlSummary(
        kl_q_p=_known(gap.kl_q_p),
        kl_p_q=_known(gap.kl_p_q),
        std_log_w_reference=_known(gap.std_p),
        log_z=_known(gap.log_z),
        log_z_error=_known(gap.log_z_error),
        log_z_reference=_known(gap.log_z_reference),
    )


def _bias_of_error(bounds: Mapping[str, float], means: Mapping[str, Estimate]) -> float:
    """The largest bias bound of an observable in units of its statistical error."""
    return max((bounds[name] / x.error for name, x in means.items() if name in bounds and x.error > 0), default=0.0)


def _energy(run: StoredRun) -> EnergySummary | None:
    if "energy_error" not in run.stats:
        return None
    dH = np.asarray(run.stats["energy_error"], dtype=np.float64)
    stayed = dH[~ran_away(dH)]
    return EnergySummary(
        mean=float(stayed.mean()) if stayed.size else None,
        std=float(stayed.std()) if stayed.size else None,
        mean_exp_minus=_known(mean_exp_minus(dH)),
        ran_away=dH.size - stayed.size,
    )


def _known(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None

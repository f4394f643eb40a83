"""What a run says: every observable with its error, and how good the chain, its weights and its integrator were.

This module does not import torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dmmc import diagnostics
from dmmc.diagnostics import AxesWarning, DiagnosticsWarning, Estimate
from dmmc.diagnostics.bias import bias_over_error
from dmmc.diagnostics.energy import mean_exp_minus, ran_away
from dmmc.diagnostics.observables import columns, parts
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.diagnostics.slowing_down import cost_per_effective_sample
from dmmc.proposals.certificate import Certificate
from dmmc.runs.rival import Pilot, rivals, sentence
from dmmc.runs.run import StoredRun
from dmmc.runs.summary_records import Efficiency, EnergySummary, KlSummary, ObservableEstimate, PartSummary, RunSummary
from dmmc.theory.momenta import orbit_phat2

SLOW = ("M", "M2")
"""Observables whose costs are summarised: usually the slowest, and the slowest of those that are even in the field."""

SHIFTED = 0.25
"""Statistical errors of an observable by which the difference of log q between the two ways may shift it unsaid."""

NOTES = 3
"""Warnings of the diagnostics that are repeated in a summary; a few of many that say the same."""


@dataclass(frozen=True)
class Measurement:
    """Every observable of a run, as :func:`measurement` gives it.

    Attributes:
        estimates: means, and functions of means, by name.
        notes: what is to be said about them, one sentence or more each.
    """

    estimates: dict[str, Estimate]
    notes: tuple[str, ...]


def estimates(run: StoredRun) -> dict[str, Estimate]:
    """The estimates of :func:`measurement`."""
    return measurement(run).estimates


def measurement(run: StoredRun) -> Measurement:
    """Every observable of a run with its error.

    Recorded observables and functions of their means are there, those of ``run.derived`` last, and each component of a
    vector by the name ``name[k]``. The two-point function enters through the correlation length xi only, which is left
    out if M keeps away from zero (:func:`dmmc.diagnostics.is_broken`). Warnings about short or constant series are kept
    quiet; the first of them are among the notes.

    Raises:
        DmmcError: if a standard observable is missing, or has fewer than four draws; or as
            :func:`dmmc.diagnostics.of_means`.
    """
    phat2 = float(orbit_phat2(run.lattice)[1]) if run.volume > 1 else None
    notes = []
    M = run.observables.get("M")
    length = run.observables["abs_M"] if M is not None and M.ndim > 2 else M
    if phat2 is not None and length is not None and diagnostics.is_broken(length):
        phat2 = None
        notes.append(
            "M keeps away from zero, as in a broken phase, where the second-moment xi is not a correlation length; "
            "it is left out."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagnosticsWarning)
        warnings.simplefilter("ignore", AxesWarning)  # the axes of a stored run are known
        means = diagnostics.summary(run.observables, run.volume, phat2)
        means |= diagnostics.of_means(run.observables, run.derived)
    messages = [str(x.message) for x in caught if issubclass(x.category, DiagnosticsWarning)]
    notes += [f"{message}." for message in messages[:NOTES]]
    if len(messages) > NOTES:
        notes.append(f"There are {len(messages) - NOTES} more warnings like these.")
    return Measurement(means, tuple(notes))


def summarise(
    run: StoredRun, wall: Mapping[str, float] | None = None, measured: Measurement | None = None
) -> RunSummary:
    """The summary of a run.

    Args:
        run: the run; to discard another number of draws, pass ``run.discarding(n)``.
        wall: wall seconds by stage; None for those of the run file.
        measured: what :func:`measurement` gave for this run, where it is known already; None measures.

    Raises:
        DmmcError: as :func:`measurement`.
    """
    measured = measurement(run) if measured is None else measured
    means = measured.estimates
    stored = Certificate.stored(run.evaluation)
    certificate = None if stored is None else stored.summary()
    series = columns(run.observables)
    sigma = bias_bound_sigma(run)
    observables = {
        name: ObservableEstimate(
            value=_known(x.value),
            error=_known(x.error),
            tau_int=_known(x.tau_int),
            tau_int_error=_known(x.tau_int_error),
        )
        for name, x in means.items()
    }
    if sigma is not None:
        for name in observables.keys() & series.keys():
            bound = _known(sigma * float(np.std(series[name])))
            observables[name] = replace(observables[name], bias_bound=bound)
    independent = proposals_are_independent(run)
    log_w = run.stats["log_w_proposed"] if independent else None
    symmetry = run.header.provenance.get("symmetry")
    acceptance = _known(float(np.mean(run.stats["accepted"]))) if "accepted" in run.stats else None
    better = rivals(Pilot.stored(run.evaluation), means, run.header.steps_per_draw, run.record.step_seconds)
    advice: tuple[str, ...] = (sentence(better, acceptance),) if better else ()
    shift = 0.0 if stored is None or not run.header.facts.parts else stored.way_back
    if max(bias_over_error(means, series, shift).values(), default=0.0) > SHIFTED:
        advice += (
            f"Every step goes back to the latents of the fields, where log q differs by {shift:.2g} from that of the "
            "way there, which may bias the chain: take more steps of the flow (--flow-steps).",
        )
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
        acceptance=acceptance,
        ess_fraction=None if log_w is None else diagnostics.ess_fraction(log_w),
        std_log_w=None if log_w is None else _known(diagnostics.std_log_w(log_w)),
        expected_acceptance=None if log_w is None else diagnostics.expected_acceptance(log_w),
        rejected_not_finite=None if log_w is None else diagnostics.n_zero_weight(log_w),
        kl=_kl(run) if independent else None,
        bias_bound_sigma=sigma,
        bias_of_error=None if sigma is None else max(bias_over_error(means, series, sigma).values(), default=0.0),
        certificate=certificate,
        energy=_energy(run),
        symmetry=str(symmetry.get("symmetry", "")) if isinstance(symmetry, dict) else "",
        symmetry_evidence=str(symmetry.get("evidence", "")) if isinstance(symmetry, dict) else "",
        wall_seconds=dict(run.record.wall_seconds if wall is None else wall),
        notes=(*_remarks(run), *measured.notes, *advice),
        steps_discarded=run.header.discard,
        parts=_parts(run),
        rivals=better,
    )


def proposals_are_independent(run: StoredRun) -> bool:
    """Whether ``log_w_proposed`` are weights of independent proposals, as ESS, log Z and the laws of rejection need."""
    return run.header.facts.independent_weights and "log_w_proposed" in run.stats


def bias_bound_sigma(run: StoredRun) -> float | None:
    """Bound on the bias of any mean in units of the standard deviation of its observable.

    It is the limit of the certificate. Where the kernel has parts, the log q of a field that another part has left is
    found on the way back to the latents. If that is larger by c than on the way there, the probabilities of accepting
    new fields are off by factors between ``exp(-|c|)`` and ``exp(|c|)``, and so is the density that is sampled, whose
    means shift by up to ``|c|`` standard deviations; this is added. A run that has no certificate but the integrator's
    error of log q by step doubling, as those of older versions, has the standard deviation of that. None for a chain
    without an integrator.
    """
    certificate = Certificate.stored(run.evaluation)
    if certificate is not None:
        return certificate.limit + (certificate.way_back if run.header.facts.parts else 0.0)
    return float(np.std(run.evaluation["delta"], ddof=1)) if "delta" in run.evaluation else None


def _efficiency(run: StoredRun, means: Mapping[str, Estimate]) -> dict[str, Efficiency]:
    seconds = run.wall_seconds_per_draw
    costs = {}
    for name in (name for slow in SLOW for name in parts(slow, means)):
        tau, error = means[name].tau_int, means[name].tau_int_error
        if tau > 0:
            kinds = {kind: n * run.header.steps_per_draw for kind, n in run.header.cost.items()}
            costs[name] = Efficiency(
                effective_samples=run.n_chains * run.n_draws / (2 * tau),
                seconds=None if seconds is None else cost_per_effective_sample(tau, error, seconds)[0],
                evaluations={kind: cost_per_effective_sample(tau, error, n)[0] for kind, n in kinds.items()},
                bound=not means[name].resolved,
            )
    return costs


def _parts(run: StoredRun) -> tuple[PartSummary, ...]:
    made = []
    for part in run.header.facts.parts:
        accepted = np.asarray(run.stats.get(part.statistic, ()), dtype=np.float64)
        accepted = accepted[~np.isnan(accepted)]
        acceptance = float(accepted.mean()) if accepted.size else None
        made.append(PartSummary(part.label, part.steps, acceptance, part.cost))
    return tuple(made)


def _remarks(run: StoredRun) -> list[str]:
    """What its makers found worth saying about a run, such as where its fields come from and whether they fit."""
    remarks = run.header.provenance.get("remarks")
    return [str(remark) for remark in remarks] if isinstance(remarks, list) else []


def _kl(run: StoredRun) -> KlSummary | None:
    if "log_w_reference" not in run.evaluation:
        return None
    log_w = run.evaluation["log_w_reference"]
    gap = diagnostics.kl_gap(run.stats["log_w_proposed"], log_w)
    error = math.nan
    if log_w.size >= MIN_DRAWS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticsWarning)
            error = diagnostics.log_z_reference(log_w).error
    return KlSummary(
        kl_q_p=_known(gap.kl_q_p),
        kl_p_q=_known(gap.kl_p_q),
        std_log_w_reference=_known(gap.std_p),
        log_z=_known(gap.log_z),
        log_z_error=_known(gap.log_z_error),
        log_z_reference=_known(gap.log_z_reference),
        log_z_reference_error=_known(error),
    )


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

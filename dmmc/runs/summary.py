"""What a run says: every observable with its error, and how good the chain, its weights and its integrator were.

This module does not import torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np

from dmmc import diagnostics
from dmmc.core.facts import KernelFacts
from dmmc.core.records import Record
from dmmc.diagnostics import AxesWarning, DiagnosticsWarning, Estimate, format_value
from dmmc.diagnostics.bias import bias_over_error
from dmmc.diagnostics.energy import mean_exp_minus, ran_away
from dmmc.diagnostics.observables import columns, parts
from dmmc.diagnostics.series import MIN_DRAWS
from dmmc.diagnostics.slowing_down import cost_per_effective_sample
from dmmc.proposals.certificate import Certificate, CertificateSummary
from dmmc.runs.run import StoredRun
from dmmc.theory.momenta import orbit_phat2

SLOW = ("M", "M2")
"""Observables whose autocorrelation times and costs are summarised: the slowest, and the slowest even one."""

NOTES = 3
"""Warnings of the diagnostics that are repeated in a summary; a few of many that say the same."""


@dataclass(frozen=True)
class ObservableEstimate(Record):
    """Mean of an observable, or a function of means. What is not known is None.

    Attributes:
        value: the estimate.
        error: its standard error, autocorrelations included.
        tau_int: integrated autocorrelation time in draws, lattice convention (1/2 for a white series).
        tau_int_error: its standard error.
        bias_bound: bound on the bias from the integrator and from rounding, of 95 % confidence if the run has a
            certificate; only for means of something that is measured on single configurations.
    """

    value: float | None
    error: float | None
    tau_int: float | None
    tau_int_error: float | None
    bias_bound: float | None = None

    def __str__(self) -> str:
        return _text(self.value, self.error)


@dataclass(frozen=True)
class Efficiency(Record):
    """What an effective sample of an observable cost: ``2 tau_int`` draws of one chain.

    Attributes:
        effective_samples: number of effective samples of all chains together.
        seconds: wall time of one of them, all chains running together; None if it was not recorded.
        evaluations: evaluations of the ``force`` or of the ``network`` for one of them.
        bound: whether tau_int is a lower bound only, so that the costs are lower bounds as well, and the number is
            an upper one.
    """

    effective_samples: float
    seconds: float | None
    evaluations: dict[str, float]
    bound: bool = False


@dataclass(frozen=True)
class KlSummary(Record):
    """The proposals against a reference ensemble of the target; see :class:`dmmc.diagnostics.KlGap`.

    Attributes:
        kl_q_p: ``KL(q||p)``, from the proposals; None if it is infinite, because a proposal has weight zero.
        kl_p_q: ``KL(p||q)``, from the reference configurations.
        std_log_w_reference: standard deviation of log w over the reference.
        log_z: log Z from the proposals.
        log_z_error: its standard error.
        log_z_reference: log Z from the reference.
        log_z_reference_error: its standard error.
    """

    kl_q_p: float | None
    kl_p_q: float | None
    std_log_w_reference: float | None
    log_z: float | None
    log_z_error: float | None
    log_z_reference: float | None
    log_z_reference_error: float | None = None


@dataclass(frozen=True)
class EnergySummary(Record):
    """Energy errors dH of HMC trajectories.

    Attributes:
        mean: mean of dH over the trajectories that did not run away.
        std: its standard deviation over these.
        mean_exp_minus: ``<exp(-dH)>`` over all trajectories, which is 1 in equilibrium (M. Creutz, Phys. Rev. D 38
            (1988) 1228); a trajectory that ran away counts as zero.
        ran_away: number of trajectories that ran away: dH is not finite, or its absolute value above 1000.
    """

    mean: float | None
    std: float | None
    mean_exp_minus: float | None
    ran_away: int


@dataclass(frozen=True, repr=False)
class RunSummary(Record):
    """The summary of a run; ``str`` of it is a table for people. What does not apply is None.

    Attributes:
        file: path of the run file.
        facts: what is known about the kernel.
        action: description of the action.
        lattice: extents of the lattice.
        seed: seed of the run.
        chains: number of chains.
        draws: draws of each chain that were averaged.
        discard: draws at the start of each chain that were left out.
        observables: every observable of the run by name.
        efficiency: cost of an effective sample of M and of M2, or of their components, by name.
        acceptance: fraction of the steps that were accepted.
        ess_fraction: effective sample size per proposal, for kernels with independent weights, as are the next three.
        std_log_w: standard deviation of log w over the proposals.
        expected_acceptance: acceptance that follows from the weights.
        rejected_not_finite: number of proposals that were rejected because they were not finite.
        kl: comparison with reference configurations.
        bias_bound_sigma: bound on the bias of any observable in units of its standard deviation: the limit of the
            certificate, or without one the spread of the integrator's error.
        bias_of_error: largest bias bound of an observable in units of its statistical error.
        certificate: how exact the proposals are.
        energy: energy errors of HMC trajectories.
        symmetry: the symmetry that was used, ``z2`` or ``none``; empty if none was recorded.
        symmetry_evidence: how it was found.
        wall_seconds: wall time by stage.
        notes: remarks for people, one sentence or more each.
        steps_discarded: steps of each chain before its first draw, which were not recorded.
    """

    file: str
    facts: KernelFacts
    action: dict[str, Any]
    lattice: tuple[int, ...]
    seed: int
    chains: int
    draws: int
    discard: int
    observables: dict[str, ObservableEstimate]
    efficiency: dict[str, Efficiency] = field(default_factory=dict)
    acceptance: float | None = None
    ess_fraction: float | None = None
    std_log_w: float | None = None
    expected_acceptance: float | None = None
    rejected_not_finite: int | None = None
    kl: KlSummary | None = None
    bias_bound_sigma: float | None = None
    bias_of_error: float | None = None
    certificate: CertificateSummary | None = None
    energy: EnergySummary | None = None
    symmetry: str = ""
    symmetry_evidence: str = ""
    wall_seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    steps_discarded: int = 0

    def __str__(self) -> str:
        tables = [_aligned(rows) for rows in (self._observable_rows(), self._efficiency_rows()) if len(rows) > 1]
        return "\n\n".join([self._title(), *tables, self.quality(), *self.notes])

    def quality(self) -> str:
        """Acceptance, weights, bound on the bias and where the run is, a line each."""
        return "\n".join(f"{label}: {text}" for label, text in self._lines())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        tables = [_html(rows) for rows in (self._observable_rows(), self._efficiency_rows()) if len(rows) > 1]
        lines = "".join(f"<li>{escape(label)}: {escape(text)}</li>" for label, text in self._lines())
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<div><p><b>{escape(self._title())}</b></p>{''.join(tables)}<ul>{lines}</ul>{notes}</div>"

    @property
    def bias(self) -> str:
        """The bound on the bias in words; empty for a chain without an integrator."""
        if self.bias_bound_sigma is None:
            return ""
        share = "" if self.bias_of_error is None else f", {100 * self.bias_of_error:.2g} % of a statistical error"
        if self.certificate is not None:
            return f"{self.certificate}{share}"
        return f"bias at most about {self.bias_bound_sigma:.1e} of the standard deviation of an observable{share}"

    def _title(self) -> str:
        lattice = " x ".join(map(str, self.lattice))
        discarded = f" after the first {self.discard}" if self.discard else ""
        return (
            f"{self.facts.label}: {self.chains} chains x {self.draws} draws{discarded}, "
            f"{self.action.get('name', 'an action')} on {lattice}"
        )

    def _observable_rows(self) -> list[tuple[str, ...]]:
        bounded = any(x.bias_bound is not None for x in self.observables.values())
        rows = [("observable", "mean", "tau_int", *(["bias at most"] if bounded else []))]
        for name, x in self.observables.items():
            bias = "" if x.bias_bound is None else f"{x.bias_bound:.1e}"
            rows.append((name, str(x), _text(x.tau_int, x.tau_int_error), *([bias] if bounded else [])))
        return rows

    def _efficiency_rows(self) -> list[tuple[str, ...]]:
        kinds = sorted({kind for x in self.efficiency.values() for kind in x.evaluations})
        rows = [("effective samples", "number", "seconds each", *(f"{kind} evaluations each" for kind in kinds))]
        for name, x in self.efficiency.items():
            seconds = "-" if x.seconds is None else f"{x.seconds:.3g}"
            counts = (f"{x.evaluations[kind]:.4g}" if kind in x.evaluations else "-" for kind in kinds)
            rows.append((name, f"{x.effective_samples:.4g}", seconds, *counts))
        return rows

    def _lines(self) -> Iterator[tuple[str, str]]:
        if self.facts.inexact:
            yield "INEXACT, on purpose", self.facts.inexact
        if self.steps_discarded:
            yield "beginning", f"{self.steps_discarded} steps were discarded before the first draw"
        if self.acceptance is not None:
            predicted = (
                "" if self.expected_acceptance is None else f" (from the weights {self.expected_acceptance:.3f})"
            )
            yield "acceptance", f"{self.acceptance:.3f}{predicted}"
        if self.ess_fraction is not None:
            spread = "" if self.std_log_w is None else f", std(log w) {self.std_log_w:.3f}"
            yield "weights", f"ESS/N {self.ess_fraction:.3f}{spread}"
        if self.rejected_not_finite:
            yield "warning", f"{self.rejected_not_finite} proposals were not finite and were rejected"
        if self.bias:
            yield "certificate" if self.certificate is not None else "integrator", self.bias
        if self.kl is not None:
            infinite = "infinite (a proposal has weight zero)"
            yield "KL(q||p) from the proposals", infinite if self.kl.kl_q_p is None else f"{self.kl.kl_q_p:.3f}"
            yield "KL(p||q) from the reference", _text(self.kl.kl_p_q)
            proposals = _text(self.kl.log_z, self.kl.log_z_error)
            reference = _text(self.kl.log_z_reference, self.kl.log_z_reference_error)
            yield "log Z", f"{proposals} from the proposals, {reference} from the reference"
        if self.energy is not None:
            ran_away = f", {self.energy.ran_away} trajectories ran away" if self.energy.ran_away else ""
            mean = f"<exp(-dH)> = {_text(self.energy.mean_exp_minus)} (1 in equilibrium)"
            yield "energy error dH", f"std {_text(self.energy.std)}, {mean}{ran_away}"
        if self.symmetry:
            evidence = f" ({self.symmetry_evidence})" if self.symmetry_evidence else ""
            yield "symmetry", self.symmetry + evidence
        yield "file", self.file


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

    Recorded observables and functions of their means are there, each component of a vector by the name ``name[k]``.
    The two-point function enters through the correlation length xi only, which is left out if M keeps away from zero
    (:func:`dmmc.diagnostics.is_broken`). Warnings about short or constant series are kept quiet; the first of them are
    among the notes.

    Raises:
        DmmcError: if a standard observable is missing, or has fewer than four draws.
    """
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
        warnings.simplefilter("ignore", AxesWarning)  # the axes of a stored run are known
        means = diagnostics.summary(run.observables, run.volume, phat2)
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
        bias_of_error=None if sigma is None else max(bias_over_error(means, series, sigma).values(), default=0.0),
        certificate=certificate,
        energy=_energy(run),
        symmetry=str(symmetry.get("symmetry", "")) if isinstance(symmetry, dict) else "",
        symmetry_evidence=str(symmetry.get("evidence", "")) if isinstance(symmetry, dict) else "",
        wall_seconds=dict(run.record.wall_seconds if wall is None else wall),
        notes=measured.notes,
        steps_discarded=run.header.discard,
    )


def proposals_are_independent(run: StoredRun) -> bool:
    """Whether ``log_w_proposed`` are weights of independent proposals, as ESS, log Z and the laws of rejection need."""
    return run.header.facts.independent_weights and "log_w_proposed" in run.stats


def bias_bound_sigma(run: StoredRun) -> float | None:
    """Bound on the bias of any mean in units of the standard deviation of its observable.

    It is the limit of the certificate. A run that has none but the integrator's error of log q by step doubling, as
    those of older versions, has the standard deviation of that. None for a chain without an integrator.
    """
    certificate = Certificate.stored(run.evaluation)
    if certificate is not None:
        return certificate.limit
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


def _text(value: float | None, error: float | None = None) -> str:
    """A number with its error, if that is known."""
    if value is None:
        return "-"
    return f"{value:.4g}" if error is None else format_value(value, error)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _html(rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

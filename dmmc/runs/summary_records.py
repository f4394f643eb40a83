"""The typed summary of a run, and what it says to people. :mod:`dmmc.runs.summary` makes it.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

from dmmc.core.facts import KernelFacts
from dmmc.core.records import Record
from dmmc.diagnostics.symbols import symbol
from dmmc.proposals.certificate import CertificateSummary
from dmmc.runs.rival import Rival
from dmmc.runs.summary_text import aligned, html_table, number


@dataclass(frozen=True, repr=False)
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
        return number(self.value, self.error)

    def __repr__(self) -> str:
        return f"{self}, tau_int {number(self.tau_int, self.tau_int_error)}"


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


@dataclass(frozen=True)
class PartSummary(Record):
    """One of the kernels that a kernel is put together from.

    Attributes:
        label: what people call it.
        steps: its steps in one step of the whole, on average.
        acceptance: fraction of its steps that were accepted; None if none was recorded.
        cost: what its steps cost in one step of the whole: evaluations by name.
    """

    label: str
    steps: float
    acceptance: float | None
    cost: dict[str, float]

    def __str__(self) -> str:
        cost = "".join(f", {n:.4g} {kind} evaluations" for kind, n in self.cost.items())
        return f"acceptance {number(self.acceptance)}, {self.steps:.3g} of its steps in one of the chain{cost}"


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
        parts: the kernels that the kernel is put together from; empty for most.
        rivals: other kernels, with which pilots found an effective M2 or M to cost less; one of the notes says so in
            words.
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
    parts: tuple[PartSummary, ...] = ()
    rivals: tuple[Rival, ...] = ()

    def __str__(self) -> str:
        tables = [aligned(rows) for rows in (self._observable_rows(), self._efficiency_rows()) if len(rows) > 1]
        return "\n\n".join([self._title(), *tables, self.quality(), *self.notes])

    def quality(self) -> str:
        """Acceptance, weights, bound on the bias and the place of the run file, each on a line of its own."""
        return "\n".join(f"{label}: {text}" for label, text in self._lines())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        tables = [html_table(rows) for rows in (self._observable_rows(), self._efficiency_rows()) if len(rows) > 1]
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
            rows.append((symbol(name).text, str(x), number(x.tau_int, x.tau_int_error), *([bias] if bounded else [])))
        return rows

    def _efficiency_rows(self) -> list[tuple[str, ...]]:
        kinds = sorted({kind for x in self.efficiency.values() for kind in x.evaluations})
        rows = [("effective samples", "number", "seconds each", *(f"{kind} evaluations each" for kind in kinds))]
        for name, x in self.efficiency.items():
            seconds = "-" if x.seconds is None else f"{x.seconds:.3g}"
            counts = (f"{x.evaluations[kind]:.4g}" if kind in x.evaluations else "-" for kind in kinds)
            rows.append((symbol(name).value.text, f"{x.effective_samples:.4g}", seconds, *counts))
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
        for part in self.parts:
            yield f"part {part.label}", str(part)
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
            yield "KL(p||q) from the reference", number(self.kl.kl_p_q)
            proposals = number(self.kl.log_z, self.kl.log_z_error)
            reference = number(self.kl.log_z_reference, self.kl.log_z_reference_error)
            yield "log Z", f"{proposals} from the proposals, {reference} from the reference"
        if self.energy is not None:
            ran_away = f", {self.energy.ran_away} trajectories ran away" if self.energy.ran_away else ""
            mean = f"<exp(-dH)> = {number(self.energy.mean_exp_minus)} (1 in equilibrium)"
            yield "energy error dH", f"std {number(self.energy.std)}, {mean}{ran_away}"
        if self.symmetry:
            evidence = f" ({self.symmetry_evidence})" if self.symmetry_evidence else ""
            yield "symmetry", self.symmetry + evidence
        yield "file", self.file

"""What the chains of a scan say: autocorrelation times and costs, power laws, and Binder crossings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from dmmc import diagnostics
from dmmc.core.errors import DmmcError
from dmmc.core.rng import numpy_stream
from dmmc.diagnostics import DiagnosticsWarning, Estimate, resolved_tau
from dmmc.diagnostics.crossings import binder_crossings
from dmmc.diagnostics.slowing_down import cost_per_effective_sample, fit_power_law
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import estimates
from dmmc.studies.scan.points import Along, Point
from dmmc.studies.scan.results import COSTED, TAUS, UNKNOWN, Measured, PointResult, ScanCrossings, ScanFit, TauInt
from dmmc.studies.scan.samplers import SAMPLERS

ENOUGH_FOR_TAU = 200
"""Chains of fewer tau_int than this do not measure tau_int (to 30 %, Wolff, hep-lat/0306017, Eq. 42)."""

WIDE = 4.0
"""At fixed L, points with ``L < WIDE xi`` are not fitted: there L and not xi sets the slowest mode."""


# ---------------------------------------------------------------------------------------------------------
# One sampler at one point


def autocorrelation_times(run: StoredRun) -> dict[str, tuple[Estimate, bool]]:
    """For each observable of :data:`TAUS` its estimate, and whether its tau_int was measured or is a lower bound."""
    taus = {}
    for name in TAUS:
        estimate, resolved = resolved_tau(run.observables[name])
        taus[name] = estimate, bool(resolved and estimate.n >= ENOUGH_FOR_TAU * estimate.tau_int)
    return taus


def point_result(
    point: Point, sampler: str, run: StoredRun, file: str, training_seconds: float | None = None
) -> PointResult:
    """What a scan keeps of one run.

    Args:
        point: where the run was made.
        sampler: name of the sampler.
        run: the run.
        file: its file, relative to the folder of the scan.
        training_seconds: time that the training of its model took.
    """
    taus, header = autocorrelation_times(run), run.header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)  # the series is constant if every step is accepted
        acceptance = diagnostics.gamma_method(run.stats["accepted"])
    # A process that only assembled the file of an interrupted run does not know how long its draws took.
    seconds = run.wall_seconds_per_draw
    per_draw = {"seconds": math.nan if seconds is None else seconds}
    per_draw |= {kind: float(header.steps_per_draw * number) for kind, number in header.cost.items()}
    return PointResult(
        point=point.name,
        line=point.line,
        lattice=header.lattice,
        action=header.action,
        sampler=sampler,
        label=header.facts.label,
        file=file,
        chains=run.n_chains,
        draws=run.n_draws,
        acceptance=Measured.of(acceptance.value, 0.0 if math.isnan(acceptance.error) else acceptance.error),
        observables={name: Measured.of(x.value, x.error) for name, x in estimates(run).items()},
        tau_int={name: TauInt.of_estimate(*tau) for name, tau in taus.items()},
        cost={name: {kind: _cost(taus[name][0], cost) for kind, cost in per_draw.items()} for name in COSTED},
        training_seconds=training_seconds,
    )


def _cost(tau: Estimate, per_draw: float) -> Measured:
    return Measured.of(*cost_per_effective_sample(tau.tau_int, tau.tau_int_error, per_draw))


# ---------------------------------------------------------------------------------------------------------
# All of them together


def common_xi(results: Iterable[PointResult]) -> dict[str, Measured]:
    """The correlation length at each point, from the sampler there that measures it best.

    All samplers are exact, so that one can serve for all; its errors are independent of those of another sampler's
    tau_int.
    """
    xi: dict[str, Measured] = {}
    for result in sorted(results, key=lambda result: SAMPLERS[result.sampler].xi_rank):
        if result.xi.known:
            xi.setdefault(result.point, result.xi)
    return xi


def power_laws(results: Sequence[PointResult], along: Along) -> tuple[tuple[ScanFit, ...], tuple[str, ...]]:
    """Fit ``tau_int = c xi^z`` and, along L, also ``c L^z``, for each line, sampler and observable.

    Args:
        results: of all points and samplers.
        along: what changes along the lines.

    Returns:
        the fits, and what could not be fitted, in words.
    """
    xi = common_xi(results)
    fits: list[ScanFit] = []
    notes: list[str] = []
    for sampler, line in dict.fromkeys((result.sampler, result.line) for result in results):
        of_line = [result for result in results if (result.sampler, result.line) == (sampler, line)]
        label = of_line[0].label
        for against in ("xi", "L") if along == "L" else ("xi",):
            few: list[str] = []
            for name in TAUS:
                measured = [result for result in of_line if result.tau_int[name].resolved]
                places = {result.point: _place(result, against, xi, along) for result in measured}
                usable = [result for result in measured if places[result.point].known]
                if len(usable) < 2:
                    few.append(name)
                    continue
                x, dx = np.array([places[result.point].numbers for result in usable]).T
                tau, error = np.array([result.tau_int[name].numbers for result in usable]).T
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", DiagnosticsWarning)  # two points; the note below says it once
                        law = fit_power_law(x, tau, error, dx, f"tau_int of {name} against {against}, {label}, {line}")
                except DmmcError as reason:
                    notes.append(f"no power law: {reason}")
                    continue
                points = tuple(result.point for result in usable)
                fits.append(
                    ScanFit.of(law, sampler=sampler, line=line, observable=name, against=against, points=points)
                )
            if few and len(of_line) > 1:
                where = "" if along == "L" else f" and L >= {WIDE:g} xi"
                what = f"power law of {', '.join(few)} against {against}, {label}, {line}"
                notes.append(f"no {what}: fewer than two points have a measured tau_int and {against}{where}")
    if any(fit.dof == 0 for fit in fits):
        notes.append("a power law goes through any two points: without a third one nothing tests it")
    return tuple(fits), tuple(notes)


def _place(result: PointResult, against: str, xi: dict[str, Measured], along: Along) -> Measured:
    """What tau_int is fitted against at a point; unknown where the point cannot be fitted."""
    if against == "L":
        return Measured(float(result.L), 0.0)
    length = xi.get(result.point, UNKNOWN)
    if length.value is None or length.value <= 0 or (along != "L" and result.L < WIDE * length.value):
        return UNKNOWN
    return length


def crossings(results: Sequence[PointResult], seed: int) -> tuple[tuple[ScanCrossings, ...], tuple[str, ...]]:
    """The Binder crossings of each sampler that has at least two sizes at the same two or more kappa.

    Args:
        results: of all points and samplers, all of actions with a coupling kappa.
        seed: seed of the bootstrap.

    Returns:
        the crossings, and which of them there are not, in words.
    """
    made: list[ScanCrossings] = []
    notes: list[str] = []
    for sampler, label in {result.sampler: result.label for result in results}.items():
        U = {
            (result.L, result.place("kappa")): result.binder.numbers
            for result in results
            if result.sampler == sampler and result.binder.known
        }
        sizes = sorted({L for L, _ in U})
        kappa = sorted({k for _, k in U if all((L, k) in U for L in sizes)})
        if len(sizes) < 2 or len(kappa) < 2:
            notes.append(f"no Binder crossing of {label}: that takes at least two sizes at the same two kappa")
            continue
        table = np.array([[U[L, k] for k in kappa] for L in sizes])
        try:
            with warnings.catch_warnings(record=True) as doubts:
                warnings.simplefilter("always", DiagnosticsWarning)
                rng = numpy_stream(seed, "Binder crossings", sampler)
                crossed = binder_crossings(sizes, kappa, table[..., 0], table[..., 1], rng)
        except DmmcError as reason:
            notes.append(f"no Binder crossing of {label}: {reason}")
            continue
        notes += [f"{label}: {doubt.message}" for doubt in doubts]
        made.append(ScanCrossings.of(sampler, crossed))
    return tuple(made), tuple(notes)

"""The verdicts on runs, and what cannot be said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.verdicts import Level, Verdict, inexact, judge, judge_chain
from dmmc.pages.comparable import Runs, is_sign_symmetric
from dmmc.pages.wording import listed
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import bias_bound_sigma, proposals_are_independent


@dataclass(frozen=True)
class Headline:
    """What a page says first.

    Attributes:
        level: the worst level of all verdicts.
        text: one sentence.
    """

    level: Level
    text: str


@dataclass(frozen=True)
class Judgement:
    """The verdicts on all runs of a page.

    Attributes:
        verdicts: the verdicts on each run, the worst first.
        headline: what they come to.
        notes: what could not be judged and why, one sentence each.
    """

    verdicts: Mapping[str, tuple[Verdict, ...]]
    headline: Headline
    notes: tuple[str, ...]


def judge_runs(runs: Runs, reference: str | None) -> Judgement:
    """Judge every run.

    Args:
        runs: the runs by name.
        reference: the run that the others are compared with; None compares none.
    """
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    notes = [*_no_check(runs, reference), *(note for run in runs.values() for note in _not_recorded(run))]
    for name, run in runs.items():
        against = runs[reference] if reference not in (None, name) else None
        try:
            verdicts[name] = _judge(run, against)
        except DmmcError as error:
            notes.append(f"No verdict on {name}: {error}.")
        if run.header.facts.inexact:
            verdicts[name] = (inexact(run.header.facts.inexact), *verdicts.get(name, ()))
    return Judgement(verdicts, _headline(verdicts, [name for name in runs if name not in verdicts]), tuple(notes))


def _judge(run: StoredRun, against: StoredRun | None) -> tuple[Verdict, ...]:
    stats = run.stats
    shared: dict[str, Any] = {
        "reference": None if against is None else against.observables,
        "bias_bound": bias_bound_sigma(run),
        "z2_symmetric": is_sign_symmetric(run),
    }
    if not (proposals_are_independent(run) and {"log_w", "accepted"} <= stats.keys()):
        energy_error = stats.get("energy_error")
        return judge_chain(stats.get("accepted"), run.observables, energy_error=energy_error, **shared)
    return judge(
        stats["accepted"],
        stats["log_w"],
        stats["log_w_proposed"],
        run.observables,
        log_w_reference=run.evaluation.get("log_w_reference"),
        **shared,
    )


def _no_check(runs: Runs, reference: str | None) -> list[str]:
    if reference is not None:
        return []
    compared = f"; z is the difference from {next(iter(runs))}" if len(runs) > 1 else ""
    return [
        "All samplers on this page use a trained model, so nothing here is an independent check of the averages"
        f"{compared}."
    ]


def _not_recorded(run: StoredRun) -> list[str]:
    """What a chain of independent proposals should have stored beside its draws, and has not."""
    if not proposals_are_independent(run):
        return []
    if not run.evaluation:
        return [
            f"{run.path.name} holds nothing but its chains: it has no weights of reference configurations, without "
            "which a missed mode cannot be seen, no bound on the bias of an integrator, and no denoising sequence."
        ]
    if "log_w_reference" not in run.evaluation:
        return [
            f"{run.path.name} has no weights of reference configurations, without which a missed mode cannot be seen: "
            "make them with dmmc sample --reference ENSEMBLE."
        ]
    return []


def _headline(verdicts: Mapping[str, tuple[Verdict, ...]], without: list[str]) -> Headline:
    def at(level: Level) -> list[str]:
        return [name for name, of_run in verdicts.items() if any(x.level == level for x in of_run)]

    if bad := at("bad"):
        return Headline("bad", f"Do not use the results of {listed(bad)} as they are.")
    if doubtful := at("doubtful"):
        return Headline("doubtful", f"Nothing is broken, but look at {listed(doubtful)} first.")
    if without:
        return Headline("doubtful", f"There is no verdict on {listed(without)}; the reason is given below.")
    return Headline("good", "All checks passed.")

"""Runs that stand on one page: their names, whether they belong together, and which of them is the reference."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.runs.run import StoredRun
from dmmc.theory.actions import declaration
from dmmc.theory.descriptions import action_from_description, same_action

Runs = Mapping[str, StoredRun]


def named(runs: Sequence[StoredRun]) -> dict[str, StoredRun]:
    """The runs by the label of their kernel; by label and file where a label occurs more than once.

    Raises:
        DmmcError: if a run is given twice.
    """
    twice = [run_id for run_id, n in Counter(run.run_id for run in runs).items() if n > 1]
    if twice:
        same = [run.path.name for run in runs if run.run_id == twice[0]]
        raise DmmcError(f"{' and '.join(same)} are the same run; name it once")
    of_label = Counter(run.header.facts.label for run in runs)
    names: dict[str, StoredRun] = {}
    for run in runs:
        name = run.header.facts.label
        if of_label[name] > 1:
            name = f"{name} {run.path.stem}"
        if name in names:
            name = f"{name} ({len(names) + 1})"
        names[name] = run
    return names


def sharing(runs: Runs) -> str:
    """What is wrong with runs that share their random numbers, as one sentence; empty if none of them do.

    Those of a chain have the name of its kernel, action and lattice (:func:`dmmc.kernels.base.identity`). Chains that
    differ in their lengths alone meet sooner or later, and their difference has a smaller error than it seems to have.
    """
    for one, other in itertools.combinations(runs.values(), 2):
        a, b = one.header, other.header
        if (a.seed, a.kernel, a.action, a.field_shape) == (b.seed, b.kernel, b.action, b.field_shape):
            return (
                f"{one.path} and {other.path} were made by the same kernel with the same seed {a.seed}, so that they "
                "share their random numbers and are not independent; name one of them only, or make the other again "
                "with another --seed"
            )
    return ""


def check_comparable(runs: Runs) -> None:
    """Check that all runs are of one theory on one lattice, and independent of each other.

    Raises:
        MismatchError: if they are not of one theory; the message names the two runs that differ.
        DmmcError: if two of them share their random numbers.
    """
    first, *others = runs.values()
    for run in others:
        here, there = first.header, run.header
        for what, a, b, same in (
            ("lattice", list(here.lattice), list(there.lattice), here.lattice == there.lattice),
            ("action", here.action, there.action, same_action(here.action, there.action)),
        ):
            if not same:
                raise MismatchError(
                    f"{first.path} and {run.path} cannot stand on one page: their {what} is {a} and {b}; "
                    "write a page for each"
                )
    if problem := sharing(runs):
        raise DmmcError(problem)


def choose_reference(runs: Runs, wanted: str | None) -> str | None:
    """The run that the others are compared with.

    Args:
        runs: the runs by name, in the order in which they were given.
        wanted: the name, label or file of a run; None takes the first one whose kernel works without a model.

    Returns:
        its name; None if no run was asked for and all depend on a model, so that none of them is an independent check.

    Raises:
        DmmcError: if ``wanted`` fits no run, or more than one.
    """
    if wanted is None:
        return next((name for name, run in runs.items() if run.header.facts.model_free), None)
    fitting = [
        name
        for name, run in runs.items()
        if wanted.lower() in (name.lower(), run.header.facts.label.lower())
        or wanted == run.path.name
        or Path(wanted).absolute() == run.path.absolute()
    ]
    if len(fitting) == 1:
        return fitting[0]
    problem = f"fits {' and '.join(fitting)}" if fitting else "is none of the runs"
    raise DmmcError(f"--reference {wanted} {problem}; name one of: {', '.join(runs)}")


def is_sign_symmetric(run: StoredRun) -> bool:
    """Whether ``S(-phi) = S(phi)``, as the run says or else the action declares; otherwise no symmetry is claimed.

    That is a matter of signs, which a field with components has not; its rotations are another symmetry.
    """
    if run.header.components is not None:
        return False
    finding = run.header.provenance.get("symmetry")
    if isinstance(finding, Mapping):
        return finding.get("symmetry") == "z2"
    action = action_from_description(run.header.action)
    return action is not None and declaration(action).symmetry == "z2"

"""A close look at an action, for the person who writes it: what is right or wrong, by how much, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.core.rng import stream
from dmmc.kernels.hmc import first_fields
from dmmc.theory.action_check import PROBED, Finding, examine
from dmmc.theory.actions import Action, differentiable, lattice_of
from dmmc.theory.descriptions import action_label
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice
from dmmc.theory.symmetry import find_symmetry

DIRECTIONS = 16
"""Directions in which the gradient is compared with differences of S."""

REPEATS = 5
"""The time of an evaluation is the shortest of so many."""

SINGLE = 1e-3
"""Largest deviation of S of float32 fields, in units of the size of its terms: rounding is below 1e-5."""


@dataclass(frozen=True)
class ActionReport(Record):
    """What :func:`report_action` has found.

    Attributes:
        action: description of the action.
        lattice: extents of the lattice.
        fields: number of fields that were used.
        findings: what each test has shown.
        seconds: wall time of one evaluation of all fields, by what is evaluated.
    """

    action: dict[str, Any]
    lattice: tuple[int, ...]
    fields: int
    findings: tuple[Finding, ...]
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        name, couplings = action_label(self.action, len(self.lattice))
        of = f" ({couplings})" if couplings else ""
        lines = [f"{name}{of} on {' x '.join(map(str, self.lattice))}, {self.fields} fields"]
        for finding in self.findings:
            mark = "right" if finding.passed else "WRONG"
            lines.append(f"  {mark}  {finding.what + finding.method:16} {finding.text}")
        for what, seconds in self.seconds.items():
            lines.append(f"         {'time of ' + what:16} {1e3 * seconds:.3g} ms for all fields together")
        return "\n".join(lines)


def report_action(action: Action, lattice: Lattice, phi: Tensor | None = None, n: int = 256) -> ActionReport:
    """Test an action on typical fields, and say what it costs.

    Args:
        action: the action.
        lattice: the lattice.
        phi: typical fields ``(n, *lattice)``; without them, fields near the declared minimum of the action.
        n: how many of them to use.

    Raises:
        DmmcError: if the action fails, or returns something of another shape or type than it should.
    """
    lattice = lattice_of(action, lattice)
    if n < 1:
        raise DmmcError(f"an action is tested on at least one field, got {n}")
    if phi is None:
        phi = first_fields(action, lattice, n, stream(1, "test of an action"))
    lattice.check(phi)
    phi = phi[:n].double()
    findings = list(examine(action, phi[:PROBED], DIRECTIONS))
    if differentiable(action) is None:
        findings.append(Finding("gradient", "is not given: no HMC, and models learn from the fields alone", True))
    S = evaluate(action, phi)
    single = evaluate(action, phi.float()).double()
    size = phi.square().flatten(1).sum(1) + S.abs() + 1
    off = float(((single - S).abs() / size).nan_to_num(nan=torch.inf).max())
    findings.append(Finding("float32", f"changes S by at most {off:.1e} of its size", off < SINGLE))
    try:
        symmetry = Finding("symmetry", find_symmetry(action, phi).evidence, True)
    except DmmcError as error:
        symmetry = Finding("symmetry", str(error), False)
    findings.append(symmetry)
    seconds = {"S": _seconds(lambda: evaluate(action, phi))}
    if differentiable(action) is not None:
        seconds["gradient"] = _seconds(lambda: force(action, phi))
    return ActionReport(action.describe(), lattice.shape, len(phi), tuple(findings), seconds)


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)

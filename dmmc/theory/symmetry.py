"""The symmetry phi -> -phi of a theory: whether it is declared, asked for, or seen on fields.

Networks are odd, ensembles aligned and sectors mirrored only under a symmetry that holds: one that the action declares
or the user asks for, and that the fields of the ensemble do not contradict; or one that these fields show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.records import Record
from dmmc.theory.actions import Action, Symmetry, declaration
from dmmc.theory.evaluation import evaluate, size_of_terms

N_TESTED = 256
"""How many fields of an ensemble the symmetry is tested on."""

ROUNDING = 1e-9
"""Largest difference of S(phi) and S(-phi) that counts as rounding, relative to the size of the terms of S.

The sum of V terms in float64 is exact to about ``V 1e-16`` of their size, which is 1e-10 for a million sites, and a
determinant loses a few digits more. A term that breaks the symmetry and still stays below this has no consequences that
a simulation could see: it changes S by ``1e-9 |S|``, which is 1e-6 for ``|S|`` of a thousand.
"""


@dataclass(frozen=True)
class SymmetryFinding(Record):
    """Which symmetry is used, and why.

    Attributes:
        symmetry: ``"z2"`` if S(phi) = S(-phi), else ``"none"``.
        evidence: a sentence that says what was declared, asked for or tested.
        deviation: largest ``|S(phi) - S(-phi)|`` on the tested fields, relative to the size of the terms of S; None
            where nothing was tested.
    """

    symmetry: Symmetry
    evidence: str
    deviation: float | None = None


def find_symmetry(action: Action | None, phi: Tensor, asked: Literal["auto", "none", "z2"] = "auto") -> SymmetryFinding:
    """Decide whether the symmetry phi -> -phi may be used.

    Args:
        action: the action of the ensemble; None for data alone, of which a symmetry is believed only if asked for.
        phi: fields of the ensemble, ``(n, *lattice)``; up to :data:`N_TESTED` of them are used.
        asked: ``"z2"`` or ``"none"`` as the user decides, ``"auto"`` to believe the declaration of the action, or
            where there is none the test.

    Raises:
        DmmcError: if ``asked`` is something else.
        MismatchError: if the symmetry is declared or asked for, and the fields or the declaration contradict it.
    """
    if asked not in ("auto", "none", "z2"):
        raise DmmcError(f'the symmetry is "auto", "none" or "z2", not {asked!r}')
    if asked == "none":
        return SymmetryFinding("none", "No symmetry is used, as asked for.")
    if action is None:
        if asked == "z2":
            return SymmetryFinding(
                "z2", "The symmetry phi -> -phi is used as asked for; without an action, it is untested."
            )
        return SymmetryFinding("none", "No symmetry is used, since without an action there is nothing to test.")
    declared = declaration(action).symmetry
    if declared == "none":
        if asked == "z2":
            raise MismatchError(
                'the symmetry "z2" was asked for, and the action declares that it has none; ask for "auto" or "none"'
            )
        return SymmetryFinding("none", "The action declares that it has no symmetry.")
    deviation, n = _z2_deviation(action, phi)
    tested = (
        f"S(phi) and S(-phi) differ by at most {deviation:.1g} of the size of S on {n} fields of the ensemble"
        if deviation
        else f"S(phi) and S(-phi) are equal on {n} fields of the ensemble"
    )
    if deviation <= ROUNDING:
        why = "asked for" if asked == "z2" else "declared by the action" if declared else "found by a test"
        return SymmetryFinding("z2", f"The symmetry phi -> -phi is {why}: {tested}.", deviation)
    if asked == "z2" or declared == "z2":
        who = "was asked for" if asked == "z2" else "is declared by the action"
        raise MismatchError(
            f'the symmetry "z2" {who}, but {tested}, which is more than rounding ({ROUNDING:.0e}); '
            + ('ask for "auto" or "none"' if asked == "z2" else "correct the declaration, or the action")
        )
    return SymmetryFinding("none", f"The action has no symmetry phi -> -phi: {tested}.", deviation)


def _z2_deviation(action: Action, phi: Tensor) -> tuple[float, int]:
    """Largest ``|S(phi) - S(-phi)|`` relative to the size of the terms of S, and the number of fields it is of."""
    n = len(phi)
    if n == 0:
        raise DmmcError("a symmetry can only be tested on fields, and there are none")
    count = min(n, N_TESTED)
    fields = phi[torch.arange(count, device=phi.device) * n // count].double()
    S, mirrored = evaluate(action, fields), evaluate(action, -fields)
    relative = (S - mirrored).abs() / size_of_terms(action, fields, S)
    return float(relative.nan_to_num(nan=torch.inf).max()), count

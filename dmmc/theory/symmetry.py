"""The symmetries that a model may use, phi -> -phi and rotations of the components: declared, asked for, or seen.

Networks are odd or equivariant, ensembles aligned and sectors mirrored only under a symmetry that holds: one that the
action declares or the user asks for, and that the fields of the ensemble do not contradict; or one that these fields
show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.linalg import orthogonal
from dmmc.core.records import Record
from dmmc.core.rng import normal, stream
from dmmc.theory.actions import SYMMETRIES, Action, Symmetry, declaration
from dmmc.theory.evaluation import evaluate, size_of_terms

Asked = Literal["auto", "z2", "o_n", "none"]
"""What a user may ask for: a symmetry, or ``"auto"``."""

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
        symmetry: ``"z2"`` if S(phi) = S(-phi), ``"o_n"`` if S(R phi) = S(phi) for all R in O(N), else ``"none"``.
        evidence: a sentence that says what was declared, asked for or tested.
        deviation: largest change of S on the tested fields, relative to the size of its terms; None where nothing was
            tested.
    """

    symmetry: Symmetry
    evidence: str
    deviation: float | None = None


@dataclass(frozen=True)
class _Test:
    """A symmetry, in words and as a transformation of fields.

    Attributes:
        text: the symmetry.
        image: what a field becomes.
        transform: the transformation of fields ``(n, *lattice)``.
    """

    text: str
    image: str
    transform: Callable[[Tensor], Tensor]


_TESTS: dict[Symmetry, _Test] = {
    "z2": _Test("phi -> -phi", "S(-phi)", torch.neg),
    "o_n": _Test("under rotations of the components", "S(R phi), for random R in O(N),", lambda phi: rotated(phi)),
}


def rotated(phi: Tensor) -> Tensor:
    """Fields with components ``(n, N, *lattice)``, each rotated by a random matrix of O(N) of its own."""
    n, components = phi.shape[:2]
    matrices = normal((n, components, components), stream(0, "test of a symmetry"), device="cpu")
    q = orthogonal(matrices).to(phi)
    return (q @ phi.flatten(2)).view_as(phi)


def find_symmetry(action: Action | None, phi: Tensor, asked: Asked = "auto") -> SymmetryFinding:
    """Decide which symmetry may be used.

    Args:
        action: the action of the ensemble; None for data alone, of which a symmetry is believed only if asked for.
        phi: fields of the ensemble, ``(n, *lattice)``; up to :data:`N_TESTED` of them are used.
        asked: a symmetry or ``"none"`` as the user decides, ``"auto"`` to believe the declaration of the action, or
            where there is none the test: of rotations for fields with components, and of phi -> -phi.

    Raises:
        DmmcError: if ``asked`` is something else, or rotations are asked for of a field without components.
        MismatchError: if the symmetry is declared or asked for, and the fields or the declaration contradict it, or
            S is not finite on them.
    """
    if asked != "auto" and asked not in SYMMETRIES:
        raise DmmcError(f'the symmetry is "auto" or one of {", ".join(SYMMETRIES)}, not {asked!r}')
    if asked == "none":
        return SymmetryFinding("none", "No symmetry is used, as asked for.")
    if action is None:
        if asked != "auto":
            return SymmetryFinding(
                asked, f"The symmetry {_TESTS[asked].text} is used as asked for; without an action, it is untested."
            )
        return SymmetryFinding("none", "No symmetry is used, since without an action there is nothing to test.")
    declared = declaration(action)
    if asked == "o_n" and declared.components is None:
        raise DmmcError('the symmetry "o_n" is of fields with components; ask for "auto"')
    if declared.symmetry == "none":
        if asked != "auto":
            raise MismatchError(
                f'the symmetry "{asked}" was asked for, and the action declares that it has none; ask for "auto" or '
                '"none"'
            )
        return SymmetryFinding("none", "The action declares that it has no symmetry.")
    wanted = declared.symmetry if asked == "auto" else asked
    candidates: tuple[Symmetry, ...] = ("z2",) if declared.components is None else ("o_n", "z2")
    failures: list[tuple[str, float]] = []
    for symmetry in candidates if wanted is None else (wanted,):
        test = _TESTS[symmetry]
        deviation, n = _deviation(action, phi, test.transform)
        tested = (
            f"S(phi) and {test.image} differ by at most {deviation:.1g} of the size of S on {n} fields of the ensemble"
            if deviation
            else f"S(phi) and {test.image} are equal on {n} fields of the ensemble"
        )
        if deviation <= ROUNDING:
            why = "asked for" if asked != "auto" else "declared by the action" if wanted else "found by a test"
            return SymmetryFinding(symmetry, f"The symmetry {test.text} is {why}: {tested}.", deviation)
        if wanted is not None and not math.isfinite(deviation):
            raise MismatchError(
                f"S(phi) or {test.image} is not finite on some of {n} fields of the ensemble, whose values reach "
                f"{float(phi.abs().max()):.3g}; leave out configurations that are damaged, or correct the action"
            )
        if wanted is not None:
            who = "was asked for" if asked != "auto" else "is declared by the action"
            raise MismatchError(
                f'the symmetry "{symmetry}" {who}, but {tested}, which is more than rounding ({ROUNDING:.0e}); '
                + ('ask for "auto" or "none"' if asked != "auto" else "correct the declaration, or the action")
            )
        failures.append((f"The action has no symmetry {test.text}: {tested}.", deviation))
    return SymmetryFinding("none", " ".join(text for text, _ in failures), failures[-1][1])


def _deviation(action: Action, phi: Tensor, transform: Callable[[Tensor], Tensor]) -> tuple[float, int]:
    """Largest change of S under a transformation, relative to the size of its terms, and the number of fields."""
    n = len(phi)
    if n == 0:
        raise DmmcError("a symmetry can only be tested on fields, and there are none")
    count = min(n, N_TESTED)
    fields = phi[torch.arange(count, device=phi.device) * n // count].double()
    S, transformed = evaluate(action, fields), evaluate(action, transform(fields))
    relative = (S - transformed).abs() / size_of_terms(action, fields, S)
    return float(relative.nan_to_num(nan=torch.inf).max()), count

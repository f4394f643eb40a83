"""Whether the fields of an ensemble treat all positions and all axes of equal extent alike, as their action may do.

Fields that do not, of an action that does, are not of this action. Of an action that does not either, or is not known,
this is worth a note only: a model treats positions and axes alike, and is less good then, but the chain is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import MismatchError
from dmmc.diagnostics import format_value
from dmmc.theory.actions import Action
from dmmc.theory.evaluation import evaluate, size_of_terms
from dmmc.theory.identities import wave_names
from dmmc.theory.lattice import Lattice
from dmmc.theory.significance import bound, estimate, in_errors, is_reliable


def check_positions(
    waves: NDArray[np.float64],
    independent: float,
    sample: Tensor,
    action: Action | None,
    lattice: Lattice,
    notes: list[str],
) -> float | None:
    """Largest z-score of a dependence on the position.

    Args:
        waves: amplitudes of profiles along the axes, ``(chain, draw, wave)``; see
            :func:`dmmc.theory.identities.wave_names`.
        independent: the number of independent configurations that they are worth.
        sample: some of the fields, ``(n, *lattice)``.
        action: their action; None if it is not known.
        lattice: their lattice.
        notes: what is unusual and no reason to refuse is added here.

    Returns:
        the z-score; None on one site.

    Raises:
        MismatchError: if it is too large, of an action that is the same at all positions.
    """
    names = wave_names(lattice)
    if not names:
        return None
    flat = waves.reshape(-1, len(names))
    # Autocorrelations are rarely negative: what does not stand out without them does not stand out.
    spread = flat.std(0)
    naive = np.abs(flat.mean(0)) / np.where(spread > 1e-12 * np.abs(flat).max(), spread, np.inf)
    worst = int(naive.argmax())
    if naive[worst] == 0:
        return 0.0
    found = estimate(waves[:, :, worst])
    z = in_errors(found.value, found.error)
    if is_reliable(found, len(waves)) and abs(z) > bound(independent, len(names)):
        axis, profile, k = names[worst]
        text = (
            f"the mean of {profile} depends on the position along axis {axis} (extent {lattice.shape[axis]}): its wave "
            f"of {k} period{'s' if k > 1 else ''} should be 0 and is {format_value(found.value, found.error)} "
            f"(z = {z:.1f})"
        )
        if action is not None and _shifts(action, sample, lattice.axes[axis]):
            raise MismatchError(
                f"{text}, although the action is the same everywhere; the axes were read in another order or with "
                "other extents, or the fields have other boundary conditions than periodic ones"
            )
        notes.append(f"{text}; the model will treat all positions alike, and be less good than it could be")
    return z


def compare_axes(
    links: NDArray[np.float64],
    independent: float,
    sample: Tensor,
    action: Action | None,
    lattice: Lattice,
    notes: list[str],
) -> float | None:
    """Largest z-score between ``phi(x) phi(x + e)`` along axes of equal extent.

    Args:
        links: the mean of ``phi(x) phi(x + e)`` along each axis, ``(chain, draw, axis)``.
        independent: the number of independent configurations that they are worth.
        sample: some of the fields, ``(n, *lattice)``.
        action: their action; None if it is not known.
        lattice: their lattice.
        notes: what is unusual and no reason to refuse is added here.

    Returns:
        the z-score; None if no two axes have the same extent.

    Raises:
        MismatchError: if it is too large, of an action that treats these axes alike.
    """
    pairs = [
        (a, b) for a, b in itertools.combinations(range(lattice.dim), 2) if lattice.shape[a] == lattice.shape[b] > 1
    ]
    if not pairs:
        return None
    worst, (a, b) = 0.0, pairs[0]
    for first, second in pairs:
        difference = estimate(links[:, :, first] - links[:, :, second])
        scale = float(np.abs(links[:, :, first]).mean())
        z = 0.0 if abs(difference.value) < 1e-12 * scale else in_errors(difference.value, difference.error)
        if abs(z) > abs(worst):
            worst, (a, b) = z, (first, second)
    if abs(worst) > bound(independent, len(pairs)):
        text = f"neighbours along axes {a} and {b} are not equally correlated (z = {worst:.1f})"
        if action is not None and _exchanges(action, sample, lattice.axes[a], lattice.axes[b]):
            raise MismatchError(
                f"{text}, although the action treats these axes alike; the fields are of another action, or their "
                "sites were read in another order"
            )
        notes.append(f"{text}; the model will treat these axes alike, and be less good than it could be")
    return worst


def _exchanges(action: Action, phi: Tensor, a: int, b: int) -> bool:
    """Whether the exchange of two axes of the tensor leaves S of some fields unchanged, up to rounding."""
    return _unchanged(action, phi, lambda fields: fields.transpose(a, b).contiguous())


def _shifts(action: Action, phi: Tensor, axis: int) -> bool:
    """Whether a shift along an axis of the tensor leaves S of some fields unchanged, up to rounding."""
    return _unchanged(action, phi, lambda fields: torch.roll(fields, 1, axis))


def _unchanged(action: Action, phi: Tensor, change: Callable[[Tensor], Tensor]) -> bool:
    fields = phi[:16].double()
    S = evaluate(action, fields)
    size = size_of_terms(action, fields, S)
    return bool(((evaluate(action, change(fields)) - S).abs() <= 1e-9 * size).all())

"""One verdict: a level, a sentence, and the number that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, NDArray[np.float64]]
"""Observables by name, each ``(chain, draw)``."""

Level = Literal["good", "doubtful", "bad"]
"""``bad``: results, or their errors, are wrong or may well be. ``doubtful``: they are probably right, but something
deserves a look first."""


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        level: ``good``, ``doubtful`` or ``bad``.
        title: the finding in a few words.
        text: the number in context, what it means, and what to do; plain text.
        quantity: what the number is.
        number: the number that triggered the verdict.
        threshold: the value that it was compared with.
    """

    level: Level
    title: str
    text: str
    quantity: str
    number: float
    threshold: float


def inexact(reason: str) -> Verdict:
    """The verdict on a chain that was allowed not to sample ``exp(-S)``."""
    return Verdict(
        "bad",
        "Inexact on purpose",
        f"This chain does not sample exp(-S): {reason}. Its errors do not contain the bias. Use it to study the bias, "
        "not for results.",
        "exact",
        0.0,
        1.0,
    )


def percent(x: float) -> str:
    """A fraction as a percentage, with two digits where it is small."""
    return f"{100 * x:.2g} %" if 0 < x < 0.1 else f"{100 * x:.1f} %"

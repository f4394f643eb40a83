"""Which exhibits there are. The module of one is imported when it is asked for."""

from __future__ import annotations

import importlib

from dmmc.core.errors import DmmcError
from dmmc.gallery.exhibit import Exhibit

NAMES: tuple[str, ...] = (
    "denoising",
    "observables",
    "autocorrelation",
    "stochastic-quantisation",
    "path-kernel",
    "toy",
    "cumulants",
    "complex-langevin",
    "statistics",
    "fermions",
)
"""The exhibits in the order in which the gallery shows them.

Each is the constant ``EXHIBIT`` of the module of its name in :mod:`dmmc.gallery`, with ``_`` for ``-``.
"""


def exhibit(name: str) -> Exhibit:
    """The exhibit of a name, in which ``_`` and ``-`` are the same.

    Raises:
        DmmcError: if there is none.
    """
    if name.replace("_", "-") not in NAMES:
        raise DmmcError(f"there is no exhibit {name!r} in the gallery; there are {', '.join(NAMES)}")
    found: Exhibit = importlib.import_module(f"dmmc.gallery.{name.replace('-', '_')}").EXHIBIT
    return found

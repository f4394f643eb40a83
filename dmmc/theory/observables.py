"""Observables: numbers that are measured on each configuration and recorded along the chain.

Quantities derived from the means of these numbers (susceptibility, Binder cumulant, correlation length) and their
errors are in :mod:`dmmc.diagnostics`. An observable of your own is a function of the fields and their actions; passed
to :func:`measure` or to a run, it is recorded, averaged and reported like the standard ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.lattice import Lattice

Observable = Callable[[Tensor, Tensor], Tensor]
"""Maps fields ``(n, *lattice)`` and their actions ``(n,)``, both float64, to real values ``(n, ...)``."""

STANDARD = ("M", "abs_M", "M2", "M4", "phi2", "S_per_site", "two_point")
"""The observables that are always measured."""

NO_EXTRA: Mapping[str, Observable] = MappingProxyType({})
"""No extra observables."""


def measure(
    phi: Tensor, S: Tensor | None, lattice: Lattice, extra: Mapping[str, Observable] = NO_EXTRA
) -> dict[str, Tensor]:
    """The observables of each configuration, in the normalisation of the field that S takes.

    ==============  ===============  ==========================================================
    name            shape            meaning
    ==============  ===============  ==========================================================
    ``M``           (n,)             mean field, ``(1/V) sum_x phi(x)``
    ``abs_M``       (n,)             ``|M|``
    ``M2``          (n,)             ``M^2``
    ``M4``          (n,)             ``M^4``
    ``phi2``        (n,)             site average ``(1/V) sum_x phi(x)^2``
    ``S_per_site``  (n,)             ``S / V``
    ``two_point``   (n, n_orbits)    ``|phi(p)|^2`` averaged over each momentum orbit, orthonormal
                                     Fourier transform: orbit 0 is ``V M^2``, nothing subtracted
    ==============  ===============  ==========================================================

    Of a field with N components, M is a vector, ``(n, N)``, ``|M|`` its length, and every square is a scalar product.

    Args:
        phi: fields, ``(n, *lattice)``, on any device; they are measured in float64.
        S: their actions, ``(n,)``; None where they are not known: ``S_per_site`` is then left out, and the extra
            observables are given NaN in their place.
        lattice: the lattice that ``phi`` lives on.
        extra: further observables by name. Each gets a copy of the fields, which it may overwrite.

    Returns:
        float64 values by name, the standard observables first.

    Raises:
        DmmcError: if ``phi`` is not finite ``(n, *lattice)``, or ``S`` not ``(n,)``; if an extra observable has a name
            that is taken or cannot be stored, or returns values of a wrong shape or type or that are not finite.
    """
    check_names(extra)
    lattice.check(phi)
    if S is not None and S.shape != phi.shape[:1]:
        raise DmmcError(f"S must have shape ({phi.shape[0]},), one action for each field, got {tuple(S.shape)}")
    phi = phi.to(torch.float64)
    known = S is not None
    S = phi.new_full(phi.shape[:1], torch.nan) if S is None else S.to(torch.float64)
    M = phi.mean(dim=lattice.axes)
    M2 = M.square() if lattice.components is None else M.square().sum(-1)
    values = {
        "M": M,
        "abs_M": M.abs() if lattice.components is None else M2.sqrt(),
        "M2": M2,
        "M4": M2.square(),
        "phi2": lattice.length2(phi).mean(dim=lattice.axes),
        **({"S_per_site": S / lattice.volume} if known else {}),
        "two_point": lattice.two_point(phi),
    }
    return values | {
        name: _checked(name, observable(phi.clone(), S.clone()), phi) for name, observable in extra.items()
    }


def check_names(extra: Mapping[str, Observable]) -> None:
    """Refuse names of extra observables that are taken, or that files and tables cannot have, and what is no function.

    Raises:
        DmmcError: if there is one.
    """
    for name, observable in extra.items():
        if not callable(observable):
            raise DmmcError(f"the observable {name!r} must be a function, and is a {type(observable).__name__}")
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise DmmcError(f"an observable cannot be called {name!r}; use letters, digits, underscores and hyphens")
        if name in STANDARD:
            raise DmmcError(f"the name {name!r} belongs to a standard observable; choose another one")


def _checked(name: str, value: object, phi: Tensor) -> Tensor:
    n = phi.shape[0]
    if not isinstance(value, Tensor):
        raise DmmcError(
            f"the observable {name!r} must return a torch.Tensor, got {type(value).__name__}; use torch functions"
        )
    if value.ndim < 1 or value.shape[0] != n:
        raise DmmcError(
            f"the observable {name!r} must return shape ({n}, ...), one entry for each field; got "
            f"{tuple(value.shape)}: the first axis of phi {tuple(phi.shape)} counts fields, and is to be kept"
        )
    if value.is_complex():
        raise DmmcError(f"the observable {name!r} must return real numbers, got {value.dtype}; return two observables")
    value = value.detach().to(phi)
    if not bool(torch.isfinite(value).all()):
        raise DmmcError(f"the observable {name!r} returns NaN or infinite values; return finite ones for every field")
    return value

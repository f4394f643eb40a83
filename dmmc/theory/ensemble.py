"""The test that an ensemble fits its action.

Fields made with other couplings, in another normalisation, or read with their axes in the wrong order would train a
model of another theory, and nothing later would say why its proposals are rejected. Partial integration gives a number
that is known exactly for every action: ``<phi dS/dphi> / V = 1``, a Schwinger-Dyson equation.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.records import Record
from dmmc.diagnostics import DiagnosticsWarning, Estimate, format_value, gamma_method
from dmmc.theory.action_check import PROBED, check_action
from dmmc.theory.actions import Action, Symmetry, check_supported, declaration, differentiable
from dmmc.theory.evaluation import evaluate, force, size_of_terms
from dmmc.theory.lattice import Lattice
from dmmc.theory.sectors import magnetisation

Z_VIRIAL = 5.0
"""Bound on the z-score of the Schwinger-Dyson equation.

A right ensemble exceeds it with probability 6e-7, or a few times 1e-5 if its error is known from some 20 independent
fields only. A wrong one exceeds it by far: with a thousand fields the usual mistakes give z-scores of 20 to several
hundred.
"""

Z_AXES = 6.0
"""Bound on the z-score between axes of equal extent: wider, since up to six pairs of axes are compared."""

MIN_DISTINCT = 24
"""Fewest distinct configurations that an ensemble may have; training and error estimates need as many."""

CHUNK_SITES = 1 << 20
"""Sites that are handled at a time."""


@dataclass(frozen=True)
class EnsembleCheck(Record):
    """What :func:`check_ensemble` has measured on an ensemble that it accepts.

    Attributes:
        n: number of configurations.
        distinct: how many of them differ from all others.
        virial: ``<phi dS/dphi> / V``, exactly 1 for fields of the action; None without an action. For an action without
            a gradient, a number of the same mean that needs none.
        virial_error: its standard error, autocorrelations included.
        virial_z: ``(virial - 1) / virial_error``.
        mean_z: ``<M>`` in units of its standard error.
        axes_z: largest z-score between correlations of neighbours along axes of equal extent; None if there are none.
        notes: sentences about what is unusual, and no reason to refuse the ensemble.
    """

    n: int
    distinct: int
    virial: float | None
    virial_error: float | None
    virial_z: float | None
    mean_z: float
    axes_z: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.virial is None or self.virial_error is None or self.virial_z is None:
            return f"{self.n} configurations"
        value = format_value(self.virial, self.virial_error)
        return f"{self.n} configurations, <phi dS/dphi>/V = {value}, z = {self.virial_z:.1f}"


def check_ensemble(
    phi: Tensor, action: Action | None, *, chains: int | None = None, symmetry: Symmetry | None = None
) -> EnsembleCheck:
    """Refuse an ensemble that does not belong to its action, and note what is unusual about it.

    Args:
        phi: fields ``(n, *lattice)``; those of one chain follow each other (chain-major order).
        action: the action they should be of; None checks only what needs no action.
        chains: number of chains, for the error; ignored if it does not divide n. By default the sequence is one chain.
        symmetry: of the theory; by default what the action declares. One-sided ensembles of a symmetric theory are
            noted.

    Raises:
        DmmcError: if ``phi`` is not a finite ensemble with at least 24 distinct configurations.
        MismatchError: if ``<phi dS/dphi> / V`` deviates from 1 by more than 5 standard errors, or an action that
            treats two axes alike has fields that do not, by more than 6. The message gives the likely cause.
    """
    lattice = Lattice(tuple(phi.shape[1:])) if isinstance(phi, Tensor) and phi.ndim > 1 else Lattice((1,))
    lattice.check(phi, "ensemble")
    if action is not None:
        check_supported(action)
        check_action(action, phi[:PROBED].detach().double())
        symmetry = declaration(action).symmetry if symmetry is None else symmetry
    n, distinct = len(phi), _distinct(phi)
    if distinct < MIN_DISTINCT:
        raise DmmcError(
            f"the ensemble has {distinct} distinct configurations in {n}; at least {MIN_DISTINCT} are needed, "
            "so make more of them"
        )
    notes: list[str] = []
    repeated = n - distinct
    if repeated > 0.1 * n:
        notes.append(
            f"{repeated} of {n} configurations repeat others exactly; a chain with rejections looks like this, and "
            "it carries less information than as many distinct ones"
        )
    chains = chains if chains and n % chains == 0 else 1

    virial: Estimate | None = None
    z: float | None = None
    if action is not None:
        virial = _estimate(_per_field(phi, lambda x: _virial(x, action)), chains)
        z = _z(virial.value - 1, virial.error)
        if not abs(z) <= Z_VIRIAL:
            raise MismatchError(
                "the ensemble does not fit the action: <phi dS/dphi>/V should be 1 and is "
                f"{format_value(virial.value, virial.error)}; {_likely_cause(phi, action, lattice, chains)}"
            )
    axes_z = _compare_axes(phi, action, lattice, chains, notes)
    M = magnetisation(phi).cpu().numpy()
    mean = _estimate(M, chains)
    mean_z = _z(mean.value, mean.error)
    if symmetry == "z2" and (np.all(M > 0) or np.all(M < 0)):
        sign = ">" if M[0] > 0 else "<"
        notes.append(f"all fields have M {sign} 0, although the theory is symmetric: the ensemble is of one sector")
    elif symmetry == "z2" and abs(mean_z) > Z_VIRIAL:
        notes.append(
            f"<M> = {format_value(mean.value, mean.error)} is far from 0, although the theory is symmetric: the two "
            "signs are not sampled evenly"
        )
    return EnsembleCheck(
        n=n,
        distinct=distinct,
        virial=None if virial is None else virial.value,
        virial_error=None if virial is None else virial.error,
        virial_z=z,
        mean_z=mean_z,
        axes_z=axes_z,
        notes=tuple(notes),
    )


def _z(deviation: float, error: float) -> float:
    """A deviation in standard errors; a series that does not fluctuate has no error, but for rounding."""
    if error > 0:
        return deviation / error
    return 0.0 if abs(deviation) < 1e-9 else math.copysign(math.inf, deviation)


def _estimate(series: NDArray[np.float64], chains: int) -> Estimate:
    with warnings.catch_warnings():
        # Short chains give an uncertain error, which the wide bounds allow for.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        return gamma_method(series.reshape(chains if len(series) >= 4 * chains else 1, -1))


def _per_field(phi: Tensor, measure: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
    """``measure`` of every field in float64, ``(n, ...)``, a chunk at a time."""
    size = max(1, CHUNK_SITES // math.prod(phi.shape[1:]))
    return np.concatenate([measure(part.double()).cpu().numpy() for part in phi.detach().split(size)])


def _virial(phi: Tensor, action: Action) -> Tensor:
    """``phi dS/dphi / V`` of each field, ``(n,)``; without a gradient, what stands in for it.

    The substitution ``phi -> c phi`` in Z gives ``<c^V exp[S(phi) - S(c phi)]> = 1`` for every c > 0. With
    ``c = 1 + 1 / (2 sqrt(V))`` the weight w fluctuates by less than its mean, ``1 + (1 - w) / [(c - 1) V]`` has the
    mean 1 exactly, and of other fields it is off by about as much as ``phi dS/dphi / V``.
    """
    if differentiable(action) is not None:
        return (phi * force(action, phi)).flatten(1).mean(1)
    volume = phi[0].numel()
    excess = 0.5 / math.sqrt(volume)
    log_w = volume * math.log1p(excess) + evaluate(action, phi) - evaluate(action, (1 + excess) * phi)
    # Fields that fit stay far below the bound; without it, those that do not would overflow.
    return 1 - torch.expm1(log_w.clamp(max=30.0)) / (excess * volume)


def _distinct(phi: Tensor) -> int:
    size = max(1, CHUNK_SITES // math.prod(phi.shape[1:]))
    digests: set[bytes] = set()
    for part in phi.detach().split(size):
        rows = part.cpu().contiguous().flatten(1).numpy()
        digests.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
    return len(digests)


def _likely_cause(phi: Tensor, action: Action, lattice: Lattice, chains: int) -> str:
    """In words, what may have gone wrong with fields that do not fit."""
    for order in sorted(set(itertools.permutations(lattice.shape)) - {lattice.shape}):
        other = _estimate(_per_field(phi.reshape(len(phi), *order), lambda x: _virial(x, action)), chains)
        if abs(_z(other.value - 1, other.error)) < Z_VIRIAL:
            return (
                f"the fields fit if their axes are read as {order}: the extents of the lattice are in the wrong order"
            )
    factor = _mending_factor(phi, action)
    if factor is None:
        return "the fields have other couplings, or another lattice shape or order of axes"
    sizes: dict[str, float] = getattr(action, "normalisations", lambda dim: {})(lattice.dim)
    for name, size in sizes.items():
        if abs(math.log(factor * size)) < 0.03 and abs(math.log(size)) > 1e-9:
            mend = f"multiply them by {1 / size:.6g}, or change the action"
            return f"the fields are in the normalisation of the {name}: {mend}"
    return (
        "the fields have other couplings, another normalisation (multiplied by about "
        f"{factor:.3g} they would fit), or another lattice shape or order of axes"
    )


def _mending_factor(phi: Tensor, action: Action) -> float | None:
    """The factor c nearest to 1 with ``<(c phi) S'(c phi)> / V = 1``, or None if there is none from 1/30 to 30."""
    count = min(len(phi), 256)
    fields = phi[torch.arange(count, device=phi.device) * len(phi) // count].double()

    def excess(log_c: float) -> float:
        return float(_virial(fields * math.exp(log_c), action).mean()) - 1

    grid = np.linspace(-math.log(30), math.log(30), 35)
    values = [excess(x) for x in grid]
    brackets = [k for k in range(len(grid) - 1) if values[k] * values[k + 1] <= 0]
    if not brackets:
        return None
    k = min(brackets, key=lambda k: abs(grid[k] + grid[k + 1]))
    low, high, sign = float(grid[k]), float(grid[k + 1]), math.copysign(1.0, values[k])
    for _ in range(25):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sign * excess(middle) > 0 else (low, middle)
    return math.exp(0.5 * (low + high))


def _compare_axes(phi: Tensor, action: Action | None, lattice: Lattice, chains: int, notes: list[str]) -> float | None:
    """Largest z-score between ``phi(x) phi(x + e)`` along axes of equal extent.

    An action that is invariant under the exchange of two axes has fields that are so on average; others are not of this
    action. Of an action that treats axes differently, or without one, this is worth a note only: the model is less good
    then, since its filters and propagator treat such axes alike, but the chain is exact.
    """
    pairs = [
        (a, b) for a, b in itertools.combinations(range(lattice.dim), 2) if lattice.shape[a] == lattice.shape[b] > 1
    ]
    if not pairs:
        return None
    links = _per_field(
        phi,
        lambda x: torch.stack([(x * torch.roll(x, 1, 1 + axis)).flatten(1).mean(1) for axis in range(lattice.dim)], 1),
    )
    worst, (a, b) = 0.0, pairs[0]
    for first, second in pairs:
        difference = _estimate(links[:, first] - links[:, second], chains)
        scale = float(np.abs(links[:, first]).mean())
        z = 0.0 if abs(difference.value) < 1e-12 * scale else _z(difference.value, difference.error)
        if abs(z) > abs(worst):
            worst, (a, b) = z, (first, second)
    if abs(worst) > Z_AXES:
        text = f"neighbours along axes {a} and {b} are not equally correlated (z = {worst:.1f})"
        if action is not None and _exchanges(action, phi, a, b):
            raise MismatchError(
                f"{text}, although the action treats these axes alike; the fields are of another action, or their "
                "sites were read in another order"
            )
        notes.append(f"{text}; the model will treat these axes alike, and be less good than it could be")
    return worst


def _exchanges(action: Action, phi: Tensor, a: int, b: int) -> bool:
    """Whether the exchange of two axes leaves S of some fields unchanged, up to rounding."""
    fields = phi[:16].double()
    S = evaluate(action, fields)
    size = size_of_terms(action, fields, S)
    exchanged = evaluate(action, fields.transpose(1 + a, 1 + b).contiguous())
    return bool(((exchanged - S).abs() <= 1e-9 * size).all())

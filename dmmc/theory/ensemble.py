"""The test that an ensemble fits its action.

Fields made with other couplings, in another normalisation, or read with their axes in the wrong order would train a
model of another theory, and nothing later would say why its proposals are rejected. What is known exactly of the fields
of any action (:mod:`dmmc.theory.identities`) is therefore measured, with errors that include autocorrelations.

A right ensemble is refused by any one test with a probability of 6e-7, that of 5 standard errors. A test that consists
of several, such as that of all momentum shells, shares this probability among them (Bonferroni). Errors are estimated
themselves, from as many independent fields as the ensemble is worth, so that the bound is one of Student's distribution
(:func:`dmmc.theory.significance.bound`): 5.0 for one test of many thousand independent fields, 6.9 for 24 of them. A
wrong ensemble exceeds it by far: with a thousand fields the usual mistakes give z-scores of 20 to several hundred.

A few absurd fields among right ones make the errors so large that no mean stands out. They are told one by one, by a
weight that no field of the action has with more than a known probability (:func:`dmmc.theory.identities.log_weight`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.records import Record
from dmmc.diagnostics import format_value
from dmmc.theory.action_check import PROBED, check_action
from dmmc.theory.actions import Action, Symmetry, components_of, declaration
from dmmc.theory.identities import FieldNumbers, field_numbers, shell_orbits
from dmmc.theory.lattice import Lattice
from dmmc.theory.lattice_symmetry import check_positions, compare_axes
from dmmc.theory.likely_cause import likely_cause
from dmmc.theory.significance import FALSE_ALARM, bound, estimate, in_errors, independent_fields, is_reliable

Z_SIGNS = 5.0
"""Standard errors of ``<M>`` from which on the balance of signs is noted; that is no reason to refuse an ensemble."""

MIN_DISTINCT = 24
"""Fewest distinct configurations that an ensemble may have; training and error estimates need as many."""

RETURNING = 0.01
"""Largest part of the configurations that may come back elsewhere. A rejection repeats the one before it, and nothing
else brings a configuration back; but chains may have begun at the same one."""


@dataclass(frozen=True)
class ShellCheck(Record):
    """The Schwinger-Dyson equation in one momentum shell.

    Attributes:
        phat2: smallest and largest ``sum_mu 4 sin^2(p_mu / 2)`` in the shell.
        value: mean of ``phi(p)^* dS/dphi(p)`` over the shell, exactly 1 for fields of the action.
        error: its standard error, autocorrelations included.
        z: ``(value - 1) / error``.
    """

    phat2: tuple[float, float]
    value: float
    error: float
    z: float


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
        shells: the same equation by momentum shell; empty without an action that has a gradient.
        force_z: ``<dS/dphi>``, exactly 0 for fields of the action, in units of its standard error; None likewise, or
            where the theory is not known to be without the symmetry phi -> -phi.
        position_z: largest z-score of a dependence on the position along an axis; None on one site.
        effective: number of independent configurations that the ensemble is worth, by the slower of ``M^2`` and the
            Schwinger-Dyson equation; None if nothing fluctuates.
    """

    n: int
    distinct: int
    virial: float | None
    virial_error: float | None
    virial_z: float | None
    mean_z: float
    axes_z: float | None
    notes: tuple[str, ...] = ()
    shells: tuple[ShellCheck, ...] = ()
    position_z: float | None = None
    effective: float | None = None
    force_z: float | None = None

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
        MismatchError: as :func:`check_numbers`.
    """
    if isinstance(phi, Tensor) and phi.ndim > 1:
        lattice = Lattice.of_fields(phi, components_of(action))
    else:
        lattice = Lattice((1,))
    lattice.check(phi, "ensemble")
    if action is not None:
        check_action(action, phi[:PROBED].detach().double())
    known = bool(chains and len(phi) % chains == 0)
    chains = chains if chains and known else 1
    numbers = field_numbers(phi, action, chains)
    return check_numbers(numbers, phi, action, known=known, symmetry=symmetry)


def may_fit(phi: Tensor, action: Action) -> bool:
    """Whether a few fields ``(n, *lattice)``, too few to be an ensemble, seem to be of an action: within 5 errors.

    Nothing but the wording of a refusal depends on it.
    """
    if len(phi) < 2:
        return False
    series = field_numbers(phi, action).virial
    z = in_errors(float(series.mean()) - 1, float(series.std(ddof=1)) / math.sqrt(series.size))
    return abs(z) <= 5.0


def check_numbers(
    numbers: FieldNumbers, sample: Tensor, action: Action | None, *, known: bool, symmetry: Symmetry | None = None
) -> EnsembleCheck:
    """As :func:`check_ensemble`, of an ensemble that need not lie in memory.

    Args:
        numbers: what was measured on its fields.
        sample: some of the fields, ``(n, *lattice)``, or all of them, from which the cause of a mistake is found.
        action: the action they should be of.
        known: whether the chains are those of ``numbers``, so that what comes back in them is no rejection.
        symmetry: as for :func:`check_ensemble`.

    Raises:
        DmmcError: if fewer than 24 configurations are distinct.
        MismatchError: if ``<phi dS/dphi> / V`` or its part of a momentum shell is not 1, or, in a theory without the
            symmetry phi -> -phi, ``<dS/dphi>`` is not 0; if single fields can hardly be of the action; if one that does
            not depend on the position, or treats two axes alike, has fields that do; if configurations come back
            elsewhere. The message gives the number and the likely cause.
    """
    lattice = Lattice.of_fields(sample, components_of(action))
    if action is not None and symmetry is None:
        symmetry = declaration(action).symmetry
    notes: list[str] = []
    distinct, returning = _check_repeated(numbers, known, notes)
    try:
        return _judged(numbers, sample, action, lattice, symmetry, distinct, notes)
    except MismatchError as error:
        if returning <= RETURNING * numbers.n:
            raise
        raise MismatchError(
            f"{returning} of {numbers.n} configurations occur again elsewhere, and not just after themselves, so that "
            f"errors cannot be estimated; leave the repetitions out, or say which chains there are. As it is, {error}"
        ) from None


def _judged(
    numbers: FieldNumbers,
    sample: Tensor,
    action: Action | None,
    lattice: Lattice,
    symmetry: Symmetry | None,
    distinct: int,
    notes: list[str],
) -> EnsembleCheck:
    """What the numbers of an ensemble show, if they are those of its action."""
    # Fields so large that S overflows have no weight at all.
    outlying = ~(numbers.log_w <= math.log(numbers.n / FALSE_ALARM))
    if outlying.any() and _passes(numbers.only(~outlying), sample, action):
        raise MismatchError(_outliers(numbers.log_w, outlying))
    virial_mean = None if action is None else estimate(numbers.virial)
    M2 = np.square(numbers.M).sum(-1)
    slow = [x for x in (estimate(M2), virial_mean) if x is not None and x.tau_int > 0]
    effective = min((independent_fields(x, len(M2)) for x in slow), default=None)
    independent = numbers.n if effective is None else effective
    z: float | None = None
    shells: tuple[ShellCheck, ...] = ()
    if action is not None and virial_mean is not None:
        z = in_errors(virial_mean.value - 1, virial_mean.error)
        if not abs(z) <= bound(independent):
            raise MismatchError(
                "the ensemble does not fit the action: <phi dS/dphi>/V should be 1 and is "
                f"{format_value(virial_mean.value, virial_mean.error)}; {likely_cause(sample, action, lattice)}"
            )
    # A one-sided ensemble of a symmetric theory has a force where it ends, and is only told.
    tilted = action is not None and symmetry == "none" and declaration(action).symmetry in (None, "none")
    force_z = _check_force(numbers.force, independent) if tilted else None
    position_z = check_positions(numbers.waves, independent, sample, action, lattice, notes)
    axes_z = compare_axes(numbers.links, independent, sample, action, lattice, notes)
    if numbers.shells.shape[-1]:
        shells = _check_shells(numbers.shells, independent, lattice)
    if outlying.any():
        raise MismatchError(_outliers(numbers.log_w, outlying))
    means = [estimate(M) for M in np.moveaxis(numbers.M, -1, 0)]
    mean = max(means, key=lambda x: abs(in_errors(x.value, x.error)))
    mean_z = in_errors(mean.value, mean.error)
    M = numbers.M
    if lattice.components is None and symmetry == "z2" and (np.all(M > 0) or np.all(M < 0)):
        sign = ">" if M.flat[0] > 0 else "<"
        notes.append(f"all fields have M {sign} 0, although the theory is symmetric: the ensemble is of one sector")
    elif lattice.components is None and symmetry == "z2" and abs(mean_z) > Z_SIGNS:
        notes.append(
            f"<M> = {format_value(mean.value, mean.error)} is far from 0, although the theory is symmetric: the two "
            "signs are not sampled evenly"
        )
    if effective is not None and effective < MIN_DISTINCT:
        notes.append(
            f"the {numbers.n} configurations are worth about {effective:.2g} independent ones, so that errors are "
            "rough and a model of them learns little; take more, further apart"
        )
    return EnsembleCheck(
        n=numbers.n,
        distinct=distinct,
        virial=None if virial_mean is None else virial_mean.value,
        virial_error=None if virial_mean is None else virial_mean.error,
        virial_z=z,
        mean_z=mean_z,
        axes_z=axes_z,
        notes=tuple(notes),
        shells=shells,
        position_z=position_z,
        effective=effective,
        force_z=force_z,
    )


def _passes(numbers: FieldNumbers, sample: Tensor, action: Action | None) -> bool:
    """Whether fields are right without those that were left out, so that these alone are to blame."""
    try:
        check_numbers(numbers, sample, action, known=False)
    except DmmcError:
        return False
    return True


def _outliers(log_w: NDArray[np.float64], outlying: NDArray[np.bool_]) -> str:
    """What is wrong with the fields that can hardly be of the action, ``(chain, draw)``, and what to do about it."""
    chain, draw = np.unravel_index(np.where(outlying, log_w, -np.inf).argmax(), log_w.shape)
    where = f"configuration {draw}" if len(log_w) == 1 else f"configuration {draw} of chain {chain}"
    exponent = math.floor(min(300.0, (log_w[chain, draw] - math.log(log_w.size)) / math.log(10)))
    others = int(np.count_nonzero(outlying)) - 1
    more = f", and {others} more like it" if others else ""
    return (
        f"the ensemble does not fit the action: {where} (counted from 0){more} can hardly be one of it, since its "
        f"values are far too large (such a one occurs among {log_w.size} with a probability below 1e-{exponent}); it "
        "was damaged or multiplied by a factor, or the chain was not thermalised yet; leave it out"
    )


def _check_repeated(numbers: FieldNumbers, known: bool, notes: list[str]) -> tuple[int, int]:
    """How many configurations are distinct, if that is enough, and they come back as those of a Markov chain may.

    And how many come back elsewhere than just after themselves, as those of chains that take turns may.
    """
    n, distinct = numbers.n, len(np.unique(numbers.digest))
    if distinct < MIN_DISTINCT:
        raise DmmcError(
            f"the ensemble has {distinct} distinct configurations in {n}; at least {MIN_DISTINCT} are needed, "
            "so make more of them"
        )
    moves = 1 + np.count_nonzero(np.diff(numbers.digest, axis=1), axis=1).sum() + len(numbers.digest) - 1
    returning = int(moves) - distinct
    if known and returning > RETURNING * n:
        raise MismatchError(
            f"{returning} of {n} configurations occur again elsewhere, and not just after themselves, as rejections "
            "would make them: the same fields are in the ensemble twice, or its chains are not where they were said to "
            "be"
        )
    repeated = n - distinct
    if repeated > 0.1 * n:
        notes.append(
            f"{repeated} of {n} configurations repeat others exactly; a chain with rejections looks like this, and "
            "it carries less information than as many distinct ones"
        )
    return distinct, returning


def _check_shells(series: NDArray[np.float64], independent: float, lattice: Lattice) -> tuple[ShellCheck, ...]:
    """The Schwinger-Dyson equation in every momentum shell whose error is known."""
    checks: list[ShellCheck] = []
    orbits = shell_orbits(lattice)
    phat2, sizes = lattice.orbit_phat2, lattice.orbit_size
    for k, shell in enumerate(orbits):
        found = estimate(series[:, :, k])
        # A Gaussian mode has a variance of 2. No estimate from few fields, which fluctuates with them, goes below it.
        worth = found.n / (2 * found.tau_int) if found.tau_int > 0 else found.n
        error = max(found.error, math.sqrt(2 / (worth * float(sizes[shell].sum()))))
        z = in_errors(found.value - 1, error)
        low, high = float(phat2[shell][0]), float(phat2[shell][-1])
        checks.append(ShellCheck((low, high), found.value, error, z))
        if is_reliable(found, len(series)) and not abs(z) <= bound(independent, len(orbits)):
            where = "p = 0" if high == 0 else f"momenta with {low:.3g} <= phat^2 <= {high:.3g}"
            raise MismatchError(
                f"the ensemble does not fit the action: at {where}, <phi(p)^* dS/dphi(p)> should be 1 and is "
                f"{format_value(found.value, error)} (z = {z:.1f}), although its average over all momenta is near 1; "
                "the fields have other couplings that nearly make up for each other, other boundary conditions than "
                "periodic ones, or sites that were read in another order"
            )
    return tuple(checks)


def _check_force(series: NDArray[np.float64], independent: float) -> float | None:
    """``<dS/dphi>`` in standard errors; None without a gradient."""
    if series.ndim > 2:
        return None
    found = estimate(series)
    z = in_errors(found.value, found.error)
    if is_reliable(found, len(series)) and not abs(z) <= bound(independent):
        raise MismatchError(
            "the ensemble does not fit the action: <dS/dphi> should be 0 and is "
            f"{format_value(found.value, found.error)} (z = {z:.1f}); the fields are of another external field, or the "
            "action pulls them to another side"
        )
    return z

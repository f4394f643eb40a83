"""The results of a scan, as they are kept in ``scan.json``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.diagnostics import format_value
from dmmc.diagnostics.autocorrelation import Estimate
from dmmc.diagnostics.crossings import BinderCrossings, BinderCurve
from dmmc.diagnostics.slowing_down import PowerLaw
from dmmc.studies.folder import Result
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Along, Point, coupling

TAUS = ("M", "M2", "abs_M", "S_per_site")
"""Observables whose autocorrelation time is measured. M is usually the slowest, since it changes sign."""

COSTED = ("M", "M2")
"""Observables for which the cost of an effective sample is given."""


@dataclass(frozen=True)
class Measured:
    """A value and its standard error; None where they are not known."""

    value: float | None
    error: float | None

    @classmethod
    def of(cls, value: float, error: float) -> Self:
        """The pair, with None for numbers that are not finite."""
        return cls(_known(value), _known(error))

    @property
    def known(self) -> bool:
        """Whether there are both a value and an error."""
        return self.value is not None and self.error is not None

    @property
    def numbers(self) -> tuple[float, float]:
        """Value and error, nan where they are not known."""
        return _number(self.value), _number(self.error)

    def __str__(self) -> str:
        return "-" if self.value is None else format_value(*self.numbers)


UNKNOWN = Measured(None, None)
"""A value that is not known."""


@dataclass(frozen=True)
class TauInt(Measured):
    """An integrated autocorrelation time in draws (0.5 without autocorrelation).

    Attributes:
        resolved: whether the chains were long enough to measure it; if not, it is a lower bound.
    """

    resolved: bool = False

    @classmethod
    def of_estimate(cls, estimate: Estimate, resolved: bool) -> Self:
        """The tau_int of an estimate by the Gamma method."""
        return cls(_known(estimate.tau_int), _known(estimate.tau_int_error), resolved)


@dataclass(frozen=True)
class PointResult:
    """What one sampler measured at one point.

    Attributes:
        point: name of the point.
        line: the line that the point lies on.
        lattice: extents of the lattice.
        action: description of the action.
        sampler: name of the sampler.
        label: what tables and figures call the sampler.
        file: file of the chains, relative to the folder of the scan.
        chains: number of parallel chains.
        draws: draws of each of them.
        acceptance: share of the steps that were accepted.
        observables: means and quantities derived from them, by name, as :func:`dmmc.diagnostics.summary` names them.
        tau_int: autocorrelation times of the observables in :data:`TAUS`.
        cost: what an effective sample costs, ``2 tau_int`` draws of one chain: of each observable in :data:`COSTED`, in
            ``seconds`` and in evaluations of the ``force`` or the ``network``.
        training_seconds: time that the training of the model took; None for samplers without a model.
    """

    point: str
    line: str
    lattice: tuple[int, ...]
    action: dict[str, Any]
    sampler: str
    label: str
    file: str
    chains: int
    draws: int
    acceptance: Measured
    observables: dict[str, Measured]
    tau_int: dict[str, TauInt]
    cost: dict[str, dict[str, Measured]]
    training_seconds: float | None = None

    @property
    def L(self) -> int:
        """The longest extent."""
        return max(self.lattice)

    @property
    def xi(self) -> Measured:
        """The second-moment correlation length; unknown where noise or a single site leaves none."""
        return self.observables.get("xi", UNKNOWN)

    @property
    def binder(self) -> Measured:
        """The Binder cumulant."""
        return self.observables.get("binder", UNKNOWN)

    @property
    def unresolved(self) -> tuple[str, ...]:
        """Observables whose tau_int is only a lower bound, since the chains are too short."""
        return tuple(name for name, tau in self.tau_int.items() if not tau.resolved)

    def place(self, along: Along) -> float:
        """Where the point lies along its line.

        Raises:
            DmmcError: if its action does not have this coupling.
        """
        if along == "L":
            return float(self.L)
        value = coupling(self.action, along)
        if value is None:
            raise DmmcError(f"the action of the point {self.point} has no coupling {along}")
        return value


@dataclass(frozen=True)
class ScanFit:
    """A power law ``tau_int = c x^z`` along one line of points.

    Attributes:
        sampler: name of the sampler.
        line: the line.
        observable: whose tau_int was fitted.
        against: what x is, ``xi`` or ``L``.
        points: names of the points that were fitted.
        z, z_error, c, c_error, pivot, pivot_error, chi2, dof, inflation: as in
            :class:`~dmmc.diagnostics.slowing_down.PowerLaw`.
        p_value: probability of a larger chi2 if the law and the errors are right; None without degrees of freedom.
    """

    sampler: str
    line: str
    observable: str
    against: str
    points: tuple[str, ...]
    z: float
    z_error: float
    c: float
    c_error: float
    pivot: float
    pivot_error: float
    chi2: float
    dof: int
    p_value: float | None
    inflation: float

    @classmethod
    def of(
        cls, law: PowerLaw, *, sampler: str, line: str, observable: str, against: str, points: tuple[str, ...]
    ) -> Self:
        """The fit as a result of the scan."""
        values = {field.name: getattr(law, field.name) for field in fields(law)}
        return cls(sampler, line, observable, against, points, **values | {"p_value": _known(law.p_value)})

    @property
    def law(self) -> PowerLaw:
        """The fitted function, with its error band."""
        values = {field.name: getattr(self, field.name) for field in fields(PowerLaw)}
        return PowerLaw(**values | {"p_value": _number(self.p_value)})


@dataclass(frozen=True)
class SizeCrossing:
    """Where the Binder cumulants of two sizes cross.

    Attributes:
        sizes: the two sizes L.
        kappa: where they cross.
        binder: the cumulant there.
    """

    sizes: tuple[int, int]
    kappa: Measured
    binder: Measured


@dataclass(frozen=True)
class ScanCrossings:
    """The Binder crossings of one sampler; see :class:`~dmmc.diagnostics.crossings.BinderCrossings`.

    Attributes:
        sampler: name of the sampler.
        curves: one curve per size, by increasing size.
        crossings: one crossing per pair of neighbouring sizes; the last one has the smallest finite-size corrections.
        drift: kappa of the last crossing minus that of the one before; unknown for a single pair.
        kappa_c: the critical coupling; for a single pair the crossing itself.
    """

    sampler: str
    curves: tuple[BinderCurve, ...]
    crossings: tuple[SizeCrossing, ...]
    drift: Measured
    kappa_c: Measured

    @classmethod
    def of(cls, sampler: str, made: BinderCrossings) -> Self:
        """The crossings as a result of the scan."""
        crossings = tuple(
            SizeCrossing(c.sizes, Measured.of(c.kappa, c.kappa_error), Measured.of(c.binder, c.binder_error))
            for c in made.crossings
        )
        drift, kappa_c = Measured.of(made.drift, made.drift_error), Measured.of(made.kappa_c, made.kappa_c_error)
        return cls(sampler, made.curves, crossings, drift, kappa_c)

    @property
    def best(self) -> SizeCrossing:
        """The crossing of the two largest sizes."""
        return self.crossings[-1]


@dataclass(frozen=True)
class PlannedPoint:
    """A point as it is written down.

    Attributes:
        name: name of the point, and of its folder.
        action: description of the action.
        lattice: extents of the lattice.
        line: the line that it lies on.
    """

    name: str
    action: dict[str, Any]
    lattice: tuple[int, ...]
    line: str

    @classmethod
    def of(cls, point: Point) -> Self:
        """The description of a point."""
        return cls(point.name, point.action.describe(), point.lattice.shape, point.line)


@dataclass(frozen=True)
class ScanResult(Record):
    """What a scan found.

    Attributes:
        dmmc: version that made it.
        points: the points of the scan.
        options: what was done at each of them.
        xi: the correlation length at each point, by the name of the point, from the sampler that measures it best.
        results: one entry per point and sampler.
        fits: power laws along the lines of points.
        crossings: Binder crossings of each sampler that has them.
        notes: what could not be fitted, and what is doubtful.
    """

    VERSION: ClassVar[int] = 1

    dmmc: str
    points: tuple[PlannedPoint, ...]
    options: ScanOptions
    xi: dict[str, Measured]
    results: tuple[PointResult, ...]
    fits: tuple[ScanFit, ...] = ()
    crossings: tuple[ScanCrossings, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def along(self) -> Along:
        """What changes along the lines of points."""
        return self.options.along

    @property
    def labels(self) -> dict[str, str]:
        """What the samplers are called, by name, in the order in which they were run."""
        return {result.sampler: result.label for result in self.results}


RESULT = Result("scan.json", "dmmc-scan", "scan", ScanResult)


def tau_of(name: str) -> Callable[[PointResult], TauInt]:
    """Reads tau_int of the observable ``name``."""
    return lambda result: result.tau_int[name]


def cost_of(name: str, kind: str) -> Callable[[PointResult], Measured]:
    """Reads the cost of an effective sample of the observable ``name``, in units of ``kind``."""
    return lambda result: result.cost[name].get(kind, UNKNOWN)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value

"""The results of exactness laboratories: typed, and the same in ``exactness.json`` as in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmmc.core.records import Record
from dmmc.proposals.certificate import CertificateSummary
from dmmc.studies.exactness.analysis import OBSERVABLES, Agreement, BiasResult, Means
from dmmc.studies.folder import Result
from dmmc.theory.symmetry import SymmetryFinding


@dataclass(frozen=True)
class LaboratoryPlan(Record):
    """What a laboratory does; two laboratories with the same plan have the same results.

    Attributes:
        action: description of the action.
        shape: extents of the lattice.
        variants: names of the variants.
        draws: draws of each variant, all chains together, before the variant's share.
        chains: parallel chains of each variant.
        truth_draws: draws of the cluster sampler, all chains together.
        steps: optimiser steps of the training.
        model: fingerprint of the model that was given; None where one was trained.
        flow_steps: integration steps of the flow that were asked for; None where they were chosen.
        seed: the seed of everything random.
        device: the device of the computation.
    """

    action: dict[str, Any]
    shape: tuple[int, ...]
    variants: tuple[str, ...]
    draws: int
    chains: int
    truth_draws: int
    steps: int
    model: str | None
    flow_steps: int | None
    seed: int
    device: str


@dataclass(frozen=True)
class Value(Record):
    """A number with its standard error, which is zero where the number is known exactly."""

    value: float
    error: float


@dataclass(frozen=True)
class TruthResult(Record):
    """The truth that the variants are compared with.

    Attributes:
        method: ``quadrature`` or ``cluster``.
        file: the run file of the cluster sampler, relative to the folder; None if there is no such file.
        symmetry: which symmetry the theory has; under Z2, ``<M>`` is zero without an error.
        observables: the values by name.
    """

    method: str
    file: str | None
    symmetry: SymmetryFinding
    observables: dict[str, Value]


@dataclass(frozen=True)
class FlowResult(Record):
    """The probability flow that the variants use.

    Attributes:
        steps: its integration steps.
        evaluations: network evaluations of one proposal.
        certificate: the bound on the bias that its integrator causes.
    """

    steps: int
    evaluations: int
    certificate: CertificateSummary


@dataclass(frozen=True)
class VariantResult(Record):
    """What came out for one variant.

    Attributes:
        name: the name of the variant.
        label: what tables and figures call it.
        exact: whether it should sample the theory.
        why: one sentence on why it does, or does not.
        file: its run file, relative to the folder.
        chains: its parallel chains.
        draws: draws of each chain.
        acceptance: mean acceptance.
        tau_int_M2: integrated autocorrelation time of M^2 in draws; None if M^2 does not fluctuate.
        cost: evaluations of the ``force`` or of the ``network`` for one step of one chain.
        observables: the comparison with the truth, by observable.
        agreement: of all observables together.
        worst: the observable that is farthest off in units of its error.
        seen: whether all observables together show that the variant does not agree with the truth.
    """

    name: str
    label: str
    exact: bool
    why: str
    file: str
    chains: int
    draws: int
    acceptance: float
    tau_int_M2: float | None
    cost: dict[str, float]
    observables: dict[str, BiasResult]
    agreement: Agreement
    worst: str
    seen: bool

    @property
    def all_draws(self) -> int:
        """Draws of all chains together."""
        return self.chains * self.draws


@dataclass(frozen=True)
class LaboratoryResult(Record):
    """What an exactness laboratory found.

    Attributes:
        dmmc: the version of dmmc that analysed it.
        plan: what it did.
        truth: the truth.
        flow: the probability flow that the variants use.
        variants: the variants, in the order of the table.
        agreement: of the exact variants with the truth, all observables together; None if there is none.
        missed: names of the variants that are not exact and were not seen to be wrong.
        wall_seconds: wall time by stage.
    """

    dmmc: str
    plan: LaboratoryPlan
    truth: TruthResult
    flow: FlowResult
    variants: tuple[VariantResult, ...]
    agreement: Agreement | None
    missed: tuple[str, ...]
    wall_seconds: dict[str, float]

    def variant(self, name: str) -> VariantResult:
        """The result of one variant.

        Raises:
            KeyError: if the laboratory did not run it.
        """
        return {variant.name: variant for variant in self.variants}[name]

    def of_kind(self, exact: bool) -> tuple[VariantResult, ...]:
        """The variants that are exact, or those that are not."""
        return tuple(variant for variant in self.variants if variant.exact == exact)


@dataclass(frozen=True)
class SideBySide(Record):
    """Several laboratories on one page.

    Attributes:
        laboratories: their results, by the names of their folders.
        report: the page.
    """

    laboratories: dict[str, LaboratoryResult]
    report: str


RESULT = Result("exactness.json", "dmmc-exactness", "laboratory", LaboratoryResult)
"""The file that holds the result of a laboratory."""


def values(means: Means) -> dict[str, Value]:
    """Estimates with their errors, by name."""
    pairs = zip(OBSERVABLES, means.values, means.errors, strict=True)
    return {name: Value(float(value), float(error)) for name, value, error in pairs}

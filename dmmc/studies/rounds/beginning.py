"""With what a training on the model's own chain begins: an ensemble, another model, or a free field."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dmmc.core import rng
from dmmc.core.errors import MismatchError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.reference import GaussianReference
from dmmc.studies.given import Ensemble
from dmmc.studies.rounds.annealing import ActionPath, Position, free_start
from dmmc.theory.action_check import check_action
from dmmc.theory.actions import Action, Symmetry, lattice_of
from dmmc.theory.descriptions import same_action
from dmmc.theory.lattice import Lattice
from dmmc.theory.symmetry import N_TESTED, Asked, SymmetryFinding, find_symmetry

_STRENGTH: dict[Symmetry, int] = {"none": 0, "z2": 1, "o_n": 2}
"""Which symmetries imply which others."""


@dataclass(frozen=True)
class Beginning:
    """Where the rounds begin.

    Attributes:
        what: what they begin with, as JSON values.
        path: the actions that they pass.
        position: the place on the path where the model stands.
        finding: the symmetry that all actions have.
        asked: the symmetry to ask for in a training on the ensemble.
        init: the model to start from; None for an ensemble or a free field.
        reference: of the free field; None otherwise.
    """

    what: dict[str, Any]
    path: ActionPath
    position: Position
    finding: SymmetryFinding
    asked: Asked
    init: DiffusionModel | None = None
    reference: GaussianReference | None = None

    @classmethod
    def of(
        cls,
        targets: tuple[Action, ...],
        given: Ensemble | None,
        init: DiffusionModel | None,
        lattice: Lattice | None,
        asked: Asked,
    ) -> Beginning:
        """The beginning with one of an ensemble, a model and a lattice.

        Args:
            targets: the actions of the path.
            given: the ensemble, of the first action.
            init: the model.
            lattice: where there is neither.
            asked: which symmetry to use.

        Raises:
            MismatchError: if the model uses a symmetry that an action does not have, or is of another lattice.
            DmmcError: if an action does not keep its contract, or a symmetry that was asked for does not hold.
        """
        start: Action | None = None
        position, reference = Position(0, 0.0), None
        if given is not None:
            digest = hashlib.sha256(given.phi.contiguous().numpy().tobytes()).hexdigest()
            what: dict[str, Any] = {"ensemble": digest, "configurations": len(given.phi)}
            phi, position = given.phi, Position(0, 1.0)
            if init is not None:  # what the training on the ensemble starts from, which checks it
                what, init = {**what, "model": init.fingerprint()}, None
        elif init is not None:
            what = {"model": init.fingerprint()}
            start, phi = init.known_action(), _draws(init.reference)
            if init.action and same_action(init.action, targets[0].describe()):
                position = Position(0, 1.0)
        else:
            assert lattice is not None
            lattice, free = lattice_of(targets[0], lattice), free_start(targets[0])
            reference = GaussianReference(lattice, free.propagator(lattice.orbit_phat2))
            start, phi = free, _draws(reference)
            what = {"free field": free.describe(), "lattice": list(lattice.shape)}
        path = ActionPath(start, targets)
        for action in targets:
            check_action(action, phi.double())
        findings = [find_symmetry(action, phi, asked) for action in targets]
        weakest = min(findings, key=lambda finding: _STRENGTH[finding.symmetry])
        if init is not None and _STRENGTH[init.symmetry] > _STRENGTH[weakest.symmetry]:
            raise MismatchError(
                f"the model to start from has the symmetry {init.symmetry!r}, and not all actions of the path have it; "
                "train it without (--symmetry none)"
            )
        same = all(finding.symmetry == weakest.symmetry for finding in findings)
        return cls(what, path, position, weakest, asked if same else weakest.symmetry, init, reference)

    @property
    def evidence(self) -> str:
        """How the symmetry was found."""
        return self.finding.evidence if self.init is None else self.init.symmetry_evidence

    def model(self, network: str, config: Mapping[str, Any] | None, seed: int) -> DiffusionModel:
        """The model with which the rounds begin, where there is no ensemble to train it on.

        Args:
            network: name of a registered network, for a new model.
            config: its configuration where it differs from the default.
            seed: of its first weights.
        """
        if self.init is not None:
            return self.init
        assert self.reference is not None
        model = DiffusionModel.untrained(
            self.reference,
            self.path.start,
            network,
            config,
            symmetry=self.finding.symmetry,
            generator=rng.stream(seed, "network"),
        )
        return replace(model, symmetry_evidence=self.evidence)


def _draws(reference: GaussianReference) -> Tensor:
    """Fields of a Gaussian reference, on which actions are tested."""
    lattice = reference.lattice
    white = rng.normal((N_TESTED, *lattice.field_shape), rng.stream(0, "fields for tests"))
    return lattice.to_sites(reference.c(white).sqrt() * lattice.to_modes(white)) + reference.mean

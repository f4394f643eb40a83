"""The fields that a model is trained on, with their forces where these are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action, differentiable
from dmmc.theory.evaluation import stored_forces


@dataclass(frozen=True)
class Fields:
    """Fields of an ensemble with what is known of them.

    Attributes:
        phi: ``(..., *lattice)``.
        forces: dS/dphi of them, of the same shape; None where they are not known.

    Raises:
        DmmcError: if the forces have another shape than the fields.
    """

    phi: Tensor
    forces: Tensor | None = None

    def __post_init__(self) -> None:
        if self.forces is not None and self.forces.shape != self.phi.shape:
            raise DmmcError(
                f"the forces of fields {tuple(self.phi.shape)} have the same shape, got {tuple(self.forces.shape)}"
            )

    def __getitem__(self, index: slice | Tensor) -> Fields:
        return Fields(self.phi[index], None if self.forces is None else self.forces[index])

    def known_to(self, action: Action | None, wanted: bool) -> Fields:
        """The fields with forces in their own precision, or without any where the action has no gradient.

        Args:
            action: the action of the ensemble, if there is one.
            wanted: whether forces that are not known yet are to be evaluated.

        Raises:
            DmmcError: if the action fails.
        """
        action = differentiable(action)
        if action is None:
            return replace(self, forces=None)
        forces = stored_forces(action, self.phi) if self.forces is None and wanted else self.forces
        return replace(self, forces=None if forces is None else forces.to(self.phi))

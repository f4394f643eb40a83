"""A trained diffusion model: the network, what it was trained for, and its file.

A model file holds weights and propagator as tensors and everything else in its header (:mod:`dmmc.model.file`). The
network is looked up by its name in the registry of :mod:`dmmc.model.network`; loading a file runs no code from it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.records import Record
from dmmc.core.rng import signs, stream
from dmmc.core.version import VERSION
from dmmc.model import backward
from dmmc.model import foreign as _foreign  # noqa: F401 - registers networks of other codes
from dmmc.model import interaction as _interaction  # noqa: F401 - registers the network of the package
from dmmc.model import unet as _unet  # noqa: F401 - registers the U-Net
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.flow_errors import FlowErrors
from dmmc.model.history import TrainingHistory
from dmmc.model.network import (
    Network,
    UnknownNetworkError,
    check_config,
    is_registered,
    make_network,
    network_class,
    restore_network,
)
from dmmc.model.reference import GaussianReference
from dmmc.theory.actions import SYMMETRIES, Action, Symmetry, declaration
from dmmc.theory.descriptions import action_from_description, action_label, same_action
from dmmc.theory.lattice import Lattice

FORMAT = "dmmc-model"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class ReferenceHeader:
    """A Gaussian reference but for its lattice and propagator; see :class:`dmmc.model.reference.GaussianReference`."""

    mean: float
    v_max: float
    v_offset: float


@dataclass(frozen=True)
class ModelHeader(Record):
    """What a model file holds beside its tensors.

    Attributes:
        action: description of the action; {} for a model trained on data alone.
        lattice: extents.
        components: number of components of the fields; None for scalar fields.
        flow_errors: of the integrator, as far as they were measured.
        network: its registered name as ``name``, and its configuration.
        reference: the Gaussian reference.
        symmetry: of the theory, as far as the model uses it.
        two_sector: whether the model is of one sector of a broken phase.
        history: how it was trained; None for an untrained model.
        versions: of the software that wrote the file.
        symmetry_evidence: how the symmetry was found, as a sentence; empty if that is not known.
        remarks: what is to be known about the model, such as that its ensemble did not fit its action.
    """

    VERSION = 2

    action: dict[str, Any]
    lattice: tuple[int, ...]
    network: dict[str, Any]
    reference: ReferenceHeader
    symmetry: Symmetry
    two_sector: bool
    history: TrainingHistory | None
    versions: dict[str, str]
    symmetry_evidence: str = ""
    remarks: tuple[str, ...] = ()
    components: int | None = None
    flow_errors: FlowErrors | None = None


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a file of format 1, which knew one network and assumed the symmetry, as one of format 2.

    Raises:
        KeyError, TypeError: if something is missing.
        DmmcError: if the history is not one.
    """
    network = {"name": "interaction", **header["network"]}
    history = TrainingHistory.from_version_1(header["history"])
    return {**header} | {
        "network": network,
        "symmetry": "z2" if header["two_sector"] or network["odd"] else "none",
        "history": None if history is None else history.to_json(),
    }


@dataclass(frozen=True, repr=False)
class DiffusionModel:
    """A network with its Gaussian reference and its provenance.

    Attributes:
        network: the network; its reference and lattice are those of the model. It is put into evaluation mode, since
            with dropout the density of a proposal would not be that of the weights.
        action: description of the action of the training ensemble (:meth:`dmmc.theory.actions.Action.describe`); {} for
            a model trained on data alone.
        two_sector: whether the network models only the sector M > 0 of a broken phase, with a reference centred at its
            mean, so that proposals must be averaged over the group: ``q(phi) = [q_+(phi) + q_+(-phi)] / 2``.
        history: how it was trained; None for an untrained model.
        symmetry: of the theory, as far as the model uses it: with ``"none"`` the network may not be odd, only with
            ``"z2"`` may it model one sector, and only with ``"o_n"`` may it be equivariant under rotations.
        symmetry_evidence: how the symmetry was found, as a sentence; empty if that is not known.
        remarks: what is to be known about the model, such as that its ensemble did not fit its action; they go into
            every chain of it.
        flow_errors: what was measured of the errors of the integrator of the flow, from which chains choose their
            steps; None where nothing was.

    Raises:
        DmmcError: if the model uses a symmetry that the theory does not have, or an odd network is to model one sector
            or a field that is not centred.
    """

    network: Network
    action: Mapping[str, Any] = field(hash=False)  # it has none, and a kernel with a model should have one
    two_sector: bool = False
    history: TrainingHistory | None = None
    symmetry: Symmetry = "none"
    symmetry_evidence: str = ""
    remarks: tuple[str, ...] = ()
    flow_errors: FlowErrors | None = None

    def __post_init__(self) -> None:
        self.network.eval()
        if self.symmetry not in SYMMETRIES:
            raise DmmcError(f"the symmetry of a model is one of {', '.join(SYMMETRIES)}, not {self.symmetry!r}")
        if self.network.equivariant and self.symmetry != "o_n":
            raise DmmcError(
                f"a {type(self.network).__name__} for fields with components is equivariant under rotations of these, "
                f'and the symmetry of the theory is "{self.symmetry}"; if it has the symmetry "o_n", pass that, '
                "otherwise use a network of your own, such as a SiteNetwork"
            )
        if self.two_sector and self.network.odd:
            raise DmmcError("a two-sector model needs a network with biases: pass odd=False in its configuration")
        if self.two_sector and self.symmetry != "z2":
            raise DmmcError('a two-sector model is mirrored by the symmetry phi -> -phi: pass symmetry="z2"')
        if self.network.odd and self.symmetry == "none":
            raise DmmcError(
                'an odd network is for theories with the symmetry phi -> -phi: pass symmetry="z2", or odd=False in the '
                "configuration of the network"
            )
        if self.network.odd and self.network.reference.mean != 0:
            raise DmmcError(
                "an odd network is for fields of mean 0, and the reference has another mean: pass odd=False in the "
                "configuration of the network, or measure the reference without connected=True"
            )

    @classmethod
    def untrained(
        cls,
        reference: GaussianReference,
        action: Action | None,
        network: str = "interaction",
        config: Mapping[str, Any] | None = None,
        *,
        symmetry: Symmetry | None = None,
        two_sector: bool = False,
        generator: torch.Generator | None = None,
    ) -> DiffusionModel:
        """The model that is the Gaussian reference exactly, or close to it: where training starts.

        The network is odd only for a theory with the symmetry phi -> -phi, a centred reference and both sectors.

        Args:
            reference: the Gaussian reference. For a theory without the symmetry it should be a connected one, and so
                for one sector.
            action: of the ensemble; None for data alone.
            network: name of a registered network.
            config: its configuration where it differs from the default; for the interaction network the fields of
                :class:`dmmc.model.interaction.NetworkSize`.
            symmetry: of the theory, as :func:`dmmc.theory.symmetry.find_symmetry` finds it; by default what the action
                declares, and "none" where it says nothing.
            two_sector: whether to model the sector M > 0 only.
            generator: source of the random initial weights (CPU); by default one of a fixed seed.

        Raises:
            DmmcError: if there is no such network, or the model would use a symmetry that the theory does not have.
        """
        if symmetry is None:
            symmetry = (None if action is None else declaration(action).symmetry) or "none"
        odd = symmetry != "none" and not two_sector and reference.mean == 0
        settings = network_class(network).oddness(odd) | dict(config or {})
        made = make_network(network, reference, settings, generator).requires_grad_(False)
        return cls(made, {} if action is None else action.describe(), two_sector, symmetry=symmetry)

    def __repr__(self) -> str:
        theory, couplings = (
            action_label(self.action, self.lattice.dim) if self.action else ("data without an action", "")
        )
        weights = sum(p.numel() for p in self.network.parameters())
        parts = [
            f"{', '.join(filter(None, (theory, couplings)))} on {' x '.join(map(str, self.lattice.shape))}",
            f"network {self.network.name or type(self.network).__name__} with {weights} weights",
            f"symmetry {self.symmetry}{', one sector that is mirrored' if self.two_sector else ''}",
            "not trained" if self.history is None else f"trained for {self.history.steps} steps",
        ]
        return f"DiffusionModel of {'; '.join([*parts, *self.remarks])}"

    @property
    def reference(self) -> GaussianReference:
        """The Gaussian reference."""
        return self.network.reference

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        return self.network.lattice

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights, and of what the network computes."""
        return self.network.dtype

    def to_float64(self) -> DiffusionModel:
        """A copy that computes in float64."""
        return replace(self, network=copy.deepcopy(self.network).double())

    def score(self, phi: Tensor, sigma: float | Tensor) -> Tensor:
        """The score ``grad log p`` of noisy fields ``phi_s = phi_0 + sigma eps``, as the network has learned it.

        With ``sigma = 0`` it is the learned force ``-grad S``. The expected field is ``phi + sigma^2 score``. Of a
        two-sector model it is the score of the sector M > 0 alone.

        Args:
            phi: noisy fields ``(n, *lattice)``.
            sigma: standard deviation of their noise, one number or one for each field ``(n,)``, from 0 to
                ``sqrt(reference.v_max)``.

        Returns:
            the score, like ``phi``.

        Raises:
            DmmcError: if ``phi`` is not finite fields on the model's lattice, or sigma is out of its range.
        """
        return backward.score(self.network, phi, sigma)

    def backward(
        self,
        n: int,
        times: Sequence[float] = (1.0,),
        kind: backward.Kind = "sde",
        *,
        n_steps: int = backward.DEFAULT_STEPS,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Fields on their way from noise to sample, by the learned reverse process.

        **They are not exact**, even at time 1: the errors of the network and of the steps are in them, and there is
        no density with which to correct for them. For exact fields see :func:`dmmc.studies.sampling.sample`; for what
        the kinds are, :mod:`dmmc.model.backward`.

        Args:
            n: number of fields.
            times: times tau in rising order, where denoising begins at 0 and ends at 1, as in Wang, Aarts, Zhou, JHEP
                05 (2024) 060. The noise level is ``1 - tau``, and its standard deviation
                ``reference.variance(1 - tau)**0.5``.
            kind: ``sde``, ``predictor-corrector`` or ``ode``.
            n_steps: steps from time 0 to 1; between two times as many as belong there, rounded up.
            generator: random numbers; by default those of a fixed seed. All kinds begin at the same fields.

        Returns:
            ``(len(times), n, *lattice)``; the fields of a two-sector model have random signs.

        Raises:
            DmmcError: if the times do not rise from 0 to at most 1, the kind is unknown, or a number is out of range.
        """
        generator = stream(0, "backward", device=self.device) if generator is None else generator
        fields = backward.backward(self.network, n, times, kind, n_steps, generator)
        if not self.two_sector:
            return fields
        return fields * signs((n, *(1,) * len(self.lattice.field_shape)), generator, fields.dtype, fields.device)

    def known_action(self) -> Action | None:
        """The action, if one is registered under the name in its description."""
        return action_from_description(self.action) if self.action else None

    def check_fits(self, action: Action | None = None, lattice: Lattice | None = None) -> None:
        """Refuse to be used for another theory.

        Raises:
            MismatchError: if ``action`` or ``lattice`` differ from those of the training ensemble.
        """
        if lattice is not None and lattice.shape != self.lattice.shape:
            raise MismatchError(
                f"the model was trained on lattice {self.lattice.shape}, not {lattice.shape}; "
                "train one for this lattice (the old one can serve as its start: dmmc train --init)"
            )
        if action is not None and declaration(action).components != self.lattice.components:
            wanted = Lattice(self.lattice.shape, declaration(action).components)
            raise MismatchError(
                f"the model is of {_kind(self.lattice)}, and the action is of {_kind(wanted)}; use another of the two"
            )
        if action is not None and self.action and not same_action(self.action, action.describe()):
            raise MismatchError(
                f"the model was trained for {_text(self.action)}, not {_text(action.describe())}; "
                "ask for the action it was trained for, or train another model"
            )

    def moved_to(
        self, reference: GaussianReference, action: Action | None, symmetry: Symmetry | None = None
    ) -> DiffusionModel:
        """A start for training on another lattice or coupling; see :meth:`dmmc.model.network.Network.moved_to`.

        Args:
            reference: that of the new ensemble; it must have the same number of dimensions.
            action: that of the new ensemble.
            symmetry: of the new theory; by default that of this model.

        Raises:
            MismatchError: if the dimensions differ.
            DmmcError: if the network cannot move there, or uses a symmetry that the new theory does not have.
        """
        if reference.lattice.dim != self.lattice.dim:
            raise MismatchError(
                f"a model of {self.lattice.dim} dimensions cannot start one of {reference.lattice.dim}; train afresh"
            )
        if reference.lattice.components != self.lattice.components:
            raise MismatchError(
                f"a model of {_kind(self.lattice)} cannot start one of {_kind(reference.lattice)}; train afresh"
            )
        network = self.network.moved_to(reference).requires_grad_(False)
        description = {} if action is None else action.describe()
        return DiffusionModel(network, description, self.two_sector, symmetry=symmetry or self.symmetry)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and the reference: two models that propose alike have the same."""
        facts: list[Any] = [self.reference.describe(), self.two_sector]
        if identity := self.network.identity():
            facts.append(identity)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        return tensors | {"propagator": self.reference.propagator}

    def save(self, path: str | Path) -> Path:
        """Write the model file; an older one is replaced only once the new one is complete.

        Raises:
            FileError: if the file cannot be written.
            DmmcError: if the class of the network is not registered, or its configuration cannot be written, so that
                the file could not be read again.
        """
        if not is_registered(self.network):
            raise DmmcError(
                f"{type(self.network).__name__} cannot be saved, since no name is registered for it: put "
                '@register_network("a-name") before its class, and define its config()'
            )
        check_config(self.network)
        header = ModelHeader(
            action=dict(self.action),
            lattice=self.lattice.shape,
            network=self.network.describe(),
            reference=ReferenceHeader(**self.reference.describe()),
            symmetry=self.symmetry,
            two_sector=self.two_sector,
            history=self.history,
            versions={"dmmc": VERSION, "torch": torch.__version__},
            symmetry_evidence=self.symmetry_evidence,
            remarks=self.remarks,
            components=self.lattice.components,
            flow_errors=self.flow_errors,
        )
        return write_tensors(path, self._tensors(), FORMAT, FORMAT_VERSION, header.to_json())

    @classmethod
    def load(
        cls,
        path: str | Path,
        action: Action | None = None,
        lattice: Lattice | None = None,
        device: str | torch.device = "cpu",
    ) -> DiffusionModel:
        """Read a model file and check that it fits.

        Args:
            path: the file.
            action: refuse a model trained for another one; None takes any.
            lattice: refuse a model trained on another one; None takes any.
            device: where to put the weights.

        Raises:
            FileError: if the file is missing, truncated, damaged, foreign, of a newer version, or of a network that is
                not registered.
            MismatchError: wrong action or lattice.
        """
        file = read_tensors(path, FORMAT, FORMAT_VERSION)
        tensors = dict(file.tensors)
        try:
            header = ModelHeader.from_json(file.header if file.version > 1 else _from_version_1(file.header))
            reference = GaussianReference(
                Lattice(header.lattice, header.components),
                tensors.pop("propagator"),
                header.reference.mean,
                header.reference.v_max,
                header.reference.v_offset,
            )
            network = restore_network(header.network, reference, tensors)
            model = cls(
                network,
                header.action,
                header.two_sector,
                header.history,
                header.symmetry,
                header.symmetry_evidence,
                header.remarks,
                header.flow_errors,
            )
        except UnknownNetworkError as error:
            raise FileError(f"{path} cannot be loaded: {error}") from None
        except (DmmcError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path} is not a complete model file: {error}; restore it or train again") from None
        model.check_fits(action, lattice)
        network.to(device).requires_grad_(False)
        return model


def _kind(lattice: Lattice) -> str:
    return "scalar fields" if lattice.components is None else f"fields with {lattice.components} components"


def _text(description: Mapping[str, Any]) -> str:
    parameters = ", ".join(
        f"{key}={value:.8g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in description.items()
        if key != "name"
    )
    return f"{description.get('name')}({parameters})"

"""A trained diffusion model: the network, what it was trained for, and its file.

A model file is a safetensors file: weights and propagator as tensors, everything else as JSON in its header. Loading
one runs no code from it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.version import VERSION
from dmmc.model.interaction import InteractionNetwork, NetworkSize
from dmmc.model.network import DriftNetwork
from dmmc.model.reference import GaussianReference
from dmmc.theory.actions import Action, action_from_description, same_action
from dmmc.theory.lattice import Lattice

FORMAT = "dmmc-model"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class DiffusionModel:
    """A network with its Gaussian reference and its provenance.

    Attributes:
        network: the interaction network, or one of your own; its reference and lattice are the model's.
        action: description of the action of the training ensemble (:meth:`dmmc.theory.actions.Action.describe`); {} for a
            model trained on data alone.
        two_sector: the network models the sector M > 0 of a broken phase, with a reference centred at its mean, and
            the proposal is the group average ``q(phi) = [q_+(phi) + q_+(-phi)] / 2``.
        history: training record, JSON-ready.
    """

    network: DriftNetwork
    action: Mapping[str, Any]
    two_sector: bool = False
    history: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.two_sector and self.network.odd:
            raise DmmcError("a two-sector model needs a network with biases: use NetworkSize(odd=False)")

    @classmethod
    def untrained(
        cls,
        reference: GaussianReference,
        action: Action | None,
        size: NetworkSize | None = None,
        two_sector: bool = False,
        generator: torch.Generator | None = None,
    ) -> DiffusionModel:
        """The model that is the Gaussian reference exactly."""
        size = NetworkSize() if size is None else size
        if two_sector:
            size = replace(size, odd=False)
        network = InteractionNetwork(reference, size, generator)
        return cls(network, {} if action is None else action.describe(), two_sector)

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
        """Where the weights are."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights, and of what the network computes."""
        return self.network.dtype

    def to_float64(self) -> DiffusionModel:
        """A copy that computes in float64."""
        return replace(self, network=copy.deepcopy(self.network).double())

    def known_action(self) -> Action | None:
        """The action object, where this version knows how to make it from its description."""
        return action_from_description(dict(self.action)) if self.action else None

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
        if action is not None and self.action and not same_action(self.action, action.describe()):
            raise MismatchError(
                f"the model was trained for {_text(self.action)}, not {_text(action.describe())}; "
                "ask for the action it was trained for, or train another model"
            )

    def moved_to(self, reference: GaussianReference, action: Action | None) -> DiffusionModel:
        """A start for training on another lattice or coupling: same filters in p, matrices refitted in the noise level.

        Args:
            reference: that of the new ensemble; same number of dimensions.
            action: that of the new ensemble.

        Raises:
            MismatchError: if the dimensions differ.
            DmmcError: if the network is not an :class:`dmmc.model.interaction.InteractionNetwork`.
        """
        old = self._interaction_network("start another model")
        if reference.lattice.dim != self.lattice.dim:
            raise MismatchError(
                f"a model of {self.lattice.dim} dimensions cannot start one of {reference.lattice.dim}; train afresh"
            )
        network = InteractionNetwork(reference, old.size).to(device=self.device, dtype=self.dtype)
        network.load_state_dict(old.coefficients_for(reference))
        return DiffusionModel(network, {} if action is None else action.describe(), self.two_sector)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and the reference: two models that propose alike have the same."""
        facts: list[Any] = [self.reference.describe(), self.two_sector]
        if not isinstance(self.network, InteractionNetwork):  # whose weights tell its functions
            facts.append(self.network.describe())
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def _interaction_network(self, purpose: str) -> InteractionNetwork:
        if not isinstance(self.network, InteractionNetwork):
            raise DmmcError(
                f"only an InteractionNetwork can {purpose}, not {type(self.network).__name__}; keep the weights of "
                "your own network with torch.save, and make DiffusionModel(network, action.describe()) anew"
            )
        return self.network

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        return tensors | {"propagator": self.reference.propagator}

    def save(self, path: str | Path) -> Path:
        """Write the model file; an older one is replaced only once the new one is complete.

        Raises:
            FileError: if the file cannot be written.
            DmmcError: if the network is not an :class:`dmmc.model.interaction.InteractionNetwork`.
        """
        header = {
            "action": dict(self.action),
            "lattice": list(self.lattice.shape),
            "network": self._interaction_network("be written to a model file").describe(),
            "reference": self.reference.describe(),
            "two_sector": self.two_sector,
            "history": dict(self.history),
            "versions": {"dmmc": VERSION, "torch": torch.__version__},
        }
        return write_tensors(path, self._tensors(), FORMAT, FORMAT_VERSION, header)

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
            FileError: missing, truncated or foreign file, or one of a newer version.
            MismatchError: wrong action or lattice.
        """
        tensors, header = read_tensors(path, FORMAT, FORMAT_VERSION)
        try:
            reference = GaussianReference(
                Lattice(tuple(header["lattice"])), tensors.pop("propagator"), **header["reference"]
            )
            shells = tuple(tuple(kind) for kind in header["network"].pop("shells"))
            network = InteractionNetwork(reference, NetworkSize(**header["network"], shells=shells))
            network.to(tensors["lin"].dtype).load_state_dict(tensors)
            model = cls(network, header["action"], header["two_sector"], header["history"])
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path} is not a complete model file: {error}; restore it or train again") from None
        if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
            raise FileError(f"{path} has weights that are not finite; restore it or train again")
        model.check_fits(action, lattice)
        network.to(device).requires_grad_(False)
        return model


def pretrained_names() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("dmmc.model") / "pretrained"
    return sorted(entry.name.removesuffix(".safetensors") for entry in folder.iterdir() if ".safetensors" in entry.name)


def load_pretrained(name: str, device: str | torch.device = "cpu") -> DiffusionModel:
    """A model that comes with the package.

    Raises:
        FileError: if there is none of this name.
    """
    if name not in pretrained_names():
        raise FileError(f"no pretrained model {name!r}; there are: {', '.join(pretrained_names()) or 'none'}")
    with resources.as_file(resources.files("dmmc.model") / "pretrained" / f"{name}.safetensors") as path:
        return DiffusionModel.load(path, device=device)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], format_name: str, version: int, header: Mapping[str, Any]
) -> Path:
    """Write a safetensors file with a JSON header, under a temporary name that is then renamed.

    Raises:
        FileError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    metadata = {"format": format_name, "format_version": str(version), "header": json.dumps(header, sort_keys=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), temporary, metadata)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise FileError(f"cannot write {path}: {error}") from None
    return path


def read_tensors(path: str | Path, format_name: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        FileError: missing, truncated or foreign file, or one of a newer version.
    """
    if not Path(path).is_file():
        raise FileError(f"there is no file {path}")
    try:
        # At one go: opened once for the header and once for the tensors, it could be two files, where a training that
        # goes on has replaced its checkpoint in between.
        data = Path(path).read_bytes()
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a type of numbers that torch does not know
        raise FileError(f"{path} is truncated or not a safetensors file ({error})") from None
    if metadata.get("format") != format_name:
        raise FileError(f"{path} is a safetensors file but not a {format_name} file")
    try:
        found, header = int(metadata["format_version"]), json.loads(metadata["header"])
    except (KeyError, ValueError) as error:
        raise FileError(f"{path} has no readable header ({error}); restore it or make it again") from None
    if found > version:
        raise FileError(f"{path} was written by a newer dmmc; upgrade to read it")
    return tensors, header


def _text(description: Mapping[str, Any]) -> str:
    parameters = ", ".join(
        f"{key}={value:.8g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in description.items()
        if key != "name"
    )
    return f"{description.get('name')}({parameters})"

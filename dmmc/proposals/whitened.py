"""Proposals of a few parameters: a flow of whitened numbers, and its file.

Parameters are ``x = mean + L y``, where y has about mean 0 and the unit matrix as its covariance. The flow proposes y;
:mod:`dmmc.proposals.dense` makes such proposals from samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.linalg import solve_lower
from dmmc.core.records import Record
from dmmc.core.version import VERSION
from dmmc.model.dense import unit_gaussian
from dmmc.model.diffusion_model import DiffusionModel, ReferenceHeader
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory
from dmmc.model.network import is_registered, restore_network
from dmmc.proposals.base import Proposal
from dmmc.proposals.flow import FlowProposal
from dmmc.proposals.integrator import schedule_of

FORMAT = "dmmc-dense"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class DenseHeader(Record):
    """The contents of a file beside its tensors.

    Attributes:
        network: its registered name as ``name``, and its configuration.
        reference: the Gaussian reference of the whitened numbers.
        n_steps: integration steps of the flow.
        history: how the network was trained; None for an untrained one.
        versions: of the software that wrote the file.
    """

    network: dict[str, Any]
    reference: ReferenceHeader
    n_steps: int | tuple[int, ...]
    history: TrainingHistory | None
    versions: dict[str, str]

    def __post_init__(self) -> None:
        schedule_of(self.n_steps)  # refuses absurd numbers


@dataclass(frozen=True)
class DenseProposal(Proposal):
    """Independent parameters ``x = mean + L y`` with their density, where y comes from the probability flow of a model.

    As fields, parameters live on a lattice ``(D,)``.

    Attributes:
        flow: the flow of y.
        mean: ``(D,)`` float64.
        cholesky: L, ``(D, D)`` float64, lower triangular with a positive diagonal.

    Raises:
        DmmcError: if mean or cholesky are not such tensors.
    """

    flow: FlowProposal
    mean: Tensor
    cholesky: Tensor

    def __post_init__(self) -> None:
        d = self.n_parameters
        for name, value, shape in (("mean", self.mean, (d,)), ("cholesky", self.cholesky, (d, d))):
            if tuple(value.shape) != shape or value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
                raise DmmcError(f"{name} of a proposal of {d} parameters must be finite float64 numbers {shape}")
        if bool(self.cholesky.triu(1).any()) or not bool((self.cholesky.diagonal() > 0).all()):
            raise DmmcError("cholesky must be lower triangular with a positive diagonal")

    @property
    def n_parameters(self) -> int:
        """The number of parameters D."""
        return self.flow.model.lattice.volume

    @property
    def inexact(self) -> str:
        return self.flow.inexact

    @property
    def evaluations(self) -> int:
        return self.flow.evaluations

    def describe(self) -> dict[str, Any]:
        """The flow and a fingerprint of the whitening: all that the numbers of a proposal depend on."""
        digest = hashlib.sha256(self.mean.cpu().numpy().tobytes() + self.cholesky.cpu().numpy().tobytes())
        return {"name": "dense", "flow": self.flow.describe(), "whitening": digest.hexdigest()}

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``n`` parameter vectors.

        Args:
            n: how many vectors.
            generator: random numbers.

        Returns:
            ``x (n, D)`` and log q ``(n,)``, float64.

        Raises:
            DmmcError: if ``n`` is not positive.
        """
        y, log_q = self.flow.sample(n, generator)
        return self.mean + y.double() @ self.cholesky.mT, log_q - self._log_volume

    def log_q(self, x: Tensor) -> Tensor:
        """Log density ``(n,)`` float64 of given parameters ``x (n, D)``.

        Raises:
            DmmcError: if ``x`` has another shape, or values that are not finite.
        """
        self.flow.model.lattice.check(x, "x")
        return self.flow.log_q(whiten(x.to(self.mean), self.mean, self.cholesky)) - self._log_volume

    @property
    def _log_volume(self) -> Tensor:
        return self.cholesky.diagonal().log().sum()

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file.

        Raises:
            FileError: if the file cannot be written.
            DmmcError: if the class of its network is not registered, so that the file could not be read again.
        """
        model = self.flow.model
        if not is_registered(model.network):
            raise DmmcError(f"{type(model.network).__name__} cannot be saved, since no name is registered for it")
        tensors = {f"network.{name}": value.cpu().contiguous() for name, value in model.network.state_dict().items()}
        tensors |= {"mean": self.mean.cpu(), "cholesky": self.cholesky.cpu().contiguous()}
        header = DenseHeader(
            network=model.network.describe(),
            reference=ReferenceHeader(**model.reference.describe()),
            n_steps=self.flow.n_steps,
            history=model.history,
            versions={"dmmc": VERSION, "torch": torch.__version__},
        )
        return write_tensors(path, tensors, FORMAT, FORMAT_VERSION, header.to_json())

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> DenseProposal:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if the file is missing, truncated, damaged, foreign, of a newer version, or of a network that is
                not registered.
        """
        file = read_tensors(path, FORMAT, FORMAT_VERSION)
        tensors = dict(file.tensors)
        try:
            header = DenseHeader.from_json(file.header if file.version > 1 else _from_version_1(file.header))
            mean, cholesky = (tensors.pop(name) for name in ("mean", "cholesky"))
            reference = replace(unit_gaussian(mean.numel()), **asdict(header.reference))
            weights = {name.removeprefix("network."): value for name, value in tensors.items()}
            network = restore_network(header.network, reference, weights)
            model = DiffusionModel(network.to(device).requires_grad_(False), {}, history=header.history)
            return cls(FlowProposal(model, header.n_steps), mean.to(device), cholesky.to(device))
        except (DmmcError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path} is not a complete model file: {error}; restore it or train again") from None


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a file of format 1, which knew no other network than that of the package, as one of format 2.

    Raises:
        KeyError, TypeError: if something is missing.
        DmmcError: if the history is not one.
    """
    history = TrainingHistory.from_version_1(header["history"] or {})
    return {
        "network": {"name": "dense", **header["size"]},
        "reference": header["reference"],
        "n_steps": header["n_steps"],
        "history": None if history is None else history.to_json(),
        "versions": header.get("versions", {}),
    }


def whiten(x: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """``L^-1 (x - mean)`` of parameters ``(n, D)``."""
    return solve_lower(cholesky, (x - mean).mT).mT

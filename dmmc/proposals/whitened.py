"""Proposals of a few parameters: a flow of whitened numbers, and its file.

Parameters are ``x = mean + L y``, where y has about mean 0 and the unit matrix as its covariance. The flow proposes y;
:mod:`dmmc.proposals.dense` makes such proposals from samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, FileError
from dmmc.core.linalg import solve_lower
from dmmc.core.version import VERSION
from dmmc.model.dense import unit_gaussian
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import read_tensors, write_tensors
from dmmc.model.history import TrainingHistory
from dmmc.model.network import is_registered, make_network
from dmmc.proposals.base import Proposal
from dmmc.proposals.flow import FlowProposal

FORMAT = "dmmc-dense"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class DenseProposal(Proposal):
    """Independent parameters ``x = mean + L y`` with their density, where y comes from the probability flow of a model.

    As fields, parameters live on a lattice ``(D,)``.

    Attributes:
        flow: the flow of y.
        mean: ``(D,)`` float64.
        cholesky: L, ``(D, D)`` float64, lower triangular.
    """

    flow: FlowProposal
    mean: Tensor
    cholesky: Tensor

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
        """The flow and a fingerprint of the whitening: all that enters the bits of a proposal."""
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
        header = {
            "network": model.network.describe(),
            "reference": model.reference.describe(),
            "n_steps": self.flow.n_steps,
            "history": None if model.history is None else model.history.to_json(),
            "versions": {"dmmc": VERSION, "torch": torch.__version__},
        }
        tensors |= {"mean": self.mean.cpu(), "cholesky": self.cholesky.cpu().contiguous()}
        return write_tensors(path, tensors, FORMAT, FORMAT_VERSION, header)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> DenseProposal:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: missing, truncated or foreign file, or one of a newer version.
        """
        file = read_tensors(path, FORMAT, FORMAT_VERSION)
        tensors, header = file.tensors, file.header
        try:
            mean, cholesky = (tensors.pop(name) for name in ("mean", "cholesky"))
            reference = replace(unit_gaussian(len(mean)), **header["reference"])
            # Files of format 1 have the sizes of the network of the package, and no other network.
            config = dict(header["network"]) if file.version > 1 else {"name": "dense", **header["size"]}
            network = make_network(config.pop("name"), reference, config)
            weights = {name.removeprefix("network."): value for name, value in tensors.items()}
            network.to(next(iter(weights.values())).dtype).load_state_dict(weights)
            kept = header["history"]
            history = (
                TrainingHistory.from_json(kept)
                if kept and "curve" in kept
                else TrainingHistory.from_version_1(kept or {})
            )
            model = DiffusionModel(network.to(device).requires_grad_(False), {}, history=history)
            return cls(FlowProposal(model, header["n_steps"]), mean.to(device), cholesky.to(device))
        except (DmmcError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path} is not a complete model file: {error}; restore it or train again") from None


def whiten(x: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """``L^-1 (x - mean)`` of parameters ``(n, D)``."""
    return solve_lower(cholesky, (x - mean).mT).mT

"""Diffusion-model Monte Carlo: exact sampling of lattice field theories with diffusion models.

This module has all the names that most people need. Each is imported when it is first used, so that ``import dmmc`` is
quick and loads neither torch nor NumPy.

A theory and its ensemble:

* :class:`Lattice`: the lattice that a theory lives on.
* :class:`Phi4`, :class:`SineGordon`, :class:`FreeField`: actions; :class:`ExternalField` puts one into an external
  field, and :class:`Yukawa` couples fermions to it. :func:`action` makes one of functions of your own, with NumPy,
  torch or C, and :class:`AutogradAction` is what it makes of a torch function without a gradient.
* :func:`make_ensemble`: runs HMC or cluster chains of a theory.
* :func:`import_fields`, :func:`export_fields`: configurations from another code, and for one.

A model and its chain:

* :func:`train`: trains a :class:`DiffusionModel` on an ensemble; :func:`load_model` reads it again.
* :func:`train_rounds`: trains one on its own chain, from a few configurations or from none.
* :func:`load_pretrained`, :func:`pretrained_names`, :func:`pretrained_card`: models that come with the package, and
  what there is to know about each.
* :func:`sample`: runs the exact Metropolis chain of a model.

Results:

* :class:`Run`, :func:`load_run`: a finished run, with its summary and the ways out to ArviZ and pyerrors.
* :func:`report`: writes a page about several runs.
* :mod:`diagnostics`: statistics of any chain, in plain NumPy.

Parts, to be combined or replaced by your own:

* :func:`flow_proposal`, :func:`path_proposal`: fields proposed by a model, with their density; :func:`propose` streams
  them to a Metropolis loop of your own.
* :class:`Independence`, :class:`Latent`, :class:`PathIndependence`, :class:`PathRefresh`, :class:`HMC`,
  :class:`FermionHMC`, :class:`Langevin`, :class:`Cluster`: Markov kernels; :class:`Kernel` is the protocol for one of
  your own.
* :func:`cycle` (which makes a :class:`Cycle`), :func:`mixture`: several kernels that take turns, or of which chance
  chooses one.
* :func:`run_chain`: runs chains of any kernel.
* :func:`assert_invariant`: tests whether a kernel leaves ``exp(-S)`` invariant.
* :class:`Network`, :func:`register_network`: networks of your own.
* :func:`foreign` with a schedule :class:`VE` or :class:`VP`, :func:`trust_network`: networks of other codes.

Everything that dmmc refuses raises a :class:`DmmcError`, whose message says what to do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dmmc.core.threads import sleep_soon as _sleep_soon
from dmmc.core.version import VERSION as __version__

_sleep_soon()  # before anything here imports torch

_HOMES = {
    "AutogradAction": "dmmc.theory.function_action",
    "Cluster": "dmmc.kernels.cluster",
    "Cycle": "dmmc.kernels.cycle",
    "DiffusionModel": "dmmc.model.diffusion_model",
    "DmmcError": "dmmc.core.errors",
    "ExternalField": "dmmc.theory.external_field",
    "FermionHMC": "dmmc.kernels.fermion_hmc",
    "FreeField": "dmmc.theory.free_field",
    "HMC": "dmmc.kernels.hmc",
    "Independence": "dmmc.kernels.independence",
    "Kernel": "dmmc.kernels.base",
    "Langevin": "dmmc.kernels.langevin",
    "Latent": "dmmc.kernels.latent",
    "Lattice": "dmmc.theory.lattice",
    "Network": "dmmc.model.network",
    "PathIndependence": "dmmc.kernels.path",
    "PathRefresh": "dmmc.kernels.refresh",
    "Phi4": "dmmc.theory.phi4",
    "Run": "dmmc.studies.results",
    "SineGordon": "dmmc.theory.sine_gordon",
    "VE": "dmmc.model.schedules",
    "VP": "dmmc.model.schedules",
    "Yukawa": "dmmc.theory.yukawa",
    "action": "dmmc.theory.own_action",
    "assert_invariant": "dmmc.kernels.invariance",
    "cycle": "dmmc.kernels.cycle",
    "diagnostics": "dmmc",
    "export_fields": "dmmc.studies.exporting",
    "flow_proposal": "dmmc.proposals.of_model",
    "foreign": "dmmc.studies.foreign",
    "import_fields": "dmmc.studies.importing",
    "load_model": "dmmc.studies.front",
    "load_pretrained": "dmmc.model.pretrained",
    "load_run": "dmmc.studies.results",
    "make_ensemble": "dmmc.studies.front",
    "mixture": "dmmc.kernels.mixture",
    "path_proposal": "dmmc.proposals.of_model",
    "pretrained_card": "dmmc.model.pretrained",
    "pretrained_names": "dmmc.model.pretrained",
    "propose": "dmmc.proposals.of_model",
    "register_network": "dmmc.model.network",
    "report": "dmmc.studies.front",
    "run_chain": "dmmc.studies.front",
    "sample": "dmmc.studies.front",
    "train": "dmmc.studies.front",
    "train_rounds": "dmmc.studies.front_rounds",
    "trust_network": "dmmc.model.foreign",
}
"""The public names, and the modules that define them."""

__all__ = [
    "HMC",
    "VE",
    "VP",
    "AutogradAction",
    "Cluster",
    "Cycle",
    "DiffusionModel",
    "DmmcError",
    "ExternalField",
    "FermionHMC",
    "FreeField",
    "Independence",
    "Kernel",
    "Langevin",
    "Latent",
    "Lattice",
    "Network",
    "PathIndependence",
    "PathRefresh",
    "Phi4",
    "Run",
    "SineGordon",
    "Yukawa",
    "__version__",
    "action",
    "assert_invariant",
    "cycle",
    "diagnostics",
    "export_fields",
    "flow_proposal",
    "foreign",
    "import_fields",
    "load_model",
    "load_pretrained",
    "load_run",
    "make_ensemble",
    "mixture",
    "path_proposal",
    "pretrained_card",
    "pretrained_names",
    "propose",
    "register_network",
    "report",
    "run_chain",
    "sample",
    "train",
    "train_rounds",
    "trust_network",
]

if TYPE_CHECKING:
    from dmmc import diagnostics
    from dmmc.core.errors import DmmcError
    from dmmc.kernels.base import Kernel
    from dmmc.kernels.cluster import Cluster
    from dmmc.kernels.cycle import Cycle, cycle
    from dmmc.kernels.fermion_hmc import FermionHMC
    from dmmc.kernels.hmc import HMC
    from dmmc.kernels.independence import Independence
    from dmmc.kernels.invariance import assert_invariant
    from dmmc.kernels.langevin import Langevin
    from dmmc.kernels.latent import Latent
    from dmmc.kernels.mixture import mixture
    from dmmc.kernels.path import PathIndependence
    from dmmc.kernels.refresh import PathRefresh
    from dmmc.model.diffusion_model import DiffusionModel
    from dmmc.model.foreign import trust_network
    from dmmc.model.network import Network, register_network
    from dmmc.model.pretrained import load_pretrained, pretrained_card, pretrained_names
    from dmmc.model.schedules import VE, VP
    from dmmc.proposals.of_model import flow_proposal, path_proposal, propose
    from dmmc.studies.exporting import export_fields
    from dmmc.studies.foreign import foreign
    from dmmc.studies.front import (
        load_model,
        make_ensemble,
        report,
        run_chain,
        sample,
        train,
    )
    from dmmc.studies.front_rounds import train_rounds
    from dmmc.studies.results import Run, load_run
    from dmmc.theory.external_field import ExternalField
    from dmmc.theory.free_field import FreeField
    from dmmc.theory.function_action import AutogradAction
    from dmmc.theory.lattice import Lattice
    from dmmc.theory.own_action import action
    from dmmc.theory.phi4 import Phi4
    from dmmc.theory.sine_gordon import SineGordon
    from dmmc.theory.yukawa import Yukawa


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dmmc' has no attribute {name!r}")
    home = _HOMES[name]
    value = importlib.import_module(f"dmmc.{name}") if home == "dmmc" else getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

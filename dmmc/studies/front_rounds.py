"""The function of the front door that trains a model on its own chain, with the usual options as keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.options import TrainingOptions
from dmmc.studies import rounds as trainings
from dmmc.studies.given import Source
from dmmc.studies.rounds import RoundOptions
from dmmc.studies.training import Sectors
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.symmetry import Asked


def train_rounds(
    actions: Action | Sequence[Action] | None,
    path: str | Path,
    *,
    ensemble: Source | None = None,
    init: DiffusionModel | None = None,
    lattice: Lattice | None = None,
    rounds: int = 6,
    proposals: int = 4096,
    least_ess: float = 0.3,
    minutes: float | None = None,
    steps: int | None = None,
    trajectories: int | None = None,
    network: str = "interaction",
    size: str | None = None,
    config: Mapping[str, Any] | None = None,
    symmetry: Asked = "auto",
    sectors: Sectors = "auto",
    unchecked: bool = False,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
) -> DiffusionModel:
    """Train a model on its own chain, from a few configurations or from none, and save it.

    In each round the model proposes fields, they are weighed with the next action, an exact chain of them is the
    training set, and a step to an action that they do not support is bisected.

    Args:
        actions: the action that the model is for, or a path of actions that ends with it, such as
            ``[Yukawa(g=0.1), Yukawa(g=0.2)]``; None for that of the ensemble.
        path: the model file.
        ensemble: fields of the first action to begin with, however few.
        init: a model to begin with, or with an ensemble, that the training on it starts from.
        lattice: where to begin with a free field, without an ensemble and without a model.
        rounds: number of rounds; there are more if the end of the path is not reached by then.
        proposals: proposals of a round.
        least_ess: effective sample size per proposal that a step to another action needs; below it, the step is
            bisected.
        minutes: training budget of all rounds in minutes, their proposals not included; 5 without ``steps``.
        steps: training budget in optimiser steps instead, which is reproducible.
        trajectories: of the posterior chains that average the regression targets. With 0 the force of the action is
            evaluated once for each field. By default 16, or 0 for an action that declares itself costly.
        network: name of a registered network, for a new model.
        size: as for :func:`dmmc.studies.front.train`; ``auto`` never means ``tiny`` here, since better proposals take a
            round farther.
        config: its configuration where it differs from that size, such as ``{"hidden1": 16, "hidden2": 8}``.
        symmetry: as for :func:`dmmc.studies.front.train`; only a symmetry of all actions is used.
        sectors: as for :func:`dmmc.studies.front.train`, with an ensemble.
        unchecked: take an ensemble that does not fit its action; the model says so, and so do its chains.
        seed: seed of all random numbers.
        resume: go on with an interrupted training; where nothing was saved, begin afresh.
        overwrite: replace an earlier model file.
        device: where to train.

    Returns:
        the trained model; ``history.rounds`` holds its learning curve.

    Raises:
        DmmcError: as :func:`dmmc.studies.rounds.train_rounds`.
    """
    budget = 5.0 if minutes is None and steps is None else minutes
    return trainings.train_rounds(
        actions,
        path,
        TrainingOptions(steps=steps, minutes=budget, trajectories=trajectories, seed=seed),
        RoundOptions(rounds, proposals, least_ess),
        ensemble=ensemble,
        init=init,
        lattice=lattice,
        network=network,
        size=size,
        config=config,
        symmetry=symmetry,
        sectors=sectors,
        unchecked=unchecked,
        resume=resume,
        overwrite=overwrite,
        device=device,
    )

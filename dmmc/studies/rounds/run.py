"""A training on the model's own chain from its beginning to the file: what is refused, resumed and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.locks import locked
from dmmc.core.records import plain
from dmmc.model.checkpoint import remove_checkpoint
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.history import Rounds, TrainingHistory
from dmmc.model.network import network_class
from dmmc.model.options import TrainingOptions
from dmmc.studies.given import Source, read_ensemble
from dmmc.studies.remarks import Say, announce, note
from dmmc.studies.resumption import (
    check_training,
    checkpoint_of,
    round_of,
    say_threads,
    say_whether,
    training_lock,
    unfinished_training,
)
from dmmc.studies.rounds.beginning import Beginning
from dmmc.studies.rounds.course import all_rounds
from dmmc.studies.rounds.options import Budget, RoundOptions
from dmmc.studies.stages import Stages
from dmmc.studies.training import Sectors, config_of, train
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.symmetry import Asked


def train_rounds(
    actions: Action | Sequence[Action] | None,
    path: str | Path,
    options: TrainingOptions | None = None,
    rounds: RoundOptions | None = None,
    *,
    ensemble: Source | None = None,
    init: DiffusionModel | None = None,
    lattice: Lattice | None = None,
    network: str = "interaction",
    size: str | None = None,
    config: Mapping[str, Any] | None = None,
    symmetry: Asked = "auto",
    sectors: Sectors = "auto",
    unchecked: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    stages: Stages | None = None,
    say: Say = note,
) -> DiffusionModel:
    """Train a model on its own chain and save it.

    It begins with one of three: an ``ensemble`` of the first action, however small, on which it is trained as by
    :func:`dmmc.studies.training.train`; a model ``init``; or with neither, on ``lattice``, a free field
    (:func:`dmmc.studies.rounds.annealing.free_start`). Then it goes from action to action, and stays at the last one
    until all rounds are done. The last round has half of the budget, and the others that are planned share the rest.
    Where the action declares itself costly, or with ``TrainingOptions(trajectories=0)``, its force is evaluated once
    for each different field of a round, and S twice at most for each proposal.

    Args:
        actions: the action that the model is for, or a path of actions that ends with it. With None it is that of the
            ensemble.
        path: the model file. Until it is finished, ``<path>.round`` is the model after the last finished round, and
            ``<path>.round.checkpoint`` the state of the training at work.
        options: budget and details of all trainings together; five minutes by default.
        rounds: number and size of the rounds.
        ensemble: fields of the first action.
        init: a model to start from; without an ensemble, on the lattice that is wanted.
        lattice: the lattice, where there is neither ensemble nor model.
        network, size, config: of a new model, as for :func:`dmmc.studies.training.train`, but that ``auto`` is a size
            with which proposals are better.
        symmetry: as there; only a symmetry of all actions is used.
        sectors: as there, with an ensemble.
        unchecked: take an ensemble that does not fit its action.
        resume: go on with an interrupted training; without one, begin afresh.
        overwrite: replace an earlier model file, or an unfinished training.
        device: where to train.
        stages: wall times are added here.
        say: is told about the rounds.

    Returns:
        the trained model. ``history.rounds`` holds its learning curve, and ``remarks`` say that it was trained on its
        own chain, which every chain of it repeats.

    Raises:
        FileError: if a file is in the way, another process is training this model, a training that is to be resumed is
            finished, or a file cannot be written.
        MismatchError: if the ensemble or the model does not fit the actions, an action does not have the symmetry that
            was asked for, or what is resumed belongs to another training.
        DmmcError: if a number is out of its range, there is nothing to begin with, or the end of the path is not
            reached.
    """
    path, stages = Path(path), Stages() if stages is None else stages
    options = TrainingOptions(minutes=5.0, seed=1) if options is None else options
    rounds = RoundOptions() if rounds is None else rounds
    check_training(path, resume, overwrite)
    if (lattice is None) == (ensemble is None and init is None):
        raise DmmcError(
            "rounds begin with an ensemble, with a model to start from, or with neither on a lattice; give one of these"
        )
    if not callable(getattr(network_class(network) if init is None else init.network, "with_trace", None)):
        raise DmmcError(
            "rounds weigh the proposals of the probability flow, whose density a network without with_trace does not "
            "compute; use another network, such as interaction"
        )
    targets = () if actions is None else tuple(actions) if isinstance(actions, Sequence) else (actions,)
    given = None if ensemble is None else read_ensemble(ensemble, targets[0] if targets else None)
    if given is not None and given.action is not None and not targets:
        targets = (given.action,)
    where = lattice or (given.lattice if given is not None else init.lattice if init is not None else None)
    assert where is not None  # one of the three is given
    # The better the proposals, the farther a round goes.
    config = config_of(network, size, config, init, where, precise=True)
    if not targets:
        raise DmmcError("rounds weigh the proposals of the model with an action, and none is known; give it")
    options = options.for_action(targets[-1])
    begin = Beginning.of(targets, given, init, lattice, symmetry)
    plan = plain(
        {
            "actions": [action.describe() for action in targets],
            "begins with": begin.what,
            "training": {key: x for key, x in asdict(options).items() if key not in ("compile", "checkpoint_seconds")},
            "rounds": asdict(rounds),
            "network": {} if init is not None else {"name": network, **(config or {})},
        }
    )
    budget = Budget(options, max(rounds.rounds, len(targets)), given is not None)
    state = round_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(training_lock(path), str(path)):
        # Another training may have ended, or been killed, while this one read its ensemble.
        check_training(path, resume, overwrite)
        begun = bool(unfinished_training(path))
        if resume and say_whether(begun, path, say):
            say_threads(path, say)
        if not resume:
            _remove(path)
        if options.minutes is not None and not (resume and begun):
            announce("the training", 60 * options.minutes, say)
        model = stored = _stored(state, plan, device)
        if model is None and given is not None:
            model = train(
                given,
                state,
                budget.of(None),
                network=network,
                config=config,
                init=init,
                symmetry=begin.asked,
                sectors=sectors,
                unchecked=unchecked,
                resume=checkpoint_of(state).exists(),
                device=device,
                stages=stages,
                say=say,
            )
        elif model is None:
            say(begin.evidence)
            model = begin.model(network, config, options.seed)
            model.network.to(device)
        if stored is None or _rounds(stored) is None:
            model = replace(model, history=TrainingHistory(options, 0, 0.0, 0, (), model.history, Rounds(plan, ())))
            model.save(state)
        model = all_rounds(model, begin, budget, rounds, state, stages, say)
        done = _rounds(model)
        assert done is not None
        model = replace(model, remarks=(*model.remarks, done.remark))
        model.save(path)
        _remove(path)
    return model


def _stored(state: Path, plan: Mapping[str, Any], device: str | torch.device) -> DiffusionModel | None:
    """The model after the last finished round; None if none is finished.

    Raises:
        FileError: if its file is damaged.
        MismatchError: if it belongs to another training.
    """
    if not state.exists():
        return None
    model = DiffusionModel.load(state, device=device)
    done = _rounds(model)
    differing = [] if done is None else sorted(key for key in plan if done.plan.get(key) != plan[key])
    if differing:
        raise MismatchError(
            f"{state} belongs to another training run (different {', '.join(differing)}); resume with the options it "
            "was started with, or remove it to start afresh"
        )
    return model


def _rounds(model: DiffusionModel) -> Rounds | None:
    return None if model.history is None else model.history.rounds


def _remove(path: Path) -> None:
    """Remove what is left of an unfinished training, its checkpoints first: without them nothing goes on."""
    for file in unfinished_training(path):
        remove_checkpoint(file)

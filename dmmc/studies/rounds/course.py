"""The rounds themselves: proposals, their chain, and a training on it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dmmc import diagnostics
from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.core.progress import progress as report_progress
from dmmc.model.checkpoint import seed_of
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.fields import Fields
from dmmc.model.history import RoundRecord, TrainingHistory
from dmmc.model.training import fit
from dmmc.proposals.of_model import flow_proposal
from dmmc.studies.remarks import Say
from dmmc.studies.resumption import checkpoint_of
from dmmc.studies.rounds import annealing
from dmmc.studies.rounds.annealing import Position, Step
from dmmc.studies.rounds.beginning import Beginning
from dmmc.studies.rounds.options import MOST_ROUNDS, Budget, RoundOptions
from dmmc.studies.stages import Stages
from dmmc.studies.training import moved_to_fields
from dmmc.theory.actions import differentiable
from dmmc.theory.descriptions import action_label
from dmmc.theory.evaluation import stored_forces
from dmmc.theory.sectors import magnetisation

FEW = 50
"""Effective fields of a round below which its training teaches little more than these few."""

PIECE = 512
"""Proposals between two reports of progress."""


def all_rounds(
    model: DiffusionModel,
    begin: Beginning,
    budget: Budget,
    rounds: RoundOptions,
    state: Path,
    stages: Stages,
    say: Say,
) -> DiffusionModel:
    """Round after round, and at last only proposals, which say how good the model has become.

    Args:
        model: the model after the last finished round, which its history says.
        begin: where it began.
        budget: of all trainings.
        rounds: number and size of the rounds.
        state: the file of the model after each round.
        stages: wall times are added here.
        say: is told about the rounds.

    Raises:
        DmmcError: if the end of the path is not reached.
    """
    while True:
        records, began = _records(model), time.monotonic()
        position = Position(records[-1].stage, records[-1].share) if records else begin.position
        with stages("proposals"):
            step, record = _proposed(model, begin.path, position, rounds, len(records))
        if len(records) >= rounds.rounds and position == begin.path.end:
            say(f"after {len(records)} rounds: {_quality(record)}")
            return _with_record(model, replace(record, seconds=time.monotonic() - began))
        if len(records) >= MOST_ROUNDS:
            raise DmmcError(
                f"annealing has not reached its last action after {MOST_ROUNDS} rounds; give each round more steps or "
                "proposals, or accept a smaller least_ess"
            )
        where = ", ".join(filter(None, action_label(step.action, model.lattice.dim)))
        say(f"round {len(records) + 1}: {_quality(record)} for {where}")
        if record.ess * record.proposals < FEW:
            say(
                f"note: the proposals of this round are worth {record.ess * record.proposals:.0f} fields, which is few "
                "to train on; take more proposals, a larger least_ess, or more configurations to begin with"
            )
        model = _trained(model, step, record, begin.path, budget, rounds, state, stages, began)


def _proposed(
    model: DiffusionModel, path: annealing.ActionPath, position: Position, rounds: RoundOptions, number: int
) -> tuple[Step, RoundRecord]:
    """The next step along the path, with the proposals that the model makes for it."""
    options = _history(model).options
    flow = flow_proposal(model, rounds.flow_steps)
    generator = rng.stream(options.seed, "round", number, "proposals", device=model.device)
    drawn: list[tuple[Tensor, Tensor]] = []
    with report_progress("proposals", rounds.proposals) as bar:
        for start in range(0, rounds.proposals, PIECE):
            drawn.append(flow.sample(min(PIECE, rounds.proposals - start), generator))
            bar.advance(len(drawn[-1][0]))
    phi, log_q = (torch.cat(parts).double() for parts in zip(*drawn, strict=True))
    step = annealing.next_step(path, position, phi, log_q, rounds.least_ess)
    log_w = step.proposals.log_w.cpu().numpy()
    spread = diagnostics.std_log_w(log_w)
    record = RoundRecord(
        action=step.action.describe(),
        stage=step.position.stage,
        share=step.position.share,
        proposals=len(log_w),
        ess=step.ess,
        acceptance=diagnostics.expected_acceptance(log_w),
        std_log_w=spread if math.isfinite(spread) else None,
        fields=0,
        steps=0,
        seconds=0.0,
    )
    return step, record


def _trained(
    model: DiffusionModel,
    step: Step,
    record: RoundRecord,
    path: annealing.ActionPath,
    budget: Budget,
    rounds: RoundOptions,
    state: Path,
    stages: Stages,
    began: float,
) -> DiffusionModel:
    """The model after a round, which is then in the file ``state``."""
    history, number = _history(model), len(_records(model))
    training = budget.of(number, step.position == path.end and number + 1 >= rounds.rounds)
    with stages("train"):
        chain = annealing.chain_of(
            step, rng.stream(history.options.seed, "round", number, "chain", device=model.device)
        )
        fields, distinct = chain_fields(step, chain, model.two_sector)
        checkpoint = checkpoint_of(state)
        trained = fit(
            moved_to_fields(model, fields, model.lattice, step.action),
            step.action,
            fields.phi,
            training,
            checkpoint=checkpoint,
            # What the round before has left is not of this one.
            resume=seed_of(checkpoint) == training.seed,
            forces=fields.forces,
        )
    done = _history(trained)
    record = replace(record, fields=distinct, steps=done.steps, seconds=time.monotonic() - began)
    trained = replace(
        trained,
        history=replace(history, ensemble=done.ensemble, curve=done.curve),
        symmetry_evidence=model.symmetry_evidence,
    )
    trained = _with_record(trained, record)
    trained.save(state)
    return trained


def chain_fields(step: Step, chain: Tensor, two_sector: bool) -> tuple[Fields, int]:
    """The fields of a chain with their forces, which are evaluated once for each different field; and their number."""
    different, place = torch.unique(chain, return_inverse=True)
    phi = step.proposals.phi[different]
    if two_sector:
        phi = phi * torch.where(magnetisation(phi) < 0, -1.0, 1.0).to(phi).view(-1, *(1,) * (phi.ndim - 1))
    phi = phi.float()
    forces = None if differentiable(step.action) is None else stored_forces(step.action, phi)[place]
    return Fields(phi[place], forces), len(different)


def _with_record(model: DiffusionModel, record: RoundRecord) -> DiffusionModel:
    history = _history(model)
    assert history.rounds is not None
    rounds = replace(history.rounds, records=(*history.rounds.records, record))
    steps, seconds = history.steps + record.steps, history.seconds + record.seconds
    return replace(model, history=replace(history, steps=steps, seconds=seconds, rounds=rounds))


def _history(model: DiffusionModel) -> TrainingHistory:
    assert model.history is not None
    return model.history


def _records(model: DiffusionModel) -> tuple[RoundRecord, ...]:
    rounds = _history(model).rounds
    assert rounds is not None
    return rounds.records


def _quality(record: RoundRecord) -> str:
    return f"ESS/N {record.ess:.2f}, acceptance {record.acceptance:.2f}"

"""``dmmc train``: a diffusion model of an ensemble."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import GOES_ON, add_common, device_of
from dmmc.cli.options import add_options, attribute_texts, fill, help_text
from dmmc.cli.trust import add_trust, trust
from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.history import RoundRecord
from dmmc.model.interaction import SIZES
from dmmc.model.options import TrainingOptions
from dmmc.studies.given import Ensemble, read_ensemble
from dmmc.studies.models import load_named_model
from dmmc.studies.network_cost import NetworkCost, network_cost
from dmmc.studies.resumption import check_training
from dmmc.studies.rounds import RoundOptions, train_rounds
from dmmc.studies.stages import Stages
from dmmc.studies.training import train
from dmmc.theory.lattice import Lattice

CONFIG = {
    "filters": "filters of the network called interaction, in place of those of its size",
    "hidden1": "channels of its first layer, likewise",
    "hidden2": "channels of its second layer, likewise",
}
"""The parts of the configuration of the package's own network that have an option, with their help."""


@dataclass(frozen=True)
class TrainSummary(Record):
    """What a training has made.

    Attributes:
        model: the model file.
        action: description of the action; empty for data without one.
        lattice: extents of the lattice.
        symmetry: the symmetry that the model uses, ``none`` or ``z2``.
        two_sector: whether it models one sector, which is mirrored.
        steps: optimiser steps.
        kl_removed: reduction of the path-space KL by the network, from the last validation; None without one.
        wall_seconds: wall time by stage.
        rounds: the learning curve of a training on the model's own chain; empty for another one.
        cost: what a proposal costs on this machine; None where that is not known.
    """

    model: str
    action: dict[str, Any]
    lattice: tuple[int, ...]
    symmetry: str
    two_sector: bool
    steps: int
    kl_removed: float | None
    wall_seconds: dict[str, float]
    rounds: tuple[RoundRecord, ...] = ()
    cost: NetworkCost | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--ensemble",
        type=Path,
        metavar="FILE",
        help="the fields: a run file, another HDF5 file with a dataset /cfgs, or a .npy file, of shape (n, *lattice); "
        "needed unless --rounds begins with --init or --shape",
    )
    add_action(parser, "; needed only for an ensemble that does not say it")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, metavar="X", help="training budget in minutes; 5 without --steps")
    budget.add_argument(
        "--steps", type=int, metavar="N", help="training budget in optimiser steps, for a reproducible model"
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="a model file, or the name of a pretrained model, to start from; its lattice and couplings may differ",
    )
    parser.add_argument(
        "--symmetry", choices=["auto", "none", "z2", "o_n"], default="auto",
        help="auto: use the symmetry of the theory, S(-phi) = S(phi) or rotations of components; none: use none; z2, "
        "o_n: insist on one of the two",
    )  # fmt: skip
    parser.add_argument(
        "--sectors", choices=["auto", "one", "two"], default="auto",
        help="one: model all fields at once; two: model the sector M > 0 and mirror it; auto: decide by the histogram "
        "of M",
    )  # fmt: skip
    parser.add_argument(
        "--network", default="interaction", metavar="NAME",
        help="name of a registered network, for a new model; --trust imports the class of one of your own",
    )  # fmt: skip
    parser.add_argument(
        "--size", metavar="NAME",
        help=f"size of a new network, for the one called interaction {', '.join(SIZES)}, or auto, with which an "
        "effective sample most likely costs least; auto by default",
    )  # fmt: skip
    parser.add_argument(
        "--unchecked", action="store_true", help="take an ensemble that does not fit its action; the model will say so"
    )
    group = parser.add_argument_group(
        "rounds", "training on the model's own chain, from an ensemble, from --init, or with --shape from a free field"
    )
    group.add_argument("--rounds", type=int, metavar="N", help=help_text(attribute_texts(RoundOptions)["rounds"]))
    group.add_argument(
        "--shape", type=int, nargs="+", metavar="L", help="extents of the lattice, with neither --ensemble nor --init"
    )
    texts, usual = attribute_texts(RoundOptions), RoundOptions()
    add_options(
        group,
        RoundOptions,
        skip=("rounds", "flow_steps"),
        defaults={"proposals": None, "least_ess": None},
        settings={
            name: {"help": f"{help_text(texts[name])}; by default {getattr(usual, name)}"}
            for name in ("proposals", "least_ess")
        },
    )
    for name, text in CONFIG.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    add_options(
        parser, TrainingOptions, skip=("steps", "minutes", "seed", "average", "validation_every", "checkpoint_seconds")
    )
    add_trust(parser)
    add_common(parser, resume=GOES_ON)


def run(args: argparse.Namespace) -> TrainSummary:
    """Train the model and say what was made."""
    trust(args)
    check_training(args.out, args.resume, args.overwrite)
    device, stages = device_of(args), Stages()
    rounds = _rounds_of(args)
    given = None if args.ensemble is None else read_ensemble(args.ensemble)
    init = load_named_model(args.init, device) if args.init else None
    lattice = _lattice_of(args, given, init)
    action = action_of(args, lattice.dim)
    known = given.action if given is not None else init.known_action() if init is not None else None
    if action is None and known is None:
        where = args.ensemble if given is not None else args.init if init is not None else "--shape"
        raise DmmcError(
            f"{where} does not say an action that is known here; give it with --kappa and --lam, or --m2 and "
            "--lam-mass, or --action. Fields without an action are for dmmc.train in Python"
        )
    minutes = 5.0 if args.minutes is None and args.steps is None else args.minutes
    options = fill(TrainingOptions, args, minutes=minutes)
    how: dict[str, Any] = {
        "network": args.network,
        "size": args.size,
        "config": {name: getattr(args, name) for name in CONFIG if getattr(args, name) is not None},
        "init": init,
        "symmetry": args.symmetry,
        "sectors": args.sectors,
        "unchecked": args.unchecked,
        "resume": args.resume,
        "overwrite": args.overwrite,
        "device": device,
        "stages": stages,
    }
    if rounds is None:
        assert given is not None
        model = train(given, args.out, options, action=action, **how)
    else:
        how |= {"ensemble": given, "lattice": lattice if given is None and init is None else None}
        model = train_rounds(action or known, args.out, options, rounds, **how)
    history = model.history
    records = history.rounds.records if history and history.rounds else ()
    summary = TrainSummary(
        model=str(args.out),
        action=dict(model.action),
        lattice=model.lattice.shape,
        symmetry=model.symmetry,
        two_sector=model.two_sector,
        steps=history.steps if history else 0,
        kl_removed=history.curve[-1].kl_removed if history and history.curve else None,
        wall_seconds={name: round(seconds, 3) for name, seconds in stages.seconds.items()},
        rounds=records,
        cost=network_cost(model),
    )
    removed = (
        "" if summary.kl_removed is None else f"; KL removed from the Gaussian reference: {summary.kl_removed:.2f}"
    )
    print(f"trained {summary.steps} steps in {stages.seconds['train']:.0f} s{removed}")
    if history is not None and history.rounds is not None:
        last = records[-1]
        print(f"proposals: ESS/N {last.ess:.3f}, acceptance {last.acceptance:.3f}, from {last.proposals:,} of them")
        print(history.rounds.remark)
    if summary.cost is not None:
        print(summary.cost.text)
    print(f"model: {args.out}")
    return summary


def _rounds_of(args: argparse.Namespace) -> RoundOptions | None:
    """The options of rounds, where these are asked for.

    Raises:
        DmmcError: if they are not and an option is for them, or nothing is given that a training begins with.
    """
    given = {name: getattr(args, name) for name in ("proposals", "least_ess") if getattr(args, name) is not None}
    if args.shape is not None and (args.ensemble is not None or args.init):
        raise DmmcError("--shape is for rounds that begin with a free field; leave it out, or --ensemble and --init")
    if args.rounds is not None:
        if args.ensemble is None and not args.init and args.shape is None:
            raise DmmcError("--rounds begins with --ensemble, with --init, or with neither on a lattice of --shape")
        return RoundOptions(args.rounds, **given)
    if given or args.shape is not None:
        name = "shape" if args.shape is not None else next(iter(given)).replace("_", "-")
        raise DmmcError(f"--{name} is an option of a training in rounds; give their number with --rounds")
    if args.ensemble is None:
        raise DmmcError("--ensemble is needed: the fields to train on. Only --rounds can begin with --init or --shape")
    return None


def _lattice_of(args: argparse.Namespace, given: Ensemble | None, init: DiffusionModel | None) -> Lattice:
    """The lattice of the model that is trained."""
    if given is not None:
        return given.lattice
    return Lattice(tuple(args.shape)) if init is None else init.lattice

"""``dmmc train``: a diffusion model of an ensemble."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import GOES_ON, add_common, device_of
from dmmc.cli.options import add_options, fill
from dmmc.cli.trust import add_trust, trust
from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.model.options import TrainingOptions
from dmmc.studies.given import read_ensemble
from dmmc.studies.models import load_named_model
from dmmc.studies.resumption import check_training
from dmmc.studies.stages import Stages
from dmmc.studies.training import train

SIZES = {
    "filters": "filters of the network called interaction; 6 by default",
    "hidden1": "channels of its first layer; 48 by default",
    "hidden2": "channels of its second layer; 32 by default",
}
"""The sizes of the package's own network that have an option, with their help."""


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
    """

    model: str
    action: dict[str, Any]
    lattice: tuple[int, ...]
    symmetry: str
    two_sector: bool
    steps: int
    kl_removed: float | None
    wall_seconds: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--ensemble",
        type=Path,
        required=True,
        metavar="FILE",
        help="the fields: a run file, another HDF5 file with a dataset /cfgs, or a .npy file, of shape (n, *lattice)",
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
        "--unchecked", action="store_true", help="take an ensemble that does not fit its action; the model will say so"
    )
    for name, text in SIZES.items():
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
    given = read_ensemble(args.ensemble)
    action = action_of(args, given.lattice.dim)
    if action is None and given.action is None:
        raise DmmcError(
            f"{args.ensemble} does not say an action that is known here; give it with --kappa and --lam, or --m2 and "
            "--lam-mass, or --action. Fields without an action are for dmmc.train in Python"
        )
    minutes = 5.0 if args.minutes is None and args.steps is None else args.minutes
    model = train(
        given,
        args.out,
        fill(TrainingOptions, args, minutes=minutes),
        action=action,
        network=args.network,
        config={name: getattr(args, name) for name in SIZES if getattr(args, name) is not None},
        init=load_named_model(args.init, device) if args.init else None,
        symmetry=args.symmetry,
        sectors=args.sectors,
        unchecked=args.unchecked,
        resume=args.resume,
        overwrite=args.overwrite,
        device=device,
        stages=stages,
    )
    history = model.history
    summary = TrainSummary(
        model=str(args.out),
        action=dict(model.action),
        lattice=model.lattice.shape,
        symmetry=model.symmetry,
        two_sector=model.two_sector,
        steps=history.steps if history else 0,
        kl_removed=history.curve[-1].kl_removed if history and history.curve else None,
        wall_seconds={name: round(seconds, 3) for name, seconds in stages.seconds.items()},
    )
    removed = (
        "" if summary.kl_removed is None else f"; KL removed from the Gaussian reference: {summary.kl_removed:.2f}"
    )
    print(f"trained {summary.steps} steps in {stages.seconds['train']:.0f} s{removed}")
    print(f"model: {args.out}")
    return summary

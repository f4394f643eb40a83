"""``dmmc ensemble``: HMC or embedded cluster updates."""

from __future__ import annotations

import argparse

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import EXTENDS, add_common, check_draws, device_of
from dmmc.cli.observables import add_derived, add_observables, derived_of, observables_of
from dmmc.cli.options import add_options, fill
from dmmc.cli.summary import print_summary
from dmmc.core.errors import DmmcError
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary_records import RunSummary
from dmmc.studies.ensemble import METHODS, EnsembleOptions, make_ensemble
from dmmc.theory.lattice import Lattice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_action(parser)
    parser.add_argument(
        "--shape", type=int, nargs="+", required=True, metavar="L", help="extents of the lattice, such as 16 16"
    )
    add_options(parser, EnsembleOptions, skip=("run",), settings={"method": {"choices": list(METHODS)}})
    add_options(parser, ChainOptions, skip=("seed",), defaults={"draws": 240, "keep_every": 12})
    add_observables(parser)
    add_derived(parser)
    add_common(parser, resume=EXTENDS)


def run(args: argparse.Namespace) -> RunSummary:
    """Make the ensemble and print its summary."""
    check_draws(args.draws)
    derived = derived_of(args)
    lattice = Lattice(tuple(args.shape))
    action = action_of(args, lattice.dim)
    if action is None:
        raise DmmcError("say which action: --kappa and --lam, or --m2 and --lam-mass, or --free-mass, or --action")
    made = make_ensemble(
        action,
        lattice,
        args.out,
        fill(EnsembleOptions, args, run=fill(ChainOptions, args)),
        observables=observables_of(args, action),
        resume=args.resume,
        overwrite=args.overwrite,
        device=device_of(args),
    )
    return print_summary(made.deriving(derived))

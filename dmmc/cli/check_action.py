"""``dmmc check-action``: a close look at an action of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.action import action_of, add_action
from dmmc.cli.summary import add_json
from dmmc.core.errors import DmmcError
from dmmc.studies.action_check import ActionReport, report_action
from dmmc.studies.given import read_ensemble
from dmmc.theory.actions import components_of
from dmmc.theory.lattice import Lattice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_action(parser)
    parser.add_argument("--shape", type=int, nargs="+", metavar="L", help="extents of the lattice, such as 16 16")
    parser.add_argument(
        "--ensemble", type=Path, metavar="FILE",
        help="a file with typical fields to test the action on, in place of --shape; without it, they are near the "
        "declared minimum",
    )  # fmt: skip
    parser.add_argument("--fields", type=int, default=256, metavar="N", help="fields in a batch")
    add_json(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier summary")


def run(args: argparse.Namespace) -> ActionReport:
    """Test the action, print what was found, and refuse it if anything is wrong."""
    if (args.shape is None) == (args.ensemble is None):
        raise DmmcError("say where to test the action: --shape, or --ensemble")
    given = None if args.ensemble is None else read_ensemble(args.ensemble)
    action = action_of(args, len(args.shape) if given is None else given.lattice.dim)
    if action is None:
        raise DmmcError("say which action: --action MODULE:OBJECT, or the couplings of one that comes with dmmc")
    if given is None:
        report = report_action(action, Lattice(tuple(args.shape)), None, args.fields)
    else:
        lattice = Lattice.of_fields(given.phi, components_of(action))
        report = report_action(action, lattice, given.phi, args.fields)
    print(report)
    if not report.passed:
        raise DmmcError("the action does not keep its contract; see WRONG above")
    return report

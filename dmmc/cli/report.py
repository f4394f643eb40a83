"""``dmmc report``: one page about runs, models, scans and exactness laboratories."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.observables import add_derived, derived_of
from dmmc.cli.summary import add_json
from dmmc.cli.trust import add_trust, trust
from dmmc.pages.page import ReportSummary
from dmmc.studies.reporting import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="INPUT",
        help="run files of one lattice and action, model files, and folders of scans and of exactness laboratories",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
    parser.add_argument(
        "--reference", metavar="NAME",
        help="the run to compare with: its label, such as cluster or HMC, or its file; by default the first run that "
        "needs no model",
    )  # fmt: skip
    parser.add_argument("--discard", type=int, metavar="N", help="leave out the first N draws of each chain")
    parser.add_argument("--title", metavar="TEXT", help="heading of the page; by default the theory and the lattice")
    add_derived(parser)
    add_trust(parser)
    add_json(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page")


def run(args: argparse.Namespace) -> ReportSummary:
    """Write the page and print its verdicts."""
    trust(args)
    summary = write_report(
        args.inputs,
        args.out,
        reference=args.reference,
        title=args.title,
        discard=args.discard,
        derived=derived_of(args),
        overwrite=args.overwrite,
    )
    print(summary)
    return summary

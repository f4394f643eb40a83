"""``dmmc report``: one page about runs, scans and exactness laboratories."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.pages.page import ReportSummary
from dmmc.studies.reporting import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="RUN",
        help="run files of one lattice and action; also model files, and folders of scans and exactness laboratories",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default="report.html", metavar="FILE", help="the page")
    parser.add_argument(
        "--reference", metavar="NAME",
        help="the run to compare with: its label, such as cluster or HMC, or its file; by default the first run that "
        "needs no model",
    )  # fmt: skip
    parser.add_argument("--discard", type=int, metavar="N", help="leave out the first N draws of each chain")
    parser.add_argument("--title", metavar="TEXT", help="heading of the page; by default the theory and the lattice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page")


def run(args: argparse.Namespace) -> ReportSummary:
    """Write the page and print its verdicts."""
    summary = write_report(
        args.inputs,
        args.out,
        reference=args.reference,
        title=args.title,
        discard=args.discard,
        overwrite=args.overwrite,
    )
    for name, verdicts in summary.verdicts.items():
        for verdict in verdicts:
            print(f"{name}: {verdict.level}: {verdict.title}")
    for note in summary.notes:
        print(f"note: {note}")
    print(f"report: {args.out}")
    return summary

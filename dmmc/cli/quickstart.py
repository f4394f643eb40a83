"""``dmmc quickstart``: the whole idea once."""

from __future__ import annotations

import argparse

from dmmc.cli.common import add_common, device_of
from dmmc.cli.options import add_options, fill
from dmmc.studies import quickstart
from dmmc.studies.quickstart import QuickstartOptions, QuickstartSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_options(parser, QuickstartOptions, skip=("kappa", "lam", "shape", "chains", "flow_steps", "seed", "device"))
    add_common(parser, out="quickstart")


def run(args: argparse.Namespace) -> QuickstartSummary:
    """Run the demonstration and say where its results are."""
    options = fill(QuickstartOptions, args, device=device_of(args))
    summary = quickstart.quickstart(options, args.out, args.overwrite)
    print(f"\n{summary.table}\n\n{summary.chain.quality()}\n\nlook at {summary.report}")
    print(f"the table (table.txt), the chains (*.h5), the model and the figures (*.png) are beside it in {args.out}/")
    return summary

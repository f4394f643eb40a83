"""``dmmc quickstart``: the whole idea once."""

from __future__ import annotations

import argparse
import shutil

from dmmc.cli.options import add_options, fill
from dmmc.cli.shared import add_common, check_folder, device_of
from dmmc.core.errors import FileError
from dmmc.studies import quickstart
from dmmc.studies.quickstart import QuickstartOptions, QuickstartSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_options(parser, QuickstartOptions, skip=("kappa", "lam", "shape", "chains", "flow_steps", "seed", "device"))
    add_common(parser, out="quickstart", resume=False)


def run(args: argparse.Namespace) -> QuickstartSummary:
    """Run the demonstration and say where its results are."""
    if args.out.exists() and not args.out.is_dir():
        raise FileError(f"--out {args.out} is a file; name a directory")
    check_folder(args.out)
    # Bad numbers are refused here, before an earlier result is removed.
    options = fill(QuickstartOptions, args, device=device_of(args))
    if args.overwrite and args.out.is_dir():
        for name in quickstart.FILES:
            (args.out / name).unlink(missing_ok=True)
            shutil.rmtree(args.out / f"{name}.partial", ignore_errors=True)
    summary = quickstart.quickstart(options, args.out)
    print(f"\n{summary.table}\n\n{summary.chain.quality()}\n\nlook at {summary.report}")
    print(f"the table (table.txt), the chains (*.h5), the model and the figures (*.png) are beside it in {args.out}/")
    return summary

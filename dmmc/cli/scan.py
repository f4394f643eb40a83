"""``dmmc scan``: samplers over lattice sizes or couplings."""

from __future__ import annotations

import argparse

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import ANALYSES, add_common, device_of
from dmmc.cli.options import add_options, fill, steps
from dmmc.core.errors import DmmcError
from dmmc.studies.scan.options import ScanOptions
from dmmc.studies.scan.points import Along, Point, flow_benchmark, grid
from dmmc.studies.scan.results import ScanResult
from dmmc.studies.scan.run import results_of, scan
from dmmc.studies.scan.samplers import SAMPLERS
from dmmc.studies.scan.table import table
from dmmc.theory.phi4 import Phi4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--along", choices=["L", "kappa"],
        help="what changes along a curve of the figures; by default kappa if several --kappas are given, else L",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[6, 8, 10, 12, 14, 20], metavar="L", help="lattice sizes"
    )
    parser.add_argument("--dim", type=int, default=2, metavar="N", help="number of dimensions of the lattices")
    add_action(parser, "; by default the flow benchmark: m2 = -4, with a lam_m for each L at which xi = L/4")
    parser.add_argument("--kappas", type=float, nargs="+", metavar="X", help="several hopping parameters (with --lam)")
    add_options(
        parser,
        ScanOptions,
        skip=("along", "seed", "device"),
        settings={
            "samplers": {"choices": list(SAMPLERS), "metavar": "NAME"},
            "flow_steps": {"type": steps, "metavar": "N|auto"},
        },
    )
    add_common(parser, out="scan", resume=ANALYSES)


def run(args: argparse.Namespace) -> ScanResult:
    """Run the scan, print its table, and say where the results are."""
    along: Along = args.along or ("kappa" if len(args.kappas or []) > 1 else "L")
    points = _points(args, along)
    options = fill(ScanOptions, args, along=along, device=device_of(args))
    result = scan(points, args.out, options, resume=args.resume, overwrite=args.overwrite)
    print(f"\n{table(result)}\n\nthe results are in {args.out}/, with the chains in a folder for each point:")
    for path in results_of(args.out):
        print(f"  {path}")
    return result


def _points(args: argparse.Namespace, along: Along) -> tuple[Point, ...]:
    if args.kappas is not None:
        others = (args.kappa, args.m2, args.lam_mass, args.free_mass, args.action, args.set, args.h)
        if any(x is not None for x in others):
            raise DmmcError("--kappas goes with --lam alone")
        if args.lam is None:
            raise DmmcError("--kappas needs --lam")
        actions = {f"kappa{kappa!r}": Phi4(kappa, args.lam) for kappa in sorted(set(args.kappas))}
        return grid(actions, args.sizes, args.dim, along)
    if along == "kappa":
        raise DmmcError("a scan along kappa needs --kappas and --lam")
    action = action_of(args, args.dim)
    if action is not None:
        return grid({str(action.describe()["name"]): action}, args.sizes, args.dim, along)
    if args.dim != 2:
        raise DmmcError("the flow benchmark is two-dimensional; give the action: --kappa and --lam, or --kappas")
    return flow_benchmark(args.sizes)

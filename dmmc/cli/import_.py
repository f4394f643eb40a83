"""``dmmc import``: configurations of another code become a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.action import action_of, add_action
from dmmc.cli.observables import add_observables, observables_of
from dmmc.cli.summary import add_json, print_summary
from dmmc.runs.summary_records import RunSummary
from dmmc.studies.importing import NORMALISATIONS, import_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="the fields: a .npy, .npz, HDF5 or raw file; or several, one for each chain or one for each configuration",
    )  # fmt: skip
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="L",
        help="extents of the lattice in the order x, y, z, t, such as 32 32; needed for raw files",
    )  # fmt: skip
    parser.add_argument(
        "--axes", metavar="TEXT",
        help='what the axes of the array are, such as "x y n": x, y, z, t of the lattice, n the configurations, c the '
        'chains, i the components; "c n x y" or "n c x y" if chains follow each other, or take turns, along one axis; '
        '"n x y" by default',
    )  # fmt: skip
    parser.add_argument("--chains", type=int, metavar="N", help="number of chains, one after another; 1 by default")
    parser.add_argument(
        "--field", type=normalisation, default=1.0, metavar="NAME|X",
        help="normalisation of the fields: hopping, mass, textbook, or how many times larger they are than the field "
        "of the action",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="the array of an archive, or the dataset of an HDF5 file")
    parser.add_argument(
        "--dtype", metavar="TYPE", help="type of the numbers of a raw file: <f8 or <f4 little-endian, >f8 or >f4 big"
    )
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="bytes at the beginning of a raw file")
    add_action(parser, "; without one the fields are checked less")
    parser.add_argument("--label", default="imported", metavar="TEXT", help="what tables and figures call the run")
    parser.add_argument(
        "--first", type=int, default=1, metavar="N", help="number of the first configuration of a chain"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="difference of the numbers of configurations")
    parser.add_argument(
        "--unchecked", action="store_true", help="take fields that do not pass the checks; every output will say so"
    )
    add_observables(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; by default one for each core")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="where the run goes")
    add_json(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run")


def normalisation(text: str) -> str | float:
    """The normalisation of a field: a name, or a number."""
    if text in NORMALISATIONS:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"one of {', '.join(NORMALISATIONS)} or a number is expected, not {text!r}"
        ) from None


def run(args: argparse.Namespace) -> RunSummary:
    """Import the fields and print the summary of the run."""
    shape = None if args.shape is None else tuple(args.shape)
    dim = 2 if shape is None else len(shape)
    if shape is None and args.axes:
        dim = sum(axis in args.axes for axis in "xyzt")
    action = action_of(args, dim)
    made = import_fields(
        args.files,
        args.out,
        action=action,
        shape=shape,
        axes=args.axes,
        chains=args.chains,
        field=args.field,
        name=args.name,
        dtype=args.dtype,
        skip=args.skip,
        label=args.label,
        first=args.first,
        every=args.every,
        observables=observables_of(args, action),
        unchecked=args.unchecked,
        overwrite=args.overwrite,
    )
    return print_summary(made)

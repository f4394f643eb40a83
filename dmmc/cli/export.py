"""``dmmc export``: the configurations of a run, for other codes."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.import_ import normalisation
from dmmc.cli.summary import add_json
from dmmc.studies.exporting import ExportSummary, export_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run file")
    parser.add_argument(
        "--axes", metavar="TEXT",
        help='order of the axes, such as "x y n"; by default "c n x y". In an HDF5 file, which has a dataset for each '
        'field, those of the lattice alone, such as "y x"',
    )  # fmt: skip
    parser.add_argument(
        "--field", type=normalisation, default=1.0, metavar="NAME|X",
        help="normalisation to write: hopping, mass, textbook, or how many times larger than the field of the action",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", default="<f8", metavar="TYPE", help="type to write: <f8 or <f4 little-endian, >f8 or >f4 big"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH",
        help="the file: .npy, .h5 or .hdf5; any other name is that of a raw file. A file PATH.json says what is in it",
    )  # fmt: skip
    add_json(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier file")


def run(args: argparse.Namespace) -> ExportSummary:
    """Write the fields and say what was written."""
    made = export_fields(
        args.run, args.out, axes=args.axes, field=args.field, dtype=args.dtype, overwrite=args.overwrite
    )
    print(made)
    return made

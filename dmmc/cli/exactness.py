"""``dmmc exactness``: ways to put a model into Metropolis, exact or not, against a known truth."""

from __future__ import annotations

import argparse

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import ANALYSES, add_common, device_of
from dmmc.cli.options import add_options, fill
from dmmc.core.errors import DmmcError
from dmmc.studies import exactness
from dmmc.studies.exactness import ExactnessOptions, LaboratoryResult, SideBySide
from dmmc.studies.exactness.options import DRAWS, DRAWS_LARGE, LARGE, TRAINING_STEPS
from dmmc.studies.exactness.table import table, tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="L",
        help="extents of the lattice; 2 stands for two sites, where the truth is known by quadrature; by default 8 8, "
        "16 16 and 2, one after another",
    )  # fmt: skip
    add_action(parser, "; by default kappa = 0.27, lam = 0.022, and on two sites kappa = lam = 0.3")
    inexact = [variant.name for variant in exactness.VARIANTS if not variant.exact]
    exact = [variant.name for variant in exactness.VARIANTS if variant.exact]
    parser.add_argument(
        "--variants", nargs="+", metavar="NAME",
        help=f"which variants to run; by default all: {' '.join(exact)}, and {' '.join(inexact)}, which are not exact",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, metavar="N",
        help=f"draws of each variant, all chains together; by default {DRAWS}, and {DRAWS_LARGE} from {LARGE} sites on",
    )  # fmt: skip
    add_options(
        parser, ExactnessOptions, skip=("action", "shape", "variants", "draws", "steps", "model", "seed", "device")
    )
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument(
        "--steps", type=int, default=TRAINING_STEPS, metavar="N", help="training budget in optimiser steps"
    )
    trained.add_argument(
        "--model",
        metavar="FILE",
        help="a model file, or the name of a pretrained model, to use in place of training one",
    )
    add_common(parser, out="exactness", resume=ANALYSES, threads="1")


def run(args: argparse.Namespace) -> LaboratoryResult | SideBySide:
    """Run one laboratory or three, and print their tables."""
    if args.threads is None:  # tensors are too small for a second core to be of use
        import torch

        torch.set_num_threads(1)
    if args.shape is None:
        if args.model is not None:
            raise DmmcError("a --model is of one lattice; name it with --shape")
        laboratories = {name: _options(args, shape) for name, shape in exactness.SHAPES.items()}
        several = exactness.run_side_by_side(laboratories, args.out, args.resume, args.overwrite)
        print(f"\n{tables(several)}\n\nlook at {several.report}")
        print(f"the tables (table.txt), exactness.json, the figures and the chains are in folders of {args.out}/")
        return several
    options = _options(args, tuple(args.shape))
    result = exactness.run_laboratory(options, args.out, args.resume, args.overwrite)
    print(f"\n{table(result)}\n\nlook at {args.out / 'report.html'}")
    print(f"the table (table.txt), exactness.json, the figure and the chains are in {args.out}/")
    return result


def _options(args: argparse.Namespace, shape: tuple[int, ...]) -> ExactnessOptions:
    # The mass form of an action depends on the number of dimensions.
    action = action_of(args, len(shape)) or exactness.default_action(shape)
    draws = exactness.default_draws(shape) if args.draws is None else args.draws
    variants = exactness.NAMES if args.variants is None else tuple(args.variants)
    return fill(
        ExactnessOptions, args, action=action, shape=shape, variants=variants, draws=draws, device=device_of(args)
    )

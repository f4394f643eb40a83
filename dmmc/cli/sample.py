"""``dmmc sample``: the exact Metropolis chain of a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.action import action_of, add_action
from dmmc.cli.common import EXTENDS, add_common, check_draws, device_of
from dmmc.cli.observables import add_derived, add_observables, derived_of, observables_of
from dmmc.cli.options import add_options, attribute_texts, fill, help_text, steps
from dmmc.cli.summary import print_summary
from dmmc.cli.trust import add_trust, trust
from dmmc.kernels.of_model import KERNELS, KernelOptions, usual_kernel
from dmmc.model.pretrained import load_pretrained
from dmmc.runs.chain import ChainOptions
from dmmc.runs.summary_records import RunSummary
from dmmc.studies.models import load_named_model
from dmmc.studies.sampling import SampleOptions, sample
from dmmc.theory.lattice import Lattice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="FILE", help="a model file, or the name of a pretrained model")
    which.add_argument("--pretrained", metavar="NAME", help="a model that comes with dmmc, such as phi4-flow-L32")
    add_action(parser, "; checked against that of the model")
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="L", help="extents of the lattice; checked against those of the model"
    )
    by_default = "by default independence, or path for a network without the trace of its Jacobian"
    kernel = {"choices": list(KERNELS), "help": f"{help_text(attribute_texts(KernelOptions)['kernel'])}; {by_default}"}
    add_options(parser, KernelOptions, defaults={"kernel": None}, settings={"kernel": kernel})
    add_options(
        parser,
        SampleOptions,
        skip=("kernel", "run", "proposals"),
        settings={"flow_steps": {"type": steps, "metavar": "N|auto"}},
    )
    parser.add_argument(
        "--reference", metavar="FILE", type=Path,
        help="ensemble of another sampler: the weights of its fields show whether the model misses some of them, and a "
        "run stands in the table beside the chain",
    )  # fmt: skip
    parser.add_argument(
        "--unchecked", action="store_true", help="take a reference that does not fit the action; the run will say so"
    )
    add_options(parser, ChainOptions, skip=("seed",), defaults={"draws": 256, "keep_every": 8})
    add_observables(parser)
    add_derived(parser)
    add_trust(parser)
    add_common(parser, resume=EXTENDS)


def run(args: argparse.Namespace) -> RunSummary:
    """Run the chain and print its summary."""
    check_draws(args.draws)
    derived = derived_of(args)
    trust(args)
    device = device_of(args)
    if args.pretrained is None:
        model = load_named_model(args.model, device=device)
    else:
        model = load_pretrained(args.pretrained, device=device)
    kernel = fill(KernelOptions, args, kernel=args.kernel or usual_kernel(model))
    options = fill(SampleOptions, args, kernel=kernel, run=fill(ChainOptions, args))
    action = action_of(args, model.lattice.dim)
    model.check_fits(action, Lattice(tuple(args.shape)) if args.shape else None)
    made = sample(
        model,
        args.out,
        options,
        action=action,
        reference=args.reference,
        observables=observables_of(args, action or model.known_action()),
        unchecked=args.unchecked,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    return print_summary(made.deriving(derived), args.reference)

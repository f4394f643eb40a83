"""What several commands share: the action and the common options, and checks before any work is done."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from dmmc.cli.options import load_object
from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import replaceable


def add_action(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Options that give the action."""
    group = parser.add_argument_group("action", f"phi^4 in one of its forms, or a free field{note}")
    group.add_argument("--kappa", type=float, metavar="X", help="hopping parameter (with --lam)")
    group.add_argument("--lam", type=float, metavar="X", help="quartic coupling of the hopping form")
    group.add_argument("--m2", type=float, metavar="X", help="squared bare mass of the mass form (with --lam-mass)")
    group.add_argument("--lam-mass", type=float, metavar="X", help="quartic coupling of the mass form")
    group.add_argument("--free-mass", type=float, metavar="X", help="mass of a free field")


def action_of(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for; None if none of them is given.

    Raises:
        DmmcError: if they give it in two forms, or incompletely.
    """
    from dmmc.theory.actions import FreeField, Phi4

    forms = {
        "--kappa --lam": (args.kappa, args.lam),
        "--m2 --lam-mass": (args.m2, args.lam_mass),
        "--free-mass": (args.free_mass,),
    }
    given = {name: values for name, values in forms.items() if any(v is not None for v in values)}
    if not given:
        return None
    if len(given) > 1:
        raise DmmcError(f"give the action in one form, not as {' and '.join(given)}")
    ((name, values),) = given.items()
    if any(v is None for v in values):
        raise DmmcError(f"the action needs all of {name}")
    if name == "--kappa --lam":
        return Phi4(args.kappa, args.lam)
    return Phi4.from_mass(args.m2, args.lam_mass, dim) if name == "--m2 --lam-mass" else FreeField(args.free_mass)


def add_observables(parser: argparse.ArgumentParser) -> None:
    """The option that adds observables of one's own."""
    parser.add_argument(
        "--observable", action="append", default=[], metavar="NAME=MODULE:FUNCTION",
        help="record this observable too: a function of the fields (n, *lattice) and their actions (n,) that returns "
        "(n, ...); may be given several times",
    )  # fmt: skip


def observables_of(args: argparse.Namespace) -> dict[str, Any]:
    """The observables that the options ask for, by name.

    Raises:
        DmmcError: if one of them cannot be loaded.
    """
    observables = {}
    for text in args.observable:
        name, equals, place = text.partition("=")
        if not equals:
            raise DmmcError(f"--observable is given as NAME=MODULE:FUNCTION, got {text!r}")
        observables[name] = load_object(place, "an observable")
    return observables


def add_common(parser: argparse.ArgumentParser, out: str | None = None, resume: bool = True, seed: bool = True) -> None:
    """The options of all commands that compute something.

    Args:
        parser: where the options go.
        out: default of ``--out``; None makes the option a required one.
        resume: whether the command can go on with interrupted work.
        seed: whether the command uses random numbers.
    """
    if seed:
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of all random numbers")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads; by default one for each core that may be used"
    )
    parser.add_argument(
        "--out", type=Path, required=out is None, default=out, metavar="PATH", help="where the result goes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    if resume:
        parser.add_argument(
            "--resume", action="store_true",
            help="go on with interrupted work, or extend a finished chain; where nothing was saved, begin afresh",
        )  # fmt: skip


def check_folder(path: Path) -> None:
    """Refuse a place where nothing can be written, before any work is done.

    Raises:
        FileError: if nothing can be written there.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise FileError(f"--out {path}: {folder} is not a directory that can be written to; choose another --out")


def check_out(path: Path, args: argparse.Namespace) -> None:
    """Refuse an output file that exists or cannot be written.

    Raises:
        FileError: if it does or cannot.
    """
    check_folder(path)
    replaceable(path)
    if path.exists() and not (args.overwrite or getattr(args, "resume", False)):
        raise FileError(f"{path} exists; choose another --out, or pass --overwrite")


def check_json(args: argparse.Namespace) -> None:
    """Refuse a summary file that cannot be written.

    Raises:
        FileError: if it cannot.
    """
    if args.json is None:
        return
    if not args.json.absolute().parent.is_dir():
        raise FileError(f"--json {args.json}: there is no directory {args.json.parent}; make it first")
    replaceable(args.json)
    if not os.access(args.json.absolute().parent, os.W_OK):
        raise FileError(f"--json {args.json}: {args.json.absolute().parent} cannot be written to; choose another place")


def check_draws(draws: int) -> None:
    """Refuse chains that are too short for errors to be estimated.

    Raises:
        DmmcError: if they are.
    """
    from dmmc.diagnostics.series import MIN_DRAWS

    if draws < MIN_DRAWS:
        raise DmmcError(f"--draws must be at least {MIN_DRAWS}, for errors to be estimated; got {draws}")


def device_of(args: argparse.Namespace) -> str:
    """The device, if it can be used.

    Raises:
        DmmcError: if it cannot.
    """
    import torch

    try:
        device = torch.device(args.device)
        # All that is needed of a device: memory that can be read, and double precision.
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DmmcError(f"--device {args.device} cannot be used here ({reason}); use cpu") from None
    return str(args.device)


def load_model(name: str, device: str) -> Any:
    """A model that comes with dmmc, or else the model in a file.

    Args:
        name: the name of a pretrained model, or a file.
        device: where to put it.

    Raises:
        FileError: if there is neither.
    """
    from dmmc.model.diffusion_model import DiffusionModel
    from dmmc.model.pretrained import load_pretrained, pretrained_names

    if name in pretrained_names():
        return load_pretrained(name, device=device)
    return DiffusionModel.load(name, device=device)

"""The options of all commands that compute something, and what is refused of them before any work is done."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmmc.cli.summary import add_json
from dmmc.core.errors import DmmcError

EXTENDS = "go on with interrupted work, or extend a finished chain; where nothing was saved, begin afresh"
GOES_ON = "go on with an interrupted training; where nothing was saved, begin afresh"
ANALYSES = "go on with interrupted work, or analyse what is finished again; where nothing was saved, begin afresh"
"""What ``--resume`` does, by the kind of command."""


def add_common(
    parser: argparse.ArgumentParser,
    out: str | None = None,
    resume: str | None = None,
    threads: str = "one for each core that may be used",
) -> None:
    """The options of all commands that compute something.

    Args:
        parser: where the options go.
        out: default of ``--out``; None makes the option a required one.
        resume: what ``--resume`` does; None for a command that cannot go on with interrupted work.
        threads: how many CPU threads there are by default, in words.
    """
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of all random numbers")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda")
    parser.add_argument("--threads", type=int, metavar="N", help=f"CPU threads; by default {threads}")
    parser.add_argument(
        "--out", type=Path, required=out is None, default=out, metavar="PATH", help="where the result goes"
    )
    add_json(parser)
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    if resume is not None:
        earlier.add_argument("--resume", action="store_true", help=resume)


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

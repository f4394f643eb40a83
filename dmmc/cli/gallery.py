"""``dmmc gallery``: systems and figures of the literature on diffusion models as stochastic quantisation."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from dmmc.cli.common import add_common, device_of
from dmmc.core.errors import DmmcError
from dmmc.core.records import Record
from dmmc.gallery.exhibit import Request
from dmmc.gallery.registry import NAMES, exhibit
from dmmc.gallery.show import PAGE, RESULT, Shown, check, show


@dataclass(frozen=True)
class GallerySummary(Record):
    """What was shown.

    Attributes:
        exhibits: the finished exhibits, by name; empty if only the list was asked for.
    """

    exhibits: dict[str, Shown]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("name", nargs="?", metavar="NAME", help="the exhibit to make; --list shows their names")
    wanted.add_argument("--all", action="store_true", help="make all exhibits")
    wanted.add_argument("--list", action="store_true", help="list the exhibits: what they show, and how long they take")
    parser.add_argument(
        "--quick", action="store_true", help="show in seconds that everything works; the numbers mean little"
    )
    add_common(parser, out="gallery")
    parser.set_defaults(goes_on=True)  # what an interrupted exhibit has done is kept without being asked for


def run(args: argparse.Namespace) -> GallerySummary:
    """Make exhibits and say where they are. What is finished is kept; the same command goes on where it stopped."""
    if args.list:
        print("\n".join(_listed()))
        return GallerySummary({})
    if not (args.all or args.name):
        raise DmmcError(f"say which exhibit: {', '.join(NAMES)}; or --all, or --list")
    chosen = [exhibit(name) for name in (NAMES if args.all else (args.name,))]
    device = device_of(args)
    requests = [Request(args.out / one.name, args.out, args.quick, args.seed, device) for one in chosen]
    for one, request in zip(chosen, requests, strict=True):
        check(one, request, args.overwrite)
    made: dict[str, Shown] = {}
    for one, request in zip(chosen, requests, strict=True):
        shown = made[one.name] = show(one, request, args.overwrite)
        print(f"\n{shown}\n\nlook at {request.folder / PAGE}")
        print(f"the figures (*.png) and the numbers ({RESULT.file}) are beside it in {request.folder}/", flush=True)
    return GallerySummary(made)


def _listed() -> list[str]:
    width = max(map(len, NAMES), default=0)
    exhibits = map(exhibit, NAMES)
    return [f"{one.name:{width}}  {one.minutes:3g} min  {one.title} [{one.source}]" for one in exhibits]

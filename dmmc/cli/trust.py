"""The option that lets model files name networks of other codes."""

from __future__ import annotations

import argparse

from dmmc.cli.objects import load_object


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option that lets model files name networks of other codes."""
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE:CLASS",
        help="import this class of torch modules, such as a registered network of your own, and let model files make "
        "networks of it; may be given several times",
    )  # fmt: skip


def trust(args: argparse.Namespace) -> None:
    """Import the classes that the options name, and let model files name them.

    Raises:
        DmmcError: if one cannot be loaded, or is not a class of torch modules.
    """
    for text in args.trust:
        from dmmc.model.foreign import trust_network

        trust_network(load_object(text, "a network"))

"""The options that add observables of one's own, and functions of their means."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from typing import Any

from dmmc.cli.objects import load_object, reason_of
from dmmc.core.errors import DmmcError


def add_observables(parser: argparse.ArgumentParser) -> None:
    """The option that adds observables of one's own."""
    parser.add_argument(
        "--observable", action="append", default=[], metavar="NAME[=MODULE:FUNCTION]",
        help="record this observable too: a function of the fields (n, *lattice) and their actions (n,) that returns "
        "(n, ...), or by its name alone one that the action offers, such as the condensate of --yukawa; may be given "
        "several times",
    )  # fmt: skip


def observables_of(args: argparse.Namespace, action: Any = None) -> dict[str, Any]:
    """The observables that the options ask for, by name.

    Args:
        args: the options.
        action: the action, which may offer some (see :mod:`dmmc.theory.actions`).

    Raises:
        DmmcError: if one of them cannot be loaded or is not offered, or two have the same name.
    """
    from dmmc.theory.actions import offered_observables

    offered = {} if action is None else offered_observables(action)
    asked = [text for text in args.observable if "=" not in text]
    for name in asked:
        if name not in offered:
            there_are = (
                f"those that the action offers are {', '.join(offered)}" if offered else "the action offers none"
            )
            raise DmmcError(
                f"--observable is given as NAME=MODULE:FUNCTION, or as the name of one of the action; got {name!r}, "
                f"and {there_are}"
            )
    named = _named([text for text in args.observable if "=" in text], "--observable", "observable")
    twice = [name for name in asked if name in named or asked.count(name) > 1]
    if twice:
        raise DmmcError(f"two observables are called {twice[0]!r}; give each of them a name of its own")
    return {name: offered[name] for name in asked} | {
        name: _in_one_line(name, function) for name, function in named.items()
    }


def add_derived(parser: argparse.ArgumentParser) -> None:
    """The option that adds functions of means."""
    parser.add_argument(
        "--derived", action="append", default=[], metavar="NAME=MODULE:FUNCTION",
        help="show this function of means too, such as a ratio: it gets the means by name and returns one number; may "
        "be given several times",
    )  # fmt: skip


def derived_of(args: argparse.Namespace) -> dict[str, Any]:
    """The functions of means that the options ask for, by name.

    Raises:
        DmmcError: if one of them cannot be loaded, or two have the same name; or, where the command says what it will
            record, as :func:`dmmc.diagnostics.means.check_functions`.
    """
    derived = _named(args.derived, "--derived", "derived observable")
    if derived and "observable" in args:
        from dmmc.diagnostics.means import check_functions
        from dmmc.theory.observables import STANDARD

        check_functions(derived, (*STANDARD, *(text.partition("=")[0] for text in args.observable)))
    return derived


def _named(texts: Sequence[str], option: str, what: str) -> dict[str, Any]:
    """The objects of options of the form ``NAME=MODULE:FUNCTION``, by name."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals:
            raise DmmcError(f"{option} is given as NAME=MODULE:FUNCTION, got {text!r}")
        loaded = load_object(place, f"{'an' if what[0] in 'aeiou' else 'a'} {what}")
        if name in found:
            raise DmmcError(f"two {what}s are called {name!r}; give each of them a name of its own")
        found[name] = loaded
    return found


def _in_one_line(name: str, observable: Any) -> Any:
    """An observable whose failure is an error of one line, which says where it happened."""
    if not callable(observable):
        raise DmmcError(f"the observable {name!r} must be a function, and is a {type(observable).__name__}")

    def observed(phi: Any, S: Any) -> Any:
        try:
            return observable(phi, S)
        except Exception as error:  # whatever the function of a user raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise DmmcError(
                f"the observable {name!r} fails at {last.filename}:{last.lineno} [{reason_of(error)}]; put that right"
            ) from None

    return observed

"""The options that give the action."""

from __future__ import annotations

import argparse
from typing import Any

from dmmc.cli.objects import load_object
from dmmc.core.errors import DmmcError


def add_action(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Options that give the action."""
    group = parser.add_argument_group("action", f"phi^4 in one of its forms, a free field, or one of your own{note}")
    group.add_argument("--kappa", type=float, metavar="X", help="hopping parameter (with --lam)")
    group.add_argument("--lam", type=float, metavar="X", help="quartic coupling of the hopping form")
    group.add_argument("--m2", type=float, metavar="X", help="squared bare mass of the mass form (with --lam-mass)")
    group.add_argument("--lam-mass", type=float, metavar="X", help="quartic coupling of the mass form")
    group.add_argument("--free-mass", type=float, metavar="X", help="mass of a free field")
    group.add_argument(
        "--action", metavar="MODULE:OBJECT",
        help="an action of your own, such as dmmc.action makes, or a function of NumPy arrays (n, *lattice) -> (n,)",
    )  # fmt: skip


def action_of(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for; None if none of them is given.

    Raises:
        DmmcError: if they give it in two forms, or incompletely, or an action of one's own cannot be loaded.
    """
    from dmmc.theory.free_field import FreeField
    from dmmc.theory.phi4 import Phi4

    forms = {
        "--kappa --lam": (args.kappa, args.lam),
        "--m2 --lam-mass": (args.m2, args.lam_mass),
        "--free-mass": (args.free_mass,),
        "--action": (args.action,),
    }
    given = {name: values for name, values in forms.items() if any(v is not None for v in values)}
    if not given:
        return None
    if len(given) > 1:
        raise DmmcError(f"give the action in one form, not as {' and '.join(given)}")
    ((name, values),) = given.items()
    if any(v is None for v in values):
        raise DmmcError(f"the action needs all of {name}")
    if name == "--action":
        return _own_action(args.action)
    if name == "--kappa --lam":
        return Phi4(args.kappa, args.lam)
    return Phi4.from_mass(args.m2, args.lam_mass, dim) if name == "--m2 --lam-mass" else FreeField(args.free_mass)


def _own_action(text: str) -> Any:
    """The action that ``module:object`` names; of a function, one without a gradient is made.

    Raises:
        DmmcError: if it cannot be loaded, or is no action.
    """
    from dmmc.theory.own_action import action

    loaded = load_object(text, "an action")
    if isinstance(loaded, type) or not callable(loaded):
        is_what = "a class" if isinstance(loaded, type) else f"of the type {type(loaded).__name__}"
        raise DmmcError(f"--action {text} is {is_what}; name an action, such as dmmc.action makes, or a function")
    return loaded if callable(getattr(loaded, "describe", None)) else action(loaded)

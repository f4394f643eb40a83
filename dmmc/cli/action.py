"""The options that give the action."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from dmmc.cli.objects import load_object
from dmmc.core.errors import DmmcError


def add_action(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Options that give the action."""
    group = parser.add_argument_group("action", f"phi^4 in one of its forms, another theory, or one of your own{note}")
    group.add_argument("--kappa", type=float, metavar="X", help="hopping parameter (with --lam)")
    group.add_argument("--lam", type=float, metavar="X", help="quartic coupling of the hopping form")
    group.add_argument("--m2", type=float, metavar="X", help="squared bare mass of the mass form (with --lam-mass)")
    group.add_argument("--lam-mass", type=float, metavar="X", help="quartic coupling of the mass form")
    group.add_argument(
        "--components", type=int, metavar="N", help="with either of these: the O(N) model, of a field of N components"
    )
    group.add_argument("--free-mass", type=float, metavar="X", help="mass of a free field")
    group.add_argument(
        "--action", metavar="NAME|MODULE:OBJECT",
        help="an action that comes with dmmc, by its name, such as sine_gordon, with its parameters in --set; or one "
        "of your own, such as dmmc.action makes, or a function of NumPy arrays (n, *lattice) -> (n,)",
    )  # fmt: skip
    group.add_argument(
        "--set", nargs="+", action="extend", metavar="NAME=X",
        help="parameters of an action that comes with dmmc, such as m2=0.1 alpha=0.2 beta=3.5 of sine_gordon",
    )  # fmt: skip
    group.add_argument(
        "--h", type=float, metavar="X",
        help="external field, which any of these actions may have: S - h sum_x phi(x), with phi as the action takes it",
    )  # fmt: skip
    group.add_argument(
        "--yukawa", type=float, metavar="G",
        help="couple two flavours of Wilson fermions to the scalar field of any of these actions, in two dimensions",
    )  # fmt: skip
    group.add_argument("--fermion-mass", type=float, metavar="X", help="their bare mass; 0 by default")


def action_of(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for; None if none of them is given.

    Raises:
        DmmcError: if they give it in two forms, or incompletely, or an action of one's own cannot be loaded.
    """
    action = _without_field(args, dim)
    if action is None and args.h is not None:
        raise DmmcError("--h puts an action into an external field, and none is given; give it too, as without --h")
    if action is None and args.yukawa is not None:
        raise DmmcError("--yukawa couples fermions to the field of an action, and none is given; give it too")
    if args.yukawa is None and args.fermion_mass is not None:
        raise DmmcError("--fermion-mass is the mass of the fermions that --yukawa couples to the field; give both")
    if args.h is not None:
        from dmmc.theory.external_field import ExternalField

        action = ExternalField(action, args.h)
    if args.yukawa is not None:
        from dmmc.theory.yukawa import Yukawa

        action = Yukawa(action, args.yukawa, 0.0 if args.fermion_mass is None else args.fermion_mass)
    return action


def _without_field(args: argparse.Namespace, dim: int) -> Any:
    """The action that the options ask for, before a field or fermions are added; None if there is none."""
    from dmmc.theory.free_field import FreeField
    from dmmc.theory.phi4 import Phi4

    forms = {
        "--kappa --lam": (args.kappa, args.lam),
        "--m2 --lam-mass": (args.m2, args.lam_mass),
        "--free-mass": (args.free_mass,),
        "--action": (args.action,),
    }
    given = {name: values for name, values in forms.items() if any(v is not None for v in values)}
    if len(given) > 1:
        raise DmmcError(f"give the action in one form, not as {' and '.join(given)}")
    if args.set is not None and "--action" not in given:
        raise DmmcError("--set gives the parameters of an action that comes with dmmc; name it with --action")
    if args.components is not None and not given.keys() & {"--kappa --lam", "--m2 --lam-mass"}:
        raise DmmcError("--components is for phi^4, with --kappa --lam or --m2 --lam-mass")
    if not given:
        return None
    ((name, values),) = given.items()
    if any(v is None for v in values):
        raise DmmcError(f"the action needs all of {name}")
    if name == "--action":
        return _own_action(args.action, args.set) if ":" in args.action else _named_action(args.action, args.set or [])
    if name == "--free-mass":
        return FreeField(args.free_mass)
    phi4 = Phi4(args.kappa, args.lam) if name == "--kappa --lam" else Phi4.from_mass(args.m2, args.lam_mass, dim)
    return phi4.with_components(args.components)


def _named_action(name: str, settings: Sequence[str]) -> Any:
    """The action that comes with dmmc under this name, with parameters of the form ``NAME=X``.

    Raises:
        DmmcError: if there is none, or a parameter is unknown, missing, given twice or no number.
    """
    from dmmc.theory.registry import BUILT_IN, registered

    # Another action is no number.
    names = [known for known in sorted(BUILT_IN) if known not in ("external_field", "yukawa")]
    if name not in names:
        raise DmmcError(
            f"an action is given as module:name, got {name!r}; those that come with dmmc are {', '.join(names)}"
        )
    make = registered(name)
    assert make is not None
    takes = inspect.signature(make).parameters
    values: dict[str, float] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise DmmcError(f"--set is given as NAME=X, got {setting!r}")
        if key not in takes:
            raise DmmcError(f"{name} has no parameter {key!r}; it takes {', '.join(takes)}")
        if key in values:
            raise DmmcError(f"--set gives {key} twice; give it once")
        try:
            values[key] = int(text) if text.isdigit() else float(text)
        except ValueError:
            raise DmmcError(f"--set {key} must be a number, got {text!r}") from None
    missing = [key for key, one in takes.items() if key not in values and one.default is one.empty]
    if missing:
        raise DmmcError(f"{name} needs {', '.join(missing)}; give them with --set, such as --set {missing[0]}=0.1")
    return make(**values)


def _own_action(text: str, settings: Sequence[str] | None) -> Any:
    """The action that ``module:object`` names; of a function, one without a gradient is made.

    Raises:
        DmmcError: if it cannot be loaded, or is no action, or is given parameters.
    """
    from dmmc.theory.own_action import action

    if settings is not None:
        raise DmmcError(
            f"--set gives the parameters of an action that comes with dmmc, and {text} has its own; omit it"
        )
    loaded = load_object(text, "an action")
    if isinstance(loaded, type) or not callable(loaded):
        is_what = "a class" if isinstance(loaded, type) else f"of the type {type(loaded).__name__}"
        raise DmmcError(f"--action {text} is {is_what}; name an action, such as dmmc.action makes, or a function")
    return loaded if callable(getattr(loaded, "describe", None)) else action(loaded)

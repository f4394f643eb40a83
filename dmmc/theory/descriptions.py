"""What the description of an action in a file says: which action it is, whether two are the same, and its label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action
from dmmc.theory.registry import registered


def action_from_description(description: Mapping[str, Any]) -> Action | None:
    """The action that :meth:`Action.describe` described, or None if none is registered under its name or a part's.

    Raises:
        DmmcError: if the parameters are not those of the registered action.
    """
    make = registered(str(description.get("name")))
    if make is None:
        return None
    try:
        action = cast(Action | None, make(**{key: value for key, value in description.items() if key != "name"}))
    except TypeError as error:
        raise DmmcError(
            f"this does not describe an action that this version knows: {dict(description)} ({error})"
        ) from None
    if action is not None and not same_action(action.describe(), description):
        raise DmmcError(
            f"what is registered as {description['name']!r} makes the action {action.describe()} from the description "
            f"{dict(description)}; the two should agree"
        )
    return action


def same_action(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one action.

    Numbers are compared up to rounding, since couplings pass through conversions, and tuples count as the lists that
    they become in a file. An action that is made of others describes them within its own description.
    """

    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            return same_action(x, y)
        if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
            return len(x) == len(y) and all(map(equal, x, y))
        if isinstance(x, (int, float)) and isinstance(y, (int, float)):
            return math.isclose(x, y, rel_tol=1e-9)
        return bool(x == y)

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


def action_label(action: Action | Mapping[str, Any], dim: int) -> tuple[str, str]:
    """The name of a theory and its couplings as plain text, for people to read.

    Args:
        action: an action, or the description of one.
        dim: number of dimensions.

    Returns:
        what the action's own ``label(dim)`` gives; else the name and parameters of its description.
    """
    description = action if isinstance(action, Mapping) else action.describe()
    known = action_from_description(action) if isinstance(action, Mapping) else action
    label = getattr(known, "label", None)
    if label is not None:
        name, couplings = label(dim)
        return str(name), str(couplings)
    parameters = ", ".join(f"{key} = {value}" for key, value in description.items() if key != "name")
    return str(description.get("name", "")), parameters

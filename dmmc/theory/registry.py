"""The registry of actions, by which files that name one are read again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from dmmc.core.errors import DmmcError

Make = TypeVar("Make", bound=Callable[..., Any])

_REGISTRY: dict[str, Callable[..., Any]] = {}

BUILT_IN = {
    "external_field": "dmmc.theory.external_field",
    "free": "dmmc.theory.free_field",
    "phi4": "dmmc.theory.phi4",
    "sine_gordon": "dmmc.theory.sine_gordon",
    "yukawa": "dmmc.theory.yukawa",
}
"""The actions of the package and the modules that register them, which are imported when they are asked for."""


def register_action(name: str) -> Callable[[Make], Make]:
    """Decorator of an action class, or of a function that makes an action, so that files of it can be read by name.

    What is decorated is called with the parameters that :meth:`Action.describe` gives beside the name, and must return
    the action of this description, or None where that is made of an action which is not registered.

    Raises:
        DmmcError: if something else is registered under this name.
    """

    def register(make: Make) -> Make:
        known = registered(name)
        if known is not None and known.__qualname__ != make.__qualname__:
            raise DmmcError(f"there is an action {name!r} already; choose another name")
        _REGISTRY[name] = make
        return make

    return register


def registered(name: str) -> Callable[..., Any] | None:
    """What is registered under a name; None if nothing is."""
    if name in BUILT_IN:
        importlib.import_module(BUILT_IN[name])
    return _REGISTRY.get(name)

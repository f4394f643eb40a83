"""Python objects that an option names, as ``module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from dmmc.core.errors import DmmcError


def load_object(text: str, what: str) -> Any:
    """The Python object that ``module:name`` names; modules are looked for in the working directory too.

    Raises:
        DmmcError: if there is no such module, it cannot be imported, or it has no such object.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise DmmcError(f"{what} is given as module:name, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # python -m puts it there, and an installed command its own directory instead
        sys.path.insert(0, here)
    try:
        loaded: Any = importlib.import_module(module)
        for part in name.split("."):
            loaded = getattr(loaded, part)
    except Exception as error:  # whatever the module of a user raises
        raise DmmcError(f"{what} {text!r} cannot be loaded [{reason_of(error)}]; put that right") from None
    return loaded


def reason_of(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]

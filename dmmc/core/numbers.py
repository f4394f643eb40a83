"""Checks of numbers that a user gives."""

from __future__ import annotations

import operator

from dmmc.core.errors import DmmcError


def check_count(value: object, name: str, minimum: int = 1) -> int:
    """The number ``value`` as an int, if it is an integer (also one of NumPy) and no less than ``minimum``.

    Args:
        value: what the user gave.
        name: what it is called in the message.
        minimum: the smallest number that makes sense.

    Raises:
        DmmcError: if it is not an integer (floats and booleans do not count, not even whole ones), or too small.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < minimum:
        wanted = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise DmmcError(f"{name} must be {wanted}, got {value!r}")
    return number

"""Checks of numbers that a user gives."""

from __future__ import annotations

import operator

from dmmc.core.errors import DmmcError


def check_count(value: object, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """The number ``value`` as an int, if it is an integer (also one of NumPy) from ``minimum`` to ``maximum``.

    Args:
        value: what the user gave.
        name: what it is called in the message.
        minimum: the smallest number that makes sense.
        maximum: the largest number that makes sense; None for no limit.

    Raises:
        DmmcError: if it is not an integer (a float or a bool is none, even where its value is whole), too small, or too
            large.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < minimum:
        wanted = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise DmmcError(f"{name} must be {wanted}, got {value!r}")
    if maximum is not None and number > maximum:
        raise DmmcError(f"{name} must be at most {maximum}, got {number}")
    return number

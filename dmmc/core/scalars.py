"""Single numbers: checks of those that a user gives, and their text."""

from __future__ import annotations

import math
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
        DmmcError: if it is not an integer (floats and booleans do not count, not even whole ones), too small, or too
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


def is_finite(value: object) -> bool:
    """Whether this is a finite real number, and no boolean."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def check_finite(**parameters: float) -> None:
    """Refuse numbers that are not finite.

    Raises:
        DmmcError: for the first of them, by its name.
    """
    for name, value in parameters.items():
        if not is_finite(value):
            raise DmmcError(f"{name} must be a finite number, got {value!r}")


def number_text(x: float) -> str:
    """A coupling without the noise of its last digits, with a minus sign in place of the hyphen."""
    return f"{x:.10g}".replace("-", "−")

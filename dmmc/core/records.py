"""Typed results: frozen dataclasses that are written to JSON and read back with every field checked.

A record is a frozen dataclass that derives from :class:`Record` and carries the ``version`` of its layout. JSON has no
infinities and no NaN: a number that is not finite is written as null, so that a field which may be one has the type
``float | None``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import msgspec

from dmmc.core.errors import DmmcError

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
"""A value as JSON has it."""


def plain(value: Any) -> Any:
    """The value as JSON has it: dataclasses become objects, tuples lists, and numbers that are not finite null."""
    if isinstance(value, Record):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, float):  # this includes NumPy's float64
        return float(value) if math.isfinite(value) else None
    return value


def json_text(value: Mapping[str, Any], name: str) -> str:
    """``value`` as JSON, with sorted keys.

    Args:
        value: a JSON object.
        name: what the message calls it.

    Raises:
        DmmcError: if it holds something that JSON has no form for.
    """
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise DmmcError(f"{name} must consist of JSON values: {error}") from None


class Record:
    """Base of typed results; see the head of this module.

    Attributes:
        VERSION: version of the layout. Raise it when a field changes its meaning or is removed.
    """

    VERSION: ClassVar[int] = 1

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, with the version of its layout."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {"version": self.VERSION} | {field.name: plain(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The record that :meth:`to_json` wrote.

        Raises:
            DmmcError: if a field is missing or of another type, or a newer version of dmmc wrote it; the message
                names the field.
        """
        name = cls.__name__
        if not isinstance(data, dict):
            raise DmmcError(f"a {name} is read from a JSON object, got {type(data).__name__}")
        version = data.get("version", cls.VERSION)
        if not isinstance(version, int) or version > cls.VERSION:
            raise DmmcError(f"this {name} has layout {version!r}, and this dmmc reads up to {cls.VERSION}; update dmmc")
        try:
            return msgspec.convert({key: x for key, x in data.items() if key != "version"}, cls)
        except msgspec.ValidationError as error:
            raise DmmcError(f"this is not a valid {name}: {error}") from None

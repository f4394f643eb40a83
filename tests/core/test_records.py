"""Typed results: written to JSON, read back, and checked field by field."""

import json
import math
from dataclasses import dataclass

import pytest

from dmmc.core.errors import DmmcError
from dmmc.core.records import Record


@dataclass(frozen=True)
class Inner(Record):
    value: float | None
    error: float | None = None


@dataclass(frozen=True)
class Outer(Record):
    VERSION = 3
    name: str
    shape: tuple[int, ...]
    parts: dict[str, Inner]
    note: str = ""


RECORD = Outer("a", (4, 4), {"M": Inner(0.5, math.nan), "S": Inner(math.inf)})


def test_a_record_survives_json():
    text = json.dumps(RECORD.to_json(), allow_nan=False)
    back = Outer.from_json(json.loads(text))
    # What is not finite has become null; everything else is as it was.
    assert back == Outer("a", (4, 4), {"M": Inner(0.5, None), "S": Inner(None)})
    assert json.loads(text)["version"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"Expected `str`, got `int` - at `\$.name`"),
        ({"shape": "x"}, r"at `\$.shape`"),
        ({"parts": {"M": {"value": "x"}}}, r"at `\$.parts"),
        ({"version": 4}, "layout 4, and this dmmc reads up to 3; update dmmc"),
        ({"version": "x"}, "layout 'x'"),
    ],
)
def test_what_is_not_a_record_is_refused(change, message):
    with pytest.raises(DmmcError, match=message):
        Outer.from_json(RECORD.to_json() | change)


def test_a_missing_field_is_named():
    data = RECORD.to_json()
    del data["name"]
    with pytest.raises(DmmcError, match="required field `name`"):
        Outer.from_json(data)


def test_only_objects_are_records():
    with pytest.raises(DmmcError, match="read from a JSON object, got list"):
        Outer.from_json([1])

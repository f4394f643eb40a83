"""Command-line options made from the dataclasses that they fill.

An option has the name, the type and the default of a field, and its help is the entry of this field in the
``Attributes`` section of the docstring: the library and the command line cannot say different things.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_ROLE = re.compile(r":\w+:`~?([^`]*)`")


def plain_text(text: str) -> str:
    """The text of a docstring without its markup; the last part of a cross-reference remains."""
    return _ROLE.sub(lambda match: match[1].rsplit(".", 1)[-1], text).replace("``", "")


def help_text(text: str) -> str:
    """The text of a docstring as argparse shows it: no full stop at the end, and nothing that argparse would expand."""
    return text.removesuffix(".").removeprefix("whether to ").replace("%", "%%")


def attribute_texts(cls: type) -> dict[str, str]:
    """The entries of the ``Attributes`` section of a class's docstring, by name, each on one line."""
    doc = inspect.getdoc(cls) or ""
    _, _, section = doc.partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    entries = re.split(r"\n {4}(?=\w+: )", "\n" + section)
    texts = {}
    for entry in entries[1:]:
        name, _, text = entry.partition(": ")
        texts[name] = plain_text(" ".join(text.split()))
    return texts


def _parse_type(hint: Any) -> tuple[Callable[[str], Any], dict[str, Any]]:
    """How argparse reads a value of the type ``hint``: a converter, and further settings of the option."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if len(arguments) != 1:
            raise TypeError(f"no command-line option can be made for the type {hint}")
        return _parse_type(arguments[0])
    if origin is tuple:
        return _parse_type(arguments[0])[0], {"nargs": "+"}
    if origin is typing.Literal:
        return str, {"choices": arguments}
    if hint is bool:
        return bool, {"action": "store_true"}
    if hint in (int, float, str):
        return hint, {}
    raise TypeError(f"no command-line option can be made for the type {hint}")


def steps(text: str) -> Any:
    """A number of steps, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of steps or auto is expected, not {text!r}") from None


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    cls: type,
    *,
    skip: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add an option for each field of a dataclass.

    Args:
        parser: where the options go.
        cls: the dataclass.
        skip: fields without an option.
        defaults: defaults of the command line that differ from those of the dataclass.
        settings: further arguments of ``add_argument``, by field, such as a metavar, choices, another type or another
            help text.
    """
    hints, texts = typing.get_type_hints(cls), attribute_texts(cls)
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        own = dict((settings or {}).get(field.name, {}))
        convert, more = (own.pop("type"), {}) if "type" in own else _parse_type(hints[field.name])
        default = field.default if field.default is not dataclasses.MISSING else None
        default = (defaults or {}).get(field.name, default)
        options: dict[str, Any] = {
            "help": help_text(texts.get(field.name, "")),
            "default": default,
            **more,
            **own,
        }
        if options.get("action") != "store_true":
            options["type"] = convert
            options.setdefault("metavar", None if "choices" in options else _metavar(convert))
        parser.add_argument("--" + field.name.replace("_", "-"), **options)


def _metavar(convert: Callable[[str], Any]) -> str:
    return {int: "N", float: "X"}.get(convert, "NAME")  # type: ignore[call-overload]  # other converters have no entry


def fill(cls: type[T], args: argparse.Namespace, **given: Any) -> T:
    """The dataclass with the values of the command line; ``given`` replaces some of them.

    Raises:
        DmmcError: as the dataclass, if a value is out of its range.
    """
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        if field.name in given:
            values[field.name] = given[field.name]
        elif hasattr(args, field.name):
            value = getattr(args, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)

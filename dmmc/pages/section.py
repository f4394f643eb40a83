"""What a study contributes to a page, and how its template is filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dmmc.diagnostics.symbols import symbol
from dmmc.pages.svg import Picture

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A part of a page, made by whoever knows what it shows.

    Attributes:
        id: identifies the section within the page; the identifiers of its pictures begin with it.
        title: its heading, plain text.
        link: what the table of contents calls it, plain text.
        body: HTML below the heading, as :func:`fill` makes it.
        pictures: the names of the figures in ``body``, in their order.
    """

    id: str
    title: str
    link: str
    body: Markup
    pictures: tuple[str, ...] = ()


@cache
def _environment(package: str) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str | None:
        """A template of the study itself, else one of the pages."""
        for place in (package, "dmmc.pages"):
            file = files(place) / name
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    from markupsafe import Markup

    environment.globals["symbol"] = lambda name: Markup(symbol(name).html)
    environment.globals["plain_symbol"] = lambda name: Markup(symbol(name).value.html)
    return environment


def fill(package: str, template: str, **content: Any) -> Markup:
    """Fill a template and return HTML; text in ``content`` is escaped.

    In templates there are ``symbol(name)``, the HTML of an observable's mean, ``plain_symbol(name)``, that of the
    observable, and the macros of ``macros.html``: ``{% from "macros.html" import badge, figures %}``.

    Args:
        package: the package that the template is in, such as ``dmmc.studies.scan``.
        template: its file name.
        content: what the template shows.
    """
    from markupsafe import Markup

    return Markup(_environment(package).get_template(template).render(**content))


def training_section(id_: str, name: str, pictures: Sequence[Picture], settings: Sequence[tuple[str, str]]) -> Section:
    """The section about the training of one model.

    Args:
        id_: identifies the section.
        name: of the model.
        pictures: its loss, as :func:`dmmc.pages.figures.training_loss` draws it; none for a training too short
            to record one.
        settings: what it was trained with, as pairs of name and value.
    """
    body = fill("dmmc.pages", "training.html", pictures=pictures, settings=settings)
    return Section(id_, f"Training of {name}", f"Training of {name}", body, tuple(picture.name for picture in pictures))
